"""Purchases: sent once, followed to their end, and never forgotten, since a bought server is billed. Rules 1, 3, 7 and
8 of `trooper_async._buying`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.helpers.buying import LIST, POST, buy, buy_and_wait, lose, paths, posts, the_purchase
from tests.helpers.clock import forward
from tests.helpers.conditions import until
from tests.helpers.fake_orders import polls_since
from tests.helpers.texts import exactly
from trooper_async import (
    APIConnectionError,
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    Order,
    OutcomeUnknownError,
    PollSchedule,
    PriceError,
    PurchaseNotReadyError,
    PurchaseUnknownError,
    RefusedError,
    RetryPolicy,
    Transition,
    TrooperClient,
    TrooperError,
    UnresolvedPurchaseError,
    WaitError,
)
from trooper_async.testing import FakeTrooper

# --- sent once ----------------------------------------------------------------------------------------------------


async def test_a_purchase_is_sent_once_after_the_current_orders_were_read(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """One list read, one POST; the purchase is recorded as bought, and the next one may go on."""
    first, second = await buy(trooper), await buy(trooper)

    assert paths(fake_trooper) == [LIST, POST] * 2
    assert fake_trooper.requests[1].json == {
        "blib_id": 1,
        "price_h": 0.85,
        "total_price": 0.85,
        "terms_accepted": True,
        "contract_interval": "HOUR",
        "templates": [],
    }
    assert [transition.order_id for transition in (first, second)] == [123, 124]
    purchases = trooper.orders.purchases
    assert [(one.kind, one.state, one.order_id, one.blib_id, one.price_h, one.reference) for one in purchases] == [
        ("create", "bought", 123, 1, Decimal("0.85"), None),
        ("create", "bought", 124, 1, Decimal("0.85"), None),
    ]
    assert purchases[0].at.tzinfo is not None
    assert purchases[0].id != purchases[1].id


async def test_concurrent_purchases_are_sent_one_at_a_time(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """Each reads the current orders once the one before is known, and all are bought."""
    transitions = await asyncio.gather(*(buy(trooper) for _ in range(5)))

    assert sorted(transition.order_id for transition in transitions) == [123, 124, 125, 126, 127]
    assert paths(fake_trooper) == [LIST, POST] * 5


async def test_if_the_current_orders_cannot_be_read_nothing_is_bought(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """If the list can't be read the purchase fails before it is sent; it is not recorded, and blocks nothing."""
    fake_trooper.fail_next("/api/orders", status=401)

    with pytest.raises(AuthenticationError):
        await buy(trooper)

    assert posts(fake_trooper) == 0
    assert trooper.orders.purchases == ()
    assert (await buy(trooper)).order_id == 123


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": "Insufficient budget"}, BadRequestError),
        (401, {"error": "no"}, AuthenticationError),
        (200, {"success": False, "error": "no"}, RefusedError),
    ],
)
async def test_a_refused_purchase_was_not_made(
    fake_trooper: FakeTrooper, trooper: TrooperClient, status: int, body: object, kind: type[TrooperError]
) -> None:
    """A refusal is certain: the state is `refused`, and the next purchase may go on."""
    fake_trooper.fail_next(POST, status=status, body=body)

    with pytest.raises(kind) as caught:
        await buy(trooper)

    assert (caught.value.operation, caught.value.subject, caught.value.attempts) == ("orders.create", "blib 1", 1)
    assert (the_purchase(trooper).state, the_purchase(trooper).order_id) == ("refused", None)
    assert (await buy(trooper)).order_id == 123


async def test_a_rate_limited_purchase_is_retried(fake_trooper: FakeTrooper) -> None:
    """A 429 certainly bought nothing: after its pause the purchase is made."""
    fake_trooper.fail_next(POST, status=429, retry_after=0, times=2)

    async with fake_trooper.client(retry=RetryPolicy(max_delay=0.0)) as trooper:
        assert (await buy(trooper)).order_id == 123
        assert the_purchase(trooper).state == "bought"

    assert [request.status for request in fake_trooper.requests if request.path == POST] == [429, 429, 200]


async def test_a_purchase_that_could_not_be_sent_was_not_made(fake_trooper: FakeTrooper) -> None:
    """A refused connection is retried; once the attempts are used up, the purchase is certainly refused."""
    listed = fake_trooper.hold_next(LIST)
    async with fake_trooper.client(retry=RetryPolicy(attempts=3, max_delay=0.0)) as trooper:
        buying = asyncio.create_task(buy(trooper))
        await until(lambda: fake_trooper.requests)
        trooper._transport.wire._proxy = lambda: "http://127.0.0.1:1"  # nobody listens there
        listed.release()
        with pytest.raises(APIConnectionError) as caught:
            await buying
        assert caught.value.attempts == 3
        assert the_purchase(trooper).state == "refused"

        trooper._transport.wire._proxy = lambda: None
        assert (await buy(trooper)).order_id == 123

    assert posts(fake_trooper) == 1


# --- lost responses -------------------------------------------------------------------------------------------------


async def test_a_lost_response_is_an_unknown_purchase_with_its_candidate(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """The order that has appeared since is the candidate; it is no TimeoutError, and nothing is sent again."""
    error = await lose(fake_trooper, trooper)

    assert posts(fake_trooper) == 1
    assert [order.order_id for order in error.candidates] == [123]
    assert "order 123" in str(error)
    assert (error.purchase.state, error.purchase.order_id, error.attempts) == ("unknown", None, 1)
    assert isinstance(error, OutcomeUnknownError)
    assert not isinstance(error, TimeoutError | APIConnectionError)
    assert the_purchase(trooper) == error.purchase


async def test_an_unknown_purchase_blocks_the_next_until_it_is_resolved(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """Nothing is bought while a purchase is unknown; once it is resolved, the next may go on."""
    error = await lose(fake_trooper, trooper)
    fake_trooper.requests.clear()

    with pytest.raises(UnresolvedPurchaseError) as caught:
        await buy(trooper)
    assert paths(fake_trooper) == [LIST], "only its candidates are looked for"
    assert [order.order_id for order in caught.value.candidates] == [123]
    assert caught.value.purchase == error.purchase
    assert caught.value.operation == "orders.create"

    await trooper.orders.resolve(error, error.candidates[0])

    assert (the_purchase(trooper).state, the_purchase(trooper).order_id) == ("resolved", 123)
    assert (await buy(trooper)).order_id == 124


async def test_a_purchase_is_resolved_by_any_error_about_it(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """The refusal of the next purchase, or the purchase itself, resolves it too; None says that it was not made."""
    await lose(fake_trooper, trooper)
    with pytest.raises(UnresolvedPurchaseError) as caught:
        await buy(trooper)
    await trooper.orders.resolve(caught.value, None)
    assert (the_purchase(trooper).state, the_purchase(trooper).order_id) == ("resolved", None)

    await lose(fake_trooper, trooper)
    await trooper.orders.resolve(trooper.orders.purchases[1], 124)
    assert (trooper.orders.purchases[1].state, trooper.orders.purchases[1].order_id) == ("resolved", 124)

    assert (await buy(trooper)).order_id == 125


async def test_resolve_needs_a_purchase_of_this_client(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """Another client's purchase, an error without one, or an invalid id: a ConfigurationError."""
    error = await lose(fake_trooper, trooper)
    others: list[Any] = [ClientClosedError("x"), None]
    async with fake_trooper.client() as stranger:
        with pytest.raises(ConfigurationError, match="no purchase of this client or its ledger"):
            await stranger.orders.resolve(error, None)
    for other in others:
        with pytest.raises(ConfigurationError, match="no purchase of this client or its ledger"):
            await trooper.orders.resolve(other, None)
    with pytest.raises(ConfigurationError, match="an order, or its id"):
        await trooper.orders.resolve(error, -1)

    assert the_purchase(trooper).state == "unknown"


async def test_a_purchase_whose_task_is_cancelled_in_flight_is_unknown(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """An event loop that ends cancels all tasks, also that of a purchase."""
    with fake_trooper.hold_next(POST) as hold:
        buying = asyncio.create_task(buy(trooper))
        await hold.arrived()
        (task,) = [one for one in asyncio.all_tasks() if one.get_name() == "trooper purchase"]
        task.cancel()
        with pytest.raises(PurchaseUnknownError):
            await buying
    assert [one.state for one in await trooper.orders.unresolved()] == ["unknown"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, None),
        (503, {"success": False, "error": "not done, so it says"}),
        (408, None),
        (307, None),
        (200, "<html>"),
        (200, {"success": True}),
        (200, {"success": True, "orderId": "many"}),
        (200, []),
        (200, {"error": "but no success: false"}),
    ],
)
async def test_an_ambiguous_response_is_an_unknown_purchase(
    fake_trooper: FakeTrooper, status: int, body: object
) -> None:
    """5xx and 408 whatever their text, a redirect, an unreadable 2xx: sent once, and unknown."""
    fake_trooper.fail_next(POST, status=status, body=body)

    async with fake_trooper.client(poll=PollSchedule(floor=0.001, cap=0.002)) as trooper:
        with pytest.raises(PurchaseUnknownError):
            await buy(trooper)
        assert the_purchase(trooper).state == "unknown"

    assert posts(fake_trooper) == 1


async def test_a_late_response_to_a_purchase_is_no_timeout_error(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """Otherwise a retry on timeouts would buy twice."""
    hold = fake_trooper.hold_next(POST)
    buying = asyncio.create_task(buy(trooper))
    await hold.arrived()
    forward(190)
    with pytest.raises(PurchaseUnknownError) as caught:
        await buying

    assert not isinstance(caught.value, TimeoutError)
    assert [order.order_id for order in caught.value.candidates] == [123]
    assert posts(fake_trooper) == 1


# --- references ---------------------------------------------------------------------------------------------------


async def test_a_known_reference_buys_nothing(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """It returns the same transition, and sends no request."""
    transition = await buy(trooper, reference="job-1")
    fake_trooper.requests.clear()

    assert await buy(trooper, reference="job-1") == transition
    assert fake_trooper.requests == []
    assert the_purchase(trooper).reference == "job-1"


async def test_create_and_wait_with_a_known_reference_waits_for_its_order(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """`create_and_wait` with a known reference continues to wait for the order that it bought."""
    transition = await buy(trooper, reference="job-1")

    order = await buy_and_wait(trooper, reference="job-1")

    assert (order.order_id, order.current_status) == (transition.order_id, "running")
    assert posts(fake_trooper) == 1


async def test_create_and_wait_sends_the_price_that_is_passed(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """A price that is not the offer's is refused, as `create` does."""
    with pytest.raises(PriceError, match=r": the offer costs 0\.85 EUR per hour, not 0\.5\. Nothing was bought"):
        await buy_and_wait(trooper, price_h=Decimal("0.5"))
    assert posts(fake_trooper) == 0


async def test_concurrent_calls_with_one_reference_buy_once(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """The second awaits the first, before it was sent and while it is in flight."""
    hold = fake_trooper.hold_next(POST)
    first = asyncio.create_task(buy(trooper, reference="job-1"))
    second = asyncio.create_task(buy(trooper, reference="job-1"))
    await until(lambda: posts(fake_trooper))
    third = asyncio.create_task(buy(trooper, reference="job-1"))
    await asyncio.sleep(0)
    hold.release()

    assert [await one for one in (first, second, third)] == [Transition(123, "create", "running")] * 3
    assert posts(fake_trooper) == 1


async def test_one_of_two_callers_with_one_reference_may_be_cancelled(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """The remaining caller gets the purchase, which is then delivered."""
    hold = fake_trooper.hold_next(POST)
    first = asyncio.create_task(buy(trooper, reference="job-1"))
    await until(lambda: posts(fake_trooper))
    second = asyncio.create_task(buy(trooper, reference="job-1"))
    await asyncio.sleep(0)

    first.cancel()
    hold.release()

    assert (await second).order_id == 123
    assert (await buy(trooper)).order_id == 124


async def test_the_reference_of_an_unknown_purchase_stays_unknown(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """Under the reference of an unknown purchase nothing is sent; its candidates are listed again."""
    await lose(fake_trooper, trooper, reference="job-1")
    fake_trooper.requests.clear()

    with pytest.raises(PurchaseUnknownError) as caught:
        await buy(trooper, reference="job-1")

    assert [order.order_id for order in caught.value.candidates] == [123]
    assert [request.path for request in fake_trooper.requests] == ["/api/orders"], "they are looked for anew"


async def test_the_reference_of_a_refused_purchase_can_be_used_again(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """What was certainly not made may be sent again, and then counts."""
    fake_trooper.fail_next(POST, status=400)
    with pytest.raises(BadRequestError):
        await buy(trooper, reference="job-1")

    assert (await buy(trooper, reference="job-1")).order_id == 123
    assert (await buy(trooper, reference="job-1")).order_id == 123

    assert posts(fake_trooper) == 2
    assert [purchase.state for purchase in trooper.orders.purchases] == ["refused", "bought"]


async def test_the_reference_of_a_resolved_purchase_follows_the_decision(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """Resolved as an order, it returns that order; resolved as not made, it is sent again."""
    error = await lose(fake_trooper, trooper, reference="made")
    await trooper.orders.resolve(error, 123)
    fake_trooper.requests.clear()
    assert await buy(trooper, reference="made") == Transition(123, "create", "running")
    assert fake_trooper.requests == []

    error = await lose(fake_trooper, trooper, reference="not made")
    await trooper.orders.resolve(error, None)
    assert (await buy(trooper, reference="not made")).order_id == 125


async def test_an_unknown_purchase_does_not_block_other_references(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """An unknown purchase blocks those without a reference, not those with another one."""
    await lose(fake_trooper, trooper, reference="job-1")

    assert (await buy(trooper, reference="job-2")).order_id == 124
    with pytest.raises(UnresolvedPurchaseError):
        await buy(trooper)
    assert posts(fake_trooper) == 2


async def test_an_unknown_purchase_without_a_reference_blocks_all(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """Nobody can tell which of the later ones would repeat it."""
    await lose(fake_trooper, trooper)

    with pytest.raises(UnresolvedPurchaseError):
        await buy(trooper, reference="job-2")
    assert posts(fake_trooper) == 1


@pytest.mark.parametrize(
    ("other", "changes"),
    [
        ("contract_interval", {"contract_interval": "DAY", "total_price": 20}),
        ("second_partition_percentage, templates", {"templates": [1], "second_partition_percentage": 20}),
    ],
)
async def test_the_reference_of_a_different_purchase_is_refused(
    other: str, changes: dict[str, Any], fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """Another interval, other templates or another partition are a different purchase: nothing is sent."""
    await buy(trooper, reference="job-1")
    fake_trooper.requests.clear()

    text = f"the reference 'job-1' belongs to another purchase (orders.create, with another {other}): nothing was sent"
    with pytest.raises(ConfigurationError, match=exactly(f"orders.create: {text}")):
        await buy(trooper, reference="job-1", **changes)
    assert fake_trooper.requests == []


async def test_the_order_of_templates_and_the_price_do_not_matter(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """The same templates in another order, or another price, are the same purchase: it is not bought again."""
    first, second = (await trooper.templates.list())[:2]
    transition = await buy(trooper, reference="job-1", templates=[first, second.id])

    assert await buy(trooper, reference="job-1", templates=[second, first.id], max_price_h=0.01) == transition
    assert posts(fake_trooper) == 1


async def test_purchases_with_different_references_are_concurrent(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """Five are in flight together, so they take the time of one; each is sent once."""
    holds = [fake_trooper.hold_next(POST) for _ in range(5)]
    buying = [asyncio.create_task(buy(trooper, reference=f"job-{number}")) for number in range(5)]
    for hold in holds:
        await hold.arrived()
    again = asyncio.create_task(buy(trooper, reference="job-0"))
    for hold in holds:
        hold.release()

    orders = [(await task).order_id for task in buying]
    assert sorted(orders) == [123, 124, 125, 126, 127]
    assert (await again).order_id == orders[0]
    assert posts(fake_trooper) == 5


async def test_a_purchase_without_a_reference_is_sent_alone(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """It waits for those before it, and those after it wait for it: two unknown ones could not be told apart."""
    hold = fake_trooper.hold_next(POST)
    tasks = [asyncio.create_task(buy(trooper, **options)) for options in ({"reference": "1"}, {}, {"reference": "2"})]
    await hold.arrived()
    await asyncio.sleep(0)
    assert posts(fake_trooper) == 1
    hold.release()

    assert [(await task).order_id for task in tasks] == [123, 124, 125]
    assert [purchase.reference for purchase in trooper.orders.purchases] == ["1", None, "2"]


# --- cancelled callers --------------------------------------------------------------------------------------------


async def test_a_caller_that_times_out_does_not_abandon_a_purchase_in_flight(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """It is followed to its end; the next purchase says that there is an undelivered server."""

    async def buy_and_time_out_once_it_is_sent() -> None:
        async with asyncio.timeout(None) as limit:

            async def time_out() -> None:
                await until(lambda: posts(fake_trooper))
                limit.reschedule(0.0)

            ending = asyncio.create_task(time_out())
            await buy(trooper)
            await ending

    hold = fake_trooper.hold_next(POST)
    with pytest.raises(TimeoutError):
        await buy_and_time_out_once_it_is_sent()
    assert the_purchase(trooper).state == "open"
    hold.release()

    with pytest.raises(UnresolvedPurchaseError, match="order 123 was bought, but not received by its caller") as caught:
        await buy(trooper)

    assert caught.value.purchase.order_id == 123
    assert the_purchase(trooper) == caught.value.purchase
    assert the_purchase(trooper).state == "bought"
    assert posts(fake_trooper) == 1
    await trooper.orders.resolve(caught.value, 123)
    assert (await buy(trooper)).order_id == 124


async def test_a_purchase_in_flight_cannot_be_resolved_yet(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """Its outcome is not known yet."""
    hold = fake_trooper.hold_next(POST)
    buying = asyncio.create_task(buy(trooper))
    await until(lambda: posts(fake_trooper))

    with pytest.raises(
        ConfigurationError, match=exactly("orders.resolve: it is in flight: await it first: nothing was resolved")
    ):
        await trooper.orders.resolve(the_purchase(trooper), None)
    hold.release()

    assert (await buying).order_id == 123


async def test_a_known_reference_delivers_an_undelivered_purchase(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """A caller that gave up gets its purchase by repeating the call with its reference."""
    hold = fake_trooper.hold_next(POST)
    buying = asyncio.create_task(buy(trooper, reference="job-1"))
    await until(lambda: posts(fake_trooper))
    buying.cancel()
    hold.release()

    assert (await buy(trooper, reference="job-1")).order_id == 123
    assert posts(fake_trooper) == 1
    assert (await buy(trooper)).order_id == 124, "it is delivered"


async def test_a_caller_cancelled_before_sending_buys_nothing(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """While the current orders are read nothing has been sent, and then nothing is."""
    listed = fake_trooper.hold_next(LIST)
    buying = asyncio.create_task(buy(trooper))
    await until(lambda: fake_trooper.requests)

    buying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await buying
    listed.release()

    assert trooper.orders.purchases == ()
    assert (await buy(trooper)).order_id == 123
    assert posts(fake_trooper) == 1


async def test_a_caller_cancelled_in_the_queue_buys_nothing(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """Behind another purchase nothing has been sent either."""
    hold = fake_trooper.hold_next(POST)
    first = asyncio.create_task(buy(trooper))
    second = asyncio.create_task(buy(trooper))
    await until(lambda: posts(fake_trooper))

    second.cancel()
    hold.release()

    assert (await first).order_id == 123
    assert the_purchase(trooper).order_id == 123
    assert posts(fake_trooper) == 1


async def test_a_caller_cancelled_in_the_pause_of_a_429_buys_nothing(fake_trooper: FakeTrooper) -> None:
    """A 429 certainly bought nothing: a caller that gives up before the retry has bought nothing."""
    fake_trooper.fail_next(POST, status=429, retry_after=30)
    async with fake_trooper.client() as trooper:
        buying = asyncio.create_task(buy(trooper))
        await until(lambda: posts(fake_trooper) and trooper._transport._gate.opens_at)

        buying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await buying
        forward(60)
        assert (await buy(trooper)).order_id == 123

        assert [purchase.state for purchase in trooper.orders.purchases] == ["refused", "bought"]
    assert [request.status for request in fake_trooper.requests if request.path == POST] == [429, 200]


async def test_a_naive_retry_on_timeouts_buys_once(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """Retries around a purchase whose response is slow send it once, and end with an error that says what
    was bought.
    """
    hold = fake_trooper.hold_next(POST)

    async def naive() -> Order | None:
        for _ in range(3):
            try:
                async with asyncio.timeout(60) as limit:
                    limits.append(limit)
                    return await buy_and_wait(trooper)
            except (TimeoutError, APIConnectionError):
                continue
        hold.release()
        return await buy_and_wait(trooper)

    async def times_out() -> None:
        await hold.arrived()
        for tries in (1, 2, 3):
            await until(lambda tries=tries: len(limits) == tries)  # type: ignore[misc]
            limits[-1].reschedule(0.0)

    limits: list[asyncio.Timeout] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(times_out())
        with pytest.raises(UnresolvedPurchaseError) as caught:
            await naive()

    assert posts(fake_trooper) == 1
    assert caught.value.purchase.order_id == 123


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_naive_retry_on_connection_errors_buys_once(
    fake_trooper: FakeTrooper, trooper: TrooperClient, when: Any
) -> None:
    """A lost response is neither a connection error nor a timeout."""
    fake_trooper.drop_next(POST, when=when)

    async def naive() -> Order | None:
        for _ in range(3):
            try:
                return await buy_and_wait(trooper)
            except (TimeoutError, OSError, APIConnectionError):
                continue
        return None

    with pytest.raises(PurchaseUnknownError):
        await naive()

    assert posts(fake_trooper) == 1


# --- closing the client -------------------------------------------------------------------------------------------


async def test_close_waits_for_a_purchase_in_flight(fake_trooper: FakeTrooper) -> None:
    """`close` returns once the purchase's outcome is known, and its caller gets it."""
    hold = fake_trooper.hold_next(POST)
    trooper = fake_trooper.client()
    buying = asyncio.create_task(buy(trooper))
    await until(lambda: posts(fake_trooper))

    closing = asyncio.create_task(trooper.close())
    await until(lambda: trooper._transport.closed() is not None)
    hold.release()
    await closing

    assert (the_purchase(trooper).state, the_purchase(trooper).order_id) == ("bought", 123)
    assert await buying == Transition(123, "create", "running")


async def test_close_waits_for_a_purchase_whose_caller_is_gone(fake_trooper: FakeTrooper) -> None:
    """Its outcome is recorded, although nobody waits for it any more."""
    hold = fake_trooper.hold_next(POST)
    async with fake_trooper.client() as trooper:
        buying = asyncio.create_task(buy(trooper))
        await until(lambda: posts(fake_trooper))
        buying.cancel()
        await asyncio.wait([buying])
        asyncio.get_running_loop().call_soon(hold.release)

    assert (the_purchase(trooper).state, the_purchase(trooper).order_id) == ("bought", 123)


async def test_close_prevents_a_purchase_that_is_not_sent_yet(fake_trooper: FakeTrooper) -> None:
    """A purchase that is still reading the current orders ends with ClientClosedError, and is not made."""
    fake_trooper.hold_next(LIST)
    trooper = fake_trooper.client()
    buying = asyncio.create_task(buy(trooper))
    waiting = asyncio.create_task(buy(trooper))
    await until(lambda: fake_trooper.requests)

    await trooper.close()

    outcomes = await asyncio.gather(buying, waiting, return_exceptions=True)
    assert str(outcomes[0]).startswith("orders.create: the client was closed before it was sent. ")
    assert str(outcomes[1]).startswith("orders.create: ")
    assert [type(outcome) for outcome in outcomes] == [ClientClosedError, ClientClosedError]
    assert posts(fake_trooper) == 0


async def test_close_in_the_pause_of_a_429_buys_nothing(fake_trooper: FakeTrooper) -> None:
    """A purchase that waits out a rate limit is not in flight: it is refused, and nothing can be said of it later."""
    fake_trooper.fail_next(POST, status=429, retry_after=30)
    trooper = fake_trooper.client()
    buying = asyncio.create_task(buy(trooper))
    await until(lambda: posts(fake_trooper) and trooper._transport._gate.opens_at)

    async with asyncio.timeout(29):
        await trooper.close()
        with pytest.raises(ClientClosedError):
            await buying

    assert the_purchase(trooper).state == "refused"
    assert posts(fake_trooper) == 1
    for method, call in {
        "unresolved": trooper.orders.unresolved(),
        "resolve": trooper.orders.resolve(the_purchase(trooper), None),
    }.items():
        with pytest.raises(ClientClosedError, match=rf"^orders\.{method}: the client is closed\. "):
            await call


async def test_close_right_before_sending_leaves_nothing_open(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """A purchase whose task has not begun yet when the client is closed is not made, and is not recorded."""
    buying = asyncio.create_task(buy(trooper))
    await asyncio.sleep(0)  # its task exists, and runs after this one

    await trooper.close()

    with pytest.raises(ClientClosedError):
        await buying
    assert trooper.orders.purchases == ()
    assert fake_trooper.requests == []


# --- create_and_wait ----------------------------------------------------------------------------------------------


async def test_create_and_wait_returns_the_running_order(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """It buys, waits, calls `on_change` for each status, and returns the order as it is then."""
    seen: list[str] = []

    order = await buy_and_wait(trooper, on_change=lambda order: seen.append(order.current_status))

    assert (order.order_id, order.current_status, order.is_converged) == (123, "running", True)
    assert seen[-1] == "running"
    assert posts(fake_trooper) == 1
    assert (await buy(trooper)).order_id == 124, "it is delivered"


async def test_any_failure_of_the_wait_is_a_purchase_not_ready_error(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """Even if the key is refused meanwhile, or the caller's function fails, the server is bought."""

    def fails(order: Order) -> None:
        raise KeyError(order.order_id)

    fake_trooper.durations["create"] = 30.0
    with pytest.raises(PurchaseNotReadyError) as caught:
        await buy_and_wait(trooper, on_change=fails)
    assert isinstance(caught.value.__cause__, KeyError)
    assert (caught.value.seconds, caught.value.polls) == (0, 0)
    assert caught.value.message == "bought as order 123, but not running yet: KeyError: 123"

    buying = asyncio.create_task(buy_and_wait(trooper))
    await until(lambda: posts(fake_trooper) == 2 and polls_since(fake_trooper, POST))
    fake_trooper.fail_next("/api/orders", status=401, times=2)
    with pytest.raises(PurchaseNotReadyError) as caught:
        await buying
    assert isinstance(caught.value.__cause__, WaitError)
    assert isinstance(caught.value.__cause__.__cause__, AuthenticationError)
    assert caught.value.last_error is caught.value.__cause__.last_error is not None
    assert caught.value.polls == caught.value.__cause__.polls >= 1
    assert caught.value.seconds == caught.value.__cause__.seconds > 0
    assert caught.value.order == caught.value.__cause__.order
    assert caught.value.message == f"bought as order 124, but not running yet: {caught.value.__cause__.message}"

    assert [purchase.order_id for purchase in trooper.orders.purchases] == [123, 124]


async def test_create_and_wait_cancelled_in_its_wait_has_not_delivered(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """Its caller never learned which order it is: the next purchase says so."""
    fake_trooper.durations["create"] = 30.0
    buying = asyncio.create_task(buy_and_wait(trooper))
    await until(lambda: [one.state for one in trooper.orders.purchases] == ["bought"])
    buying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await buying

    with pytest.raises(UnresolvedPurchaseError) as caught:
        await buy(trooper)

    assert caught.value.purchase.order_id == 123
    assert posts(fake_trooper) == 1


async def test_create_and_wait_does_not_wait_after_a_lost_response(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """There is no order to wait for: PurchaseUnknownError, with the candidates."""
    fake_trooper.drop_next(POST, when="after")

    with pytest.raises(PurchaseUnknownError) as caught:
        await buy_and_wait(trooper)

    assert [order.order_id for order in caught.value.candidates] == [123]
    assert caught.value.operation == "orders.create_and_wait"


# --- migrations ---------------------------------------------------------------------------------------------------

MIGRATE = "/api/buy-migration"


async def test_a_migration_is_bought_after_its_price_was_read_again(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """The options, a new quote and the current orders are read right before it is sent, once."""
    order = fake_trooper.add_order(order_id=123)
    quote = await trooper.migrations.quote(order, 2)
    fake_trooper.requests.clear()

    transition = await trooper.migrations.buy(quote, keep_data=False, max_total_due=Decimal("0.80"))

    assert [request.path for request in fake_trooper.requests] == [
        "/api/migration-options",
        "/api/migration-cost",
        "/api/orders",
        MIGRATE,
    ]
    assert fake_trooper.requests[-1].json == {"order_id": 123, "target_blib_id": 2, "keep_data": False}
    assert transition == Transition(124, "migrate", "running")
    purchase = the_purchase(trooper)
    assert (purchase.kind, purchase.state, purchase.order_id, purchase.migrated_order_id, purchase.blib_id) == (
        "migrate",
        "bought",
        124,
        123,
        2,
    )


def dearer(fake: FakeTrooper) -> None:
    fake.blibs[2].price_h = Decimal("1.66")


def sold_out(fake: FakeTrooper) -> None:
    fake.blibs[2].is_available = False


def withdrawn(fake: FakeTrooper) -> None:
    del fake.blibs[2]


@pytest.mark.parametrize(
    ("change", "limit", "text"),
    [
        (dearer, None, "0.81 EUR would be due now, and at most 0.8 EUR are allowed"),
        (dearer, 5, "0.81 EUR would be due now, and at most 0.8 EUR are allowed"),
        (sold_out, None, "blib 2 is not offered for this migration any more"),
        (withdrawn, None, "blib 2 is not offered for this migration any more"),
        (lambda fake: None, Decimal("0.79"), "0.8 EUR would be due now, and at most 0.79 EUR are allowed"),
        (lambda fake: None, 0, "0.8 EUR would be due now, and at most 0 EUR are allowed"),
    ],
)
async def test_a_migration_that_is_dearer_or_gone_is_not_bought(
    fake_trooper: FakeTrooper,
    trooper: TrooperClient,
    change: Callable[[FakeTrooper], None],
    limit: Decimal | int | None,
    text: str,
) -> None:
    """Dearer than the quote or the limit, or no longer offered: a PriceError, and nothing is sent or recorded."""
    quote = await trooper.migrations.quote(fake_trooper.add_order(order_id=123), 2)
    change(fake_trooper)

    expected = exactly(f"migrations.buy of order 123: {text}. Nothing was bought: read the offers or the quote again")
    with pytest.raises(PriceError, match=expected):
        await trooper.migrations.buy(quote, keep_data=True, max_total_due=limit)

    assert posts(fake_trooper, MIGRATE) == 0
    assert trooper.orders.purchases == ()


async def test_a_migration_that_became_cheaper_is_bought(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """A quote is the maximum price."""
    quote = await trooper.migrations.quote(fake_trooper.add_order(order_id=123), 2)
    fake_trooper.blibs[2].price_h = Decimal("1.5")

    assert (await trooper.migrations.buy(quote, keep_data=True)).order_id == 124


async def test_a_migration_whose_response_is_lost_is_unknown(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """One request, the new order as candidate, and no other purchase until it is resolved."""
    quote = await trooper.migrations.quote(fake_trooper.add_order(order_id=123), 2)
    fake_trooper.drop_next(MIGRATE, when="after")

    with pytest.raises(PurchaseUnknownError) as caught:
        await trooper.migrations.buy(quote, keep_data=True)
    assert [order.order_id for order in caught.value.candidates] == [124]
    with pytest.raises(UnresolvedPurchaseError, match=r"migrations\.buy"):
        await buy(trooper)

    await trooper.orders.resolve(caught.value, 124)
    assert (await buy(trooper)).order_id == 125
    assert posts(fake_trooper, MIGRATE) == 1


async def test_buy_and_wait_returns_the_new_order(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """It waits for the order that replaces the old one."""
    quote = await trooper.migrations.quote(fake_trooper.add_order(order_id=123), 2)

    order = await trooper.migrations.buy_and_wait(quote, keep_data=True)

    assert (order.order_id, order.current_status, order.blib_name) == (124, "running", "RTX 4090 Dual")
    assert (await buy(trooper)).order_id == 125, "it is delivered"


async def test_a_migration_that_does_not_get_ready_is_bought(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """Like a new order: PurchaseNotReadyError with the cause; its reference buys nothing more."""

    def fails(order: Order) -> None:
        raise KeyError(order.order_id)

    quote = await trooper.migrations.quote(fake_trooper.add_order(order_id=123), 2)

    with pytest.raises(PurchaseNotReadyError) as caught:
        await trooper.migrations.buy_and_wait(quote, keep_data=True, reference="up", on_change=fails)
    assert isinstance(caught.value.__cause__, KeyError)

    assert (await trooper.migrations.buy_and_wait(quote, keep_data=True, reference="up")).order_id == 124
    assert posts(fake_trooper, MIGRATE) == 1
