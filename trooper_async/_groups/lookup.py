"""Orders looked up for what is sent about them: their servers' ids, their histories, and the list read tolerantly."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from copy import copy

from trooper_async._api import arguments
from trooper_async._api.endpoints import ORDERS, STATUS_HISTORY, call
from trooper_async._http.retry import RetryPolicy
from trooper_async._http.transport import Transport
from trooper_async._waiting.poller import Poller
from trooper_async._waiting.store import Snapshot, all_orders_after, orders_after
from trooper_async.errors import OrderNotFoundError, TrooperError
from trooper_async.models import Order, StatusChange


class Lookup:
    """What one client knows of its orders, or reads."""

    def __init__(self, transport: Transport, poller: Poller) -> None:
        self._transport = transport
        self._poller = poller
        self._reading = asyncio.Lock()
        self._reads = 0  # look-ups begun; the last one that has ended, and how if it failed
        self._read = 0
        self._failure: TrooperError | None = None
        self._orders = orders_after(lambda: poller.latest)
        self._all_orders = all_orders_after(lambda: poller.latest)

    async def history(
        self, order_id: int, *, retry: RetryPolicy | None = None, pace: float | None = None
    ) -> list[StatusChange]:
        """The status history of an order."""
        history = call(STATUS_HISTORY, "orders.history", f"order {order_id}", {"order_id": order_id})
        return await self._transport.request(history, retry=retry, pace=pace)

    async def snapshot(self, operation: str, subject: str) -> Snapshot:
        """All orders as far as they can be read, asked for now."""
        snapshot = await self._transport.request(call(ORDERS, operation, subject, decode=self._orders))
        self._poller.read_elsewhere(snapshot)
        return snapshot

    async def all_orders(self, operation: str) -> list[Order]:
        """The order of each row, asked for now; a row that can't be read is an error."""
        orders, snapshot = await self._transport.request(call(ORDERS, operation, decode=self._all_orders))
        self._poller.read_elsewhere(snapshot)
        return orders

    async def server_id(self, order: Order | int, operation: str) -> int:
        """What status, title, lock and credentials want; of an id from the last list, else by one shared read."""
        if isinstance(order, Order):
            return order.server_id
        order_id = arguments.order_id(order)
        begun = self._reads
        if order_id not in self._poller.latest.server_ids:
            async with self._reading:
                # a list that was begun before this was asked proves that an id is there, not that it is not
                if order_id not in self._poller.latest.server_ids and self._read <= begun:
                    await self._read_list(operation, f"order {order_id}")
        return self._listed(order_id, operation)

    async def missing(self, order_ids: Collection[int], operation: str) -> dict[int, TrooperError]:
        """Which of these can't be told the server's id of, and why, after at most one read for all of them."""
        if all(order_id in self._poller.latest.server_ids for order_id in order_ids):
            return {}
        async with self._reading:
            await self._read_list(operation, "its orders")
        errors = {}
        for order_id in order_ids:
            try:
                self._listed(order_id, operation)
            except TrooperError as error:
                errors[order_id] = error
        return errors

    async def _read_list(self, operation: str, subject: str) -> None:
        self._reads += 1
        self._failure = None
        try:
            await self.snapshot(operation, subject)
        except TrooperError as error:
            self._failure = copy(error)  # of all who wait for this read
        self._read = self._reads

    def _listed(self, order_id: int, operation: str) -> int:
        server_id = self._poller.latest.server_ids.get(order_id)
        if server_id is not None:
            return server_id
        # where its row can't be read: it is there, and no server's id is guessed
        known = self._failure or self._poller.latest.unreadable.get(order_id)
        if known is None:
            raise not_found(order_id, operation)
        failure = copy(known)
        failure.operation, failure.subject = operation, f"order {order_id}"
        raise failure


def not_found(order_id: int, operation: str) -> OrderNotFoundError:
    text = "it is not in the list of orders: nothing was sent"
    return OrderNotFoundError(text, operation=operation, subject=f"order {order_id}")
