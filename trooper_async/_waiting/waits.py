"""The waiter coroutines: a share in the poll, a judgement of `_convergence`, and a deadline.

Each wait has its own deadline, its own errors and its own end; what they share is the poll.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from trooper_async._api.arguments import check_seconds
from trooper_async._api.endpoints import CREDENTIALS, STATUS_HISTORY, call
from trooper_async._http.retry import ONE_ATTEMPT, RetryPolicy
from trooper_async._http.transport import Transport
from trooper_async._waiting.feed import Feed
from trooper_async._waiting.judges import Judge, RestartJudge, SwitchJudge, Verdict, judge_of
from trooper_async._waiting.poller import Poller
from trooper_async._waiting.schedule import PollSchedule
from trooper_async._waiting.ssh import answers_ssh
from trooper_async._waiting.wait import OnChange, Wait, ended
from trooper_async.errors import (
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    ClientClosedError,
    PermissionDeniedError,
    ResponseFormatError,
    TrooperError,
    WaitTimeoutError,
)
from trooper_async.models import Credentials, Order, OrderChange, OrderStatus, Transition

_HISTORIES_AT_ONCE = 4

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
        wait = Wait(order_id, judge, on_change, math.inf if timeout is None else began + timeout)
        limit = asyncio.timeout(timeout)
        self._poller.join(wait.ticket)
        try:
            async with limit:
                while wait.end is None:
                    await wait.ticket.told()
                    if wait.end is None and wait.asks_history:
                        await self._read_history(wait)
        except TimeoutError:
            if not limit.expired():  # the caller's own function raised it
                raise
        except (ClientClosedError, APIStatusError) as error:  # of the poll: it ends this wait too
            error.operation, error.subject, error.seconds = operation, f"order {order_id}", loop.time() - began
            raise
        finally:
            await self._poller.leave(wait.ticket)
        if wait.end is Verdict.DONE and wait.order is not None:
            return wait.order
        raise ended(
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

    async def _read_history(self, wait: Wait) -> None:
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
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
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
                    await self._transport.pause(pause)
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

    async def reachable(self, order_id: int, *, operation: str, timeout: float | None) -> Credentials:
        """Wait until a server runs and an SSH server answers where its credentials say."""
        subject = f"order {order_id}"
        judge = SwitchJudge(OrderStatus.running, self._schedule.cap)
        seen: Order | None = None

        async def reach() -> Credentials | None:
            nonlocal seen
            # before each try: it may have been stopped, frozen or moved since
            seen = await self.order(order_id, judge, operation=operation, timeout=None)
            wanted = call(CREDENTIALS, "orders.credentials", subject, {"serverId": seen.server_id})
            credentials = await self._transport.request(wanted, retry=ONE_ATTEMPT)
            if credentials.ip is None or credentials.ssh_port is None:
                return None
            return credentials if await answers_ssh(credentials.ip, credentials.ssh_port) else None

        try:
            return await self.unlisted(
                reach, operation=operation, subject=subject, target="an answer of its SSH server", timeout=timeout
            )
        except WaitTimeoutError as error:
            error.order = seen
            raise

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
