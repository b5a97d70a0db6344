"""Switching a server in three steps, which `client.orders` and `client.fleet` share: prepare, send, wait."""

from __future__ import annotations

from contextlib import suppress

from trooper_async._api import arguments
from trooper_async._api.endpoints import ORDER_STATUS, Call, Repeatability, call
from trooper_async._groups.lookup import Lookup
from trooper_async._http.retry import ONE_ATTEMPT
from trooper_async._http.transport import Transport
from trooper_async._waiting.wait import OnChange
from trooper_async._waiting.waits import Waiters
from trooper_async.errors import (
    APIConnectionError,
    APIStatusError,
    OutcomeUnknownError,
    ResponseFormatError,
    TrooperError,
)
from trooper_async.models import JSON, Action, Order, OrderStatus, Transition

# what POST /api/order-status calls it, and the status that it leads to
SWITCHES: dict[Action, tuple[str, OrderStatus]] = {
    "start": ("running", OrderStatus.running),
    "stop": ("stopped", OrderStatus.stopped),
    "restart": ("restarted", OrderStatus.running),
    "freeze": ("frozen", OrderStatus.frozen),
}


class Switches:
    """The switching of one client."""

    def __init__(self, transport: Transport, lookup: Lookup, waiters: Waiters) -> None:
        self._transport = transport
        self._lookup = lookup
        self._waiters = waiters

    async def prepare(
        self,
        order: Order | int,
        action: Action,
        operation: str,
        *,
        migration_allowed: bool = False,
        pace: float | None = None,
    ) -> tuple[Call[None], Transition]:
        """The request of an action, and the transition that it will be once it is accepted."""
        order_id = arguments.order_id(order)
        server_id = await self._lookup.server_id(order, operation)
        word, target = SWITCHES[action]
        before = None
        if action == "restart":
            # unreadable: a departure from `running`, and then a steady `running`, will prove it
            with suppress(APIConnectionError, APIStatusError, ResponseFormatError):
                before = tuple(await self._lookup.history(order_id, retry=ONE_ATTEMPT, pace=pace))
        transition = Transition(order_id, action, target, before, migration_allowed)
        sent: dict[str, JSON] = {"serverId": server_id, "action": word}
        if action == "start":
            sent["migration_allowed"] = migration_allowed
        # sent twice, a restart would cut what the first one began, and a migration might move the server twice
        kind = Repeatability.ONCE if action == "restart" or migration_allowed else None
        subject = f"order {order_id}"
        return call(ORDER_STATUS, operation, subject, sent, kind=kind, transition=transition), transition

    async def send(self, switch: Call[None], *, pace: float | None = None) -> OutcomeUnknownError | None:
        """Send it; None once it is accepted, and an error as a value where its outcome is unknown."""
        try:
            await self._transport.request(switch, pace=pace)
        except OutcomeUnknownError as error:
            return error
        return None

    async def wait(
        self,
        transition: Transition,
        lost: OutcomeUnknownError | None,
        *,
        operation: str,
        timeout: arguments.Timeout,
        on_change: OnChange | None = None,
    ) -> Order:
        """Wait until it has taken effect; where the outcome was unknown, that is the cause of what the wait raises."""
        try:
            return await self._waiters.transition(
                transition, operation=operation, timeout=arguments.seconds_of(timeout, transition), on_change=on_change
            )
        except TrooperError as error:
            if lost is not None:
                raise error from lost
            raise
