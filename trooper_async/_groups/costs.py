"""What an order costs, as far as the API's documents say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from trooper_async.models import Order


def cost_h(order: Order) -> Decimal | None:
    """What an order costs per hour in its current status. No request is sent.

    A stopped server costs 35 % of its price and a terminated one nothing; with any other status, including a
    transitional one, it costs its full price. What a frozen server costs is not documented.

    Args:
        order: the order, as `orders.list()` or `orders.get()` returned it.

    Returns:
        EUR per hour; None for a frozen server, and for an order without a price.
    """
    if order.price_h is None:
        return None
    match order.current_status.casefold():
        case "stopped":
            return Decimal("0.35") * order.price_h
        case "terminated":
            return Decimal(0)
        case "frozen":  # its resources are released; that it is free is written nowhere
            return None
    return order.price_h


def prepaid(order: Order, *, now: datetime | None = None) -> Decimal | None:
    """What has been paid for the rest of an order's current period. No request is sent.

    A contract interval is paid in advance and not refunded, so a stop or freeze saves nothing before `paid_until`.

    Args:
        order: the order, as `orders.list()` or `orders.get()` returned it.
        now: the present time, with a time zone; by default that of this machine.

    Returns:
        EUR, at the order's price per hour; 0 if the period is over; None for an order without a price or `paid_until`.
    """
    if order.price_h is None or order.paid_until is None:
        return None
    left = order.paid_until - (datetime.now(UTC) if now is None else now)
    hours = Decimal(max(left, timedelta(0)) // timedelta(microseconds=1)) / 3_600_000_000
    return order.price_h * hours
