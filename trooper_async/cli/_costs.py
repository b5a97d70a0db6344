"""What servers cost as they are: a stopped one 35 % of its price; of a frozen one no price is documented."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from attrs import frozen

from trooper_async.models import Order

STOPPED_SHARE = Decimal("0.35")
HOURS_A_DAY, HOURS_A_MONTH = 24, 720
"""A month is 30 days."""


@frozen
class StatusCost:
    """The servers of one status."""

    status: str
    order_ids: tuple[int, ...]
    price_h: Decimal
    """The sum of their prices, EUR per hour."""
    cost_h: Decimal | None
    """What they cost as they are, EUR per hour; None where that is not documented."""


@frozen
class Ending:
    """A paid period, and when it ends."""

    order_id: int
    title: str | None
    contract_interval: str | None
    paid_until: datetime


@frozen
class FleetCost:
    """What a fleet costs, in EUR, as it is now."""

    per_hour: Decimal
    per_day: Decimal
    per_month: Decimal
    by_status: tuple[StatusCost, ...]
    ends: tuple[Ending, ...]
    unpriced: tuple[int, ...]
    """Orders without a price: they are in no sum."""


def share(status: str) -> Decimal | None:
    """The share of its price that a server of that status costs. One that is on the way counts in full."""
    match status.casefold():
        case "stopped":
            return STOPPED_SHARE
        case "terminated":
            return Decimal(0)
        case "frozen":  # its resources are released; that it is free is written nowhere
            return None
    return Decimal(1)


def costs_now(order: Order) -> Decimal | None:
    """EUR per hour; None where there is no price, or it is not known what of it counts."""
    part = share(order.current_status)
    return None if part is None or order.price_h is None else part * order.price_h


def fleet_cost(orders: Iterable[Order]) -> FleetCost:
    """The cost of all of them."""
    orders = list(orders)
    groups: dict[str, list[Order]] = {}
    for order in orders:
        if order.price_h is not None:
            groups.setdefault(order.current_status.casefold(), []).append(order)
    by_status = []
    for status, group in groups.items():
        price, part = sum((order.price_h or Decimal(0) for order in group), Decimal(0)), share(status)
        ids = tuple(order.order_id for order in group)
        by_status.append(StatusCost(status, ids, price, None if part is None else part * price))
    by_status.sort(key=lambda one: one.price_h, reverse=True)
    per_hour = sum((one.cost_h for one in by_status if one.cost_h is not None), Decimal(0))
    ends = [
        Ending(order.order_id, order.title, order.contract_interval, order.paid_until)
        for order in orders
        if order.paid_until is not None
    ]
    return FleetCost(
        per_hour=per_hour,
        per_day=per_hour * HOURS_A_DAY,
        per_month=per_hour * HOURS_A_MONTH,
        by_status=tuple(by_status),
        ends=tuple(sorted(ends, key=lambda end: end.paid_until)),
        unpriced=tuple(order.order_id for order in orders if order.price_h is None),
    )
