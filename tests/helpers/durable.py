"""A DBOS application in this process, as those who use `trooper_async.durable` have one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from dbos import DBOS, DBOSClient

from tests.helpers import sqlite  # noqa: F401 - DBOS needs it
from tests.helpers.conditions import LIMIT
from trooper_async import TrooperClient, durable

GetClient = Callable[[str], TrooperClient | Awaitable[TrooperClient]]


@asynccontextmanager
async def application(
    get: GetClient,
    database: str,
    *,
    name: str = "tests",
    executor_id: str = "local",
    version: str = "1",
    grace: float = 8.0,
) -> AsyncIterator[None]:
    """DBOS, launched, with these accounts; leaving it is what a process does when it is asked to end."""
    dbos = DBOS(
        config={
            "name": name,
            "system_database_url": database,
            "executor_id": executor_id,
            "application_version": version,
            "notification_listener_polling_interval_sec": 0.05,
            "log_level": "ERROR",
            "enable_otlp": False,
        }
    )
    # DBOS looks once a second for the work that a process left behind, and has no setting for it.
    dbos._registry.get_internal_queue()._polling_interval_sec = 0.05
    try:
        async with durable.Accounts(get, grace=grace):
            DBOS.launch()
            yield
    finally:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as thread:
            await loop.run_in_executor(thread, DBOS.destroy)
        loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))


@contextmanager
def operator(database: str) -> Iterator[DBOSClient]:
    """The client of an operator's script, in a process that is no worker."""
    client = DBOSClient(system_database_url=database)
    try:
        yield client
    finally:
        client.destroy()


async def eventually(condition: Callable[[], Awaitable[Any]]) -> Any:
    """Wait until a coroutine function returns something true, and return that."""
    ends = time.monotonic() + LIMIT
    while not (found := await condition()):
        assert time.monotonic() < ends, "it never happened"
        await asyncio.sleep(0.02)
    return found
