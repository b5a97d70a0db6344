"""The fake's controls over HTTP, for programs in other languages."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import aiohttp
import pytest

from tests.helpers import processes
from tests.helpers.fake_api import Api, running
from trooper_async.testing import FakeTrooper
from trooper_async.testing._remote import CONTROLS, HELP

WHEN = "2026-01-02T03:04:05Z"


async def control(api: Api, name: str, body: Any = None, *, status: int = 200) -> Any:
    """Use a control, without a key."""
    async with api.session.post(f"{api.fake.url}/fake/{name}", json={} if body is None else body) as response:
        assert response.status == status, await response.text()
        return await response.json()


async def test_every_control_works() -> None:
    """Orders, statuses, faults, times, offers, the budget and templates: each affects the next request."""
    async with running() as (fake, api):
        ids = await control(api, "add_order", {"status": "stopped", "price_h": 0.5, "paid_until": WHEN, "title": "one"})
        row = await api.row(ids["order_id"])
        assert (row["serverId"], row["title"], row["status"]) == (ids["server_id"], "one", "stopped")
        assert (row["price_h"], row["paid_until"]) == (0.5, "2026-01-02T03:04:05.000Z")

        assert await control(api, "set_status", {**only_order(ids), "current": "starting", "desired": "running"}) == {}
        row = await api.row(ids["order_id"])
        assert (row["status"], row["status_user"]) == ("starting", "running")

        await control(api, "fail_next", {"path": "/api/test", "status": 429, "retry_after": 3, "body": {"error": "no"}})
        refused = await api("/api/test")
        assert (refused.status, refused.headers["Retry-After"], refused.json) == (429, "3", {"error": "no"})
        await control(api, "drop_next", {"path": "/api/order-title", "when": "after"})
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await api("/api/order-title", {"serverId": ids["server_id"], "title": "two"})
        assert (await api.row(ids["order_id"]))["title"] == "two"
        await control(api, "delay_next", {"path": "/api/test", "seconds": 0.01})
        assert (await api("/api/test")).status == 200

        assert (await control(api, "durations", {"stop": 600}))["stop"] == 600
        await control(api, "set_status", {**only_order(ids), "current": "running"})
        await api("/api/order-status", {"serverId": ids["server_id"], "action": "stopped"})
        assert (await api.row(ids["order_id"]))["status"] == "stopping"
        await control(api, "advance", {"seconds": 601})
        assert (await api.row(ids["order_id"]))["status"] == "stopped"

        await control(api, "blibs", {"2": {"price_h": 0.9, "is_available": False}})
        assert [(row["price_h"], row["is_available"]) for row in (await api("/api/blibs")).json][1] == (0.9, False)
        await control(api, "budget", {"eur": 0.1})
        body = {"order_id": ids["order_id"], "target_blib_id": 1, "keep_data": True}
        await control(api, "add_order", {"order_id": 900, "blib_id": 3})
        assert (await api("/api/buy-migration", {**body, "order_id": 900})).status == 400
        await control(api, "budget", {"eur": None})
        assert (await api("/api/buy-migration", {**body, "order_id": 900})).status == 200
        await control(api, "failing_templates", {"ids": [2]})
        assert fake.failing_templates == {2}

        await control(api, "remove_order", only_order(ids))
        assert await api.row(ids["order_id"]) is None
        await control(api, "reset")
        assert (await api("/api/orders")).json == []


def only_order(ids: dict[str, int]) -> dict[str, int]:
    return {"order_id": ids["order_id"]}


async def test_a_response_can_be_held_over_http() -> None:
    """`hold_next` returns a number; `arrived` responds once the request is there, and `release` lets its
    response go.
    """
    async with running() as (_, api):
        hold = await control(api, "hold_next", {"path": "/api/test"})
        arrived = asyncio.create_task(control(api, "arrived", hold))
        asking = asyncio.create_task(api("/api/test"))
        await arrived
        assert not asking.done()
        assert await control(api, "release", hold) == {}
        assert (await asking).status == 200


async def test_received_requests_are_listed() -> None:
    """Received requests are listed as JSON, without the controls themselves."""
    async with running() as (fake, api):
        await api("/api/order-title", {"serverId": 5, "title": "x"})
        await control(api, "advance", {"seconds": 1})
        async with api.session.get(f"{fake.url}/fake/requests") as response:
            (request,) = await response.json()
        assert request.pop("started") > 0
        assert request == {
            "method": "POST",
            "path": "/api/order-title",
            "query": {},
            "json": {"serverId": 5, "title": "x"},
            "status": 403,
        }


@pytest.mark.parametrize(
    ("name", "body", "error"),
    [
        ("fail_next", {"path": "/api/order-state"}, "no endpoint '/api/order-state'"),
        ("fail_next", {"path": ["/api/orders"]}, "list"),
        ("fail_next", {"path": "/api/orders", "time": 2}, "unexpected keyword argument 'time'"),
        ("fail_next", {}, "missing 1 required positional argument: 'path'"),
        ("delay_next", {"path": "/api/orders", "seconds": "2"}, "str"),
        ("add_order", {"price_h": "much"}, "Conversion"),
        ("add_order", {"paid_until": "soon"}, "soon"),
        ("add_order", {"tittle": "x"}, "tittle"),
        ("set_status", {"order_id": 99, "current": "running"}, "no order 99"),
        ("set_status", {"order_id": "99", "current": "running"}, "an id is an integer, not '99'"),
        ("set_status", {"order_id": 99, "current": 5}, "status words"),
        ("remove_order", {"order_id": True}, "an id is an integer, not True"),
        ("durations", {"stopping": 5}, "no transition is called 'stopping'"),
        ("blibs", {"1": {"price": 5}}, "no 'price' to change: there are name, "),
        ("blibs", {"99": {"price_h": 5}}, "99"),
        ("release", {"hold": 0}, "there is no hold 0"),
        ("arrived", {}, "there is no hold -1"),
        ("hold_next", {"path": "/x"}, "no endpoint '/x'"),
        ("hold_next", {"pfad": "/x"}, "hold_next() got an unexpected keyword argument 'pfad'"),
        ("advance", [1], "the body must be a JSON object"),
    ],
)
async def test_an_invalid_control_is_refused(name: str, body: Any, error: str) -> None:
    """A control with an invalid path, name or value is a 400 that names it."""
    async with running() as (_, api):
        assert error in (await control(api, name, body, status=400))["error"]


async def test_an_unknown_control_gets_the_help() -> None:
    """Any other path below /fake/ is a 404 with the list of controls."""
    async with running() as (fake, api):
        for method, name in (("POST", "fail"), ("GET", ""), ("GET", "reset"), ("POST", "requests")):
            async with api.session.request(method, f"{fake.url}/fake/{name}") as response:
                assert (response.status, await response.text()) == (404, HELP)


def test_the_help_lists_every_control() -> None:
    """`--help` lists all controls."""
    assert HELP in processes.run("-m", "trooper_async.testing", "--help", env=os.environ).stdout
    assert {*CONTROLS, "hold_next", "arrived", "release", "requests"} == {
        word.removeprefix("/fake/").rstrip(",") for word in HELP.split() if word.startswith("/fake/")
    }


def test_every_control_is_a_method_too() -> None:
    """Every control over HTTP is a method of `FakeTrooper`."""
    assert [name for name in CONTROLS if not hasattr(FakeTrooper, name)] == []
