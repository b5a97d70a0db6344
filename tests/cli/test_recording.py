"""doctor --record, --exercise and --replay: what is asked, shown and saved, and the verdict on waits."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import evolve

from tests.cli.conftest import Trooper, meanwhile
from tests.helpers.fake_orders import polls_since, sent_of
from trooper_async.testing import FakeTrooper, Profile
from trooper_async.testing._profile import Actions, Course, Step

SECRETS = ("training", "llama", "127.0.0.1", "1.65", "gpu-server", "ai99_", "fake-key", "pw-of-the-server")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "profile.json"


def test_recording_only_reads(trooper: Trooper, fake: FakeTrooper, file: Path) -> None:
    """A recording sends only GETs, shows all that it saves, asks, and explains it."""
    ran = trooper("doctor", "--record", str(file), "--seconds", "0.1", answers="y\n")
    assert ran.status == 0
    assert {request.method for request in fake.requests} == {"GET"}
    assert all(line.strip() in ran.err for line in file.read_text().splitlines())
    assert f"Save it to {file}?" in ran.err
    assert "✓ orders have both statuses, as status and status_user" in ran.out
    assert "how actions go was not exercised" in ran.out
    assert [secret for secret in SECRETS if secret in file.read_text() + ran.out] == []
    assert Profile.load(file).words == ("frozen", "running", "starting", "stopped")


def test_a_wrong_key_is_tried_once(trooper: Trooper, fake: FakeTrooper, file: Path) -> None:
    """The profile and the output have the form of its refusal, but no key."""
    ran = trooper("doctor", "--record", str(file), "--seconds", "0.1", "--yes")
    assert [request.status for request in fake.requests].count(401) == 1
    assert Profile.load(file).refusals.key == Profile().refusals.key
    assert "✓ a wrong key is refused with a 401" in ran.out
    assert "wrong-key" not in file.read_text() + ran.out + ran.err


def test_an_exercise_asks_first(trooper: Trooper, fake: FakeTrooper, file: Path) -> None:
    """The question names the server, its status and its price; without a yes nothing is sent."""
    ran = trooper("doctor", "--record", str(file), "--exercise", "123", answers="n\n")
    assert ran.status == 1
    assert "Order 123 (training llama 1) is running" in ran.err
    assert "1.65 EUR an hour" in ran.err
    assert "not confirmed: nothing was sent" in ran.err
    assert fake.sent("/api/order-status") == []
    assert not file.exists()


def test_an_exercise_is_recorded_and_replayed(trooper: Trooper, fake: FakeTrooper, file: Path) -> None:
    """One server goes through all actions and back; the profile has them, and its replay is right."""
    for action in ("stop", "start", "restart", "freeze", "thaw"):
        fake.durations[action] = 600
    ended = 0

    def was_seen() -> bool:
        return len(sent_of(fake)) > ended and polls_since(fake, "/api/order-status") > 1

    def end() -> None:
        nonlocal ended
        ended += 1
        fake.advance(600)

    with meanwhile(was_seen, end, again=True):
        ran = trooper("doctor", "--record", str(file), "--exercise", "123", "--seconds", "0.1", "--yes")
    assert (ran.status, "?" in ran.err) == (0, False)
    assert len(fake.sent("/api/order-status")) == 6  # one of them under a lock
    assert trooper("show", "123", "--json").json["order"]["current_status"] == "running"
    profile = Profile.load(file)
    assert [step.current for step in profile.actions.stop.steps] == ["stopping", "stopped"]
    assert 0 < profile.actions.stop.seconds < 60
    assert "a freeze goes freezing → frozen" in ran.out
    assert "status_user is the requested status" in ran.out
    assert [secret for secret in SECRETS if secret in file.read_text() + ran.out] == []

    replayed = trooper("doctor", "--replay", str(file), "--json")
    assert replayed.status == 0
    assert {wait["verdict"] for wait in replayed.json["waits"]} <= {"in time", "late"}
    assert len(replayed.json["waits"]) == 7


def test_a_wrong_wait_fails_the_replay(trooper: Trooper, file: Path) -> None:
    """Waits that end early, never or with an error are named, with status 1."""
    stop = Course((Step(0, "stopped", "stopped"), Step(1, "stopping", "stopped"), Step(2, "stopped", "stopped")), ())
    file.write_text(evolve(Profile(), actions=Actions(stop=stop)).to_json())
    ran = trooper("doctor", "--replay", str(file))
    assert (ran.status, ran.error) == (1, "waits that end wrongly: stop")
    assert "✗ stop: it ends 2.00 s after the acceptance, and is confirmed after" in ran.out


def test_a_refused_exercise_says_where_the_server_is(trooper: Trooper, fake: FakeTrooper, file: Path) -> None:
    """If an exercise stops halfway, the output says why, and how to find the server's status."""
    fake.fail_next("/api/order-status", status=403)
    fake.fail_next("/api/order-status", status=500)
    ran = trooper("doctor", "--record", str(file), "--exercise", "123", "--seconds", "0.1", "--yes")
    assert ran.status == 1
    assert "stop was refused with a 500: nothing more is sent: see where it is with `trooper show 123`" in ran.err


def test_invalid_arguments_of_a_recording_are_reported(
    trooper: Trooper, fake: FakeTrooper, tmp_path: Path, file: Path
) -> None:
    """An exercise without a recording, and files that can't be read or written, are reported."""
    assert trooper("doctor", "--exercise", "123").status == 2
    assert "can't be read" in trooper("doctor", "--replay", str(file)).error
    file.write_text("{}")
    assert "this is not a profile" in trooper("doctor", "--replay", str(file)).err
    nowhere = str(tmp_path / "none" / "profile.json")
    assert "can't be written" in trooper("doctor", "--record", nowhere, "--seconds", "0.1", "--yes").error
    assert {request.method for request in fake.requests} <= {"GET"}
