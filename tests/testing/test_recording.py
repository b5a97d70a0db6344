"""A recording: a profile of an API's behaviour, without data of the account."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from tests.helpers.stand_in import KEY, SECRETS, Behaviour, Clock, OverHttp, StandIn
from tests.tools import calibration
from trooper_async.testing import FakeTrooper, Profile, RecordingError, record
from trooper_async.testing._profile import Actions, Course, RateLimit, Refusal, Refusals, Row, Step

WHOLE_SECONDS = Actions(
    stop=Course((Step(0, "going down", "stopped"), Step(4, "stopped", "stopped")), (Row(4, "stopped"),)),
    start=Course(
        (Step(0, None, "running"), Step(2, "booting", "running"), Step(9, "running", "running")), (), "queued"
    ),
    restart=Course((Step(0, "running", None),), (Row(3, "running"), Row(7, "running"))),
)

DOCUMENTED = Refusals().key


@asynccontextmanager
async def recorded_fake(**settings: Any) -> AsyncIterator[tuple[FakeTrooper, OverHttp, Clock]]:
    """A fake whose time advances as the recording sleeps."""
    clock = Clock()
    async with FakeTrooper(**settings) as fake, aiohttp.ClientSession() as session:
        fake._clock = clock
        yield fake, OverHttp(fake.url, fake.api_key, session, clock), clock


@asynccontextmanager
async def stand_in(seed: int) -> AsyncIterator[tuple[StandIn, OverHttp]]:
    clock = Clock()
    serving = StandIn(Behaviour(seed), clock)
    async with TestServer(serving.app()) as server, aiohttp.ClientSession() as session:
        yield serving, OverHttp(str(server.make_url("")).rstrip("/"), KEY, session, clock)


@pytest.mark.parametrize("seed", range(4))
async def test_the_fake_of_a_recording_behaves_like_the_original(seed: int) -> None:
    """States, words, headers, kinds and the ends of waits are the same; the profile has no data of the account."""
    assert await calibration.differences(seed) == []


async def test_recording_a_fake_gives_its_profile() -> None:
    """The steps, rows and responses of the fake's profile are recorded."""
    async with recorded_fake(profile=Profile(actions=WHOLE_SECONDS, history_ids="rising")) as (fake, api, _):
        order = fake.add_order()
        profile = await record(api, seconds=3, exercise=order.order_id)
    assert profile.history_ids == "rising"
    assert (profile.actions.stop, profile.actions.restart) == (WHOLE_SECONDS.stop, WHOLE_SECONDS.restart)
    assert profile.actions.start.steps == WHOLE_SECONDS.start.steps
    assert profile.actions.start.reply == "queued"
    assert (profile.current_field, profile.desired_field, profile.etag) == ("status", "status_user", "none")
    assert (profile.fields, profile.refusals) == ({}, Profile().refusals)
    assert {"going down", "booting", "freezing", "running"} <= set(profile.words)


@pytest.mark.parametrize("before", ["running", "stopped", "frozen"])
async def test_an_exercise_restores_the_server(before: str) -> None:
    """Whatever its status was, it goes through all five actions, each once, and ends where it began, unlocked."""
    told: list[str] = []
    async with recorded_fake() as (fake, api, _):
        order, other = fake.add_order(status=before), fake.add_order()
        profile = await record(api, seconds=0, exercise=order.order_id, tell=told.append)
        rows = {row["order_id"]: row for row in (await api.get("/api/orders")).data}
        sent = fake.sent("/api/order-status")[1:]  # the first is sent under a lock
    assert (rows[order.order_id]["status"], rows[order.order_id]["is_locked"]) == (before, False)
    assert rows[other.order_id]["status"] == "running"
    assert {body["serverId"] for body in sent} == {order.server_id}
    assert sorted(body["action"] for body in sent) == ["frozen", "restarted", "running", "running", "stopped"]
    assert profile.actions.freeze.steps[-1].current == "frozen"
    assert [line for line in told if line.startswith("freeze: ")] == [
        "freeze: waiting for frozen", f"freeze: took {profile.actions.freeze.seconds:.1f} s",
    ]  # fmt: skip


async def test_without_an_exercise_nothing_changes() -> None:
    """Only GETs are sent, and the actions are the document's."""
    async with recorded_fake(profile="loose") as (fake, api, clock):
        fake.add_order()
        began = clock()
        profile = await record(api, seconds=60)
        assert {request.method for request in fake.requests} == {"GET"}
        assert clock() - began >= 60
    assert profile.actions == Actions()
    assert (profile.etag, profile.gzip) == ("honoured", True)
    kinds = profile.fields["/api/orders"]
    assert (kinds["order_id"], kinds["is_locked"], kinds["machine_name"], kinds["country_code"]) == (
        "text", "number", "null", "missing",
    )  # fmt: skip
    assert kinds["beta_field"] == "object"


async def test_a_rate_limit_is_recorded_and_waited_out() -> None:
    """A 429 does not end the recording: it pauses, and the limit is in the profile."""
    async with recorded_fake(profile=Profile(rate_limit=RateLimit(30, 50.0, 7))) as (fake, api, _):
        fake.add_order()
        profile = await record(api, seconds=40)
        assert 429 in {request.status for request in fake.requests}
    assert profile.rate_limit is not None
    assert (profile.rate_limit.seconds, profile.rate_limit.retry_after) == (7.0, 7)


async def test_no_account_data_is_recorded() -> None:
    """Titles, names, addresses, prices, times and texts that may name something are not in a profile."""
    for seed in range(12):
        async with stand_in(seed) as (_, api):
            text = (await record(api, seconds=2)).to_json()
        assert [secret for secret in SECRETS if secret in text] == []


@pytest.mark.parametrize(
    ("met", "recorded"),
    [
        ((401, {"error": "Unauthorized", "next": "login"}), Refusal(401, "Unauthorized", next="login")),
        ((403, {"message": "Invalid API key."}), Refusal(403, "Invalid API key.", "message")),
        ((422, {"code": 7, "reason": "No such user"}), Refusal(422, "No such user", "reason")),
        ((401, "Sign in, please"), Refusal(401, "Sign in, please", None)),
        ((401, {}), Refusal(401, "")),
        ((403, "<html>my-secret-title</html>"), Refusal(403, "", None)),
        ((401, {"error": f"{calibration.WRONG_KEY} is wrong"}), Refusal(401, DOCUMENTED.error)),
        ((403, {"error": "ask host.example", "next": "host.example"}), Refusal(403, DOCUMENTED.error)),
        ((200, []), DOCUMENTED),
        ((503, {"error": "down"}), DOCUMENTED),
    ],
)
async def test_the_refusal_of_a_wrong_key_is_recorded(met: tuple[int, Any], recorded: Refusal) -> None:
    """Its status, its text if that names nothing, and the place of the text; one GET is sent with that key."""
    async with stand_in(0) as (serving, api):
        serving.behaviour.no_key = met
        stranger = OverHttp(api.url, calibration.WRONG_KEY, api.session, Clock())
        profile = await record(api, seconds=0, wrong_key=stranger)
    assert profile.refusals.key == recorded
    assert Profile.from_json(profile.to_json()) == profile
    assert calibration.WRONG_KEY not in profile.to_json()


async def test_a_refusal_that_names_the_server_is_not_recorded() -> None:
    """Even if its title consists of plain words, like the text."""
    async with recorded_fake(profile=Profile(refusals=Refusals(locked=Refusal(409, "my training is locked")))) as (
        fake,
        api,
        _,
    ):
        for title, text in (("my training", Refusals().locked.error), ("other", "my training is locked")):
            order = fake.add_order(title=title)
            profile = await record(api, seconds=0, exercise=order.order_id)
            assert profile.refusals.locked == Refusal(409, text)


async def test_a_failed_recording_says_why() -> None:
    """No list, an unknown or locked server, one in transition, a refused action and an endless one are reported."""
    async with recorded_fake(durations={"freeze": 9e9}) as (fake, api, _):
        order, locked = fake.add_order(), fake.add_order(is_locked=True)
        moving = fake.add_order(status="stopping", desired_status="stopped")
        for order_id, problem in (
            (99, "order 99 is not in the list"),
            (locked.order_id, "the server is locked"),
            (moving.order_id, "the server is 'stopping'"),
        ):
            with pytest.raises(RecordingError, match=problem):
                await record(api, seconds=0, exercise=order_id)
        with pytest.raises(RecordingError, match="freeze did not end within 100 s"):
            await record(api, seconds=0, exercise=order.order_id, patience=100)
        fake.set_status(order, "running")
        fake.fail_next("/api/order-status", status=500, times=2)
        with pytest.raises(RecordingError, match="stop was refused with a 500"):
            await record(api, seconds=0, exercise=order.order_id)
        fake.fail_next("/api/orders", status=502, times=11)
        with pytest.raises(RecordingError, match="GET /api/orders: 502"):
            await record(api, seconds=0)


async def test_a_failure_does_not_leave_the_lock() -> None:
    """If the response under the lock is lost, the server is unlocked nevertheless."""
    async with recorded_fake() as (fake, api, _):
        order = fake.add_order()
        fake.drop_next("/api/order-status")
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await record(api, seconds=0, exercise=order.order_id)
        (row,) = (await api.get("/api/orders")).data
        assert row["is_locked"] is False
