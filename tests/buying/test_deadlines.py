"""`timeout` is for the whole call, including the purchase: on virtual time. Rule 3 of `trooper_async._buying`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from tests.helpers.buying import BLIB, buy_and_wait
from tests.helpers.shop import Shop
from tests.helpers.texts import exactly
from tests.tools.simulator.clock import run
from trooper_async import APITimeoutError, PurchaseNotReadyError, PurchaseUnknownError, TrooperClient, WaitTimeoutError


def played(main: Coroutine[Any, Any, float]) -> float:
    """Runs it, and returns how many seconds it took."""
    return run(main)


async def rent(client: TrooperClient, **options: Any) -> None:
    async with client.orders.rented(BLIB, contract_interval="HOUR", terms_accepted=True, **options):
        raise AssertionError("it does not come so far")


def test_a_purchase_in_flight_at_its_deadline_is_unknown_and_followed() -> None:
    """The response takes 100 s: the call fails after its 10 s, and the outcome of the purchase is recorded later."""

    text = r"^orders\.create_and_wait of blib 1: the deadline passed before its outcome was known\. "

    async def main() -> float:
        loop = asyncio.get_running_loop()
        async with Shop(post_takes=100).script.client() as client:
            began = loop.time()
            with pytest.raises(PurchaseUnknownError, match=text) as caught:
                await buy_and_wait(client, timeout=10)
            took = loop.time() - began
            assert caught.value.purchase.state == "open"
            assert not isinstance(caught.value, TimeoutError)
            assert [one.order_id for one in await client.orders.unresolved()] == [2]
            assert loop.time() - began > 100
        return took

    assert played(main()) == pytest.approx(10, abs=0.1)


def test_a_server_bought_after_the_deadline_of_its_job_is_released() -> None:
    """`rented` ends only once it knows what it bought, and has frozen it."""

    async def main() -> float:
        shop = Shop(post_takes=100)
        async with shop.script.client() as client:
            with pytest.raises(PurchaseUnknownError):
                await rent(client, timeout=10)
            assert shop.frozen == [2]
            assert await client.orders.unresolved() == ()
        return asyncio.get_running_loop().time()

    played(main())


@pytest.mark.parametrize("reference", [None, "job-1"])
def test_a_purchase_not_sent_by_its_deadline_is_not_made(reference: str | None) -> None:
    """While the current orders are read, or another purchase is ahead: an APITimeoutError, and nothing is bought."""
    text = (
        "orders.create_and_wait of blib 1: the deadline passed before it was sent: nothing was bought. "
        "Nothing was changed: try again, or allow a longer timeout"
    )

    async def main() -> float:
        loop = asyncio.get_running_loop()
        shop = Shop(list_takes=20)
        async with shop.script.client() as client:
            began = loop.time()
            first = asyncio.create_task(buy_and_wait(client, timeout=10, reference=reference))
            second = asyncio.create_task(buy_and_wait(client, timeout=5, reference=reference))
            for task in (second, first):
                with pytest.raises(APITimeoutError, match=exactly(text)):
                    await task
            took = loop.time() - began
            assert client.orders.purchases == ()
            assert shop.script.sent == ["/api/orders"]
        return took

    assert played(main()) == pytest.approx(10, abs=0.1)


def test_the_wait_gets_the_time_that_the_purchase_left() -> None:
    """A purchase of 6 s and a wait for a server that never runs fail together after 10 s: it is bought nevertheless."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        shop = Shop(post_takes=6, runs=False)
        async with shop.script.client() as client:
            began = loop.time()
            with pytest.raises(PurchaseNotReadyError) as caught:
                await buy_and_wait(client, timeout=10)
            took = loop.time() - began
            error = caught.value
            assert isinstance(error.__cause__, WaitTimeoutError)
            assert not isinstance(error, TimeoutError)
            assert (error.purchase.state, error.purchase.order_id) == ("bought", 2)
            assert (error.operation, error.target) == ("orders.create_and_wait", "running")
            shop.orders[2] = "running"
            assert error.transition is not None
            assert (await client.orders.wait(error.transition)).order_id == 2
            assert await client.orders.unresolved() == (), "it is delivered"
        return took

    assert played(main()) == pytest.approx(10, abs=0.5)
