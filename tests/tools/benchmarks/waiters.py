"""The waiters: what one more costs in requests, in memory, in each tick, and in coming and going."""

from __future__ import annotations

import asyncio
import gc
import random
import time
import tracemalloc
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from tests.tools.benchmarks.body import body, encode, ids, row
from tests.tools.benchmarks.measure import Figure, tidy
from tests.tools.benchmarks.poll import polling
from tests.tools.benchmarks.server import tagged
from tests.tools.simulator.clock import run
from tests.tools.simulator.script import Script
from trooper_async import OrderStatus, Transition
from trooper_async._api.responses import Response


def stopped(order_id: int) -> Transition:
    """A stop that was accepted."""
    return Transition(order_id, "stop", OrderStatus.stopped)


def gets(waiters: int, orders: int, seed: int) -> int:
    """GETs of ten minutes with so many waiters, on virtual time."""
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


def memory(waiters: int) -> float:
    """Bytes of one more waiter: its coroutines with their frames and all that they hold, without a task."""
    answer = Response(200, {}, body(10))
    script = Script(lambda _: answer)

    async def measure() -> float:
        async with script.client() as client:
            order_id = ids(10)[0]
            first = asyncio.create_task(client.orders.wait(stopped(order_id), timeout=None))
            await asyncio.sleep(5)
            for warm in [client.orders.wait(stopped(order_id)) for _ in range(100)]:
                warm.send(None)
                warm.close()
            gc.collect()
            tracemalloc.start()
            before, _ = tracemalloc.get_traced_memory()
            # Driven by hand up to where they wait, so that no task is counted that would have to be subtracted again.
            coroutines: list[Coroutine[Any, Any, object]] = [
                client.orders.wait(stopped(ids(10)[number % 10]), timeout=900.0) for number in range(waiters)
            ]
            for coroutine in coroutines:
                coroutine.send(None)
            await asyncio.sleep(5)  # they are told of some polls
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            for coroutine in coroutines:
                coroutine.close()
            await _cancelled([first])
            return (after - before) / waiters

    return run(measure())


def coming_and_going(waiters: int) -> dict[str, float]:
    """CPU seconds to register so many waiters and show each its order once, to end them well, and to cancel them."""
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
    """The peer: CPU seconds to start and to cancel as many tasks that only wait, each with a timeout."""
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
    """CPU seconds of a tick in which nothing changed."""
    async with polling(url + tagged(orders), orders, waiters) as ours:
        await ours.first()
        await ours.next(polls // 10)
        return await ours.next(polls)


def virtual_figures(*, waiters: int, runs: int) -> list[Figure]:
    """Those on virtual time, which has its own event loop."""
    few = waiters // 10
    memory(10)  # whatever is made on first use
    coming_and_going(10)
    numbers = [gets(waiters, 100, seed) / gets(1, 100, seed) for seed in range(runs)]
    sizes = [memory(waiters) for _ in range(runs)]
    lives = [(coming_and_going(few), coming_and_going(waiters)) for _ in range(runs)]
    bare = [(bare_tasks(few), bare_tasks(waiters)) for _ in range(runs)]
    return [
        Figure(f"GETs of {waiters:,} waiters ÷ of 1", numbers, 1.0),
        Figure("memory of one more waiter, its task not counted", [size / 1024 for size in sizes], 2.5, unit="KiB"),
        *(
            Figure(f"{waiters:,} waiters {what} ÷ {few:,}", [many[what] / less[what] for less, many in lives], 12.0)
            for what in ("registered", "ended", "cancelled")
        ),
        *(
            Figure(f"peer: {waiters:,} bare tasks {what} ÷ {few:,}", [many[what] / less[what] for less, many in bare])
            for what in ("registered", "cancelled")
        ),
    ]


async def figures(url: str, *, waiters: int, runs: int) -> list[Figure]:
    ticks = [(await tick(url, 100, 1, 1_000), await tick(url, 100, waiters, 1_000)) for _ in range(runs)]
    return [Figure(f"tick with nothing changed, {waiters:,} waiters ÷ 1", [many / one for one, many in ticks], 1.1)]
