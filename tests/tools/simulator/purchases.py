"""Purchases whose response is lost, on virtual time: what this client does, against what people's scripts do.

    python -m tests.tools.simulator.purchases --purchases 100000 --kills 200

In each case somebody buys one server; the response is lost, before the work was done or after; what was bought shows in
the list up to two minutes later, and other people buy on the same account. Then real processes that buy against the
fake server with a ledger on a real disk are killed with SIGKILL at random moments.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from decimal import Decimal
from multiprocessing import Pool
from pathlib import Path
from typing import Any

from attrs import define, evolve, field

from tests.helpers.killed import kill_and_count
from tests.tools.simulator.api import Api
from tests.tools.simulator.clock import run
from tests.tools.simulator.world import Settings, World
from trooper_async import APIConnectionError, Blib, PollSchedule, TrooperClient, TrooperError
from trooper_async._api.endpoints import Call
from trooper_async._api.responses import FailedAttempt, Failure, Response

BLIB = Blib(id=1, name="one", price_h=Decimal("0.85"))


@define(eq=False)
class LosingApi(Api):
    """Loses the response to the first purchase; `done` says whether it was carried out nevertheless."""

    done: bool = True
    lost: bool = False
    ours: list[int] = field(factory=list)
    """What was truly bought by us."""

    async def fetch(self, call: Call[Any], **options: Any) -> Response | FailedAttempt:
        if call.endpoint.path != "/api/order":
            return await Api.fetch(self, call, **options)
        if options.get("sending") is not None:
            options["sending"].may_have_left = True
        await asyncio.sleep(0.1)
        first, self.lost = not self.lost, True
        if not first or self.done:
            server = self.world.create(asyncio.get_running_loop().time())
            self.ours.append(server.order_id)
            if not first:
                return Response(200, {}, b'{"success": true, "orderId": %d}' % server.order_id)
        return FailedAttempt(Failure.LOST, APIConnectionError("the answer was lost or cut"))


@define
class Outcome:
    """The result for one wanted server."""

    double: bool
    unrecorded: bool
    """Bought, and nothing that the program keeps says so, or that it may be."""
    wrongly_claimed: bool
    """Somebody else's server taken for ours."""


async def ours(client: TrooperClient, api: LosingApi) -> Outcome:
    """`create` inside a careless retry on everything."""
    for _ in range(3):
        try:
            await client.orders.create(BLIB, contract_interval="HOUR", terms_accepted=True)
            break
        except TrooperError:
            await asyncio.sleep(1)
    known = client.orders.purchases
    claimed = {purchase.order_id for purchase in known if purchase.state == "bought"}
    unknown = sum(purchase.state == "unknown" for purchase in known)
    unrecorded = len(set(api.ours) - claimed) > unknown
    return Outcome(len(api.ours) > 1, unrecorded, not claimed <= set(api.ours))


async def _post(client: TrooperClient) -> int | None:
    """A script's own POST: the new order's id, or None if the response is lost."""
    from trooper_async._api.endpoints import ORDER, Call

    reply = await client._transport.wire.send(Call(ORDER, "a script", sent={"blib_id": 1}))
    if isinstance(reply, FailedAttempt):
        return None
    order_id = await client._transport.interpret(Call(ORDER, "a script"), reply)
    assert isinstance(order_id, int)
    return order_id


async def naive(client: TrooperClient, api: LosingApi) -> Outcome:
    """A retry until there is a response."""
    mine = None
    while mine is None:
        mine = await _post(client)
        await asyncio.sleep(1)
    return Outcome(len(api.ours) > 1, bool(set(api.ours) - {mine}), mine not in api.ours)


async def look_once(client: TrooperClient, api: LosingApi) -> Outcome:
    """The list before and after; a new order is taken for ours; without one, it is sent again."""
    before = {order.order_id for order in await client.orders.list()}
    mine = await _post(client)
    while mine is None:
        await asyncio.sleep(5)
        new = [order.order_id for order in await client.orders.list() if order.order_id not in before]
        mine = new[0] if new else await _post(client)
    return Outcome(len(api.ours) > 1, bool(set(api.ours) - {mine}), mine not in api.ours)


STRATEGIES: dict[str, Callable[[TrooperClient, LosingApi], Awaitable[Outcome]]] = {
    "trooper_async": ours,
    "naive retry": naive,
    "look once, then send again": look_once,
}


def simulate(case: tuple[str, str]) -> tuple[str, Outcome]:
    """One purchase by one strategy."""
    strategy, seed = case
    random.seed(seed)
    rng = random.Random(seed)

    async def main() -> Outcome:
        appears = rng.choice((0.0, 3.0, 30.0, 120.0))
        world = World(evolve(Settings.calm(), effect=appears), rng)
        world.add(asyncio.get_running_loop().time(), "running")
        api = LosingApi(world, done=rng.random() < 0.5)
        meddler: asyncio.Task[None] | None = None

        async def others() -> None:
            await asyncio.sleep(rng.uniform(0, 60))
            world.create(asyncio.get_running_loop().time())

        async with api.client(PollSchedule()) as client:
            if rng.random() < 0.3:
                meddler = asyncio.create_task(others())
            outcome = await STRATEGIES[strategy](client, api)
            if meddler is not None:
                meddler.cancel()
        return outcome

    return strategy, run(main())


def table(outcomes: list[tuple[str, Outcome]]) -> str:
    """Doubles, unrecorded and wrongly claimed by strategy."""
    counts = {strategy: Counter[str]() for strategy in STRATEGIES}
    for strategy, outcome in outcomes:
        counts[strategy].update(
            purchases=1, double=outcome.double, lost=outcome.unrecorded, wrong=outcome.wrongly_claimed
        )
    lines = [f"{'strategy':28} {'purchases':>10} {'bought twice':>13} {'unrecorded':>11} {'wrongly claimed':>16}"]
    for strategy, count in counts.items():
        lines.append(
            f"{strategy:28} {count['purchases']:10} {count['double']:13} {count['lost']:11} {count['wrong']:16}"
        )
    return "\n".join(lines)


async def killed(runs: int, seed: str) -> tuple[int, int, int]:
    """(kills, servers bought beyond one a job, purchases unrecorded) over real processes on a real file."""
    kills = double = unrecorded = 0
    rng = random.Random(seed)
    while kills < runs:
        with tempfile.TemporaryDirectory() as folder:
            servers, recorded, jobs = await kill_and_count(Path(folder) / "ledger", 10, rng)
        kills += 10
        double += max(0, servers - jobs)
        unrecorded += max(0, servers - recorded)
    return kills, double, unrecorded


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--purchases", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", default=str(int(time.time())))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    others = options.purchases // 10  # they only have to be compared
    cases = [("trooper_async", f"{options.seed}-{number}") for number in range(options.purchases)]
    cases += [(name, f"{options.seed}-{n}") for name in list(STRATEGIES)[1:] for n in range(others)]
    with Pool(os.cpu_count()) as pool:
        outcomes = pool.map(simulate, cases, chunksize=200)
    print(table(outcomes))
    wrong = [one for name, one in outcomes if name == "trooper_async" and one != Outcome(False, False, False)]
    double = unrecorded = 0
    if options.kills:
        kills, double, unrecorded = asyncio.run(killed(options.kills, options.seed))
        print(f"{kills} processes killed: bought twice {double}, unrecorded {unrecorded}")
    return bool(wrong or double or unrecorded)


if __name__ == "__main__":
    sys.exit(main())
