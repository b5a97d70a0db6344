"""The errors that `FAILURES` does not provoke: together, every class."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from tests.helpers.clock import forward
from tests.helpers.conditions import until
from tests.helpers.failures import buy, dropping
from tests.helpers.raw_server import FAST, KEY
from trooper_async import ConfigurationError, PollSchedule, TrooperClient, TrooperError, errors
from trooper_async.testing import FakeTrooper


async def _with(fake: FakeTrooper, run: Callable[[TrooperClient], Awaitable[object]], **options: Any) -> None:
    async with fake.client(retry=FAST, **options) as client:
        await run(client)


async def _unresolved(client: TrooperClient) -> None:
    with suppress(errors.PurchaseUnknownError):
        await buy(client)
    await buy(client)


async def _priced(client: TrooperClient) -> None:
    blib = (await client.blibs.list())[0]
    await client.orders.create(blib, contract_interval="HOUR", terms_accepted=True, max_price_h=0)


async def _not_ready(fake: FakeTrooper, client: TrooperClient) -> None:
    blib = (await client.blibs.list())[0]
    buying = asyncio.create_task(
        client.orders.create_and_wait(blib, contract_interval="HOUR", terms_accepted=True, timeout=3600)
    )
    await until(lambda: "/api/order" in [request.path for request in fake.requests[:-1]])
    forward(3600)
    await buying


async def _superseded(fake: FakeTrooper, client: TrooperClient) -> None:
    waiting = asyncio.create_task(client.orders.wait_until(123, "frozen", timeout=20))
    for current, desired in (("freezing", "frozen"), ("stopped", "stopped")):
        fake.set_status(123, current, desired)
        polls = len(fake.requests)
        await until(lambda: waiting.done() or len(fake.requests) > polls + 2)  # noqa: B023 - awaited here
    await waiting


async def _vanished(fake: FakeTrooper, client: TrooperClient) -> None:
    waiting = asyncio.create_task(client.orders.wait_until(123, "stopped", timeout=20))
    await until(lambda: len(fake.requests) > 2)
    fake.remove_order(123)
    await waiting


async def _failing(fake: FakeTrooper, client: TrooperClient) -> None:
    fake.failing_templates.add(1)
    await client.templates.install_and_wait(123, 1, timeout=20)


async def _made(**options: Any) -> None:
    TrooperClient(f"{KEY}\n" if not options else KEY, **options)


QUICK = PollSchedule(floor=0.01, cap=0.02)


async def _still_running(client: TrooperClient) -> None:
    async with client.orders.running(123):
        await client.orders.lock(123)


MORE: dict[str, tuple[type[TrooperError], Callable[[FakeTrooper], Awaitable[None]]]] = {
    "dear": (errors.PriceError, lambda fake: _with(fake, _priced)),
    "unresolved": (errors.UnresolvedPurchaseError, lambda fake: _with(dropping(fake, "/api/order"), _unresolved)),
    "not ready": (errors.PurchaseNotReadyError, lambda fake: _with(fake, lambda c: _not_ready(fake, c))),
    "superseded": (errors.SupersededError, lambda fake: _with(fake, lambda c: _superseded(fake, c), poll=QUICK)),
    "vanished": (errors.OrderVanishedError, lambda fake: _with(fake, lambda c: _vanished(fake, c), poll=QUICK)),
    "template": (errors.TemplateFailedError, lambda fake: _with(fake, lambda c: _failing(fake, c), poll=QUICK)),
    "still running": (errors.StillRunningError, lambda fake: _with(fake, _still_running, poll=QUICK)),
    "http": (ConfigurationError, lambda fake: _made(base_url="http://203.0.113.1")),
    "bad key": (ConfigurationError, lambda fake: _made()),
}
