"""One wait on a list, which ends when a function of the list returns a result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from attrs import Factory, define

from trooper_async._api.arguments import deadline
from trooper_async._waiting.poller import Poller, Subscription
from trooper_async._waiting.store import Snapshot
from trooper_async._waiting.wait import refusal
from trooper_async.errors import APIStatusError, ClientClosedError, WaitContext, WaitError, WaitTimeoutError

M = TypeVar("M")
T = TypeVar("T")


@define(eq=False, kw_only=True)
class Look(Subscription[M], Generic[M, T]):
    """A wait that ends as soon as `look(snapshot, began)` returns something other than None, or raises."""

    look: Callable[[Snapshot[M], float], T | None]
    end: asyncio.Future[None] = Factory(lambda: asyncio.get_running_loop().create_future())
    found: T | None = None
    error: BaseException | None = None

    @property
    def ended(self) -> bool:
        return self.end.done()

    def observe(self, snapshot: Snapshot[M], began: float, received: float) -> bool:
        self.found = self.look(snapshot, began)
        if self.found is not None:
            self._end()
        return False

    def fail(self, error: BaseException) -> None:
        self.error = error
        self._end()

    def expire(self) -> None:
        self._end()

    def _end(self) -> None:
        if not self.end.done():
            self.end.set_result(None)


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
    one = Look(look=look, deadline=deadline(asyncio.get_running_loop().time(), timeout))
    poller.join(one, operation, subject)
    try:
        await one.end
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
    raise WaitTimeoutError(f"{target} was not reached within {timeout or 0:g} s{poller.failing()}", **context)
