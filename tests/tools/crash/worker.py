"""A worker, to be killed at any moment, and the operator who decides its purchases.

Each life begins the same jobs under the same ids, waits for all of them, and tells what became of each. It looks for
the dead, and at a deadline that has passed, for less long than in use.
"""

from __future__ import annotations

import asyncio
import faulthandler
import resource
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from multiprocessing.connection import Connection
from typing import Any

from dbos import DBOS, DBOSClient, SetWorkflowID
from sqlalchemy.exc import SQLAlchemyError

from tests.helpers import sqlite  # noqa: F401 - DBOS needs it
from trooper_async import PollSchedule, TrooperClient, TrooperError, durable
from trooper_async.durable import _accounts, _steps, _workflows

_FILE_SIZES = resource.getrlimit(resource.RLIMIT_FSIZE)


def run(orders: dict[str, Any], parent: Connection) -> None:
    """Work as `orders` say, once the parent says so."""
    _accounts._PAUSE, _accounts._LEAST_TIMEOUT, _workflows._QUEUE_POLL = 0.1, 3.0, 0.1
    if orders["blind"]:
        _steps.MARK = uuid.uuid4().hex  # each life has its own name for the marks, and finds no marks of another
    faulthandler.enable()
    asyncio.run(_main(orders, parent))


async def _main(orders: dict[str, Any], parent: Connection) -> None:
    work = asyncio.create_task(_work(orders, parent))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, work.cancel)
    loop.add_signal_handler(signal.SIGUSR1, _fill_disk, loop)
    await asyncio.wait([work])
    if not work.cancelled():
        work.result()


def _fill_disk(loop: asyncio.AbstractEventLoop) -> None:
    """For a second no file can grow."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, _FILE_SIZES[1]))
    loop.call_later(1.0, resource.setrlimit, resource.RLIMIT_FSIZE, _FILE_SIZES)


@asynccontextmanager
async def application(orders: dict[str, Any]) -> AsyncIterator[None]:
    """This worker's DBOS application."""

    def client(account: str) -> TrooperClient:
        schedule = PollSchedule(floor=0.05, cap=0.2)
        return TrooperClient(orders["keys"][account], base_url=orders["urls"][account], poll=schedule)

    on_postgres = orders["database"].startswith("postgresql")
    DBOS(
        config={
            "name": "crash",
            "system_database_url": orders["database"],
            "executor_id": uuid.uuid4().hex if on_postgres else "local",
            "application_version": "1",
            "notification_listener_polling_interval_sec": 0.1,
            "log_level": "CRITICAL",
            "enable_otlp": False,
        }
    )
    try:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(durable.Accounts(client, grace=4))
            DBOS.launch()
            if on_postgres:
                await stack.enter_async_context(durable.takeover(orders["database"], interval=1))
            yield
    finally:
        await asyncio.to_thread(DBOS.destroy)


async def _work(orders: dict[str, Any], parent: Connection) -> None:
    async with application(orders):
        parent.send({"ready": True})
        await asyncio.to_thread(parent.recv)  # until all are
        operator = asyncio.create_task(_decide(orders, parent))
        async with asyncio.TaskGroup() as tasks:
            for job in orders["jobs"]:
                tasks.create_task(_do(job, parent))
        operator.cancel()
        await asyncio.wait([operator])
    parent.send({"done": True})


async def _do(job: dict[str, Any], parent: Connection) -> None:
    while True:
        try:
            with SetWorkflowID(job["id"]):
                handle = await _begin(job)
            result = await handle.get_result(polling_interval_sec=0.3)
        except SQLAlchemyError:  # of the application's own calls, which are repeated
            await asyncio.sleep(0.3)
        except TrooperError as error:
            return parent.send({"id": job["id"], "error": type(error).__name__, "text": str(error)})
        else:
            return parent.send({"id": job["id"], "result": result})


async def _begin(job: dict[str, Any]) -> Any:
    account: str = job["account"]
    order: int = job.get("order", 0)
    match job["action"]:
        case "create":
            terms: dict[str, Any] = {"contract_interval": "HOUR", "terms_accepted": True, "max_price_h": 10}
            return await DBOS.start_workflow_async(durable.order, account, job["blib"], timeout=30, **terms)
        case "migrate":
            return await DBOS.start_workflow_async(
                durable.migrate, account, order, job["blib"], keep_data=True, max_total_due=1000
            )
        case "install":
            return await DBOS.start_workflow_async(durable.install, account, order, job["template"], timeout=8)
        case "converge":
            return await DBOS.start_workflow_async(
                durable.converge, account, job["targets"], migration_allowed=True, timeout=30
            )
        case action:
            return await DBOS.start_workflow_async(
                durable.switch, account, order, action, migration_allowed=job.get("migration_allowed", False), timeout=8
            )


async def _decide(orders: dict[str, Any], parent: Connection) -> None:
    """Each purchase here has its own offer, so an order of that offer is the result, whatever else was bought."""
    offers = {f"{job['id']}-purchase": job["offer"] for job in orders["jobs"] if job["offer"]}
    script, looked = DBOSClient(system_database_url=orders["database"]), set[str]()
    while True:
        await asyncio.sleep(0.3)
        for asked in await durable.undecided(script):
            account = asked.account
            async with TrooperClient(orders["keys"][account], base_url=orders["urls"][account]) as client:
                found = asked.candidates(await client.orders.list())
            bought = [one.order_id for one in found if one.blib_name == offers[asked.workflow_id]]
            if not bought and asked.workflow_id not in looked:  # it may still be in flight: read once more
                looked.add(asked.workflow_id)
                continue
            parent.send({"id": asked.workflow_id, "undecided": bought})
            await durable.resolve(script, asked, bought[0] if bought else None)
