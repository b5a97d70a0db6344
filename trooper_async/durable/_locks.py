"""Who works on a database: one process on a SQLite file; on Postgres many, who take over what the dead had begun.

Both locks are the database's own, so they are free as soon as their process has ended, however it did.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing

import psycopg
from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.pool import Pool

from trooper_async import ConfigurationError

LOG = logging.getLogger("trooper_async.durable")

_CONNECT = 10
# So that the database notices within a minute that a worker's machine is gone.
_KEEPALIVE = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
_KEY = "hashtextextended(%s, 0)"
# Not right after the database was started: the living need a moment to lock their names again.
_AT_WORK = """
    SELECT DISTINCT executor_id FROM dbos.workflow_status
    WHERE status = 'PENDING' AND application_name = %s AND executor_id <> %s
    AND now() - pg_postmaster_start_time() > %s * interval '1 s'
"""
_GRACE = 10.0


class NameLock:
    """A worker's own name, locked on a connection of its own. A name is never used again."""

    def __init__(self, url: URL) -> None:
        self._address = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection: psycopg.AsyncConnection | None = None
        self.worker = uuid.uuid4().hex

    async def acquire(self) -> None:
        self._connection = await psycopg.AsyncConnection.connect(
            self._address, autocommit=True, connect_timeout=_CONNECT, options=_KEEPALIVE
        )
        await self._connection.execute(f"SELECT pg_advisory_lock({_KEY})", [self.worker])

    async def release(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def is_held(self) -> bool:
        """Whether the name is locked now. One that was lost is locked again, where the connection is still there."""
        try:
            return await self._locks(self.worker)
        except psycopg.Error:
            return False

    async def take_over(self, application: str, go_on: Callable[[str], Awaitable[None]]) -> None:
        """Have gone on with what dead workers of an application had begun: those whose name is not locked.

        A worker that loses its lock with its connection may be taken for dead while it works. What may be sent once
        only it does not begin to send then (`Process.is_mine`). What it has on the wire at that moment the other one
        does not send again; of a purchase, one of the two records what came of it: it may be asked about (`undecided`)
        though it was accepted, and the log (INFO) of the one that sent it names the order.
        """
        connection = self._connection
        assert connection is not None  # noqa: S101 - acquired before
        at_work = await (await connection.execute(_AT_WORK, [application, self.worker, _GRACE])).fetchall()
        for (worker,) in at_work:
            if await self._locks(worker):
                LOG.warning("a worker has died: what it had begun goes on")
                await go_on(worker)
                await connection.execute(f"SELECT pg_advisory_unlock({_KEY})", [worker])

    async def _locks(self, worker: str) -> bool:
        assert self._connection is not None  # noqa: S101 - acquired before
        tried = await self._connection.execute(f"SELECT pg_try_advisory_lock({_KEY})", [worker])
        return await tried.fetchone() == (True,)


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
