"""The main job in one go: order GPU servers, await them, start and stop them, several at once on one shared poll.

    python examples/quickstart.py

It talks to the embedded fake server: no key, no network, no money. With `--live --max-price-h 0.50` it does the same
with one real server of the account behind TROOPER_API_KEY, which costs money. However it ends, also by an error or
Ctrl-C, it freezes what it ordered, and prints the status of each server. Only a kill -9 leaves the server running.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal

from trooper_async import Blib, Order, TrooperClient, TrooperError
from trooper_async.testing import FakeTrooper

SECONDS = {"create": 1.0, "stop": 0.5, "freeze": 0.5, "start": 0.5, "thaw": 0.5, "migrate": 0.8, "restart": 0.5}


def reporter(name: str, began: float) -> Callable[[Order], None]:
    """Prints a line for each status that a server goes through."""

    def show(order: Order) -> None:
        wanted = f" (wanted: {order.desired_status})" if not order.is_converged else ""
        line = f"{name}: order {order.order_id} is {order.current_status}{wanted}"
        print(f"[{time.monotonic() - began:5.1f} s] {line}", flush=True)

    return show


async def one_server(client: TrooperClient, blib: Blib, name: str, began: float, max_price_h: Decimal | None) -> None:
    """A server's day: ordered, stopped, frozen, started again wherever there is room, restarted, frozen."""
    show = reporter(name, began)
    # on every way out of this block the server is frozen
    async with client.orders.rented(
        blib, contract_interval="HOUR", terms_accepted=True, max_price_h=max_price_h, reference=name, on_change=show
    ) as order:
        await client.orders.rename(order, name)
        await client.orders.stop_and_wait(order, on_change=show)
        await client.orders.freeze_and_wait(order, on_change=show)
        await client.orders.start_and_wait(order, migration_allowed=True, on_change=show)
        await client.orders.restart_and_wait(order, on_change=show)
        await client.orders.freeze_and_wait(order, on_change=show)


async def run(client: TrooperClient, servers: int, max_price_h: Decimal | None) -> None:
    """Order the cheapest offer so many times, and take all servers through their day at once."""
    began = time.monotonic()
    offers = [blib for blib in await client.blibs.list() if blib.is_available and blib.price_h is not None]
    if not offers:
        raise SystemExit("nothing is on offer now")
    blib = min(offers, key=lambda offer: offer.price_h or 0)
    print(f"the cheapest of {len(offers)} offers: {blib.name}, {blib.price_h} EUR per hour", flush=True)
    async with asyncio.TaskGroup() as group:
        jobs = [one_server(client, blib, f"server {number}", began, max_price_h) for number in range(1, servers + 1)]
        tasks = [group.create_task(job) for job in jobs]
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            print("freezing what was ordered, which can take a minute", flush=True)
            raise
    print(f"[{time.monotonic() - began:5.1f} s] all {servers} done")


async def on_the_fake() -> None:
    async with FakeTrooper(durations=SECONDS) as fake, fake.client() as client:
        await run(client, servers=3, max_price_h=None)
        polls = sum(request.path == "/api/orders" for request in fake.requests)
        print(f"{len(fake.requests)} requests, {polls} of them reads of the one list that all waits share")


async def live(max_price_h: Decimal) -> None:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # on Windows
            # however often: asyncio.run's own handler gives up at the second Ctrl-C, and nothing would be frozen
            loop.add_signal_handler(number, task.cancel)
    async with TrooperClient() as client:
        try:
            await run(client, servers=1, max_price_h=max_price_h)
        finally:
            await say_what_is_left(client)


async def say_what_is_left(client: TrooperClient) -> None:
    """Print the status of each ordered server, what it costs, and how to freeze it."""
    try:
        now = {order.order_id: order for order in await client.orders.find()}
    except TrooperError as error:
        print(error, file=sys.stderr)
        now = {}
    for purchase in client.orders.purchases:
        number, cost = purchase.order_id, f"running, it costs {purchase.price_h} EUR per hour"
        if number is not None:
            order = now.get(number)
            where = "somewhere" if order is None else f"{order.current_status}, to be {order.desired_status}"
            print(f"order {number} is {where}; {cost}: `trooper freeze {number}` freezes it")
        elif purchase.state != "refused":
            print(f"whether a server was ordered is unknown; {cost}: look at the account, and freeze it there")


def euros(text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of EUR") from None


def main() -> int:
    parser = argparse.ArgumentParser(description="Order, start and stop GPU servers, on the embedded fake server.")
    parser.add_argument("--live", action="store_true", help="use the real API and TROOPER_API_KEY: this costs money")
    parser.add_argument("--max-price-h", type=euros, help="with --live: the most that a server may cost, EUR per hour")
    options = parser.parse_args()
    if options.live and options.max_price_h is None:
        parser.error("--live needs --max-price-h")
    logging.basicConfig(format="%(message)s")  # the client warns of what it could not freeze or deliver
    status = 0
    try:
        try:
            asyncio.run(live(options.max_price_h) if options.live else on_the_fake())
        except* TrooperError as errors:
            print(*errors.exceptions, sep="\n", file=sys.stderr)
            status = 1
        else:
            status = 0
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted")
        status = 130
    return status


if __name__ == "__main__":
    raise SystemExit(main())
