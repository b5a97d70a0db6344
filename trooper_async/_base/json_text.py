"""JSON as the API and this package write it: text to values, and values to text."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable
from decimal import Decimal
from typing import TypeAlias

from trooper_async._base.errors import ConfigurationError, ResponseFormatError

JSON: TypeAlias = "bool | int | float | Decimal | str | list[JSON] | dict[str, JSON] | None"
"""A value of JSON. Numbers with a fraction are read as `Decimal`, so that money stays exact."""

NOT_JSON = (ValueError, RecursionError, ArithmeticError)
"""The exceptions of `decode_at` for text that is not JSON."""


def _constant(text: str) -> JSON:
    raise ValueError(text)  # NaN and Infinity: Python accepts them, JSON does not


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    data = dict(pairs)
    if len(data) < len(pairs):  # parsers differ in which of the two values they keep (RFC 8259, section 4)
        raise ResponseFormatError("$", "JSON whose objects have each name once")
    return data


_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_constant, object_pairs_hook=_object)


_ESCAPED = re.compile("[\udc80-\udcff]")


def replaced(text: str) -> str:
    """The text with each byte that was not UTF-8 ("surrogateescape") replaced by U+FFFD; its length stays the same."""
    return _ESCAPED.sub("\ufffd", text)


def loads(body: bytes) -> JSON:
    """The JSON value in a body of UTF-8, with or without a byte order mark.

    A number with a point or an exponent becomes a `Decimal` with the same digits. Bytes that are not UTF-8 become
    U+FFFD, so that one bad character in a title does not make everything else unreadable.

    Raises:
        ResponseFormatError: the body is not JSON (NaN is not), is nested too deeply, has an integer of more than 4,300
            digits, or has an object with a duplicate name.
    """
    body = body.removeprefix(BOM_UTF8)
    try:
        try:
            text = body.decode()
        except UnicodeDecodeError:
            text = replaced(body.decode("utf-8", "surrogateescape"))
        data: JSON = _DECODER.decode(text)
    except NOT_JSON:
        pass  # raised below, because the exception caught here holds the body and would be the context of ours
    else:
        return data
    raise ResponseFormatError("$", "JSON")


decode_at: Callable[[str, int], tuple[JSON, int]] = _DECODER.raw_decode
"""The JSON value that begins at an index of a text, read as by `loads`, and the index where it ends.

Raises:
    NOT_JSON: there is no whole value at the index.
    ResponseFormatError: an object has a duplicate name.
"""


def dumps(data: dict[str, JSON]) -> bytes:
    """JSON for a request body. A `Decimal` becomes a number of the same value.

    Raises:
        ConfigurationError: a value can't be sent as JSON (NaN, say, or a number with more digits than a float keeps).
    """
    try:
        return _ENCODER.encode(data).encode()
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigurationError):
            raise
    raise ConfigurationError("an argument can't be sent as JSON: nothing was sent")


def json_number(value: object) -> int | float:
    """The JSON number that is read back as exactly this value.

    Raises:
        ConfigurationError: there is none.
        TypeError: it is not a Decimal. The error does not contain it, since it may be a secret.
    """
    if not isinstance(value, Decimal):
        raise TypeError
    if value.is_finite() and abs(value.adjusted()) < 300:
        number = int(value) if value == value.to_integral_value() else float(value)
        if Decimal(repr(number)) == value:
            return number
    raise ConfigurationError(f"a JSON number can't hold {value!s:.40}")


_ENCODER = json.JSONEncoder(default=json_number, allow_nan=False)
