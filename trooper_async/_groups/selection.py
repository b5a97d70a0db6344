"""Which orders of a list: for fleets, and for the command line."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from fnmatch import fnmatchcase

from trooper_async.models import Order


def select(
    orders: Iterable[Order],
    *,
    title: str | None = None,
    gpu_type: str | None = None,
    country_code: str | None = None,
    status: str | None = None,
    max_price_h: Decimal | float | None = None,
) -> list[Order]:
    """The orders that fit all that is given: `select(await client.orders.list(), title="job-*", status="running")`.

    Args:
        orders: where to look.
        title, gpu_type, country_code, status (the current one): text in which `*`, `?` and `[…]` stand for what they
            do in file names, and upper and lower case are the same.
        max_price_h: EUR per hour at the most; an order without a price does not fit.
    """

    def fits(order: Order) -> bool:
        texts = (
            (title, order.title),
            (gpu_type, order.blib_gpu_type),
            (country_code, order.country_code),
            (status, order.current_status),
        )
        if any(wanted is not None and not alike(wanted, given) for wanted, given in texts):
            return False
        return max_price_h is None or (order.price_h is not None and order.price_h <= Decimal(str(max_price_h)))

    return [order for order in orders if fits(order)]


def alike(wanted: str, given: str | None) -> bool:
    """Whether a text fits a pattern, whatever the case of its letters."""
    return given is not None and fnmatchcase(given.casefold(), wanted.casefold())
