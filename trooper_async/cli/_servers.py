"""`trooper ps`, `rename`, `lock`, `unlock` and `ping`: a request each."""

from __future__ import annotations

import time
from typing import Unpack

import click

from trooper_async._groups.selection import select
from trooper_async.cli._cli import Cli
from trooper_async.cli._command import Filters, command, filter_options, order_id
from trooper_async.cli._tables import orders_table, totals
from trooper_async.cli._text import printable


@command()
@filter_options
async def ps(cli: Cli, **filters: Unpack[Filters]) -> None:
    """Your servers: where they are and where they are wanted, how to reach them, what they cost."""
    async with cli.client() as client:
        orders = select(await client.orders.list(), **filters)
    cli.result(orders, orders_table(orders), totals(orders))


@command()
@order_id
@click.argument("title")
async def rename(cli: Cli, order: int, title: str) -> None:
    """Give a server another title."""
    async with cli.client() as client:
        await client.orders.rename(order, title)
    cli.result({"order_id": order, "title": title}, f"order {order} is called {printable(title)}")


@command()
@order_id
async def lock(cli: Cli, order: int) -> None:
    """Lock a server against status changes."""
    async with cli.client() as client:
        await client.orders.lock(order)
    cli.result({"order_id": order, "is_locked": True}, f"order {order} is locked")


@command()
@order_id
async def unlock(cli: Cli, order: int) -> None:
    """Allow a locked server's status changes again."""
    async with cli.client() as client:
        await client.orders.unlock(order)
    cli.result({"order_id": order, "is_locked": False}, f"order {order} is not locked any more")


@command()
async def ping(cli: Cli) -> None:
    """Whether the API answers, and how fast. Needs no key."""
    async with cli.client(needs_key=False) as client:
        began = time.perf_counter()
        text = await client.ping()
        seconds = time.perf_counter() - began
    cli.result({"test": text, "seconds": round(seconds, 4)}, f"{printable(text)} ({1000 * seconds:.0f} ms)")
