"""What the tests of purchases buy, and what they check."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from trooper_async import Blib, Order, Purchase, PurchaseUnknownError, Transition, TrooperClient
from trooper_async.testing import FakeTrooper

BLIB = Blib(1, "RTX 4090 Single", "RTX 4090", 1, price_h=Decimal("0.85"))
POST = "/api/order"
LIST = "/api/orders"


async def buy(trooper: TrooperClient, **arguments: Any) -> Transition:
    """`orders.create` of the first offer for an hour, unless the arguments say otherwise."""
    return await trooper.orders.create(BLIB, **{"contract_interval": "HOUR", "terms_accepted": True, **arguments})


async def buy_and_wait(trooper: TrooperClient, **arguments: Any) -> Order:
    """The same as `orders.create_and_wait`."""
    options = {"contract_interval": "HOUR", "terms_accepted": True, **arguments}
    return await trooper.orders.create_and_wait(BLIB, **options)


async def lose(fake: FakeTrooper, trooper: TrooperClient, **arguments: Any) -> PurchaseUnknownError:
    """Buy, and lose the response after the purchase was made."""
    fake.drop_next(POST, when="after")
    with pytest.raises(PurchaseUnknownError) as caught:
        await buy(trooper, **arguments)
    return caught.value


def posts(fake: FakeTrooper, path: str = POST) -> int:
    """How many purchases have arrived."""
    return [request.path for request in fake.requests].count(path)


def paths(fake: FakeTrooper) -> list[str]:
    """The paths of all requests, in order."""
    return [request.path for request in fake.requests]


def the_purchase(trooper: TrooperClient) -> Purchase:
    """The only purchase of a client."""
    (purchase,) = trooper.orders.purchases
    return purchase


def states(trooper: TrooperClient) -> list[tuple[str, int | None]]:
    """The state and the order of each purchase."""
    return [(purchase.state, purchase.order_id) for purchase in trooper.orders.purchases]
