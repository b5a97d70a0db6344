"""A decoded request, and the error that refuses it. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal


class RefusalError(Exception):
    """A response other than a 200."""

    def __init__(self, status: int, error: str, *, field: str | None = "error", **more: object) -> None:
        super().__init__(status, error)
        self.status = status
        self.body = error if field is None else {field: error, **more}


@dataclass(frozen=True, slots=True)
class Call:
    """A decoded request, and the time of its arrival. A field of the wrong type is refused with a 400."""

    now: float
    query: Mapping[str, str]
    body: object
    has_key: bool

    def get(self, name: str) -> object:
        """A field of the body; None if it is missing."""
        if not isinstance(self.body, dict):
            raise RefusalError(400, "The body must be a JSON object")
        return self.body.get(name)

    def integer(self, name: str) -> int:
        """A field that must be an integer; `true` is not one."""
        value = self.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise RefusalError(400, f"Invalid or missing {name}")
        return value

    def boolean(self, name: str, *, default: bool | None = None) -> bool:
        """A field that must be a boolean; it may be missing if there is a default."""
        value = self.get(name)
        if value is None:
            value = default
        if not isinstance(value, bool):
            raise RefusalError(400, f"Invalid or missing {name}")
        return value

    def number(self, name: str) -> Decimal:
        """A field that must be a number, as exact as it was written."""
        value = self.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise RefusalError(400, f"Invalid or missing {name}")
        number = Decimal(str(value))
        if not number.is_finite():
            raise RefusalError(400, f"Invalid or missing {name}")
        return number

    def queried(self, name: str) -> int:
        """A parameter of the query that must be an integer."""
        try:
            return int(self.query.get(name, ""))
        except ValueError:
            raise RefusalError(400, f"Invalid or missing {name}") from None
