"""The promises of the schedule, on virtual time: how soon a change is noticed, and how often histories are read."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from tests.tools.benchmarks.body import ids, row
from tests.tools.benchmarks.measure import Figure
from tests.tools.benchmarks.waiters import stopped
from tests.tools.simulator.clock import run
from tests.tools.simulator.script import Script, reply
from trooper_async import PollSchedule
from trooper_async._api.endpoints import Call
from trooper_async._api.responses import FailedAttempt, Response

_RESTART = 60.0


def latest_notice(waits: int, seed: int) -> float:
    """The latest notice of so many waits of 1 s to 90 min, as a share of max(floor, 10 % of the wait)."""
    random.seed(seed)  # the schedule's jitter
    rng = random.Random(seed)
    return max(run(_notice(5_400 ** rng.random())) for _ in range(waits))


async def _notice(seconds: float) -> float:
    loop = asyncio.get_running_loop()
    order_id, changes = ids(1)[0], loop.time() + seconds
    script = Script(lambda now: [row(order_id, "stopped" if now >= changes else "stopping", "stopped")])
    async with script.client() as client:
        await client.orders.wait(stopped(order_id), timeout=None)
    return (loop.time() - changes) / max(PollSchedule().floor, 0.1 * seconds)


def history_gets(restarts: int, seed: int) -> int:
    """GETs of the history for so many restarts of 60 s each."""
    random.seed(seed)

    async def restart() -> int:
        loop = asyncio.get_running_loop()
        sent: dict[int, float] = {}

        def orders(now: float) -> list[dict[str, Any]]:
            away = {order_id for order_id, at in sent.items() if now < at + _RESTART}
            return [
                row(order_id, "restarting" if order_id in away else "running", "running") for order_id in ids(restarts)
            ]

        async def others(call: Call[Any]) -> Response | FailedAttempt:
            await asyncio.sleep(0.05)
            sending = call.sent or {}
            if call.endpoint.method == "POST":
                order_id = sending["serverId"]
                assert isinstance(order_id, int)
                sent[order_id] = loop.time()
                return reply({"success": True, "status": "restarting"})
            at = sent.get(int(str(sending["order_id"])), loop.time())
            rows = [{"id": 1, "status_user": "running", "status_since": "2026-01-01T00:00:00Z"}]
            if loop.time() >= at + _RESTART:
                rows.append({"id": 2, "status_user": "running", "status_since": "2026-01-02T00:00:00Z"})
            return reply({"success": True, "history": rows})

        script = Script(orders, others)
        async with script.client() as client, asyncio.TaskGroup() as group:
            for order_id in ids(restarts):
                group.create_task(client.orders.restart_and_wait(order_id))
        return script.sent.count("/api/order-status-history")

    return run(restart())


def figures(*, restarts: int, waits: int, runs: int) -> list[Figure]:
    return [
        Figure(
            "latest notice of a change after waiting T ÷ max(floor, 10 % of T)",
            [latest_notice(waits, seed) for seed in range(runs)],
            1.0,
        ),
        Figure(
            f"history GETs for {restarts} restarts of 60 s each",
            [history_gets(restarts, seed) for seed in range(runs)],
            4.0 * restarts,
            unit="GETs",
        ),
    ]
