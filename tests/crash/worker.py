"""A worker, to be killed at any moment: `python -m tests.crash.worker`, with its orders as a line of JSON on stdin.

It starts work when its input ends. Each life begins the same jobs under the same ids, waits for all of them, and prints
what became of each.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from trooper_async import PollSchedule, TrooperClient, TrooperError
from trooper_async.durable import Durable, Handle, UndecidedPurchaseError
from trooper_async.models import Order


async def main(orders: dict[str, Any]) -> None:
    def client(account: str) -> TrooperClient:
        return TrooperClient(
            orders["keys"][account], base_url=orders["urls"][account], poll=PollSchedule(floor=0.05, cap=0.2)
        )

    async with Durable(client, database_url=orders["database"], requests_per_second=50) as durable:
        say({"ready": True})
        await asyncio.to_thread(sys.stdin.read)  # until all are
        async with asyncio.TaskGroup() as tasks:
            for job in orders["jobs"]:
                tasks.create_task(do(durable, job))
        say({"done": True})


async def do(durable: Durable, job: dict[str, Any]) -> None:
    handle = await begin(durable, job)
    while True:
        try:
            order = await handle.result()
        except UndecidedPurchaseError as error:
            # of this account somebody else buys nothing, and its purchases are made one at a time
            decision = error.candidates[0].order_id if error.candidates else None
            say({"id": job["id"], "undecided": decision})
            try:
                await durable.resolve(error, decision)
            except TrooperError:
                await asyncio.sleep(0.05)  # another worker has
            await asyncio.sleep(0.05)
        except TrooperError as error:
            return say({"id": job["id"], "error": type(error).__name__, "text": str(error)})
        else:
            return say({"id": job["id"], "order": order.order_id, "status": str(order.current_status)})


async def begin(durable: Durable, job: dict[str, Any]) -> Handle[Order]:
    account, workflow_id = job["account"], job["id"]
    match job["action"]:
        case "create":
            return await durable.order(
                account,
                job["blib"],
                workflow_id=workflow_id,
                contract_interval="HOUR",
                terms_accepted=True,
                max_price_h=10,
                timeout=30,
            )
        case "migrate":
            return await durable.migrate(
                account, job["order"], job["blib"], keep_data=True, max_total_due=1000, workflow_id=workflow_id
            )
        case action:
            return await durable.switch(
                account,
                job["order"],
                action,
                migration_allowed=job.get("migration_allowed", False),
                workflow_id=workflow_id,
                timeout=12,
            )


def say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.stdin.readline())))
