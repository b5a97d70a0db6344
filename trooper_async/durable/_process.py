"""One worker: the engine (DBOS) in this process, one client per account, and how both begin and end."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import sqlite3
import weakref
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager, suppress

import psycopg
from dbos import DBOS
from dbos import error as dbos_errors
from sqlalchemy.exc import SQLAlchemyError

from trooper_async import ConfigurationError, TrooperClient, TrooperError
from trooper_async.durable._locks import LOG, NameLock, lock_file
from trooper_async.durable._url import checked, refusal

Accounts = Callable[[str], TrooperClient | Awaitable[TrooperClient]]

_QUEUE_POLL = 0.25
_LOOK = 2.0
"""Seconds between two looks for work that stands still, here or with a worker that has died."""
_LOCK_AGAIN = 0.5
"""Seconds until a worker that has lost its name looks whether it is locked again."""
_LAST_REQUESTS = 240.0
"""Seconds that closing waits for what is on the wire; the client's own limit for what is sent once is 180."""
_NAME = re.compile(r"[a-z0-9_-]{3,}")
_current: Process | None = None


def current() -> Process:
    """The one that workflows run in: DBOS allows one in a process."""
    assert _current is not None  # noqa: S101 - forgotten after the engine has ended
    return _current


def opened() -> Process:
    """The same for its callers, whom closing ends; a ConfigurationError where none is open."""
    if _current is None or _current.closing:
        raise ConfigurationError("no Durable is open in this process, or it is being closed")
    return _current


class Process:
    """What `Durable` is made of: workflows find it by `current()`."""

    def __init__(self, accounts: Accounts, database_url: str | None, name: str, at_once: int, per_second: int) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigurationError("a name is of a-z, 0-9, _ and -, and of 3 characters or more")
        self._accounts = accounts
        self.name = name
        self._at_once, self._per_second = at_once, per_second
        self._url = checked(database_url or f"sqlite:///{name}.sqlite")
        self._name_lock = None if self._url.get_backend_name() == "sqlite" else NameLock(self._url)
        # The queues; the first two are partitioned by account. Each application has its own.
        self.requests, self.purchases, self.waits = f"{name}-requests", f"{name}-purchases", f"{name}-waits"
        self._clients: dict[str, TrooperClient] = {}
        self._making: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._running: set[asyncio.Task[object]] = set()
        self._resting: set[asyncio.Task[object]] = set()
        self._newest = weakref.WeakValueDictionary[str, asyncio.Task[object]]()
        """The newest life of each workflow here: one that was handed over may come back while the older still runs."""
        self.closing = False
        self._stack = AsyncExitStack()
        self.stalled: dict[str, str] = {}
        """Workflows of this process that stand still, by id, and what the database said when it was to be written."""

    async def start(self) -> None:
        """Lock the database, and begin to work; what this or a dead worker had begun goes on.

        Raises:
            ConfigurationError: the database can't be used, this process has an engine already, or it was closed.
        """
        global _current
        if self.closing:
            raise ConfigurationError("a Durable is used once: make a new one")
        if _current is not None:
            raise ConfigurationError("another Durable is open in this process: one at a time")
        _current = self
        async with AsyncExitStack() as stack:
            stack.callback(_forget)
            stack.push_async_callback(self._close_clients)
            await self._open(stack)
            stack.push_async_callback(_end, asyncio.create_task(self._take_up(), name="trooper take-up"))
            stack.push_async_callback(self._rest)
            self._stack = stack.pop_all()

    async def _open(self, stack: AsyncExitStack) -> None:
        try:
            if self._name_lock is not None:
                stack.push_async_callback(self._name_lock.release)
                await self._name_lock.acquire()
            else:
                lock_file(self._url.database or "", stack)
            await asyncio.to_thread(DBOS.migrate, self._address)
            await self._launch(stack)
            return
        except (dbos_errors.DBOSException, SQLAlchemyError, psycopg.Error, sqlite3.Error, OSError) as error:
            refused = refusal(self._url, error)
        raise refused  # outside: as its cause or context the error would come along, with the address

    async def stop(self) -> None:
        """End at once what only waits, let what is being sent get to its end, and close. Nothing is lost by it."""
        await self._stack.aclose()

    async def client(self, account: str) -> TrooperClient:
        """The one client of an account, so that all its waits here share one poll."""
        async with self._making[account]:
            if account not in self._clients:
                try:
                    made = self._accounts(account)
                    client: object = await made if inspect.isawaitable(made) else made
                except Exception as error:  # noqa: BLE001 - of the caller's code: its text might hold a key
                    problem = f"`accounts` raised {type(error).__name__} for the account {account!r}"
                else:
                    problem = f"`accounts` must return a TrooperClient, not {type(client).__name__}"
                    if isinstance(client, TrooperClient):
                        self._clients[account] = client
                        return client
                raise ConfigurationError(problem)
        return self._clients[account]

    @contextmanager
    def running(self, workflow_id: str) -> Iterator[None]:
        """Around a workflow: closing lets it come to a rest."""
        task = _this_task()
        if self.closing:
            raise asyncio.CancelledError
        self._running.add(task)
        self._newest[workflow_id] = task
        task.add_done_callback(lambda task: self._ended(task, workflow_id))
        try:
            yield
        except SQLAlchemyError as error:
            self._stall(workflow_id, error)
            raise asyncio.CancelledError from None  # an error would be stored as its end, if there is room again
        finally:
            self._running.discard(task)

    def _ended(self, task: asyncio.Task[object], workflow_id: str) -> None:
        if not task.cancelled() and isinstance(error := task.exception(), SQLAlchemyError):
            self._stall(workflow_id, error)  # its end could not be stored

    def _stall(self, workflow_id: str, error: SQLAlchemyError) -> None:
        self.stalled[workflow_id] = str(getattr(error, "orig", error))
        LOG.error("%s stands still until the database can be written: %s", workflow_id, self.stalled[workflow_id])

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Around what may be cut at any moment, and is taken up again by a later life of the workflow."""
        task = _this_task()
        if self.closing:
            raise asyncio.CancelledError
        self._resting.add(task)
        try:
            yield
        finally:
            self._resting.discard(task)

    async def is_mine(self, workflow_id: str) -> bool:
        """Whether no later life of a workflow has begun, here or elsewhere: asked right before what is sent only once.

        Where this worker's name was lost with its connection, that can't be known until it is locked again.
        """
        if self._name_lock is None:
            return True
        while not await self._name_lock.is_held():
            with self.resting():
                await asyncio.sleep(_LOCK_AGAIN)
        status = await DBOS.get_workflow_status_async(workflow_id)
        known = status and (status.status, status.executor_id)
        return known == ("PENDING", self._name_lock.worker) and self._newest.get(workflow_id) is _this_task()

    @property
    def _address(self) -> str:
        return self._url.render_as_string(hide_password=False)

    async def _launch(self, stack: AsyncExitStack) -> None:
        """Inside the running loop: so workflows run on it, and their waits share the clients' polls."""
        engine = logging.getLogger("dbos")
        if not engine.handlers:  # else it prints to stderr; now it is for the application's own logging
            engine.addHandler(logging.NullHandler())
        worker = "embedded" if self._name_lock is None else self._name_lock.worker
        DBOS(
            config={
                "name": self.name,
                "system_database_url": self._address,
                "executor_id": worker,
                # One for all releases: what an older one has begun is finished, or refused by its format number.
                "application_version": f"{self.name} on trooper_async",
                "log_level": "WARNING",
                "notification_listener_polling_interval_sec": _QUEUE_POLL,
                "enable_otlp": False,
            }
        )
        if DBOS.executor_id != worker:
            raise ConfigurationError("this process runs another DBOS application already")
        engine.addFilter(_is_news)
        stack.push_async_callback(self._destroy)
        DBOS.launch()
        await DBOS.register_queue_async(
            self.requests,
            partition_concurrency=self._at_once,
            partition_limiter={"limit": self._per_second, "period": 1.0},
            polling_interval_sec=_QUEUE_POLL,
        )
        # One purchase of an account at a time, over all workers; one that is undecided keeps its place.
        await DBOS.register_queue_async(self.purchases, partition_concurrency=1, polling_interval_sec=_QUEUE_POLL)
        await DBOS.register_queue_async(self.waits, polling_interval_sec=_QUEUE_POLL)

    async def _take_up(self) -> None:
        """Go on, for ever, with what stands still here, and with what dead workers had begun."""
        while True:
            await asyncio.sleep(_LOOK)
            try:
                await self._go_on_here()
                if self._name_lock is not None:
                    await self._name_lock.take_over(self.name, self._go_on)
            except (dbos_errors.DBOSException, SQLAlchemyError, psycopg.Error) as error:
                LOG.warning("the database can't be used, and everything waits for it: %s", type(error).__name__)
                if self._name_lock is not None:
                    await self._name_lock.release()
                    with suppress(psycopg.Error):
                        await self._name_lock.acquire()

    async def _go_on_here(self) -> None:
        stalled, self.stalled = self.stalled, {}  # before: they may stand still again at once
        try:
            if stalled:
                await self._go_on(DBOS.executor_id, list(stalled))
        except BaseException:
            self.stalled = stalled | self.stalled
            raise

    async def _go_on(self, worker: str, workflow_ids: list[str] | None = None) -> None:
        """Give a worker's workflows back to their queues: each goes on from its last step that is stored."""
        for queue in (self.requests, self.purchases, self.waits):
            rows = await DBOS.list_workflows_async(
                workflow_ids=workflow_ids,
                executor_id=worker,
                queue_name=queue,
                status="PENDING",
                load_input=False,
                load_output=False,
            )
            await DBOS.resume_workflows_async([row.workflow_id for row in rows], queue_name=queue)

    async def _rest(self) -> None:
        self.closing = True
        for task in self._resting:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=_LAST_REQUESTS)

    async def _destroy(self) -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as thread:
            await loop.run_in_executor(thread, DBOS.destroy)
        loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))  # DBOS had put its own there
        logging.getLogger("dbos").removeFilter(_is_news)

    async def _close_clients(self) -> None:
        for client in self._clients.values():
            await client.close()


def _forget() -> None:
    global _current
    _current = None


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()  # it broke: that is to be seen


def _this_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - of a coroutine
    return task


def _is_news(record: logging.LogRecord) -> bool:
    """Not what the caller is told anyway: the errors that workflows end with, and that closing ends their waits."""
    ours = record.exc_info is not None and isinstance(record.exc_info[1], TrooperError)
    return not ours and not record.getMessage().startswith("Asyncio task cancelled")
