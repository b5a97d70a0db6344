"""examples/nightly_fleet.py: its schedule as a pure function, and nights and days as a process."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from examples.nightly_fleet import Due, around
from tests.helpers import processes
from tests.helpers.conditions import free_port, until
from tests.helpers.fake_orders import outage, sent_of, status_of
from tests.helpers.processes import Child
from tests.helpers.wall import Wall
from trooper_async import FleetReport
from trooper_async.testing import FakeTrooper

SCRIPT = Path(__file__).parents[2] / "examples" / "nightly_fleet.py"
TIMES = {"freeze": time(19), "start": time(8)}
BERLIN = ZoneInfo("Europe/Berlin")


def berlin(text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).astimezone(UTC)


@pytest.mark.parametrize(
    ("now", "last", "following"),
    [
        ("2026-11-24 12:00", "start 2026-11-24 08:00", "freeze 2026-11-24 19:00"),
        ("2026-11-24 19:00", "freeze 2026-11-24 19:00", "start 2026-11-25 08:00"),
        ("2026-11-24 18:59", "start 2026-11-24 08:00", "freeze 2026-11-24 19:00"),
        ("2026-11-25 00:10", "freeze 2026-11-24 19:00", "start 2026-11-25 08:00"),
        ("2026-12-31 23:00", "freeze 2026-12-31 19:00", "start 2027-01-01 08:00"),
        ("2026-03-28 20:00", "freeze 2026-03-28 19:00", "start 2026-03-29 08:00"),  # a night of 12 hours
        ("2026-10-24 20:00", "freeze 2026-10-24 19:00", "start 2026-10-25 08:00"),  # a night of 14 hours
    ],
)
def test_the_last_and_the_next_due_time(now: str, last: str, following: str) -> None:
    """By the wall clock, over midnight, the turn of the year, and both changes of the clocks."""

    def due(text: str) -> Due:
        action, _, at = text.partition(" ")
        return Due(berlin(at), action)

    assert around(berlin(now), TIMES, BERLIN) == (due(last), due(following))


def test_a_time_skipped_by_the_clocks_comes_an_hour_later() -> None:
    """02:30 does not exist on 2026-03-29: it is 03:30 of the new time."""
    times = {"start": time(2, 30)}
    _, due = around(berlin("2026-03-29 01:00"), times, BERLIN)
    assert due.at == berlin("2026-03-29 03:30")
    assert around(due.at, times, BERLIN)[1].at == berlin("2026-03-30 02:30")


def test_a_time_that_occurs_twice_counts_once() -> None:
    """02:30 occurs twice on 2026-10-25: the first one counts, and after it the next is tomorrow's."""
    times = {"start": time(2, 30)}
    _, due = around(berlin("2026-10-25 01:00"), times, BERLIN)
    assert due.at == berlin("2026-10-25 02:30")
    last, following = around(berlin("2026-10-25 02:30", fold=1), times, BERLIN)
    assert (last, following.at) == (due, berlin("2026-10-26 02:30"))


@pytest.mark.parametrize(
    "zone", ["America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca", "UTC"]
)
def test_every_local_day_has_each_time_once(zone: str) -> None:
    """For three years, wherever the clocks change, by any amount, at any hour."""
    times, at = {"freeze": time(0, 0), "start": time(2, 30)}, datetime(2026, 1, 1, tzinfo=UTC)
    seen: list[Due] = []
    while len(seen) < 3 * 365 * 2:
        last, following = around(at, times, ZoneInfo(zone))
        assert last.at <= at < following.at
        seen.append(following)
        at = following.at
    for action in times:
        days = [due.at.astimezone(ZoneInfo(zone)).date() for due in seen if due.action == action]
        assert days == [days[0] + timedelta(number) for number in range(len(days))]


LIST, HISTORY, ACTION = "/api/orders", "/api/order-status-history", "/api/order-status"
EVENING, MORNING = "2026-11-24-1900-freeze.report", "2026-11-25-0800-start.report"

# the program, with a clock that the test sets and short pauses
PROGRAM = """
import os
import sys
from functools import partial
from pathlib import Path
from examples import nightly_fleet
from tests.helpers.wall import Wall
from trooper_async import PollSchedule, RetryPolicy, TrooperClient

patience = float(os.environ.get("PATIENCE", 60))
nightly_fleet.Nightly = partial(nightly_fleet.Nightly, clock=Wall(Path("wall")), every=0.01, patience=patience)
nightly_fleet.TrooperClient = partial(
    TrooperClient, poll=PollSchedule(floor=0.02, cap=0.1), retry=RetryPolicy(max_delay=0.05)
)
raise SystemExit(nightly_fleet.main())
"""


class Nights:
    """The program as processes that share a clock and a folder."""

    def __init__(self, fake: FakeTrooper, folder: Path) -> None:
        self.fake, self.folder, self.wall = fake, folder, Wall(folder / "wall")
        self.now("2026-11-24 18:59")

    @property
    def env(self) -> dict[str, str]:
        live = {"TROOPER_BASE_URL": self.fake.url, "TROOPER_API_KEY": self.fake.api_key}
        return {"PYTHONPATH": str(SCRIPT.parent.parent), **live}

    def now(self, text: str) -> None:
        self.wall.set(berlin(text))

    @asynccontextmanager
    async def started(
        self, *options: str, title: str = "job-*", says: str = "next: ", patience: float = 60.0
    ) -> AsyncIterator[Child]:
        """The program, once it prints what comes next. It is killed (SIGKILL) at the end of the block."""
        given = ("--title", title, "--timezone", "Europe/Berlin", *options)
        env = {**self.env, "PATIENCE": str(patience)}
        async with processes.python("-c", PROGRAM, *given, cwd=self.folder, env=env) as child:
            await child.says(says)
            yield child

    def report(self, name: str, title: str = "job-%2A") -> FleetReport | None:
        """The stored report of an evening or a morning."""
        path = self.folder / "nightly" / title / name
        text = path.read_text() if path.exists() else ""
        return FleetReport.from_json(text) if text.endswith("\n") else None

    async def are(self, status: str, *orders: int, report: str | None = None) -> None:
        """Wait until the servers have the status, and the report says so, and check that this stays so."""
        await until(lambda: all(status_of(self.fake, order) == status for order in orders))
        if report is not None:
            await until(lambda: (now := self.report(report)) is not None and len(now.succeeded) >= len(orders))
        await self.wall.is_looked_at()
        assert [status_of(self.fake, order) for order in orders] == [status] * len(orders)


@pytest.fixture
def nights(fake_trooper: FakeTrooper, tmp_path: Path) -> Nights:
    return Nights(fake_trooper, tmp_path)


def fleet(fake: FakeTrooper) -> list[int]:
    """Two servers to freeze, and four to leave alone: locked, with another title, frozen by hand, and stopped."""
    ours = [fake.add_order(title=f"Job-{number}").order_id for number in (1, 2)]
    fake.add_order(title="job-3", is_locked=True)
    fake.add_order(title="web")
    fake.add_order(title="job-4", status="frozen")
    fake.add_order(title="job-5", status="stopped")
    return ours


async def test_what_is_frozen_in_the_evening_is_started_in_the_morning(nights: Nights) -> None:
    """And nothing else: no other title, nor a locked, stopped or manually frozen server, nor before its time."""
    ours = fleet(nights.fake)
    async with nights.started() as child:
        await nights.wall.is_looked_at()
        assert sent_of(nights.fake) == []
        nights.now("2026-11-24 19:00")
        await nights.are("frozen", *ours, report=EVENING)
        nights.now("2026-11-25 07:59")
        await nights.are("frozen", *ours)
        nights.now("2026-11-25 08:03")
        await nights.are("running", *ours, report=MORNING)
        await child.says("next: freeze at 2026-11-25 19:00 CET")
    sent = sent_of(nights.fake)
    assert sorted(sent[:2]) == [(order, "frozen") for order in ours]
    assert sorted(sent[2:]) == [(order, "running") for order in ours]
    assert "freeze of 2026-11-24 19:00 CET: 2 of 2 servers" in child.out
    assert child.err == ""


def refused(fake: FakeTrooper) -> int:
    return sum(request.status == 503 for request in fake.requests)


@pytest.mark.parametrize("paths", [(LIST,), (ACTION,), (LIST, ACTION, HISTORY)], ids=["list", "action", "all"])
@pytest.mark.parametrize(
    ("failures", "evening", "morning"),
    [(1, "19:00", "08:00"), (8, "19:05", "08:05"), (40, "22:00", "11:00")],
    ids=["5 s", "5 min", "3 h"],
)
async def test_a_day_with_outages(
    nights: Nights, failures: int, evening: str, morning: str, paths: tuple[str, ...]
) -> None:
    """What fails during an outage is retried, however long that lasts, and each request is accepted once."""
    ours = fleet(nights.fake)
    async with nights.started(patience=2.0 if failures == 40 else 60.0) as child:
        for due, ends, status, report, again in (
            ("2026-11-24 19:00", f"2026-11-24 {evening}", "frozen", EVENING, "08:00"),
            ("2026-11-25 08:00", f"2026-11-25 {morning}", "running", MORNING, "19:00"),
        ):
            with outage(nights.fake, *paths):
                enough = refused(nights.fake) + failures
                nights.now(due)
                await until(lambda: refused(nights.fake) >= enough)  # noqa: B023 - awaited here
                if failures == 40:
                    await child.says(f"trying again until 2026-11-25 {again} CET")
                nights.now(ends)
                await nights.wall.is_looked_at()
                assert status not in [status_of(nights.fake, order) for order in ours]
            await nights.are(status, *ours, report=report)
    assert sorted(sent_of(nights.fake)) == sorted((order, word) for order in ours for word in ("frozen", "running"))
    assert child.err == ""


async def test_an_outage_without_any_connection_in_the_middle(tmp_path: Path) -> None:
    """What had failed before it is retried after it."""
    with FakeTrooper(port=free_port()) as fake:
        nights = Nights(fake, tmp_path)
        ours = fleet(fake)
        async with nights.started(patience=2.0) as child:
            fake.fail_next(ACTION, status=400, body={"error": "The server is busy"}, times=100_000)
            nights.now("2026-11-24 19:00")
            await child.says("The server is busy")
            fake.close()
            await child.says("freeze: orders.find: ")
            fake._pending_faults.clear()
            fake.start()
            await nights.are("frozen", *ours, report=EVENING)


async def test_an_outage_of_the_whole_night_cancels_the_freezes(nights: Nights) -> None:
    """Once the morning has come, nothing is frozen any more; what was not frozen is not started either."""
    ours = fleet(nights.fake)
    async with nights.started(patience=2.0) as child:
        with outage(nights.fake, ACTION):
            nights.now("2026-11-24 19:00")
            await until(lambda: refused(nights.fake) >= 20)
            nights.now("2026-11-25 08:00")
            await child.says("freeze of 2026-11-24 19:00 CET is not complete, and ends now")
            await child.says("next: freeze at 2026-11-25 19:00")
            await child.says("start of 2026-11-25 08:00 CET: nothing to do")
            await nights.wall.is_looked_at()  # so that a freeze in flight at 08:00 is refused as well
        await nights.are("running", *ours)
    assert sent_of(nights.fake) == []


async def test_a_single_incomplete_list_is_not_trusted(nights: Nights) -> None:
    """Otherwise a server missing in it would run all night, or not be started."""
    ours = fleet(nights.fake)
    async with nights.started():
        nights.fake.fail_next(LIST, status=200, body=[])
        nights.now("2026-11-24 19:00")
        await nights.are("frozen", *ours, report=EVENING)
        nights.fake.fail_next(LIST, status=200, body=[])
        nights.now("2026-11-25 08:00")
        await nights.are("running", *ours, report=MORNING)


async def test_an_unreadable_history_is_read_again(nights: Nights) -> None:
    """Nothing is started before it is known whether somebody else has started it."""
    ours = fleet(nights.fake)
    async with nights.started():
        nights.now("2026-11-24 19:00")
        await nights.are("frozen", *ours, report=EVENING)
        with outage(nights.fake, HISTORY):
            nights.now("2026-11-25 08:00")
            await until(lambda: refused(nights.fake) >= 10)
            await nights.are("frozen", *ours)
        await nights.are("running", *ours, report=MORNING)


async def test_a_server_that_refuses_is_retried(nights: Nights) -> None:
    """For example one that is being installed; one that is locked meanwhile is left alone."""
    first, second = fleet(nights.fake)
    busy = {"error": "The server is busy"}
    nights.fake.fail_next(ACTION, status=400, body=busy, times=4)
    async with nights.started() as child:
        nights.now("2026-11-24 19:00")
        await nights.are("frozen", first, second, report=EVENING)
        await child.says("The server is busy")
        nights.fake.fail_next(ACTION, status=403, body={"error": "Server is locked and cannot be modified"})
        nights.now("2026-11-25 08:00")
        await child.says("start of 2026-11-25 08:00 CET: 1 of 2 servers")
        await child.says("left alone: ")
        await nights.wall.is_looked_at()
    assert len(sent_of(nights.fake)) == 3


async def test_an_accepted_freeze_without_effect_is_sent_again(nights: Nights) -> None:
    """After its timeout; a server that is freezing is waited for."""
    slow, lost = fleet(nights.fake)
    nights.fake.durations["freeze"] = 600
    async with nights.started(patience=2.0) as child:
        nights.now("2026-11-24 19:00")
        await until(lambda: len(sent_of(nights.fake)) == 2)
        nights.fake.durations["freeze"] = 0.05
        nights.fake.set_status(lost, "running", "frozen")
        await nights.are("frozen", lost)
        await child.says(f"freeze failed for order {slow}")
        nights.fake.advance(600)
        await nights.are("frozen", slow, lost, report=EVENING)
    assert sorted(sent_of(nights.fake)) == [(slow, "frozen"), (lost, "frozen"), (lost, "frozen")]


async def test_a_server_started_by_hand_at_night_is_left_alone(nights: Nights) -> None:
    """Even if it was frozen again; one restarted while its freeze was retried is started as usual."""
    again, running, restarted = (nights.fake.add_order(title=f"job-{number}").order_id for number in range(3))
    async with nights.started() as child:
        with outage(nights.fake, ACTION):
            nights.now("2026-11-24 19:00")
            await until(lambda: refused(nights.fake) >= 3)
            nights.fake.set_status(restarted, "running")
        await nights.are("frozen", again, running, restarted, report=EVENING)
        for status in ("running", "frozen"):
            nights.fake.set_status(again, status)
        nights.fake.set_status(running, "running")
        nights.now("2026-11-25 08:00")
        await nights.are("running", restarted, report=MORNING)
        await child.says(f"left alone: order {again} (job-0) was started")
    assert status_of(nights.fake, again) == "frozen"
    assert [order for order, word in sent_of(nights.fake) if word == "running"] == [restarted]


PHASES = [
    pytest.param("2026-11-24 19:00", LIST, id="evening-list"),
    pytest.param("2026-11-24 19:00", ACTION, id="evening-action"),
    pytest.param("2026-11-25 08:00", LIST, id="morning-list"),
    pytest.param("2026-11-25 08:00", HISTORY, id="morning-history"),
    pytest.param("2026-11-25 08:00", ACTION, id="morning-action"),
]


async def finish(nights: Nights, ours: list[int], begun: str) -> None:
    """A second process finishes what the first one, killed at `begun`, has left, until the next day."""
    async with nights.started():
        if begun < "2026-11-25":
            nights.now("2026-11-24 19:10")
            await nights.are("frozen", *ours, report=EVENING)
        nights.now("2026-11-25 08:10")
        await nights.are("running", *ours, report=MORNING)
    assert sorted(sent_of(nights.fake)) == sorted((order, word) for order in ours for word in ("frozen", "running"))


@pytest.mark.parametrize(("due", "path"), PHASES)
async def test_killed_with_a_request_in_flight(nights: Nights, due: str, path: str) -> None:
    """The next process continues, and sends nothing twice."""
    ours = fleet(nights.fake)
    async with nights.started():
        if due > "2026-11-25":
            nights.now("2026-11-24 19:00")
            await nights.are("frozen", *ours, report=EVENING)
        with nights.fake.hold_next(path) as hold:
            nights.now(due)
            await hold.arrived()
    # killed here, as at the end of each such block
    await finish(nights, ours, due)


@pytest.mark.parametrize("phase", ["before", "between tries", "waiting", "asleep", "morning", "day"])
async def test_killed_between_requests(nights: Nights, phase: str) -> None:
    """Before the evening, between two attempts, while it waits until all are frozen or run, at night and by day."""
    ours = fleet(nights.fake)
    slow = {"waiting": "freeze", "morning": "thaw"}.get(phase)
    if slow is not None:
        nights.fake.durations[slow] = 600
    begun = "2026-11-24 18:59"
    async with nights.started(patience=2.0) as child:
        if phase != "before":
            begun = "2026-11-24 19:00"
            with outage(nights.fake, ACTION) if phase == "between tries" else nullcontext():
                nights.now(begun)
                if phase == "between tries":
                    await child.says("trying again")
                elif phase == "waiting":
                    await until(lambda: len(sent_of(nights.fake)) == 2)
                else:
                    await nights.are("frozen", *ours, report=EVENING)
                if phase in ("morning", "day"):
                    begun = "2026-11-25 08:00"
                    nights.now(begun)
                    await until(lambda: len(sent_of(nights.fake)) == 4)
                if phase == "day":
                    await nights.are("running", *ours, report=MORNING)
                await child.kill()
    if slow is not None:
        nights.fake.advance(600)
    await finish(nights, ours, begun)


async def test_a_missed_time_is_made_up_for_except_the_first(nights: Nights) -> None:
    """Down from 18:59 to 22:00, it freezes at 22:00. Started for the first time, or after weeks, it waits."""
    ours = fleet(nights.fake)
    nights.now("2026-11-24 20:00")
    async with nights.started() as child:
        await child.says("freeze of 2026-11-24 19:00 CET: nothing to do")
        await nights.wall.is_looked_at()
    nights.now("2026-11-25 18:59")
    async with nights.started():
        await nights.wall.is_looked_at()
    nights.now("2026-11-25 22:00")
    async with nights.started():
        await nights.are("frozen", *ours, report="2026-11-25-1900-freeze.report")
    nights.now("2026-11-27 07:30")  # it was down on a morning and an evening
    async with nights.started():
        nights.now("2026-11-27 08:00")
        await nights.are("running", *ours, report="2026-11-27-0800-start.report")
    nights.now("2026-12-24 23:00")
    async with nights.started():
        await nights.wall.is_looked_at()
    assert len(sent_of(nights.fake)) == 4


async def test_a_server_started_late_is_not_frozen_after_the_evening(nights: Nights) -> None:
    """An evening without running servers is finished, too: a server started at 21:00 runs on."""
    order = nights.fake.add_order(title="job-1", status="stopped").order_id
    async with nights.started() as child:
        nights.now("2026-11-24 19:00")
        await child.says("freeze of 2026-11-24 19:00 CET: nothing to do")
    nights.fake.set_status(order, "running")
    nights.now("2026-11-24 22:00")
    async with nights.started():
        await nights.are("running", order)
    assert sent_of(nights.fake) == []


async def test_a_second_copy_exits_but_another_title_does_not(nights: Nights) -> None:
    """In one folder each title has its own report, and both fleets are frozen."""
    ours = fleet(nights.fake)
    web = next(one for one in nights.fake._world.servers.values() if one.title == "web").order_id
    async with nights.started(), nights.started(title="web") as other:
        async with nights.started(says="ended: ") as second:
            assert await second.ends() == 1
        assert "is the report of a run that has not finished" in second.out
        assert second.out.count("\n") == 6  # the five servers that match, and why it ends
        nights.now("2026-11-24 19:00")
        await nights.are("frozen", *ours, web)
        await until(lambda: nights.report(EVENING, "web") is not None)
        async with nights.started(says="ended: ") as third:  # it is refused at any time
            assert await third.ends() == 1
        assert other.running
    assert sorted(sent_of(nights.fake)) == sorted((order, "frozen") for order in (*ours, web))


@pytest.mark.parametrize(
    ("evening", "night", "early", "morning", "name"),
    [
        ("2026-03-28 19:00", "2026-03-29 01:59", "2026-03-29 07:59", "2026-03-29 08:00", "CEST"),
        ("2026-10-24 19:00", "2026-10-25 02:30", "2026-10-25 07:59", "2026-10-25 08:00", "CET"),
    ],
    ids=["spring", "autumn"],
)
async def test_a_night_in_which_the_clocks_change(
    nights: Nights, evening: str, night: str, early: str, morning: str, name: str
) -> None:
    """The morning comes at 08:00 by the wall clock, after a night of 12 or of 14 hours."""
    ours = fleet(nights.fake)
    nights.now(evening.replace("19:00", "18:59"))
    async with nights.started() as child:
        nights.now(evening)
        await nights.are("frozen", *ours)
        await child.says(f"next: start at {morning} {name}")
        for now in (night, early):
            nights.now(now)
            await nights.are("frozen", *ours)
        nights.now(morning)
        await nights.are("running", *ours)
    assert len(sent_of(nights.fake)) == 4


async def test_a_refused_key_or_an_unknown_title_is_reported_at_the_start(nights: Nights) -> None:
    """A refused key ends it with a sentence; a title that no server has is reported."""
    fleet(nights.fake)
    async with nights.started(title="jobs-*") as child:
        assert "no server has the title jobs-*" in child.out
    env = {**nights.env, "TROOPER_API_KEY": "wrong"}
    options = ("-c", PROGRAM, "--title", "job-*", "--timezone", "UTC")
    async with processes.python(*options, cwd=nights.folder, env=env) as child:
        assert await child.ends() == 1
    assert "Check the API key" in child.out
    assert (child.out.count("\n"), child.err) == (1, "")


async def test_it_can_start_during_an_outage(nights: Nights) -> None:
    """A machine that boots while the API is down has its fleet frozen nevertheless."""
    ours = fleet(nights.fake)
    with outage(nights.fake, LIST):
        async with nights.started() as child:
            assert "cannot be read yet" in child.out
            nights.now("2026-11-24 19:00")
            await child.says("next: start")
            nights.fake._pending_faults[LIST].clear()
            await nights.are("frozen", *ours, report=EVENING)


async def test_a_dry_run_lists_the_servers_and_sends_nothing(nights: Nights) -> None:
    """Each server with what would be done to it."""
    fleet(nights.fake)
    async with nights.started("--dry-run", says="job-5") as child:
        assert await child.ends() == 0
    for text in (
        *("(Job-1, running) matches, and would be frozen", "(job-3, running) matches, and is locked: it is left alone"),
        "(job-4, frozen) matches, and does not run",
    ):
        assert text in child.out
    assert child.out.count("\n") == 5
    assert not (nights.folder / "nightly").exists()
    assert {request.path for request in nights.fake.requests} == {LIST}


@pytest.mark.parametrize(
    "wrong", [["--freeze", "8:00:00:00"], ["--freeze", "08:00"], ["--timezone", "Mars/Base"]], ids=str
)
async def test_invalid_options_are_refused(nights: Nights, wrong: list[str]) -> None:
    """With a sentence, before anything is sent."""
    async with nights.started(*wrong, says="error: ") as child:
        assert await child.ends() == 2
    assert "Traceback" not in child.err
    assert nights.fake.requests == []


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
async def test_lines_are_written_at_once_and_before_sigterm(nights: Nights, encoding: str) -> None:
    """With `> log`, whatever characters a title has."""
    order = nights.fake.add_order(title="job-\N{ROCKET} \N{EURO SIGN}").order_id
    redirect = (
        "import os, sys; os.dup2(os.open('log', os.O_WRONLY | os.O_CREAT), 1); os.execv(sys.argv[1], sys.argv[1:])"
    )
    options = ("-W", "error", "-c", PROGRAM, "--title", "job-*", "--timezone", "Europe/Berlin")
    env = {**nights.env, "PYTHONIOENCODING": encoding}

    def log() -> str:
        path = nights.folder / "log"
        return path.read_text(encoding) if path.exists() else ""

    async with processes.python("-c", redirect, sys.executable, *options, cwd=nights.folder, env=env) as child:
        await until(lambda: "next: " in log())
        nights.now("2026-11-24 19:00")
        await until(lambda: "1 of 1 servers" in log())
        child.send(signal.SIGTERM)
        assert await child.ends() == -signal.SIGTERM
    assert status_of(nights.fake, order) == "frozen"
    assert "next: start" in log()
    assert (child.out, child.err) == ("", "")


async def test_it_runs_as_a_user_runs_it(nights: Nights) -> None:
    """The unchanged program: it prints what is next, by the wall clock of the zone, and ends quietly on Ctrl-C."""
    tokyo = ZoneInfo("Asia/Tokyo")
    options = ("--title", "job-*", "--timezone", "Asia/Tokyo", "--start", "07:30")
    async with processes.python(SCRIPT, *options, cwd=nights.folder, env=nights.env) as child:
        await child.says("nothing to do")
        child.send(signal.SIGINT)
        assert (await child.ends(), child.err) == (130, "")
    _, following = around(datetime.now(UTC), {"freeze": time(19), "start": time(7, 30)}, tokyo)
    assert f"next: {following.action} at {following.at.astimezone(tokyo):%Y-%m-%d %H:%M} JST\n" in child.out
