"""Taking over what workers had begun that are gone: on Postgres, for all of an application's workflows, without DBOS
Conductor and without executor ids that stay the same.

Each worker locks its executor id on a connection of its own: the database frees it when the process or its machine is
gone. Who finds an id free on two looks in a row hands that worker's workflows back to their queues.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import LiteralString

import psycopg
from dbos import DBOS
from dbos import error as dbos_errors
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from trooper_async import ConfigurationError
from trooper_async.durable._accounts import LOG

# so that the database notices within a minute that a machine is gone
_KEEPALIVE = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
_LOCK_TIMEOUT = "5s"
_KEY: LiteralString = "(hashtextextended('trooper ' || %s, 0))"


@asynccontextmanager
async def takeover(database_url: str, *, interval: float = 5.0) -> AsyncIterator[None]:
    """Let this worker take over from lost workers, and others from it. Enter it right after `DBOS.launch()`.

    Args:
        database_url: the URL of the system database, without a connection pooler in between. A table `trooper_workers`
            is created.
        interval: seconds between two checks. Work is taken over after one or two of them; from a lost machine a minute
            later.

    Raises:
        ConfigurationError: a pooler is in between, or the executor id is not this worker's own.
    """
    connection = await _connect(database_url)
    try:
        try:
            if DBOS.executor_id == "local":
                raise psycopg.errors.LockNotAvailable
            # it is waited for, since another worker that looks whether it is free holds it for a moment
            await connection.execute("SELECT set_config('lock_timeout', %s, false)", [_LOCK_TIMEOUT])
            await _join(connection)
        except psycopg.errors.LockNotAvailable:
            text = "give each worker an executor_id of its own in DBOSConfig: uuid.uuid4().hex"
            raise ConfigurationError(text) from None
        task = asyncio.create_task(_watch(connection, database_url, interval), name="trooper take-over")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
    finally:
        await connection.close()


async def _watch(connection: psycopg.AsyncConnection, database_url: str, interval: float) -> None:
    free: set[str] = set()
    try:
        while True:
            try:
                if connection.closed:
                    connection = await _connect(database_url)
                    await _join(connection)  # once its old connection is gone
                free = await _look(connection, free)
            except (psycopg.Error, SQLAlchemyError, dbos_errors.DBOSException, ConfigurationError) as error:
                LOG.warning("take-over waits for the database: %s", type(error).__name__)
                await connection.close()
            await asyncio.sleep(interval)
    finally:
        await connection.close()


async def _look(connection: psycopg.AsyncConnection, before: set[str]) -> set[str]:
    """Take over from the workers whose ids are free and were free before; those that are free now."""
    rows = await (await connection.execute("SELECT executor_id FROM trooper_workers")).fetchall()
    free: set[str] = set()
    for worker in {str(row[0]) for row in rows} - {DBOS.executor_id}:
        if await _lock(connection, "pg_try_advisory_lock", worker):
            free.add(worker)
            if worker in before:
                await _take_over(worker)
                await connection.execute("DELETE FROM trooper_workers WHERE executor_id = %s", [worker])
            await _lock(connection, "pg_advisory_unlock", worker)
    return free


async def _take_over(worker: str) -> None:
    queues: defaultdict[str | None, list[str]] = defaultdict(list)
    found = await DBOS.list_workflows_async(executor_id=worker, status="PENDING", load_input=False, load_output=False)
    for row in found:
        queues[row.queue_name].append(row.workflow_id)
    LOG.warning("worker %s is gone: %d workflows go on", worker, len(found))
    for queue, workflow_ids in queues.items():
        await DBOS.resume_workflows_async(workflow_ids, queue_name=queue)


async def _connect(database_url: str) -> psycopg.AsyncConnection:
    url = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=10, options=_KEEPALIVE)
    try:
        backend = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
        if backend != (connection.info.backend_pid,):
            raise ConfigurationError("a pooler is between this worker and Postgres: give take-over a direct connection")
        with suppress(psycopg.errors.UniqueViolation):  # another worker makes it now
            await connection.execute("CREATE TABLE IF NOT EXISTS trooper_workers (executor_id text PRIMARY KEY)")
    except BaseException:
        await connection.close()
        raise
    return connection


async def _join(connection: psycopg.AsyncConnection) -> None:
    """Lock this worker's id, and then list it: one that takes over removes it from the list, under the lock."""
    await _lock(connection, "pg_advisory_lock", DBOS.executor_id)
    await connection.execute("INSERT INTO trooper_workers VALUES (%s) ON CONFLICT DO NOTHING", [DBOS.executor_id])


async def _lock(connection: psycopg.AsyncConnection, function: LiteralString, worker: str) -> bool:
    return await (await connection.execute(f"SELECT {function}{_KEY}", [worker])).fetchone() == (True,)
