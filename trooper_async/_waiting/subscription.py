"""One waiter's share in the poll of the orders."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from trooper_async._waiting.store import Snapshot


class Subscription:
    """One waiter's share in the poll. It believes only polls that began after it joined.

    Args:
        observe: called with a fresh snapshot and the times at which its poll began and was answered; returns whether
            it wants the next one even if its order is the same in it. What it raises is raised by `told`.
        order_id: the order whose changes it is told of; None: every fresh snapshot.
        deadline: when the wait will end, by the loop's clock: a last poll is made in time for it.
        every: seconds between its polls; by the age of the wait where None.
    """

    __slots__ = ("_error", "_told", "_waiting", "deadline", "every", "fresh", "joined", "number", "observe", "order_id")

    def __init__(
        self,
        observe: Callable[[Snapshot, float, float], bool],
        order_id: int | None,
        *,
        deadline: float = math.inf,
        every: float | None = None,
    ) -> None:
        self.observe = observe
        self.order_id = order_id
        self.deadline = deadline
        self.every = every
        self.number = 0
        self.joined = 0.0
        self.fresh = 0
        self._told = False
        self._error: BaseException | None = None
        self._waiting: asyncio.Future[None] | None = None

    async def told(self) -> None:
        """Wait until `tell` was called (at once if it was since the last time), or raise what the wait failed with."""
        if not self._told and self._error is None:
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        self._told = False
        if self._error is not None:
            raise self._error

    def tell(self) -> None:
        self._told = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self.tell()
