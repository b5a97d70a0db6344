"""Looks up orders, their servers' ids and their histories before something is sent about them."""

from __future__ import annotations

import asyncio
import math

from trooper_async._api import arguments
from trooper_async._api.endpoints import STATUS_HISTORY, Call
from trooper_async._base.converter import ids_of
from trooper_async._http.retry import RetryPolicy
from trooper_async._waiting.store import Snapshot, Store, Unreadable
from trooper_async.errors import OrderNotFoundError, ResponseFormatError, TrooperError
from trooper_async.models import Order, StatusChange


class Lookup:
    """What one client knows or reads about its orders."""

    def __init__(self, store: Store[Order]) -> None:
        self.store = store
        self._reading = asyncio.Lock()
        self._begun = 0  # reads of the list begun here; below: the last one that has ended, and its failure
        self._ended = 0
        self._failure: TrooperError | None = None

    async def history(
        self, order_id: int, *, retry: RetryPolicy | None = None, until: float = math.inf
    ) -> list[StatusChange]:
        """The status history of an order."""
        history = Call(STATUS_HISTORY, "orders.history", f"order {order_id}", {"order_id": order_id})
        return await self.store.transport.request(history, retry=retry, until=until)

    async def order(self, order_id: int, operation: str) -> Order:
        """Read an order as it is now.

        Raises:
            OrderNotFoundError: it is not in the list.
            ResponseFormatError: its row cannot be read.
        """
        return found(await self.store.read(operation, f"order {order_id}"), order_id, operation)

    async def server_id(self, order: Order | int, operation: str) -> int:
        """The server's id, which the status, title, lock and credentials endpoints take.

        An `Order` carries it. For an order's id it comes from the last list or, if it is not there, from one shared
        read.
        """
        if isinstance(order, Order):
            return order.server_id
        order_id = arguments.order_id(order, operation)
        begun = self._begun
        if _server_id(self.store.latest, order_id) is None:
            async with self._reading:
                # a list whose request began before this call proves that an id exists, not that it is missing
                if _server_id(self.store.latest, order_id) is None and self._ended <= begun:
                    await self._read(operation)
        if (server_id := _server_id(self.store.latest, order_id)) is not None:
            return server_id
        if self._failure is not None:
            raise self._failure.about(operation, f"order {order_id}")
        return found(self.store.latest, order_id, operation).server_id

    async def pause(self, seconds: float) -> None:
        """Sleep, or until the client is closed."""
        await self.store.transport.pause(seconds)

    async def _read(self, operation: str) -> None:
        self._begun += 1
        read = self._begun
        self._failure = None
        try:
            await self.store.read(operation)
        except TrooperError as error:
            self._failure = error  # for all callers that share this read
        self._ended = read


def found(snapshot: Snapshot[Order], order_id: int, operation: str) -> Order:
    """Find an order in a list.

    Raises:
        OrderNotFoundError: it is not in it.
        ResponseFormatError: its row, or whether it has one, cannot be read.
    """
    order = snapshot.get(order_id)
    if isinstance(order, Order):
        return order
    subject = f"order {order_id}"
    if order_id not in snapshot.rows and snapshot.complete:
        text = "it is not in the list of orders: nothing was sent"
        raise OrderNotFoundError(text, operation=operation, subject=subject)
    error = snapshot.unreadable.get(order_id) or ResponseFormatError("$[*].order_id", "readable")  # a row may be it
    raise error.about(operation, subject)


def _server_id(snapshot: Snapshot[Order], order_id: int) -> int | None:
    row = snapshot.rows.get(order_id)
    if isinstance(row, Unreadable):
        ids = ids_of(row.row)
        return None if ids is None else ids[1]
    return None if row is None else row.server_id
