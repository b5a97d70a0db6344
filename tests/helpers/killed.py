"""Processes that buy with a ledger, and are killed."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from contextlib import suppress
from pathlib import Path

from trooper_async._buying.ledger import Ledger
from trooper_async.testing import FakeTrooper


async def killed_run(fake: FakeTrooper, path: Path, count: int, after: float | None) -> str:
    """Let a process buy, and kill it that many seconds after it began to; None lets it end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.helpers.buyer", fake.url, fake.api_key, str(path), str(count)),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()) == b"ready\n"
    if after is not None:
        await asyncio.sleep(after)
        with suppress(ProcessLookupError):  # it has ended before
            process.send_signal(signal.SIGKILL)
    out = (await process.stdout.read()).decode()
    await process.wait()
    return out


async def kill_and_count(path: Path, kills: int, rng: random.Random, count: int = 30) -> tuple[int, int, int]:
    """(servers bought, purchases recorded, jobs) after a process was killed so many times and then ended."""
    async with FakeTrooper() as fake:
        for _ in range(kills):
            await killed_run(fake, path, count, rng.uniform(0.0, 0.15))
        await killed_run(fake, path, count, None)
        ledger = Ledger(path)
        entries = [record.purchase for record in ledger.records.values() if record.purchase.state != "refused"]
        ledger.close()
        async with fake.client() as client:
            orders = {order.order_id for order in await client.orders.list()}
        bought = {purchase.order_id for purchase in entries if purchase.state == "bought"}
        assert bought <= orders, "nothing is recorded as bought that is not there"
        assert len(orders - bought) <= sum(purchase.state != "bought" for purchase in entries), "unrecorded"
        return len(orders), len(entries), count
