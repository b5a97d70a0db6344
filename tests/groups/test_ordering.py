"""What `orders.create` refuses before anything is sent, and what it sends."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.helpers.buying import POST, buy, posts
from tests.helpers.texts import exactly
from trooper_async import Blib, ConfigurationError, PriceError, TrooperClient
from trooper_async.testing import FakeTrooper


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"contract_interval": "DAY"},
            "total_price must be given for DAY: how the API calculates it is not documented",
        ),
        (
            {"contract_interval": "QUARTER", "total_price": 5, "max_price_h": 1},
            "max_price_h can't be compared with the price of an interval 'QUARTER': leave it out",
        ),
    ],
)
async def test_an_order_whose_price_cannot_be_calculated_is_refused(
    options: dict[str, Any], problem: str, fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """The error says what to pass, or to leave out."""
    expected = exactly(f"orders.create of blib 1: {problem}; nothing was sent")
    with pytest.raises(ConfigurationError, match=expected):
        await buy(trooper, **options)
    assert fake_trooper.requests == []


async def test_an_offer_without_a_price_needs_one(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """The error says which argument to pass."""
    with pytest.raises(
        ConfigurationError, match=exactly("orders.create: the offer has no price: pass price_h; nothing was sent")
    ):
        await trooper.orders.create(Blib(1), contract_interval="HOUR", terms_accepted=True)
    assert fake_trooper.requests == []


@pytest.mark.parametrize(
    ("interval", "total", "refused"),
    [
        ("HOUR", "1.01", True),
        ("HOUR", "0.85", False),
        ("DAY", "24.01", True),
        ("DAY", "24", False),
        ("WEEK", "9999", True),
    ],
)
async def test_max_price_h_limits_the_total_of_the_interval(
    interval: str, total: str, refused: bool, fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """`max_price_h` times the hours of the interval is the most that the interval may cost."""
    options = {"contract_interval": interval, "total_price": Decimal(total), "max_price_h": 1}
    problem = f"a {interval} would cost {total} EUR, and at most 1 per hour are allowed"
    if refused:
        with pytest.raises(PriceError, match=exactly(f"orders.create of blib 1: {problem}. {PriceError.hint}")):
            await buy(trooper, **options)
    else:
        await buy(trooper, **options)
    assert posts(fake_trooper) == (not refused)


async def test_an_interval_is_sent_in_capitals(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """`hour` is accepted: it is sent as `HOUR`."""
    await buy(trooper, contract_interval="hour")
    assert fake_trooper.sent(POST)[0]["contract_interval"] == "HOUR"
