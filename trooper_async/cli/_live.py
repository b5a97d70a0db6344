"""What is shown while servers change: the progress of waits, and `trooper watch`.

On a terminal it is redrawn; otherwise it is a line for each status, each end and each outage.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Unpack

import click
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trooper_async import select
from trooper_async.cli._context import Cli, stoppable
from trooper_async.cli._errors import reason
from trooper_async.cli._options import SECONDS, Filters, command, filter_options
from trooper_async.cli._servers import totals
from trooper_async.cli._tables import ORDERS, Column, table_of
from trooper_async.cli._text import cell, span, status, status_style, to_json
from trooper_async.errors import TrooperError
from trooper_async.models import Order, OrderChange

if TYPE_CHECKING:
    from trooper_async import Outage, TrooperClient

_SHOWN_ONE_BY_ONE = 12
_FOLLOWED_EVERY = 30.0
"""Seconds between polls; the polls of the waits, which are more frequent, are shown, too."""
_REDRAWN_EVERY = 1.0
"""Seconds."""


def _outage_text(outage: Outage) -> Text:
    if outage.error is None:
        return Text("the API responds again", "green")
    since = outage.since.astimezone().strftime("%H:%M:%S")
    return Text(f"the API has not responded since {since}: {reason(outage.error)}", "yellow")


class Progress:
    """The progress of a command."""

    def __init__(self, cli: Cli, what: str, order_ids: Collection[int]) -> None:
        self._cli = cli
        self._what = what
        self._began = time.monotonic()
        self._orders: dict[int, Order | None] = dict.fromkeys(order_ids)
        self._ended: dict[int, Text] = {}
        self._failed = 0
        self._outage: Outage | None = None

    def end(self, order_id: int, result: Order | TrooperError | None, seconds: float) -> None:
        """One order has finished: in its target status, or with an error."""
        if isinstance(result, TrooperError):
            self._failed += 1
            text = Text("failed: ", "red").append(reason(result), "default")
        else:
            text = status(result) if result is not None else Text("accepted")
            text.append(f" ({span(seconds)})", "dim")
        self._ended[order_id] = text
        if not (self._failed and len(self._orders) == 1):  # for a single order, the error says everything
            self._print_line(self._counted(order_id).append_text(text))

    def see(self, order: Order) -> None:
        """A server was seen in a status. The first one may be from before the action."""
        if order.order_id not in self._orders or order.order_id in self._ended:
            return
        before, self._orders[order.order_id] = self._orders[order.order_id], order
        if before is not None and status(before) != status(order):
            self._print_line(self._counted(order.order_id).append_text(status(order)))

    def see_outage(self, outage: Outage) -> None:
        """The API has stopped responding, or responds again."""
        self._outage = None if outage.error is None else outage
        self._print_line(_outage_text(outage))

    def _print_line(self, line: Text) -> None:
        if not self._cli.is_live:
            self._cli.say(line)

    def _counted(self, order_id: int) -> Text:
        return Text(f"[{len(self._ended)}/{len(self._orders)}] order {order_id}: ")

    def __rich__(self) -> RenderableType:
        total, done = len(self._orders), len(self._ended)
        head = Text(f"{self._what}: {done} of {total}")
        if self._failed:
            head.append(f", {self._failed} failed", "red")
        head.append(f", {span(time.monotonic() - self._began)}", "dim")
        bar = Table.grid(padding=(0, 1))
        bar.add_row(head, ProgressBar(max(total, 1), done, width=24))
        servers = self._one_by_one() if total <= _SHOWN_ONE_BY_ONE else self._counts()
        return Group(bar, *([] if self._outage is None else [_outage_text(self._outage)]), servers)

    def _one_by_one(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        for order_id, order in self._orders.items():
            ended = self._ended.get(order_id)
            where = ended if ended is not None else Text("…") if order is None else status(order)
            grid.add_row(f"  {order_id}", cell("" if order is None else order.title), where)
        return grid

    def _counts(self) -> RenderableType:
        words = Counter(str(order.current_status) for order in self._orders.values() if order is not None)
        text = Text("  ")
        for word, number in words.most_common():
            text.append(f"{number} ").append_text(cell(word, status_style(word))).append("   ")
        return text


@asynccontextmanager
async def progress(
    cli: Cli, client: TrooperClient, what: str, order_ids: Collection[int], *, follows: bool = True
) -> AsyncIterator[Progress]:
    """Show the progress of what happens in this context.

    Args:
        cli, client: the output, and the client whose poll shows the servers' statuses.
        what: what is done, in words.
        order_ids: the servers.
        follows: whether their statuses are shown; False without waits.
    """
    shown = Progress(cli, what, order_ids)

    async def follow() -> None:
        with suppress(TrooperError):  # the waits raise this themselves
            async for event in client.orders.watch(interval=_FOLLOWED_EVERY, outages=True):
                if isinstance(event, OrderChange):
                    shown.see(event.order)
                else:
                    shown.see_outage(event)

    @asynccontextmanager
    async def followed() -> AsyncIterator[None]:
        if not follows or not order_ids:
            yield
            return
        follower = asyncio.create_task(follow(), name="trooper progress")
        try:
            yield
        finally:
            follower.cancel()
            await asyncio.wait([follower])

    if not cli.is_live:
        cli.say(f"{what} …")
        async with followed():
            yield shown
        return

    from rich.live import Live

    with stoppable(cli.err), Live(shown, console=cli.err, refresh_per_second=4, transient=True):
        async with followed():
            yield shown


# watch ----------------------------------------------------------------------------------------------------------------


class Board:
    """The servers as last seen, as many as fit on the screen; those that are changing come first."""

    def __init__(self) -> None:
        self.is_new = False
        """Whether it has changed since it was last drawn."""
        self._orders: dict[int, Order] = {}
        self._changed: dict[int, float] = {}
        self._outage: Outage | None = None

    def take(self, change: OrderChange, matches: bool) -> None:
        """A server has changed; `matches` says whether it is to be shown."""
        self.is_new = True
        if matches and change.kind != "vanished":
            self._orders[change.order_id] = change.order
            if change.kind == "changed":
                self._changed[change.order_id] = time.monotonic()
        else:
            self._orders.pop(change.order_id, None)
            self._changed.pop(change.order_id, None)

    def take_outage(self, outage: Outage) -> None:
        """The API has stopped responding, or responds again."""
        self.is_new = True
        self._outage = None if outage.error is None else outage

    @property
    def has_ages(self) -> bool:
        """Whether it shows ages, which change over time."""
        return bool(self._changed)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        orders = sorted(self._orders.values(), key=lambda order: (order.is_converged, order.order_id))
        below: list[Text] = [totals(orders), Text("Ctrl-C ends it", "dim")]
        if self._outage is not None:
            below.insert(0, _outage_text(self._outage))
        lines = sum(len(text.wrap(console, options.max_width)) for text in below)
        room = max(1, console.height - lines - 5)  # the header, its rule, two blank lines, and the cursor's
        if len(orders) > room + 1:
            below.insert(0, Text(f"… {len(orders) - room} more", "dim"))
        else:
            room += 1
        now = time.monotonic()

        def since(order: Order) -> str:
            then = self._changed.get(order.order_id)
            return "" if then is None else f"{span(now - then)} ago"

        yield table_of((*ORDERS, Column("changed", since, leaves=1)), orders[:room])
        yield Text()
        yield from below


@command()
@filter_options
@click.option("--interval", type=SECONDS, default=5.0, show_default=True, help="Seconds between polls.")
async def watch(cli: Cli, interval: float, **filters: Unpack[Filters]) -> None:
    """Show your servers as they change, until Ctrl-C.

    On a terminal this is a live table; otherwise a line for each change, each server that no longer matches the
    filters, and each outage. --json writes each of them as one line of JSON.
    """

    def matches(order: Order | None) -> bool:
        return order is not None and bool(select([order], **filters))

    board = Board()
    async with cli.client() as client, client.orders.watch(interval=interval, outages=True) as events:
        if cli.is_live and cli.out.is_terminal and not cli.as_json:
            async with _drawn(cli, board):
                async for event in events:
                    if isinstance(event, OrderChange):
                        board.take(event, matches(event.order))
                    else:
                        board.take_outage(event)
        async for event in events:
            if not isinstance(event, OrderChange):
                _print_outage(cli, event)
            elif matches(event.order):
                _print_change(cli, event, event.kind)
            elif matches(event.previous):
                _print_change(cli, event, "left")


@asynccontextmanager
async def _drawn(cli: Cli, board: Board) -> AsyncIterator[None]:
    """Draw the board when it has changed, at most once a second."""
    from rich.live import Live

    with stoppable(cli.err), Live(board, console=cli.err, auto_refresh=False) as live:

        async def draw() -> None:
            while True:
                if board.is_new or board.has_ages:
                    board.is_new = False
                    live.refresh()
                    await asyncio.sleep(_REDRAWN_EVERY)
                else:
                    await asyncio.sleep(0.05)

        drawing = asyncio.create_task(draw(), name="trooper watch")
        try:
            yield
        finally:
            drawing.cancel()
            await asyncio.wait([drawing])
            live.refresh()  # the last state stays in the scrollback


def _print_change(cli: Cli, change: OrderChange, kind: str) -> None:
    if cli.as_json:
        cli.has_result = True
        data = {"kind": kind, "order_id": change.order_id, "order": change.order, "previous": change.previous}
        click.echo(to_json(data, indent=None))
        return
    text = Text(f"{time.strftime('%H:%M:%S')} order {change.order_id} ").append_text(cell(change.order.title))
    cli.result(None, text.append(f" {kind}: ").append_text(status(change.order)))


def _print_outage(cli: Cli, outage: Outage) -> None:
    if cli.as_json:
        cli.has_result = True
        data = {"kind": "responding" if outage.error is None else "outage", "since": outage.since}
        click.echo(to_json({**data, "error": outage.error}, indent=None))
        return
    cli.result(None, Text(f"{time.strftime('%H:%M:%S')} ").append_text(_outage_text(outage)))
