"""What is shown while servers change: the progress of many that are waited for, and `trooper watch`.

Live on a terminal, else a line for each status and each end."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Unpack

import click
from rich.console import Group, RenderableType
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
    from trooper_async import TrooperClient

_SHOWN_ONE_BY_ONE = 12
_FOLLOWED_EVERY = 30.0
"""Seconds; the waits poll more often than that, and what they learn is seen too."""


class Progress:
    """How far it is."""

    def __init__(self, cli: Cli, what: str, order_ids: Collection[int]) -> None:
        self._cli = cli
        self._what = what
        self._began = time.monotonic()
        self._orders: dict[int, Order | None] = dict.fromkeys(order_ids)
        self._ended: dict[int, Text] = {}
        self._failed = 0

    def end(self, order_id: int, result: Order | TrooperError | None, seconds: float) -> None:
        """An order has ended: as an order in its desired status, or with an error."""
        if isinstance(result, TrooperError):
            self._failed += 1
            text = Text("failed: ", "red").append(reason(result), "default")
        else:
            text = status(result) if result is not None else Text("accepted")
            text.append(f" ({span(seconds)})", "dim")
        self._ended[order_id] = text
        if not self._cli.is_live and not (self._failed and len(self._orders) == 1):  # of one alone the error tells all
            self._cli.say(self._counted(order_id).append_text(text))

    def see(self, order: Order) -> None:
        """A server was seen in a status; the first time it may be the one from before the action."""
        before = self._orders.get(order.order_id)
        if order.order_id not in self._orders or order.order_id in self._ended:
            return
        self._orders[order.order_id] = order
        if not self._cli.is_live and before is not None and status(before) != status(order):
            self._cli.say(self._counted(order.order_id).append_text(status(order)))

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
        return Group(bar, self._one_by_one() if total <= _SHOWN_ONE_BY_ONE else self._counts())

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
async def progress(cli: Cli, client: TrooperClient, what: str, order_ids: Collection[int]) -> AsyncIterator[Progress]:
    """Show the progress of what is done in this context; the statuses come from the poll that the waits share."""
    shown = Progress(cli, what, order_ids)

    async def follow() -> None:
        with suppress(TrooperError):  # the waits themselves say so
            async for change in client.orders.watch(interval=_FOLLOWED_EVERY):
                shown.see(change.order)

    @asynccontextmanager
    async def followed() -> AsyncIterator[None]:
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

    with stoppable(cli.err), Live(shown, console=cli.err, refresh_per_second=8, transient=True):
        async with followed():
            yield shown


# watch ---------------------------------------------------------------------------------------------------------------


class _Board:
    """The servers as last seen; those on the way come first."""

    def __init__(self, height: int) -> None:
        self._height = height
        self._orders: dict[int, Order] = {}
        self._changed: dict[int, float] = {}

    def take(self, change: OrderChange, shown: bool) -> None:
        if shown and change.kind != "vanished":
            self._orders[change.order_id] = change.order
            if change.kind == "changed":
                self._changed[change.order_id] = time.monotonic()
        else:
            self._orders.pop(change.order_id, None)

    def __rich__(self) -> RenderableType:
        orders = sorted(self._orders.values(), key=lambda order: (order.is_converged, order.order_id))
        now = time.monotonic()

        def since(order: Order) -> str:
            then = self._changed.get(order.order_id)
            return "" if then is None else f"{span(now - then)} ago"

        columns = (*ORDERS, Column("changed", since))
        return Group(table_of(columns, orders), "", totals(orders), Text("Ctrl-C ends it", "dim"))


@command()
@filter_options
@click.option("--interval", type=SECONDS, default=5.0, show_default=True, help="Seconds between polls.")
async def watch(cli: Cli, interval: float, **filters: Unpack[Filters]) -> None:
    """Your servers as they change, until Ctrl-C.

    On a terminal a live table, else a line for each change. --json writes each change as one line of JSON.
    """
    from rich.live import Live

    board = _Board(cli.err.height)
    async with cli.client() as client, aclosing(client.orders.watch(interval=interval)) as changes:
        if cli.is_live and not cli.as_json:
            with stoppable(cli.err), Live(board, console=cli.err, refresh_per_second=4, vertical_overflow="ellipsis"):
                async for change in changes:
                    board.take(change, bool(select([change.order], **filters)))
        async for change in changes:
            if select([change.order], **filters):
                _tell(cli, change)


def _tell(cli: Cli, change: OrderChange) -> None:
    if cli.as_json:
        cli.has_result = True
        click.echo(to_json(change, indent=None))
        return
    text = Text(f"{time.strftime('%H:%M:%S')} order {change.order_id} ").append_text(cell(change.order.title))
    cli.result(None, text.append(f" {change.kind}: ").append_text(status(change.order)))
