"""Starting, stopping, freezing and restarting a server: the request is prepared, sent, and waited for."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress

from trooper_async._api import arguments
from trooper_async._api.endpoints import ORDER_STATUS, Call, Repeatability
from trooper_async._groups.lookup import Lookup
from trooper_async._http.retry import ONE_ATTEMPT
from trooper_async._http.transport import Transport
from trooper_async._waiting.wait import OnChange
from trooper_async._waiting.waits import Waits
from trooper_async.errors import APIConnectionError, APIStatusError, OutcomeUnknownError, ResponseFormatError
from trooper_async.models import JSON, TARGETS, Action, Order, Transition

# what POST /api/order-status calls an action
_WORDS: dict[Action, str] = {"start": "running", "stop": "stopped", "restart": "restarted", "freeze": "frozen"}


def is_once_only(action: Action, migration_allowed: bool) -> bool:
    """Whether an action must be sent only once: a second restart interrupts the first, a second migration moves
    again.
    """
    return action == "restart" or (action == "start" and migration_allowed)


class Actions:
    """The state changes of one client."""

    def __init__(self, transport: Transport, lookup: Lookup, waits: Waits) -> None:
        self._transport = transport
        self._lookup = lookup
        self._waits = waits

    async def act(
        self, order: Order | int, action: Action, operation: str, *, migration_allowed: bool = False
    ) -> Transition:
        """Send an action. Returns once the API has accepted it."""
        request, transition = await self.prepare(order, action, operation, migration_allowed=migration_allowed)
        await self._transport.request(request)
        return transition

    async def act_and_wait(
        self,
        order: Order | int,
        action: Action,
        *,
        operation: str,
        migration_allowed: bool = False,
        timeout: arguments.Timeout,
        on_change: OnChange | None = None,
        began: float | None = None,
    ) -> Order:
        """Send an action, and wait until it has taken effect, even if the response is lost."""
        arguments.check_timeout(timeout, operation)
        arguments.check_on_change(on_change, operation)
        loop = asyncio.get_running_loop()
        began = loop.time() if began is None else began
        seconds = arguments.seconds_of(timeout, action, migration_allowed)
        until = arguments.deadline(began, seconds)
        request, transition = await self.prepare(
            order, action, operation, migration_allowed=migration_allowed, until=until
        )
        lost = await self.send(request, until=until)
        if lost is not None and loop.time() >= until:
            raise lost
        return await self._waits.transition(
            transition, operation=operation, timeout=seconds, lost=lost, on_change=on_change, began=began
        )

    async def prepare(
        self,
        order: Order | int,
        action: Action,
        operation: str,
        *,
        migration_allowed: bool = False,
        until: float = math.inf,
    ) -> tuple[Call[None], Transition]:
        """The request of an action, and its transition once the API has accepted it."""
        order_id = arguments.order_id(order, operation)
        arguments.check_bool(migration_allowed, "migration_allowed", operation)
        server_id = await self._lookup.server_id(order, operation)
        before = None
        if action == "restart":
            # without it, a departure from `running` and then a steady `running` prove the restart
            with suppress(APIConnectionError, APIStatusError, ResponseFormatError):
                # a server that runs has been started, so an empty history is incomplete: later, every row would look
                # new
                before = tuple(await self._lookup.history(order_id, retry=ONE_ATTEMPT, until=until)) or None
        transition = Transition(order_id, action, TARGETS[action], before, migration_allowed)
        sent: dict[str, JSON] = {"serverId": server_id, "action": _WORDS[action]}
        if action == "start":
            sent["migration_allowed"] = migration_allowed
        kind = Repeatability.ONCE if is_once_only(action, migration_allowed) else ORDER_STATUS.kind
        subject = f"order {order_id}"
        return Call(ORDER_STATUS, operation, subject, sent, kind=kind, transition=transition), transition

    async def send(self, request: Call[None], *, until: float = math.inf) -> OutcomeUnknownError | None:
        """Send it. Returns None once it is accepted, or the error if its outcome is unknown."""
        try:
            await self._transport.request(request, until=until)
        except OutcomeUnknownError as error:
            return error
        return None

    async def pause(self, tries: int) -> None:
        """Wait before an action that has failed so many times is retried."""
        await self._transport.pause(self._transport.retry.backoff(tries))
