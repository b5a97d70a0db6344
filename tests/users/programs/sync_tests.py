"""Plain tests of a blocking program, with the fixture of the fake: no event loop of pytest's, no async test."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from trooper_async import PollSchedule, TrooperClient
from trooper_async.testing import FakeTrooper


def stop_all() -> int:
    """What a cron job does."""

    async def work() -> int:
        async with TrooperClient(poll=PollSchedule(floor=0.05, cap=1.0)) as client:
            report = await client.fleet.stop(await client.orders.list())
            return len(report.succeeded)

    return asyncio.run(work())


def test_a_blocking_program(fake_trooper: FakeTrooper) -> None:
    os.environ |= {"TROOPER_BASE_URL": fake_trooper.url, "TROOPER_API_KEY": fake_trooper.api_key}
    fake_trooper.durations["stop"] = 0.5
    fake_trooper.add_order()
    fake_trooper.add_order()
    assert stop_all() == 2


def test_a_web_application(fake_trooper: FakeTrooper) -> None:
    app = FastAPI()
    order = fake_trooper.add_order()

    @app.get("/servers")
    async def servers() -> list[dict[str, Any]]:
        async with fake_trooper.client() as client:
            return [order.to_dict() for order in await client.orders.list()]

    with TestClient(app) as http:
        (row,) = http.get("/servers").json()
    assert row["order_id"] == order.order_id
