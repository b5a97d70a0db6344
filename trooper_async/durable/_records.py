"""What the workflows store: plain data, never a key."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal, TypedDict

from attrs import evolve

from trooper_async import (
    Blib,
    ConfigurationError,
    Order,
    OrderStatus,
    Purchase,
    PurchaseUnknownError,
    Transition,
    __version__,
)
from trooper_async._api.arguments import check_seconds
from trooper_async._buying import record

FORMAT = 1
"""Of what is stored; it rises when a workflow's steps change, and those of formats not known are refused."""
WAIT = "/wait"
"""What the id of a wait has besides that of the workflow that sent."""
QUESTION, ANSWER, DECISION = "question", "answer", "decision"
"""Of a purchase that may have been made: the event that asks, the messages that answer, and the event that the first of
them has been taken."""
FOREVER = 10 * 365 * 86400.0

Status = Literal["running", "stopped", "frozen"]
Switch = Literal["start", "stop", "freeze", "restart"]
Action = Switch | Literal["install", "create", "migrate", "converge"]


class NotBoughtError(PurchaseUnknownError):
    """A purchase that may have been made, of which somebody has decided that it was not."""

    hint = "Another workflow_id buys anew"


class Terms(TypedDict):
    """What an order is made with besides the offer; see `client.orders.create`."""

    contract_interval: str
    terms_accepted: bool
    total_price: Decimal | None
    second_partition_percentage: int | None
    templates: list[int]


class Request(TypedDict):
    """What a workflow is to do."""

    format: int
    release: str
    action: Action
    timeout: float | None
    order_id: int
    migration_allowed: bool
    template_id: int
    blib_id: int
    max_price: Decimal
    """EUR: an hour's for an order, what is due now for a migration."""
    terms: Terms | None
    keep_data: bool
    targets: list[tuple[int, Status]]


class Intent(TypedDict):
    """What is known before anything is sent."""

    life: str
    at: float
    transition: str | None
    """What a switch will be, should its answer be lost; of a restart with what the history held before."""
    blib_name: str | None
    price: Decimal | None
    known: list[int]
    """What is there before: the orders, of a purchase; the server's installs, of a template."""


class Sent(TypedDict):
    """What came of sending it."""

    transition: str | None
    """None for a purchase that may have been made, and for a template."""
    install_id: int | None
    """Of a template; None where it may have been sent."""
    at: float
    deadline: float | None
    doubt: str | None
    """Why it is not certain that it was done."""


def new_request(action: Action, timeout: float | None) -> Request:
    """One of this release."""
    check_seconds(timeout)
    return Request(
        format=FORMAT,
        release=__version__,
        action=action,
        timeout=timeout,
        order_id=0,
        migration_allowed=False,
        template_id=0,
        blib_id=0,
        max_price=Decimal(0),
        terms=None,
        keep_data=False,
        targets=[],
    )


def check_format(request: Request) -> None:
    """Refuse what another release has begun, where this one has other steps.

    Raises:
        ConfigurationError: it was; nothing more is sent.
    """
    if request["format"] != FORMAT:
        text = f"trooper-async {request['release']} has begun this workflow, and {__version__} can't go on with it"
        anew = "begin it anew under another id"
        advice = f"it may be bought: look at the account first, and only then {anew}" if buys(request) else anew
        raise ConfigurationError(f"{text}: {advice}; nothing more was sent")


def is_same(known: tuple[str, Request], account: str, request: Request) -> bool:
    """Whether it is the same work, in whichever release it was begun, and however long it is waited for."""
    fields = known[1].keys() & request.keys() - {"format", "release", "timeout"}
    return known[0] == account and all(known[1].get(field) == request.get(field) for field in fields)


def buys(request: Request) -> bool:
    return request["action"] in ("create", "migrate")


def is_setting(request: Request) -> bool:
    """Whether it may be sent again: it is the same sent twice."""
    return request["action"] in ("stop", "freeze") or (
        request["action"] == "start" and not request["migration_allowed"]
    )


def accepted(request: Request, what: Transition | int | None, at: float, doubt: str | None = None) -> Sent:
    """It was sent at that time, from which its deadline counts. A number is a template's install."""
    deadline = None if request["timeout"] is None else at + request["timeout"]
    transition, install_id = (what.to_json(), None) if isinstance(what, Transition) else (None, what)
    return Sent(transition=transition, install_id=install_id, at=at, deadline=deadline, doubt=doubt)


def doubtful(request: Request, intent: Intent, doubt: str) -> Sent:
    """It may have been sent. Its time counts from the intent, which is all that is known."""
    stored = intent["transition"]
    return accepted(request, None if stored is None else Transition.from_json(stored), intent["at"], doubt)


def purchase_of(
    workflow_id: str,
    request: Request,
    intent: Intent,
    state: Literal["bought", "unknown", "resolved"],
    order_id: int | None = None,
) -> Purchase:
    """The purchase of a workflow, whose id is its own and its reference."""
    return Purchase(
        id=workflow_id,
        kind="create" if request["action"] == "create" else "migrate",
        blib_id=request["blib_id"],
        state=state,
        at=datetime.fromtimestamp(intent["at"], UTC),
        reference=workflow_id,
        price_h=intent["price"],
        order_id=order_id,
        migrated_order_id=request["order_id"] or None,
    )


def decided(workflow_id: str, request: Request, intent: Intent, order_id: int | None, at: float) -> Sent:
    """What somebody has said about a purchase that may have been made.

    Raises:
        NotBoughtError: it was not made. This workflow buys nothing any more.
    """
    purchase = purchase_of(workflow_id, request, intent, "resolved", order_id)
    if order_id is None:
        raise NotBoughtError(
            "it was resolved as not made, and is not made any more",
            purchase=purchase,
            operation=f"durable.{request['action']}",
            subject=f"blib {request['blib_id']}",
        )
    return accepted(request, Transition(order_id, purchase.kind, OrderStatus.running), at)


def candidates(orders: list[Order], intent: Intent) -> tuple[Order, ...]:
    """The orders that were not there before, those of the same kind and price first."""
    offer = Blib(0, intent["blib_name"])
    return tuple(map(without_settings, record.candidates(orders, intent["known"], offer, intent["price"])))


def without_settings(order: Order) -> Order:
    """The order without its templates' settings, which may hold a password."""
    installs = order.template_installs
    return evolve(order, template_installs=installs and tuple(evolve(install, config=None) for install in installs))
