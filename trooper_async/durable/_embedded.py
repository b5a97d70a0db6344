"""DBOS on a SQLite file, for a script or bot without its own DBOS application."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from typing import Any

from dbos import DBOS

from trooper_async import ConfigurationError, TrooperClient
from trooper_async.durable._accounts import Accounts


class Connection(sqlite3.Connection):
    """On Python 3.12, DBOS assumes SQLite 3.42 and uses `unixepoch('subsec')`, which is null in earlier versions."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if sqlite3.sqlite_version_info < (3, 42):
            self.create_function("unixepoch", 1, lambda modifier: round(time.time(), 3))


@asynccontextmanager
async def embedded(
    get: Callable[[str], TrooperClient | Awaitable[TrooperClient]],
    path: str | os.PathLike[str] = "trooper.sqlite",
    *,
    grace: float = 8.0,
) -> AsyncIterator[None]:
    """Launch DBOS in this process on a SQLite file, and continue the workflows that an earlier process has started.

    Args:
        get: returns the client of an account, as for `Accounts`.
        path: the file. It is created if it does not exist, readable only by its owner.
        grace: the most seconds that leaving the block takes.

    Raises:
        ConfigurationError: another process has it open.
    """
    path = os.fspath(path)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    with closing(sqlite3.connect(f"{path}.lock", timeout=0, check_same_thread=False)) as lock:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            raise ConfigurationError(f"{path} is open in another process") from None
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA journal_mode = WAL")  # as safe, and a commit takes half the time
        DBOS(
            config={
                "name": "trooper",
                "application_version": "1",  # of the workflows' steps
                "system_database_url": f"sqlite:///{path}",
                "db_engine_kwargs": {"connect_args": {"factory": Connection}},
                "log_level": "ERROR",
                "max_executor_threads": 32,  # otherwise each wait would get a thread, which it does not need
                "enable_otlp": False,
            }
        )
        try:
            async with Accounts(get, grace=grace):
                DBOS.launch()
                yield
        finally:
            loop = asyncio.get_running_loop()
            with ThreadPoolExecutor(1) as thread:  # not on the loop, which DBOS's threads may be waiting for
                await loop.run_in_executor(thread, DBOS.destroy)
            loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))  # DBOS had put its own there
