"""Generic retries around a purchase (`asyncio.timeout` in a loop, tenacity, stamina, backoff) buy once. Rule 10 of
`trooper_async._buying`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import backoff
import pytest
import stamina
import tenacity

from tests.helpers.conditions import until
from tests.helpers.shop import Shop
from tests.tools.simulator.clock import run
from trooper_async import PurchaseNotReadyError, TrooperClient, TrooperError, UnresolvedPurchaseError
from trooper_async.testing import FakeTrooper

Attempt = Callable[[], Awaitable[Any]]


async def loop(attempt: Attempt, on: type[Exception]) -> None:
    for _ in range(2):
        try:
            await attempt()
            return
        except on:
            await asyncio.sleep(0.01)
    await attempt()


async def with_tenacity(attempt: Attempt, on: type[Exception]) -> None:
    policy = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(on), stop=tenacity.stop_after_attempt(3), reraise=True
    )
    await policy(attempt)


async def with_stamina(attempt: Attempt, on: type[Exception]) -> None:
    async for again in stamina.retry_context(on=on, attempts=3, wait_initial=0.01, wait_jitter=0.0):
        with again:
            await attempt()


async def with_backoff(attempt: Attempt, on: type[Exception]) -> None:
    await backoff.on_exception(backoff.constant, on, max_tries=3, interval=0.01, jitter=None)(attempt)()


async def create(client: TrooperClient, **options: Any) -> None:
    blib = (await client.blibs.list())[0]
    await client.orders.create(blib, contract_interval="HOUR", terms_accepted=True)


async def create_and_wait(client: TrooperClient, **options: Any) -> None:
    blib = (await client.blibs.list())[0]
    await client.orders.create_and_wait(blib, contract_interval="HOUR", terms_accepted=True, **options)


async def buy_and_wait(client: TrooperClient, **options: Any) -> None:
    order = (await client.orders.list())[0]
    target = (await client.migrations.options(order)).available_blibs[0]
    quote = await client.migrations.quote(order, target)
    await client.migrations.buy_and_wait(quote, keep_data=True, **options)


PURCHASES: dict[Callable[..., Awaitable[None]], str] = {
    create: "/api/order",
    create_and_wait: "/api/order",
    buy_and_wait: "/api/buy-migration",
}

every_retry = pytest.mark.parametrize("retry", [loop, with_tenacity, with_stamina, with_backoff])
every_kind = pytest.mark.parametrize("on", [TimeoutError, Exception])


def sent(fake: FakeTrooper, purchase: Callable[..., Awaitable[None]]) -> int:
    return sum(request.path == PURCHASES[purchase] for request in fake.requests)


@every_kind
@every_retry
@pytest.mark.parametrize("purchase", PURCHASES)
async def test_a_retry_around_a_timeout_around_a_purchase_buys_once(
    purchase: Callable[..., Awaitable[None]],
    retry: Callable[[Attempt, type[Exception]], Awaitable[None]],
    on: type[Exception],
    fake_trooper: FakeTrooper,
    trooper: TrooperClient,
) -> None:
    """A timeout in flight and two more rounds send one request; the later rounds say which purchase is unresolved."""
    fake_trooper.durations.update(create=30, migrate=30)
    fake_trooper.add_order()
    hold = fake_trooper.hold_next(PURCHASES[purchase])
    errors: list[BaseException] = []

    timeouts: list[asyncio.Timeout] = []

    async def first_runs_out() -> None:
        await hold.arrived()
        timeouts[0].reschedule(0.0)
        await until(lambda: errors)
        hold.release()

    async def attempt() -> None:
        try:
            async with asyncio.timeout(60) as timeout:
                timeouts.append(timeout)
                await purchase(trooper)
        except BaseException as error:
            errors.append(error)
            raise

    async with asyncio.TaskGroup() as group:
        group.create_task(first_runs_out())
        with pytest.raises(UnresolvedPurchaseError):
            await retry(attempt, on)

    assert sent(fake_trooper, purchase) == 1
    assert isinstance(errors[0], TimeoutError)
    assert not isinstance(errors[0], TrooperError)
    assert {type(error) for error in errors[1:]} == {UnresolvedPurchaseError}
    (record,) = trooper.orders.purchases
    assert record.state == "bought"


@every_kind
@every_retry
@pytest.mark.parametrize("purchase", [create_and_wait, buy_and_wait])
def test_a_wait_that_times_out_after_a_purchase_does_not_buy_again(
    purchase: Callable[..., Awaitable[None]],
    retry: Callable[[Attempt, type[Exception]], Awaitable[None]],
    on: type[Exception],
) -> None:
    """A wait's timeout after a purchase is no TimeoutError, so a retry on timeouts buys once. A retry on everything
    buys three servers, which it asked for, and none of them is unknown.
    """

    async def main() -> None:
        shop = Shop(runs=False)
        async with shop.script.client() as client:

            async def attempt() -> None:
                await purchase(client, timeout=10)

            with pytest.raises(PurchaseNotReadyError):
                await retry(attempt, on)
            bought = [record.state for record in client.orders.purchases]
        assert bought == ["bought"] * (1 if on is TimeoutError else 3)
        assert shop.script.sent.count(PURCHASES[purchase]) == len(bought)

    run(main())
