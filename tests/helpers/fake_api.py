"""The fake server, called with plain aiohttp, since tests of the fake must not rely on the client."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.helpers.conditions import until
from tests.tools.api_document import SAMPLES
from trooper_async.testing import FakeTrooper

LONG = 600.0  # longer than any test takes, unless the test lets the time pass


@dataclass(frozen=True)
class Reply:
    status: int
    json: Any
    headers: Any


class Api:
    """Calls the fake as the API document says."""

    def __init__(self, fake: FakeTrooper, session: aiohttp.ClientSession) -> None:
        self.fake, self.session = fake, session

    async def __call__(
        self, path: str, body: Any = None, *, query: str = "", headers: dict[str, str] | None = None
    ) -> Reply:
        if headers is None:
            headers = {"Authorization": f"Bearer {self.fake.api_key}"}
        url = f"{self.fake.url}{path}?{query}".rstrip("?")
        method = SAMPLES[path].method if path in SAMPLES else "GET"
        async with self.session.request(method, url, json=body, headers=headers) as response:
            text = await response.text()
            return Reply(response.status, json.loads(text) if text else None, response.headers)

    async def row(self, order_id: int) -> Any:
        """The row of an order in GET /api/orders, None if there is none."""
        rows = (await self("/api/orders")).json
        return next((row for row in rows if row["order_id"] == order_id), None)

    async def history(self, order_id: int) -> Any:
        """The rows of an order's history."""
        return (await self("/api/order-status-history", query=f"order_id={order_id}")).json["history"]


async def arrived(fake: FakeTrooper, count: int) -> None:
    """Wait until so many requests have arrived."""
    await until(lambda: len(fake.requests) >= count)


@contextlib.asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[tuple[FakeTrooper, Api]]:
    async with FakeTrooper(**settings) as fake, aiohttp.ClientSession() as session:
        yield fake, Api(fake, session)
