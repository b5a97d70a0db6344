"""The waiter coroutines: a share in the poll, a judgement of `_convergence`, and a deadline.

Each wait has its own deadline, its own errors and its own end; what they share is the poll.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import copy_context
from typing import TypeVar, Unpack

from trooper_async._arguments import check_seconds
from trooper_async._convergence import Judge, PredicateJudge, RestartJudge, Verdict, judge_of
from trooper_async._feed import Feed
from trooper_async._poller import Poller, Ticket
from trooper_async._protocol import CREDENTIALS, STATUS_HISTORY, call
from trooper_async._purchases import Purchases
from trooper_async._retry import ONE_ATTEMPT, RetryPolicy
from trooper_async._schedule import PollSchedule
from trooper_async._snapshot import Snapshot
from trooper_async._ssh import answers_ssh
from trooper_async._transport import Transport
from trooper_async.errors import (
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    OrderNotFoundError,
    OrderVanishedError,
    PermissionDeniedError,
    PurchaseNotReadyError,
    ResponseFormatError,
    SupersededError,
    TrooperError,
    WaitContext,
    WaitError,
    WaitTimeoutError,
)
from trooper_async.models import Credentials, Order, OrderChange, Purchase, Transition

_HISTORIES_AT_ONCE = 4

OnChange = Callable[[Order], object]
T = TypeVar("T")


class Waiters:
    """What waits on a client's poll."""

    def __init__(self, poller: Poller, transport: Transport, schedule: PollSchedule) -> None:
        self._poller = poller
        self._transport = transport
        self._schedule = schedule
        self._histories = asyncio.Semaphore(_HISTORIES_AT_ONCE)

    async def transition(
        self, transition: Transition, *, operation: str, timeout: float | None, on_change: OnChange | None = None
    ) -> Order:
        """Wait until an accepted action has taken effect."""
        judge = judge_of(transition, cap=self._schedule.cap, floor=self._schedule.floor)
        return await self.order(
            transition.order_id,
            judge,
            operation=operation,
            timeout=timeout,
            on_change=on_change,
            transition=transition,
        )

    async def bought(
        self,
        purchase: Purchase,
        transition: Transition,
        purchases: Purchases,
        *,
        operation: str,
        timeout: float | None,
        on_change: OnChange | None,
    ) -> Order:
        """Wait until what was bought runs. A caller that is cancelled meanwhile has not got its purchase."""
        try:
            order = await self.transition(transition, operation=operation, timeout=timeout, on_change=on_change)
        except Exception as error:
            purchases.deliver(purchase)
            waited = error if isinstance(error, WaitError) else None
            raise PurchaseNotReadyError(
                f"bought as order {transition.order_id}, but not running yet: {error}",
                purchase=purchase,
                operation=operation,
                subject=f"order {transition.order_id}",
                transition=transition,
                target=transition.target,
                order=waited.order if waited else None,
                polls=waited.polls if waited else 0,
                last_error=waited.last_error if waited else (error if isinstance(error, TrooperError) else None),
            ) from error
        purchases.deliver(purchase)
        return order

    async def order(
        self,
        order_id: int,
        judge: Judge,
        *,
        operation: str,
        timeout: float | None,
        on_change: OnChange | None = None,
        transition: Transition | None = None,
    ) -> Order:
        """Wait until `judge` says that the order is where it should be; the order as it is then.

        Raises:
            WaitTimeoutError: `timeout` seconds have passed.
            SupersededError, OrderVanishedError, WaitError: as the judge says.
            AuthenticationError, PermissionDeniedError: the key is refused, twice in a row.
            ClientClosedError: the client was closed meanwhile.
        """
        check_seconds(timeout)
        loop = asyncio.get_running_loop()
        began = loop.time()
        wait = _Wait(order_id, judge, on_change, math.inf if timeout is None else began + timeout)
        self._poller.join(wait.ticket)
        try:
            async with asyncio.timeout(timeout) as limit:
                while wait.end is None:
                    await wait.ticket.told()
                    if wait.end is None and wait.asks_history:
                        await self._read_history(wait)
        except TimeoutError:
            if not limit.expired():  # the caller's own function raised it
                raise
        finally:
            await self._poller.leave(wait.ticket)
        if wait.end is Verdict.DONE and wait.order is not None:
            return wait.order
        raise _ended(
            wait,
            timeout,
            operation=operation,
            subject=f"order {order_id}",
            seconds=loop.time() - began,
            order=wait.order,
            target=judge.target,
            polls=self._poller.polls(wait.ticket),
            last_error=self._poller.last_error or wait.last_error,
            transition=transition,
        )

    async def _read_history(self, wait: _Wait) -> None:
        judge = wait.judge
        assert isinstance(judge, RestartJudge)  # noqa: S101 - the only one that asks for it
        wait.asks_history = False
        history = call(STATUS_HISTORY, "orders.history", f"order {wait.order_id}", {"order_id": wait.order_id})
        rows = None
        async with self._histories:
            try:
                rows = await self._transport.request(history, retry=ONE_ATTEMPT)
            except (APIConnectionError, APIStatusError, ResponseFormatError) as error:
                wait.last_error = error
        if judge.read_history(rows, asyncio.get_running_loop().time()) is Verdict.DONE and wait.end is None:
            wait.end = Verdict.DONE

    async def unlisted(
        self,
        read: Callable[[], Awaitable[T | None]],
        *,
        operation: str,
        subject: str,
        target: str,
        timeout: float | None,
    ) -> T:
        """Wait for what is not in the list of orders: `read` again, on the schedule, until it gives something.

        Raises:
            WaitTimeoutError: `timeout` seconds have passed.
            AuthenticationError, PermissionDeniedError: the key is refused, twice in a row.
            ClientClosedError: the client was closed meanwhile.
        """
        check_seconds(timeout)
        loop = asyncio.get_running_loop()
        began = loop.time()
        last_error: TrooperError | None = None
        failures = polls = 0
        try:
            async with asyncio.timeout(timeout) as limit:
                while True:
                    asked = loop.time()
                    try:
                        found = await read()
                    except (APIConnectionError, APIStatusError, ResponseFormatError) as error:
                        refused = AuthenticationError | PermissionDeniedError
                        if isinstance(error, refused) and isinstance(last_error, refused):
                            raise
                        last_error, failures = error, failures + 1
                        pause = RetryPolicy(max_delay=self._schedule.cap).backoff(failures)
                        if isinstance(error, APIStatusError):
                            pause = max(pause, error.retry_after or 0.0)
                    else:
                        polls += 1
                        if found is not None:
                            return found
                        last_error, failures = None, 0
                        pause = self._schedule.interval(loop.time() - began)
                    if timeout is not None:  # a last look that can end in time
                        lead = 2 * (loop.time() - asked) + self._schedule.floor / 10
                        left = began + timeout - loop.time() - lead
                        pause = min(pause, left) if left > 0 and not failures else pause
                    await asyncio.sleep(pause)
        except TimeoutError:
            if not limit.expired():
                raise
        text = f"{target} was not reached within {timeout or 0:g} s"
        raise WaitTimeoutError(
            f"{text}; the last failure meanwhile: {last_error.message}" if last_error else text,
            operation=operation,
            subject=subject,
            seconds=loop.time() - began,
            target=target,
            polls=polls,
            last_error=last_error,
        )

    async def reachable(self, order: Order, *, operation: str, timeout: float | None) -> Credentials:
        """Wait until an SSH server answers where the credentials say."""
        subject = f"order {order.order_id}"
        wanted = call(CREDENTIALS, "orders.credentials", subject, {"serverId": order.server_id})

        async def reach() -> Credentials | None:
            credentials = await self._transport.request(wanted, retry=ONE_ATTEMPT)
            if credentials.ip is None or credentials.ssh_port is None:
                return None
            return credentials if await answers_ssh(credentials.ip, credentials.ssh_port) else None

        return await self.unlisted(
            reach, operation=operation, subject=subject, target="an answer of its SSH server", timeout=timeout
        )

    async def watch(self, *, interval: float) -> AsyncGenerator[OrderChange, None]:
        """Every order as `appeared`, then each change. A slow reader gets the latest state of each order.

        Raises:
            AuthenticationError, PermissionDeniedError: the key is refused, twice in a row.
            ClientClosedError: the client was closed meanwhile.
        """
        check_seconds(interval)
        feed = Feed(self._schedule.cap, interval)
        self._poller.join(feed.ticket)
        try:
            while True:
                await feed.ticket.told()
                while (change := feed.take()) is not None:
                    yield change
        finally:
            await self._poller.leave(feed.ticket)


class _Wait:
    """The state of one wait for an order."""

    __slots__ = ("_context", "_on_change", "asks_history", "end", "judge", "last_error", "order", "order_id", "ticket")

    def __init__(self, order_id: int, judge: Judge, on_change: OnChange | None, deadline: float) -> None:
        self.order_id = order_id
        self.judge = judge
        self._on_change = on_change
        # the caller's functions run in the caller's context, not in the poll's
        self._context = copy_context() if on_change is not None or isinstance(judge, PredicateJudge) else None
        self.ticket = Ticket(self._observe, order_id, deadline=deadline)
        self.order: Order | None = None
        self.end: Verdict | None = None
        self.asks_history = False
        self.last_error: TrooperError | None = None

    def _observe(self, snapshot: Snapshot, at: float, answered: float) -> bool:
        if self.end is not None:
            return False
        if self._context is None:
            return self._judge(snapshot, at, answered)
        return self._context.run(self._judge, snapshot, at, answered)

    def _judge(self, snapshot: Snapshot, at: float, answered: float) -> bool:
        sighting = snapshot.sighting(self.order_id)
        if isinstance(sighting, Order):
            before, self.order = self.order, sighting
            if self._on_change is not None and (before is None or _words(before) != _words(sighting)):
                _call(self._on_change, sighting)
        verdict = self.judge.observe(sighting, at, answered)
        if verdict is Verdict.ASK_HISTORY:
            self.asks_history = True
        elif verdict is not Verdict.WAIT:
            self.end = verdict
        if verdict is not Verdict.WAIT:
            self.ticket.tell()
        return self.judge.restless


def _words(order: Order) -> tuple[str, str | None]:
    return order.current_status, order.desired_status


def _call(on_change: OnChange, order: Order) -> None:
    answer = on_change(order)
    if inspect.iscoroutine(answer):
        answer.close()
        raise TypeError("on_change must be a plain function: nobody awaits a coroutine")


def _ended(wait: _Wait, timeout: float | None, **context: Unpack[WaitContext]) -> TrooperError:
    """The error of a wait that did not end well."""
    last = "never seen in the list"
    if wait.order is not None:
        wish = wait.order.desired_status
        last = f"last seen {wait.order.current_status}" + (f", desired {wish}" if wish is not None else "")
    what = context.get("target") or "what was waited for"
    match wait.end:
        case Verdict.SUPERSEDED:
            return SupersededError(f"another switch took the place of this one ({last}, not {what})", **context)
        case Verdict.VANISHED if wait.order is None and context.get("transition") is None:
            return OrderNotFoundError(
                "it is not in the list of orders",
                operation=context.get("operation", ""),
                subject=context.get("subject", ""),
                seconds=context.get("seconds", 0.0),
            )
        case Verdict.VANISHED:
            return OrderVanishedError(f"it is not in the list of orders ({last})", **context)
        case Verdict.UNJUDGEABLE:
            return WaitError("the API gives no desired status for it: wait for a status by name instead", **context)
    if isinstance(wait.judge, RestartJudge) and not wait.judge.proven and last.startswith("last seen running"):
        last = "running, but no restart was seen"
    text = f"{what} was not reached within {timeout or 0:g} s ({last})"
    error = context.get("last_error")
    return WaitTimeoutError(f"{text}; the last failure meanwhile: {error.message}" if error else text, **context)
