"""The main job over real HTTP: every action converges under every profile, alone and a hundred at once."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from tests.helpers.clock import forward
from tests.helpers.conditions import until
from trooper_async import Order, OrderVanishedError, SupersededError, TrooperClient, WaitTimeoutError
from trooper_async.testing import PROFILES, FakeTrooper


@pytest.mark.parametrize("profile", PROFILES)
async def test_every_action_converges(profile: str) -> None:
    """Order, stop, freeze, start with migration, restart, migrate: each wait ends at its target."""
    await main_job(FakeTrooper(profile=profile, durations=0.15))


async def main_job(fake: FakeTrooper) -> None:
    async with fake, fake.client() as client:
        seen: list[str] = []

        def note(order: Order) -> None:
            seen.append(order.current_status)

        blib = (await client.blibs.list())[0]
        order = await client.orders.create_and_wait(
            blib, contract_interval="HOUR", terms_accepted=True, max_price_h=Decimal(5), on_change=note
        )
        assert order.current_status == "running"
        assert (await client.orders.stop_and_wait(order, on_change=note)).current_status == "stopped"
        assert (await client.orders.freeze_and_wait(order, on_change=note)).current_status == "frozen"
        order = await client.orders.start_and_wait(order, migration_allowed=True, on_change=note)
        assert order.current_status == "running"
        assert (await client.orders.restart_and_wait(order, on_change=note)).current_status == "running"
        target = (await client.migrations.options(order)).available_blibs[0]
        quote = await client.migrations.quote(order, target)
        moved = await client.migrations.buy_and_wait(quote, keep_data=True, on_change=note)
        assert moved.order_id != order.order_id
        assert {"running", "stopped", "frozen"} <= set(seen)


async def test_a_hundred_waits_share_one_poll(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """Every reading of the list serves all hundred waits: there are at most as many as floors have passed."""
    loop = asyncio.get_running_loop()
    orders = [fake_trooper.add_order() for _ in range(100)]
    began = loop.time()
    stopped = await asyncio.gather(*(trooper.orders.stop_and_wait(order) for order in orders))
    assert {order.current_status for order in stopped} == {"stopped"}
    polls = [request for request in fake_trooper.requests if request.path == "/api/orders"]
    assert len(polls) <= (loop.time() - began) / 0.02 + 1  # the floor of `fake.client()`
    posts = [request for request in fake_trooper.requests if request.path == "/api/order-status"]
    assert len(posts) == 100


async def test_timed_out_superseded_and_vanished_are_different_errors(
    trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """Not in time, changed by somebody else, gone: each has its own error with the order in it."""
    fake_trooper.durations["stop"] = 60
    slow, other, gone = (fake_trooper.add_order() for _ in range(3))

    async def meddle() -> None:
        def count(path: str) -> int:
            return sum(request.path == path for request in fake_trooper.requests)

        await until(lambda: count("/api/order-status") == 3)
        seen = count("/api/orders")
        await until(lambda: count("/api/orders") > seen + 2)  # the desired status was seen to agree
        fake_trooper.set_status(other, "running")
        fake_trooper.remove_order(gone)
        forward(20)

    results = await asyncio.gather(
        trooper.orders.stop_and_wait(slow, timeout=20),
        trooper.orders.stop_and_wait(other, timeout=None),
        trooper.orders.stop_and_wait(gone, timeout=None),
        meddle(),
        return_exceptions=True,
    )
    timed_out, superseded, vanished, _ = results
    assert isinstance(timed_out, WaitTimeoutError)
    assert isinstance(superseded, SupersededError)
    assert isinstance(vanished, OrderVanishedError)
    for error in (timed_out, superseded, vanished):
        assert error.order is not None
        assert error.transition is not None
        assert error.polls > 0
        assert error.target == "stopped"
        assert "orders.stop_and_wait of order" in str(error)
