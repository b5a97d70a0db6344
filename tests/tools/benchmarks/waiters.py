"""The waiters: the cost of one more in requests, in memory, in each tick, and of its start and end."""

from __future__ import annotations

import asyncio
import gc
import random
import time
import tracemalloc
from contextlib import suppress
from typing import Any

from tests.tools.benchmarks.body import body, encode, ids, row
from tests.tools.benchmarks.measure import Figure, tidy
from tests.tools.benchmarks.poll import polling
from tests.tools.benchmarks.server import tagged
from tests.tools.simulator.clock import run
from tests.tools.simulator.script import Script
from trooper_async import OrderStatus, Transition
from trooper_async._api.endpoints import Call
from trooper_async._api.responses import Response


def stopped(order_id: int) -> Transition:
    """An accepted stop."""
    return Transition(order_id, "stop", OrderStatus.stopped)


def gets(waiters: int, orders: int, seed: int) -> int:
    """GETs in ten minutes with so many waiters, on virtual time."""
    random.seed(seed)  # the schedule's jitter
    answer = Response(200, {}, body(orders))
    script = Script(lambda _: answer)

    async def wait() -> int:
        async with script.client() as client:
            waits = [
                asyncio.create_task(client.orders.wait(stopped(ids(orders)[number % orders]), timeout=None))
                for number in range(waiters)
            ]
            await asyncio.sleep(600)
            await _cancelled(waits)
        return len(script.polls)

    return run(wait())


def memory(waiters: int, *, fleet: bool) -> float:
    """Bytes of one more wait: awaited, with its task; or one of a fleet, with everything the run knows of it."""
    order_ids = ids(waiters)
    listed = Response(200, {}, body(waiters))

    async def accepts(call: Call[Any]) -> Response:
        return Response(200, {}, b'{"success": true}')

    async def measure() -> float:
        async with Script(lambda _: listed, accepts).client() as client:
            first = asyncio.create_task(client.orders.wait(stopped(order_ids[0]), timeout=None))
            await asyncio.sleep(5)
            gc.collect()
            tracemalloc.start()
            before, _ = tracemalloc.get_traced_memory()
            waits: list[asyncio.Task[Any]]
            if fleet:
                waits = [asyncio.create_task(client.fleet.stop(order_ids, force=True))]
            else:
                waits = [asyncio.create_task(client.orders.wait(stopped(order_id))) for order_id in order_ids]
            await asyncio.sleep(60)  # all are sent, and have seen some polls
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            await _cancelled([first, *waits])
            return (after - before) / waiters

    return run(measure())


def coming_and_going(waiters: int) -> dict[str, float]:
    """CPU seconds to register so many waiters and show each its order once, to finish them, and to cancel them."""
    running = Response(200, {}, body(waiters))
    ended = Response(200, {}, encode([row(order_id, "stopped") for order_id in ids(waiters)]))
    found = {}

    async def live(cancel: bool) -> None:
        shown = running
        async with Script(lambda _: shown).client() as client:
            tidy()
            began = time.process_time()
            waits = [asyncio.create_task(client.orders.wait(stopped(order_id))) for order_id in ids(waiters)]
            await asyncio.sleep(0.5)  # of virtual time: one poll
            found["registered"] = time.process_time() - began
            tidy()
            began = time.process_time()
            if cancel:
                await _cancelled(waits)
                found["cancelled"] = time.process_time() - began
            else:
                shown = ended
                await asyncio.gather(*waits)
                found["ended"] = time.process_time() - began

    run(live(cancel=True))
    run(live(cancel=False))
    return found


def bare_tasks(tasks: int) -> dict[str, float]:
    """For comparison: CPU seconds to start and to cancel as many idle tasks, each with a timeout."""
    found = {}

    async def wait() -> None:
        async with asyncio.timeout(900):
            await asyncio.get_running_loop().create_future()

    async def live() -> None:
        tidy()
        began = time.process_time()
        waits = [asyncio.create_task(wait()) for _ in range(tasks)]
        await asyncio.sleep(0.5)
        found["registered"] = time.process_time() - began
        tidy()
        began = time.process_time()
        await _cancelled(waits)
        found["cancelled"] = time.process_time() - began

    run(live())
    return found


async def _cancelled(waits: list[asyncio.Task[Any]]) -> None:
    for wait in waits:
        wait.cancel()
    for wait in waits:
        with suppress(asyncio.CancelledError):
            await wait


async def tick(url: str, orders: int, waiters: int, polls: int) -> float:
    """CPU seconds of a tick without changes."""
    async with polling(url + tagged(orders), orders, waiters) as ours:
        await ours.first()
        await ours.next(polls // 10)
        return await ours.next(polls)


def virtual_figures(*, waiters: int, runs: int) -> list[Figure]:
    """The figures on virtual time, which has its own event loop."""
    few = waiters // 10
    for fleet in (False, True):
        memory(10, fleet=fleet)  # objects made on first use
    coming_and_going(10)
    numbers = [gets(waiters, 100, seed) / gets(1, 100, seed) for seed in range(runs)]
    awaited = [memory(waiters, fleet=False) / 1024 for _ in range(runs)]
    of_a_fleet = [memory(waiters, fleet=True) / 1024 for _ in range(runs)]
    lives = [(coming_and_going(few), coming_and_going(waiters)) for _ in range(runs)]
    bare = [(bare_tasks(few), bare_tasks(waiters)) for _ in range(runs)]
    return [
        Figure(f"GETs of {waiters:,} waiters ÷ of 1", numbers, 1.0),
        Figure("memory of one more wait that is awaited, its task counted", awaited, 2.4, unit="KiB"),
        Figure("memory of one more wait of a fleet, everything counted", of_a_fleet, 1.3, unit="KiB"),
        Figure("requests of 200 waits for one offer in 6 s", [shared(200)] * runs, 7, unit="GETs"),
        *(
            Figure(f"{waiters:,} waiters {what} ÷ {few:,}", [many[what] / less[what] for less, many in lives], 10.5)
            for what in ("registered", "ended", "cancelled")
        ),
        *(
            Figure(f"peer: {waiters:,} bare tasks {what} ÷ {few:,}", [many[what] / less[what] for less, many in bare])
            for what in ("registered", "cancelled")
        ),
    ]


def shared(waits: int) -> float:
    """The requests of so many waits for one offer that time out after six seconds."""

    async def offers(call: Call[Any]) -> Response:
        return Response(200, {}, b'[{"id": 1, "is_available": false}]')

    script = Script(lambda _: [], offers)

    async def live() -> None:
        async with script.client() as client:
            waiting = (client.blibs.wait_until_available(1, timeout=6) for _ in range(waits))
            await asyncio.gather(*waiting, return_exceptions=True)

    run(live())
    return len(script.sent)


async def figures(url: str, *, waiters: int, runs: int) -> list[Figure]:
    ticks = [(await tick(url, 100, 1, 1_000), await tick(url, 100, waiters, 1_000)) for _ in range(runs)]
    return [Figure(f"tick with nothing changed, {waiters:,} waiters ÷ 1", [many / one for one, many in ticks], 1.1)]
