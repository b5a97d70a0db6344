"""The workflows: note the intent, send once, store the transition, wait, report.

The engine runs a step at least once: one that is killed in its middle runs again. So that nothing is sent twice, each
life of a workflow draws a number; the step that notes the intent records it, and the step that sends compares it. Where
they differ, an earlier life may have sent it: a setting is sent again, nothing else is. (The engine's own count of
attempts would not do: it begins anew when somebody resumes a workflow by hand.)
"""

from __future__ import annotations

import asyncio
import functools
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from decimal import Decimal
from typing import ParamSpec, TypeVar

from dbos import DBOS, SetEnqueueOptions, SetWorkflowID
from sqlalchemy.exc import SQLAlchemyError

from trooper_async import (
    Blib,
    ConfigurationError,
    FleetOutcome,
    FleetReport,
    MigrationQuote,
    Order,
    OrderStatus,
    OutcomeUnknownError,
    PriceError,
    Transition,
    TrooperClient,
    TrooperError,
)
from trooper_async.durable import _waiting
from trooper_async.durable._locks import LOG
from trooper_async.durable._outcomes import DatabaseError, outcome
from trooper_async.durable._process import current
from trooper_async.durable._records import (
    ANSWER,
    DECISION,
    FOREVER,
    QUESTION,
    WAIT,
    Intent,
    Request,
    Sent,
    Status,
    Switch,
    accepted,
    buys,
    check_format,
    decided,
    doubtful,
    is_setting,
)

P = ParamSpec("P")
T = TypeVar("T")

_ASK_AGAIN = 5.0
"""Seconds until an order is asked for again whose workflow stands still."""

_ACTIONS: dict[Status, Switch] = {"running": "start", "stopped": "stop", "frozen": "freeze"}
_TARGETS = {
    "start": OrderStatus.running,
    "stop": OrderStatus.stopped,
    "freeze": OrderStatus.frozen,
    "restart": OrderStatus.running,
}


class _MisrecordedError(Exception):
    """The engine could not store a step's result, and then could store that: the result is lost."""


@DBOS.workflow(name="trooper_async.send", max_recovery_attempts=None)
async def send(account: str, request: Request) -> None:
    """Send one action or purchase, and hand its transition on to a `wait`."""
    process, workflow_id, life = current(), _id(), uuid.uuid4().hex
    with process.running(workflow_id):
        check_format(request)
        intent = await _repeat(_note, account, request, life)
        try:
            sent = await _step(_send_once, account, request, intent, life)
        except _MisrecordedError:
            sent = doubtful(request, intent, "it was sent, and what came of it could not be stored")
        if buys(request) and sent["transition"] is None:
            LOG.error("purchase %s of %s: whether it was made is unknown: %s", workflow_id, account, sent["doubt"])
            await DBOS.set_event_async(QUESTION, (request, intent, sent["doubt"]))
            with process.resting():
                decision: tuple[int | None, float] = await DBOS.recv_async(ANSWER, FOREVER)
            await DBOS.set_event_async(DECISION, decision)
            sent = decided(workflow_id, request, intent, *decision)
        with SetWorkflowID(f"{workflow_id}{WAIT}"):
            await DBOS.enqueue_workflow_async(process.waits, wait, account, request, sent, intent)


@DBOS.workflow(name="trooper_async.wait", max_recovery_attempts=None)
async def wait(account: str, request: Request, sent: Sent, intent: Intent) -> str:
    """Wait until what was sent has taken effect; a report of one order, or an install."""
    with current().running(_id()):
        check_format(request)
        if request["action"] == "install":
            return await _repeat(_waiting.wait_for_install, account, request, sent, intent)
        return await _repeat(_waiting.wait, _id().removesuffix(WAIT), account, request, sent, intent)


@DBOS.workflow(name="trooper_async.converge", max_recovery_attempts=None)
async def converge(account: str, request: Request) -> str:
    """Switch each order that is not where it is wanted, by a `send` of its own; a report of all."""
    with current().running(_id()):
        check_format(request)
        at, there = await _repeat(_look, account, request)
        alone = {outcome.order_id for outcome in FleetReport.from_json(there).outcomes}
        actions: dict[int, Switch] = {order_id: _ACTIONS[status] for order_id, status in request["targets"]}
        for order_id, action in actions.items():
            if order_id in alone:
                continue
            one = request.copy()
            one["action"], one["order_id"], one["targets"] = action, order_id, []
            with SetWorkflowID(f"{_id()}/{order_id}"), SetEnqueueOptions(queue_partition_key=account):
                await DBOS.enqueue_workflow_async(current().requests, send, account, one)
        return await _repeat(_collect, _id(), actions, at, there, request["migration_allowed"])


async def _note(account: str, request: Request, life: str) -> Intent:
    """Look, and decide. Nothing is sent; once this is stored, closing lets it get to its end."""
    client = await current().client(account)
    intent = Intent(life=life, at=time.time(), transition=None, blib_name=None, price=None, known=[])
    match request["action"]:
        case "create":
            blib = await _offer(client, request["blib_id"])
            _check_price(blib.price_h, request["max_price"], f"blib {blib.id}", "EUR an hour")
            intent["blib_name"], intent["price"] = blib.name, blib.price_h
        case "migrate":
            quote = await client.migrations.quote(request["order_id"], request["blib_id"])
            _check_price(quote.total_due, request["max_price"], f"order {quote.order_id}", "EUR that would be due now")
        case "start" | "stop" | "freeze" | "restart" as action:
            before, migration_allowed = None, request["migration_allowed"]
            if action == "restart":
                with suppress(TrooperError):  # then a departure proves it
                    before = tuple(await client.orders.history(request["order_id"]))
            switch = Transition(request["order_id"], action, _TARGETS[action], before, migration_allowed)
            intent["transition"] = switch.to_json()
        case "install":
            intent["known"] = [install.install_id for install in await client.templates.installs(request["order_id"])]
    if buys(request):
        intent["known"] = [order.order_id for order in await client.orders.find()]
    return intent


async def _send_once(account: str, request: Request, intent: Intent, life: str) -> Sent:
    process, again, doubt = current(), intent["life"] != life, "it was sent, and the answer was lost"
    if again:
        doubt = "the process ended while it was sent, or before that was stored"
        if not is_setting(request):
            return doubtful(request, intent, doubt)
    elif not is_setting(request) and not await process.is_mine(_id()):
        raise asyncio.CancelledError  # it is a later life's now, which finds that this one may have sent it
    try:
        if again:
            with process.resting():
                await _waiting.client(account, doubtful(request, intent, doubt), f"order {request['order_id']}")
        what = await _act(await process.client(account), request, intent)
    except TrooperError as error:
        if again:  # whatever is said now, the first time it may have gone through
            return doubtful(request, intent, f"{doubt}; tried again, it failed: {error.message}")
        if not isinstance(error, OutcomeUnknownError):
            raise
        return doubtful(request, intent, doubt)
    if buys(request) and isinstance(what, Transition):  # should its record fail: another worker may have taken it over
        LOG.info("purchase %s of %s was accepted: order %s", _id(), account, what.order_id)
    return accepted(request, what, time.time())


async def _act(client: TrooperClient, request: Request, intent: Intent) -> Transition | int:
    match request["action"]:
        case "start":
            return await client.orders.start(request["order_id"], migration_allowed=request["migration_allowed"])
        case "stop":
            return await client.orders.stop(request["order_id"])
        case "freeze":
            return await client.orders.freeze(request["order_id"])
        case "restart":
            return await client.orders.restart(request["order_id"])
        case "install":
            return await client.templates.install(request["order_id"], request["template_id"])
        case "create":
            # its price is checked by the API; read no offers here, where being killed would leave a doubt
            blib = Blib(id=request["blib_id"], name=intent["blib_name"], price_h=intent["price"])
            assert request["terms"] is not None  # noqa: S101 - of an order
            return await client.orders.create(blib, reference=_id(), **request["terms"])
        case "migrate":
            # `buy` asks for the price itself, and pays no more than this
            quote = MigrationQuote(request["order_id"], request["blib_id"], request["max_price"])
            return await client.migrations.buy(quote, keep_data=request["keep_data"], reference=_id())
        case "converge":
            raise ConfigurationError("a fleet is not sent, its orders are")


async def _look(account: str, request: Request) -> tuple[float, str]:
    """The time, and those orders of a fleet that nothing is to be sent for."""
    client = await current().client(account)
    orders = {order.order_id: order for order in await client.orders.find()}
    there = [
        FleetOutcome(order_id, _ACTIONS[status], orders[order_id])
        for order_id, status in request["targets"]
        if order_id in orders and _is_there(orders[order_id], status)
    ]
    return time.time(), FleetReport(tuple(there)).to_json()


async def _collect(workflow_id: str, actions: dict[int, Switch], at: float, there: str, migration_allowed: bool) -> str:
    outcomes = {outcome.order_id: outcome for outcome in FleetReport.from_json(there).outcomes}
    for order_id, action in actions.items():
        if order_id in outcomes:
            continue
        try:
            (outcomes[order_id],) = FleetReport.from_json(await _ended(f"{workflow_id}/{order_id}")).outcomes
        except TrooperError as error:
            transition = getattr(error, "transition", None)
            waited = await DBOS.get_workflow_status_async(f"{workflow_id}/{order_id}{WAIT}")  # only for what was sent
            sent = None if isinstance(error, OutcomeUnknownError) else waited is not None
            outcomes[order_id] = FleetOutcome(order_id, action, None, error, 0.0, transition, sent)
    report = FleetReport(tuple(outcomes[order_id] for order_id in actions), time.time() - at, migration_allowed)
    return report.to_json()


async def _ended(workflow_id: str) -> str:
    """The outcome of a fleet's order: one that stands still has not ended."""
    while True:
        try:
            return await outcome(workflow_id)
        except DatabaseError:
            await asyncio.sleep(_ASK_AGAIN)


async def _step(step: Callable[P, Coroutine[object, object, T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a step, or have what is stored of it.

    Raises:
        _MisrecordedError: what is stored is only that it could not be stored.
        SQLAlchemyError: it can't be stored. The workflow has to be left here, and taken up by another life: a further
            step would be counted otherwise by it.
    """
    ran = False

    async def once() -> T:
        nonlocal ran
        ran = True
        return await step(*args, **kwargs)

    try:
        return await DBOS.run_step_async({"name": step.__name__.strip("_")}, once)
    except SQLAlchemyError:
        if ran:
            raise
    raise _MisrecordedError


async def _repeat(step: Callable[P, Coroutine[object, object, T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """A step that may run any number of times: closing cuts it, though not the storing of what it gave."""

    @functools.wraps(step)
    async def resting(*args: P.args, **kwargs: P.kwargs) -> T:
        with current().resting():
            return await step(*args, **kwargs)

    while True:
        with suppress(_MisrecordedError):
            return await _step(resting, *args, **kwargs)


async def _offer(client: TrooperClient, blib_id: int) -> Blib:
    for offers in (client.blibs.list, client.blibs.list_private):
        for blib in await offers():
            if blib.id == blib_id:
                return blib
    raise PriceError(f"blib {blib_id} is not offered", operation="durable.order")


def _check_price(price: Decimal | None, limit: Decimal, what: str, unit: str) -> None:
    if price is None or price > limit:
        raise PriceError(f"{what}: {price} {unit}, and at most {limit} are allowed", operation="durable")


def _is_there(order: Order, status: Status) -> bool:
    return order.current_status.casefold() == (order.desired_status or status).casefold() == status


def _id() -> str:
    workflow_id = DBOS.workflow_id
    assert workflow_id is not None  # noqa: S101 - within a workflow or a step
    return workflow_id
