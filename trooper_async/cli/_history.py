"""`trooper history`: the last status changes of a server, drawn along a line of time."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.text import Text

from trooper_async.cli._cli import Cli
from trooper_async.cli._command import command, order_id
from trooper_async.cli._tables import table
from trooper_async.cli._text import NOTHING, cell, moment, span, status_style
from trooper_async.models import StatusChange

_WIDTH = 32


@command()
@order_id
async def history(cli: Cli, order: int) -> None:
    """The last five status changes of a server, the latest first, and how long each status held."""
    async with cli.client() as client:
        changes = await client.orders.history(order)
    # by time: their ids say nothing of order
    changes.sort(key=lambda change: change.status_since or datetime.min.replace(tzinfo=UTC), reverse=True)
    made = table("since", "status", "for", "timeline", "what the API says")
    for change, (seconds, bar) in zip(changes, timeline(changes, datetime.now(UTC)), strict=True):
        style = status_style(change.status_user)
        made.add_row(
            moment(change.status_since),
            cell(change.status_user, style),
            NOTHING if seconds is None else span(seconds),
            Text(bar, style),
            cell(change.status_txt),
        )
    cli.result(changes, made if changes else f"the API knows of no status change of order {order}")


def timeline(changes: list[StatusChange], now: datetime, width: int = _WIDTH) -> list[tuple[float | None, str]]:
    """For each change, the latest first: the seconds until the next, and a bar where it is on the line of time."""
    times = [change.status_since for change in changes if change.status_since is not None]
    begin = min(times, default=now)
    end = max(now, *times) if times else now
    whole = max((end - begin).total_seconds(), 1e-9)
    drawn: list[tuple[float | None, str]] = []
    until = end
    for change in changes:
        since = change.status_since
        if since is None:
            drawn.append((None, ""))
            continue
        left = min(int((since - begin).total_seconds() / whole * width), width - 1)
        right = max(left + 1, round((until - begin).total_seconds() / whole * width))
        drawn.append(((until - since).total_seconds(), "·" * left + "█" * (right - left) + "·" * (width - right)))
        until = since
    return drawn
