"""Workers on Postgres that take over from each other, in real processes that are really killed."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from dbos import DBOS

from tests.durable.test_workflows import SWITCH, result, start
from tests.helpers.conditions import until
from tests.helpers.durable import application, eventually, operator
from tests.tools.crash.__main__ import many
from tests.tools.crash.postgres import Postgres
from tests.tools.crash.run import Worker, forkserver
from trooper_async import TrooperClient, durable, errors
from trooper_async.durable import _takeover
from trooper_async.testing import FakeTrooper

LOOK = 0.1


@pytest.fixture(scope="module")
def forked_workers() -> Iterator[None]:
    """What the tests need that start a `Worker`."""
    with forkserver():
        yield


@pytest.mark.usefixtures("forked_workers")
async def test_another_worker_continues_what_a_killed_one_began(
    fake_trooper: FakeTrooper, server_database: str
) -> None:
    """A running worker continues it, and nothing is sent again."""
    fake_trooper.durations["stop"] = 100
    order = fake_trooper.add_order().order_id
    job = {"action": "stop", "order": order, "account": "acme", "id": "the-stop", "offer": None}
    other = Worker({"acme": fake_trooper}, server_database, [job])
    try:
        await other.ready.wait()
        other.go()
        with operator(server_database) as script:  # its wait has begun
            await eventually(lambda: script.get_event_async("the-stop", "progress", 0))
    finally:
        other.kill()
        await other.ended.wait()
    fake_trooper.set_status(order, "stopped")
    async with (
        application(lambda account: fake_trooper.client(), server_database, executor_id=uuid.uuid4().hex, name="crash"),
        durable.takeover(server_database, interval=LOOK),
    ):
        assert await result("the-stop") == "stopped"
    assert len(fake_trooper.sent(SWITCH)) == 1


async def test_a_worker_that_counts_keeps_its_work(
    fake_trooper: FakeTrooper, server_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its work is taken over only if six checks in a row see no change of its counter."""
    fake_trooper.durations["stop"] = 100
    order = fake_trooper.add_order().order_id

    async with (
        application(lambda account: fake_trooper.client(), server_database, executor_id="other"),
        durable.takeover(server_database),
    ):
        await start("stop", durable.switch, "acme", order, "stop")
        await until(lambda: fake_trooper.sent(SWITCH))
    looks, checked, really = 0, asyncio.Event(), _takeover._beat
    async with (
        await psycopg.AsyncConnection.connect(server_database, autocommit=True) as other,
        application(lambda account: fake_trooper.client(), server_database, executor_id="mine"),
    ):

        async def beat(url: str) -> dict[str, int]:
            nonlocal looks
            looks += 1
            if looks > 21:
                await checked.wait()
            elif looks % 3 == 0:
                await other.execute("UPDATE trooper_workers SET beats = beats + 1 WHERE executor_id = 'other'")
            return await really(url)

        monkeypatch.setattr(_takeover, "_beat", beat)
        async with durable.takeover(server_database, interval=LOOK):
            await until(lambda: looks > 21)
            (row,) = await DBOS.list_workflows_async(workflow_ids=["stop"])
            assert (row.executor_id, row.status) == ("other", "PENDING")
            checked.set()
            fake_trooper.set_status(order, "stopped")
            assert await result("stop") == "stopped"
            workers = await (await other.execute("SELECT executor_id FROM trooper_workers")).fetchall()
            assert workers == [("mine",)]


async def test_a_check_cancelled_while_it_commits_leaves_no_connection(
    server_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is closed."""
    committing: list[psycopg.AsyncConnection] = []
    async with await psycopg.AsyncConnection.connect(server_database) as connection:
        await connection.execute(_takeover._TABLE)

    async def commit(self: psycopg.AsyncConnection) -> None:
        committing.append(self)
        await asyncio.Event().wait()

    monkeypatch.setattr(psycopg.AsyncConnection, "commit", commit)
    check = asyncio.create_task(_takeover._beat(server_database))
    await until(lambda: committing)
    check.cancel()
    await asyncio.wait([check])
    assert check.cancelled()
    assert committing[0].closed


async def test_a_failed_check_proves_nothing_about_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a check that failed, six more are needed: the other workers could not write either. Each is tried twice."""
    looks: list[int | None] = [1, 1, 1, 1, 1, 1, None, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    taken: list[tuple[str, int, bool]] = []

    async def beat(url: str) -> dict[str, int]:
        await until(lambda: looks)
        if (beats := looks.pop(0)) is None:
            raise psycopg.OperationalError("the database is away")
        return {"other": beats}

    async def take_over(url: str, worker: str, beats: int, *, forget: bool) -> None:
        taken.append((worker, beats, forget))

    monkeypatch.setattr(_takeover, "_FORGOTTEN", 8)
    monkeypatch.setattr(_takeover, "_beat", beat)
    monkeypatch.setattr(_takeover, "_take_over", take_over)
    watching = asyncio.create_task(_takeover._watch("", 0))
    try:
        await until(lambda: not looks)
        assert taken == []
        looks.append(2)
        await until(lambda: taken == [("other", 2, False)])
        looks += [2, 2, 2]
        await until(lambda: not looks)
        assert taken == [("other", 2, False), ("other", 2, True)]
    finally:
        watching.cancel()
        await asyncio.wait([watching])


@pytest.fixture
async def lost(fake_trooper: FakeTrooper, server_database: str) -> int:
    """A worker of the application "tests" that was lost while it waited for a stop; its last beat."""
    fake_trooper.durations["stop"] = 100
    async with (
        application(lambda account: fake_trooper.client(), server_database, executor_id="lost"),
        durable.takeover(server_database),
    ):
        await start("stop", durable.switch, "acme", fake_trooper.add_order().order_id, "stop")
        await until(lambda: fake_trooper.sent(SWITCH))
    return (await _beats(server_database))["lost"]


async def _beats(url: str) -> dict[str, int]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        rows = await connection.execute("SELECT executor_id, beats FROM trooper_workers")
        return dict(await rows.fetchall())


async def test_only_one_worker_takes_over(
    fake_trooper: FakeTrooper, server_database: str, lost: int, caplog: pytest.LogCaptureFixture
) -> None:
    """If two see a stopped counter, or the worker has counted again, the second finds nothing to do."""
    url = server_database
    async with application(lambda account: fake_trooper.client(), url, executor_id="mine"):
        await _takeover._take_over(url, "lost", lost - 1, forget=False)  # it has beaten since
        assert await _beats(url) == {"lost": lost}
        await asyncio.gather(*(_takeover._take_over(url, "lost", lost, forget=False) for _ in range(2)))
        assert await _beats(url) == {}
        fake_trooper.set_status(123, "stopped")
        assert await result("stop") == "stopped"
    assert caplog.messages.count("worker lost is gone: 1 workflows go on") == 1


async def test_a_worker_of_another_application_is_left_to_its_own(
    fake_trooper: FakeTrooper, server_database: str, lost: int
) -> None:
    """Applications can share a database: each takes over its own work, and forgets a worker that has none."""
    url = server_database
    async with application(lambda account: fake_trooper.client(), url, executor_id="mine", name="another", version="2"):
        await _takeover._take_over(url, "lost", lost, forget=False)
        assert await _beats(url) == {"lost": lost}
    async with application(lambda account: fake_trooper.client(), url, executor_id="mine"):
        await _takeover._take_over(url, "lost", lost, forget=False)
        assert await _beats(url) == {}
        fake_trooper.set_status(123, "stopped")
        assert await result("stop") == "stopped"
    async with application(lambda account: fake_trooper.client(), url, executor_id="last", name="another", version="2"):
        async with durable.takeover(url):
            pass
        await _takeover._take_over(url, "last", 1, forget=True)
        assert await _beats(url) == {}


async def test_the_default_executor_id_is_refused(server_database: str) -> None:
    """DBOS gives the same one to every worker."""
    async with application(lambda account: TrooperClient("key"), server_database):
        with pytest.raises(errors.ConfigurationError, match="executor_id of its own"):
            async with durable.takeover(server_database):
                raise AssertionError


@pytest.mark.usefixtures("forked_workers")
async def test_random_kills_and_disturbances_on_sqlite_lose_nothing() -> None:
    """Every job ends right, each kill repeats a setting at most once, purchases never; none is forgotten."""
    seed = random.randrange(10**9)
    verdicts = await many(2, 2, seed, (1,), None)
    assert [fault for verdict in verdicts for fault in verdict.faults] == [], f"seed {seed}"


@pytest.mark.usefixtures("forked_workers")
async def test_random_kills_and_disturbances_on_postgres_lose_nothing(server: Postgres) -> None:
    """The remaining workers take over, by the same rules."""
    seed = random.randrange(10**9)
    verdicts = await many(1, 1, seed, (2,), server.url)
    assert [fault for verdict in verdicts for fault in verdict.faults] == [], f"seed {seed}"
