"""Models as JSON: their own field names, money as the number that it is, times in ISO 8601, no passwords unasked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal

from attrs import fields, has

from trooper_async.errors import TrooperError

_SECRET = re.compile("pass|secret|token|key", re.IGNORECASE)
"""Names whose values are passwords: of credentials, and of a template's settings."""


def to_json(value: object, *, passwords: bool = False, indent: int | None = 2) -> str:
    """The JSON of a model, or of lists and dicts of them; ASCII alone, so that no title moves a cursor.

    `json` can't write it: it has no number for a `Decimal` but the nearest float's.

    Args:
        value: what to write.
        passwords: whether passwords are written.
        indent: spaces for each level; None writes one line.
    """
    return _write(value, passwords, indent, 0)


def _write(value: object, passwords: bool, indent: int | None, level: int) -> str:
    def items(opening: str, parts: Iterable[str], closing: str) -> str:
        inner = list(parts)
        if indent is None or not inner:
            return opening + ", ".join(inner) + closing
        line = "\n" + " " * indent * level
        return opening + ",".join(f"{line}{' ' * indent}{part}" for part in inner) + line + closing

    def write(item: object) -> str:
        return _write(item, passwords, indent, level + 1)

    if isinstance(value, Decimal):
        return str(value) if value.is_finite() else "null"
    if isinstance(value, datetime):
        return json.dumps(value.isoformat())
    if isinstance(value, TrooperError):
        value = {"type": type(value).__name__, "message": str(value)}
    elif (kind := type(value)) is not object and has(kind):
        value = {field.name: getattr(value, field.name) for field in fields(kind)}
    if isinstance(value, Mapping):
        shown = {str(name): item for name, item in value.items() if passwords or not _SECRET.search(str(name))}
        return items("{", (f"{json.dumps(name)}: {write(item)}" for name, item in shown.items()), "}")
    if isinstance(value, list | tuple):
        return items("[", map(write, value), "]")
    return json.dumps(value, allow_nan=False)
