"""A list in a response, read one row at a time, so that the event loop is never blocked for long.

Each row is read through a window of the body, which is small at first and grows for a large row. A row counts only if
the window also holds the comma or bracket after it: a number could otherwise be cut off.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8, utf_8_decode

from trooper_async._base.json_text import JSON, NOT_JSON, decode_at, replaced
from trooper_async.errors import ResponseFormatError

LARGEST = 2**18
"""Most bytes of a row, or of a response that is not a list. Anything larger is not from this API and is not parsed."""
_WINDOW = 2**10
_GROWTH = 8
_MOST_ROWS = 100_000

_OPENING = re.compile(rb"[ \t\n\r]*\[[ \t\n\r]*")
_SPACE = " \t\n\r"
_AFTER = re.compile(r"[ \t\n\r]*([,\]])[ \t\n\r]*")


class Rows:
    """A cursor in front of a row of the list, or at its end."""

    __slots__ = ("at", "body", "count", "ended")

    def __init__(self, body: bytes, at: int) -> None:
        self.body: bytes = body
        self.at: int = at
        """Where the next row begins."""
        self.count: int = 0
        """How many rows it has passed."""
        self.ended: bool = False
        if body.startswith(b"]", at):
            self._end(at + 1)

    def skip(self, count: int, size: int) -> None:
        """Pass known rows: how many, and their bytes in all."""
        self.count += count
        self.at += size

    def read(self) -> JSON:
        """Pass the next row, and return its JSON.

        Raises:
            ResponseFormatError: it is not JSON, or too large.
        """
        size = _WINDOW
        while (found := self._parse(size)) is None:
            if self.at + size >= len(self.body):
                raise ResponseFormatError("$", "JSON")
            if size >= LARGEST:
                raise ResponseFormatError(f"$[{self.count}]", "JSON of at most 256 KiB")
            size = min(_GROWTH * size, LARGEST)
        if self.count >= _MOST_ROWS:
            raise ResponseFormatError("$", f"a list of at most {_MOST_ROWS:,} rows")
        row, passed, is_last = found
        self.count += 1
        self.at += passed
        if is_last:
            self._end(self.at)
        return row

    def _parse(self, size: int) -> tuple[JSON, int, bool] | None:
        """The row, its size in bytes, and whether it is the last; None if the window holds no whole row."""
        end = self.at + size
        body, is_final = self.body[self.at : end], end >= len(self.body)
        try:
            read = text = utf_8_decode(body, "strict", is_final)[0]
        except UnicodeDecodeError:
            text = utf_8_decode(body, "surrogateescape", is_final)[0]
            read = replaced(text)
        try:
            row, index = decode_at(read, len(read) - len(read.lstrip(_SPACE)))
        except NOT_JSON:
            return None
        except ResponseFormatError as error:
            expected = error.expected
        else:
            if (after := _AFTER.match(read, index)) is None:
                return None
            passed = text[: after.end()]
            length = len(passed) if text.isascii() else len(passed.encode("utf-8", "surrogateescape"))
            return row, length, after[1] == "]"
        raise ResponseFormatError(f"$[{self.count}]", expected)

    def _end(self, at: int) -> None:
        rest = self.body[at : at + LARGEST + 1]
        if len(rest) > LARGEST or rest.strip(b" \t\n\r"):
            raise ResponseFormatError("$", "JSON")
        self.ended = True


def rows_of(body: bytes) -> Rows | None:
    """The cursor in front of the first row; None if the response is not a list."""
    at = len(BOM_UTF8) if body.startswith(BOM_UTF8) else 0
    opening = _OPENING.match(body, at, at + LARGEST)
    return None if opening is None else Rows(body, opening.end())
