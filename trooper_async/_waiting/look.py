"""One wait on a list, which ends when a function of the list returns a result."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Generic, TypeVar

from trooper_async._waiting.poller import Poller, Subscription
from trooper_async._waiting.store import Snapshot
from trooper_async._waiting.wait import refusal
from trooper_async.errors import (
    APIStatusError,
    ClientClosedError,
    TrooperError,
    WaitContext,
    WaitError,
    WaitTimeoutError,
)

M = TypeVar("M")
T = TypeVar("T")


class Look(Subscription[M], Generic[M, T]):
    """A wait that ends as soon as `look(snapshot, began)` returns something other than None, or raises."""

    __slots__ = ("_ended", "_look", "error", "found")

    def __init__(self, look: Callable[[Snapshot[M], float], T | None], timeout: float | None) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(None, deadline=math.inf if timeout is None else loop.time() + timeout)
        self._look = look
        self._ended: asyncio.Future[None] = loop.create_future()
        self.found: T | None = None
        self.error: BaseException | None = None

    @property
    def ended(self) -> bool:
        return self._ended.done()

    async def wait(self) -> None:
        """Wait until it has ended."""
        await self._ended

    def observe(self, snapshot: Snapshot[M], began: float, received: float) -> bool:
        self.found = self._look(snapshot, began)
        if self.found is not None:
            self._end()
        return False

    def fail(self, error: BaseException) -> None:
        self.error = error
        self._end()

    def expire(self) -> None:
        self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


async def look_for(
    poller: Poller[M],
    look: Callable[[Snapshot[M], float], T | None],
    *,
    operation: str,
    subject: str,
    target: str,
    timeout: float | None,
) -> T:
    """Wait until `look` returns something other than None, on the shared poll.

    Args:
        poller: the poll of the list.
        look: called with each fresh list and the time at which its poll began, by the event loop's clock.
        operation, subject: what is attempted, and on what, for people.
        target: what is waited for.
        timeout: seconds; None for no limit.

    Raises:
        WaitTimeoutError: `timeout` seconds have passed.
        WaitError: the API refuses the key, twice in a row; or what `look` raised.
        ClientClosedError: the client was closed in the meantime.
    """
    one = Look(look, timeout)
    poller.join(one)
    try:
        await one.wait()
    finally:
        await poller.leave(one)
    if one.found is not None:
        return one.found
    seconds = asyncio.get_running_loop().time() - one.joined
    if isinstance(one.error, ClientClosedError):
        closed = one.error.about(operation, subject)
        closed.seconds = seconds
        raise closed
    context = WaitContext(
        operation=operation,
        subject=subject,
        seconds=seconds,
        target=target,
        polls=poller.good_polls(one),
        last_error=poller.last_error,
    )
    if isinstance(one.error, APIStatusError):
        raise WaitError(refusal(one.error), **context) from one.error
    if isinstance(one.error, WaitError):
        one.error.__dict__.update(context)
    if one.error is not None:
        raise one.error
    raise WaitTimeoutError(f"{target} was not reached within {timeout or 0:g} s{failures(poller)}", **context)


def failures(poller: Poller[M]) -> str:
    """What the text of a wait's error says about failing polls."""
    error: TrooperError | None = poller.last_error
    return "" if error is None else f"; no poll has succeeded for {poller.silent_for():.0f} s: {error.message}"
