"""One client for each account, and how a worker stops: reads and waits are cancelled at once (the next process repeats
them), requests in flight get time to finish, and requests held back by a rate limit are dropped unsent."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from types import TracebackType
from typing import ClassVar, Self, TypeVar

from attrs import evolve
from dbos import DBOS
from dbos import error as dbos_errors
from sqlalchemy.exc import SQLAlchemyError

from trooper_async import TrooperClient, errors

T = TypeVar("T")
LOG = logging.getLogger("trooper_async.durable")
WORKFLOWS: list[str] = []  # the names of ours

_PASSING = (
    *(errors.APIConnectionError, errors.ServerError, errors.RateLimitError, errors.AuthenticationError),
    *(errors.ClientClosedError, errors.ResponseFormatError),
)
_LOOK = 30.0  # seconds between two looks for work that stands still
_GET_CLIENT = 30.0  # seconds that the caller's function may take
_LAST_LOOK = 10.0  # seconds that a call always has, even if its deadline passed while no worker ran
_PAUSE, _LONGEST_PAUSE, _LONGEST_RETRY_AFTER = 1.0, 30.0, 120.0


class Accounts:
    """The accounts that this process works for. Enter it before `DBOS.launch()`, and leave it before `DBOS.destroy()`.

    Args:
        get: a function, plain or `async`, from an account's name to a new client with that account's key. It is called
            once for each account, and again after the API has refused the key. The clients are closed when this is
            left.
        grace: the greatest number of seconds that leaving takes.
    """

    opened: ClassVar[Accounts | None] = None
    """The one that is open in this process."""

    def __init__(self, get: Callable[[str], TrooperClient | Awaitable[TrooperClient]], *, grace: float = 8.0) -> None:
        self._get, self._grace = get, grace
        self._clients: dict[str, TrooperClient] = {}
        self._getting: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._stopping = asyncio.Event()
        self._resting: set[asyncio.Task[object]] = set()
        self._sending = 0
        self.alive: Counter[str] = Counter()
        """How many runs each workflow has here."""

    async def __aenter__(self) -> Self:
        if Accounts.opened is not None and not Accounts.opened.stopping:
            raise errors.ConfigurationError("another Accounts is open in this process: one at a time")
        Accounts.opened = self
        self._looking: asyncio.Task[None] = asyncio.create_task(self._look(), name="trooper look")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stop, cancelled = asyncio.create_task(self._stop(), name="trooper stop"), None
        while not stop.done():
            try:
                await asyncio.wait([stop])
            except asyncio.CancelledError as again:  # it goes on once this has ended
                cancelled = again
        stop.result()
        if cancelled is not None:
            raise cancelled

    async def _stop(self) -> None:
        began = time.monotonic()
        self._stopping.set()
        for task in (*self._resting, self._looking):
            task.cancel()
        await asyncio.wait([self._looking])
        await self._idle(began + self._grace / 2)
        closing = [asyncio.create_task(client.close(), name="trooper close") for client in self._clients.values()]
        await self._idle(began + self._grace)
        if closing:
            await asyncio.wait(closing, timeout=max(0.1, began + self._grace - time.monotonic()))
        if self._sending:
            LOG.error("%d requests are still in flight: the next process looks for their outcome", self._sending)

    async def _look(self) -> None:
        """Run those workflows again that stand still here, since their database could not be written for a while."""
        before: set[str] = set()
        pause = _LOOK
        while True:
            await asyncio.sleep(pause)
            with suppress(SQLAlchemyError, dbos_errors.DBOSException):
                rows = await DBOS.list_workflows_async(
                    name=WORKFLOWS,
                    status="PENDING",
                    executor_id=DBOS.executor_id,
                    app_version=DBOS.application_version,
                    load_input=False,
                )
                still = {row.workflow_id: row.queue_name for row in rows if not self.alive[row.workflow_id]}
                stuck = still.keys() & before
                for workflow_id in stuck:
                    await DBOS.resume_workflow_async(workflow_id, queue_name=still[workflow_id])
                # a machine that takes longer than this to begin them gets more time each time
                before, pause = set(still), min(2 * pause, 16 * _LOOK) if stuck else _LOOK

    async def _idle(self, until: float) -> None:
        while self._sending and time.monotonic() < until:  # noqa: ASYNC110 - or until a time
            await asyncio.sleep(0.02)

    @contextmanager
    def running(self, may_be_cut: bool) -> Iterator[None]:
        """Around what stopping cuts, or waits for. If this process is being stopped, the workflow is left here."""
        self.check_open()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - within a workflow or a step
        self._sending += not may_be_cut
        if may_be_cut:
            self._resting.add(task)
        try:
            yield
        finally:
            self._sending -= not may_be_cut
            self._resting.discard(task)

    @property
    def stopping(self) -> bool:
        """Whether it is being left: nothing new is sent."""
        return self._stopping.is_set()

    def check_open(self) -> None:
        """Nothing is stored of a workflow that is left by this, and the next process goes on with it."""
        if self.stopping:
            raise asyncio.CancelledError

    async def persist(
        self, account: str, deadline: float, call: Callable[[TrooperClient, float], Awaitable[T]], once: bool = False
    ) -> T:
        """Make a call, with the account's client and the seconds left, again until the deadline by `time.time()`.

        It is made again if it changed nothing and may work later; unless `once`, also if its outcome is unknown.
        """
        pause = _PAUSE
        while True:
            client = None
            try:
                client = await self._client(account)
                return await call(client, max(_LAST_LOOK, deadline - time.time()))
            except errors.TrooperError as error:
                failure, refused = _without_settings(error), _refuses_key(error)
            if once and isinstance(failure, errors.OutcomeUnknownError):
                raise failure
            self.check_open()
            passes = refused or client is None or isinstance(failure, (*_PASSING, errors.OutcomeUnknownError))
            asked = (failure.retry_after or 0.0) if isinstance(failure, errors.APIStatusError) else 0.0
            wait = max(pause, min(asked, _LONGEST_RETRY_AFTER))
            if not passes or time.time() + wait > deadline:
                raise failure
            LOG.warning("account %s: %s; trying again in %.0f s", account, failure.message, wait)
            if client is not None and refused and self._clients.get(account) is client:
                await self._clients.pop(account).close()
            try:
                await asyncio.wait_for(self._stopping.wait(), wait)
            except TimeoutError:
                pause = min(_LONGEST_PAUSE, 2 * pause)

    async def _client(self, account: str) -> TrooperClient:
        async with self._getting[account]:
            self.check_open()
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


def _without_settings(error: errors.TrooperError) -> errors.TrooperError:
    """The error without the settings of templates, which may hold a password: errors are stored."""
    failure = copy(error)
    if isinstance(failure, errors.WaitError):
        failure.order = failure.order and evolve(failure.order, template_installs=None)
    if isinstance(failure, errors.TemplateFailedError):
        failure.install = evolve(failure.install, config=None)
    if isinstance(failure, errors.PurchaseUnknownError):
        failure.candidates = ()
    return failure


def _refuses_key(error: errors.TrooperError) -> bool:
    """Whether the API refuses the key; after a wait, a 403 says so too."""
    if type(error) is errors.WaitError:
        return isinstance(
            error.__cause__ or error.last_error, errors.AuthenticationError | errors.PermissionDeniedError
        )
    return isinstance(error, errors.AuthenticationError)
