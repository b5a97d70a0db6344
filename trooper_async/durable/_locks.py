"""Who works on a database: one process on a SQLite file; on Postgres many, who take over what the dead had begun.

Both locks are the database's own, so they are free as soon as their process has ended, however it did.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
import uuid
from contextlib import AsyncExitStack, closing, suppress

import psycopg
from dbos import DBOS
from dbos import error as dbos_errors
from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import Pool

from trooper_async import ConfigurationError

LOG = logging.getLogger("trooper_async.durable")

_CONNECT = 10
_LOOK = 5.0
"""Seconds between two looks for workers that have died."""
# So that the database notices within a minute that a worker's machine is gone.
_KEEPALIVE = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
_KEY = "hashtextextended(%s, 0)"
# Not right after the database was started: the living need a moment to lock their names again.
_AT_WORK = """
    SELECT DISTINCT executor_id FROM dbos.workflow_status
    WHERE status = 'PENDING' AND application_name = %s AND now() - pg_postmaster_start_time() > interval '10 s'
"""


class NameLock:
    """A worker's own name, locked on a connection of its own. A name is never used again."""

    def __init__(self, url: URL) -> None:
        self._address = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection: psycopg.AsyncConnection | None = None
        self.worker = uuid.uuid4().hex

    async def acquire(self) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._address, autocommit=True, connect_timeout=_CONNECT, options=_KEEPALIVE
        )
        self._connection = connection
        await connection.execute(f"SELECT pg_advisory_lock({_KEY})", [self.worker])

    async def release(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def take_over(self, application: str) -> None:
        """Go on, for ever, with what dead workers of an application had begun: those whose name is not locked.

        A worker that loses its lock with its connection may be taken for dead while it works. Nothing that costs money
        is sent twice by it, since what one had noted the other does not send, and one of the two records. A switch may
        be sent again; and what the living one is just buying may be asked about (`undecided`), though it was accepted:
        its log names the order.
        """
        while True:
            try:
                await self._recover_the_dead(application)
            except (dbos_errors.DBOSException, SQLAlchemyError, psycopg.Error) as error:
                LOG.warning("the database is away, and everything waits for it: %s", type(error).__name__)
                await self.release()
                await asyncio.sleep(1.0)
                with suppress(psycopg.Error):
                    await self.acquire()
            else:
                await asyncio.sleep(_LOOK)

    async def _recover_the_dead(self, application: str) -> None:
        connection = self._connection
        assert connection is not None  # noqa: S101 - acquired before
        for (worker,) in await (await connection.execute(_AT_WORK, [application])).fetchall():
            if worker == self.worker:
                continue
            tried = await connection.execute(f"SELECT pg_try_advisory_lock({_KEY})", [worker])
            if await tried.fetchone() == (True,):
                LOG.warning("a worker has died: what it had begun goes on")
                # the only call that gives back each workflow to its own queue: DBOS has no public one
                await asyncio.to_thread(DBOS._recover_pending_workflows, [worker])
                await connection.execute(f"SELECT pg_advisory_unlock({_KEY})", [worker])


def lock_file(path: str, stack: AsyncExitStack) -> None:
    """Lock a SQLite database, made for its owner alone where there is none yet, until the stack is left.

    Raises:
        ConfigurationError: another process has it open.
    """
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    lock = stack.enter_context(closing(sqlite3.connect(f"{path}.lock", timeout=0, check_same_thread=False)))
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
    else:
        return _supply_subseconds(path, stack)
    raise ConfigurationError(f"{path} is open in another process: for several, give a postgresql:// database_url")


def _supply_subseconds(path: str, stack: AsyncExitStack) -> None:
    """DBOS takes Python 3.12 for a proof of SQLite 3.42, and asks for `unixepoch('subsec')`: null before that one."""
    if sqlite3.sqlite_version_info >= (3, 42):
        return

    def supply(connection: sqlite3.Connection, record: object) -> None:
        ours = isinstance(connection, sqlite3.Connection)
        if ours and connection.execute("PRAGMA database_list").fetchone()[2] == os.path.realpath(path):
            connection.create_function("unixepoch", 1, lambda modifier: round(time.time(), 3))

    event.listen(Pool, "connect", supply)
    stack.callback(event.remove, Pool, "connect", supply)
