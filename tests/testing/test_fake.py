"""The fake server, called with plain aiohttp, since tests of the fake must not rely on the client."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from tests.helpers import processes
from tests.helpers.conditions import LIMIT
from tests.helpers.fake_api import LONG, arrived, running
from tests.tools.api_document import SAMPLES
from trooper_async.testing import FakeTrooper, Profile, RecordedRequest
from trooper_async.testing.__main__ import main


def kinds(value: Any) -> Any:
    """The names and JSON kinds of a response, without its values."""
    match value:
        case dict():
            return {name: kinds(item) for name, item in value.items()}
        case list():
            return [kinds(item) for item in value[:1]]
        case bool() | str() | None:
            return type(value).__name__
    return "number"


# --- the endpoints ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["document", "prose"])
@pytest.mark.parametrize("path", SAMPLES)
async def test_responses_have_the_documented_fields_and_kinds(path: str, profile: str) -> None:
    """Every endpoint accepts the document's sample request and returns the fields and JSON kinds of its sample."""
    async with running(profile=profile, durations={"install": 0.0}) as (fake, api):
        fake.add_order(order_id=123, server_id=123)
        for number in range(1, 6):  # install 5 is the one of the samples
            if number == 5 and path == "/api/template-install-retry":
                fake.failing_templates.add(1)
            await api("/api/template-install-add", SAMPLES["/api/template-install-add"].request)
        sample = SAMPLES[path]
        expected = kinds(sample.response)
        if path == "/api/orders" and profile == "prose":
            expected[0]["current_status"] = expected[0].pop("status")
            expected[0]["desired_status"] = expected[0].pop("status_user")

        reply = await api(path, sample.request, query=sample.query)

        assert (reply.status, kinds(reply.json)) == (200, expected)


def test_the_samples_cover_all_endpoints() -> None:
    """The table of samples has all 18 endpoints, and each of its texts is JSON."""
    assert len(SAMPLES) == 18
    for sample in SAMPLES.values():
        assert sample.response
        assert (sample.method == "POST") == (sample.request is not None)
        assert all(json.loads(text)["error"] for _, text in sample.errors)


async def test_private_offers_need_the_key() -> None:
    """GET /api/blibs includes private offers only with the key, which it does not require."""
    async with running() as (fake, api):
        without = await api("/api/blibs", headers={})
        with_key = await api("/api/blibs")
        private = await api("/api/blibs-private")

        hidden = {blib.id for blib in fake.blibs.values() if not blib.is_public}
        assert hidden
        assert hidden.isdisjoint(row["id"] for row in without.json)
        assert {row["id"] for row in with_key.json} == set(fake.blibs) == {row["id"] for row in private.json}
        assert {row["is_public"] for row in with_key.json} == {0, 1}


async def test_offers_can_be_changed() -> None:
    """A test can change the price and availability of an offer, and a sold out one cannot be ordered."""
    async with running() as (fake, api):
        fake.blibs[1].price_h = Decimal("0.9")
        fake.blibs[1].is_available = False

        row = (await api("/api/blibs")).json[0]
        refused = await api("/api/order", {**SAMPLES["/api/order"].request, "price_h": 0.9, "total_price": 0.9})

        assert (row["price_h"], row["is_available"], row["fitCount"]) == (0.9, False, 0)
        assert refused.status == 400


async def test_a_new_order_starts_and_runs() -> None:
    """POST /api/order makes an order that starts, then runs, and gets its templates."""
    async with running(durations={"create": LONG}) as (fake, api):
        order_id = (await api("/api/order", SAMPLES["/api/order"].request)).json["orderId"]
        begun = await api.row(order_id)
        fake.advance(LONG)
        runs = await api.row(order_id)
        fake.advance(LONG)
        done = await api.row(order_id)

        assert (begun["status"], begun["status_user"]) == ("starting", "running")
        assert (runs["status"], runs["status_user"]) == ("running", "running")
        assert [install["template_name"] for install in done["template_installs"]] == ["PyTorch Environment"]
        assert [row["template_installs"][0]["status"] for row in (begun, done)] == [0, 1]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"terms_accepted": False}, "You must accept the terms and conditions."),
        ({"terms_accepted": 1}, "You must accept the terms and conditions."),
        ({"contract_interval": None}, "Invalid or missing contract interval."),
        ({"contract_interval": "FORTNIGHT"}, "Invalid or missing contract interval."),
        ({"price_h": 0.8500001}, "The price does not match the current price."),
        ({"price_h": "0.85"}, "Invalid or missing price_h"),
        ({"price_h": float("nan")}, "Invalid or missing price_h"),
        ({"total_price": 0.84}, "The price does not match the current price."),
        ({"contract_interval": "DAY", "total_price": 0}, "The price does not match the current price."),
        ({"blib_id": 99}, "This server configuration is not available."),
        ({"second_partition_percentage": "much"}, "Invalid or missing second_partition_percentage"),
        ({"templates": [1]}, "Invalid templates"),
        ({"templates": 1}, "Invalid templates"),
        ({"templates": [{"id": 99}]}, "Invalid templates"),
    ],
)
async def test_invalid_orders_are_refused(change: dict[str, Any], error: str) -> None:
    """An order that the API would refuse is a 400, and nothing is bought."""
    async with running() as (_, api):
        reply = await api("/api/order", {**SAMPLES["/api/order"].request, **change})

        assert (reply.status, reply.json) == (400, {"error": error})
        assert (await api("/api/orders")).json == []


async def test_longer_intervals_accept_any_total() -> None:
    """The total of intervals other than HOUR is not documented, so any is accepted."""
    async with running() as (_, api):
        body = {**SAMPLES["/api/order"].request, "contract_interval": "DAY", "total_price": 19.99}
        order_id = (await api("/api/order", body)).json["orderId"]
        assert (await api.row(order_id))["contract_interval"] == "DAY"


# --- statuses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "action", "verb", "passing", "target"),
    [
        ("stopped", "running", "start", "starting", "running"),
        ("frozen", "running", "thaw", "starting", "running"),
        ("running", "stopped", "stop", "stopping", "stopped"),
        ("running", "restarted", "restart", "restarting", "running"),
        ("running", "frozen", "freeze", "freezing", "frozen"),
    ],
)
async def test_an_action_passes_through_its_own_status(
    before: str, action: str, verb: str, passing: str, target: str
) -> None:
    """An action shows its intermediate status, then the target, and its end is a new row of the history."""
    async with running(durations={verb: LONG}) as (fake, api):
        order = fake.add_order(status=before)
        accepted = await api("/api/order-status", {"serverId": order.server_id, "action": action})
        on_the_way, history = await api.row(order.order_id), await api.history(order.order_id)
        fake.advance(LONG)
        ended, longer_history = await api.row(order.order_id), await api.history(order.order_id)

        assert (accepted.status, accepted.json["success"], accepted.json["status"]) == (200, True, passing)
        assert (on_the_way["status"], on_the_way["status_user"]) == (passing, target)
        assert (ended["status"], ended["status_user"]) == (target, target)
        assert [row["status_user"] for row in longer_history] == [target, before]
        assert longer_history[1:] == history


async def test_an_action_ends_by_itself() -> None:
    """By default a transition takes a moment of real time, without help from the test."""
    async with running() as (fake, api):
        order = fake.add_order(status="stopped")
        reply = await api("/api/order-status", {"serverId": order.server_id, "action": "running"})
        assert reply.json["status"] == "starting"
        async with asyncio.timeout(LIMIT):
            while (await api.row(order.order_id))["status"] != "running":
                pass


async def test_a_repeated_action_changes_nothing() -> None:
    """The same action again changes nothing while it is pending, or finished."""
    async with running(durations={"stop": LONG}) as (fake, api):
        order = fake.add_order()
        body = {"serverId": order.server_id, "action": "stopped"}
        await api("/api/order-status", body)
        fake.advance(LONG / 2)
        assert (await api("/api/order-status", body)).json["status"] == "stopping"

        fake.advance(LONG / 2)
        assert (await api("/api/order-status", body)).json["status"] == "stopped"
        assert len(await api.history(order.order_id)) == 2


@pytest.mark.parametrize(
    ("profile", "stopping", "stopped"),
    [("document", "stopped", "stopped"), ("reached", "running", "stopped"), ("undesired", None, None)],
)
async def test_the_desired_status_has_three_readings(profile: str, stopping: Any, stopped: Any) -> None:
    """It is the requested state, the last state reached, or missing."""
    async with running(profile=profile, durations={"stop": LONG}) as (fake, api):
        order = fake.add_order()
        await api("/api/order-status", {"serverId": order.server_id, "action": "stopped"})
        on_the_way = await api.row(order.order_id)
        fake.advance(LONG)
        ended = await api.row(order.order_id)

        assert (on_the_way.get("status_user"), ended.get("status_user")) == (stopping, stopped)
        assert ("status_user" in ended) is (profile != "undesired")
        assert (order.desired_status is None) is (profile == "undesired")


async def test_a_migration_out_of_frozen_changes_the_port() -> None:
    """Starting a frozen server with a migration allowed moves it, with a new SSH port; otherwise both stay."""
    async with running() as (fake, api):
        moved, stays = fake.add_order(status="frozen"), fake.add_order(status="frozen")
        body = {"serverId": moved.server_id, "action": "running", "migration_allowed": True}
        reply = await api("/api/order-status", body)
        await api("/api/order-status", {**body, "serverId": stays.server_id, "migration_allowed": False})
        fake.advance(1)
        row = await api.row(moved.order_id)

        assert reply.json["status"] == "migrating"
        assert row["status"] == "running"
        assert row["ssh_port"] != moved.ssh_port
        assert (await api.row(stays.order_id))["ssh_port"] == stays.ssh_port
        assert await greeting(row["ssh_port"]) == b"SSH-2.0-FakeTrooper\r\n"


async def greeting(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_ssh_greets() -> None:
    """An order's default address and port greet as an SSH server does."""
    async with running() as (fake, _):
        order = fake.add_order()
        assert order.ip == "127.0.0.1"
        assert order.ssh_port is not None
        assert await greeting(order.ssh_port) == b"SSH-2.0-FakeTrooper\r\n"


async def test_a_test_can_set_the_status() -> None:
    """A status set by a test shows at once, and ends a pending action."""
    async with running(durations={"start": LONG}) as (fake, api):
        order = fake.add_order(status="stopped")
        await api("/api/order-status", {"serverId": order.server_id, "action": "running"})
        fake.set_status(order, "provisioning", "running")
        fake.advance(LONG)  # the start would be at its end
        row = await api.row(order.order_id)
        assert (row["status"], row["status_user"]) == ("provisioning", "running")
        assert len(await api.history(order.order_id)) == 1  # in transition there is no change yet

        fake.set_status(order.order_id, "terminated")
        row = await api.row(order.order_id)
        assert (row["status"], row["status_user"]) == ("terminated", "terminated")


async def test_an_order_can_be_removed() -> None:
    """A removed order is not in the list any more, and the API denies it like any unknown one."""
    async with running() as (fake, api):
        order = fake.add_order()
        fake.remove_order(order)

        assert await api.row(order.order_id) is None
        denied = await api("/api/order-title", {"serverId": order.server_id, "title": "x"})
        assert denied.json == {"error": "Access denied or server not found"}
        with pytest.raises(LookupError, match="no order 123"):
            fake.set_status(order, "running")
        assert fake.add_order(order_id=order.order_id).order_id == order.order_id


async def test_the_history_has_the_last_five_newest_first() -> None:
    """At most five rows, the newest first and, as in the document's sample, with the lowest id."""
    async with running() as (fake, api):
        order = fake.add_order(status="stopped")
        for word in ("running", "frozen", "running", "stopped", "running", "stopped"):
            fake.set_status(order, word)
        rows = await api.history(order.order_id)

        assert [row["status_user"] for row in rows] == ["stopped", "running", "stopped", "running", "frozen"]
        assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
        times = [row["status_since"] for row in rows]
        assert times == sorted(times, reverse=True)
        assert all(time.endswith("Z") for time in times)


async def test_a_server_id_may_differ_from_the_order_id() -> None:
    """Status, title, lock and credentials use the server id, history and the rest the order id."""
    async with running() as (fake, api):
        order = fake.add_order(order_id=7, server_id=700)
        assert (await api("/api/order-title", {"serverId": 700, "title": "renamed"})).status == 200
        assert (await api("/api/order-title", {"serverId": 7, "title": "renamed"})).status == 403
        assert (await api("/api/order-status-history", query="order_id=7")).status == 200
        assert (await api("/api/order-status-history", query="order_id=700")).status == 403
        row = await api.row(order.order_id)
        assert (row["serverId"], row["title"]) == (700, "renamed")


# --- locks, titles, credentials -----------------------------------------------------------------------------------


async def test_a_lock_prevents_actions() -> None:
    """A locked server can be neither stopped nor migrated, until it is unlocked."""
    async with running() as (fake, api):
        order = fake.add_order()
        switch = {"serverId": order.server_id, "action": "stopped"}
        await api("/api/order-lock", {"serverId": order.server_id, "is_locked": True})
        status = await api("/api/order-status", switch)
        migration = await api(
            "/api/buy-migration", {"order_id": order.order_id, "target_blib_id": 2, "keep_data": True}
        )
        documented = (403, json.loads(SAMPLES["/api/order-status"].errors[0][1]))
        assert (status.status, status.json) == (migration.status, migration.json) == documented
        assert (await api.row(order.order_id))["is_locked"] is True

        await api("/api/order-lock", {"serverId": order.server_id, "is_locked": False})
        assert (await api("/api/order-status", switch)).status == 200


async def test_each_order_has_its_own_credentials() -> None:
    """Every order has its own password, which does not change."""
    async with running() as (fake, api):
        orders = [fake.add_order(), fake.add_order()]
        first = [(await api("/api/credentials", {"serverId": order.server_id})).json for order in orders]
        again = (await api("/api/credentials", {"serverId": orders[0].server_id})).json
        assert first[0]["password"] != first[1]["password"]
        assert first[0] == again
        assert (again["username"], again["ssh_port"]) == ("root", orders[0].ssh_port)


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "fake-key-for-tests-only"}]
)
@pytest.mark.parametrize(
    "path", [path for path in SAMPLES if path not in ("/api/test", "/api/blibs", "/api/templates")]
)
async def test_a_wrong_key_is_refused(path: str, headers: dict[str, str]) -> None:
    """Without the right key a private endpoint returns 401 with the document's text and does nothing."""
    async with running() as (fake, api):
        fake.add_order()
        reply = await api(path, SAMPLES[path].request, query=SAMPLES[path].query, headers=headers)
        expected = {"error": "Missing or invalid Authorization header"}
        if path == "/api/orders":
            expected["next"] = "login"
        assert (reply.status, reply.json) == (401, expected)
        assert len((await api("/api/orders")).json) == 1


async def test_public_endpoints_need_no_key() -> None:
    """A wrong key is refused where a key would make a difference."""
    async with running() as (_, api):
        wrong = {"Authorization": "Bearer wrong"}
        statuses = {
            path: ((await api(path, headers={})).status, (await api(path, headers=wrong)).status)
            for path in ("/api/test", "/api/blibs", "/api/templates")
        }
        assert statuses == {"/api/test": (200, 200), "/api/blibs": (200, 401), "/api/templates": (200, 401)}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/order-status", {"serverId": 99, "action": "running"}),
        ("/api/order-title", {"serverId": 99, "title": "x"}),
        ("/api/order-lock", {"serverId": 99, "is_locked": True}),
        ("/api/credentials", {"serverId": 99}),
        ("/api/migration-cost", {"order_id": 99, "target_blib_id": 2}),
        ("/api/buy-migration", {"order_id": 99, "target_blib_id": 2, "keep_data": True}),
        ("/api/template-install-add", {"order_id": 99, "template_id": 1}),
        ("/api/template-install-delete", {"install_id": 99}),
        ("/api/template-install-retry", {"install_id": 99}),
        ("/api/order-status-history", None),
        ("/api/migration-options", None),
        ("/api/template-config", None),
    ],
)
async def test_an_unknown_order_is_denied(path: str, body: Any) -> None:
    """An unknown order, server or installation is a 403 with the document's text."""
    async with running() as (_, api):
        reply = await api(path, body, query="" if body else "order_id=99")
        assert (reply.status, reply.json) == (403, {"error": "Access denied or server not found"})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/order", [1]),
        ("/api/order-status", None),
        ("/api/order-status", {"serverId": True, "action": "running"}),
        ("/api/order-status", {"serverId": 123, "action": "exploded"}),
        ("/api/order-status", {"serverId": 123, "action": ["running"]}),
        ("/api/order-status", {"serverId": 123, "action": "running", "migration_allowed": 1}),
        ("/api/order-title", {"serverId": 123, "title": 5}),
        ("/api/order-lock", {"serverId": 123, "is_locked": 1}),
        ("/api/credentials", {"serverId": "123"}),
        ("/api/migration-cost", {"order_id": 123, "target_blib_id": 99}),
        ("/api/migration-cost", {"order_id": 123, "target_blib_id": 1}),
        ("/api/buy-migration", {"order_id": 123, "target_blib_id": 2}),
        ("/api/template-install-add", {"order_id": 123, "template_id": 99}),
        ("/api/template-install-add", {"order_id": 123, "template_id": 1, "config": "x"}),
        ("/api/order-status-history", None),
    ],
)
async def test_invalid_requests_are_refused(path: str, body: Any) -> None:
    """A body or query that is not as documented is a 400 with an error text."""
    async with running() as (fake, api):
        fake.add_order(order_id=123, server_id=123)
        reply = await api(path, body)
        assert reply.status == 400
        assert reply.json["error"]


async def test_unreadable_bodies_and_unknown_paths_are_refused() -> None:
    """Invalid JSON is a 400, an unknown path 404, a wrong method 405, and each is recorded."""
    async with running() as (fake, api):
        key = {"Authorization": f"Bearer {fake.api_key}"}
        for data in (b'{"serverId"', b"[" * 100_000, b"\xff"):
            async with api.session.post(f"{fake.url}/api/order-title", data=data, headers=key) as response:
                assert response.status == 400
        assert (await api("/api/unheard-of")).status == 404
        async with api.session.delete(f"{fake.url}/api/orders", headers=key) as response:
            assert response.status == 405
        assert [request.status for request in fake.requests] == [400, 400, 400, 404, 405]
        assert fake.requests[0].json is None


# --- migrations ---------------------------------------------------------------------------------------------------


async def test_a_migration_replaces_the_order() -> None:
    """The new order has its own id and runs at the end, when the old one is gone."""
    async with running(durations={"migrate": LONG}) as (fake, api):
        old = fake.add_order(title="mine")
        await api("/api/template-install-add", {"order_id": old.order_id, "template_id": 2})
        body = {"order_id": old.order_id, "target_blib_id": 2, "keep_data": True}
        new_id = (await api("/api/buy-migration", body)).json["new_order_id"]
        on_the_way = [await api.row(old.order_id), await api.row(new_id)]
        again = await api("/api/buy-migration", body)
        fake.advance(LONG)
        new = await api.row(new_id)

        assert new_id != old.order_id
        assert [row["status"] for row in on_the_way] == ["migrating", "migrating"]
        assert again.status == 400
        assert await api.row(old.order_id) is None
        assert (new["title"], new["status"]) == ("mine", "running")
        assert (new["blib_name"], new["price_h"]) == ("RTX 4090 Dual", 1.65)
        assert len(new["template_installs"]) == 1
        assert new["ssh_port"] != old.ssh_port


async def test_a_migration_can_drop_the_data() -> None:
    """Without `keep_data` the templates are gone."""
    async with running(durations={"migrate": 0.0}) as (fake, api):
        order = fake.add_order()
        await api("/api/template-install-add", {"order_id": order.order_id, "template_id": 2})
        body = {"order_id": order.order_id, "target_blib_id": 2, "keep_data": False}
        new_id = (await api("/api/buy-migration", body)).json["new_order_id"]
        assert (await api.row(new_id))["template_installs"] == []


async def test_a_test_can_cancel_a_migration() -> None:
    """Setting the status of a migrating order keeps it."""
    async with running(durations={"migrate": LONG}) as (fake, api):
        order = fake.add_order()
        await api("/api/buy-migration", {"order_id": order.order_id, "target_blib_id": 2, "keep_data": True})
        fake.set_status(order, "running")
        fake.advance(LONG)  # the migration would be at its end
        assert (await api.row(order.order_id))["status"] == "running"


async def test_a_quote_adds_up_and_is_repeatable() -> None:
    """A quote's due is its cost less what remains, exact to the cent, and the same when requested again."""
    async with running() as (fake, api):
        order = fake.add_order(contract_interval="DAY")
        body = {"order_id": order.order_id, "target_blib_id": 2}
        quote = (await api("/api/migration-cost", body)).json

        assert (quote["upgradeCost"], quote["remainingValue"], quote["totalDue"]) == (39.6, 20.4, 19.2)
        assert quote["newRate"] == {"amount": 39.6, "display": "€39.60/day"}
        assert (await api("/api/migration-cost", body)).json == quote
        cheaper = (await api("/api/migration-cost", {**body, "target_blib_id": 3})).json
        assert cheaper["totalDue"] == 0  # nothing is refunded
        options = (await api("/api/migration-options", query=f"order_id={order.order_id}")).json
        assert options["availableBlibs"][0]["additionalCostPerCycle"] == 19.2
        assert order.order_id == options["currentOrder"]["id"]


async def test_a_migration_needs_and_reduces_the_budget() -> None:
    """A migration beyond the budget is refused with the document's text; otherwise its price is deducted."""
    async with running() as (fake, api):
        first, second = fake.add_order(), fake.add_order()
        fake.budget = Decimal("1")
        body = {"target_blib_id": 2, "keep_data": True}
        paid = await api("/api/buy-migration", {"order_id": first.order_id, **body})
        refused = await api("/api/buy-migration", {"order_id": second.order_id, **body})

        assert paid.status == 200
        assert fake.budget == Decimal("0.20")
        documented = (400, json.loads(SAMPLES["/api/buy-migration"].errors[0][1]))
        assert (refused.status, refused.json) == documented


# --- templates ----------------------------------------------------------------------------------------------------


async def test_an_install_succeeds_or_fails() -> None:
    """An installation is queued, runs, and is completed; one of a failing template fails, until a successful retry."""
    async with running(durations={"install": LONG}) as (fake, api):
        order = fake.add_order()

        async def shown() -> list[tuple[int, str]]:
            rows = (await api("/api/template-config", query=f"order_id={order.order_id}")).json["templates"]
            same = (await api.row(order.order_id))["template_installs"]
            assert [row["install_id"] for row in rows] == [row["id"] for row in same]
            return [(row["status"], row["status_readable"]) for row in rows]

        fake.failing_templates.add(2)
        for template_id in (1, 2):
            await api("/api/template-install-add", {"order_id": order.order_id, "template_id": template_id})
        assert await shown() == [(0, "Queued"), (0, "Queued")]
        assert (await api("/api/template-install-retry", {"install_id": 2})).status == 400
        fake.advance(LONG / 2)
        assert await shown() == [(2, "Installing"), (2, "Installing")]
        fake.advance(LONG)
        assert await shown() == [(1, "Completed"), (3, "Failed")]

        fake.failing_templates.clear()
        assert (await api("/api/template-install-retry", {"install_id": 2})).status == 200
        assert await shown() == [(1, "Completed"), (0, "Queued")]
        fake.advance(LONG)
        assert await shown() == [(1, "Completed"), (1, "Completed")]
        assert (await api("/api/template-install-delete", {"install_id": 1})).status == 200
        assert await shown() == [(1, "Completed")]


# --- options ------------------------------------------------------------------------------------------------------


async def test_etags_give_a_304_for_an_unchanged_list() -> None:
    """With ETags, an unchanged list is a 304 without a body for a matching tag, and a changed one a new 200."""
    async with running(profile=Profile(etag="honoured")) as (fake, api):
        order = fake.add_order()
        key = {"Authorization": f"Bearer {fake.api_key}"}
        tag = (await api("/api/orders")).headers["ETag"]
        same = await api("/api/orders", headers={**key, "If-None-Match": tag})
        fake.set_status(order, "stopped")
        changed = await api("/api/orders", headers={**key, "If-None-Match": tag})

        assert (same.status, same.json, same.headers["ETag"]) == (304, None, tag)
        assert changed.status == 200
        assert changed.headers["ETag"] != tag
        assert "ETag" not in (await api("/api/blibs")).headers


async def test_there_is_no_etag_by_default() -> None:
    """By default there is no tag, since the document mentions none."""
    async with running() as (_, api):
        assert "ETag" not in (await api("/api/orders", headers=None)).headers


async def test_loose_types_change_the_kinds_of_fields() -> None:
    """With loose types numbers are text, booleans 0 or 1, some fields null or missing, and unknown ones are added."""
    async with running(profile="loose") as (fake, api):
        order = fake.add_order(is_locked=True)
        install = {"order_id": order.order_id, "template_id": 1, "config": {"deep": 1}}
        await api("/api/template-install-add", install)
        row = (await api("/api/orders")).json[0]
        config = (await api("/api/template-config", query=f"order_id={order.order_id}")).json

        assert (row["order_id"], row["price_h"], row["is_locked"]) == (str(order.order_id), "0.85", 1)
        assert row["machine_name"] is None
        assert "country_code" not in row
        assert "beta_field" in row
        assert (config["success"], config["templates"][0]["config"]) == (1, {"deep": 1})


async def test_reads_can_lag() -> None:
    """With a lag, list and history show an old state; everything else is current."""
    async with running(profile=Profile(read_lag=LONG), durations={"create": 0.0}) as (fake, api):
        order, removed = fake.add_order(), fake.add_order()
        fake.set_status(order, "stopped")
        fake.remove_order(removed)
        await api("/api/order", SAMPLES["/api/order"].request)

        rows = {row["order_id"]: row["status"] for row in (await api("/api/orders")).json}
        assert rows == {order.order_id: "running", removed.order_id: "running"}
        assert [row["status_user"] for row in await api.history(order.order_id)] == ["running"]
        assert (await api("/api/credentials", {"serverId": order.server_id})).json["status"] == "stopped"
        assert (await api("/api/order-title", {"serverId": order.server_id, "title": "x"})).status == 200


# --- faults -------------------------------------------------------------------------------------------------------


async def test_the_next_requests_can_fail() -> None:
    """As many requests as given get the given status and do nothing; the next one works."""
    async with running() as (fake, api):
        order = fake.add_order(title="before")
        fake.fail_next("/api/order-title", times=2)
        body = {"serverId": order.server_id, "title": "after"}
        statuses = [(await api("/api/order-title", body)).status for _ in range(2)]

        assert statuses == [500, 500]
        assert (await api.row(order.order_id))["title"] == "before"
        assert (await api("/api/order-title", body)).status == 200


async def test_a_failure_has_the_given_form() -> None:
    """Status, Retry-After, other headers and the body of a failure can be given."""
    async with running() as (fake, api):
        fake.fail_next("/api/orders", status=429, retry_after=3, headers={"X-Limit": "60"})
        limited = await api("/api/orders")
        assert (limited.status, limited.headers["Retry-After"], limited.headers["X-Limit"]) == (429, "3", "60")
        assert limited.json["error"]

        documented = SAMPLES["/api/blibs"].errors[0][1]
        fake.fail_next("/api/blibs", body=json.loads(documented))
        assert (await api("/api/blibs")).json == json.loads(documented)

        for page in ("<html>Bad gateway</html>", b"<html>Bad gateway</html>"):
            fake.fail_next("/api/orders", status=502, body=page)
            async with api.session.get(f"{fake.url}/api/orders") as response:
                assert (response.status, response.content_type) == (502, "text/html")
                assert await response.text() == "<html>Bad gateway</html>"


@pytest.mark.parametrize(("when", "title"), [("before", "old"), ("after", "new")])
async def test_a_response_can_be_lost(when: Any, title: str) -> None:
    """The connection is closed without a response; the request is carried out only if that is `after`."""
    async with running() as (fake, api):
        order = fake.add_order(title="old")
        fake.drop_next("/api/order-title", when=when)
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await api("/api/order-title", {"serverId": order.server_id, "title": "new"})

        assert (await api.row(order.order_id))["title"] == title
        assert [request.status for request in fake.requests] == [None, 200]


async def test_a_response_can_be_delayed() -> None:
    """A delayed response is the one of the moment of arrival, and the request was carried out then."""
    async with running() as (fake, api):
        order = fake.add_order(status="stopped")
        fake.delay_next("/api/orders", 0.1)
        held = asyncio.create_task(api.row(order.order_id))
        await arrived(fake, 1)
        fake.set_status(order, "running")

        assert (await api.row(order.order_id))["status"] == "running"
        assert (await held)["status"] == "stopped"
        assert asyncio.get_running_loop().time() - fake.requests[0].started >= 0.1


async def test_the_faults_of_a_path_apply_in_order() -> None:
    """Each request has one fault, in the order in which they were added; other paths have none."""
    async with running() as (fake, api):
        fake.fail_next("/api/orders", status=503)
        fake.fail_next("/api/orders", status=429)
        assert (await api("/api/blibs")).status == 200
        assert [(await api("/api/orders")).status for _ in range(3)] == [503, 429, 200]


def test_an_invalid_fault_is_refused() -> None:
    """An invalid path, moment, number or status is a ValueError, not a test that proves nothing."""
    fake = FakeTrooper()
    with pytest.raises(ValueError, match="no endpoint '/api/order-state': there is /api/order-status,"):
        fake.fail_next("/api/order-state")
    with pytest.raises(ValueError, match="no endpoint 'x': there is /api/test,"):
        fake.fail_next("x")
    with pytest.raises(ValueError, match="`before` or `after`"):
        fake.drop_next("/api/orders", when="never")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1, not 0"):
        fake.drop_next("/api/orders", times=0)
    with pytest.raises(ValueError, match="200 to 599, not 5000"):
        fake.fail_next("/api/orders", status=5000)
    with pytest.raises(ValueError, match="at least 0 seconds, not nan"):
        fake.delay_next("/api/orders", float("nan"))


def test_durations_apply_to_transitions() -> None:
    """A number is for all transitions, a mapping for those that it names; an invalid one is a ValueError, later too."""
    assert set(FakeTrooper(durations=3).durations.values()) == {3}
    fake = FakeTrooper(durations={"stop": 60})
    assert (fake.durations["stop"], fake.durations["start"]) == (60, 0.05)
    with pytest.raises(ValueError, match="no transition is called 'strat': there are start, "):
        FakeTrooper(durations={"strat": 1.0})
    with pytest.raises(ValueError, match="at least 0 seconds, not nan"):
        FakeTrooper(durations=float("nan"))
    with pytest.raises(ValueError, match="no transition is called 'stopping'"):
        fake.durations["stopping"] = 1.0
    with pytest.raises(ValueError, match="no transition is called 'freezing'"):
        fake.durations.update(stop=1.0, freezing=1.0)


# --- the server ---------------------------------------------------------------------------------------------------


async def test_requests_are_recorded_without_secrets() -> None:
    """A record has request and response; its repr shows nothing that was sent, and the fake's not the key."""
    async with running(api_key="s3cret-key") as (fake, api):
        order = fake.add_order()
        before = asyncio.get_running_loop().time()
        body = {"order_id": order.order_id, "template_id": 1, "config": {"password": "s3cret-word"}}
        await api("/api/template-install-add", body)
        await api("/api/template-config", query=f"order_id={order.order_id}")

        first, second = fake.requests
        assert isinstance(first, RecordedRequest)
        assert (first.method, first.path, first.query, first.json, first.status) == (
            "POST", "/api/template-install-add", {}, body, 200,
        )  # fmt: skip
        assert (second.query, second.json) == ({"order_id": str(order.order_id)}, None)
        assert before <= first.started <= second.started
        assert "s3cret" not in f"{fake!r} {fake.requests!r}"
        assert fake.url in repr(fake)


async def test_sent_lists_the_bodies_of_a_path() -> None:
    """In order, including failed requests; an unknown path is a ValueError."""
    async with running() as (fake, api):
        assert fake.sent("/api/order-title") == []
        fake.fail_next("/api/order-title")
        bodies = [{"serverId": fake.add_order().server_id, "title": title} for title in ("one", "two")]
        for body in bodies:
            await api("/api/order-title", body)
        await api("/api/orders")

        assert fake.sent("/api/order-title") == bodies
        assert fake.sent("/api/orders") == [None]
        with pytest.raises(ValueError, match="no endpoint '/api/titles'"):
            fake.sent("/api/titles")


def test_a_fake_that_does_not_run_says_so() -> None:
    """Before it is entered there is no URL, and no order can be added (a client without a URL would call
    the real API).
    """
    fake = FakeTrooper()
    with pytest.raises(RuntimeError, match="with FakeTrooper"):
        _ = fake.url
    with pytest.raises(RuntimeError, match="with FakeTrooper"):
        fake.add_order()


async def test_an_order_can_be_added_with_any_fields() -> None:
    """The returned order is the one in the list; a taken id is refused."""
    async with running() as (fake, api):
        order = fake.add_order(
            status="running", desired_status="stopped", blib_id=2, title="mine", price_h=Decimal("1.5")
        )
        row = await api.row(order.order_id)

        assert (order.current_status, order.desired_status) == (row["status"], row["status_user"])
        assert (order.title, order.blib_gpu_num, order.price_h) == ("mine", 2, Decimal("1.5"))
        assert (row["title"], row["blib_gpu_num"], row["price_h"]) == ("mine", 2, 1.5)
        with pytest.raises(ValueError, match="has an order 123 already"):
            fake.add_order(order_id=order.order_id)
        with pytest.raises(ValueError, match="no offer 99: there are 1, 2, "):
            fake.add_order(blib_id=99)
        with pytest.raises(TypeError, match="price_h must be a Decimal"):
            fake.add_order(price_h=0.5)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="tittle"):
            fake.add_order(tittle="x")  # type: ignore[call-arg]


async def test_an_incomplete_body_is_tolerated() -> None:
    """A client that hangs up during its request does no harm, and the request is not carried out."""
    async with running() as (fake, api):
        _, writer = await asyncio.open_connection("127.0.0.1", int(fake.url.rpartition(":")[2]))
        writer.write(b"POST /api/order HTTP/1.1\r\nHost: fake\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await api("/api/orders")).json == []
        assert [request.path for request in fake.requests] == ["/api/orders"]


async def test_a_port_in_use_is_an_os_error() -> None:
    """A second fake on the same port fails, and cleans up."""
    async with running() as (fake, _):
        with pytest.raises(OSError, match="in use"):
            async with FakeTrooper(port=int(fake.url.rpartition(":")[2])):
                pytest.fail("two servers on one port")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_serves_until_it_is_stopped(stop: signal.Signals) -> None:
    """`python -m trooper_async.testing` prints its URL and key, serves, and exits 0 without a traceback."""
    options = ("--port", "0", "--key", "k3y", "--orders", "4", "--seconds", "0")
    async with processes.python("-m", "trooper_async.testing", *options) as command:
        url, key = (await command.says("k3y\n")).splitlines()
        headers = {"Authorization": f"Bearer {key}"}
        async with aiohttp.ClientSession(url, headers=headers) as session:
            async with session.get("/api/orders") as response:
                rows = await response.json()
            command.send(stop)  # with the client's connection still open
            status = await command.ends()
    assert [row["status"] for row in rows] == ["running", "stopped", "frozen", "running"]
    assert (status, command.err) == (0, "")


def test_the_command_reports_a_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    """It ends with one line and exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as end:
        main(["--port", str(taken.getsockname()[1])])
    assert end.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1


# --- with the client ----------------------------------------------------------------------------------------------


async def test_its_client_uses_the_fake() -> None:
    """`fake.client()` is a client of this server with its key, and passes options on."""
    async with FakeTrooper() as fake:
        order = fake.add_order(status="stopped")
        async with fake.client() as client:
            assert await client.orders.list() == [order]
            assert (await client.orders.start_and_wait(order)).current_status == "running"
        async with fake.client(timeout=50.0) as client:
            assert await client.ping() == "meinstring5"


async def test_its_client_retries_fast() -> None:
    """`fake.client()` retries failures without the pauses that a real API needs."""
    async with FakeTrooper() as fake, fake.client() as client:
        fake.fail_next("/api/test", status=503, times=3)
        assert await client.ping() == "meinstring5"
        assert [request.status for request in fake.requests] == [503, 503, 503, 200]
        assert client._transport.retry.max_delay == 0.05
