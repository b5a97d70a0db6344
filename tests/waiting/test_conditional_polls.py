"""Polls of an unchanged list, against a server that handles request headers as Express does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.helpers.conditions import until
from trooper_async import PollSchedule, TrooperClient

BODY = json.dumps([{"order_id": 1, "status": "running", "status_user": "running"}]).encode()


@pytest.fixture
async def express() -> AsyncIterator[tuple[str, list[int]]]:
    """Its address, and the statuses that it has returned."""
    answered: list[int] = []

    async def orders(request: web.Request) -> web.Response:
        wants_whole = "no-cache" in request.headers.get("Cache-Control", "")  # the response is never "fresh" then
        known = request.headers.get("If-None-Match") == '"1"' and not wants_whole
        answered.append(304 if known else 200)
        return web.Response(status=answered[-1], body=None if known else BODY, headers={"ETag": '"1"'})

    app = web.Application()
    app.router.add_get("/api/orders", orders)
    async with TestServer(app, host="127.0.0.1") as server:
        yield str(server.make_url("")).rstrip("/"), answered


async def test_a_conditional_poll_gets_a_304(express: tuple[str, list[int]]) -> None:
    """A poll with `If-None-Match` makes caches revalidate with `max-age=0`, to which Express responds with 304."""
    url, answered = express
    client = TrooperClient("key", base_url=url, poll=PollSchedule(floor=0.01, cap=0.02))
    async with client, client.orders.watch(interval=0.01) as changes:
        assert (await anext(changes)).kind == "appeared"
        await until(lambda: len(answered) > 3)
    assert answered[:4] == [200, 304, 304, 304]
