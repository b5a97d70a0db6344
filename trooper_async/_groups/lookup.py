"""Orders looked up for what is sent about them: their servers' ids, and their histories."""

from __future__ import annotations

import asyncio
import math

from trooper_async._api import arguments
from trooper_async._api.endpoints import STATUS_HISTORY, call
from trooper_async._base.converter import ids_of
from trooper_async._http.retry import RetryPolicy
from trooper_async._waiting.store import Snapshot, Store, Unreadable
from trooper_async.errors import OrderNotFoundError, ResponseFormatError, TrooperError
from trooper_async.models import Order, StatusChange


class Lookup:
    """What one client knows of its orders, or reads."""

    def __init__(self, store: Store[Order]) -> None:
        self._store = store
        self._reading = asyncio.Lock()
        self._begun = 0  # reads of the list that were begun here, the last of them that has ended, and how it failed
        self._ended = 0
        self._failure: TrooperError | None = None

    async def history(
        self, order_id: int, *, retry: RetryPolicy | None = None, until: float = math.inf
    ) -> list[StatusChange]:
        """The status history of an order."""
        history = call(STATUS_HISTORY, "orders.history", f"order {order_id}", {"order_id": order_id})
        return await self._store.transport.request(history, retry=retry, until=until)

    async def order(self, order_id: int, operation: str) -> Order:
        """An order as it is now.

        Raises:
            OrderNotFoundError: it is not in the list.
            ResponseFormatError: its row can't be read.
        """
        return found(await self._store.read(operation, f"order {order_id}"), order_id, operation)

    async def orders(self, operation: str) -> Snapshot[Order]:
        """All orders as they are now, as far as they can be read."""
        return await self._store.read(operation)

    async def server_id(self, order: Order | int, operation: str) -> int:
        """The server's id, which the status, title, lock and credentials endpoints take.

        An `Order` carries it. For an order's id it comes from the last list or, if it is not there, from one shared
        read.
        """
        if isinstance(order, Order):
            return order.server_id
        order_id = arguments.order_id(order, operation)
        begun = self._begun
        if _server_id(self._store.latest, order_id) is None:
            async with self._reading:
                # a list that was begun before this call proves that an id is there, not that it is not
                if _server_id(self._store.latest, order_id) is None and self._ended <= begun:
                    await self._read(operation, f"order {order_id}")
        return self._known(order_id, operation)

    async def pause(self, seconds: float) -> None:
        """Wait for so long, or until the client is closed."""
        await self._store.transport.pause(seconds)

    async def _read(self, operation: str, subject: str) -> None:
        self._begun += 1
        read = self._begun
        self._failure = None
        try:
            await self._store.read(operation, subject)
        except TrooperError as error:
            self._failure = error  # of all who wait for this read
        self._ended = read

    def _known(self, order_id: int, operation: str) -> int:
        server_id = _server_id(self._store.latest, order_id)
        if server_id is not None:
            return server_id
        if self._failure is not None:
            raise self._failure.about(operation, f"order {order_id}")
        return found(self._store.latest, order_id, operation).server_id


def found(snapshot: Snapshot[Order], order_id: int, operation: str) -> Order:
    """An order out of a list.

    Raises:
        OrderNotFoundError: it is not in it.
        ResponseFormatError: its row, or whether it has one, can't be read.
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
