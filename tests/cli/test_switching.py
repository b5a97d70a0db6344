"""start, stop, freeze, restart, resume: one or many servers, with questions, waits and reports."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from tests.cli.conftest import Clock, Trooper, sent
from tests.helpers.fake_orders import order_of, polls_since
from trooper_async import (
    FleetOutcome,
    FleetProgress,
    FleetReport,
    SupersededError,
    Transition,
    WaitTimeoutError,
)
from trooper_async.cli._actions import _StoredReport
from trooper_async.cli._context import Cli
from trooper_async.testing import FakeTrooper


def test_an_action_is_in_the_report_before_it_is_sent(tmp_path: Path) -> None:
    """However little time has passed: otherwise a killed run would send a restart again."""
    file = tmp_path / "report.json"
    kept = _StoredReport(Cli(), file)
    whole = 0

    def report_of(outcome: FleetOutcome) -> FleetReport:
        nonlocal whole
        whole += 1
        return FleetReport((outcome,))

    for order_id in (1, 2, 3):
        sending = FleetOutcome(order_id, "restart", transition=Transition(order_id, "restart", "running"), sent=None)
        kept.see(FleetProgress(0, 0, 3, sending, partial(report_of, sending)))
        assert sending in FleetReport.from_json(file.read_text()).outcomes
    assert len(FleetReport.from_json(file.read_text()).outcomes) == 3
    assert whole == 1  # each costs as much as there are servers


@pytest.mark.parametrize(
    ("verb", "order", "end", "action"),
    [
        ("start", "125", "running", "running"),
        ("stop", "123", "stopped", "stopped"),
        ("freeze", "125", "frozen", "frozen"),
        ("restart", "123", "running", "restarted"),
    ],
)
def test_an_action_waits_for_its_end(
    trooper: Trooper, fake: FakeTrooper, verb: str, order: str, end: str, action: str
) -> None:
    """The action is sent once, and the command ends when the server has the status."""
    ran = trooper(verb, order, "--json")
    assert ran.status == 0
    (outcome,) = ran.json
    assert (outcome["order"]["current_status"], outcome["error"]) == (end, None)
    assert [body["action"] for body in sent(fake, "/api/order-status")] == [action]


def test_start_may_migrate_with_an_option(trooper: Trooper, fake: FakeTrooper) -> None:
    """--migration-allowed is sent; by default it is not allowed."""
    trooper("start", "129", "--migration-allowed")
    trooper("start", "125")
    assert [body["migration_allowed"] for body in sent(fake, "/api/order-status")] == [True, False]


@pytest.mark.parametrize(("answers", "status"), [("y\n", 0), ("n\n", 1), ("", 1)])
def test_all_shows_the_servers_and_asks(trooper: Trooper, fake: FakeTrooper, answers: str, status: int) -> None:
    """--all shows the servers that it would change, and sends nothing without a yes."""
    ran = trooper("stop", "--all", "--title", "training*", "--status", "running", answers=answers)
    assert ran.status == status
    assert ("training llama 2" in ran.out) is (status == 0)
    assert "training llama 2" in ran.err
    assert "Stop 2 servers? [y/N]" in ran.err
    assert len(sent(fake, "/api/order-status")) == (2 if status == 0 else 0)
    if status:
        assert ran.error == "not confirmed: nothing was sent"


def test_yes_does_not_ask(trooper: Trooper, fake: FakeTrooper) -> None:
    """With --yes the filters decide alone; if nothing matches, nothing is sent and the status is 0."""
    ran = trooper("stop", "--all", "--title", "training*", "--yes", "--json")
    assert [outcome["order_id"] for outcome in ran.json] == [123, 124, 125]
    assert "?" not in ran.err
    none = trooper("stop", "--all", "--title", "nothing", "--yes", "--json")
    assert (none.status, none.json) == (0, [])
    assert "no server matches" in none.err


@pytest.mark.parametrize(
    "arguments", [["stop"], ["stop", "1", "--all"], ["stop", "1", "--title", "x"], ["stop", "x"], ["stop", "0"]]
)
def test_an_ambiguous_selection_is_refused(trooper: Trooper, fake: FakeTrooper, arguments: list[str]) -> None:
    """No ids and no --all, both, filters without --all, invalid ids: status 2, and no request."""
    ran = trooper(*arguments)
    assert ran.status == 2
    assert ran.error
    assert "hint:  `trooper stop --help`" in ran.err
    assert fake.requests == []


def test_a_failed_server_does_not_stop_the_others(trooper: Trooper) -> None:
    """A locked server and an unknown one fail, the third is stopped: status 1, and each has its reason."""
    trooper("lock", "123")
    ran = trooper("stop", "123", "124", "999", "--json")
    assert ran.status == 1
    assert [outcome["error"] and outcome["error"]["type"] for outcome in ran.json] == [
        "ServerLockedError",
        None,
        "OrderNotFoundError",
    ]
    assert ran.error == "2 of 3 servers failed"
    assert "order 999: failed: it is not in the list of orders" in ran.err
    alone = trooper("stop", "123")
    assert alone.status == 1
    assert alone.error.startswith("order 123: the API returned 403: Server is locked")
    assert "hint:  unlock it first: `trooper unlock 123`" in alone.err


def test_no_wait_returns_once_accepted(trooper: Trooper, fake: FakeTrooper, tmp_path: Path) -> None:
    """--no-wait sends and ends; its report can be resumed, and nothing is sent again."""
    fake.durations["stop"] = 0.3
    file = tmp_path / "report.json"
    ran = trooper("stop", "123", "124", "999", "--no-wait", "--report", str(file), "--json")
    assert ran.status == 1
    assert [outcome["sent"] for outcome in ran.json] == [True, True, False]
    assert [outcome["order"] for outcome in ran.json] == [None] * 3
    assert "order 123: accepted" in ran.err
    resumed = trooper("resume", str(file), "--json")
    assert [outcome["order"] and outcome["order"]["current_status"] for outcome in resumed.json] == [
        "stopped",
        "stopped",
        None,
    ]
    assert len(sent(fake, "/api/order-status")) == 2
    assert len(FleetReport.from_json(file.read_text()).succeeded) == 2


@pytest.mark.parametrize("verb", ["start", "stop", "freeze", "restart"])
def test_no_wait_works_for_each_action(trooper: Trooper, fake: FakeTrooper, verb: str) -> None:
    """Each action has --no-wait."""
    if verb == "start":
        fake.set_status(123, "stopped", "stopped")
    ran = trooper(verb, "123", "--no-wait", "--json")
    assert (ran.status, ran.json[0]["action"], ran.json[0]["transition"]["order_id"]) == (0, verb, 123)
    assert len(sent(fake, "/api/order-status")) == 1


def test_a_lost_response_without_a_wait_is_unknown(trooper: Trooper, fake: FakeTrooper) -> None:
    """Without waiting, a restart whose response is lost exits with 4, and is not sent again."""
    fake.drop_next("/api/order-status", when="after")
    ran = trooper("restart", "123", "--no-wait", "--json")
    assert (ran.status, ran.json[0]["sent"]) == (4, None)
    assert ran.json[0]["transition"]["target"] == "running"
    assert "before you send it again" in ran.err
    assert len(sent(fake, "/api/order-status")) == 1


def test_a_wait_finds_out_what_a_lost_response_meant(trooper: Trooper, fake: FakeTrooper, clock: Clock) -> None:
    """With waiting, a restart that was carried out although its response was lost succeeds; one that was not exits with
    4.
    """
    fake.durations["restart"] = 0.3
    fake.drop_next("/api/order-status", when="after")
    assert trooper("restart", "123").status == 0
    fake.drop_next("/api/order-status", when="before")
    path = "/api/order-status"
    with clock.forward(600, once=lambda: len(sent(fake, path)) == 2 and polls_since(fake, path)):
        assert trooper("restart", "124", "--timeout", "600").status == 4


def test_a_refused_key_ends_a_run_of_many(trooper: Trooper, fake: FakeTrooper) -> None:
    """A refused key exits with 3, waiting or not, and is not tried for each server."""
    assert trooper("stop", "123", "124", api_key="wrong").status == 3
    fake.requests.clear()
    fake.fail_next("/api/order-status", status=401, times=9)
    assert trooper("stop", "123", "124", "126", "--no-wait", "--concurrency", "1").status == 3
    assert len(sent(fake, "/api/order-status")) == 1


def test_a_timeout_is_a_failure_with_a_hint(trooper: Trooper, fake: FakeTrooper, clock: Clock) -> None:
    """A server that is not there in time: status 1, and what to do next."""
    fake.durations["stop"] = 600
    with clock.forward(90, once=lambda: polls_since(fake, "/api/order-status") > 1):
        ran = trooper("stop", "123", "--timeout", "90")
    assert ran.status == 1
    assert "stopped was not reached within 90 s (last seen stopping" in ran.error
    assert "`trooper wait 123` continues to wait" in ran.err


def test_resume_counts_the_servers_that_it_continues(trooper: Trooper, fake: FakeTrooper, tmp_path: Path) -> None:
    """A wait that timed out is continued, so it counts; a final failure does not."""
    transition = Transition(124, "stop", "stopped")
    fake.set_status(124, "stopped", "stopped")
    file = tmp_path / "report.json"
    file.write_text(
        FleetReport(
            (
                FleetOutcome(123, "stop", error=SupersededError("another"), sent=True),
                FleetOutcome(124, "stop", error=WaitTimeoutError("late"), transition=transition, sent=True),
            )
        ).to_json()
    )
    ran = trooper("resume", str(file))
    assert "[1/1] order 124" in ran.err
    assert ran.status == 1


def test_resume_accepts_only_reports(trooper: Trooper, tmp_path: Path) -> None:
    """A file that is no report, or does not exist, is status 2."""
    file = tmp_path / "other.json"
    file.write_text(json.dumps({"no": "report"}))
    assert trooper("resume", str(file)).status == 2
    assert trooper("resume", str(tmp_path / "none")).status == 2


def test_an_unfinished_report_is_not_overwritten(trooper: Trooper, fake: FakeTrooper, tmp_path: Path) -> None:
    """A report with servers that may not have been sent stays; one that was left on purpose is replaced."""
    file = tmp_path / "report.json"
    doubtful = FleetOutcome(123, "stop", transition=Transition(123, "stop", "stopped"), sent=None)
    accepted = FleetOutcome(124, "stop", transition=Transition(124, "stop", "stopped"), sent=True)
    left = FleetReport((doubtful, accepted)).to_json()
    file.write_text(left)
    ran = trooper("stop", "124", "--report", str(file))
    assert ran.status == 2
    assert "1 server left" in ran.error
    assert file.read_text() == left
    file.write_text("my notes")
    ran = trooper("stop", "124", "--report", str(file))
    assert (ran.status, "report.json is not the report of a fleet" in ran.error) == (2, True)
    assert file.read_text() == "my notes"
    assert sent(fake, "/api/order-status") == []

    for free in (FleetReport((accepted,)).to_json(), ""):
        file.write_text(free)
        assert trooper("stop", "123", "--report", str(file)).status == 0
        assert len(FleetReport.from_json(file.read_text()).succeeded) == 1


def test_an_unwritable_report_sends_nothing(trooper: Trooper, fake: FakeTrooper, tmp_path: Path) -> None:
    """The report's file is tried before the first request: without its folder, nothing is sent."""
    ran = trooper("stop", "123", "--report", str(tmp_path / "none" / "report.json"))
    assert ran.status == 2
    assert "No such file" in ran.error
    assert sent(fake, "/api/order-status") == []


def test_a_server_already_there_or_beyond_is_left_alone(trooper: Trooper, fake: FakeTrooper) -> None:
    """`stop --all` leaves frozen servers frozen, `restart --all` takes only running ones; --force sends to all."""
    fake.set_status(130, "running")
    stopped = trooper("stop", "--all", "--yes", "--json")
    assert stopped.status == 0
    left = {one["order_id"] for one in stopped.json if one["sent"] is False}
    assert left == {125, 127, 129}  # two are stopped, one is frozen
    fake.set_status(123, "running")
    before = len(sent(fake, "/api/order-status"))
    ran = trooper("restart", "--all", "--yes")
    assert [order_of(fake, body["serverId"]) for body in sent(fake, "/api/order-status")[before:]] == [123]
    assert "1 done, 7 left alone" in ran.out
    trooper("stop", "129", "--force", "--no-wait")
    assert len(sent(fake, "/api/order-status")) == before + 2
