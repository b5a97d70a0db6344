"""Stopping a whole fleet on the fake server, each method in a separate process.

    python -m tests.tools.benchmarks.fleet fake ORDERS LATENCY
    python -m tests.tools.benchmarks.fleet ours|sent|gather|bare ORDERS URL

`ours` is `client.fleet.stop`, `sent` the same with `wait=False`; `gather` a plain gather of `stop_and_wait`; `bare`
the same requests by aiohttp alone, with the same number under way, and without a wait.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TypedDict

import aiohttp

from tests.tools.benchmarks.body import ids
from tests.tools.benchmarks.measure import Figure, peak_mib
from tests.tools.benchmarks.server import in_a_process
from trooper_async import FleetProgress, TrooperClient
from trooper_async.testing import FakeTrooper

_AT_ONCE = 16
_KEY = "benchmark-key"
_STOPPING = 1.0
"""Seconds that a stop takes."""
_LATENCY = 0.01
"""Seconds, as of a server that is not far: on loopback there is none, and what counts is CPU alone."""


class Measured(TypedDict):
    """The measured cost of one method."""

    sending: float
    """Seconds from the first request that switches a server to the last."""
    seconds: float
    """Seconds in all."""
    mib: float
    """Peak memory above that at the start."""


async def _fake(orders: int, latency: float) -> None:
    async with FakeTrooper(api_key=_KEY, durations={"stop": _STOPPING}) as fake:
        for order_id in ids(orders):
            fake.add_order(order_id=order_id, server_id=order_id)  # the requests of the bare method
        if latency:
            fake.delay_next("/api/order-status", latency, times=orders)
        print(fake.url, flush=True)
        await asyncio.Event().wait()


async def _ours(client: TrooperClient, order_ids: list[int], *, wait: bool) -> float:
    times: list[float] = []

    def note(progress: FleetProgress) -> None:
        if progress.latest.sent is None:
            times.append(time.perf_counter())

    report = await client.fleet.stop(order_ids, concurrency=_AT_ONCE, wait=wait, on_progress=note)
    report.raise_for_failures()
    return times[-1] - times[0]


async def _gather(client: TrooperClient, order_ids: list[int]) -> float:
    began = time.perf_counter()
    await asyncio.gather(*(client.orders.stop_and_wait(order_id) for order_id in order_ids))
    return time.perf_counter() - began


async def _bare(url: str, order_ids: list[int]) -> float:
    waiting = iter(order_ids)
    headers = {"Authorization": f"Bearer {_KEY}"}
    began = time.perf_counter()
    async with aiohttp.ClientSession(headers=headers) as session:

        async def work() -> None:
            for order_id in waiting:
                sent = {"serverId": order_id, "action": "stopped"}
                async with session.post(f"{url}/api/order-status", json=sent, raise_for_status=True) as response:
                    assert (await response.json())["success"]

        await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
    return time.perf_counter() - began


async def _measure(way: str, orders: int, url: str) -> Measured:
    order_ids = list(ids(orders))
    async with TrooperClient(_KEY, base_url=url, max_concurrency=_AT_ONCE) as client:
        before, began = peak_mib(), time.perf_counter()
        match way:
            case "ours" | "sent":
                sending = await _ours(client, order_ids, wait=way == "ours")
            case "gather":
                sending = await _gather(client, order_ids)
            case _:
                sending = await _bare(url, order_ids)
        return Measured(sending=sending, seconds=time.perf_counter() - began, mib=peak_mib() - before)


async def measured(way: str, orders: int, latency: float = 0.0) -> Measured:
    """One method, on its own fake server, which responds to a stop after so many seconds."""
    async with in_a_process("tests.tools.benchmarks.fleet", "fake", str(orders), str(latency)) as url:
        command = ("-m", "tests.tools.benchmarks.fleet", way, str(orders), url)
        worker = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
        output, _ = await worker.communicate()
    if worker.returncode:
        raise RuntimeError(f"the fleet's process ended with {worker.returncode}")
    figures: Measured = json.loads(output)
    return figures


async def figures(*, orders: int, runs: int) -> list[Figure]:
    every = [{way: await measured(way, orders) for way in ("bare", "ours", "sent", "gather")} for _ in range(runs)]
    far = [{way: await measured(way, orders, _LATENCY) for way in ("bare", "ours")} for _ in range(runs)]
    of = f"fleet of {orders:,}"
    rate = f"{of} stops, requests a second ÷ a bare aiohttp loop"
    return [
        Figure(f"{rate}, on loopback", [_rate(run, "ours") for run in every], 0.85, at_least=True),
        Figure("the same, sent without a wait, as the bare loop does", [_rate(run, "sent") for run in every]),
        Figure(
            f"{rate}, responses after {1000 * _LATENCY:.0f} ms",
            [_rate(run, "ours") for run in far],
            0.98,
            at_least=True,
        ),
        Figure(f"{of}, fleet.stop: time in all", [run["ours"]["seconds"] for run in every], unit="s"),
        Figure(f"{of}, fleet.stop: peak memory", [run["ours"]["mib"] for run in every], unit="MiB"),
        Figure(f"{of}, plain gather: time in all", [run["gather"]["seconds"] for run in every], unit="s"),
        Figure(f"{of}, plain gather: peak memory", [run["gather"]["mib"] for run in every], unit="MiB"),
        Figure(f"{of}, bare loop, no wait: time in all", [run["bare"]["seconds"] for run in every], unit="s"),
    ]


def _rate(run: dict[str, Measured], way: str) -> float:
    return run["bare"]["sending"] / run[way]["sending"]


if __name__ == "__main__":
    if sys.argv[1] == "fake":
        asyncio.run(_fake(int(sys.argv[2]), float(sys.argv[3])))
    else:
        print(json.dumps(asyncio.run(_measure(sys.argv[1], int(sys.argv[2]), sys.argv[3]))))
