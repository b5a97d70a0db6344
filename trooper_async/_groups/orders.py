"""Orders: the rented GPU servers."""

from __future__ import annotations

import asyncio
import builtins
import logging
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, overload

from trooper_async._api import arguments
from trooper_async._api.endpoints import CREDENTIALS, ORDER_LOCK, ORDER_TITLE, call
from trooper_async._buying.purchases import Purchases
from trooper_async._groups.actions import Actions
from trooper_async._groups.history import running_since
from trooper_async._groups.lookup import Lookup
from trooper_async._groups.ordering import wanted_order
from trooper_async._groups.selection import select, warn_if_unknown
from trooper_async._http.transport import Transport
from trooper_async._waiting.feed import Outage, Watch
from trooper_async._waiting.judges import ConvergedJudge, Judge, PredicateJudge, SwitchJudge
from trooper_async._waiting.wait import OnChange
from trooper_async._waiting.waits import Waits
from trooper_async.errors import (
    ConfigurationError,
    PurchaseNotReadyError,
    PurchaseUnknownError,
    ResponseFormatError,
    UnresolvedPurchaseError,
)
from trooper_async.models import (
    JSON,
    Action,
    Blib,
    Credentials,
    Order,
    OrderChange,
    OrderStatus,
    Purchase,
    StatusChange,
    Template,
    Transition,
    status_word,
)

LOG = logging.getLogger("trooper_async.orders")


class Orders:
    """`client.orders`. Every verb takes an `Order` or an order id."""

    def __init__(
        self, transport: Transport, lookup: Lookup, actions: Actions, waits: Waits, purchases: Purchases
    ) -> None:
        self._transport = transport
        self._lookup = lookup
        self._actions = actions
        self._waits = waits
        self._purchases = purchases

    async def list(self) -> builtins.list[Order]:
        """All orders of the account (GET /api/orders).

        Raises:
            AuthenticationError: the key is not accepted.
            ResponseFormatError: a row is not as documented.
            APIConnectionError, APIStatusError: as every read does.
        """
        orders = (await self._lookup.orders("orders.list")).every()
        if isinstance(orders, ResponseFormatError):
            raise orders.about("orders.list")
        return orders

    async def get(self, order: Order | int) -> Order:
        """One order as it is now, from the list (GET /api/orders).

        Raises:
            OrderNotFoundError: it is not in the list.
            ResponseFormatError: its row is not as documented.
            APIConnectionError, APIStatusError: as every read does.
        """
        return await self._lookup.order(arguments.order_id(order), "orders.get")

    async def find(self, *, title: str | None = None) -> builtins.list[Order]:
        """The orders with a title (GET /api/orders).

        It matches as `select` does: if some orders have exactly this title, only they match; otherwise `*`, `?` and
        `[…]` mean what they mean in file names. Upper and lower case are the same. Orders that cannot be read are left
        out, and logged at WARNING, so that one of them does not keep you from stopping the others; use `list()` and
        `select` if they must be an error.

        Args:
            title: the title, or a pattern; None finds all.

        Returns:
            The orders, in the order of the list.

        Raises:
            ConfigurationError: the title is not text. Nothing was sent.
            APIConnectionError, APIStatusError, ResponseFormatError: the list could not be read.
        """
        if title is not None and not isinstance(title, str):
            raise ConfigurationError("title must be text or a pattern: nothing was sent", operation="orders.find")
        snapshot = await self._lookup.orders("orders.find")
        if left_out := [f"order {order_id}" for order_id in snapshot.unreadable if order_id is not None]:
            LOG.warning("orders.find: %d cannot be read and are left out: %s", len(left_out), ", ".join(left_out))
        if not snapshot.complete:
            LOG.warning("orders.find: orders whose id cannot be read are left out")
        return select(snapshot.readable(), title=title)

    async def history(self, order: Order | int) -> builtins.list[StatusChange]:
        """The last five status changes of a server (GET /api/order-status-history).

        Raises:
            PermissionDeniedError: no such order, or not yours.
            APIConnectionError, APIStatusError, ResponseFormatError: as every read does.
        """
        return await self._lookup.history(arguments.order_id(order))

    async def running_since(self, order: Order | int) -> datetime | None:
        """When a server began to run, from its status history (GET /api/order-status-history).

        A restart does not count as an interruption. The API keeps the last five changes: if all of them are restarts of
        a running server, this is the time of the oldest, and the server has run for longer.

        Args:
            order: the order, or its id.

        Returns:
            The time, with its time zone. None if the last change was not to a running server, or if that cannot be
            told: the history is empty, or a change has no time.

        Raises:
            PermissionDeniedError: the order does not exist or is not yours.
            APIConnectionError, APIStatusError, ResponseFormatError: the history could not be read.
        """
        return running_since(await self.history(order))

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
        request, transition = await self._actions.prepare(
            order, "start", "orders.start", migration_allowed=migration_allowed
        )
        await self._transport.request(request)
        return transition

    async def stop(self, order: Order | int) -> Transition:
        """Stop a server; it goes on costing 35 % of its price (POST /api/order-status, action `stopped`).

        Returns and raises as `start` does.
        """
        request, transition = await self._actions.prepare(order, "stop", "orders.stop")
        await self._transport.request(request)
        return transition

    async def restart(self, order: Order | int) -> Transition:
        """Restart a server, a forced power reset (POST /api/order-status, action `restarted`). Sent once only.

        Its status history is read first: a new row in it will be the proof. Returns and raises as `start` does.
        """
        request, transition = await self._actions.prepare(order, "restart", "orders.restart")
        await self._transport.request(request)
        return transition

    async def freeze(self, order: Order | int) -> Transition:
        """Freeze a server: it is archived, its resources are released (POST /api/order-status, action `frozen`).

        Returns and raises as `start` does.
        """
        request, transition = await self._actions.prepare(order, "freeze", "orders.freeze")
        await self._transport.request(request)
        return transition

    async def start_and_wait(
        self,
        order: Order | int,
        *,
        migration_allowed: bool = False,
        timeout: arguments.Timeout = "default",
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
        return await self._act_and_wait(order, "start", timeout, on_change, migration_allowed=migration_allowed)

    async def stop_and_wait(
        self, order: Order | int, *, timeout: arguments.Timeout = "default", on_change: OnChange | None = None
    ) -> Order:
        """Stop a server, and wait until it has stopped (by default 900 s). Returns and raises as `start_and_wait`."""
        return await self._act_and_wait(order, "stop", timeout, on_change)

    async def restart_and_wait(
        self, order: Order | int, *, timeout: arguments.Timeout = "default", on_change: OnChange | None = None
    ) -> Order:
        """Restart a server, and wait until it has (by default 900 s). Returns and raises as `start_and_wait`.

        A restart starts and ends at `running`, so `running` alone proves nothing: see `wait`.
        """
        return await self._act_and_wait(order, "restart", timeout, on_change)

    async def freeze_and_wait(
        self, order: Order | int, *, timeout: arguments.Timeout = "default", on_change: OnChange | None = None
    ) -> Order:
        """Freeze a server, and wait until it is frozen (by default 3600 s). Returns and raises as `start_and_wait`."""
        return await self._act_and_wait(order, "freeze", timeout, on_change)

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

    async def _act_and_wait(
        self,
        order: Order | int,
        action: Action,
        timeout: arguments.Timeout,
        on_change: OnChange | None,
        *,
        migration_allowed: bool = False,
    ) -> Order:
        operation = f"orders.{action}_and_wait"
        if timeout != "default":
            arguments.check_seconds(timeout)
        began = asyncio.get_running_loop().time()
        request, transition = await self._actions.prepare(order, action, operation, migration_allowed=migration_allowed)
        lost = await self._actions.send(request)
        return await self._waits.transition(
            transition,
            operation=operation,
            timeout=arguments.seconds_of(timeout, transition),
            lost=lost,
            on_change=on_change,
            began=began,
        )

    async def wait(
        self, transition: Transition, *, timeout: arguments.Timeout = "default", on_change: OnChange | None = None
    ) -> Order:
        """Wait until an accepted action has taken effect, on the poll that all waits of this client share.

        Only polls that began after this call count. It has taken effect when the current status is the target, and the
        desired one agrees where the API gives one. A restart needs proof: another status seen on the way, and a new row
        in the status history; with only one of them, `running` must stay so for a while (three times the schedule's
        `cap`).

        What no client can tell: what is old in reads that lag longer than a whole transition takes; a restart over
        between two polls that left no readable row; a row of an earlier start that comes late; and, where the API gives
        no wish, that somebody else switched the server (that wait times out).

        Args:
            transition: what start, stop, …, create or buy returned, in this process or (`Transition.from_json`) before.
            timeout: seconds; None waits for ever; by default what its action usually needs.
            on_change: called with the order for each status seen on the way.

        Returns:
            The order as it is then.

        Raises:
            WaitTimeoutError: it did not get there in time. Whatever was begun goes on.
            SupersededError: another switch took its place.
            OrderVanishedError: it is not in the list any more, or never came.
            AuthenticationError, PermissionDeniedError: the key is refused, twice in a row.
            ClientClosedError: the client was closed meanwhile.
        """
        if not isinstance(transition, Transition):
            raise ConfigurationError("wait takes a Transition: for an order, use wait_until", operation="orders.wait")
        seconds = arguments.seconds_of(timeout, transition)
        return await self._waits.transition(transition, operation="orders.wait", timeout=seconds, on_change=on_change)

    async def wait_until(
        self,
        order: Order | int,
        status_or_predicate: OrderStatus | str | Callable[[Order], bool],
        *,
        timeout: float | None = 900.0,
        fail_on: Collection[str] = (),
    ) -> Order:
        """Wait until an order that somebody else switches has a status, or until a function says so.

        Args:
            order: the order, or its id.
            status_or_predicate: a status (the desired one must agree), or a function that is asked about the order as
                first seen and then whenever it has changed. It must return a bool.
            timeout: seconds; None waits for ever.
            fail_on: statuses that end the wait with WaitError once they are steady, such as `{"terminated"}`. By
                default none does: which ones are final is not documented.

        Raises:
            OrderNotFoundError: an id that is, steadily, not in the list and never was.
            WaitError: it has one of the statuses in `fail_on`.
            WaitTimeoutError, SupersededError, OrderVanishedError, …: as `wait` does.
            TypeError: the function returned something else than a bool. What it raises is raised here.
        """
        if isinstance(status_or_predicate, str):
            warn_if_unknown(status_or_predicate, "orders.wait_until")
            judge: Judge = SwitchJudge(status_word(status_or_predicate), self._waits.schedule.cap, fail_on=fail_on)
        elif callable(status_or_predicate):
            judge = PredicateJudge(status_or_predicate, self._waits.schedule.cap, fail_on=fail_on)
        else:
            raise ConfigurationError("wait_until needs a status or a function", operation="orders.wait_until")
        return await self._wait_for(order, judge, "orders.wait_until", timeout)

    async def wait_until_converged(self, order: Order | int, *, timeout: float | None = 900.0) -> Order:
        """Wait until an order's current status is its desired one, whatever that is.

        Raises:
            WaitError: the API gives no desired status for it.
            OrderNotFoundError: an id that is, steadily, not in the list and never was.
            WaitTimeoutError, OrderVanishedError, …: as `wait` does.
        """
        judge = ConvergedJudge(self._waits.schedule.cap)
        return await self._wait_for(order, judge, "orders.wait_until_converged", timeout)

    async def wait_until_reachable(self, order: Order | int, *, timeout: float | None = 900.0) -> Credentials:
        """Wait until a server runs and an SSH server answers at its port; how to log in to it.

        Address and port are read anew for each try: they may change after a freeze or a migration.

        Raises:
            OrderNotFoundError: an id that is, steadily, not in the list and never was.
            WaitTimeoutError, SupersededError, OrderVanishedError, …: as `wait` does.
        """
        return await self._waits.reachable(
            arguments.order_id(order), operation="orders.wait_until_reachable", timeout=timeout
        )

    @overload
    def watch(self, *, interval: float = 5.0, outages: Literal[False] = False) -> Watch[OrderChange]: ...

    @overload
    def watch(self, *, interval: float = 5.0, outages: bool) -> Watch[OrderChange | Outage]: ...

    def watch(self, *, interval: float = 5.0, outages: bool = False) -> Watch[Any]:
        """Every order as `appeared`, then each change of any of them, until the loop over it ends.

        It shares the poll with all waits. A slow reader gets each order's latest state. `vanished` comes once the order
        is missing steadily (three polls that span the schedule's `cap`). Failed polls are ridden out. What it returns
        goes on after a step of it was cancelled: `asyncio.wait_for(anext(changes), 5)` may be called again and again.

        Args:
            interval: seconds between polls, never below the schedule's floor.
            outages: whether an `Outage` is yielded when polls have failed for a while, and again when it is over.

        Raises:
            AuthenticationError, PermissionDeniedError: the API refuses the key, twice in a row.
            ClientClosedError: the client was closed in the meantime.
        """
        return Watch(self._waits.orders, self._waits.schedule.cap, interval, outages=outages)

    async def _wait_for(self, order: Order | int, judge: Judge, operation: str, timeout: float | None) -> Order:
        return await self._waits.order(arguments.order_id(order), judge, operation=operation, timeout=timeout)

    async def create(
        self,
        blib: Blib,
        *,
        contract_interval: str,
        terms_accepted: bool,
        price_h: Decimal | float | None = None,
        total_price: Decimal | float | None = None,
        second_partition_percentage: int | None = None,
        templates: Iterable[Template | int] = (),
        max_price_h: Decimal | float | None = None,
        reference: str | None = None,
    ) -> Transition:
        """Order a GPU server (POST /api/order). Sent once, never again by itself.

        Args:
            blib: the offer, as `blibs.list()` gave it.
            contract_interval: `HOUR` (the others are not spelled in the API document: `DAY`, `WEEK`, … by analogy).
            terms_accepted: whether you accept the vendor's terms; without, the API refuses.
            price_h: EUR per hour; the offer's by default. The API refuses what is not its current price.
            total_price: EUR for the whole interval; for `HOUR` it is `price_h`, for others it must be given.
            second_partition_percentage: share of the disk for a second partition.
            templates: what to install on it.
            max_price_h: the most that it may cost, in EUR per hour.
            reference: your own name for this purchase; a repeat under the same name buys nothing more.

        Returns:
            The transition of the new order.

        Raises:
            ConfigurationError: no price, or one that can't be sent. Nothing was sent.
            PriceError: dearer than `max_price_h`, or another price than the offer's. Nothing was sent.
            UnresolvedPurchaseError: an earlier purchase is unresolved. Nothing was sent.
            PurchaseUnknownError: it was sent and the answer lost: it may be bought. See `resolve`.
            BadRequestError: the API refuses it, also for a price that is no longer the current one.
        """
        wanted, prepare = wanted_order(
            "orders.create",
            blib,
            contract_interval=contract_interval,
            terms_accepted=terms_accepted,
            price_h=price_h,
            total_price=total_price,
            second_partition_percentage=second_partition_percentage,
            templates=templates,
            max_price_h=max_price_h,
            reference=reference,
        )
        async with self._purchases.made(wanted, prepare) as bought:
            return bought.transition

    async def create_and_wait(
        self,
        blib: Blib,
        *,
        contract_interval: str,
        terms_accepted: bool,
        price_h: Decimal | float | None = None,
        total_price: Decimal | float | None = None,
        second_partition_percentage: int | None = None,
        templates: Iterable[Template | int] = (),
        max_price_h: Decimal | float | None = None,
        reference: str | None = None,
        timeout: float | None = 1800.0,
        on_change: OnChange | None = None,
    ) -> Order:
        """Order a GPU server, and wait until it runs.

        Args:
            blib … reference: as for `create`.
            timeout: seconds from the accepted order; None waits for ever.
            on_change: called with the new order for each status seen on the way.

        Raises:
            PurchaseNotReadyError: it is bought, but the wait after it ended otherwise; its cause says how.
            ConfigurationError, PriceError, UnresolvedPurchaseError, PurchaseUnknownError, …: as for `create`.
        """
        arguments.check_seconds(timeout)
        arguments.check_on_change(on_change, "orders.create_and_wait")
        wanted, prepare = wanted_order(
            "orders.create_and_wait",
            blib,
            contract_interval=contract_interval,
            terms_accepted=terms_accepted,
            price_h=price_h,
            total_price=total_price,
            second_partition_percentage=second_partition_percentage,
            templates=templates,
            max_price_h=max_price_h,
            reference=reference,
        )
        async with self._purchases.made(wanted, prepare) as bought:
            return await self._purchases.wait(bought, operation=wanted.operation, timeout=timeout, on_change=on_change)

    @property
    def purchases(self) -> tuple[Purchase, ...]:
        """What this client bought, tried to buy, or does not know whether it bought, the oldest first."""
        return self._purchases.journal.all

    async def resolve(
        self,
        purchase_or_error: Purchase | PurchaseUnknownError | UnresolvedPurchaseError | PurchaseNotReadyError,
        order: Order | int | None,
    ) -> None:
        """Say what became of a purchase that is unresolved, so that others can be made.

        Args:
            purchase_or_error: the purchase, or the error that names it.
            order: the order that it is; None if it was not made.

        Raises:
            ConfigurationError: no purchase of this client, or one that is on the wire still.
        """
        await self._purchases.journal.resolve(purchase_or_error, None if order is None else arguments.order_id(order))
