"""What orders cost per hour, and what is paid in advance."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from trooper_async import Order, cost_h, prepaid

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "price", "cost"),
    [
        ("running", "1.20", "1.20"),
        ("stopped", "1.20", "0.42"),
        ("Stopped", "1.20", "0.42"),
        ("stopping", "1.20", "1.20"),
        ("starting", "1.20", "1.20"),
        ("an unknown word", "1.20", "1.20"),
        ("terminated", "1.20", "0"),
        ("frozen", "1.20", None),
        ("running", None, None),
        ("stopped", None, None),
    ],
)
def test_cost_h_follows_the_status(status: str, price: str | None, cost: str | None) -> None:
    """35 % of the price when stopped, nothing when terminated, else the price; None where it is not documented."""
    order = Order(1, status, price_h=None if price is None else Decimal(price))
    assert cost_h(order) == (None if cost is None else Decimal(cost))


@pytest.mark.parametrize(
    ("price", "left", "paid"),
    [
        ("1.20", timedelta(hours=1), "1.20"),
        ("1.20", timedelta(minutes=30), "0.60"),
        ("1.20", timedelta(days=1), "28.80"),
        ("1.20", timedelta(0), "0"),
        ("1.20", timedelta(hours=-5), "0"),
        (None, timedelta(hours=1), None),
        ("1.20", None, None),
    ],
)
def test_prepaid_is_the_price_until_paid_until(price: str | None, left: timedelta | None, paid: str | None) -> None:
    """The price of the hours up to `paid_until`; nothing once that has passed."""
    until = None if left is None else NOW + left
    order = Order(1, "running", price_h=None if price is None else Decimal(price), paid_until=until)
    assert prepaid(order, now=NOW) == (None if paid is None else Decimal(paid))


def test_prepaid_counts_from_now_by_default() -> None:
    """Without `now`, the rest is counted from the current time."""
    order = Order(1, "running", price_h=Decimal(1), paid_until=datetime.now(UTC) + timedelta(hours=2))
    rest = prepaid(order)
    assert rest is not None
    assert Decimal("1.9") < rest <= 2
