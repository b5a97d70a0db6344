"""`orders.resolve`: a decision that contradicts what is known is refused, and the first one counts. Rules 4 and 6 of
`trooper_async._buying`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.buying import LIST, POST, buy, lose, states, the_purchase
from tests.helpers.texts import exactly
from trooper_async import Blib, ConfigurationError, PurchaseUnknownError, TrooperClient, UnresolvedPurchaseError
from trooper_async.testing import FakeTrooper


def refused(problem: str) -> pytest.RaisesExc[ConfigurationError]:
    """A decision is refused with the whole text of the error."""
    return pytest.raises(ConfigurationError, match=exactly(f"orders.resolve: {problem}: nothing was resolved"))


async def bought_for_a_cancelled_caller(fake: FakeTrooper, trooper: TrooperClient) -> UnresolvedPurchaseError:
    """The error of a purchase that is known as bought, and whose caller was cancelled."""
    hold = fake.hold_next(POST)
    task = asyncio.create_task(buy(trooper))
    await hold.arrived()
    task.cancel()
    hold.release()
    with pytest.raises(UnresolvedPurchaseError) as caught:
        await buy(trooper)
    return caught.value


@pytest.mark.parametrize(
    ("order", "problem"),
    [(order, "it is known that it is order 123") for order in (None, 100, 124)],
)
async def test_a_known_order_can_only_be_resolved_as_itself(
    order: int | None, problem: str, fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """ "Not made" and other orders are refused; its own order resolves it."""
    error = await bought_for_a_cancelled_caller(fake_trooper, trooper)

    with refused(problem):
        await trooper.orders.resolve(error, order)
    assert [one.order_id for one in await trooper.orders.unresolved()] == [123]

    await trooper.orders.resolve(error, 123)
    assert await trooper.orders.unresolved() == ()


async def test_an_order_that_existed_before_is_refused(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """An order that the list showed before the purchase was sent cannot be its result."""
    error = await lose(fake_trooper, trooper)

    with refused("order 100 existed before it was sent"):
        await trooper.orders.resolve(error, 100)
    assert the_purchase(trooper).state == "unknown"


async def test_an_order_of_another_purchase_is_refused(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """Two purchases are two servers."""
    error = await lose(fake_trooper, trooper, reference="job-1")
    await buy(trooper, reference="job-2")

    with refused("order 124 belongs to another purchase"):
        await trooper.orders.resolve(error, 124)
    await trooper.orders.resolve(error, 123)


async def test_the_order_that_a_migration_replaces_is_refused(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """A migration buys a new order."""
    quote = await trooper.migrations.quote(100, 2)
    fake_trooper.drop_next("/api/buy-migration", when="after")
    with pytest.raises(PurchaseUnknownError) as caught:
        await trooper.migrations.buy(quote, keep_data=True)

    with refused("order 100 existed before it was sent"):
        await trooper.orders.resolve(caught.value, 100)
    await trooper.orders.resolve(caught.value, 123)


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        (123, None, "it is resolved already: it is order 123"),
        (123, 999, "it is resolved already: it is order 123"),
        (None, 123, "it is resolved already: it was not made"),
    ],
)
async def test_the_first_decision_counts(
    first: int | None, second: int | None, problem: str, fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """A different one is refused; the same one again is not."""
    error = await lose(fake_trooper, trooper)
    await trooper.orders.resolve(error, first)

    with refused(problem):
        await trooper.orders.resolve(error, second)
    await trooper.orders.resolve(error, first)
    assert states(trooper) == [("resolved", first)]


async def test_of_two_concurrent_decisions_the_first_counts(fake_trooper: FakeTrooper, path: Path) -> None:
    """The second sees the first, although that is still being written to the ledger."""
    async with fake_trooper.client(ledger=path) as trooper:
        error = await lose(fake_trooper, trooper)
        outcomes = await asyncio.gather(
            trooper.orders.resolve(error, 123), trooper.orders.resolve(error, None), return_exceptions=True
        )
    assert outcomes[0] is None
    assert isinstance(outcomes[1], ConfigurationError)
    async with fake_trooper.client(ledger=path) as trooper:
        assert states(trooper) == [("resolved", 123)]


async def test_a_refused_purchase_cannot_be_resolved_as_an_order(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """A refused purchase bought nothing."""
    fake_trooper.fail_next(POST, status=400)
    with pytest.raises(Exception, match="400"):
        await buy(trooper)

    with refused("it is known that it was not made"):
        await trooper.orders.resolve(the_purchase(trooper), 123)
    await trooper.orders.resolve(the_purchase(trooper), None)
    assert not the_purchase(trooper).delivered


async def test_a_decision_is_kept_over_restarts(fake_trooper: FakeTrooper, path: Path) -> None:
    """The checks are the same after a restart: the ledger has the orders from before the purchase."""
    async with fake_trooper.client(ledger=path) as trooper:
        await lose(fake_trooper, trooper)
    async with fake_trooper.client(ledger=path) as trooper:
        (lost,) = await trooper.orders.unresolved()
        with refused("order 100 existed before it was sent"):
            await trooper.orders.resolve(lost, 100)
        await trooper.orders.resolve(lost, 123)
    async with fake_trooper.client(ledger=path) as trooper:
        with refused("it is resolved already: it is order 123"):
            await trooper.orders.resolve(lost, None)


@pytest.mark.parametrize("what", [5, None, Blib(1)])
async def test_only_a_purchase_or_its_error_can_be_resolved(what: Any, trooper: TrooperClient) -> None:
    """Anything else is no purchase that the client knows."""
    with refused("no purchase of this client or its ledger"):
        await trooper.orders.resolve(what, None)


# Responses that name an impossible order ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"success": True, "orderId": 0}),
        (200, {"success": True, "orderId": -5}),
        (200, {"success": True, "orderId": 100}),
        (200, {"success": False, "error": "not done", "orderId": 1001}),
        (400, {"error": "not done", "orderId": 1001}),
        (400, {"error": "not done", "orderId": 1}),
    ],
    ids=["0", "negative", "existed before", "refused, with an order", "a 400 with an order", "a 400 with order 1"],
)
async def test_a_response_with_an_impossible_order_is_an_unknown_purchase(
    status: int, body: Any, fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """It is neither trusted nor taken for a refusal: the real order is among the candidates."""
    hold = fake_trooper.hold_next("/api/orders")
    fake_trooper.fail_next(POST, status=status, body=body)
    buying = asyncio.create_task(buy(trooper))
    await hold.arrived()
    fake_trooper.add_order(order_id=500, blib_id=1)  # the real one
    hold.release()

    with pytest.raises(PurchaseUnknownError) as caught:
        await buying

    assert [order.order_id for order in caught.value.candidates] == [500]
    assert the_purchase(trooper).state == "unknown"


async def test_a_response_with_another_purchases_order_is_unknown(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """If the API names the same order for two concurrent purchases, the second is unknown."""
    fake_trooper.fail_next(POST, status=200, body={"success": True, "orderId": 700}, times=2)

    outcomes = await asyncio.gather(
        buy(trooper, reference="job-1"), buy(trooper, reference="job-2"), return_exceptions=True
    )

    assert sorted(type(one).__name__ for one in outcomes) == ["PurchaseUnknownError", "Transition"]
    assert sorted(states(trooper)) == [("bought", 700), ("unknown", None)]


async def test_a_response_with_the_migrated_order_is_unknown(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """A `new_order_id` that is the old order's id says nothing about the new server, even if the list lags behind."""
    quote = await trooper.migrations.quote(100, 2)
    fake_trooper.fail_next(LIST, status=200, body=[{"order_id": 99, "status": "running"}])
    fake_trooper.fail_next("/api/buy-migration", status=200, body={"success": True, "new_order_id": 100})

    with pytest.raises(
        PurchaseUnknownError, match=r": the response names order 100, which cannot be the new one; candidates: "
    ):
        await trooper.migrations.buy(quote, keep_data=True)


@pytest.mark.parametrize("body", [{"success": False, "error": "no"}, {"success": False, "orderId": None}])
async def test_a_refusal_without_an_order_is_a_refusal(
    body: Any, fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """Nothing contradicts it."""
    fake_trooper.fail_next(POST, status=200, body=body)
    with pytest.raises(Exception, match="200"):
        await buy(trooper)
    assert the_purchase(trooper).state == "refused"
