"""Workers forked from a parent process, like Celery's; each gets the same job, with the same reference. With `before`,
the client is made before the fork, and shared by mistake; with `after`, each worker makes its own.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys

from trooper_async import PollSchedule, TrooperClient, TrooperError


def new_client() -> TrooperClient:
    return TrooperClient(ledger=sys.argv[2], poll=PollSchedule(floor=0.05, cap=1.0))


made_before = new_client() if sys.argv[1] == "before" else None


async def order() -> int:
    async with made_before or new_client() as client:
        offer = (await client.blibs.list())[0]
        bought = await client.orders.create(offer, contract_interval="HOUR", terms_accepted=True, reference="job-7")
        return bought.order_id


def work(_: int) -> str:
    try:
        return f"order {asyncio.run(order())}"
    except TrooperError as error:
        return f"refused: {error}"


if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for result in pool.map(work, range(2), chunksize=1):
            print(result)
    if made_before is not None:
        asyncio.run(made_before.close())
