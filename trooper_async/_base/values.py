"""Reads single values of a response, loosely: the API may send a number as text, or a boolean as 0.

Each function takes the value and a type that it ignores, so that cattrs can use it as a structure hook. It raises
`Unexpected` for what it cannot read.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from trooper_async._base.json_text import JSON


class Unexpected(ValueError):  # noqa: N818 - never seen outside the package
    """A value that cannot be read: what was expected, and where in the response (`.template_installs[0].status`)."""

    def __init__(self, expected: str, path: str = "") -> None:
        super().__init__(expected)
        self.expected = expected
        self.path = path

    def inside(self, place: str) -> None:
        """Prepend `place` to the path."""
        self.path = place + self.path


def to_int(value: object, _: object = None) -> int:
    if type(value) is int:
        return value
    if isinstance(value, str) and len(value) < 20 and value.isascii() and value.removeprefix("-").isdigit():
        return int(value)
    if isinstance(value, Decimal) and abs(value.adjusted()) < 20 and value == value.to_integral_value():
        return int(value)
    raise Unexpected("a whole number")


_BOOLEANS: dict[object, bool] = {0: False, 1: True, "0": False, "1": True, "false": False, "true": True}


def to_bool(value: object, _: object = None) -> bool:
    if isinstance(value, str | int) and (known := _BOOLEANS.get(value)) is not None:
        return known
    raise Unexpected("true or false")


def to_str(value: object, _: object = None) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | Decimal) and not isinstance(value, bool):  # a title or password of digits alone
        return str(value)
    raise Unexpected("text")


def to_decimal(value: object, _: object = None) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if type(value) is int:
        return Decimal(value)
    if isinstance(value, str):
        try:
            number = Decimal(value)
        except ArithmeticError:
            raise Unexpected("a number") from None
        if number.is_finite():
            return number
    raise Unexpected("a number")


def to_time(value: object, _: object = None) -> datetime:
    if isinstance(value, str):
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            raise Unexpected("a time (ISO 8601)") from None
        return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    raise Unexpected("a time (ISO 8601)")


def to_object(value: object, _: object = None) -> dict[str, JSON]:
    if isinstance(value, dict):
        return value
    raise Unexpected("an object")
