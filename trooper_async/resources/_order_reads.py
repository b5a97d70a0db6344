"""Orders: reading them."""

from __future__ import annotations

import builtins
import fnmatch
import re
from copy import copy

from trooper_async import _arguments as arguments
from trooper_async._convergence import Blank
from trooper_async._protocol import CREDENTIALS, call
from trooper_async._purchases import Purchases
from trooper_async._transport import Transport
from trooper_async.errors import ResponseFormatError
from trooper_async.models import Credentials, Order, StatusChange
from trooper_async.resources._lookup import Lookup, not_found
from trooper_async.resources._switches import Switches
from trooper_async.waiters import Waiters


class OrderReads:
    """The reading part of `client.orders`."""

    def __init__(
        self,
        transport: Transport,
        lookup: Lookup,
        switches: Switches,
        waiters: Waiters,
        purchases: Purchases,
        cap: float,
    ) -> None:
        self._transport = transport
        self._lookup = lookup
        self._switches = switches
        self._waiters = waiters
        self._purchases = purchases
        self._cap = cap

    async def list(self) -> builtins.list[Order]:
        """All orders of the account (GET /api/orders).

        Raises:
            AuthenticationError: the key is not accepted.
            ResponseFormatError: a row is not as documented.
            APIConnectionError, APIStatusError: as every read does.
        """
        return await self._lookup.all_orders("orders.list")

    async def get(self, order: Order | int) -> Order:
        """One order as it is now, from the list (GET /api/orders).

        Raises:
            OrderNotFoundError: it is not in the list.
            ResponseFormatError: its row is not as documented.
            APIConnectionError, APIStatusError: as every read does.
        """
        order_id = arguments.order_id(order)
        subject = f"order {order_id}"
        snapshot = await self._lookup.snapshot("orders.get", subject)
        sighting = snapshot.sighting(order_id)
        if isinstance(sighting, Order):
            return sighting
        if sighting is Blank.ABSENT:
            raise not_found(order_id, "orders.get")
        known = snapshot.unreadable.get(order_id)
        error = ResponseFormatError("$[*].order_id", "readable") if known is None else copy(known)  # a row may be it
        error.operation, error.subject = "orders.get", subject
        raise error

    async def find(self, *, title: str | None = None) -> builtins.list[Order]:
        """The orders with that title (GET /api/orders); rows that can't be read are left out.

        Args:
            title: the title, or a pattern with `*`, `?` and `[…]` for it; None finds all.

        Raises:
            APIConnectionError, APIStatusError, ResponseFormatError: as every read does.
        """
        found = (await self._lookup.snapshot("orders.find", "")).found()
        matches = re.compile(fnmatch.translate("*" if title is None else title)).match
        return [order for order in found if matches(order.title or "")]

    async def history(self, order: Order | int) -> builtins.list[StatusChange]:
        """The last five status changes of a server (GET /api/order-status-history).

        Raises:
            PermissionDeniedError: no such order, or not yours.
            APIConnectionError, APIStatusError, ResponseFormatError: as every read does.
        """
        return await self._lookup.history(arguments.order_id(order))

    async def credentials(self, order: Order | int) -> Credentials:
        """How to log in to a server (POST /api/credentials). The password is in no repr.

        Raises:
            OrderNotFoundError: no such order in the list. Nothing was sent.
            PermissionDeniedError: no such server, or not yours.
            APIConnectionError, APIStatusError, ResponseFormatError: as every read does.
        """
        order_id = arguments.order_id(order)
        server_id = await self._lookup.server_id(order, "orders.credentials")
        return await self._transport.request(
            call(CREDENTIALS, "orders.credentials", f"order {order_id}", {"serverId": server_id})
        )
