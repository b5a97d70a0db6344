"""Texts for a terminal. What comes from the API is data: no markup, no control character of it has any effect."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from rich.text import Text

from trooper_async.models import Order, OrderStatus, same_word

NOTHING = "-"
_LONGEST = 120

_STYLES: dict[str, str] = {
    OrderStatus.running: "green",
    OrderStatus.stopped: "yellow",
    OrderStatus.frozen: "cyan",
    OrderStatus.terminated: "red",
}


def printable(value: object, longest: int = _LONGEST) -> str:
    """A value as one line of printable characters (no escape sequences, no marks that turn the writing direction)."""
    if value is None or value == "":
        return NOTHING
    text = str(value)[: longest + 1]
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= longest else text[:longest] + "…"


def cell(value: object, style: str = "") -> Text:
    """The same for a table; `Text` reads no markup."""
    return Text(printable(value), style)


def status_style(word: str) -> str:
    """The colour of a status word; one on the way, or unknown, has that of neither."""
    return _STYLES.get(word.casefold(), "magenta")


def status(order: Order) -> Text:
    """`running`, or `starting → running` where the server is wanted elsewhere."""
    text = cell(order.current_status, status_style(order.current_status))
    wish = order.desired_status
    if wish is not None and not same_word(wish, order.current_status):
        text.append(" → ").append_text(cell(wish, status_style(wish)))
    return text


def euros(amount: Decimal | None) -> str:
    """An amount of EUR, exact, with at least two decimals."""
    if amount is None:
        return NOTHING
    if not amount.is_finite() or abs(amount.adjusted()) > 12:
        return printable(amount, 20)
    exponent = amount.normalize().as_tuple().exponent
    assert isinstance(exponent, int)  # noqa: S101 - it is finite
    return f"{amount:,.{max(2, -exponent)}f}"


def rounded(amount: Decimal) -> str:
    """An amount of EUR that was reckoned, to the cent."""
    return printable(amount, 20) if abs(amount.adjusted()) > 12 else f"{amount:,.2f}"


def moment(time: datetime | None) -> str:
    """A time of day in this machine's zone."""
    if time is None:
        return NOTHING
    try:
        return time.astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError):  # of the first or the last year that there is
        return time.isoformat(" ", "minutes")


def span(seconds: float) -> str:
    """A stretch of time in its two largest units: `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    for size, large, small_size, small in ((1440, "d", 60, "h"), (60, "h", 1, "min")):
        if minutes >= size:
            rest = minutes % size // small_size
            return f"{minutes // size} {large}" + (f" {rest} {small}" if rest else "")
    return f"{minutes} min"


def until(time: datetime | None) -> str:
    """How far off a time is."""
    if time is None:
        return NOTHING
    seconds = (time - datetime.now(UTC)).total_seconds()
    return f"in {span(seconds)}" if seconds >= 0 else f"{span(-seconds)} ago"


def count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
