"""examples/cost_guard.py: the guard on the fixtures, and run as a user runs it."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from examples import cost_guard
from examples.cost_guard import CostGuard
from tests.helpers import processes
from tests.helpers.conditions import LIMIT, until
from tests.helpers.fake_orders import order_of
from trooper_async import TrooperClient
from trooper_async.testing import FakeTrooper, Profile


class Said(list[str]):
    """What the guard has said."""

    def __init__(self) -> None:
        super().__init__()
        self._more = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.append(line)
        self._more.set()

    async def until(self, text: str, *, times: int = 1) -> str:
        """Wait until so many lines with this text were said; the last of them."""
        async with asyncio.timeout(LIMIT):
            while len(lines := [line for line in self if text in line]) < times:
                self._more.clear()
                await self._more.wait()
        return lines[-1]


@asynccontextmanager
async def guarding(guard: CostGuard) -> AsyncIterator[Said]:
    """The guard at work, looking at the clock all the time."""
    said = Said()
    guard.say = said
    task = asyncio.create_task(guard.run(0.02))
    try:
        yield said
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def sent(fake: FakeTrooper) -> list[tuple[int, str]]:
    """What was asked for, of which server."""
    bodies = [request.json for request in fake.requests if request.path == "/api/order-status"]
    return [(order_of(fake, body["serverId"]), body["action"]) for body in bodies]


async def looks(fake: FakeTrooper, said: Said) -> None:
    """Wait until the guard has surely looked at all orders: it speaks of one that is over its time from the start."""
    witness = fake.add_order(status="stopped", title="job witness", is_locked=True)
    await said.until(f"order {witness.order_id} ")


async def test_what_is_stopped_for_too_long_is_frozen_and_nothing_else_is(
    trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """Stopped for an hour, by the history: frozen, once. Running, locked, or of another title: left alone."""
    idle = fake_trooper.add_order(status="stopped", title="job 1")
    running = fake_trooper.add_order(status="running", title="job 2")
    locked = fake_trooper.add_order(status="stopped", title="job 3", is_locked=True)
    other = fake_trooper.add_order(status="stopped", title="web")
    async with guarding(CostGuard(trooper, {"stopped": 0.9}, "job *", act=True)) as said:
        line = await said.until("freezing it")
        assert line.startswith(f"order {idle.order_id} (job 1, stopped, 0.85 EUR/h): for 1.0 h")
        await said.until("locked, so it stays")
        await trooper.orders.wait_until(idle, "frozen")
        await looks(fake_trooper, said)
    assert sent(fake_trooper) == [(idle.order_id, "frozen")]
    statuses = {order.order_id: order.current_status for order in await trooper.orders.list()}
    assert [statuses[order.order_id] for order in (running, locked, other)] == ["running", "stopped", "stopped"]
    assert len(said) == len(set(said))


async def test_a_freeze_is_sent_once_however_late_it_shows() -> None:
    """What was accepted is not sent again while the list still shows the old state."""
    async with FakeTrooper(profile=Profile(read_lag=0.5)) as fake, fake.client() as client:
        order = fake.add_order(status="stopped")
        async with guarding(CostGuard(client, {"stopped": 0.9}, act=True)) as said:
            await said.until("freezing it")
            await client.orders.wait_until(order, "frozen")
        assert len(sent(fake)) == 1


async def test_nothing_is_sent_without_act(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """A dry run says once what it would do."""
    fake_trooper.add_order(status="stopped")
    async with guarding(CostGuard(trooper, {"stopped": 0.9})) as said:
        await said.until("--act would freeze it")
        await looks(fake_trooper, said)
    assert sum("would freeze" in line for line in said) == 1
    assert sent(fake_trooper) == []


async def test_what_runs_for_too_long_is_frozen_only_where_that_is_asked_for(
    trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """`running` has a limit of its own."""
    job = fake_trooper.add_order(status="running")
    async with guarding(CostGuard(trooper, {"stopped": None, "running": 0.9}, act=True)) as said:
        await said.until("freezing it")
        await trooper.orders.wait_until(job, "frozen")


@pytest.mark.parametrize("change", ["started", "locked"])
async def test_what_was_started_or_locked_a_moment_ago_is_not_frozen(
    change: str, trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """The state is read again right before: what the watch has seen may be some seconds old."""
    order = fake_trooper.add_order(status="stopped")
    guard = CostGuard(trooper, {"stopped": 0.9}, act=True)
    if change == "started":
        fake_trooper.set_status(order, "stopped", "running")
    else:
        await trooper.orders.lock(order)
    guard._seen[order.order_id] = order, datetime.now(UTC) - timedelta(hours=2)
    await guard._check(*guard._seen[order.order_id])
    assert sent(fake_trooper) == []


async def test_hours_begin_anew_when_the_status_changes(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """A server that was just stopped is not frozen for the hours it ran."""
    order = fake_trooper.add_order(status="running")
    async with guarding(CostGuard(trooper, {"stopped": 0.9, "running": 2}, act=True)) as said:
        await looks(fake_trooper, said)
        fake_trooper.set_status(order, "stopped")
        changed = fake_trooper.add_order(status="stopped", is_locked=True)
        await said.until(f"order {changed.order_id} ")
    assert sent(fake_trooper) == []


async def test_a_history_that_is_behind_freezes_nothing(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """Its newest row is of another status, or it can't be read: the hours are counted from now on."""
    behind = [{"status_user": "running", "status_since": "2025-09-25T10:30:00.000Z"}]
    older = [{"status_user": "stopped", "status_since": "2025-09-24T10:30:00.000Z"}]
    fake_trooper.fail_next("/api/order-status-history", status=200, body={"success": True, "history": behind + older})
    fake_trooper.fail_next("/api/order-status-history", status=403)
    for _ in range(2):
        fake_trooper.add_order(status="stopped")
    async with guarding(CostGuard(trooper, {"stopped": 0.9}, act=True)) as said:
        await looks(fake_trooper, said)
    assert sent(fake_trooper) == []


async def test_the_end_of_a_paid_period_is_said_once_and_again_for_the_next(
    trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """Within the minutes before it, and not for what is frozen, or far away."""
    soon = datetime.now(UTC) + timedelta(minutes=5)
    paid = fake_trooper.add_order(paid_until=soon)
    fake_trooper.add_order(paid_until=soon, status="frozen")
    fake_trooper.add_order(paid_until=soon + timedelta(hours=1))
    async with guarding(CostGuard(trooper, {"stopped": 0.9})) as said:
        await said.until("paid until")
        await looks(fake_trooper, said)
        fake_trooper.remove_order(paid)
        fake_trooper.add_order(order_id=paid.order_id + 100, paid_until=soon + timedelta(minutes=1))
        await said.until("paid until", times=2)
    lines = [line for line in said if "paid until" in line]
    assert [line.split()[1] for line in lines] == [str(paid.order_id), str(paid.order_id + 100)]
    assert f"paid until {soon.astimezone():%H:%M}" in lines[0]


async def test_a_freeze_that_fails_is_said_and_tried_again(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """A refusal does not end the guard."""
    order = fake_trooper.add_order(status="stopped")
    fake_trooper.fail_next("/api/order-status", status=400, body={"error": "not now"})
    async with guarding(CostGuard(trooper, {"stopped": 0.9}, act=True)) as said:
        await said.until("not now")
        await said.until("freezing it")
        await trooper.orders.wait_until(order, "frozen")
    assert len(sent(fake_trooper)) == 2


async def test_a_refused_key_ends_it(
    fake_trooper: FakeTrooper, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is nothing that it could guard: it leaves with 1, and says what to do."""
    run = CostGuard.run
    monkeypatch.setattr(CostGuard, "run", lambda guard, every: run(guard, 0.02))
    monkeypatch.setattr(cost_guard, "TrooperClient", lambda app: fake_trooper.client(api_key="wrong", app=app))
    options = argparse.Namespace(stopped_hours=0.9, running_hours=None, title="*", act=False)
    assert await cost_guard.guard(options) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "Check the API key" in err


async def test_run_as_a_user_runs_it(fake_trooper: FakeTrooper) -> None:
    """It looks at the orders and their hours until Ctrl-C, which ends it with 130 and without a traceback."""
    fake_trooper.add_order(status="stopped")
    live = {"TROOPER_BASE_URL": fake_trooper.url, "TROOPER_API_KEY": fake_trooper.api_key}
    async with processes.python(cost_guard.__file__, "--stopped-hours", "0.9", env=live) as child:
        await until(lambda: fake_trooper.sent("/api/order-status-history"))
        child.send(signal.SIGINT)
        assert (await child.ends(), child.out, child.err) == (130, "", "")
