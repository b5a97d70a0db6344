"""Taking over the workflows of lost workers: on Postgres, without DBOS Conductor and without fixed executor ids.

Each worker increments a counter in a table, its heartbeat. If six checks in a row see no heartbeat of a worker, its
workflows are handed back to their queues. If that worker still runs, it repeats nothing that must not be repeated: see
the marks in `_steps`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import psycopg
from dbos import DBOS
from dbos import error as dbos_errors
from psycopg.rows import TupleRow
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from trooper_async import ConfigurationError
from trooper_async.durable._accounts import LOG

_MISSED_BEATS = 6
_FORGOTTEN = 1000
"""Missed beats after which a worker without work is forgotten."""
_TABLE = "CREATE TABLE IF NOT EXISTS trooper_workers (executor_id text PRIMARY KEY, beats bigint NOT NULL)"
_BEAT = (
    "INSERT INTO trooper_workers AS row VALUES (%s, 1) ON CONFLICT (executor_id) DO UPDATE SET beats = row.beats + 1"
)


@asynccontextmanager
async def takeover(database_url: str, *, interval: float = 5.0) -> AsyncIterator[None]:
    """Let this worker take over from lost workers, and others from it. Enter it right after `DBOS.launch()`.

    Args:
        database_url: the URL of the system database. A table `trooper_workers` is created.
        interval: seconds between two heartbeats. Work is taken over once six of them were missed.

    Raises:
        ConfigurationError: the executor id is not this worker's own.
    """
    if DBOS.executor_id == "local":
        raise ConfigurationError("give each worker an executor_id of its own in DBOSConfig: uuid.uuid4().hex")
    url = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    async with _connection(url) as connection:
        with suppress(psycopg.errors.UniqueViolation):  # another worker has just created it
            await connection.execute(_TABLE)
    await _beat(url)
    task = asyncio.create_task(_watch(url, interval), name="trooper take-over")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _watch(url: str, interval: float) -> None:
    beats: dict[str, int] = {}
    missed: dict[str, int] = {}
    while True:
        try:
            now = await _beat(url)
            missed = {worker: missed.get(worker, 0) + 1 for worker in now if now[worker] == beats.get(worker)}
            beats = now
            for worker, times in missed.items():
                if times in (_MISSED_BEATS, _FORGOTTEN):
                    await _take_over(url, worker, beats[worker], forget=times == _FORGOTTEN)
        except (psycopg.Error, SQLAlchemyError, dbos_errors.DBOSException) as error:
            LOG.warning("take-over waits for the database: %s", type(error).__name__)
            beats = {}  # the other workers may not have reached the database either
        await asyncio.sleep(interval)


@asynccontextmanager
async def _connection(url: str) -> AsyncIterator[psycopg.AsyncConnection[TupleRow]]:
    """A transaction on a connection of its own. psycopg leaves it open if it is cancelled while it commits."""
    connection = await psycopg.AsyncConnection.connect(url, connect_timeout=10)
    try:
        async with connection:
            yield connection
    finally:
        await connection.close()


async def _beat(url: str) -> dict[str, int]:
    """Count one more heartbeat of this worker; returns those of all workers."""
    async with _connection(url) as connection:
        await connection.execute(_BEAT, [DBOS.executor_id])
        rows = await connection.execute("SELECT executor_id, beats FROM trooper_workers")
        return dict(await rows.fetchall())


async def _take_over(url: str, worker: str, beats: int, *, forget: bool) -> None:
    """Hand back the worker's workflows. If it has none, it may belong to another application, whose workers have to
    see it too: then it is only forgotten if `forget` says so.
    """
    async with _connection(url) as connection:
        gone = "DELETE FROM trooper_workers WHERE (executor_id, beats) = (%s, %s)"
        if not (await connection.execute(gone, [worker, beats])).rowcount:
            return  # it has a new heartbeat, or another worker took over
        queues: defaultdict[str | None, list[str]] = defaultdict(list)
        for row in await DBOS.list_workflows_async(
            executor_id=worker, status="PENDING", load_input=False, load_output=False
        ):
            queues[row.queue_name].append(row.workflow_id)
        if not queues:
            if not forget:
                await connection.rollback()
            return
        LOG.warning("worker %s is gone: %d workflows go on", worker, sum(map(len, queues.values())))
        for queue, workflow_ids in queues.items():
            await DBOS.resume_workflows_async(workflow_ids, queue_name=queue)
