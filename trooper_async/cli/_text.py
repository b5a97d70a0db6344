"""What the command writes, as text and as JSON. Data of the API is only data: markup and control characters in it have
no effect, and passwords are written only on request.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from fnmatch import fnmatchcase

from attrs import AttrsInstance, fields, has
from rich.text import Text

from trooper_async.errors import TrooperError
from trooper_async.models import Credentials, Order, OrderStatus, TemplateInstall, same_word

NO_VALUE = "-"
_LONGEST = 1000
_STYLES: dict[str, str] = {
    OrderStatus.running: "green",
    OrderStatus.stopped: "yellow",
    OrderStatus.frozen: "cyan",
    OrderStatus.terminated: "red",
}


def printable(value: object, longest: int = _LONGEST) -> str:
    """A value as one line of printable characters (no escape sequences, no marks that change the writing direction)."""
    if value is None or value == "":
        return NO_VALUE
    text = str(value)[: longest + 1]
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= longest else text[:longest] + "…"


def cell(value: object, style: str = "") -> Text:
    """The same for a table; `Text` does not interpret markup."""
    return Text(printable(value), style)


def same_text(pattern: str, given: str | None) -> bool:
    """Whether a text matches a pattern with `*`, `?` and `[…]`, ignoring case."""
    return given is not None and fnmatchcase(given.casefold(), pattern.casefold())


def status_style(word: str) -> str:
    """The colour of a status; transitional and unknown ones are magenta."""
    return _STYLES.get(word.casefold(), "magenta")


def status(order: Order) -> Text:
    """`running`, or `starting → running` if the desired status differs."""
    text = cell(order.current_status, status_style(order.current_status))
    desired = order.desired_status
    if desired is not None and not same_word(desired, order.current_status):
        text.append(" → ").append_text(cell(desired, status_style(desired)))
    return text


def euros(amount: Decimal | None) -> str:
    """An exact amount of EUR, with at least two decimals."""
    if amount is None:
        return NO_VALUE
    if not amount.is_finite() or abs(amount.adjusted()) > 12:
        return printable(amount, 20)
    exponent = amount.normalize().as_tuple().exponent
    assert isinstance(exponent, int)  # noqa: S101 - it is finite
    return f"{amount:,.{max(2, -exponent)}f}"


def rounded(amount: Decimal) -> str:
    """A calculated amount of EUR, to the cent."""
    return printable(amount, 20) if abs(amount.adjusted()) > 12 else f"{amount:,.2f}"


def moment(time: datetime | None) -> str:
    """Date and time in this machine's time zone."""
    if time is None:
        return NO_VALUE
    try:
        return time.astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError):  # in the first or last year that Python supports
        return time.isoformat(" ", "minutes")


def span(seconds: float) -> str:
    """A duration in its two largest units: `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    for size, large, small_size, small in ((1440, "d", 60, "h"), (60, "h", 1, "min")):
        if minutes >= size:
            rest = minutes % size // small_size
            return f"{minutes // size} {large}" + (f" {rest} {small}" if rest else "")
    return f"{minutes} min"


def until(time: datetime | None) -> str:
    """How far away a time is."""
    if time is None:
        return NO_VALUE
    seconds = (time - datetime.now(UTC)).total_seconds()
    return f"in {span(seconds)}" if seconds >= 0 else f"{span(-seconds)} ago"


def count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def to_json(value: object, *, secrets: bool = False, indent: int | None = 2) -> str:
    """The JSON of a model, or of lists and dicts of models, in ASCII, so that no title can control the terminal.

    `json` cannot write it, since it would turn a `Decimal` into the nearest float.

    Args:
        value: what to write.
        secrets: whether to write passwords and the values of a template's settings. Otherwise they are left out, and
            only the names of the settings are written.
        indent: spaces for each level; None writes one line.
    """
    return _write(value, secrets, indent, 0)


def _write(value: object, secrets: bool, indent: int | None, level: int) -> str:
    def items(opening: str, parts: Iterable[str], closing: str) -> str:
        inner = list(parts)
        if indent is None or not inner:
            return opening + ", ".join(inner) + closing
        line = "\n" + " " * indent * level
        return opening + ",".join(f"{line}{' ' * indent}{part}" for part in inner) + line + closing

    def write(item: object) -> str:
        return _write(item, secrets, indent, level + 1)

    if isinstance(value, Decimal):
        return str(value) if value.is_finite() else "null"
    if isinstance(value, datetime):
        return json.dumps(value.isoformat())
    if isinstance(value, TrooperError):
        value = {"type": type(value).__name__, "message": str(value)}
    elif (kind := type(value)) is not object and has(kind):
        value = _fields(value, secrets)  # type: ignore[arg-type]  # it is a model
    if isinstance(value, Mapping):
        return items("{", (f"{_text(str(name))}: {write(item)}" for name, item in value.items()), "}")
    if isinstance(value, frozenset):
        value = sorted(value)
    if isinstance(value, list | tuple):
        return items("[", map(write, value), "]")
    return _text(value) if isinstance(value, str) else json.dumps(value, allow_nan=False)


def _text(value: str) -> str:
    # half of a surrogate pair is not text, and JSON parsers refuse it
    return json.dumps("".join("\N{REPLACEMENT CHARACTER}" if "\ud800" <= c <= "\udfff" else c for c in value))


def _fields(model: AttrsInstance, secrets: bool) -> dict[str, object]:
    """A model's fields. Those that may hold a secret are known by their type, since names of settings reveal
    nothing.
    """
    # `extra` holds what the model does not know, which may be a secret
    shown = {one.name: getattr(model, one.name) for one in fields(type(model)) if one.name != "extra"}
    if not secrets and isinstance(model, Credentials):
        del shown["password"]
    if not secrets and isinstance(model, TemplateInstall):
        shown["config_names"] = None if shown["config"] is None else list(shown["config"])
        del shown["config"]
    return shown
