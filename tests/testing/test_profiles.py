"""Profiles: their format, and a fake that behaves accordingly."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, fields

from tests.helpers.fake_api import LONG, running
from tests.tools.api_document import SAMPLES
from trooper_async import ConfigurationError
from trooper_async.testing import PROFILES, FakeTrooper, Profile
from trooper_async.testing._profile import Actions, Course, RateLimit, Refusal, Refusals, Row, Step

FOLDER = Path(__file__).parents[2] / "trooper_async" / "testing" / "profiles"
BACKWARDS = """{"profile": 1, "actions": {"stop": {"history": [], "steps": [
    {"after": 2, "current": "stopping", "desired": null}, {"after": 1, "current": "stopped", "desired": null}]}}}"""
SLOW = Actions(
    stop=Course(
        (Step(0, None, None), Step(10, None, "stopped"), Step(20, "going down", "stopped"), Step(60, "off", "stopped")),
        (Row(0, "stop asked for"), Row(90, "off")),
        reply="queued",
    )
)


# --- the format ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROFILES)
def test_the_packages_profiles_are_read_and_written(name: str) -> None:
    """Every file in the folder is a profile with a description, and round-trips through its JSON."""
    profile = Profile.load(name)
    assert profile == Profile.from_json(profile.to_json()) == Profile.load(FOLDER / f"{name}.json")
    assert profile.about.endswith(".")
    assert len({Profile.load(other).about for other in PROFILES}) == len(PROFILES)


def test_the_default_profile_is_the_document() -> None:
    """An empty profile equals that of the document, which spells out all actions."""
    assert Profile() == Profile.from_json('{"profile": 1}') == evolve(Profile.load("document"), about=Profile().about)
    written = json.loads((FOLDER / "document.json").read_text())
    assert set(written["actions"]) == {action.name for action in fields(Actions)}


def test_every_field_is_documented() -> None:
    """The table in the folder has each field of a profile, and no other."""
    table = re.findall(r"^\| `([a-z_]+)` \|", (FOLDER / "README.md").read_text(), re.M)
    assert table == ["profile", *(one.name for one in fields(Profile))]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "this is not a profile"),
        ("{", "this is not a profile"),
        ("{}", "this is not a profile"),
        ('{"profile": 2}', "a later release"),
        ('{"profile": 1, "lag": 1}', "a profile has no 'lag'"),
        ('{"profile": 1, "read_lag": "1"}', "read_lag should be a number"),
        ('{"profile": 1, "read_lag": -1}', "times are at least 0"),
        ('{"profile": 1, "current_field": "state"}', "current_field should be 'status' or 'current_status'"),
        ('{"profile": 1, "types": {"number": "odd"}}', "types.number should be 'text' or"),
        ('{"profile": 1, "fields": {"*": {"ip": "odd"}}}', "the kinds of fields are text, "),
        ('{"profile": 1, "fields": {"*": "null"}}', "fields are names and kinds by endpoint"),
        ('{"profile": 1, "headers": {"Age": 5}}', "headers are text"),
        ('{"profile": 1, "rate_limit": {"requests": 0, "seconds": 1, "retry_after": null}}', "lets requests pass"),
        ('{"profile": 1, "actions": {"stop": {"steps": [], "history": []}}}', "at least one step"),
        (BACKWARDS, "times rise from 0"),
    ],
)
def test_an_invalid_profile_is_refused(text: str, problem: str) -> None:
    """Invalid text, a later format, or an invalid field or value is reported."""
    with pytest.raises(ConfigurationError, match=re.escape(problem)):
        Profile.from_json(text)


@pytest.mark.parametrize(
    "step",
    [
        {"after": 0, "current": "10.0.0.1", "desired": None},
        {"after": 0, "current": "x" * 41, "desired": None},
        {"after": 0, "current": None, "desired": None},
    ],
)
def test_a_status_is_a_short_word(step: dict[str, Any]) -> None:
    """A status in a profile is a short word without digits, and an action ends at one."""
    text = json.dumps({"profile": 1, "actions": {"stop": {"steps": [step], "history": []}}})
    with pytest.raises(ConfigurationError, match="status"):
        Profile.from_json(text)


def test_an_unknown_profile_is_reported() -> None:
    """An unknown name is a ConfigurationError that lists the known ones; a missing file an OSError."""
    with pytest.raises(ConfigurationError, match="there is no profile 'lagged': there are document, "):
        FakeTrooper(profile="lagged")
    with pytest.raises(FileNotFoundError):
        FakeTrooper(profile=Path("nowhere.json"))
    with pytest.raises(ConfigurationError, match="a factor above 0"):
        FakeTrooper(scale=0)


# --- the behaviour ------------------------------------------------------------------------------------------------


async def test_an_action_follows_the_profile() -> None:
    """The words, their times, the response and the rows of the history, early and late, are the profile's."""
    async with running(profile=Profile(actions=SLOW)) as (fake, api):
        order = fake.add_order()
        accepted = await api("/api/order-status", {"serverId": order.server_id, "action": "stopped"})
        assert accepted.json["status"] == "queued"
        seen = []
        for seconds in (1, 10, 10, 40, 30):
            fake.advance(seconds)
            row, history = await api.row(order.order_id), await api.history(order.order_id)
            seen.append((row["status"], row["status_user"], [one["status_user"] for one in history]))
        assert seen == [
            ("running", "running", ["stop asked for", "running"]),
            ("running", "stopped", ["stop asked for", "running"]),
            ("going down", "stopped", ["stop asked for", "running"]),
            ("off", "stopped", ["stop asked for", "running"]),
            ("off", "stopped", ["off", "stop asked for", "running"]),
        ]


@pytest.mark.parametrize(
    ("settings", "after", "word"),
    [
        ({"scale": 10.0}, 540, "going down"),
        ({"scale": 0.1}, 6.0, "off"),
        ({"durations": 600.0}, 540, "going down"),
        ({"durations": {"stop": 600.0}}, 601, "off"),
        ({"scale": 0.1, "durations": {"stop": 600.0}}, 540, "going down"),
        ({"durations": 0.0}, 0.0, "off"),
    ],
)
async def test_times_can_be_scaled(settings: dict[str, Any], after: float, word: str) -> None:
    """`scale` applies to all times of a profile; a duration stretches the steps of its action."""
    async with running(profile=Profile(actions=SLOW), **settings) as (fake, api):
        order = fake.add_order()
        await api("/api/order-status", {"serverId": order.server_id, "action": "stopped"})
        fake.advance(after)
        if word == "off" or after == 0:
            fake.advance(0.5)
        assert (await api.row(order.order_id))["status"] == word


def test_all_times_are_scaled() -> None:
    """Steps, rows, lag, installs and the period of the rate limit; a Retry-After is rounded up to whole seconds."""
    limit = RateLimit(5, 10.0, 3)
    profile = Profile(actions=SLOW, read_lag=4.0, install_seconds=2.0, rate_limit=limit).scaled(0.5)
    assert [step.after for step in profile.actions.stop.steps] == [0, 5, 10, 30]
    assert [row.after for row in profile.actions.stop.history] == [0, 45]
    assert (profile.read_lag, profile.install_seconds, profile.rate_limit) == (2.0, 1.0, RateLimit(5, 5.0, 2))


@pytest.mark.parametrize("name", ["early_history", "late_history"])
async def test_history_rows_may_be_early_or_late(name: str) -> None:
    """A row may appear before the action has ended, or still be missing afterwards."""
    async with running(profile=name, durations=LONG) as (fake, api):
        order = fake.add_order()
        await api("/api/order-status", {"serverId": order.server_id, "action": "restarted"})
        at_once = len(await api.history(order.order_id))
        fake.advance(1.1 * LONG)
        at_the_end = len(await api.history(order.order_id))
        fake.advance(10 * LONG)
        assert (await api.row(order.order_id))["status"] == "running"
        later = await api.history(order.order_id)
        assert (at_once, at_the_end, len(later)) == ((2, 2, 2) if name == "early_history" else (1, 1, 2))
        assert (later[0]["id"] > later[1]["id"]) is (name == "early_history")  # where ids rise


async def test_fields_have_the_kinds_of_the_profile() -> None:
    """A field can be text, null or missing, also nested, and new ones are added, at one endpoint or at all."""
    kinds = {
        "/api/orders": {"price_h": "text", "ip": "null", "template_installs.status": "text", "host": "list"},
        "*": {"title": "missing", "region": "text"},
    }
    async with running(profile=Profile.from_json(json.dumps({"profile": 1, "fields": kinds}))) as (fake, api):
        order = fake.add_order()
        await api("/api/template-install-add", {"order_id": order.order_id, "template_id": 1, "config": {"deep": 1}})
        (row,) = (await api("/api/orders")).json
        options = (await api("/api/migration-options", query=f"order_id={order.order_id}")).json
        (install,) = (await api("/api/template-config", query=f"order_id={order.order_id}")).json["templates"]

        assert (row["price_h"], row["ip"], row["host"], row["region"]) == ("0.85", None, [], "new")
        assert "title" not in row
        assert row["template_installs"][0]["status"] in ("0", "2", "1")
        assert "title" not in options["currentOrder"]
        assert options["currentBlib"]["price_h"] == 0.85
        assert (install["config"], install["region"]) == ({"deep": 1}, "new")


async def test_headers_are_those_of_the_profile() -> None:
    """Headers of every response, and gzip for clients that accept it."""
    async with running(profile=Profile(headers={"Server": "nginx", "Age": "3"}, gzip=True)) as (fake, api):
        fake.add_order()
        reply = await api("/api/orders")
        assert (reply.status, reply.headers["Server"], reply.headers["Age"]) == (200, "nginx", "3")
        assert reply.headers["Content-Encoding"] == "gzip"
        plain = {"Authorization": f"Bearer {fake.api_key}", "Accept-Encoding": "identity"}
        assert "Content-Encoding" not in (await api("/api/orders", headers=plain)).headers


async def test_refusals_are_those_of_the_profile() -> None:
    """A wrong key, a locked server and an unknown one are refused as the profile says."""
    key, locked, unknown = Refusal(403, "no", "message", "pay"), Refusal(409, "locked"), Refusal(404, "unknown")
    profile = Profile(refusals=Refusals(key=key, locked=locked, unknown=unknown))
    async with running(profile=profile) as (fake, api):
        order = fake.add_order(is_locked=True)
        replies = [
            await api("/api/orders", headers={}),
            await api("/api/order-status", {"serverId": order.server_id, "action": "stopped"}),
            await api("/api/order-title", {"serverId": 5, "title": "x"}),
        ]
        assert [(reply.status, reply.json) for reply in replies] == [
            (403, {"message": "no", "next": "pay"}),
            (409, {"error": "locked", "success": False}),
            (404, {"error": "unknown"}),
        ]
    plain = Profile(refusals=Refusals(key=Refusal(401, "Sign in", None)))
    async with running(profile=plain) as (fake, api), api.session.get(f"{fake.url}/api/blibs-private") as response:
        assert (response.status, response.content_type, await response.text()) == (401, "text/plain", "Sign in")


@pytest.mark.parametrize("retry_after", [7, None])
async def test_the_rate_is_limited(retry_after: int | None) -> None:
    """One request too many is a 429 that does nothing, with the profile's pause; later requests are accepted."""
    async with running(profile=Profile(rate_limit=RateLimit(3, LONG, retry_after))) as (fake, api):
        order = fake.add_order(title="old")
        statuses = [(await api("/api/orders")).status for _ in range(3)]
        refused = await api("/api/order-title", {"serverId": order.server_id, "title": "new"})
        fake.advance(LONG)
        row = await api.row(order.order_id)

        assert (statuses, refused.status, row["title"]) == ([200] * 3, 429, "old")
        assert refused.headers.get("Retry-After") == (None if retry_after is None else "7")


@pytest.mark.parametrize("name", PROFILES)
async def test_every_endpoint_works_under_every_profile(name: str) -> None:
    """The document's sample requests succeed with every profile."""
    async with running(profile=name, durations={"install": 0.0}) as (fake, api):
        for path, sample in SAMPLES.items():
            fake.reset()
            fake.add_order(order_id=123, server_id=123)
            for number in range(5):  # install 5 is the one of the samples
                if number == 4 and path == "/api/template-install-retry":
                    fake.failing_templates.add(1)
                await api("/api/template-install-add", SAMPLES["/api/template-install-add"].request)
            fake.advance(1.0)
            reply = await api(path, sample.request, query=sample.query)
            assert reply.status == 200, path
