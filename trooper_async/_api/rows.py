"""A list answer, row by row: no more of it is parsed at a time than one row.

The body is read as text through a window that begins with a row: small at first, larger for a large row. A JSON value
ends where it ends, whatever follows; only a number might go on, so a row counts once the comma or bracket after it is
seen too.
"""

from __future__ import annotations

import json
import re
from codecs import utf_8_decode

from trooper_async._base.converter import NO_JSON, decode_at
from trooper_async.errors import ResponseFormatError
from trooper_async.models import JSON

LARGEST = 2**18
"""Bytes of a row, or of an answer that is no list. What is larger is not of this API, and is not parsed."""
_WINDOW = 2**12
_GROWTH = 8
_MOST_ROWS = 100_000

_OPENING = re.compile(rb"[ \t\n\r]*\[[ \t\n\r]*")
_SPACE = re.compile(r"[ \t\n\r]*")
_AFTER = re.compile(r"[ \t\n\r]*([,\]])[ \t\n\r]*")


class Rows:
    """A cursor that stands before a row of the list, or has come to its end."""

    __slots__ = ("_ends", "_index", "_start", "_text", "_text_at", "_window", "at", "body", "count", "ended")

    def __init__(self, body: bytes, at: int) -> None:
        self.body = body
        """In UTF-8."""
        self.at = at
        """Where the next row begins."""
        self.count = 0
        """How many rows are behind it."""
        self.ended = False
        self._text = ""  # the window, where in it the next row begins, and where that is in the body
        self._start = self._index = 0
        self._text_at = -1
        self._window = self._ends = 0
        if body.startswith(b"]", at):
            self._end(at + 1)

    def skip(self, count: int, size: int) -> None:
        """Pass so many rows of that many bytes in all, which are known."""
        self.count += count
        self.at += size

    def read(self) -> JSON:
        """Pass the next row; its JSON.

        Raises:
            ResponseFormatError: it is no JSON, or too large.
        """
        if self._text_at != self.at:
            self._look(_WINDOW)
        while True:
            row, after = self._parse()
            if after is not None:
                break
            if self._index > self._start:
                self._look(_GROWTH * _WINDOW)
            elif self._ends < len(self.body) and self._window < LARGEST:
                self._look(_GROWTH * self._window)
            else:
                raise self._unreadable()
        if self.count >= _MOST_ROWS:
            raise ResponseFormatError("$", f"a list of at most {_MOST_ROWS:,} rows")
        end = after.end()
        self.count += 1
        self.at += end - self._index if self._text.isascii() else len(self._text[self._index : end].encode())
        self._text_at, self._index = self.at, end
        if after[1] == "]":
            self._end(self.at)
        return row

    def _parse(self) -> tuple[JSON, re.Match[str] | None]:
        """The row in the window, and what follows; None there where the window is too small for it, or it is none."""
        try:
            row, end = decode_at(self._text, self._index)
        except NO_JSON:
            return None, None
        except ResponseFormatError as error:
            expected = error.expected
        else:
            return row, _AFTER.match(self._text, end)
        raise ResponseFormatError(f"$[{self.count}]", expected)

    def _look(self, size: int) -> None:
        """Open a window of that many bytes at the next row."""
        end = self.at + size
        try:
            text, _ = utf_8_decode(self.body[self.at : end], "strict", end >= len(self.body))
        except UnicodeDecodeError:
            text = None
        if text is None:
            raise ResponseFormatError("$", "JSON")
        space = _SPACE.match(text)
        self._start = self._index = space.end() if space else 0
        self.at += self._start
        self._text, self._text_at, self._window, self._ends = text, self.at, size, end

    def _unreadable(self) -> ResponseFormatError:
        if self._ends >= len(self.body):
            return ResponseFormatError("$", "JSON")
        return ResponseFormatError(f"$[{self.count}]", "JSON of at most 256 KiB")

    def _end(self, at: int) -> None:
        rest = self.body[at : at + LARGEST + 1]
        if len(rest) > LARGEST or rest.strip(b" \t\n\r"):
            raise ResponseFormatError("$", "JSON")
        self.ended = True


def rows_of(body: bytes) -> Rows | None:
    """The cursor before the first row; None where the answer is no list.

    Raises:
        ResponseFormatError: it is no text.
    """
    encoding, at = json.detect_encoding(body), 0
    if encoding == "utf-8-sig":
        at = 3
    elif encoding != "utf-8":
        body = _in_utf8(body, encoding)
    opening = _OPENING.match(body, at, at + LARGEST)
    return None if opening is None else Rows(body, opening.end())


def _in_utf8(body: bytes, encoding: str) -> bytes:
    if len(body) > LARGEST:
        raise ResponseFormatError("$", "UTF-8")
    try:
        return body.decode(encoding).encode()
    except UnicodeError:
        pass  # raised below, where the exception at hand (it holds the body) is no context of ours
    raise ResponseFormatError("$", "JSON")
