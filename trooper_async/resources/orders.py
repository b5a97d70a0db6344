"""Orders: the rented GPU servers."""

from __future__ import annotations

from trooper_async import _arguments as arguments
from trooper_async._protocol import ORDER_LOCK, ORDER_TITLE, call
from trooper_async._wait import OnChange
from trooper_async.errors import ConfigurationError
from trooper_async.models import JSON, Action, Order
from trooper_async.resources._order_purchases import OrderPurchases
from trooper_async.resources._order_waits import OrderWaits
from trooper_async.transition import Transition


class Orders(OrderWaits, OrderPurchases):
    """`client.orders`. Every verb takes an `Order` or an order id."""

    async def start(self, order: Order | int, *, migration_allowed: bool = False) -> Transition:
        """Start a server (POST /api/order-status, action `running`).

        Args:
            order: the order, or its id.
            migration_allowed: whether a frozen server may move to other hardware, which takes 10 to 90 minutes and
                changes its ports, perhaps its CPU. With it, the request is sent once only.

        Returns:
            The accepted transition, for `wait`.

        Raises:
            OrderNotFoundError: no such order in the list. Nothing was sent.
            ServerLockedError: it is locked. Nothing was changed.
            OutcomeUnknownError: it was sent and the answer lost; `.transition` can be waited for.
            APIConnectionError, APIStatusError: it was not done.
        """
        switch, transition = await self._switches.prepare(
            order, "start", "orders.start", migration_allowed=migration_allowed
        )
        await self._transport.request(switch)
        return transition

    async def stop(self, order: Order | int) -> Transition:
        """Stop a server; it goes on costing 35 % of its price (POST /api/order-status, action `stopped`).

        Returns and raises as `start` does.
        """
        switch, transition = await self._switches.prepare(order, "stop", "orders.stop")
        await self._transport.request(switch)
        return transition

    async def restart(self, order: Order | int) -> Transition:
        """Restart a server, a forced power reset (POST /api/order-status, action `restarted`). Sent once only.

        Its status history is read first: a new row in it will be the proof. Returns and raises as `start` does.
        """
        switch, transition = await self._switches.prepare(order, "restart", "orders.restart")
        await self._transport.request(switch)
        return transition

    async def freeze(self, order: Order | int) -> Transition:
        """Freeze a server: it is archived, its resources are released (POST /api/order-status, action `frozen`).

        Returns and raises as `start` does.
        """
        switch, transition = await self._switches.prepare(order, "freeze", "orders.freeze")
        await self._transport.request(switch)
        return transition

    async def start_and_wait(
        self,
        order: Order | int,
        *,
        migration_allowed: bool = False,
        timeout: arguments.Timeout = "usual",
        on_change: OnChange | None = None,
    ) -> Order:
        """Start a server, and wait until it runs.

        Args:
            order, migration_allowed: as for `start`.
            timeout: seconds from the accepted request: 900 by default, 7200 with `migration_allowed`.
            on_change: called with the order for each status seen on the way.

        Returns:
            The order as it is then.

        Raises:
            WaitTimeoutError, SupersededError, OrderVanishedError: as `wait` does.
            OrderNotFoundError, ServerLockedError, APIConnectionError, APIStatusError: as `start` does. After a lost
                answer the wait goes on all the same: if the server gets there, all is well; if not, the wait's error
                has the OutcomeUnknownError as its cause.
        """
        return await self._switch_and_wait(order, "start", timeout, on_change, migration_allowed=migration_allowed)

    async def stop_and_wait(
        self, order: Order | int, *, timeout: arguments.Timeout = "usual", on_change: OnChange | None = None
    ) -> Order:
        """Stop a server, and wait until it has stopped (by default 900 s). Returns and raises as `start_and_wait`."""
        return await self._switch_and_wait(order, "stop", timeout, on_change)

    async def restart_and_wait(
        self, order: Order | int, *, timeout: arguments.Timeout = "usual", on_change: OnChange | None = None
    ) -> Order:
        """Restart a server, and wait until it has (by default 900 s). Returns and raises as `start_and_wait`.

        A restart starts and ends at `running`, so `running` alone proves nothing: see `wait`.
        """
        return await self._switch_and_wait(order, "restart", timeout, on_change)

    async def freeze_and_wait(
        self, order: Order | int, *, timeout: arguments.Timeout = "usual", on_change: OnChange | None = None
    ) -> Order:
        """Freeze a server, and wait until it is frozen (by default 3600 s). Returns and raises as `start_and_wait`."""
        return await self._switch_and_wait(order, "freeze", timeout, on_change)

    async def rename(self, order: Order | int, title: str) -> None:
        """Give a server another title (POST /api/order-title).

        Raises:
            OrderNotFoundError: no such order in the list. Nothing was sent.
            OutcomeUnknownError: it was sent and the answer lost.
            APIConnectionError, APIStatusError: it was not done.
        """
        if not isinstance(title, str):
            raise ConfigurationError("a title must be text: nothing was sent", operation="orders.rename")
        server_id = await self._lookup.server_id(order, "orders.rename")
        sent: dict[str, JSON] = {"serverId": server_id, "title": title}
        await self._transport.request(call(ORDER_TITLE, "orders.rename", f"order {arguments.order_id(order)}", sent))

    async def lock(self, order: Order | int) -> None:
        """Lock a server against status changes (POST /api/order-lock). Raises as `rename` does."""
        await self._lock(order, True, "orders.lock")

    async def unlock(self, order: Order | int) -> None:
        """Unlock a server (POST /api/order-lock). Raises as `rename` does."""
        await self._lock(order, False, "orders.unlock")

    async def _lock(self, order: Order | int, locked: bool, operation: str) -> None:
        server_id = await self._lookup.server_id(order, operation)
        sent: dict[str, JSON] = {"serverId": server_id, "is_locked": locked}
        await self._transport.request(call(ORDER_LOCK, operation, f"order {arguments.order_id(order)}", sent))

    async def _switch_and_wait(
        self,
        order: Order | int,
        action: Action,
        timeout: arguments.Timeout,
        on_change: OnChange | None,
        *,
        migration_allowed: bool = False,
    ) -> Order:
        operation = f"orders.{action}_and_wait"
        if timeout != "usual":
            arguments.check_seconds(timeout)
        switch, transition = await self._switches.prepare(order, action, operation, migration_allowed=migration_allowed)
        lost = await self._switches.send(switch)
        return await self._switches.wait(transition, lost, operation=operation, timeout=timeout, on_change=on_change)
