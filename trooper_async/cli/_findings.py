"""What raw answers say of the questions that the API's document leaves open. Pure functions; nothing secret in them.

Only names of fields, kinds of values, status words and counts are told: no id, title, address or price.
"""

from __future__ import annotations

import re
import types
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import Literal, Union, get_args, get_origin

from attrs import fields, frozen, has, resolve_types

from trooper_async._base.converter import names_in_api
from trooper_async.models import JSON, OrderStatus

Row = Mapping[str, JSON]

DIALECTS = (("status", "status_user"), ("current_status", "desired_status"))
ENVELOPE = {"success", "error", "message", "next"}
_KINDS: dict[object, set[str]] = {
    int: {"number"},
    Decimal: {"number"},
    bool: {"boolean"},
    str: {"text"},
    datetime: {"text"},
    OrderStatus: {"text"},
    tuple: {"list"},
    dict: {"object"},
}
_ALSO_DOCUMENTED = {"is_public: number"}  # a sample has 1 where another has true
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_ -]{0,39}")


@frozen
class Finding:
    """An answer to one question."""

    question: str
    verdict: Literal["ok", "note", "bad"]
    answer: str


def dialect(orders: Iterable[Row]) -> Finding:
    """Which of the two pairs of status names is spoken."""
    found = Counter(
        " + ".join(name for pair in DIALECTS for name in pair if name in row) or "no status at all" for row in orders
    )
    verdict: Literal["ok", "note", "bad"] = "ok"
    if not found:
        return Finding("status names", "note", "no orders to see them in")
    if len(found) > 1 or not set(found) <= {" + ".join(pair) for pair in DIALECTS}:
        verdict = "bad" if "no status at all" in found else "note"
    return Finding("status names", verdict, _counted(found))


def both_statuses(orders: Iterable[Row]) -> Finding:
    """Current and desired where they differ: whether the second is the wish, or the last state that was reached."""
    pairs: Counter[str] = Counter()
    for row in orders:
        for current, desired in DIALECTS:
            if current in row and desired in row and row[current] != row[desired]:
                pairs[f"{_word(row[current])} with {_word(row[desired])}"] += 1
    return Finding("current and desired status that differ", "note" if pairs else "ok", _counted(pairs) or "none")


def unknown_words(orders: Iterable[Row], histories: Iterable[Row]) -> Finding:
    """Status words that `OrderStatus` does not know."""
    names = {name for pair in DIALECTS for name in pair}
    words = Counter(_word(row[name]) for row in [*orders, *histories] for name in names if row.get(name) is not None)
    known = {word.value for word in OrderStatus}
    new = Counter({word: number for word, number in words.items() if word.casefold() not in known})
    return Finding("status words not known", "note" if new else "ok", _counted(new) or f"none among {len(words)}")


def template_states(installs: Iterable[Row]) -> Finding:
    """Status codes and texts of template installations; only `1` / `Completed` is documented."""
    seen = Counter(f"{_word(row.get('status'))} / {_word(row.get('status_readable'))}" for row in installs)
    new = any(state != "1 / Completed" for state in seen)
    return Finding("template install states", "note" if new else "ok", _counted(seen) or "none to see")


def same_ids(orders: Iterable[Row]) -> Finding:
    """Whether `serverId` and `order_id` are equal."""
    differ = [row for row in orders if str(row.get("serverId")) != str(row.get("order_id"))]
    answer = "equal in every order" if not differ else f"differ, or are missing, in {len(differ)}"
    return Finding("serverId and order_id", "note" if differ else "ok", answer)


def history_ids(histories: Iterable[Iterable[Row]]) -> Finding:
    """Whether ids rise or fall with time; in the document's sample the newer row has the lower one."""
    ways: Counter[str] = Counter()
    for history in histories:
        rows = [row for row in history if isinstance(row.get("status_since"), str) and row.get("id") is not None]
        rows.sort(key=lambda row: str(row["status_since"]))
        numbers = [int(str(row["id"])) for row in rows if str(row["id"]).isdecimal()]
        if len(numbers) < 2:
            continue
        rises = [one < other for one, other in pairwise(numbers)]
        ways["rise with time" if all(rises) else "fall with time" if not any(rises) else "neither"] += 1
    verdict: Literal["ok", "note"] = "note" if ways["neither"] else "ok"
    return Finding("history ids", verdict, _counted(ways) or "no history of two rows to see")


def unknown_fields(model: type, rows: Iterable[Row], where: str, also: Iterable[str] = ()) -> Finding:
    """Fields that the model of these rows does not know."""
    known = set(also) | _api_names(model)
    seen = Counter(_name(name) for row in rows for name in row if name not in known)
    return Finding(f"fields not known in {where}", "note" if seen else "ok", ", ".join(sorted(seen)) or "none")


def loose_kinds(model: type, rows: Iterable[Row], where: str) -> Finding:
    """Values of another kind than the document's: numbers as text, booleans as numbers, nulls."""
    seen: Counter[str] = Counter()
    resolve_types(model)
    names = names_in_api(model)
    for field in fields(model):
        expected = _kinds(field.type)
        for name in names[field.name]:
            for row in rows:
                if name in row and (kind := _kind(row[name])) not in expected:
                    seen[f"{name}: {kind}"] += 1
    for documented in _ALSO_DOCUMENTED:
        seen.pop(documented, None)
    return Finding(f"kinds of values in {where}", "note" if seen else "ok", _counted(seen) or "as documented")


def rows_of(data: JSON, inside: str | None = None) -> list[Row]:
    """The objects of a list answer; `inside` is the field that it is in."""
    if inside is not None:
        data = data.get(inside) if isinstance(data, dict) else None
    return [row for row in data if isinstance(row, dict)] if isinstance(data, list) else []


def _api_names(model: type) -> set[str]:
    return {name for names in names_in_api(model).values() for name in names}


def _kinds(annotation: object) -> set[str]:
    if get_origin(annotation) in (Union, types.UnionType):
        return set().union(*(_kinds(part) for part in get_args(annotation)))
    if isinstance(annotation, type) and has(annotation):
        return {"object"}
    return _KINDS.get(get_origin(annotation) or annotation, set())


def _kind(value: JSON) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float() | Decimal():
            return "number"
        case str():
            return "text"
        case list():
            return "list"
    return "object"


def _word(value: JSON) -> str:
    """A word of the API's; what is no word is told by its kind alone."""
    text = str(value)
    return text if isinstance(value, str | int) and (_NAME.fullmatch(text) or text.isdecimal()) else f"({_kind(value)})"


def _name(name: str) -> str:
    return name if _NAME.fullmatch(name) else "(an odd name)"


def _counted(seen: Counter[str]) -> str:
    return ", ".join(f"{what} ({number})" for what, number in seen.most_common(20))
