"""Workers on Postgres that take over from each other, in real processes that are really killed."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from tests.durable.test_workflows import SWITCH, result, start, status
from tests.helpers.conditions import until
from tests.helpers.durable import application, eventually, operator
from tests.tools.crash.__main__ import many
from tests.tools.crash.postgres import Postgres
from tests.tools.crash.run import Worker, forkserver
from trooper_async import TrooperClient, durable, errors
from trooper_async.testing import FakeTrooper

LOOK = 0.2


@pytest.fixture(scope="module", autouse=True)
def _forkserver() -> Iterator[None]:
    with forkserver():
        yield


async def test_what_a_killed_worker_had_begun_goes_on_elsewhere(
    fake_trooper: FakeTrooper, server_database: str
) -> None:
    """A worker that is there goes on with it, and nothing is sent again."""
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


async def is_waited_for(connection: psycopg.AsyncConnection) -> bool:
    """Whether somebody waits for a lock."""
    rows = await connection.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    return await rows.fetchone() is not None


async def test_a_worker_whose_connection_is_cut_keeps_its_work(
    fake_trooper: FakeTrooper, server_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It locks its id again, also when another worker holds that for a while and removes it from the list, as one does
    that takes it for gone; it is listed again, and goes on looking."""
    fake_trooper.durations["stop"] = 100
    order, mine = fake_trooper.add_order().order_id, uuid.uuid4().hex
    lock = "(hashtextextended('trooper ' || %s, 0))"
    async with (
        application(lambda account: fake_trooper.client(), server_database, executor_id=mine),
        durable.takeover(server_database, interval=LOOK),
        await psycopg.AsyncConnection.connect(server_database, autocommit=True) as another,
    ):
        handle = await start("stop", durable.switch, "acme", order, "stop")
        await until(lambda: fake_trooper.sent(SWITCH))
        await another.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
        )
        await another.execute(f"SELECT pg_advisory_lock{lock}", [mine])
        await until(lambda: "take-over waits for the database" in caplog.text)
        await eventually(lambda: is_waited_for(another))
        await another.execute("DELETE FROM trooper_workers")
        await another.execute("SELECT pg_advisory_unlock_all()")

        async def is_locked() -> bool:
            row = await (await another.execute(f"SELECT pg_try_advisory_lock{lock}", [mine])).fetchone()
            await another.execute("SELECT pg_advisory_unlock_all()")
            return row == (False,)

        await eventually(is_locked)

        async def is_listed() -> bool:
            rows = await another.execute("SELECT executor_id FROM trooper_workers")
            return await rows.fetchall() == [(mine,)]

        await eventually(is_listed)
        assert await status("stop") == "PENDING"
        fake_trooper.set_status(order, "stopped")
        assert await handle.get_result() == "stopped"
    assert len(fake_trooper.sent(SWITCH)) == 1


async def test_a_look_of_another_worker_keeps_none_from_its_id(server_database: str) -> None:
    """Who looks whether an id is free holds its lock for a moment: a worker that begins then waits for it."""
    mine = uuid.uuid4().hex
    async with (
        application(lambda account: TrooperClient("key"), server_database, executor_id=mine),
        await psycopg.AsyncConnection.connect(server_database, autocommit=True) as another,
    ):
        await another.execute("SELECT pg_advisory_lock(hashtextextended('trooper ' || %s, 0))", [mine])

        async def begin() -> None:
            async with durable.takeover(server_database, interval=LOOK):
                pass

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(begin())
            await eventually(lambda: is_waited_for(another))
            await another.execute("SELECT pg_advisory_unlock_all()")


async def test_an_executor_id_that_is_not_its_own_is_refused(
    server_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id that DBOS gives by itself is everybody's; and two workers with one id would be taken for one."""
    monkeypatch.setattr("trooper_async.durable._takeover._LOCK_TIMEOUT", "100ms")
    async with application(lambda account: TrooperClient("key"), server_database):
        with pytest.raises(errors.ConfigurationError, match="executor_id of its own"):
            async with durable.takeover(server_database):
                raise AssertionError
    async with (
        application(lambda account: TrooperClient("key"), server_database, executor_id="one"),
        durable.takeover(server_database, interval=LOOK),
    ):
        with pytest.raises(errors.ConfigurationError, match="executor_id of its own"):
            async with durable.takeover(server_database):
                raise AssertionError


@asynccontextmanager
async def pooler(server: Postgres) -> AsyncIterator[int]:
    """Something that stands in front of Postgres and, as poolers do, tells its clients a process id of its own."""
    port = int(server.url.rpartition(":")[2].partition("/")[0])

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, rewrite: bool) -> None:
        while data := await reader.read(65536):
            if rewrite and (at := data.find(b"K\x00\x00\x00\x0c")) >= 0:
                data = data[: at + 5] + (4_000_000).to_bytes(4) + data[at + 9 :]
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(forward(reader, ahead, rewrite=False))
            tasks.create_task(forward(behind, writer, rewrite=True))

    front = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with front:
        yield front.sockets[0].getsockname()[1]


async def test_a_pooler_is_refused(server: Postgres, server_database: str) -> None:
    """A lock that is taken through a pooler may be anybody's."""
    async with (
        application(lambda account: TrooperClient("key"), server_database, executor_id="one"),
        pooler(server) as port,
    ):
        with pytest.raises(errors.ConfigurationError, match="a pooler is between"):
            async with durable.takeover(f"postgresql://postgres@127.0.0.1:{port}/postgres"):
                raise AssertionError


async def test_killed_and_disturbed_at_random_moments_on_sqlite() -> None:
    """Every job ends right, settings are sent at most once more a kill, purchases never twice; none is forgotten."""
    seed = random.randrange(10**9)
    verdicts = await many(2, 2, seed, (1,), None)
    assert [fault for verdict in verdicts for fault in verdict.faults] == [], f"seed {seed}"


async def test_killed_and_disturbed_at_random_moments_on_postgres(server: Postgres) -> None:
    """The workers that are left take over, by the same rules."""
    seed = random.randrange(10**9)
    verdicts = await many(2, 2, seed, (2,), server.url)
    assert [fault for verdict in verdicts for fault in verdict.faults] == [], f"seed {seed}"
