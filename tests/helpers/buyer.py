"""A program that buys with a ledger, to be killed at any moment: `python buyer.py URL KEY LEDGER COUNT`.

It buys a server for each of `job-0` to `job-<COUNT - 1>`; what it has bought, or does not know of, it leaves alone.
"""

from __future__ import annotations

import asyncio
import sys

from trooper_async import PollSchedule, PurchaseUnknownError, TrooperClient


async def main(url: str, key: str, ledger: str, count: int) -> None:
    schedule = PollSchedule(floor=0.005, cap=0.01)
    async with TrooperClient(key, base_url=url, ledger=ledger, poll=schedule) as client:
        (blib, *_) = await client.blibs.list()
        for number in range(count):
            try:
                await client.orders.create(
                    blib, contract_interval="HOUR", terms_accepted=True, reference=f"job-{number}"
                )
            except PurchaseUnknownError:
                print(f"job-{number} is unknown", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
