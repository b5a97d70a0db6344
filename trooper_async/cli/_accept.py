"""`--no-wait`: an action sent to many servers, and a report with which `trooper resume` waits for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from copy import copy

from attrs import evolve

from trooper_async import (
    Action,
    AuthenticationError,
    Order,
    OutcomeUnknownError,
    ResponseFormatError,
    ServerError,
    Transition,
    TrooperClient,
    TrooperError,
)
from trooper_async.fleet_report import FleetOutcome, FleetProgress, FleetReport
from trooper_async.resources._switches import SWITCHES


async def accept(
    client: TrooperClient,
    action: Action,
    orders: Iterable[Order | int],
    *,
    concurrency: int,
    migration_allowed: bool,
    on_progress: Callable[[FleetProgress], None],
) -> FleetReport:
    """Send it to each, at most `concurrency` at once, and wait for none. A refused key ends it for those to come."""
    by_id = {order.order_id if isinstance(order, Order) else order: order for order in orders}
    outcomes = {order_id: FleetOutcome(order_id, action) for order_id in by_id}
    places, began = asyncio.Semaphore(concurrency), time.monotonic()
    refused: AuthenticationError | None = None
    verbs = {"stop": client.orders.stop, "freeze": client.orders.freeze, "restart": client.orders.restart}

    async def send(order: Order | int) -> Transition:
        if action == "start":
            return await client.orders.start(order, migration_allowed=migration_allowed)
        return await verbs[action](order)

    def report() -> FleetReport:
        return FleetReport(tuple(outcomes.values()), time.monotonic() - began, migration_allowed)

    def note(outcome: FleetOutcome) -> None:
        outcomes[outcome.order_id] = outcome
        failed = sum(one.error is not None for one in outcomes.values())
        done = failed + sum(bool(one.sent) for one in outcomes.values())
        on_progress(FleetProgress(done, failed, len(outcomes), outcome, report))

    async def one(order_id: int) -> None:
        nonlocal refused
        async with places:
            if refused is not None:
                error = copy(refused)
                error.subject, error.attempts = f"order {order_id}", 0
                note(evolve(outcomes[order_id], error=error))
                return
            started = time.monotonic()
            planned = Transition(order_id, action, SWITCHES[action][1], None, migration_allowed)
            note(evolve(outcomes[order_id], transition=planned, sent=None))  # from here on it may have been sent
            try:
                transition = await send(by_id[order_id])
            except TrooperError as error:
                refused = error if isinstance(error, AuthenticationError) else refused
                unknown = isinstance(error, OutcomeUnknownError | ServerError | ResponseFormatError)
                kept, sent = (planned, None) if unknown else (None, False)
                outcome = evolve(outcomes[order_id], error=error, transition=kept, sent=sent)
            else:
                outcome = evolve(outcomes[order_id], transition=transition, sent=True)
            note(evolve(outcome, seconds=time.monotonic() - started))

    async with asyncio.TaskGroup() as group:
        for order_id in by_id:
            group.create_task(one(order_id))
    return report()
