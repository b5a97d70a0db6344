"""The plots' figures: a tick of all waits against the number of orders, and memory against the number of waiters.

    python -m tests.tools.benchmarks.curves ours|aiohttp|httpx|hcloud|accounts COUNT URL

prints the MiB that so many waits, or clients with a wait each, add to a process of their own.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from tests.tools.benchmarks import peers
from tests.tools.benchmarks.body import ids
from tests.tools.benchmarks.measure import cpu, resident_mib, tidy
from tests.tools.benchmarks.plots import OURS, plot
from tests.tools.benchmarks.poll import polling
from tests.tools.benchmarks.server import plain
from tests.tools.benchmarks.waiters import stopped
from trooper_async import PollSchedule, TrooperClient

_MOST_GETS = 300
"""Where each server is asked for on its own: with more, a run takes minutes."""
_MOST_THREADS = 3_000
_POLL = PollSchedule(floor=0.1, cap=1.0)
_PAGE = 1 / 256
"""MiB; what fits into pages that were there before shows as nothing."""
ORDERS_OF_AN_ACCOUNT = 100
_LOOP = "aiohttp + json + cattrs, a loop per server"


async def tick_costs(url: str, orders: int) -> dict[str, float]:
    """CPU milliseconds of one tick in which every order is waited for, and 1 % has changed."""
    at = url + plain(orders, 0.01)
    times = max(2, min(20, 20_000 // orders))
    found = {}
    async with polling(at, orders, orders) as ours:
        await ours.first()
        found[OURS] = await ours.next(times)
    async with AsyncExitStack() as stack:
        shared = await stack.enter_async_context(peers.aiohttp_cattrs(at))
        polls = {
            "one GET, aiohttp + orjson, dicts only": await stack.enter_async_context(peers.read_and_orjson(at)),
            "one GET, aiohttp + json + cattrs": shared,
            "one GET, httpx + pydantic": await stack.enter_async_context(peers.httpx_pydantic(at)),
        }
        for name, poll in polls.items():
            await poll()
            found[name] = await cpu(poll, times)
        if orders <= _MOST_GETS:
            loops = await stack.enter_async_context(peers.loop_per_server(shared, orders))
            found[_LOOP] = await cpu(loops)
        if orders <= 10 * _MOST_GETS:
            found["hcloud, an action per server"] = await cpu(
                await stack.enter_async_context(peers.hcloud_polls(url, orders))
            )
    return {name: 1000 * seconds for name, seconds in found.items()}


async def memory_of(way: str, count: int, url: str) -> float:
    """MiB that so many waits, or accounts, add to a new process."""
    command = ("-m", "tests.tools.benchmarks.curves", way, str(count), url)
    worker = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    output, _ = await worker.communicate()
    if worker.returncode:
        raise RuntimeError(f"the process of {count} {way} ended with {worker.returncode}")
    return float(output)


async def draw(url: str, folder: Path, *, orders: Sequence[int], waiters: Sequence[int]) -> None:
    """Measure both, and draw them into the folder."""
    ticks: dict[str, list[tuple[int, float]]] = {}
    for number in orders:
        for name, cost in (await tick_costs(url, number)).items():
            ticks.setdefault(name, []).append((number, cost))
    plot(
        ticks,
        folder / "bench-poll.svg",
        title="One tick of the waits for all orders, 1 % of them changed",
        x="orders, each waited for",
        y="CPU, ms",
    )
    memory: dict[str, list[tuple[int, float]]] = {}
    ways = {
        "ours": OURS,
        "aiohttp": _LOOP,
        "httpx": "httpx + pydantic, a loop per server",
        "hcloud": "hcloud, a thread each",
    }
    for number in waiters:
        for way, name in ways.items():
            if way != "hcloud" or number <= _MOST_THREADS:
                memory.setdefault(name, []).append((number, max(_PAGE, await memory_of(way, number, url))))
    plot(
        memory,
        folder / "bench-memory.svg",
        title="Memory of waits for one order each, tasks and threads counted",
        x="waiters",
        y="MiB more than before the first",
    )


async def _ours(url: str, waiters: int) -> float:
    async with TrooperClient(peers.KEY, base_url=url + plain(10, 0.0), poll=_POLL) as client:
        await client.orders.list()
        order_ids = ids(10)
        tidy()
        before = resident_mib()
        waits = [asyncio.create_task(client.orders.wait(stopped(order_ids[n % 10]))) for n in range(waiters)]
        await asyncio.sleep(0.5 + waiters / 20_000)  # some polls
        after = resident_mib()
        await client.close()
        await asyncio.gather(*waits, return_exceptions=True)
        return after - before


async def _accounts(url: str, accounts: int) -> float:
    """As many clients, each with its own account and one wait."""
    at, order_id = url + plain(ORDERS_OF_AN_ACCOUNT, 0.01), ids(1)[0]
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(TrooperClient(peers.KEY, base_url=at)) for _ in range(accounts + 1)]
        await clients.pop().orders.list()
        tidy()
        before = resident_mib()
        waits = [asyncio.create_task(client.orders.wait(stopped(order_id))) for client in clients]
        await asyncio.sleep(1.5)  # some polls of each
        after = resident_mib()
    await asyncio.gather(*waits, return_exceptions=True)
    return after - before


async def _loops(url: str, waiters: int, way: str) -> float:
    """One loop per server: `while it has not stopped: sleep; GET; check`, all of them sleeping."""
    at, order_ids = url + plain(10, 0.0), ids(10)
    async with peers.aiohttp_cattrs(at) if way == "aiohttp" else peers.httpx_pydantic(at) as poll:

        async def wait(order_id: int) -> None:
            status = ""
            while status != "stopped":
                await asyncio.sleep(3_600)
                servers = await poll()
                status = next(server.status for server in servers if server.order_id == order_id)

        await poll()
        tidy()
        before = resident_mib()
        waits = [asyncio.create_task(wait(order_ids[n % 10])) for n in range(waiters)]
        await asyncio.sleep(0.5)
        after = resident_mib()
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        return after - before


def _threads(url: str, waiters: int) -> float:
    """Hetzner's client waits in one thread per wait; they sleep after their first GET."""
    actions = peers.hcloud_actions(url, waiters)
    actions[0].reload()
    tidy()
    before = resident_mib()
    for action in actions:
        threading.Thread(target=action.wait_until_finished, daemon=True).start()
    while any(action.started is None for action in actions):
        threading.Event().wait(0.1)
    return resident_mib() - before


def _memory(way: str, count: int, url: str) -> float:
    match way:
        case "ours":
            return asyncio.run(_ours(url, count))
        case "accounts":
            return asyncio.run(_accounts(url, count))
        case "hcloud":
            return _threads(url, count)
    return asyncio.run(_loops(url, count, way))


if __name__ == "__main__":
    print(_memory(sys.argv[1], int(sys.argv[2]), sys.argv[3]), flush=True)
