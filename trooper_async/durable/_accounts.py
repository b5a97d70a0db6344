"""One client for each account, and how a worker stops: waits are cancelled at once (the next process repeats them),
requests in flight get time to finish, and requests held back by a rate limit are dropped unsent."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sqlite3
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from copy import copy
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

import psycopg
from attrs import evolve
from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext

from trooper_async import TrooperClient, errors

T = TypeVar("T")
LOG = logging.getLogger("trooper_async.durable")

_PASSING = (
    *(errors.APIConnectionError, errors.ServerError, errors.RateLimitError, errors.AuthenticationError),
    *(errors.ClientClosedError, errors.ResponseFormatError, errors.OutcomeUnknownError),
)
_GET_CLIENT = 30.0  # the timeout of the caller's function, in seconds
_LEAST_TIMEOUT = 10.0  # the least seconds for a call, even if its deadline passed while no worker ran
_PAUSE, _LONGEST_PAUSE, _LONGEST_RETRY_AFTER = 1.0, 30.0, 120.0
_PASSING_SQLITE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}


class Accounts:
    """The accounts that this process works for. Enter it before `DBOS.launch()`, and leave it before `DBOS.destroy()`.

    Args:
        get: a function, plain or `async`, from an account's name to a new client with that account's key. It is called
            once for each account, and again after the API has refused the key. The clients are closed at the end of the
            block.
        grace: the most seconds that leaving the block takes.
    """

    opened: ClassVar[Accounts | None] = None
    """The `Accounts` that is open in this process, or was last."""

    def __init__(self, get: Callable[[str], TrooperClient | Awaitable[TrooperClient]], *, grace: float = 8.0) -> None:
        self._get, self._grace = get, grace
        self._clients: dict[str, TrooperClient] = {}
        self._getting: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._running: set[asyncio.Task[Any]] = set()
        self._sending: set[asyncio.Task[Any]] = set()
        self.stopping: bool = False
        """Whether the block is being left: nothing new is started or sent."""

    async def __aenter__(self) -> Self:
        if Accounts.opened is not None and not Accounts.opened.stopping:
            raise errors.ConfigurationError("another Accounts is open in this process: one at a time")
        Accounts.opened = self
        event.listen(Engine, "handle_error", self._as_lost_connection)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stop, cancelled = asyncio.create_task(self._stop(), name="trooper stop"), None
        while not stop.done():
            try:
                await asyncio.wait([stop])
            except asyncio.CancelledError as again:  # raised once it has ended
                cancelled = again
        stop.result()
        if cancelled is not None:
            raise cancelled

    async def _stop(self) -> None:
        ends = time.monotonic() + self._grace
        self.stopping = True
        for task in self._running - self._sending:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=self._grace / 2)
        closing = {asyncio.create_task(client.close(), name="trooper close") for client in self._clients.values()}
        if left := closing | self._running:
            await asyncio.wait(left, timeout=max(0.1, ends - time.monotonic()))
        if self._sending:
            LOG.error("%d requests are still in flight: the next process looks for their outcome", len(self._sending))
        event.remove(Engine, "handle_error", self._as_lost_connection)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Surrounds each workflow. If stopping cancels it, nothing is stored, and the next process continues it."""
        self._check_open()
        with _within(self._running):
            yield

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Surrounds a request whose outcome would be unknown if it were cancelled: stopping waits for it."""
        with _within(self._sending):
            yield
        self._check_open()

    def _check_open(self) -> None:
        if self.stopping:
            raise asyncio.CancelledError

    def _as_lost_connection(self, failure: ExceptionContext) -> None:
        """Treat a database that is read-only or full as a lost connection, which DBOS waits for instead of failing the
        workflow. It then opens a new one: an old one may stay read-only for good, or fail after a full disk."""
        error = failure.original_exception
        if isinstance(error, psycopg.errors.ReadOnlySqlTransaction) or (
            isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING_SQLITE
        ):
            failure.is_disconnect = True

    async def persist(self, account: str, deadline: float, call: Callable[[TrooperClient, float], Awaitable[T]]) -> T:
        """Make a call with the account's client and the seconds left; retry it until the deadline by `time.time()`.

        It is retried after every failure that may pass, whether or not its outcome is known.
        """
        pause = _PAUSE
        while True:
            client = None
            try:
                client = await self._client(account)
                return await call(client, max(_LEAST_TIMEOUT, deadline - time.time()))
            except errors.TrooperError as error:
                failure, refused = _without_settings(error), _refuses_key(error)
            self._check_open()
            asked = (failure.retry_after or 0.0) if isinstance(failure, errors.APIStatusError) else 0.0
            wait = max(pause, min(asked, _LONGEST_RETRY_AFTER))
            passes = refused or client is None or isinstance(failure, _PASSING)
            if not passes or time.time() + wait > deadline:
                raise failure
            LOG.warning("account %s: %s; trying again in %.0f s", account, failure.message, wait)
            if client is not None and refused and self._clients.get(account) is client:
                await self._clients.pop(account).close()
            await asyncio.sleep(wait)
            pause = min(_LONGEST_PAUSE, 2 * pause)

    async def _client(self, account: str) -> TrooperClient:
        async with self._getting[account]:
            if account in self._clients:
                return self._clients[account]
            try:
                client = self._get(account)
                if inspect.isawaitable(client):
                    client = await asyncio.wait_for(client, _GET_CLIENT)
            except Exception as error:  # noqa: BLE001 - of the caller's function: its text may hold a key
                problem = f"raised {type(error).__name__}"
            else:
                problem = f"returned {type(client).__name__}, not a TrooperClient,"
                if isinstance(client, TrooperClient):
                    return self._clients.setdefault(account, client)
            raise errors.ConfigurationError(f"the function of Accounts {problem} for account {account!r}")


@contextmanager
def _within(tasks: set[asyncio.Task[Any]]) -> Iterator[None]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - within a workflow or a step
    tasks.add(task)
    try:
        yield
    finally:
        tasks.discard(task)


def _without_settings(error: errors.TrooperError) -> errors.TrooperError:
    """The error without the settings of templates, since errors are stored and a setting may hold a password."""
    failure = copy(error)
    if isinstance(failure, errors.WaitError):
        failure.order = failure.order and evolve(failure.order, template_installs=None)
    if isinstance(failure, errors.TemplateFailedError):
        failure.install = evolve(failure.install, config=None)
    return failure


def _refuses_key(error: errors.TrooperError) -> bool:
    """Whether the API refuses the key; after a wait, a 403 means that, too."""
    if type(error) is errors.WaitError:
        return isinstance(
            error.__cause__ or error.last_error, errors.AuthenticationError | errors.PermissionDeniedError
        )
    return isinstance(error, errors.AuthenticationError)
