"""Processes that buy with a ledger, and are killed."""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path

from tests.helpers import buyer, processes
from tests.helpers.conditions import until
from trooper_async._buying.ledger import Ledger
from trooper_async.testing import FakeTrooper


async def killed_run(fake: FakeTrooper, path: Path, count: int, after: int | None, rng: random.Random) -> None:
    """Let a process buy, and kill it at some moment after so many of its requests; None lets it end."""
    before = len(fake.requests)
    async with processes.python(buyer.__file__, fake.url, fake.api_key, path, str(count)) as child:
        if after is None:
            assert await child.ends() == 0, child.err
        else:
            await until(lambda: len(fake.requests) - before >= after or not child.running)
            await asyncio.sleep(rng.uniform(0, 0.004))
            if child.running:
                child.send(signal.SIGKILL)
            await child.ends()


async def kill_and_count(path: Path, kills: int, rng: random.Random, count: int = 20) -> tuple[int, int, int]:
    """(servers bought, purchases recorded, jobs) after a process was killed so many times and then ended."""
    async with FakeTrooper() as fake:
        for _ in range(kills):
            await killed_run(fake, path, count, rng.randrange(2, 12), rng)
        await killed_run(fake, path, count, None, rng)
        ledger = Ledger(path)
        found = [record.purchase for record in ledger.records.values() if record.purchase.state != "refused"]
        ledger.close()
        async with fake.client() as client:
            orders = {order.order_id for order in await client.orders.list()}
        bought = {purchase.order_id for purchase in found if purchase.state == "bought"}
        assert bought <= orders, "nothing is recorded as bought that is not there"
        assert len(orders - bought) <= sum(purchase.state != "bought" for purchase in found), "unrecorded"
        return len(orders), len(found), count
