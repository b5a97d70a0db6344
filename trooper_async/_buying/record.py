"""The record of a purchase, and which orders may be what it bought."""

from __future__ import annotations

import uuid
from collections.abc import Container, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

from attrs import frozen

from trooper_async._api.arguments import wrong
from trooper_async.errors import PurchaseNotReadyError, TrooperError, WaitError
from trooper_async.models import JSON, Blib, Order, OrderStatus, Purchase, Transition


@frozen
class Record:
    """A purchase, and what is needed to recognise a repeated call and the order that it bought."""

    purchase: Purchase
    operation: str
    """The method that was called: `orders.create_and_wait`."""
    terms: dict[str, JSON]
    """What is bought, without the price: a repeated call under the same reference must ask for the same."""
    blib: Blib | None = None
    """The fields of the offer that an order can be compared with."""
    before: tuple[int, ...] = ()
    """The ids of the orders that existed before it was sent."""

    @property
    def transition(self) -> Transition:
        """The transition of the order that it bought, whose id has to be known."""
        assert self.purchase.order_id is not None  # noqa: S101 - the callers know it
        return Transition(self.purchase.order_id, self.purchase.kind, OrderStatus.running)


def new_record(
    operation: str,
    kind: Literal["create", "migrate"],
    blib_id: int,
    terms: dict[str, JSON],
    *,
    price_h: Decimal | None,
    reference: str | None,
    migrated_order_id: int | None = None,
) -> Record:
    """Make the record of a purchase that is requested now."""
    if reference is not None and (not isinstance(reference, str) or not reference):
        raise wrong("a reference must be a text that is not empty", reference, operation)
    at = datetime.now(UTC)
    purchase = Purchase(uuid.uuid4().hex, kind, blib_id, "open", at, reference, price_h, None, migrated_order_id)
    return Record(purchase, operation, terms)


def candidates(
    orders: Iterable[Order], known: Container[int], blib: Blib | None, price_h: Decimal | None
) -> tuple[Order, ...]:
    """The orders that are not known, the most similar to the purchase first."""

    def similarity(order: Order) -> int:
        name, *others = _compared(order, blib, price_h)
        return 2 * (name is True) + others.count(True)

    new = [order for order in orders if order.order_id not in known]
    return tuple(sorted(new, key=similarity, reverse=True))


def fits(order: Order, blib: Blib | None, price_h: Decimal | None) -> bool:
    """Whether an order may be what was bought: neither its GPUs nor its price differ.

    The name is left out: the API's own samples call an offer and its order by different ones.
    """
    _, *others = _compared(order, blib, price_h)
    return False not in others


def _compared(order: Order, blib: Blib | None, price_h: Decimal | None) -> list[bool | None]:
    """Whether name, GPU, number of GPUs and price are the same; None if one side does not have the field."""
    pairs: list[tuple[object, object]] = [
        (order.blib_name, blib and blib.name),
        (order.blib_gpu_type, blib and blib.gpu_type),
        (order.blib_gpu_num, blib and blib.gpu_num),
        (order.price_h, price_h),
    ]
    return [None if one is None or other is None else one == other for one, other in pairs]


def not_ready(error: Exception, purchase: Purchase, transition: Transition, operation: str) -> PurchaseNotReadyError:
    """The error of a purchase that was made but whose wait failed with `error`. Raise it from that one."""
    waited = error if isinstance(error, WaitError) else None
    failure = error if isinstance(error, TrooperError) else None
    what = failure.message if failure else f"{type(error).__name__}: {error}"
    return PurchaseNotReadyError(
        f"bought as order {transition.order_id}, but not running yet: {what}",
        purchase=purchase,
        operation=operation,
        subject=f"order {transition.order_id}",
        transition=transition,
        target=transition.target,
        order=waited.order if waited else None,
        polls=waited.polls if waited else 0,
        last_error=waited.last_error if waited else failure,
        seconds=failure.seconds if failure else 0.0,
    )
