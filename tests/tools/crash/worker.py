"""A worker, to be killed at any moment, and the operator who answers its questions.

Each life begins the same jobs under the same ids, waits for all of them, and tells what became of each. It looks for
the dead, and at a deadline that has passed, for less long than in use.
"""

from __future__ import annotations

import asyncio
from multiprocessing.connection import Connection
from typing import Any

from trooper_async import PollSchedule, TrooperClient, TrooperError
from trooper_async.durable import Durable, Handle, UndecidedPurchaseError, _locks, _outcomes, _process, _waiting
from trooper_async.models import Order, TemplateInstall


def run(orders: dict[str, Any], parent: Connection) -> None:
    """Work as `orders` say, once the parent says so."""
    _process._QUEUE_POLL, _process._LOOK, _locks._GRACE, _waiting._A_LOOK = 0.1, 0.5, 0.0, 3.0
    _outcomes._ASK = PollSchedule(floor=0.3)
    asyncio.run(_work(orders, parent))


async def _work(orders: dict[str, Any], parent: Connection) -> None:
    def client(account: str) -> TrooperClient:
        return TrooperClient(
            orders["keys"][account], base_url=orders["urls"][account], poll=PollSchedule(floor=0.05, cap=0.2)
        )

    async with Durable(client, database_url=orders["database"], requests_per_second=50) as durable:
        parent.send({"ready": True})
        await asyncio.to_thread(parent.recv)  # until all are
        async with asyncio.TaskGroup() as tasks:
            for job in orders["jobs"]:
                tasks.create_task(_do(durable, job, parent))
    parent.send({"done": True})


async def _do(durable: Durable, job: dict[str, Any], parent: Connection) -> None:
    handle = await _begin(durable, job)
    looked = False
    while True:
        try:
            ended = await handle.result()
        except UndecidedPurchaseError as error:
            # each purchase here has an offer of its own: an order of that offer is it, whatever else was bought
            bought = [order.order_id for order in error.candidates if order.blib_name == job["offer"]]
            if not bought and not looked:  # what the killed worker sent may still be on its way: a second look
                looked = True
                await asyncio.sleep(0.5)
                continue
            parent.send({"id": job["id"], "undecided": bought})
            await durable.resolve(error, bought[0] if bought else None)
        except TrooperError as error:
            return parent.send({"id": job["id"], "error": type(error).__name__, "text": str(error)})
        else:
            order_id, status = job.get("order"), ended.status_readable if isinstance(ended, TemplateInstall) else None
            if isinstance(ended, Order):
                order_id, status = ended.order_id, str(ended.current_status)
            return parent.send({"id": job["id"], "order": order_id, "status": status})


async def _begin(durable: Durable, job: dict[str, Any]) -> Handle[Order] | Handle[TemplateInstall]:
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
        case "install":
            return await durable.install(account, job["order"], job["template"], workflow_id=workflow_id, timeout=5)
        case action:
            return await durable.switch(
                account,
                job["order"],
                action,
                migration_allowed=job.get("migration_allowed", False),
                workflow_id=workflow_id,
                timeout=5,
            )
