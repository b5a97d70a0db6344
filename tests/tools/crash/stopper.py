"""A worker for `tests.tools.crash.scale`: stops the orders it is given, waits, and works on until its input ends."""

from __future__ import annotations

import asyncio
import json
import sys
import time

from trooper_async import PollSchedule, TrooperClient
from trooper_async.durable import Durable


async def main() -> None:
    work = json.loads(await asyncio.to_thread(sys.stdin.readline))
    tick = PollSchedule(floor=work["tick"], cap=work["tick"])

    def client(account: str) -> TrooperClient:
        return TrooperClient(work["key"], base_url=work["urls"][account], poll=tick)

    async with Durable(client, database_url=work["database"], requests_at_once=16, requests_per_second=200) as durable:
        begin = [
            durable.switch(account, order, "stop", workflow_id=f"{account}-{order}")
            for account, orders in work["orders"].items()
            for order in orders
        ]
        if begin:
            handles = await asyncio.gather(*begin)
            print("begun", flush=True)
            await asyncio.gather(*(handle.result() for handle in handles))
            print("ended", flush=True)
        await asyncio.to_thread(sys.stdin.read)
    print(time.process_time(), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
