"""Orders: the rented GPU servers."""

from __future__ import annotations

import builtins
import logging
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, TypeVar, get_args, overload

from trooper_async._api import arguments
from trooper_async._api.endpoints import CREDENTIALS, ORDER_LOCK, ORDER_TITLE, Call, Endpoint
from trooper_async._buying.purchases import Purchases
from trooper_async._groups.actions import Actions
from trooper_async._groups.history import RUNNING, STOPPED, since
from trooper_async._groups.lookup import Lookup
from trooper_async._groups.ordering import wanted_order
from trooper_async._groups.rented import Job, Then
from trooper_async._groups.selection import select, warn_if_unknown
from trooper_async._http.transport import Transport
from trooper_async._waiting.feed import Outage, Watch
from trooper_async._waiting.judges import ConvergedJudge, Judge, PredicateJudge, StatusJudge
from trooper_async._waiting.wait import OnChange
from trooper_async._waiting.waits import Waits
from trooper_async.errors import (
    PurchaseNotReadyError,
    PurchaseUnknownError,
    ResponseFormatError,
    UnresolvedPurchaseError,
)
from trooper_async.models import (
    JSON,
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

T = TypeVar("T")

LOG = logging.getLogger("trooper_async.orders")


class Orders:
    """`client.orders`: your orders, which are rented servers. Methods take an `Order` or an order id.

    Actions (`start`, `stop`, `restart`, `freeze`) return once the API has accepted them. The `…_and_wait` methods
    return once the server is confirmed to have reached the requested state.
    """

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

        Returns:
            The orders, in the order of the list.

        Raises:
            AuthenticationError: the API does not accept the key.
            ResponseFormatError: an order's id or status cannot be read.
            APIConnectionError, APIStatusError: the request failed.
        """
        orders = (await self._lookup.store.read("orders.list")).every()
        if isinstance(orders, ResponseFormatError):
            raise orders.about("orders.list")
        return orders

    async def get(self, order: Order | int) -> Order:
        """One order as it is now, read from the list (GET /api/orders).

        Args:
            order: the order, or its id.

        Returns:
            The order.

        Raises:
            ConfigurationError: the order is neither an `Order` nor an id. Nothing was sent.
            OrderNotFoundError: the order is not in the list.
            ResponseFormatError: the order's row cannot be read.
            APIConnectionError, APIStatusError: the request failed.
        """
        return await self._lookup.order(arguments.order_id(order, "orders.get"), "orders.get")

    async def find(self, *, title: str | None = None) -> builtins.list[Order]:
        """The orders with a title (GET /api/orders).

        It matches as `select` does: if some orders have exactly this title, only they match; otherwise `*`, `?` and
        `[…]` mean what they mean in file names. Upper and lower case are the same. Orders that cannot be read are left
        out, and logged at WARNING, so that one unreadable order does not prevent you from stopping the others. If they
        must raise an error, use `list()` and `select`.

        Args:
            title: the title, or a pattern; None finds all.

        Returns:
            The orders, in the order of the list.

        Raises:
            ConfigurationError: the title is not text. Nothing was sent.
            APIConnectionError, APIStatusError, ResponseFormatError: the list could not be read.
        """
        if title is not None:
            arguments.check_text(title, "title", "orders.find")
        snapshot = await self._lookup.store.read("orders.find")
        if left_out := [f"order {order_id}" for order_id in snapshot.unreadable if order_id is not None]:
            LOG.warning("orders.find: %d cannot be read and are left out: %s", len(left_out), ", ".join(left_out))
        if not snapshot.complete:
            LOG.warning("orders.find: orders whose id cannot be read are left out")
        return select(snapshot.readable(), title=title)

    async def history(self, order: Order | int) -> builtins.list[StatusChange]:
        """The last five status changes of a server (GET /api/order-status-history).

        Args:
            order: the order, or its id.

        Returns:
            The changes, in the API's order. Sort by `status_since`: ids are not in the order of time.

        Raises:
            ConfigurationError: the order is neither an `Order` nor an id. Nothing was sent.
            PermissionDeniedError: the order does not exist, or is not yours.
            APIConnectionError, APIStatusError, ResponseFormatError: the request failed, or its response cannot be read.
        """
        return await self._lookup.history(arguments.order_id(order, "orders.history"))

    async def running_since(self, order: Order | int) -> datetime | None:
        """When a server began to run, from its status history (GET /api/order-status-history).

        A restart does not count as an interruption. The API keeps the last five changes: if all of them are restarts of
        a running server, the time of the oldest is returned, although the server has run for longer.

        Args:
            order: the order, or its id.

        Returns:
            The time, with its time zone. None if the last change was not to a running server, if the history is empty,
            or if a change has no time.

        Raises:
            PermissionDeniedError: the order does not exist or is not yours.
            APIConnectionError, APIStatusError, ResponseFormatError: the history could not be read.
        """
        return since(await self._lookup.history(arguments.order_id(order, "orders.running_since")), RUNNING)

    async def stopped_since(self, order: Order | int) -> datetime | None:
        """When a server was stopped, from its status history (GET /api/order-status-history).

        Args:
            order: the order, or its id.

        Returns:
            The time, with its time zone. None if the last change was not to a stopped server, or if that cannot be
            told: the history is empty, or a change has no time.

        Raises:
            PermissionDeniedError: the order does not exist or is not yours.
            APIConnectionError, APIStatusError, ResponseFormatError: the history could not be read.
        """
        return since(await self._lookup.history(arguments.order_id(order, "orders.stopped_since")), STOPPED)

    async def credentials(self, order: Order | int) -> Credentials:
        """How to log in to a server (POST /api/credentials).

        Args:
            order: the order, or its id.

        Returns:
            Address, SSH port, user name and password. The password is in no `repr`, and credentials cannot be pickled.

        Raises:
            ConfigurationError: the order is neither an `Order` nor an id. Nothing was sent.
            OrderNotFoundError: the order is not in the list. Nothing was sent.
            PermissionDeniedError: the server does not exist, is not yours, or is not ready yet.
            APIConnectionError, APIStatusError, ResponseFormatError: the request failed, or its response cannot be read.
        """
        return await self._call(CREDENTIALS, order, "orders.credentials")

    async def start(self, order: Order | int, *, migration_allowed: bool = False) -> Transition:
        """Start a server (POST /api/order-status, action `running`).

        Args:
            order: the order, or its id.
            migration_allowed: whether a frozen server may move to other hardware. That takes 10 to 90 minutes and
                changes its ports, perhaps its CPU. The request is then never repeated.

        Returns:
            The accepted transition. Pass it to `wait`, now or in another process.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
            OrderNotFoundError: the order is not in the list. Nothing was sent.
            ServerLockedError: the server is locked. Nothing was changed.
            OutcomeUnknownError: the request was sent, but its response was lost. Pass `error.transition` to `wait`.
            APIConnectionError, APIStatusError: the API was not reached, or returned an error.
        """
        return await self._actions.act(order, "start", "orders.start", migration_allowed=migration_allowed)

    async def stop(self, order: Order | int) -> Transition:
        """Stop a server (POST /api/order-status, action `stopped`).

        A stopped server keeps its hardware and costs 35 % of its price. A frozen server releases it.

        Args:
            order: the order, or its id.

        Returns:
            The accepted transition. Pass it to `wait`, now or in another process.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
            OrderNotFoundError: the order is not in the list. Nothing was sent.
            ServerLockedError: the server is locked. Nothing was changed.
            OutcomeUnknownError: the request was sent, but its response was lost. Pass `error.transition` to `wait`.
            APIConnectionError, APIStatusError: the API was not reached, or returned an error.
        """
        return await self._actions.act(order, "stop", "orders.stop")

    async def restart(self, order: Order | int) -> Transition:
        """Restart a server by a power reset (POST /api/order-status, action `restarted`). Never repeated.

        The status history is read first, since a new row in it is evidence of the restart.

        Args:
            order: the order, or its id.

        Returns:
            The accepted transition. Pass it to `wait`, now or in another process.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
            OrderNotFoundError: the order is not in the list. Nothing was sent.
            ServerLockedError: the server is locked. Nothing was changed.
            OutcomeUnknownError: the request was sent, but its response was lost. Pass `error.transition` to `wait`.
            APIConnectionError, APIStatusError: the API was not reached, or returned an error.
        """
        return await self._actions.act(order, "restart", "orders.restart")

    async def freeze(self, order: Order | int) -> Transition:
        """Freeze a server (POST /api/order-status, action `frozen`).

        A frozen server is archived and its hardware is released. It takes minutes to start again, and its address and
        ports may change.

        Args:
            order: the order, or its id.

        Returns:
            The accepted transition. Pass it to `wait`, now or in another process.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
            OrderNotFoundError: the order is not in the list. Nothing was sent.
            ServerLockedError: the server is locked. Nothing was changed.
            OutcomeUnknownError: the request was sent, but its response was lost. Pass `error.transition` to `wait`.
            APIConnectionError, APIStatusError: the API was not reached, or returned an error.
        """
        return await self._actions.act(order, "freeze", "orders.freeze")

    async def start_and_wait(
        self,
        order: Order | int,
        *,
        migration_allowed: bool = False,
        timeout: arguments.Timeout = "default",
        on_change: OnChange | None = None,
    ) -> Order:
        """Start a server, and wait until it is running (POST /api/order-status; polls GET /api/orders).

        If the response is lost, the wait continues: it returns if the server reaches the state; otherwise its error has
        the `OutcomeUnknownError` as its cause.

        Args:
            order: the order, or its id.
            migration_allowed: whether a frozen server may move to other hardware. That takes 10 to 90 minutes and
                changes its ports, perhaps its CPU. The request is then never repeated.
            timeout: seconds for the whole call; None for no limit. By default 900, and 7200 with `migration_allowed`.
            on_change: a plain function, called with the order at each new status. An exception from it ends the wait
                and is raised here.

        Returns:
            The order, running.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
            OrderNotFoundError: the order is not in the list. Nothing was sent.
            ServerLockedError: the server is locked. Nothing was changed.
            APIConnectionError, APIStatusError: the action was not accepted.
            OutcomeUnknownError: the timeout passed before any response to the request came; it may have been done.
            WaitTimeoutError: the state was not reached in time. The change itself continues.
            SupersededError: another action replaced this one.
            OrderVanishedError: the order is not in the list any more.
            WaitError: the API refused the key twice in a row.
            ClientClosedError: the client was closed in the meantime.
        """
        return await self._actions.act_and_wait(
            order,
            "start",
            operation="orders.start_and_wait",
            migration_allowed=migration_allowed,
            timeout=timeout,
            on_change=on_change,
        )

    async def stop_and_wait(
        self, order: Order | int, *, timeout: arguments.Timeout = "default", on_change: OnChange | None = None
    ) -> Order:
        """Stop a server, and wait until it has stopped (POST /api/order-status; polls GET /api/orders).

        A stopped server keeps its hardware, and costs 35 % of its price. If the response is lost, the wait continues:
        it returns if the server reaches the state; otherwise its error has the `OutcomeUnknownError` as its cause.

        Args:
            order: the order, or its id.
            timeout: seconds for the whole call; None for no limit. By default 900.
            on_change: a plain function, called with the order at each new status. An exception from it ends the wait
                and is raised here.

        Returns:
            The order, stopped.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
            OrderNotFoundError: the order is not in the list. Nothing was sent.
            ServerLockedError: the server is locked. Nothing was changed.
            APIConnectionError, APIStatusError: the action was not accepted.
            OutcomeUnknownError: the timeout passed before any response to the request came; it may have been done.
            WaitTimeoutError: the state was not reached in time. The change itself continues.
            SupersededError: another action replaced this one.
            OrderVanishedError: the order is not in the list any more.
            WaitError: the API refused the key twice in a row.
            ClientClosedError: the client was closed in the meantime.
        """
        return await self._actions.act_and_wait(
            order, "stop", operation="orders.stop_and_wait", timeout=timeout, on_change=on_change
        )

    async def restart_and_wait(
        self, order: Order | int, *, timeout: arguments.Timeout = "default", on_change: OnChange | None = None
    ) -> Order:
        """Restart a server, and wait until it has restarted (POST /api/order-status; polls GET /api/orders).

        A restart begins and ends at `running`, so `running` alone does not prove it: see `wait`. The request is never
        repeated. If the response is lost, the wait continues: it returns if the server reaches the state; otherwise its
        error has the `OutcomeUnknownError` as its cause.

        Args:
            order: the order, or its id.
            timeout: seconds for the whole call; None for no limit. By default 900.
            on_change: a plain function, called with the order at each new status. An exception from it ends the wait
                and is raised here.

        Returns:
            The order, running again.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
            OrderNotFoundError: the order is not in the list. Nothing was sent.
            ServerLockedError: the server is locked. Nothing was changed.
            APIConnectionError, APIStatusError: the action was not accepted.
            OutcomeUnknownError: the timeout passed before any response to the request came; it may have been done.
            WaitTimeoutError: the state was not reached in time. The change itself continues.
            SupersededError: another action replaced this one.
            OrderVanishedError: the order is not in the list any more.
            WaitError: the API refused the key twice in a row.
            ClientClosedError: the client was closed in the meantime.
        """
        return await self._actions.act_and_wait(
            order, "restart", operation="orders.restart_and_wait", timeout=timeout, on_change=on_change
        )

    async def freeze_and_wait(
        self, order: Order | int, *, timeout: arguments.Timeout = "default", on_change: OnChange | None = None
    ) -> Order:
        """Freeze a server, and wait until it is frozen (POST /api/order-status; polls GET /api/orders).

        A frozen server is archived and its hardware is released. If the response is lost, the wait continues: it
        returns if the server reaches the state; otherwise its error has the `OutcomeUnknownError` as its cause.

        Args:
            order: the order, or its id.
            timeout: seconds for the whole call; None for no limit. By default 3600.
            on_change: a plain function, called with the order at each new status. An exception from it ends the wait
                and is raised here.

        Returns:
            The order, frozen.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
            OrderNotFoundError: the order is not in the list. Nothing was sent.
            ServerLockedError: the server is locked. Nothing was changed.
            APIConnectionError, APIStatusError: the action was not accepted.
            OutcomeUnknownError: the timeout passed before any response to the request came; it may have been done.
            WaitTimeoutError: the state was not reached in time. The change itself continues.
            SupersededError: another action replaced this one.
            OrderVanishedError: the order is not in the list any more.
            WaitError: the API refused the key twice in a row.
            ClientClosedError: the client was closed in the meantime.
        """
        return await self._actions.act_and_wait(
            order, "freeze", operation="orders.freeze_and_wait", timeout=timeout, on_change=on_change
        )

    async def rename(self, order: Order | int, title: str) -> None:
        """Give a server another title (POST /api/order-title).

        Args:
            order: the order, or its id.
            title: the new title.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
            OrderNotFoundError: the order is not in the list. Nothing was sent.
            OutcomeUnknownError: the request was sent, but its response was lost.
            APIConnectionError, APIStatusError: the API was not reached, or returned an error.
        """
        arguments.check_text(title, "title", "orders.rename")
        await self._call(ORDER_TITLE, order, "orders.rename", title=title)

    async def lock(self, order: Order | int) -> None:
        """Lock a server, so that its status cannot be changed (POST /api/order-lock).

        Args:
            order: the order, or its id.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
            OrderNotFoundError: the order is not in the list. Nothing was sent.
            OutcomeUnknownError: the request was sent, but its response was lost.
            APIConnectionError, APIStatusError: the API was not reached, or returned an error.
        """
        await self._call(ORDER_LOCK, order, "orders.lock", is_locked=True)

    async def unlock(self, order: Order | int) -> None:
        """Unlock a server, so that its status can be changed again (POST /api/order-lock).

        Args:
            order: the order, or its id.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
            OrderNotFoundError: the order is not in the list. Nothing was sent.
            OutcomeUnknownError: the request was sent, but its response was lost.
            APIConnectionError, APIStatusError: the API was not reached, or returned an error.
        """
        await self._call(ORDER_LOCK, order, "orders.unlock", is_locked=False)

    async def _call(self, endpoint: Endpoint[T], order: Order | int, operation: str, **fields: JSON) -> T:
        """Call an endpoint that takes the server's id, and these fields."""
        sent = {"serverId": await self._lookup.server_id(order, operation), **fields}
        subject = f"order {arguments.order_id(order, operation)}"
        return await self._transport.request(Call(endpoint, operation, subject, sent))

    async def wait(
        self, transition: Transition, *, timeout: arguments.Timeout = "default", on_change: OnChange | None = None
    ) -> Order:
        """Wait until an accepted action has taken effect (polls GET /api/orders, one poll for all waits of the client).

        Only polls started after the wait began are trusted. The action has taken effect when the current status is the
        target, and the desired status, where the API gives one, agrees. A restart needs evidence: another status seen
        on the way, and a new row in the status history (GET /api/order-status-history); with only one of them,
        `running` must last for three times the schedule's `cap`.

        No client can detect these cases: reads that lag longer than a whole transition takes; a restart that was over
        between two polls and left no readable row; a row of an earlier start that appears late; and, where the API
        gives no desired status, that somebody else stopped the server (that wait times out).

        Args:
            transition: what an action, `create` or `migrations.buy` returned, in this process or, with
                `Transition.from_json`, in an earlier one.
            timeout: seconds; None for no limit. The default depends on the action: 900 to start, stop or restart, 3600
                to freeze, 1800 to create, 7200 to migrate.
            on_change: a plain function, called with the order at each new status. An exception from it ends the wait
                and is raised here.

        Returns:
            The order, in the target state.

        Raises:
            ConfigurationError: an argument is invalid.
            WaitTimeoutError: the state was not reached in time. The change itself continues.
            SupersededError: another action replaced this one.
            OrderVanishedError: the order is not in the list any more.
            WaitError: the API refused the key twice in a row.
            ClientClosedError: the client was closed in the meantime.
        """
        if not isinstance(transition, Transition):
            raise arguments.wrong("a Transition is needed (for an order, use wait_until)", transition, "orders.wait")
        arguments.check_on_change(on_change, "orders.wait")
        seconds = arguments.seconds_of(timeout, transition.action, transition.migration_allowed)
        return await self._waits.transition(transition, operation="orders.wait", timeout=seconds, on_change=on_change)

    async def wait_until(
        self,
        order: Order | int,
        status_or_predicate: OrderStatus | str | Callable[[Order], bool],
        *,
        timeout: float | None = 900.0,
        fail_on: Collection[str] = (),
    ) -> Order:
        """Wait until an order has a status, or until a function of yours returns True (polls GET /api/orders).

        It is for servers that something else starts or stops. One poll serves all waits of the client.

        Args:
            order: the order, or its id.
            status_or_predicate: a status, with which the desired status must agree where the API gives one; or a
                function that takes the order and returns a bool, called on the first fresh poll and then whenever the
                order has changed. An unknown status word is logged at WARNING.
            timeout: seconds; None for no limit.
            fail_on: statuses that end the wait with a `WaitError` once three polls that span the schedule's `cap`
                agree, such as `{"terminated"}`. By default there is none, since the API does not document which
                statuses are final.

        Returns:
            The order as it is then.

        Raises:
            ConfigurationError: an argument is invalid.
            OrderNotFoundError: the id was never in the list, on three polls that span the schedule's `cap`.
            WaitError: the order has a status of `fail_on`, or the API refused the key twice in a row.
            WaitTimeoutError: the state was not reached in time.
            SupersededError: the desired status was changed to another one, and the server has reached that one.
            OrderVanishedError: the order is not in the list any more.
            ClientClosedError: the client was closed in the meantime.
            TypeError: the function returned something other than a bool. What it raises is raised here.
        """
        cap, final = self._waits.schedule.cap, frozenset(word.casefold() for word in fail_on)
        if isinstance(status_or_predicate, str):
            warn_if_unknown(status_or_predicate, "orders.wait_until")
            judge: Judge = StatusJudge(target=status_word(status_or_predicate), cap=cap, fail_on=final)
        elif callable(status_or_predicate):
            judge = PredicateJudge(predicate=status_or_predicate, cap=cap, fail_on=final)
        else:
            raise arguments.wrong("a status or a function is needed", status_or_predicate, "orders.wait_until")
        return await self._wait_for(order, judge, "orders.wait_until", timeout)

    async def wait_until_converged(self, order: Order | int, *, timeout: float | None = 900.0) -> Order:
        """Wait until an order's current status is its desired status, whatever that is (polls GET /api/orders).

        Args:
            order: the order, or its id.
            timeout: seconds; None for no limit.

        Returns:
            The order as it is then.

        Raises:
            ConfigurationError: an argument is invalid.
            OrderNotFoundError: the id was never in the list, on three polls that span the schedule's `cap`.
            WaitError: the API gives no desired status for the order, or refused the key twice in a row.
            WaitTimeoutError: the two were not the same in time.
            OrderVanishedError: the order is not in the list any more.
            ClientClosedError: the client was closed in the meantime.
        """
        judge = ConvergedJudge(cap=self._waits.schedule.cap)
        return await self._wait_for(order, judge, "orders.wait_until_converged", timeout)

    async def wait_until_reachable(self, order: Order | int, *, timeout: float | None = 900.0) -> Credentials:
        """Wait until a server is running and its SSH server responds (polls GET /api/orders; POST /api/credentials).

        The address and port are read again whenever the server has changed: a freeze or a migration may change them.

        Args:
            order: the order, or its id.
            timeout: seconds; None for no limit.

        Returns:
            How to log in to the server.

        Raises:
            ConfigurationError: an argument is invalid.
            OrderNotFoundError: the id was never in the list, on three polls that span the schedule's `cap`.
            WaitTimeoutError: the state was not reached in time. The change itself continues.
            SupersededError: another action replaced this one.
            OrderVanishedError: the order is not in the list any more.
            WaitError: the API refused the key twice in a row.
            ClientClosedError: the client was closed in the meantime.
        """
        operation = "orders.wait_until_reachable"
        order_id = arguments.order_id(order, operation)
        return await self._waits.reachable(order_id, operation=operation, timeout=timeout)

    @overload
    def watch(self, *, interval: float = 5.0, outages: Literal[False] = False) -> Watch[OrderChange]: ...

    @overload
    def watch(self, *, interval: float = 5.0, outages: bool) -> Watch[OrderChange | Outage]: ...

    def watch(self, *, interval: float = 5.0, outages: bool = False) -> Watch[Any]:
        """Yield every order as `appeared`, then every change, until you leave the loop (polls GET /api/orders).

        It shares the poll with all waits. A slow reader gets the latest state of each order. `vanished` comes once the
        order is missing on three polls that span the schedule's `cap`. Failed polls are tolerated. Cancelling a step
        does not end the iterator: `asyncio.wait_for(anext(changes), 5)` can be called repeatedly.

        Args:
            interval: seconds between polls, never below the schedule's floor.
            outages: whether to yield an `Outage` when three polls in a row, or all polls for the schedule's `cap`, have
                failed, and again when a poll succeeds.

        Returns:
            An async iterator of the changes.

        Raises:
            ConfigurationError: an argument is invalid.
            AuthenticationError, PermissionDeniedError: the API refused the key twice in a row.
            ClientClosedError: the client was closed in the meantime.
        """
        return Watch(self._waits.orders, self._waits.schedule.cap, interval, outages=outages)

    async def _wait_for(self, order: Order | int, judge: Judge, operation: str, timeout: float | None) -> Order:
        order_id = arguments.order_id(order, operation)
        return await self._waits.order(order_id, judge, operation=operation, timeout=timeout)

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
        """Order a GPU server (POST /api/order). Sent once, never repeated.

        Args:
            blib: the offer, as `blibs.list()` returned it.
            contract_interval: what is paid in advance and not refunded: `HOUR`. The API's document names no others;
                `DAY`, `WEEK`, `MONTH` and `YEAR` are guesses.
            terms_accepted: whether you accept the vendor's terms and conditions; without that, the API refuses the
                order.
            price_h: EUR per hour; by default the offer's. The API refuses a price that is not the current one.
            total_price: EUR for the whole interval; by default `price_h` for `HOUR`, and required for the others.
            second_partition_percentage: the share of the disk for a second partition, in percent.
            templates: templates to install, or their ids. They may still be installing when the server runs: see
                `create_and_wait`.
            max_price_h: the most that it may cost, in EUR per hour.
            reference: your own name for this purchase. Called again with the same reference, it buys nothing more and
                returns the same transition.

        Returns:
            The transition of the new order. Pass it to `wait`, now or in another process.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
            PriceError: the price is above `max_price_h`, or is not the offer's. Nothing was sent.
            UnresolvedPurchaseError: the outcome of an earlier purchase is not known; see `resolve`. Nothing was sent.
            PurchaseUnknownError: the request was sent, but its response was lost. `error.candidates` are the orders it
                may have created; see `resolve`.
            BadRequestError: the API refused the order, for instance because its price has changed.
            APIConnectionError, APIStatusError: the order was not made.
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
        """Order a GPU server, and wait until it is running (POST /api/order, once; polls GET /api/orders).

        Templates may still be installing when it returns. `templates.installs(order)` lists them; wait for each with
        `templates.wait(order, install)`.

        Args:
            blib: the offer, as `blibs.list()` returned it.
            contract_interval: what is paid in advance and not refunded: `HOUR`. The API's document names no others;
                `DAY`, `WEEK`, `MONTH` and `YEAR` are guesses.
            terms_accepted: whether you accept the vendor's terms and conditions; without that, the API refuses the
                order.
            price_h: EUR per hour; by default the offer's. The API refuses a price that is not the current one.
            total_price: EUR for the whole interval; by default `price_h` for `HOUR`, and required for the others.
            second_partition_percentage: the share of the disk for a second partition, in percent.
            templates: templates to install, or their ids.
            max_price_h: the most that it may cost, in EUR per hour.
            reference: your own name for this purchase. Called again with the same reference, it buys nothing more and
                waits for the same order.
            timeout: seconds for the purchase and the wait; None for no limit. A purchase that is still in flight then
                raises `PurchaseUnknownError`, and the client follows it.
            on_change: a plain function, called with the order at each new status. An exception from it ends the wait
                and is raised here.

        Returns:
            The new order, running.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
            PriceError: the price is above `max_price_h`, or is not the offer's. Nothing was sent.
            UnresolvedPurchaseError: the outcome of an earlier purchase is not known; see `resolve`. Nothing was sent.
            PurchaseUnknownError: the request was sent, but its response was lost. `error.candidates` are the orders it
                may have created; see `resolve`.
            PurchaseNotReadyError: the server is bought, but the wait failed; the error's cause says why.
            BadRequestError: the API refused the order, for instance because its price has changed.
            APIConnectionError, APIStatusError: the order was not made.
        """
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
        return await self._purchases.make_and_wait(wanted, prepare, timeout=timeout, on_change=on_change)

    def rented(
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
        then: Literal["freeze", "stop", "leave"] = "freeze",
        then_timeout: float | None = 900.0,
        timeout: float | None = 1800.0,
        on_change: OnChange | None = None,
    ) -> AbstractAsyncContextManager[Order]:
        """Rent a server for the duration of a job (POST /api/order), and freeze it at the end, however the job ends.

            async with client.orders.rented(blib, contract_interval="HOUR", terms_accepted=True) as order:
                ...

        The server is frozen (or what `then` says) however the block ends: normally, by an exception, a cancellation or
        Ctrl-C, and also if the server was bought but did not start. A failed freeze is retried until `then_timeout`; a
        cancellation in the meantime is raised afterwards. The block ends once the API has accepted it;
        `wait_until(order, "frozen")` waits for the status. A server that somebody else has already frozen or stopped is
        left alone.

        If the `reference` was bought before, nothing is bought, and that server is started if it is not running.

        Args:
            blib: the offer, as `blibs.list()` returned it.
            contract_interval: what is paid in advance and not refunded: `HOUR`. The API's document names no others;
                `DAY`, `WEEK`, `MONTH` and `YEAR` are guesses.
            terms_accepted: whether you accept the vendor's terms and conditions; without that, the API refuses the
                order.
            price_h: EUR per hour; by default the offer's. The API refuses a price that is not the current one.
            total_price: EUR for the whole interval; by default `price_h` for `HOUR`, and required for the others.
            second_partition_percentage: the share of the disk for a second partition, in percent.
            templates: templates to install, or their ids.
            max_price_h: the most that it may cost, in EUR per hour.
            reference: your own name for this purchase.
            then: `"freeze"`; `"stop"`, after which it costs 35 % of its price; or `"leave"`, which leaves it running.
            then_timeout: seconds for which a failed `then` is retried; None for no limit.
            timeout: seconds for the purchase and until the server is running; None for no limit.
            on_change: a plain function, called with the order at each new status until it is running.

        Returns:
            An asynchronous context manager that provides the running order.

        Raises:
            StillRunningError: the server could not be frozen or stopped, and is still billed. If the block raised, its
                exception is raised instead, with a note. In both cases the order and its price are logged at ERROR.
            PurchaseNotReadyError: it was bought but did not start; `then` has been done.
            PurchaseUnknownError: the request was sent, but its response was lost. `error.candidates` are the orders it
                may have created; none of them was frozen. If the caller was cancelled, this is logged at ERROR instead.
            ConfigurationError, PriceError, UnresolvedPurchaseError, BadRequestError, …: as for `create`.
        """
        job = self._job("orders.rented", then, then_timeout, timeout, on_change)
        wanted, prepare = wanted_order(
            job.operation,
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
        return job.rented(wanted, prepare)

    def running(
        self,
        order: Order | int,
        *,
        then: Literal["freeze", "stop", "leave"] = "freeze",
        then_timeout: float | None = 900.0,
        migration_allowed: bool = False,
        timeout: float | None = 900.0,
        on_change: OnChange | None = None,
    ) -> AbstractAsyncContextManager[Order]:
        """Run a server for the duration of a job, and freeze it at the end, however the job ends.

            async with client.orders.running(123, then="stop") as order:
                ...

        It is started unless it is already running (POST /api/order-status). At the end it is frozen as with `rented`,
        even if it was running before.

        Args:
            order: the order, or its id.
            then: `"freeze"`; `"stop"`, after which it costs 35 % of its price; or `"leave"`, which leaves it running.
            then_timeout: seconds for which a failed `then` is retried; None for no limit.
            migration_allowed: whether a frozen server may move to other hardware. That takes 10 to 90 minutes, so pass
                a `timeout` of 7200.
            timeout: seconds until it is running; None for no limit.
            on_change: a plain function, called with the order at each new status until it is running.

        Returns:
            An asynchronous context manager that provides the running order.

        Raises:
            StillRunningError: the server could not be frozen or stopped, and is still billed; as for `rented`.
            OrderNotFoundError: the order is not in the list. Nothing was sent.
            WaitTimeoutError, SupersededError, OrderVanishedError, ServerLockedError, …: as for `start_and_wait`.
        """
        job = self._job("orders.running", then, then_timeout, timeout, on_change)
        arguments.check_bool(migration_allowed, "migration_allowed", job.operation)
        return job.running(arguments.order_id(order, job.operation), migration_allowed=migration_allowed)

    def _job(
        self,
        operation: str,
        then: Then,
        then_timeout: float | None,
        timeout: float | None,
        on_change: OnChange | None,
    ) -> Job:
        if then not in get_args(Then):
            raise arguments.wrong('then must be "freeze", "stop" or "leave"', then, operation)
        arguments.check_seconds(then_timeout, "then_timeout", operation)
        arguments.check_seconds(timeout, operation=operation)
        arguments.check_on_change(on_change, operation)
        tools = self._lookup, self._actions, self._waits, self._purchases
        return Job(*tools, operation, then, then_timeout, timeout, on_change)

    @property
    def purchases(self) -> tuple[Purchase, ...]:
        """All purchases that this client and its ledger know, oldest first: made, refused, or of unknown outcome."""
        return self._purchases.journal.all

    async def unresolved(self) -> tuple[Purchase, ...]:
        """Wait until no purchase is in flight, and return those that need a decision. No request is sent.

        These are purchases whose outcome is unknown, and purchases that succeeded but whose caller was cancelled (by
        Ctrl-C, for example) or whose process ended before the result arrived. Each one with an `order_id` is a server
        that is billed:

            try:
                await client.orders.create_and_wait(blib, contract_interval="HOUR", terms_accepted=True)
            except asyncio.CancelledError:
                for purchase in await client.orders.unresolved():
                    if purchase.order_id is not None:
                        await client.orders.freeze(purchase.order_id)
                        await client.orders.resolve(purchase, purchase.order_id)
                raise

        Returns:
            Those purchases, the oldest first.

        Raises:
            ConfigurationError: the client was made in another process, or is used on another event loop.
            ClientClosedError: the client is closed; `purchases` can still be read.
        """
        self._transport.bind("orders.unresolved")
        return await self._purchases.unresolved()

    async def resolve(
        self,
        purchase_or_error: Purchase | PurchaseUnknownError | UnresolvedPurchaseError | PurchaseNotReadyError,
        order: Order | int | None,
    ) -> None:
        """Say what became of an unresolved purchase, so that others can be made. No request is sent.

        The first decision is final.

        Args:
            purchase_or_error: the purchase, or the error that names it.
            order: the order that was bought, or its id; None if nothing was bought.

        Raises:
            ConfigurationError: it is not a purchase of this client or its ledger, it is still in flight, or the
                decision contradicts what is known: another outcome, an order that existed before or belongs to another
                purchase, or an earlier decision. Nothing was resolved.
            ClientClosedError: the client is closed. Nothing was resolved.
        """
        order_id = None if order is None else arguments.order_id(order, "orders.resolve")
        self._transport.bind("orders.resolve")
        await self._purchases.journal.resolve(purchase_or_error, order_id)
