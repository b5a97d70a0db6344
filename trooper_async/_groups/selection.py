"""Selects orders from a list by title, GPU, country, status and price."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from decimal import Decimal
from fnmatch import fnmatchcase

from trooper_async._api import arguments
from trooper_async.models import Order, OrderStatus

LOG = logging.getLogger("trooper_async.orders")


def select(
    orders: Iterable[Order],
    *,
    title: str | None = None,
    gpu_type: str | None = None,
    country_code: str | None = None,
    status: str | None = None,
    max_price_h: Decimal | float | None = None,
) -> list[Order]:
    """Pick orders out of a list: `select(await client.orders.list(), title="job-*", status="running")`.

    Each text may be a pattern, in which `*`, `?` and `[…]` mean what they mean in file names. If some orders have
    exactly that text, only they match, so a title like `[prod] trainer` is not taken as a pattern. Case is ignored. No
    request is sent.

    Args:
        orders: the orders to pick from.
        title: the title, or a pattern.
        gpu_type: the GPU type, or a pattern: `RTX 4090`, `*4090`.
        country_code: the country's two letters, or a pattern.
        status: the current status, or a pattern. If no order has it and it is not a known status, it is logged at
            WARNING, since it may be misspelled.
        max_price_h: the highest price, in EUR per hour; an order without a price does not match.

    Returns:
        The orders that match all arguments, in the order of the list.

    Raises:
        ConfigurationError: an argument is of the wrong type.
    """
    orders = list(orders)
    for order in orders:
        if not isinstance(order, Order):
            raise arguments.wrong("orders, such as orders.list() returns, are needed", order, "select")
    tests = [
        matcher("title", title, [order.title for order in orders]),
        matcher("gpu_type", gpu_type, [order.blib_gpu_type for order in orders]),
        matcher("country_code", country_code, [order.country_code for order in orders]),
        matcher("status", status, [order.current_status for order in orders]),
    ]
    limit = None if max_price_h is None else arguments.money(max_price_h, "max_price_h", "select", sent=False)

    def fits(order: Order) -> bool:
        texts = (order.title, order.blib_gpu_type, order.country_code, order.current_status)
        if not all(test(text) for test, text in zip(tests, texts, strict=True)):
            return False
        return limit is None or (order.price_h is not None and order.price_h <= limit)

    found = [order for order in orders if fits(order)]
    if status is not None:
        warn_if_unknown(status, "select", (order.current_status for order in orders))
    return found


def matcher(name: str, wanted: str | None, texts: Iterable[str | None]) -> Callable[[str | None], bool]:
    """A function that tells whether a text matches: exactly, if one of `texts` does; otherwise by pattern. None matches
    all.
    """
    if wanted is None:
        return lambda text: True
    if not isinstance(wanted, str):
        raise arguments.wrong(f"{name} must be text or a pattern", wanted, "select")
    folded = wanted.casefold()
    if any(text is not None and text.casefold() == folded for text in texts):
        return lambda text: text is not None and text.casefold() == folded
    return lambda text: text is not None and fnmatchcase(text.casefold(), folded)


def warn_if_unknown(status: str, operation: str, seen: Iterable[str] = ()) -> None:
    """Log a status word that may be misspelled. It is not refused, since the API does not document all of its words."""
    words = (*OrderStatus, *seen)
    if not any(map(matcher("status", status, words), words)):
        known = ", ".join(OrderStatus)
        LOG.warning("%s: %r is not a known status, and may be misspelled. Known are: %s", operation, status, known)
