"""Which orders a purchase whose response was lost may have created, and how they are told apart from earlier ones.
Rules 2 and 4 of `trooper_async._buying`.
"""

from __future__ import annotations

import asyncio
import re
from decimal import Decimal
from typing import Any

import pytest

from tests.helpers.buying import LIST, POST, buy, lose, paths, posts, states
from tests.helpers.clock import forward
from tests.helpers.conditions import until
from tests.helpers.fake_orders import polls_since
from tests.tools.simulator.clock import run
from tests.tools.simulator.script import Script
from trooper_async import (
    APIConnectionError,
    Blib,
    Order,
    PollSchedule,
    PurchaseUnknownError,
    ResponseFormatError,
    TrooperClient,
    UnresolvedPurchaseError,
)
from trooper_async._api.endpoints import Call
from trooper_async._api.responses import FailedAttempt, Failure
from trooper_async._buying.record import candidates, fits
from trooper_async.testing import FakeTrooper, Profile

OFFER = Blib(1, "RTX 4090 Single", "RTX 4090", 1)
PRICE = Decimal("0.85")


def order(order_id: int, name: str | None, gpu: str | None, number: int | None, price: str | None) -> Order:
    return Order(
        order_id,
        "running",
        blib_name=name,
        blib_gpu_type=gpu,
        blib_gpu_num=number,
        price_h=None if price is None else Decimal(price),
    )


OURS = order(1, "RTX 4090 Single", "RTX 4090", 1, "0.85")
RENAMED = order(2, "powerai", "RTX 4090", 1, "0.850")
SILENT = order(3, None, None, None, None)
DEARER = order(4, "RTX 4090 Single", "RTX 4090", 1, "0.86")
LARGER = order(5, "H100 Octo", "H100", 8, "19.9")
NAMED = order(6, "RTX 4090 Single", None, None, None)


def test_the_most_similar_candidate_comes_first() -> None:
    """Candidates are sorted by name, GPU, number of GPUs and price; orders known before are left out."""
    found = candidates([LARGER, SILENT, NAMED, RENAMED, OURS, DEARER], {4}, OFFER, PRICE)
    assert [one.order_id for one in found] == [1, 2, 6, 5, 3]


@pytest.mark.parametrize(
    ("order", "may_be"), [(OURS, True), (RENAMED, True), (SILENT, True), (DEARER, False), (LARGER, False)]
)
def test_an_order_fits_unless_its_gpus_or_price_differ(order: Order, may_be: bool) -> None:
    """An order fits unless its GPUs or its price differ; an order's name may differ from its offer's."""
    assert fits(order, OFFER, PRICE) is may_be
    assert fits(order, None, None), "where nothing is known of the offer, nothing can contradict"


async def test_a_lost_purchase_without_new_orders_has_no_candidate(fake_trooper: FakeTrooper) -> None:
    """The list is read repeatedly for `cap` seconds; finding nothing proves nothing, so the purchase stays unknown."""
    fake_trooper.drop_next(POST, when="before")

    async with fake_trooper.client(poll=PollSchedule(floor=0.01, cap=60)) as trooper:
        buying = asyncio.create_task(buy(trooper))
        await until(lambda: len(fake_trooper.requests) > 5)
        forward(60)
        with pytest.raises(PurchaseUnknownError) as caught:
            await buying
        with pytest.raises(UnresolvedPurchaseError) as refused:
            await buy(trooper)

    assert caught.value.candidates == ()
    assert re.fullmatch(
        r"sent, and its outcome is unknown: the response was lost or cut \(\w+: .+\); "
        "candidates: none found, which proves nothing",
        caught.value.message,
    )
    assert refused.value.message == (
        "an earlier purchase (orders.create) is unresolved: whether it was made is unknown; "
        "candidates: none found, which proves nothing; nothing was bought"
    )
    assert paths(fake_trooper)[:5] == [LIST, POST, LIST, LIST, LIST]


def test_the_last_look_for_candidates_is_after_cap_seconds() -> None:
    """Pauses double, and the last one ends exactly then."""

    async def main() -> list[int]:
        looks: list[int] = []

        def orders(t: float) -> list[dict[str, Any]]:
            looks.append(round(t - 1000))
            return []

        async def lost(call: Call[Any]) -> FailedAttempt:
            return FailedAttempt(Failure.LOST, APIConnectionError("lost"))

        async with Script(orders, lost, seconds=0.0).client(poll=PollSchedule(cap=16)) as client:
            with pytest.raises(PurchaseUnknownError):
                await buy(client)
        return looks

    assert run(main()) == [0, 0, 0, 1, 3, 7, 15, 16]  # the first two are before the purchase


async def test_a_candidate_that_appears_late_is_found() -> None:
    """A list that lags is read again until the new order is in it."""
    async with (
        FakeTrooper(profile=Profile(read_lag=600.0)) as fake,
        fake.client(poll=PollSchedule(floor=0.02, cap=60)) as trooper,
    ):
        losing = asyncio.create_task(lose(fake, trooper))
        await until(lambda: polls_since(fake, POST) > 1)  # the first look was in vain
        fake.advance(600)
        error = await losing

        assert [order.order_id for order in error.candidates] == [123]


async def test_another_buyers_order_does_not_end_the_search(fake_trooper: FakeTrooper) -> None:
    """If another buyer's order appears first, of the same price but other GPUs, the list is read until one fits, which
    then comes first.
    """
    fake_trooper.drop_next(POST, when="before")  # it appears late: only when the test adds it
    async with fake_trooper.client(poll=PollSchedule(floor=0.01, cap=60)) as trooper:
        buying = asyncio.create_task(buy(trooper))
        await until(lambda: posts(fake_trooper))
        stranger = fake_trooper.add_order(blib_id=3, price_h=Decimal("0.85"))
        looks = len(fake_trooper.requests)
        await until(lambda: len(fake_trooper.requests) > looks + 2)
        assert not buying.done()
        ours = fake_trooper.add_order(blib_id=1)
        with pytest.raises(PurchaseUnknownError, match="; candidates: order 124, order 123 ") as caught:
            await buying

    assert [order.order_id for order in caught.value.candidates] == [ours.order_id, stranger.order_id]


async def test_a_candidate_of_another_price_comes_last(fake_trooper: FakeTrooper) -> None:
    """Of two new orders of the same offer, the one that costs what was to be paid comes first."""
    async with fake_trooper.client(poll=PollSchedule(floor=0.01, cap=60)) as trooper:
        with fake_trooper.hold_next(LIST) as hold:
            buying = asyncio.create_task(lose(fake_trooper, trooper))
            await hold.arrived()
            dearer = fake_trooper.add_order(blib_id=1, price_h=Decimal("0.86"))
        error = await buying

    ours = dearer.order_id + 1
    assert [order.order_id for order in error.candidates] == [ours, dearer.order_id]


async def test_if_no_new_order_fits_all_new_ones_are_candidates(fake_trooper: FakeTrooper) -> None:
    """After `cap` seconds, all orders that have appeared are named, even if none fits and the last look fails."""
    fake_trooper.drop_next(POST, when="before")
    async with fake_trooper.client(poll=PollSchedule(floor=0.01, cap=60)) as trooper:
        buying = asyncio.create_task(buy(trooper))
        await until(lambda: posts(fake_trooper))
        stranger, seen = fake_trooper.add_order(blib_id=3), len(fake_trooper.requests)
        await until(lambda: len(fake_trooper.requests) > seen + 2)  # one was answered since
        fake_trooper.fail_next(LIST, status=503, times=99)  # the last look is in vain, and takes nothing back
        seen = len(fake_trooper.requests)
        await until(lambda: len(fake_trooper.requests) > seen + 1)
        forward(60)
        with pytest.raises(PurchaseUnknownError, match="; candidates: order 123 ") as caught:
            await buying

    assert [order.order_id for order in caught.value.candidates] == [stranger.order_id]


async def test_the_search_for_candidates_continues_if_the_list_fails(
    fake_trooper: FakeTrooper, caplog: pytest.LogCaptureFixture
) -> None:
    """A list that can't be read is logged, and read again."""
    fake_trooper.drop_next(POST, when="after")
    listed = fake_trooper.hold_next(LIST)
    async with fake_trooper.client(poll=PollSchedule(floor=0.01, cap=60)) as trooper:
        buying = asyncio.create_task(buy(trooper))
        await until(lambda: fake_trooper.requests)
        fake_trooper.fail_next(LIST, status=401)  # the search, not the snapshot of the orders before the purchase
        listed.release()
        with pytest.raises(PurchaseUnknownError) as caught:
            await buying

    assert [order.order_id for order in caught.value.candidates] == [123]
    logged = "what was bought could not be looked for: orders.create of candidates: the API returned 401: "
    assert any(message.startswith(logged) for message in caplog.messages)


async def test_a_failed_search_for_candidates_is_reported(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """The error of the same purchase, and the refusal of the next one, say why they list no candidates."""
    await lose(fake_trooper, trooper, reference="job-1")
    fake_trooper.fail_next(LIST, status=401, times=2)

    looked = "candidates could not be looked for (a 401 of fail_next)"
    with pytest.raises(PurchaseUnknownError) as again:
        await buy(trooper, reference="job-1")
    assert again.value.message == f"sent earlier, and its outcome is unknown; {looked}"
    with pytest.raises(UnresolvedPurchaseError) as caught:
        await buy(trooper)
    assert caught.value.message == (
        "an earlier purchase (orders.create) is unresolved: whether it was made is unknown; "
        f"{looked}; nothing was bought"
    )
    assert caught.value.candidates == ()


async def test_an_order_of_another_purchase_is_no_candidate(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """An order that another purchase of this client bought can't be the lost one."""
    await lose(fake_trooper, trooper, reference="job-1")
    await buy(trooper, reference="job-2")

    with pytest.raises(PurchaseUnknownError) as caught:
        await buy(trooper, reference="job-1")
    assert [order.order_id for order in caught.value.candidates] == [123]


async def test_an_empty_list_is_read_again() -> None:
    """A first list without orders may be incomplete: one read is not trusted."""
    async with FakeTrooper() as fake, fake.client() as trooper:
        await buy(trooper)
        assert paths(fake) == [LIST, LIST, POST]
    async with FakeTrooper() as fake, fake.client() as trooper:
        fake.add_order(order_id=100)
        fake.fail_next(LIST, status=200, body=[])
        error = await lose(fake, trooper)
        assert [order.order_id for order in error.candidates] == [123], "order 100 was there before"


@pytest.mark.parametrize(
    ("headers", "body", "times", "problem"),
    [
        (
            {"Age": "30"},
            [{"order_id": 100, "status": "running"}],
            2,
            "Age should be 0: a cached response proves nothing",
        ),
        (None, [{"order_id": None, "status": "running"}], 1, "$[*].order_id should be readable"),
        (None, [{"order_id": 100, "status": "running"}, {"status": "running"}], 1, "$[*].order_id should be readable"),
    ],
)
async def test_a_cached_or_incomplete_list_buys_nothing(
    headers: dict[str, str] | None,
    body: object,
    times: int,
    problem: str,
    fake_trooper: FakeTrooper,
    trooper: TrooperClient,
) -> None:
    """A new order could not be told apart in a cached list or one with a row without an id, so nothing is bought."""
    fake_trooper.fail_next(LIST, status=200, body=body, headers=headers, times=times)

    with pytest.raises(ResponseFormatError) as caught:
        await buy(trooper)

    assert str(caught.value).startswith(
        f"orders.create of the orders present before: the response is not as documented: {problem}"
    )
    assert posts(fake_trooper) == 0
    assert states(trooper) == []
    assert (await buy(trooper)).order_id == 123


async def test_a_cached_list_is_read_again(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """A cached response is retried once, like an unreadable one; the next may be fresh."""
    fake_trooper.fail_next(LIST, status=200, body=[], headers={"Age": "1"})

    assert (await buy(trooper)).order_id == 123
    assert paths(fake_trooper) == [LIST, LIST, POST]
