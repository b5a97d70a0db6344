"""The wait for what was sent: the step whose end is the workflow's."""

from __future__ import annotations

import asyncio
import time

from trooper_async import (
    ConfigurationError,
    FleetOutcome,
    FleetReport,
    OutcomeUnknownError,
    PurchaseNotReadyError,
    Transition,
    TrooperClient,
    TrooperError,
    WaitError,
    WaitTimeoutError,
)
from trooper_async.durable._locks import LOG
from trooper_async.durable._process import current
from trooper_async.durable._records import Intent, Request, Sent, buys, purchase_of, without_settings

_A_LOOK = 10.0
"""Seconds that a wait always has, also where its deadline passed while no worker was there."""
_ASK_AGAIN = 5.0
"""Seconds until `accounts` is asked again for a client that it could not give."""


async def wait(sender: str, account: str, request: Request, sent: Sent, intent: Intent) -> str:
    """Wait until what the workflow `sender` has sent has taken effect; a report of one order.

    Raises:
        PurchaseNotReadyError: a purchase's wait ended otherwise, however it did: it is bought all the same.
        OutcomeUnknownError: it is not certain that it was sent, and its deadline passed.
        TrooperError: as `client.orders.wait`; a `WaitTimeoutError` also where `accounts` gave no client in time.
    """
    transition = Transition.from_json(sent["transition"] or "")
    deadline = sent["deadline"]
    try:
        with current().resting():
            client = await _client(account, transition, deadline)
            left = None if deadline is None else max(_A_LOOK, deadline - time.time())
            order = await client.orders.wait(transition, timeout=left)
    except Exception as error:
        waited = error if isinstance(error, WaitError) else None
        failure = error if isinstance(error, TrooperError) else None
        if waited is not None:
            waited.order = waited.order and without_settings(waited.order)
        if buys(request):
            raise PurchaseNotReadyError(
                f"bought as order {transition.order_id}, but not running yet: {error}",
                purchase=purchase_of(sender, request, intent, "bought", transition.order_id),
                operation=f"durable.{request['action']}",
                subject=f"order {transition.order_id}",
                seconds=failure.seconds if failure else 0.0,
                order=waited.order if waited else None,
                target=transition.target,
                polls=waited.polls if waited else 0,
                last_error=waited.last_error if waited else failure,
                transition=transition,
            ) from error
        if sent["doubt"] is not None and isinstance(error, WaitTimeoutError):
            raise OutcomeUnknownError(
                f"{sent['doubt']}; and {error.message}",
                transition=transition,
                operation=error.operation,
                subject=error.subject,
                seconds=error.seconds,
            ) from None
        raise
    seconds = time.time() - sent["at"]
    outcome = FleetOutcome(order.order_id, transition.action, order, None, seconds, transition, sent=True)
    return FleetReport((outcome,), seconds).to_json()


async def _client(account: str, transition: Transition, deadline: float | None) -> TrooperClient:
    """The client of an account. Where `accounts` can't give it (a vault that is away) it is asked again, in time."""
    began = time.time()
    end = None if deadline is None else max(deadline, began + _A_LOOK)
    while True:
        try:
            return await current().client(account)
        except ConfigurationError as error:
            now = time.time()
            if end is not None and now >= end:
                raise WaitTimeoutError(
                    f"it was sent, and could not be waited for: {error.message}",
                    operation=f"orders.{transition.action}",
                    subject=f"order {transition.order_id}",
                    seconds=now - began,
                    target=transition.target,
                    last_error=error,
                    transition=transition,
                ) from None
            LOG.error("order %s can't be waited for, and is tried again: %s", transition.order_id, error.message)
            await asyncio.sleep(_ASK_AGAIN if end is None else min(_ASK_AGAIN, end - now))
