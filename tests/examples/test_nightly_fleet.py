"""examples/nightly_fleet.py: its schedule as a pure function, nights on the fixtures, and a process that is killed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from examples.nightly_fleet import Due, Nightly, around
from tests.helpers import processes
from tests.helpers.conditions import until
from tests.helpers.fake_orders import order_of
from trooper_async import FleetReport, Order, TrooperClient
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
def test_what_was_due_last_and_what_is_due_next(now: str, last: str, following: str) -> None:
    """By the wall clock, over midnight, the turn of the year, and both changes of the clocks."""

    def due(text: str) -> Due:
        action, _, at = text.partition(" ")
        return Due(berlin(at), action)

    assert around(berlin(now), TIMES, BERLIN) == (due(last), due(following))


def test_a_time_that_the_clocks_skip_comes_an_hour_later() -> None:
    """02:30 is not there on 2026-03-29: it is 03:30 of the new time."""
    times = {"start": time(2, 30)}
    _, due = around(berlin("2026-03-29 01:00"), times, BERLIN)
    assert due.at == berlin("2026-03-29 03:30")
    assert around(due.at, times, BERLIN)[1].at == berlin("2026-03-30 02:30")


def test_a_time_that_comes_twice_counts_once() -> None:
    """02:30 comes twice on 2026-10-25: the first one is meant, and in the second one the next is tomorrow's."""
    times = {"start": time(2, 30)}
    _, due = around(berlin("2026-10-25 01:00"), times, BERLIN)
    assert due.at == berlin("2026-10-25 02:30")
    last, following = around(berlin("2026-10-25 02:30", fold=1), times, BERLIN)
    assert (last, following.at) == (due, berlin("2026-10-26 02:30"))


@pytest.mark.parametrize(
    "zone", ["America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca", "UTC"]
)
def test_every_local_day_has_each_time_once(zone: str) -> None:
    """For three years, wherever the clocks change, by whatever, at whichever hour."""
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


class Clock:
    """A wall clock that stands until it is set, and tells when it was looked at."""

    def __init__(self, text: str) -> None:
        self.now = berlin(text)
        self._looks = 0

    def __call__(self) -> datetime:
        self._looks += 1
        return self.now

    async def is_looked_at(self) -> None:
        """Wait until the nights have looked at this time, done what they do about it, and looked again."""
        looks = self._looks
        await until(lambda: self._looks >= looks + 3)


@asynccontextmanager
async def nights(client: TrooperClient, folder: Path, clock: Clock) -> AsyncIterator[None]:
    task = asyncio.create_task(Nightly(client, TIMES, BERLIN, "job-*", folder, clock).run(every=0.01))
    try:
        await clock.is_looked_at()
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def stored(path: Path, pending: int = 0) -> FleetReport:
    """The report on the disk, once so many of its orders have still to end."""
    await until(lambda: path.exists() and len(FleetReport.from_json(path.read_text()).pending) == pending)
    return FleetReport.from_json(path.read_text())


def sent(fake: FakeTrooper) -> list[tuple[int, str]]:
    bodies = [request.json for request in fake.requests if request.path == "/api/order-status"]
    return [(order_of(fake, body["serverId"]), body["action"]) for body in bodies]


async def test_what_is_frozen_in_the_evening_is_started_in_the_morning_and_nothing_else(
    trooper: TrooperClient, fake_trooper: FakeTrooper, tmp_path: Path
) -> None:
    """Not what has another title, is locked, was frozen by hand, or is not due yet."""
    first, second = (fake_trooper.add_order(title=f"Job-{n}").order_id for n in (1, 2))
    fake_trooper.add_order(title="web")
    fake_trooper.add_order(title="job-3", is_locked=True)
    fake_trooper.add_order(title="job-4", status="frozen")
    clock = Clock("2026-11-24 18:59")
    async with nights(trooper, tmp_path / "nightly", clock):
        assert fake_trooper.requests == []
        clock.now = berlin("2026-11-24 19:00")
        evening = await stored(tmp_path / "nightly" / "2026-11-24-freeze.json")
        clock.now = berlin("2026-11-25 08:03")
        morning = await stored(tmp_path / "nightly" / "2026-11-25-start.json")
    assert [len(report.succeeded) for report in (evening, morning)] == [2, 2]
    both = sorted([first, second])
    assert sorted(sent(fake_trooper)[:2]) == [(order_id, "frozen") for order_id in both]
    assert sorted(sent(fake_trooper)[2:]) == [(order_id, "running") for order_id in both]
    assert sorted(path.name for path in (tmp_path / "nightly").iterdir()) == [
        "2026-11-24-freeze.json",
        "2026-11-25-start.json",
    ]


async def test_what_was_missed_is_not_made_up_for(
    trooper: TrooperClient, fake_trooper: FakeTrooper, tmp_path: Path
) -> None:
    """Begun at noon, it neither starts nor freezes anything; nor does it when its clock is set back over a time."""
    fake_trooper.add_order(title="job-1")
    clock = Clock("2026-11-24 12:00")
    async with nights(trooper, tmp_path, clock):
        clock.now = berlin("2026-11-24 07:00")
        await clock.is_looked_at()
    assert fake_trooper.requests == []


async def test_an_account_that_cannot_be_read_is_tried_again(
    trooper: TrooperClient, fake_trooper: FakeTrooper, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The evening is not given up for one failure; that of a single server is told, and ends nothing."""
    fine, locked = (fake_trooper.add_order(title=f"job-{n}") for n in (1, 2))
    fake_trooper.fail_next("/api/orders", status=400)
    clock = Clock("2026-11-24 18:59")
    async with nights(trooper, tmp_path, clock):
        fake_trooper.fail_next("/api/order-status", status=400, body={"error": "not this one"})
        clock.now = berlin("2026-11-24 19:00")
        report = await stored(tmp_path / "2026-11-24-freeze.json")
        await clock.is_looked_at()
    assert len(report.succeeded) == len(report.failed) == 1
    assert {outcome.order_id for outcome in report.outcomes} == {fine.order_id, locked.order_id}
    out, _ = capsys.readouterr()
    assert "It is tried again" in out
    assert "freeze: 1 of 2" in out
    assert "not this one" in out


WORKER = """
import asyncio, sys
from datetime import datetime, time, UTC
from pathlib import Path
from zoneinfo import ZoneInfo
from examples.nightly_fleet import Nightly
from trooper_async import PollSchedule, TrooperClient

async def main(now):
    async with TrooperClient(poll=PollSchedule(floor=0.02, cap=0.1)) as client:
        times = {"freeze": time(19), "start": time(8)}
        clock = lambda: datetime.fromisoformat(now.pop(0) if len(now) > 1 else now[0])
        await Nightly(client, times, ZoneInfo("UTC"), "job-*", Path("nightly"), clock).run(0.01)

asyncio.run(main(sys.argv[1:]))
"""


@asynccontextmanager
async def process(fake: FakeTrooper, folder: Path, *now: str) -> AsyncIterator[None]:
    """The nights in a process of their own, by a clock that shows these times; it is killed at the end."""
    live = {"TROOPER_BASE_URL": fake.url, "TROOPER_API_KEY": fake.api_key}
    importable = {"PYTHONPATH": str(SCRIPT.parent.parent)}
    async with processes.python("-c", WORKER, *now, cwd=folder, env={**importable, **live}) as child:
        yield
        assert child.running


async def test_a_killed_run_is_gone_on_with_and_sends_nothing_again(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """Killed once when eight of twenty are on the wire, and once when all wait: each order is sent once."""
    orders: list[Order] = [fake_trooper.add_order(title=f"job-{n}") for n in range(20)]
    fake_trooper.durations["freeze"] = 600
    report = tmp_path / "nightly" / "2026-11-24-freeze.json"
    fake_trooper.delay_next("/api/order-status", 60, times=8)
    async with process(fake_trooper, tmp_path, "2026-11-24T18:59Z", "2026-11-24T19:00Z"):
        await until(lambda: len(sent(fake_trooper)) >= 8)
    assert len((await stored(report, pending=20)).outcomes) == 20
    async with process(fake_trooper, tmp_path, "2026-11-24T19:10Z"):
        await until(lambda: len(sent(fake_trooper)) >= 20)
        fake_trooper.set_status(orders[0], "frozen")
        await stored(report, pending=19)
    for order in orders:
        fake_trooper.set_status(order, "frozen")
    async with process(fake_trooper, tmp_path, "2026-11-24T23:00Z"):
        assert len((await stored(report)).succeeded) == 20
    assert sorted(sent(fake_trooper)) == [(order.order_id, "frozen") for order in orders]


async def test_a_killed_run_is_left_alone_once_the_other_time_has_come(
    fake_trooper: FakeTrooper, trooper: TrooperClient, tmp_path: Path
) -> None:
    """Nothing is frozen in the daytime because the evening was cut short."""
    fake_trooper.durations["freeze"] = 600
    orders = [fake_trooper.add_order(title=f"job-{n}") for n in range(2)]
    holds = [fake_trooper.hold_next("/api/order-status") for _ in orders]
    report = tmp_path / "2026-11-24-freeze.json"
    clock = Clock("2026-11-24 18:59")
    async with nights(trooper, tmp_path, clock):
        clock.now = berlin("2026-11-24 19:00")
        for hold in holds:
            await hold.arrived()
        await stored(report, pending=2)
    before = len(sent(fake_trooper))
    for order in orders:
        fake_trooper.set_status(order, "running")
    async with nights(trooper, tmp_path, Clock("2026-11-25 10:00")):
        pass  # it looks at the clock, and that is all
    assert len(sent(fake_trooper)) == before


async def test_run_as_a_user_runs_it(tmp_path: Path) -> None:
    """It says what is next, by the wall clock of the zone, and leaves quietly on Ctrl-C."""
    options = ("--title", "job-*", "--timezone", "Asia/Tokyo", "--start", "07:30")
    async with processes.python(SCRIPT, *options, cwd=tmp_path, env={"TROOPER_API_KEY": "never-used"}) as child:
        line = await child.says("\n")
        child.send(signal.SIGINT)
        assert (await child.ends(), child.out, child.err) == (0, line, "")
    _, following = around(datetime.now(UTC), {"freeze": time(19), "start": time(7, 30)}, ZoneInfo("Asia/Tokyo"))
    assert line == f"next: {following.action} at {following.at.astimezone(ZoneInfo('Asia/Tokyo')):%Y-%m-%d %H:%M} JST\n"
    assert not list(tmp_path.iterdir())
