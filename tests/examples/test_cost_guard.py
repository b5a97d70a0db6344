"""examples/cost_guard.py, as a process on a clock that the test sets."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.helpers import processes
from tests.helpers.conditions import until
from tests.helpers.fake_orders import outage, sent_of, status_of
from tests.helpers.processes import Child
from tests.helpers.wall import Wall
from trooper_async import Order
from trooper_async.testing import FakeTrooper, Hold, Profile

SCRIPT = Path(__file__).parents[2] / "examples" / "cost_guard.py"
LIST, HISTORY, ACTION = "/api/orders", "/api/order-status-history", "/api/order-status"

# the program, with a clock that the test sets and short pauses
PROGRAM = """
import sys
from functools import partial
from pathlib import Path
from examples import cost_guard
from tests.helpers.wall import Wall
from trooper_async import RetryPolicy, TrooperClient

cost_guard.CostGuard = partial(cost_guard.CostGuard, clock=Wall(Path("wall")), every=0.01)
cost_guard.TrooperClient = partial(TrooperClient, retry=RetryPolicy(attempts=2, max_delay=0.02))
raise SystemExit(cost_guard.main())
"""


class Days:
    """The program as processes that share a clock, which is the fake's."""

    def __init__(self, fake: FakeTrooper, folder: Path) -> None:
        self.fake, self.folder, self.wall = fake, folder, Wall(folder / "wall")
        self._ahead = timedelta()
        self.passes(hours=0)

    def passes(self, *, hours: float = 0, minutes: float = 0) -> None:
        """Put the clock forward. It stands still until then."""
        more = timedelta(hours=hours, minutes=minutes)
        self._ahead += more
        self.fake.advance(more.total_seconds())
        self.wall.set(datetime.now(UTC) + self._ahead)

    @property
    def env(self) -> dict[str, str]:
        live = {"TROOPER_BASE_URL": self.fake.url, "TROOPER_API_KEY": self.fake.api_key}
        return {"PYTHONPATH": str(SCRIPT.parent.parent), **live}

    @asynccontextmanager
    async def guarded(self, *options: str, says: str = "watching ") -> AsyncIterator[Child]:
        """The program, once it prints so. It is killed (SIGKILL) at the end of the block."""
        async with processes.python("-c", PROGRAM, *options, cwd=self.folder, env=self.env) as child:
            await child.says(says)
            yield child

    def restarted(self, order: Order) -> None:
        """Start and stop a stopped server, within two minutes."""
        for status in ("running", "stopped"):
            self.fake.set_status(order, status)
            self.passes(minutes=1)

    async def looks(self) -> None:
        """Wait until the guard has read all orders in their current state."""
        lists = len(self.fake.sent(LIST))
        await until(lambda: len(self.fake.sent(LIST)) >= lists + 3)

    async def is_frozen(self, order: Order) -> None:
        await until(lambda: status_of(self.fake, order) == "frozen")


@pytest.fixture
def days(fake_trooper: FakeTrooper, tmp_path: Path) -> Days:
    return Days(fake_trooper, tmp_path)


STOPPED = ("--stopped-hours", "2", "--act")
"""What the fake adds has had its status for an hour."""


async def test_a_server_stopped_for_too_long_is_frozen(days: Days) -> None:
    """Stopped for more than two hours: frozen, once. Running, locked, or with another title: left alone."""
    idle = days.fake.add_order(status="stopped", title="job 1")
    others = [
        days.fake.add_order(status="running", title="job 2"),
        days.fake.add_order(status="stopped", title="job 3", is_locked=True),
        days.fake.add_order(status="stopped", title="web"),
    ]
    async with days.guarded(*STOPPED, "--title", "job *") as child:
        days.passes(minutes=55)
        await days.looks()
        assert sent_of(days.fake) == []
        days.passes(minutes=10)
        await days.is_frozen(idle)
        await days.looks()
        assert (
            f"order {idle.order_id} (job 1, stopped, 0.2975 EUR/h): stopped for more than 2 h: freezing it" in child.out
        )
        assert child.out.count("it is locked, so it stays") == 1
    assert sent_of(days.fake) == [(idle.order_id, "frozen")]
    assert [status_of(days.fake, order) for order in others] == ["running", "stopped", "stopped"]
    assert child.err == ""


async def test_nothing_is_sent_without_act(days: Days) -> None:
    """It prints once what it would do, and once more after the server was started and stopped again."""
    order = days.fake.add_order(status="stopped")
    async with days.guarded("--stopped-hours", "0.5") as child:
        await child.says("--act would freeze it")
        days.fake.set_status(order, "running")
        await days.looks()
        days.passes(minutes=1)
        days.fake.set_status(order, "stopped")
        await days.looks()
        assert child.out.count("--act would freeze it") == 1
        days.passes(hours=1)
        await until(lambda: child.out.count("--act would freeze it") == 2)
        await days.looks()
    assert child.out.count("--act would freeze it") == 2
    assert sent_of(days.fake) == []


async def test_a_server_running_for_too_long_is_frozen_only_on_request(days: Days) -> None:
    """`--running-hours` does not apply to stopped servers; a restart does not reset the hours."""
    job, stopped = days.fake.add_order(status="running"), days.fake.add_order(status="stopped")
    async with days.guarded("--running-hours", "2", "--act"):
        days.fake.set_status(job, "restarting", "restarted")
        days.fake.set_status(job, "running", "restarted")
        days.passes(hours=1.5)
        await days.is_frozen(job)
        await days.looks()
    assert status_of(days.fake, stopped) == "stopped"


@pytest.mark.parametrize("how", ["between two looks", "during an outage"])
async def test_earlier_hours_of_a_restarted_server_do_not_count(days: Days, how: str) -> None:
    """The history is read right before a server is frozen."""
    order = days.fake.add_order(status="stopped")
    async with days.guarded(*STOPPED) as child:
        await until(lambda: days.fake.sent(HISTORY))
        with outage(days.fake, LIST) if how == "during an outage" else days.fake.hold_next(LIST) as hold:
            if isinstance(hold, Hold):
                await hold.arrived()
            else:
                await child.says("the orders cannot be read")
            days.passes(minutes=55)
            days.restarted(order)
            days.passes(minutes=10)
        await days.looks()
        assert sent_of(days.fake) == []
        days.passes(hours=2)
        await days.is_frozen(order)


@pytest.mark.parametrize("change", ["started", "locked", "frozen"])
async def test_a_server_changed_just_now_is_not_frozen(days: Days, change: str) -> None:
    """Neither one that was started or locked between the list and the freeze, nor one that was frozen."""
    order = days.fake.add_order(status="stopped")
    with days.fake.hold_next(HISTORY) as hold:
        async with days.guarded("--stopped-hours", "0.5", "--act"):
            await hold.arrived()
            if change == "locked":
                days.fake._world.servers[order.order_id].is_locked = True
            else:
                days.fake.set_status(order, "stopped", "running" if change == "started" else "frozen")
            hold.release()
            await days.looks()
            assert days.fake.sent(ACTION) == []
            if change == "started":  # and is still stopped much later
                days.passes(minutes=20)
                await days.is_frozen(order)


async def test_an_inconclusive_history_freezes_nothing(days: Days) -> None:
    """If it lags, has no times, or cannot be read, nothing is frozen, and it says so."""
    rows = [
        [{"status_user": "running", "status_since": "2025-09-25T10:30:00.000Z"}],
        [{"status_user": "stopped"}],
        [],
    ]
    for history in rows:
        days.fake.fail_next(HISTORY, status=200, body={"success": True, "history": history})
    order = days.fake.add_order(status="stopped")
    with outage(days.fake, HISTORY):
        async with days.guarded("--stopped-hours", "0.5", "--act") as child:
            await child.says("a 503 of fail_next")
            await days.looks()
            assert sent_of(days.fake) == []
            days.fake._pending_faults[HISTORY].clear()
            days.fake.fail_next(HISTORY, status=200, body={"success": True, "history": []}, times=100_000)
            await days.looks()
            days.passes(minutes=20)
            await child.says("its history does not say since when: not frozen")
            days.fake._pending_faults[HISTORY].clear()
            await days.is_frozen(order)


@pytest.mark.parametrize("minutes", [5 / 60, 5, 180], ids=["5 s", "5 min", "3 h"])
async def test_an_outage_is_reported_when_it_begins_and_ends(days: Days, minutes: float) -> None:
    """Once each, however long it lasts; what became due meanwhile is frozen then."""
    order = days.fake.add_order(status="stopped")
    days.passes(hours=0.999)
    async with days.guarded(*STOPPED) as child:
        with outage(days.fake, LIST):
            await child.says("the orders cannot be read, so nothing is watched or frozen")
            before = len(days.fake.requests)
            days.passes(minutes=minutes)
            await until(lambda: len(days.fake.requests) > before + 5)
            assert sent_of(days.fake) == []
        await child.says("the orders can be read again, after ")
        await days.is_frozen(order)
    assert child.out.count("cannot be read") == 1


async def test_it_can_start_during_an_outage(days: Days) -> None:
    """A machine that boots while the API is down is guarded nevertheless."""
    order = days.fake.add_order(status="stopped")
    with outage(days.fake, LIST):
        async with days.guarded("--stopped-hours", "0.5", "--act", says="cannot be read yet"):
            days.fake._pending_faults[LIST].clear()
            await days.is_frozen(order)


async def test_a_failed_freeze_is_reported_and_retried(days: Days) -> None:
    """A refusal does not end the guard."""
    order = days.fake.add_order(status="stopped")
    days.fake.fail_next(ACTION, status=400, body={"error": "not now"})
    async with days.guarded("--stopped-hours", "0.5", "--act") as child:
        await child.says("not now")
        await days.is_frozen(order)


async def test_a_freeze_without_effect_is_sent_again_only_after_15_minutes(tmp_path: Path) -> None:
    """An accepted freeze is not repeated for a quarter of an hour, while the list still shows the old state."""
    with FakeTrooper(profile=Profile(read_lag=60.0)) as fake:
        days = Days(fake, tmp_path)
        order = fake.add_order(status="stopped")
        days.passes(minutes=2)
        async with days.guarded("--stopped-hours", "0.5", "--act"):
            await until(lambda: len(sent_of(fake)) == 1)
            await days.looks()
            assert len(sent_of(fake)) == 1
            fake.set_status(order, "stopped")
            del fake._world.servers[order.order_id].changes[1:]  # as if nothing had been sent
            days.passes(minutes=16)
            await until(lambda: len(sent_of(fake)) == 2)


async def test_a_killed_guard_forgets_nothing(days: Days) -> None:
    """Killed at any moment: the hours are those of the history, and a freeze that was sent is not sent again."""
    first, second = days.fake.add_order(status="stopped"), days.fake.add_order(status="stopped")
    async with days.guarded(*STOPPED):
        await until(lambda: len(days.fake.sent(HISTORY)) == 2)
        days.passes(minutes=55)
        await days.looks()
    days.passes(minutes=10)
    for path in (LIST, HISTORY, ACTION):
        with days.fake.hold_next(path) as hold:
            async with processes.python("-c", PROGRAM, *STOPPED, cwd=days.folder, env=days.env):
                await hold.arrived()
    async with days.guarded(*STOPPED):
        await days.is_frozen(first)
        await days.is_frozen(second)
    assert sorted(sent_of(days.fake)) == [(first.order_id, "frozen"), (second.order_id, "frozen")]


async def test_two_copies_do_no_harm(days: Days) -> None:
    """Each freezes what is due; a freeze that both send has the effect of one."""
    order = days.fake.add_order(status="stopped")
    kept = days.fake.add_order(status="stopped", is_locked=True)
    async with days.guarded(*STOPPED), days.guarded(*STOPPED):
        days.passes(hours=2)
        await days.is_frozen(order)
        await days.looks()
    assert set(sent_of(days.fake)) == {(order.order_id, "frozen")}
    assert len(sent_of(days.fake)) <= 2
    assert status_of(days.fake, kept) == "stopped"


async def test_the_end_of_a_paid_period_is_reported_once(days: Days) -> None:
    """Within the minutes before it, and again for the next period; not for frozen servers, nor earlier."""
    soon = datetime.now(UTC) + timedelta(minutes=5)
    paid = days.fake.add_order(paid_until=soon)
    days.fake.add_order(paid_until=soon, status="frozen")
    days.fake.add_order(paid_until=soon + timedelta(hours=4))
    async with days.guarded(says=f"paid until {soon:%H:%M}, then renewed or frozen") as child:
        await days.looks()
        assert child.out.count("paid until") == 1
        assert f"order {paid.order_id} " in child.out
        days.fake._world.servers[paid.order_id].paid_until += timedelta(hours=1)
        days.passes(hours=1)
        await until(lambda: child.out.count("paid until") == 2)
        await days.looks()
    assert child.out.count("paid until") == 2


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf", "1e9", "x"])
@pytest.mark.parametrize("option", ["--stopped-hours", "--running-hours"])
async def test_an_invalid_limit_is_refused(days: Days, option: str, limit: str) -> None:
    """Before anything is sent: otherwise every running server would be frozen at once."""
    async with processes.python(SCRIPT, f"{option}={limit}", "--act", env=days.env) as child:
        assert await child.ends() == 2
    assert option in child.err
    assert "Traceback" not in child.err
    assert days.fake.requests == []


async def test_act_needs_a_limit(days: Days) -> None:
    """Without one, nothing would ever be frozen."""
    async with processes.python(SCRIPT, "--act", env=days.env) as child:
        assert await child.ends() == 2
    assert "--act needs --stopped-hours or --running-hours" in child.err


async def test_a_refused_key_ends_it(days: Days) -> None:
    """It exits with 1 at the start, and says what to do."""
    env = {**days.env, "TROOPER_API_KEY": "wrong"}
    async with processes.python(SCRIPT, *STOPPED, env=env) as child:
        assert await child.ends() == 1
    assert "Check the API key" in child.out
    assert (child.out.count("\n"), child.err) == (1, "")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
async def test_lines_are_written_at_once_and_before_sigterm(days: Days, encoding: str) -> None:
    """With `> log`, whatever characters a title has."""
    order = days.fake.add_order(title="\N{ROCKET} \N{EURO SIGN}", status="stopped")
    redirect = "import os, sys; os.dup2(os.open('log', os.O_RDWR | os.O_CREAT), 1); os.execv(sys.argv[1], sys.argv[1:])"
    options = ("-W", "error", "-c", PROGRAM, "--stopped-hours", "0.5", "--act")
    env = {**days.env, "PYTHONIOENCODING": encoding}

    def log() -> str:
        path = days.folder / "log"
        return path.read_text(encoding) if path.exists() else ""

    async with processes.python("-c", redirect, sys.executable, *options, cwd=days.folder, env=env) as child:
        await until(lambda: "freezing it" in log())
        await days.is_frozen(order)
        child.send(signal.SIGTERM)
        assert await child.ends() == -signal.SIGTERM
    assert f"order {order.order_id} (\\U0001f680 " in log()
    assert (child.out, child.err) == ("", "")


async def test_it_runs_as_a_user_runs_it(days: Days) -> None:
    """The unchanged program, until Ctrl-C, which ends it with 130 and without a traceback."""
    order = days.fake.add_order(status="stopped")
    async with processes.python(SCRIPT, "--stopped-hours", "0.5", env=days.env) as child:
        await child.says(f"order {order.order_id} ")
        await child.says("stopped for more than 0.5 h: --act would freeze it")
        child.send(signal.SIGINT)
        assert (await child.ends(), child.err) == (130, "")
