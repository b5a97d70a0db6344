"""A program that rents a server for a job without end: `python rented_job.py URL KEY LOOP` (asyncio or uvloop)."""

from __future__ import annotations

import asyncio
import sys

from trooper_async import Blib, PollSchedule, TrooperClient


async def main(url: str, key: str) -> None:
    async with TrooperClient(key, base_url=url, poll=PollSchedule(floor=0.02, cap=0.1)) as client:
        offer = next(iter(await client.blibs.list()), Blib(1))
        async with client.orders.rented(offer, contract_interval="HOUR", terms_accepted=True) as order:
            print(f"working on order {order.order_id}", flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    job, loop = main(sys.argv[1], sys.argv[2]), sys.argv[3]
    if loop == "uvloop":
        import uvloop

        uvloop.run(job)
    else:
        asyncio.run(job)
