"""Orders: waiting for them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from trooper_async import _arguments as arguments
from trooper_async._convergence import ConvergedJudge, Judge, PredicateJudge, SwitchJudge
from trooper_async._wait import OnChange
from trooper_async.errors import ConfigurationError
from trooper_async.models import Credentials, Order, OrderChange, OrderStatus, status_word
from trooper_async.resources._order_reads import OrderReads
from trooper_async.transition import Transition


class OrderWaits(OrderReads):
    """The waiting part of `client.orders`."""

    async def wait(
        self, transition: Transition, *, timeout: arguments.Timeout = "usual", on_change: OnChange | None = None
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
        return await self._waiters.transition(transition, operation="orders.wait", timeout=seconds, on_change=on_change)

    async def wait_until(
        self,
        order: Order | int,
        status_or_predicate: OrderStatus | str | Callable[[Order], bool],
        *,
        timeout: float | None = 900.0,
    ) -> Order:
        """Wait until an order that somebody else switches has a status, or until a function says so.

        Args:
            order: the order, or its id.
            status_or_predicate: a status (the desired one must agree), or a function that is asked about the order as
                first seen and then whenever it has changed. It must return a bool.
            timeout: seconds; None waits for ever.

        Raises:
            OrderNotFoundError: an id that is, steadily, not in the list and never was.
            WaitTimeoutError, SupersededError, OrderVanishedError, …: as `wait` does.
            TypeError: the function returned something else than a bool. What it raises is raised here.
        """
        if isinstance(status_or_predicate, str):
            judge: Judge = SwitchJudge(status_word(status_or_predicate), self._cap)
        elif callable(status_or_predicate):
            judge = PredicateJudge(status_or_predicate, self._cap)
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
        return await self._wait_for(order, ConvergedJudge(self._cap), "orders.wait_until_converged", timeout)

    async def wait_until_reachable(self, order: Order | int, *, timeout: float | None = 900.0) -> Credentials:
        """Wait until a server runs and an SSH server answers at its port; how to log in to it.

        Address and port are read anew for each try: they may change after a freeze or a migration.

        Raises:
            OrderNotFoundError: an id that is, steadily, not in the list and never was.
            WaitTimeoutError, SupersededError, OrderVanishedError, …: as `wait` does.
        """
        return await self._waiters.reachable(
            arguments.order_id(order), operation="orders.wait_until_reachable", timeout=timeout
        )

    async def watch(self, *, interval: float = 5.0) -> AsyncGenerator[OrderChange, None]:
        """Every order as `appeared`, then each change of any of them, until the loop over it ends.

        It shares the poll with all waits. A slow reader gets each order's latest state. `vanished` comes once the order
        is missing steadily (three polls that span the schedule's `cap`). Failed polls are ridden out.

        Args:
            interval: seconds between polls, never below the schedule's floor.

        Raises:
            AuthenticationError, PermissionDeniedError: the key is refused, twice in a row.
            ClientClosedError: the client was closed meanwhile.
        """
        changes = self._waiters.watch(interval=interval)
        try:
            async for change in changes:
                yield change
        finally:
            await changes.aclose()

    async def _wait_for(self, order: Order | int, judge: Judge, operation: str, timeout: float | None) -> Order:
        return await self._waiters.order(arguments.order_id(order), judge, operation=operation, timeout=timeout)
