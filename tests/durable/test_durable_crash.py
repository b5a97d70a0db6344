"""Durable workflows in real processes that are really killed, and on a Postgres that really goes away."""

from __future__ import annotations

import asyncio
import functools
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.helpers.conditions import until
from tests.helpers.requirements import missing
from tests.tools.crash.__main__ import many
from tests.tools.crash.postgres import Postgres, binaries, postgres
from tests.tools.crash.run import Worker, forkserver
from trooper_async.durable import Durable, UndecidedPurchaseError, _locks, _process, _workflows
from trooper_async.testing import FakeTrooper


@pytest.fixture(scope="module", autouse=True)
def _forkserver() -> Iterator[None]:
    with forkserver():
        yield


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work, and the dead, are looked for more often than in use."""
    monkeypatch.setattr(_process, "_QUEUE_POLL", 0.05)
    monkeypatch.setattr(_process, "_LOOK", 0.2)
    monkeypatch.setattr(_locks, "_GRACE", 0.0)


def posts(fake: FakeTrooper) -> int:
    return sum(request.method == "POST" for request in fake.requests)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with _server() as server:
        yield server


@pytest.fixture
def stopping_server() -> Iterator[Postgres]:
    """One of its own: the workers of others would take nobody for dead for a while after it was started."""
    with _server() as server:
        yield server


@contextmanager
def _server() -> Iterator[Postgres]:
    if binaries() is None:
        missing("Postgres", "apt-get install postgresql")
    with postgres("fsync=off") as server:
        yield server


async def test_killed_at_random_moments_on_sqlite() -> None:
    """Every transition ends right, settings are sent at most once more, purchases never twice and none is forgotten."""
    seed = random.randrange(10**9)
    verdicts = await many(3, 2, seed, 1, None)
    assert [fault for verdict in verdicts for fault in verdict.faults] == [], f"seed {seed}"
    assert sum(verdict.kills for verdict in verdicts) > 0


async def test_one_of_two_workers_is_killed_at_random_moments_on_postgres(server: Postgres) -> None:
    """The other one takes over what it had begun, by the same rules."""
    seed = random.randrange(10**9)
    verdicts = await many(3, 2, seed, 2, server.url)
    assert [fault for verdict in verdicts for fault in verdict.faults] == [], f"seed {seed}"
    assert sum(verdict.kills for verdict in verdicts) > 0


async def test_a_database_that_goes_away_is_waited_for(
    stopping_server: Postgres, fake_trooper: FakeTrooper, caplog: pytest.LogCaptureFixture
) -> None:
    """What waits and what is begun meanwhile goes on when it is back; nothing is sent twice, and the log says why."""
    fake_trooper.durations["stop"] = 100
    orders = [fake_trooper.add_order() for _ in range(3)]
    async with Durable(lambda account: fake_trooper.client(), database_url=stopping_server.url) as work:
        handles = [await work.switch("one", order, "stop") for order in orders[:2]]
        await until(lambda: len(work._process._resting) == 2)
        await asyncio.to_thread(stopping_server.stop)
        begun = asyncio.create_task(work.switch("one", orders[2], "stop"))
        for order in orders[:2]:
            fake_trooper.set_status(order, "stopped")  # and nobody can store that
        await until(lambda: "Database connection failed" in caplog.text)
        fake_trooper.durations["stop"] = 0.05
        await asyncio.to_thread(stopping_server.start)
        handles.append(await begun)
        results = await asyncio.gather(*(handle.result() for handle in handles))
    assert {order.current_status for order in results} == {"stopped"}
    assert posts(fake_trooper) == 3


@pytest.mark.parametrize("taken_over", ["no", "by another", "and is back"])
async def test_a_worker_that_is_taken_for_dead_begins_no_purchase(
    taken_over: str, server: Postgres, fake_trooper: FakeTrooper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is lost right before it buys: it waits for it, and buys only what no later life has gone on with."""
    noted, note, is_held, job = asyncio.Event(), _workflows._note, _locks.NameLock.is_held, f"job-{taken_over}"
    looked = asyncio.Event()

    async def looked_for(self: _locks.NameLock) -> bool:
        held = await is_held(self)
        looked.set()
        return held

    @functools.wraps(note)
    async def noted_and_cut(*args: Any) -> Any:
        intent = await note(*args)
        if not noted.is_set():
            lock = work._process._name_lock
            assert lock is not None
            assert lock._connection is not None
            await another.execute("SELECT pg_terminate_backend(%s)", [lock._connection.info.backend_pid])
            await another.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [lock.worker])
            noted.set()
        return intent

    async def queue(version: str) -> None:
        status = (
            "UPDATE dbos.workflow_status SET status = 'ENQUEUED', application_version = %s WHERE workflow_uuid = %s"
        )
        await another.execute(status, [version, job])

    monkeypatch.setattr(_workflows, "_note", noted_and_cut)
    monkeypatch.setattr(_locks.NameLock, "is_held", looked_for)
    async with (
        Durable(lambda account: fake_trooper.client(), database_url=server.url) as work,
        await psycopg.AsyncConnection.connect(server.url, autocommit=True) as another,
    ):
        handle = await work.order(
            "one", 1, workflow_id=job, contract_interval="HOUR", terms_accepted=True, max_price_h=1
        )
        await looked.wait()
        assert posts(fake_trooper) == 0
        if taken_over == "by another":
            await queue("of the other worker")
        elif taken_over == "and is back":
            await queue("trooper on trooper_async")
            await until(lambda: len(work._process._running) == 2 == len(work._process._resting))
        await another.execute("SELECT pg_advisory_unlock_all()")
        if taken_over == "no":
            assert (await handle.result()).current_status == "running"
        else:
            await until(lambda: len(work._process._running) == (taken_over == "and is back"))
            await queue("trooper on trooper_async")
            with pytest.raises(UndecidedPurchaseError, match="none found"):
                await handle.result()
            await work.resolve(job, None)
    assert posts(fake_trooper) == (taken_over == "no")


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_the_example_loses_nothing_when_its_worker_is_killed(database: str, request: pytest.FixtureRequest) -> None:
    """All servers are stopped and one is bought, by the worker that is left or comes after."""
    arguments = [] if database == "sqlite" else [request.getfixturevalue("server").url]
    example = Path(__file__).parents[2] / "examples" / "durable_fleet.py"
    process = subprocess.run(
        [sys.executable, "-W", "error", example, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    assert "worker 1 is killed" in process.stdout
    assert "worker 2 has stopped 20 of 20 servers" in process.stdout
    assert "1 purchase was sent, and none twice" in process.stdout


async def test_what_a_dead_worker_had_begun_is_taken_over(server: Postgres, fake_trooper: FakeTrooper) -> None:
    """A worker that is there goes on with it, and whoever begins the same work again gets its result: sent once."""
    fake_trooper.durations["stop"] = 100
    order = fake_trooper.add_order().order_id
    other = Worker(
        {"one": fake_trooper}, server.url, [{"action": "stop", "order": order, "account": "one", "id": "the-stop"}]
    )
    await other.ready.wait()
    other.go()
    async with await psycopg.AsyncConnection.connect(server.url, autocommit=True) as database:
        waits = "SELECT 1 FROM dbos.workflow_status WHERE workflow_uuid = 'the-stop/wait' AND status = 'PENDING'"
        async with asyncio.timeout(30):
            while await (await database.execute(waits)).fetchone() is None:  # noqa: ASYNC110 - it happens elsewhere
                await asyncio.sleep(0.01)
    other.kill()
    await other.ended.wait()
    fake_trooper.set_status(order, "stopped")
    async with Durable(lambda account: fake_trooper.client(), database_url=server.url) as work:
        handle = await work.switch("one", order, "stop", workflow_id="the-stop")
        assert (await handle.result()).current_status == "stopped"
    assert posts(fake_trooper) == 1
