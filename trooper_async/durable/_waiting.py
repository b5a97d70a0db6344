"""The wait for what was sent: the step whose end is the workflow's."""

from __future__ import annotations

import asyncio
import json
import time

from attrs import asdict, evolve

from trooper_async import (
    ConfigurationError,
    FleetOutcome,
    FleetReport,
    OutcomeUnknownError,
    TemplateFailedError,
    TemplateInstall,
    Transition,
    TrooperClient,
    TrooperError,
    WaitError,
    WaitTimeoutError,
)
from trooper_async._buying.record import not_ready
from trooper_async._groups.templates import Templates
from trooper_async._waiting.look import look_for
from trooper_async._waiting.store import Snapshot
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
        OutcomeUnknownError: it is not certain that it was sent, and the wait ended otherwise, however it did.
        TrooperError: as `client.orders.wait`; a `WaitTimeoutError` also where `accounts` gave no client in time.
    """
    transition = Transition.from_json(sent["transition"] or "")
    action, subject = f"orders.{transition.action}", f"order {transition.order_id}"
    try:
        order = await (await client(account, sent, subject)).orders.wait(transition, timeout=_left(sent))
    except Exception as error:
        waited = error if isinstance(error, WaitError) else None
        failure = error if isinstance(error, TrooperError) else None
        if waited is not None:
            waited.order = waited.order and without_settings(waited.order)
        if buys(request):
            purchase = purchase_of(sender, request, intent, "bought", transition.order_id)
            raise not_ready(error, purchase, transition, f"durable.{request['action']}") from error
        if sent["doubt"] is not None and failure is not None:
            raise _unknown(sent, failure, action, subject, transition) from error
        if waited is not None and waited.transition is None:
            waited.transition = transition
        raise
    seconds = time.time() - sent["at"]
    outcome = FleetOutcome(order.order_id, transition.action, order, None, seconds, transition, sent=True)
    return FleetReport((outcome,), seconds).to_json()


async def wait_for_install(account: str, request: Request, sent: Sent, intent: Intent) -> str:
    """Wait until a template is installed; the install. Which one it is, where it may have been sent, the server says.

    Raises:
        OutcomeUnknownError: it may have been sent, and several installs of that template are new, or none until the
            deadline, or that could not be read.
        TrooperError: as `client.templates.wait`; a `WaitTimeoutError` also where `accounts` gave no client in time.
    """
    order_id, install_id = request["order_id"], sent["install_id"]
    where = f"template {request['template_id']} on order {order_id}"
    try:
        templates = (await client(account, sent, where)).templates
        if install_id is None:
            install_id = await _find(templates, request, sent, intent, where)
        install = await templates.wait(order_id, install_id, timeout=_left(sent))
    except TemplateFailedError as error:
        error.install = evolve(error.install, config=None)
        raise
    except TrooperError as error:
        if install_id is None:
            raise _unknown(sent, error, "templates.install", where) from error
        raise
    return json.dumps(asdict(evolve(install, config=None, extra={})))  # its settings may hold a password


def installed(text: str) -> TemplateInstall:
    """What `wait_for_install` has stored."""
    return TemplateInstall(**json.loads(text))


def _left(sent: Sent) -> float | None:
    return None if sent["deadline"] is None else max(_A_LOOK, sent["deadline"] - time.time())


async def client(account: str, sent: Sent, subject: str) -> TrooperClient:
    """The client of an account. Where `accounts` can't give it (a vault that is away) it is asked again, in time.

    Raises:
        WaitTimeoutError: it could not give it until the deadline.
    """
    began, left = time.monotonic(), _left(sent)
    while True:
        try:
            return await current().client(account)
        except ConfigurationError as error:
            waited = time.monotonic() - began
            if left is not None and waited >= left:
                text = f"there was no client for {subject} in time: {error.message}"
                raise WaitTimeoutError(
                    text, operation="durable", subject=subject, seconds=waited, last_error=error
                ) from None
            LOG.error("%s needs a client, and is tried again: %s", subject, error.message)
            await asyncio.sleep(_ASK_AGAIN if left is None else min(_ASK_AGAIN, left - waited))


async def _find(templates: Templates, request: Request, sent: Sent, intent: Intent, where: str) -> int:
    """The install that is new; what a killed process has sent may still be on its way."""

    def new(installs: Snapshot[TemplateInstall], began: float) -> int | None:
        found = [
            install.install_id
            for install in installs.readable()
            if install.template_id == request["template_id"] and install.install_id not in intent["known"]
        ]
        if len(found) > 1:
            text = f"which one it is nobody can know; new installs of it: {', '.join(map(str, found))}"
            raise OutcomeUnknownError(text, operation="templates.install", subject=where)
        return found[0] if found else None

    return await look_for(
        templates._waits.installs(request["order_id"]),
        new,
        operation="templates.install",
        subject=where,
        target="a new install of it",
        timeout=_left(sent),
    )


def _unknown(
    sent: Sent, error: TrooperError, operation: str, subject: str, transition: Transition | None = None
) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        f"{sent['doubt']}; and {error.message}",
        transition=transition,
        operation=operation,
        subject=subject,
        seconds=error.seconds,
    )
