"""`trooper wait`: for servers that are on their way, whoever sent them there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Unpack

import click

from trooper_async import Order, TrooperClient, TrooperError
from trooper_async.cli._cli import Cli
from trooper_async.cli._command import Filters, command, selection_options, timeout_option
from trooper_async.cli._errors import partly
from trooper_async.cli._progress import Progress, progress
from trooper_async.cli._select import check, chosen
from trooper_async.cli._tables import orders_table
from trooper_async.cli._text import count


@command()
@selection_options
@click.option("--until", metavar="STATUS", help="A status, such as running. By default: where each is wanted.")
@timeout_option
async def wait(
    cli: Cli,
    ids: Sequence[int],
    every: bool,
    until: str | None,
    timeout: float | None,
    **filters: Unpack[Filters],
) -> None:
    """Wait until servers are where they are wanted, or have a status (at most 900 s by default)."""
    check(ids, every, filters)
    async with cli.client() as client:
        orders = await chosen(cli, client, ids, every, filters, None)
        order_ids = [order.order_id if isinstance(order, Order) else order for order in orders]
        what = f"waiting for {count(len(orders), 'server')}"
        async with progress(cli, client, what, order_ids) as shown, asyncio.TaskGroup() as group:
            waits = [group.create_task(_one(client, order, until, timeout or 900.0, shown)) for order in order_ids]
    results = [wait.result() for wait in waits]
    there = [result for result in results if isinstance(result, Order)]
    failures = [result for result in results if isinstance(result, TrooperError)]
    cli.result(there, *([orders_table(there)] if there else []))
    if failures:
        raise partly(failures, len(results))


async def _one(
    client: TrooperClient, order: int, until: str | None, timeout: float, shown: Progress
) -> Order | TrooperError:
    began = time.monotonic()
    result: Order | TrooperError
    try:
        if until is None:
            result = await client.orders.wait_until_converged(order, timeout=timeout)
        else:
            result = await client.orders.wait_until(order, until, timeout=timeout)
    except TrooperError as error:
        result = error
    shown.end(order, result, time.monotonic() - began)
    return result
