"""Gives the values of a response the JSON types of a profile, if those differ from the document's. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from trooper_async.testing._profile import Kind, Profile

_FILLERS: Mapping[Kind, object] = {
    "text": "new",
    "number": 1,
    "boolean": True,
    "null": None,
    "object": {"since": 2025},
    "list": [],
}


def shaped(value: object, profile: Profile, endpoint: str) -> object:
    """A response with the types of a profile.

    Args:
        value: The response as the document has it.
        profile: The types and fields to use.
        endpoint: The path of the endpoint.
    """
    here, everywhere = profile.fields.get(endpoint, {}), profile.fields.get("*", {})
    as_document = (profile.types.number, profile.types.boolean) == ("number", "boolean")
    if as_document and not here and not everywhere:
        return value

    def shape(value: object, path: str) -> object:
        match value:
            case list():
                return [shape(item, path) for item in value]
            case dict():
                row = {}
                for name, item in value.items():
                    within = f"{path}.{name}" if path else name
                    kind = here.get(within) or everywhere.get(name)
                    if kind != "missing":
                        row[name] = item if name == "config" else _as_kind(kind, item) if kind else shape(item, within)
                return {**row, **_added(value, path)}
            case bool():
                return _as_kind(profile.types.boolean, value)
            case int() | Decimal():
                return _as_kind(profile.types.number, value)
        return value

    def _added(row: dict[str, object], path: str) -> dict[str, object]:
        """The fields of the profile that the document does not have in this row."""
        new: dict[str, Kind] = {name: kind for name, kind in everywhere.items() if kind not in ("missing", "null")}
        for name, kind in here.items():
            inside, _, last = name.rpartition(".")
            if inside == path and kind != "missing":
                new[last] = kind
        return {name: _FILLERS[kind] for name, kind in new.items() if name not in row}

    return shape(value, "")


def _as_kind(kind: Kind, value: object) -> object:
    match kind, value:
        case "null", _:
            return None
        case "text", bool():
            return str(int(value))
        case "text", int() | Decimal():
            return str(value)
        case "number", bool():
            return int(value)
    return value
