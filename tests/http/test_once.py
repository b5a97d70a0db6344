"""`check_before_sending`: the caller's own check, right before each attempt of a once-only call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.helpers.clock import forward
from tests.helpers.conditions import until
from trooper_async import Order, RetryPolicy, TrooperClient, check_before_sending
from trooper_async.testing import FakeTrooper

ONCE: dict[str, Callable[[TrooperClient, Order], Awaitable[object]]] = {
    "/api/order": lambda client, order: _buy(client),
    "/api/order-status": lambda client, order: client.orders.restart(order),
    "/api/template-install-add": lambda client, order: client.templates.install(order, 1),
}


class LostLockError(Exception):
    """The caller's own."""


async def _buy(client: TrooperClient) -> object:
    blib = (await client.blibs.list())[0]
    return await client.orders.create(blib, contract_interval="HOUR", terms_accepted=True)


def _posts(fake: FakeTrooper) -> list[str]:
    return [request.path for request in fake.requests if request.path in (*ONCE, "/api/buy-migration")]


@pytest.mark.parametrize("path", ONCE)
async def test_the_check_runs_before_each_attempt(path: str, fake_trooper: FakeTrooper) -> None:
    """Each attempt that is sent is checked right before, also after a rate limit."""
    sent_before: list[int] = []

    async def check() -> None:
        sent_before.append(len(_posts(fake_trooper)))

    fake_trooper.fail_next(path, status=429, retry_after=0)
    async with fake_trooper.client() as client:
        with check_before_sending(check):
            await ONCE[path](client, fake_trooper.add_order())
        await client.orders.stop(fake_trooper.add_order())
    assert sent_before == [0, 1]


@pytest.mark.parametrize("path", ONCE)
async def test_a_failing_check_is_raised_and_nothing_is_sent(path: str, fake_trooper: FakeTrooper) -> None:
    """An attempt whose check fails is not sent, and the same call works afterwards."""

    async def check() -> None:
        raise LostLockError

    order = fake_trooper.add_order()
    async with fake_trooper.client() as client:
        with check_before_sending(check), pytest.raises(LostLockError):
            await ONCE[path](client, order)
        assert _posts(fake_trooper) == []
        assert all(purchase.state == "refused" for purchase in client.orders.purchases)
        await ONCE[path](client, order)
    assert _posts(fake_trooper) == [path]


async def test_a_lock_lost_during_a_rate_limit_stops_the_purchase(fake_trooper: FakeTrooper) -> None:
    """A purchase that was delayed by a 429 is not sent if the check fails by then."""
    is_ours = True

    async def check() -> None:
        if not is_ours:
            raise LostLockError

    fake_trooper.fail_next("/api/order", status=429, retry_after=30)
    async with fake_trooper.client(retry=RetryPolicy(deadline=60)) as client:
        with check_before_sending(check):
            buying = asyncio.create_task(_buy(client))
        await until(lambda: client._transport._gate.opens_at)
        is_ours = False
        forward(60)
        with pytest.raises(LostLockError):
            await buying
    assert _posts(fake_trooper) == ["/api/order"]


async def test_reads_and_settings_are_not_checked(fake_trooper: FakeTrooper) -> None:
    """The check is for once-only calls and purchases; everything else is sent without it."""

    async def check() -> None:
        raise LostLockError

    order = fake_trooper.add_order()
    async with fake_trooper.client() as client:
        with check_before_sending(check):
            await client.orders.list()
            await client.orders.stop(order)
            await client.orders.start(order)
            with pytest.raises(LostLockError):
                await client.orders.start(order, migration_allowed=True)
