"""What durable workflows cost: a night of 120 servers over three accounts, and 5,000 waits in one process.

    python -m tests.tools.night [--servers 120] [--waits 5000]

Both run on SQLite; the fake API is in another process. In the night every server is stopped, and later started again.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

from dbos import DBOS, SetWorkflowID, WorkflowHandleAsync

from tests.tools.benchmarks.measure import resident_mib
from tests.tools.benchmarks.server import in_a_process
from trooper_async import FleetReport, TrooperClient, durable
from trooper_async.testing import FakeTrooper

_KEY = "night-key"
_ACCOUNTS = 3


async def serve(orders: int, seconds: float) -> None:
    """The fake API of one account."""
    async with FakeTrooper(api_key=_KEY, durations={"stop": seconds, "start": seconds}) as fake:
        for _ in range(orders):
            fake.add_order()
        print(fake.url, flush=True)
        await asyncio.Event().wait()


@asynccontextmanager
async def application(urls: list[str], file: Path) -> AsyncIterator[None]:
    async with durable.embedded(lambda account: TrooperClient(_KEY, base_url=urls[int(account)]), file):
        yield


async def night(urls: list[str], servers: int, *, each: bool) -> None:
    """Stop and start all servers: as one fleet per account, or `each` by its own workflow."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "night.sqlite")
        async with application(urls, file):
            orders = {str(number): await order_ids(url) for number, url in enumerate(urls)}
            cpu, began = time.process_time(), time.monotonic()
            for status, action in (("stopped", "stop"), ("running", "start")):
                if each:
                    work: list[Awaitable[object]] = [
                        run(f"{action} {account} {order}", durable.switch, account, order, action)
                        for account in orders
                        for order in orders[account]
                    ]
                else:
                    work = [
                        run(f"{action} {account}", durable.converge, account, dict.fromkeys(orders[account], status))
                        for account in orders
                    ]
                results = await asyncio.gather(*work)
                reports = [] if each else [FleetReport.from_json(str(text)) for text in results]
                assert sum(len(report.succeeded) for report in reports) == servers or results == [status] * servers
            cpu, seconds = time.process_time() - cpu, time.monotonic() - began
        rows, size = stored(file)
    how = "a workflow for each server" if each else "a fleet for each account"
    print(f"{servers} servers, {how}: {cpu:.1f} s of processor in {seconds:.0f} s, {rows:,} rows, {size / 1e6:.2f} MB")


async def waits(url: str, number: int) -> None:
    """So many workflows that wait, and what a minute of it costs."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "waits.sqlite")
        async with application([url], file):
            orders = await order_ids(url)
            memory, cpu, began = resident_mib(), time.process_time(), time.monotonic()
            await asyncio.gather(*(begin(str(order), durable.switch, "0", order, "stop") for order in orders))
            for order in orders:  # its wait has begun
                await DBOS.get_event_async(str(order), "progress", 600)
            memory, cpu, seconds = resident_mib() - memory, time.process_time() - cpu, time.monotonic() - began
            print(f"{number:,} waits: begun with {cpu:.0f} s of processor in {seconds:.0f} s, {memory:.0f} MB more")
            cpu = time.process_time()
            await asyncio.sleep(60)
            print(f"  a minute of waiting: {time.process_time() - cpu:.1f} s of processor")
        rows, size = stored(file)
        print(f"  {rows:,} rows, {size / 1e6:.1f} MB")


async def begin(
    name: str, workflow: Callable[..., Coroutine[Any, Any, Any]], *args: object
) -> WorkflowHandleAsync[Any]:
    with SetWorkflowID(name):
        return await DBOS.start_workflow_async(workflow, *args)


async def run(name: str, workflow: Callable[..., Coroutine[Any, Any, Any]], *args: object) -> object:
    return await (await begin(name, workflow, *args)).get_result()


async def order_ids(url: str) -> list[int]:
    async with TrooperClient(_KEY, base_url=url) as client:
        return [order.order_id for order in await client.orders.list()]


def stored(file: Path) -> tuple[int, int]:
    """The rows of all tables that work has written, and the bytes of the database."""
    with closing(sqlite3.connect(file)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        counts = {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}
    return sum(count for name, count in counts.items() if not name.endswith("migrations")), file.stat().st_size


async def main(servers: int, number: int) -> None:
    async with AsyncExitStack() as stack:
        share = servers // _ACCOUNTS
        command = ("tests.tools.night", "--serve")
        urls = [await stack.enter_async_context(in_a_process(*command, str(share), "3")) for _ in range(_ACCOUNTS)]
        await night(urls, servers, each=False)
        await night(urls, servers, each=True)
    async with in_a_process(*command, str(number), "3600") as url:
        await waits(url, number)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.tools.night", description=__doc__)
    parser.add_argument("--servers", type=int, default=120, help="of the night (%(default)s)")
    parser.add_argument("--waits", type=int, default=5000, help="at once (%(default)s)")
    parser.add_argument("--serve", nargs=2, type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    asyncio.run(serve(int(given.serve[0]), given.serve[1]) if given.serve else main(given.servers, given.waits))
