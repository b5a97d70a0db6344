"""Orders: reading them, and from an order id to its server's."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Mapping
from copy import copy
from fnmatch import fnmatchcase

from trooper_async import _arguments as arguments
from trooper_async._poller import Poller
from trooper_async._protocol import CREDENTIALS, ORDERS, ORDERS_TOLERANT, STATUS_HISTORY, call
from trooper_async._purchases import Purchases
from trooper_async._retry import RetryPolicy
from trooper_async._snapshot import Snapshot
from trooper_async._transport import Transport
from trooper_async.errors import OrderNotFoundError, ResponseFormatError, TrooperError
from trooper_async.models import Credentials, Order, StatusChange
from trooper_async.waiters import Waiters


class OrderReads:
    """The reading part of `client.orders`."""

    def __init__(
        self, transport: Transport, poller: Poller, waiters: Waiters, purchases: Purchases, cap: float
    ) -> None:
        self._transport = transport
        self._poller = poller
        self._waiters = waiters
        self._purchases = purchases
        self._cap = cap
        self._reading = asyncio.Lock()
        self._reads = 0  # look-ups begun; the last one that has ended, and how if it failed
        self._read = 0
        self._failure: TrooperError | None = None
        self._hidden: Mapping[int, ResponseFormatError] = {}

    async def list(self) -> builtins.list[Order]:
        """All orders of the account (GET /api/orders).

        Raises:
            AuthenticationError: the key is not accepted.
            ResponseFormatError: a row is not as documented.
            APIConnectionError, APIStatusError: as every read does.
        """
        orders = await self._transport.request(call(ORDERS, "orders.list"))
        self._poller.listed = {order.order_id: order.server_id for order in orders}
        return orders

    async def get(self, order: Order | int) -> Order:
        """One order as it is now, from the list (GET /api/orders).

        Raises:
            OrderNotFoundError: it is not in the list.
            ResponseFormatError: its row is not as documented.
            APIConnectionError, APIStatusError: as every read does.
        """
        order_id = arguments.order_id(order)
        snapshot = await self._snapshot("orders.get", f"order {order_id}")
        if order_id in snapshot.unreadable:
            raise snapshot.unreadable[order_id]
        if order_id not in snapshot.orders:
            if not snapshot.complete:  # one of the rows may be it
                subject = f"order {order_id}"
                raise ResponseFormatError("$[*].order_id", "readable", operation="orders.get", subject=subject)
            raise _not_found(order_id, "orders.get")
        return snapshot.orders[order_id]

    async def find(self, *, title: str | None = None) -> builtins.list[Order]:
        """The orders with that title (GET /api/orders); rows that can't be read are left out.

        Args:
            title: the title, or a pattern with `*`, `?` and `[…]` for it; None finds all.

        Raises:
            APIConnectionError, APIStatusError, ResponseFormatError: as every read does.
        """
        found = (await self._snapshot("orders.find", "")).orders.values()
        return [order for order in found if title is None or fnmatchcase(order.title or "", title)]

    async def history(self, order: Order | int) -> builtins.list[StatusChange]:
        """The last five status changes of a server (GET /api/order-status-history).

        Raises:
            PermissionDeniedError: no such order, or not yours.
            APIConnectionError, APIStatusError, ResponseFormatError: as every read does.
        """
        return await self._history(arguments.order_id(order))

    async def credentials(self, order: Order | int) -> Credentials:
        """How to log in to a server (POST /api/credentials). The password is in no repr.

        Raises:
            OrderNotFoundError: no such order in the list. Nothing was sent.
            PermissionDeniedError: no such server, or not yours.
            APIConnectionError, APIStatusError, ResponseFormatError: as every read does.
        """
        order_id = arguments.order_id(order)
        server_id = await self._server_id(order, "orders.credentials")
        return await self._transport.request(
            call(CREDENTIALS, "orders.credentials", f"order {order_id}", {"serverId": server_id})
        )

    async def _history(self, order_id: int, retry: RetryPolicy | None = None) -> builtins.list[StatusChange]:
        history = call(STATUS_HISTORY, "orders.history", f"order {order_id}", {"order_id": order_id})
        return await self._transport.request(history, retry=retry)

    async def _snapshot(self, operation: str, subject: str) -> Snapshot:
        snapshot = await self._transport.request(call(ORDERS_TOLERANT, operation, subject))
        self._poller.listed = snapshot.server_ids
        return snapshot

    async def _server_id(self, order: Order | int, operation: str) -> int:
        """What status, title, lock and credentials want; of an id from the last list, else by one shared read."""
        if isinstance(order, Order):
            return order.server_id
        order_id = arguments.order_id(order)
        subject = f"order {order_id}"
        begun = self._reads
        if order_id not in self._poller.listed:
            async with self._reading:
                # a list that was begun before this was asked proves that an id is there, not that it is not
                if order_id not in self._poller.listed and self._read <= begun:
                    self._reads += 1
                    self._failure = None
                    try:
                        snapshot = await self._snapshot(operation, subject)
                        self._hidden = snapshot.unreadable
                    except TrooperError as error:
                        self._failure = copy(error)  # of all who wait for this read
                    self._read = self._reads
        server_id = self._poller.listed.get(order_id)
        if server_id is not None:
            return server_id
        known = self._failure or self._hidden.get(order_id)  # it is there, and no server's id is guessed
        if known is None:
            raise _not_found(order_id, operation)
        failure = copy(known)
        failure.operation, failure.subject = operation, subject
        raise failure


def _not_found(order_id: int, operation: str) -> OrderNotFoundError:
    text = "it is not in the list of orders: nothing was sent"
    return OrderNotFoundError(text, operation=operation, subject=f"order {order_id}")
