"""`orders.watch`: every order as it is now, then each change."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Generic, Self, TypeVar, cast

from attrs import frozen

from trooper_async._api.arguments import check_seconds
from trooper_async._waiting.judges import Steady
from trooper_async._waiting.poller import Poller, Subscription
from trooper_async._waiting.store import Snapshot
from trooper_async.errors import TrooperError
from trooper_async.models import Order, OrderChange

E = TypeVar("E")


@frozen
class Outage:
    """What `orders.watch(outages=True)` yields at the beginning of an outage, and again at its end.

    An outage begins when three polls in a row have failed, or when polls have failed for as long as the poll schedule's
    `cap` (30 seconds by default). It ends with the next poll that succeeds.
    """

    since: datetime
    """When the first failed poll began, by this machine's clock."""
    error: TrooperError | None
    """The last failure; None: the outage is over."""

    @property
    def over(self) -> bool:
        """Whether polls succeed again, so that what follows is up to date."""
        return self.error is None


class _Feed(Subscription[Order]):
    """What a reader has received and has yet to receive. Only the latest state of each order is kept, so it is
    bounded.
    """

    def __init__(self, poller: Poller[Order], cap: float, interval: float, *, outages: bool) -> None:
        super().__init__(every=interval)
        self._cap = cap
        self._outages = outages
        self._seen: Snapshot[Order] = Snapshot(poller.store.latest.items)
        self._yielded: dict[int, Order] = {}
        self._pending: OrderedDict[int, bool] = OrderedDict()
        """By order: whether it has vanished."""
        self._absent: dict[int, Steady] = {}
        self._since: datetime | None = None
        self.events: deque[Outage] = deque(maxlen=2)
        self.error: BaseException | None = None
        self.wake_up = asyncio.Event()

    @property
    def ended(self) -> bool:
        return self.error is not None

    def observe(self, snapshot: Snapshot[Order], began: float, received: float) -> bool:
        for order_id in snapshot.changed_since(self._seen):
            if order_id in snapshot.rows:
                self._absent.pop(order_id, None)
                self._pending[order_id] = False
            else:
                self._absent[order_id] = Steady(self._cap)
        self._seen = snapshot
        for order_id, absent in list(self._absent.items()):
            if not snapshot.complete:
                absent.reset()
            elif absent.seen(began):
                del self._absent[order_id]
                self._pending[order_id] = True
        if self._pending:
            self.wake_up.set()
        return False

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.wake_up.set()

    def outage(self, since: float | None, error: TrooperError | None) -> None:
        if since is not None:
            ago = asyncio.get_running_loop().time() - since
            self._since = datetime.now(UTC) - timedelta(seconds=ago)
        if self._outages and self._since is not None:
            self.events.append(Outage(self._since, error))
            self.wake_up.set()

    def next_change(self) -> OrderChange | None:
        """The next change, or None if there is none."""
        while self._pending:
            order_id, vanished = self._pending.popitem(last=False)
            previous = self._yielded.get(order_id)
            order = self._seen.get(order_id)
            if vanished and previous is not None:
                del self._yielded[order_id]
                return OrderChange(previous, previous, order_id, "vanished")
            if isinstance(order, Order) and order != previous:
                self._yielded[order_id] = order
                return OrderChange(order, previous, order_id, "changed" if previous else "appeared")
        return None


class Watch(AsyncIterator[E], Generic[E]):
    """The changes of all orders, for `async for`. If a `wait_for` around one step times out, iteration can continue.

    It ends with `aclose()`, at the end of an `async with`, or when it is garbage collected.
    """

    def __init__(self, poller: Poller[Order], cap: float, interval: float, *, outages: bool) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        check_seconds(interval, "interval", "orders.watch")
        self._poller = poller
        self._feed = _Feed(poller, cap, interval, outages=outages)
        self._closed = False

    async def __anext__(self) -> E:
        """The next change.

        Raises:
            AuthenticationError, PermissionDeniedError: the API refuses the key, twice in a row.
            ClientClosedError: the client was closed in the meantime.
        """
        if self._closed:
            raise StopAsyncIteration
        feed = self._feed
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._poller.join(feed, "orders.watch")
        while True:
            if feed.events:
                return cast(E, feed.events.popleft())
            if (change := feed.next_change()) is not None:
                return cast(E, change)
            if feed.error is not None:
                self._closed = True
                raise feed.error.about("orders.watch") if isinstance(feed.error, TrooperError) else feed.error
            if self._closed:
                raise StopAsyncIteration
            feed.wake_up.clear()
            await feed.wake_up.wait()

    async def aclose(self) -> None:
        """Leave the poll."""
        self._closed = True
        self._feed.wake_up.set()
        if self._loop is not None:
            await self._poller.leave(self._feed)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._loop is not None and not self._closed and not self._loop.is_closed():
            # the garbage collector may run in any thread
            self._loop.call_soon_threadsafe(self._poller.drop, self._feed)
