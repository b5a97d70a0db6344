"""A night of a fleet, and a job on a server of its own, by workers that are killed on the way; nothing is lost.

    python examples/durable_fleet.py                                         # one worker after the other, on SQLite
    python examples/durable_fleet.py postgresql://postgres@localhost/trooper # two at once; one takes over

It freezes a fleet, and runs a workflow of its own (order, install, train, freeze); the first worker is killed (SIGKILL)
in the middle of both, and the second one ends on SIGTERM. No key, no network, no money: the API is the embedded fake.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import uuid
from asyncio.subprocess import PIPE, Process
from collections import Counter
from contextlib import AsyncExitStack

from dbos import DBOS, DBOSClient, SetWorkflowID

from trooper_async import FleetReport, TrooperClient, durable
from trooper_async.testing import FakeTrooper

RUN = os.environ.get("RUN", uuid.uuid4().hex[:8])  # of this run of the example: the ids of its work begin with it


@DBOS.workflow()
async def train(account: str) -> int:
    """A workflow of your own: what is done of it is stored, and is not done again."""
    order_id = await durable.order(account, 1, contract_interval="HOUR", terms_accepted=True, max_price_h=1)
    await durable.install(account, order_id, 1)
    await DBOS.run_step_async({"name": "train"}, asyncio.sleep, 0.5)  # here your own code would run
    await durable.switch(account, order_id, "freeze")
    return order_id


async def work() -> None:
    """A worker: begins the work, or joins it, and waits for it. Any number may run."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)

    def client(account: str) -> TrooperClient:  # the key comes from where your keys are; here from $TROOPER_API_KEY
        return TrooperClient()

    async with AsyncExitStack() as stack:
        if (url := os.environ.get("DATABASE_URL")) is None:
            await stack.enter_async_context(durable.embedded(client, os.environ["DATABASE_FILE"]))
        else:  # your application's own DBOS; each worker has an executor id of its own
            DBOS(config={"name": "example", "system_database_url": url, "executor_id": uuid.uuid4().hex})
            stack.callback(DBOS.destroy)
            await stack.enter_async_context(durable.Accounts(client))
            DBOS.launch()
            await stack.enter_async_context(durable.takeover(url, interval=1))
        async with TrooperClient() as trooper:
            orders = [order.order_id for order in await trooper.orders.find(title="fleet *")]
        with SetWorkflowID(f"{RUN} the fleet tonight"):  # begun twice under one id, it is one
            fleet = await DBOS.start_workflow_async(durable.converge, "acme", dict.fromkeys(orders, "frozen"))
        with SetWorkflowID(f"{RUN} job 7"):
            job = await DBOS.start_workflow_async(train, "acme")
        print("has begun", flush=True)
        report = FleetReport.from_json(await fleet.get_result())
        print(f"has frozen {len(report.succeeded)} of {len(report.outcomes)} servers", flush=True)
        print(f"has trained on order {await job.get_result()}", flush=True)
        await stopped.wait()
    print("has ended", flush=True)


async def decide(database_url: str, fake: FakeTrooper) -> None:
    """What an operator does where a worker was killed in the moment of a purchase: look at the account, and say."""
    script = DBOSClient(system_database_url=database_url)
    while True:
        await asyncio.sleep(0.5)
        for asked in await durable.undecided(script):
            async with fake.client() as client:
                found = asked.candidates(await client.orders.list())
            print(f"{asked.workflow_id} may be one of {[order.order_id for order in found]}", flush=True)
            if len(found) == 1:  # none proves nothing for some minutes, and of several one would be a guess
                await durable.resolve(script, asked, found[0])


async def follow(name: str, process: Process) -> None:
    """Print the worker's lines as they come."""
    assert process.stdout is not None
    async for line in process.stdout:
        print(f"{name} {line.decode().strip()}", flush=True)
        if b"has trained" in line:
            process.send_signal(signal.SIGTERM)
    if await process.wait() not in (0, -signal.SIGKILL):
        sys.exit(f"{name} failed")


async def main(database_url: str | None) -> None:
    async with FakeTrooper(durations={"freeze": 1.0, "create": 1.0}) as fake:
        for number in range(20):
            fake.add_order(title=f"fleet {number}")
        with tempfile.TemporaryDirectory() as folder:
            file = f"{folder}/trooper.sqlite"
            environment = {**os.environ, "TROOPER_API_KEY": fake.api_key, "TROOPER_BASE_URL": fake.url, "RUN": RUN}
            environment |= {"DATABASE_FILE": file} if database_url is None else {"DATABASE_URL": database_url}

            async def start(name: str) -> Process:
                command = [sys.executable, __file__, "--worker"]
                process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE)
                print(f"{name} is started", flush=True)
                readers.create_task(follow(name, process))
                return process

            async with asyncio.TaskGroup() as readers:
                first = await start("worker 1")
                second = first if database_url is None else await start("worker 2")
                while len(fake.sent("/api/order-status")) < 10:  # noqa: ASYNC110 - it happens in another process
                    await asyncio.sleep(0.01)
                first.kill()
                print("worker 1 is killed", flush=True)
                if database_url is None:
                    await first.wait()
                    second = await start("worker 2")
                operator = asyncio.create_task(decide(database_url or f"sqlite:///{file}", fake))
                await second.wait()
                operator.cancel()
        sent = Counter(str(body["serverId"]) for body in fake.sent("/api/order-status"))
        print(f"{len(sent)} servers were sent {sent.total()} requests; a freeze may be sent again")
        print(f"{len(fake.sent('/api/order'))} purchase was sent, and none twice")


if __name__ == "__main__":
    asyncio.run(work() if "--worker" in sys.argv else main(sys.argv[1] if len(sys.argv) > 1 else None))
