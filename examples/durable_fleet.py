"""A fleet is stopped, and a server bought, by workers that are killed on the way (SIGKILL), and nothing is lost.

    python examples/durable_fleet.py                                         # one worker after the other, on SQLite
    python examples/durable_fleet.py postgresql://postgres@localhost/trooper # two at once; the other one takes over

No key, no network, no money: the API is the embedded fake server.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections import Counter

from trooper_async import TrooperClient
from trooper_async.durable import Durable, UndecidedPurchaseError
from trooper_async.testing import FakeTrooper

FLEET = "stop the fleet tonight"  # the ids of the work: under them nothing is done twice, whoever begins it
PURCHASE = "the server for job 7"


async def work() -> None:
    """A worker: begins the work, or goes on with it, and waits for it. Any number may run."""

    def client(account: str) -> TrooperClient:  # the key comes from where your keys are; here from $TROOPER_API_KEY
        return TrooperClient()

    async with Durable(client, database_url=os.environ.get("DATABASE_URL")) as durable:
        async with client("acme") as trooper:
            orders = [order.order_id for order in await trooper.orders.find(title="fleet *")]
        fleet = await durable.converge("acme", dict.fromkeys(orders, "stopped"), timeout=3600, workflow_id=FLEET)
        server = await durable.order(
            "acme", 1, workflow_id=PURCHASE, contract_interval="HOUR", terms_accepted=True, max_price_h=1
        )
        print("has begun", flush=True)
        try:
            order = await server.result()
        except UndecidedPurchaseError as error:  # killed while it was sent: nobody can know, so somebody has to look
            found = [candidate.order_id for candidate in error.candidates]
            print(f"asks whether it was bought: {found}", flush=True)
            if len(found) != 1:  # none proves nothing, of several one is a guess: a person decides, and the rest waits
                print(f"leaves {PURCHASE!r} open: look at the account, and resolve it then", flush=True)
                return
            await durable.resolve(error, found[0])  # the only one; who shares the account asks a person here, too
            order = await server.result()
        print(f"has order {order.order_id}, which is {order.current_status}", flush=True)
        report = await fleet.result()
        print(f"has stopped {len(report.succeeded)} of {len(report.outcomes)} servers", flush=True)


async def start(name: str, environment: dict[str, str]) -> Process:
    """A worker in a process of its own, whose lines are printed as they come."""
    process = await asyncio.create_subprocess_exec(sys.executable, __file__, "--worker", env=environment, stdout=PIPE)
    print(f"{name} is started", flush=True)
    return process


async def follow(name: str, process: Process) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        print(f"{name} {line.decode().strip()}", flush=True)
    await process.wait()


async def main(database_url: str | None) -> None:
    async with FakeTrooper(durations={"stop": 1.0, "create": 1.0}) as fake:
        for number in range(20):
            fake.add_order(title=f"fleet {number}")
        with tempfile.TemporaryDirectory() as folder:
            environment = {
                **os.environ,
                "TROOPER_API_KEY": fake.api_key,  # not as an argument, which everybody on the machine can read
                "TROOPER_BASE_URL": fake.url,
                "DATABASE_URL": database_url or f"sqlite:///{folder}/trooper.sqlite",
            }
            first = await start("worker 1", environment)
            second = await start("worker 2", environment) if database_url else None
            async with asyncio.TaskGroup() as readers:
                readers.create_task(follow("worker 1", first))
                if second is not None:
                    readers.create_task(follow("worker 2", second))
                while sum(request.path == "/api/order-status" for request in fake.requests) < 10:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                first.kill()
                await first.wait()
                print("worker 1 is killed", flush=True)
                if second is None:
                    readers.create_task(follow("worker 2", await start("worker 2", environment)))
        sent = Counter(str(r.json["serverId"]) for r in fake.requests if r.path == "/api/order-status")
        print(f"{len(sent)} servers were sent {sent.total()} requests; once is enough, and a stop may be sent again")
        print(f"{sum(r.path == '/api/order' for r in fake.requests)} purchase was sent, and none twice")


if __name__ == "__main__":
    asyncio.run(work() if "--worker" in sys.argv else main(sys.argv[1] if len(sys.argv) > 1 else None))
