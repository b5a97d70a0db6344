"""Freezes a fleet, and runs a job on its own server, with workers that are killed meanwhile. Nothing is lost.

    python examples/durable_fleet.py                                         # one worker after the other, on SQLite
    python examples/durable_fleet.py postgresql://postgres@localhost/trooper # two at once; one takes over

The job is a workflow of its own: order, install, train, freeze. The first worker is killed (SIGKILL) in the middle of
both; the second one completes them, and ends on SIGTERM. Each run has ids of its own, so that several can share a
database, also with one that was aborted. No key, no network, no money: the API is the embedded fake.
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
from contextlib import AsyncExitStack, suppress

import psycopg
from dbos import DBOS, DBOSClient, SetWorkflowID

from trooper_async import FleetReport, TrooperClient, durable
from trooper_async.testing import FakeTrooper

# of this run of the example: the ids of its work begin with it
RUN = os.environ["DURABLE_FLEET_RUN"] if "--worker" in sys.argv else uuid.uuid4().hex[:8]
ACCOUNT = f"acme {RUN}"  # an account buys one server at a time: with one of its own, a run waits for no other run


@DBOS.workflow()
async def train(account: str) -> int:
    """A workflow of your own: finished steps are stored, and not repeated."""
    order_id = await durable.order(account, 1, contract_interval="HOUR", terms_accepted=True, max_price_h=1)
    await durable.install(account, order_id, 1)
    await DBOS.run_step_async({"name": "train"}, asyncio.sleep, 0.5)  # here your own code would run
    await durable.switch(account, order_id, "freeze")
    return order_id


async def work() -> None:
    """A worker: starts the work, or joins it, and waits for it. Any number of workers may run."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    asyncio.get_running_loop().add_reader(0, os._exit, 1)  # its input ends with the example that has started it

    def client(account: str) -> TrooperClient:  # the key comes from where your keys are; here from $TROOPER_API_KEY
        return TrooperClient()

    async with AsyncExitStack() as stack:
        if (url := os.environ.get("DATABASE_URL")) is None:
            await stack.enter_async_context(durable.embedded(client, os.environ["DATABASE_FILE"]))
        else:  # your application's own DBOS; each worker has an executor id of its own
            executor_id = uuid.uuid4().hex
            DBOS(
                config={
                    "name": "example",
                    "system_database_url": url,
                    "executor_id": executor_id,
                    "application_version": RUN,  # so that no run takes the work of another; yours is that of your code
                    "log_level": "ERROR",
                }
            )
            stack.callback(DBOS.destroy)
            await stack.enter_async_context(durable.Accounts(client))
            DBOS.launch()
            await stack.enter_async_context(durable.takeover(url, interval=0.5))
        async with TrooperClient() as trooper:
            orders = [order.order_id for order in await trooper.orders.find(title="fleet *")]
        with SetWorkflowID(f"{RUN} the fleet tonight"):  # begun twice under one id, it is one
            fleet = await DBOS.start_workflow_async(durable.converge, ACCOUNT, dict.fromkeys(orders, "frozen"))
        with SetWorkflowID(f"{RUN} job 7"):
            job = await DBOS.start_workflow_async(train, ACCOUNT)
        print("has begun", flush=True)
        report = FleetReport.from_json(await fleet.get_result())
        print(f"has frozen {len(report.succeeded)} of {len(report.outcomes)} servers", flush=True)
        print(f"has trained on order {await job.get_result()}", flush=True)
        await stopped.wait()
    print("has ended", flush=True)


async def decide(database_url: str, fake: FakeTrooper) -> None:
    """What an operator does if a worker was killed during a purchase: look at the account, and decide."""
    script = DBOSClient(system_database_url=database_url)
    try:
        while True:
            await asyncio.sleep(0.5)
            for asked in await durable.undecided(script):
                if asked.account != ACCOUNT:
                    continue
                async with fake.client() as client:
                    found = asked.candidates(await client.orders.list())
                print(f"{asked.workflow_id} may be one of {[order.order_id for order in found]}", flush=True)
                if len(found) == 1:  # none proves nothing for some minutes, and of several one would be a guess
                    await durable.resolve(script, asked, found[0])
    finally:
        script.destroy()


class Worker:
    """A worker's process, whose lines are printed as they come."""

    def __init__(self, name: str, process: Process) -> None:
        self.name, self.process, self.is_killed = name, process, False

    async def end(self) -> None:
        self.is_killed = True
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def follow(self) -> None:
        """Print its lines, and end it when its work is done. Raises if it ends by itself."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            print(f"{self.name} {line.decode().strip()}", flush=True)
            if b"has trained" in line:
                self.process.send_signal(signal.SIGTERM)
        if await self.process.wait() != 0 and not self.is_killed:
            raise ChildProcessError(f"{self.name} ended with {self.process.returncode}, before its work was done")


async def run(database_url: str | None, folder: str, fake: FakeTrooper) -> None:
    """Start the workers, kill the first one in the middle of its work, and wait for the second one."""
    file = f"{folder}/trooper.sqlite"
    environment = {**os.environ, "TROOPER_API_KEY": fake.api_key, "TROOPER_BASE_URL": fake.url}
    environment["DURABLE_FLEET_RUN"] = RUN
    environment |= {"DATABASE_FILE": file} if database_url is None else {"DATABASE_URL": database_url}
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:

        async def start(name: str) -> Worker:
            command = [sys.executable, __file__, "--worker"]
            worker = Worker(
                name, await asyncio.create_subprocess_exec(*command, env=environment, stdin=PIPE, stdout=PIPE)
            )
            stack.push_async_callback(worker.end)
            group.create_task(worker.follow())
            print(f"{name} is started", flush=True)
            return worker

        first = await start("worker 1")
        second = first if database_url is None else await start("worker 2")
        while len(fake.sent("/api/order-status")) < 10:  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.01)
        await first.end()
        print("worker 1 is killed", flush=True)
        if database_url is None:
            second = await start("worker 2")
        operator = group.create_task(decide(database_url or f"sqlite:///{file}", fake))
        await second.process.wait()
        operator.cancel()


async def main(database_url: str | None) -> None:
    with FakeTrooper(durations={"freeze": 1.0, "create": 1.0}) as fake, tempfile.TemporaryDirectory() as folder:
        for number in range(20):
            fake.add_order(title=f"fleet {number}")
        await run(database_url, folder, fake)
        sent = Counter(str(body["serverId"]) for body in fake.sent("/api/order-status"))
        print(f"{len(sent)} servers were sent {sent.total()} requests; a freeze may be sent again")
        print(f"{len(fake.sent('/api/order'))} purchase was sent, and none twice")


def check(database_url: str) -> None:
    """End with a sentence if there is no such database."""
    try:
        psycopg.connect(database_url, connect_timeout=10).close()
    except psycopg.ProgrammingError:
        sys.exit("the argument is not the URL of a Postgres database")
    except psycopg.Error as error:
        sys.exit(f"the database cannot be used: {str(error).strip()}")


if __name__ == "__main__":
    url = next((argument for argument in sys.argv[1:] if argument != "--worker"), None)
    if "--worker" in sys.argv:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the first one ends the others
        asyncio.run(work())
    else:
        if url is not None:
            check(url)
        failure: str | int | None = None
        try:
            asyncio.run(main(url))
        except* ChildProcessError as errors:
            failure = str(errors.exceptions[0])
        except* KeyboardInterrupt:
            failure = 130
        sys.exit(failure)  # not in the handlers: Python 3.11.2 would show a traceback of a group
