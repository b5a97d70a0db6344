"""The API's loose values: what a number, a boolean or a time may look like in an answer. Anything else is `Unexpected`.

Each takes the value and a type that it ignores: they are cattrs' structure hooks.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TypeAlias

JSON: TypeAlias = "bool | int | float | Decimal | str | list[JSON] | dict[str, JSON] | None"


class Unexpected(ValueError):  # noqa: N818 - never seen outside the package
    """A value that can't be read as what it should be."""

    def __init__(self, expected: str) -> None:
        super().__init__(expected)
        self.expected = expected


def to_int(value: object, _: type) -> int:
    if type(value) is int:
        return value
    if isinstance(value, str) and len(value) < 20 and value.isascii() and value.removeprefix("-").isdigit():
        return int(value)
    if isinstance(value, Decimal) and abs(value.adjusted()) < 20 and value == value.to_integral_value():
        return int(value)
    raise Unexpected("a whole number")


_BOOLEANS: dict[object, bool] = {0: False, 1: True, "0": False, "1": True, "false": False, "true": True}


def to_bool(value: object, _: type) -> bool:
    if isinstance(value, str | int) and (known := _BOOLEANS.get(value)) is not None:
        return known
    raise Unexpected("true or false")


def to_str(value: object, _: type) -> str:
    if isinstance(value, str):
        return value
    raise Unexpected("text")


def to_decimal(value: object, _: type) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if type(value) is int:
        return Decimal(value)
    if isinstance(value, str) and len(value) < 64:
        try:
            number = Decimal(value)
        except ArithmeticError:
            raise Unexpected("a number") from None
        if number.is_finite():
            return number
    raise Unexpected("a number")


def to_time(value: object, _: type) -> datetime:
    if isinstance(value, str):
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            raise Unexpected("a time (ISO 8601)") from None
        return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    raise Unexpected("a time (ISO 8601)")


def to_config(value: object, _: type) -> dict[str, JSON]:
    if isinstance(value, dict):
        return value
    raise Unexpected("an object")
