"""The replay: the client's waits on the fake of a profile, and the verdict on them."""

from __future__ import annotations

import pytest
from attrs import evolve

from trooper_async import PollSchedule
from trooper_async.testing import PROFILES, Profile, replay
from trooper_async.testing._profile import Actions, Course, Row, Step

RIGHT = {"in time", "late"}  # a busy machine makes a wait late
FAST = PollSchedule(floor=0.02, cap=0.1)
OFF_AND_ON = Course(
    (Step(0, "stopped", "stopped"), Step(2.0, "stopping", "stopped"), Step(4.0, "stopped", "stopped")), ()
)
PARKED = Course((Step(0, "stopping", "stopped"), Step(0.1, "parked", "stopped")), ())
ELSEWHERE = Course((Step(0, "freezing", "frozen"), Step(2.0, "stopped", "stopped")), ())
UNSEEN = Course((Step(0, "running", "running"),), (Row(1.5, "running"),))


@pytest.mark.parametrize("name", PROFILES)
async def test_waits_are_right_under_every_profile(name: str) -> None:
    """With no profile of the package does a wait end early, never, or with an error."""
    results = await replay(Profile.load(name), poll=FAST)
    assert [result.action for result in results] == ["start", "stop", "freeze", "restart", "create", "migrate", "thaw"]
    assert [str(result) for result in results if result.verdict not in RIGHT] == []
    assert all(result.seconds >= result.action_seconds > 0 for result in results)
    assert all(result.requests >= 2 for result in results)


async def test_long_actions_are_scaled() -> None:
    """Actions of minutes are replayed in seconds, with the polls of a real client, and reported in original times."""
    results = await replay(Profile().scaled(1000))
    assert {result.action_seconds for result in results} == {50.0}
    assert {result.verdict for result in results} <= RIGHT
    assert all(result.seconds >= 50 for result in results)


async def test_a_wrong_wait_is_reported() -> None:
    """A word that comes too early, an unknown one, another end, and late evidence."""
    actions = Actions(stop=OFF_AND_ON, start=PARKED, freeze=ELSEWHERE, restart=UNSEEN)
    results = {one.action: one for one in await replay(Profile(actions=actions), poll=FAST, seconds=5.0, timeout=5.0)}
    assert [results[name].verdict for name in ("stop", "start", "freeze", "restart")] == [
        "early", "never", "failed", "late",
    ]  # fmt: skip
    assert str(results["stop"]).startswith("stop: it ends 4.00 s after the acceptance, and is confirmed after ")
    assert str(results["stop"]).endswith(" s (early)")
    assert str(results["start"]) == "start: it ends 0.10 s after the acceptance, and is not confirmed within 5 s"
    assert "freeze: it ends 2.00 s after the acceptance, and its wait fails: SupersededError" in str(results["freeze"])


async def test_a_lag_does_not_count_as_lateness() -> None:
    """If reads lag, a wait can only end later, and still counts as in time."""
    results = await replay(evolve(Profile(), read_lag=0.25), poll=FAST)
    assert {result.verdict for result in results} <= RIGHT
    assert all(result.seconds >= result.action_seconds + 0.25 for result in results)
