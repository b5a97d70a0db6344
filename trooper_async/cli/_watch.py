"""`trooper watch`: the servers as they change, until Ctrl-C."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import Unpack

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from trooper_async import Order, OrderChange
from trooper_async._groups.selection import select
from trooper_async.cli._cli import Cli
from trooper_async.cli._command import SECONDS, Filters, command, filter_options
from trooper_async.cli._json import to_json
from trooper_async.cli._tables import orders_table, totals
from trooper_async.cli._text import cell, span, status


class _Board:
    """The servers as last seen; what is on its way comes first."""

    def __init__(self) -> None:
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
        since = {order_id: f"{span(now - then)} ago" for order_id, then in self._changed.items()}
        return Group(orders_table(orders, since), totals(orders), Text("Ctrl-C ends it", "dim"))


@command()
@filter_options
@click.option("--interval", type=SECONDS, default=5.0, show_default=True, help="Seconds between looks.")
async def watch(cli: Cli, interval: float, **filters: Unpack[Filters]) -> None:
    """Your servers as they change, until Ctrl-C.

    On a terminal a live table, else a line for each change. --json writes each change as one line of JSON.
    """
    board = _Board()
    is_live = cli.console.is_terminal and not cli.console.is_dumb_terminal and not cli.as_json
    async with cli.client() as client, aclosing(client.orders.watch(interval=interval)) as changes:
        if is_live:
            with Live(board, console=cli.console, refresh_per_second=4, vertical_overflow="ellipsis"):
                async for change in changes:
                    board.take(change, bool(select([change.order], **filters)))
        async for change in changes:
            if select([change.order], **filters):
                _tell(cli, change)


def _tell(cli: Cli, change: OrderChange) -> None:
    if cli.as_json:
        click.echo(to_json(change, indent=None))
        return
    said = Text(f"{time.strftime('%H:%M:%S')} order {change.order_id} ").append_text(cell(change.order.title))
    cli.say(said.append(f" {change.kind}: ").append_text(status(change.order)))
