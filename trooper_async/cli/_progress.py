"""What is shown while several servers are waited for: live on a terminal, else a line for each that has ended."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trooper_async import Order, TrooperClient, TrooperError
from trooper_async.cli._cli import Cli
from trooper_async.cli._errors import reason
from trooper_async.cli._text import cell, span, status, status_style

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
        """An order has ended: as an order that is where it was wanted, or with an error."""
        if isinstance(result, TrooperError):
            self._failed += 1
            told = Text("failed: ", "red").append(reason(result), "default")
        else:
            told = status(result) if result is not None else Text("accepted")
            told.append(f" ({span(seconds)})", "dim")
        self._ended[order_id] = told
        if not self._cli.console.is_terminal:
            count = f"[{len(self._ended)}/{len(self._orders)}] order {order_id}: "
            self._cli.say(Text(count).append_text(told))

    def see(self, order: Order) -> None:
        """An order was seen on its way."""
        if order.order_id in self._orders:
            self._orders[order.order_id] = order

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
    """Show the progress of what is done in this context; the statuses come with the poll that the waits share."""
    shown = Progress(cli, what, order_ids)
    if not cli.console.is_terminal or cli.console.is_dumb_terminal:
        yield shown
        return

    async def follow() -> None:
        with suppress(TrooperError):  # the waits themselves say so
            async for change in client.orders.watch(interval=_FOLLOWED_EVERY):
                shown.see(change.order)

    with Live(shown, console=cli.console, refresh_per_second=8, transient=True):
        follower = asyncio.create_task(follow(), name="trooper progress")
        try:
            yield shown
        finally:
            follower.cancel()
            await asyncio.wait([follower])
