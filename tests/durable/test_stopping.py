"""What a worker does when it is stopped, when its database cannot be written, and when another worker has its work."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
import sqlalchemy.event
import sqlalchemy.exc

from tests.durable.test_workflows import ORDER, SWITCH, TERMS, result, start, status
from tests.helpers.clock import forward
from tests.helpers.conditions import LIMIT, until
from tests.helpers.durable import application, eventually, operator
from tests.helpers.processes import python
from trooper_async import FleetReport, TrooperClient, durable, errors
from trooper_async._groups.orders import Orders
from trooper_async.testing import FakeTrooper

# Before sending, a worker checks that the work is still its own
# --------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_work_taken_over_by_another_worker_is_not_sent(
    kind: str, fake_trooper: FakeTrooper, file: Path, server_database: str
) -> None:
    """A purchase is delayed by a rate limit, and its worker counts as dead: after the limit it is not sent."""
    database = f"sqlite:///{file}" if kind == "sqlite" else server_database
    fake_trooper.fail_next(ORDER, status=429, retry_after=30)
    client = fake_trooper.client()
    async with application(lambda account: client, database):
        job = await start("job", durable.order, "acme", 1, **TERMS)
        await until(lambda: fake_trooper.sent(ORDER))
        with operator(database) as script:
            await script.resume_workflow_async("job-purchase", queue_name="trooper-purchases of tests")
            (asked,) = await eventually(lambda: durable.undecided(script))
            async with fake_trooper.client() as another:
                assert asked.candidates(await another.orders.list()) == []
            forward(60)  # the rate limit ends, and the first run could send
            await until(lambda: [purchase.state for purchase in client.orders.purchases] == ["refused"])
            await durable.resolve(script, asked, None)
        with pytest.raises(durable.NotBoughtError):
            await job.get_result()
    assert len(fake_trooper.sent(ORDER)) == 1


# SIGTERM -------------------------------------------------------------------------------------------------------------


async def test_stopping_leaves_no_unsent_request_in_doubt(fake_trooper: FakeTrooper, database: str) -> None:
    """A wait ends, a purchase in flight finishes, a rate limited one is not sent; later all continue."""
    fake_trooper.durations["stop"] = 100
    order = fake_trooper.add_order().order_id
    async with FakeTrooper() as flying, FakeTrooper() as limited:
        fakes = {"waits": fake_trooper, "flying": flying, "limited": limited}

        def get(account: str) -> TrooperClient:
            return fakes[account].client()

        hold = flying.hold_next(ORDER)
        limited.fail_next(ORDER, status=429, retry_after=100)
        async with application(get, database, grace=6):
            await start("stop", durable.switch, "waits", order, "stop")
            await start("flying", durable.order, "flying", 1, **TERMS)
            await start("limited", durable.order, "limited", 1, **TERMS)
            await until(lambda: fake_trooper.sent(SWITCH) and flying.sent(ORDER) and limited.sent(ORDER))
            accounts = durable.Accounts.opened
            assert accounts is not None

            async def release_later() -> None:
                await until(lambda: accounts.stopping)
                hold.release()

            releasing = asyncio.create_task(release_later())
            began = time.monotonic()
        assert time.monotonic() - began < LIMIT
        await releasing
        fake_trooper.set_status(order, "stopped")
        async with application(get, database):
            assert await result("stop") == "stopped"
            assert await result("flying") == 123
            assert await result("limited") == 123
        sent = [len(fake.sent(path)) for fake, path in ((fake_trooper, SWITCH), (flying, ORDER), (limited, ORDER))]
    assert sent == [1, 1, 2]  # the last one was refused the first time


async def test_stopping_takes_at_most_the_grace_period(fake_trooper: FakeTrooper, database: str) -> None:
    """A purchase without a response is left in flight: it was sent, so it needs a decision later."""
    fake_trooper.hold_next(ORDER)
    async with application(lambda account: fake_trooper.client(), database, grace=1):
        await start("job", durable.order, "acme", 1, **TERMS)
        await until(lambda: fake_trooper.sent(ORDER))
        began = time.monotonic()
    assert time.monotonic() - began < LIMIT
    async with application(lambda account: fake_trooper.client(), database):
        with operator(database) as script:
            (asked,) = await eventually(lambda: durable.undecided(script))
            async with fake_trooper.client() as client:
                (candidate,) = asked.candidates(await client.orders.list())
            await durable.resolve(script, asked, candidate)
        assert await result("job") == candidate.order_id
    assert len(fake_trooper.sent(ORDER)) == 1


SCRIPT = """
import asyncio, signal, sys
from dbos import DBOS, SetWorkflowID
from trooper_async import TrooperClient, durable

async def main() -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with durable.embedded(lambda account: TrooperClient(), sys.argv[1]):
        with SetWorkflowID("stop"):
            await DBOS.start_workflow_async(durable.switch, "acme", int(sys.argv[2]), "stop")
        await stopped.wait()

asyncio.run(main())
"""


async def test_a_process_ends_on_sigterm_within_a_containers_grace_period(
    fake_trooper: FakeTrooper, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script like the page's exits with 0 in less than ten seconds; the next process continues."""
    fake_trooper.durations["stop"] = 100
    order = fake_trooper.add_order().order_id
    monkeypatch.setenv("TROOPER_API_KEY", fake_trooper.api_key)
    monkeypatch.setenv("TROOPER_BASE_URL", fake_trooper.url)
    async with python("-c", SCRIPT, file, str(order)) as script:
        await until(lambda: fake_trooper.sent(SWITCH))
        began = time.monotonic()
        script.send(signal.SIGTERM)
        assert await script.ends() == 0, script.err
        assert time.monotonic() - began < 10
    fake_trooper.set_status(order, "stopped")
    async with durable.embedded(lambda account: fake_trooper.client(), file):
        assert await result("stop") == "stopped"
    assert len(fake_trooper.sent(SWITCH)) in (1, 2)  # again, if the first acceptance was not stored yet


async def test_only_one_process_can_use_a_file(file: Path) -> None:
    """A second one is refused; only its owner can read the file."""
    async with durable.embedded(lambda account: TrooperClient("key"), file.parent / "new.sqlite"):
        with pytest.raises(errors.ConfigurationError, match="open in another process"):
            async with durable.embedded(lambda account: TrooperClient("key"), file.parent / "new.sqlite"):
                raise AssertionError
        with pytest.raises(errors.ConfigurationError, match="one at a time"):
            async with durable.Accounts(lambda account: TrooperClient("key")):
                raise AssertionError
    assert (file.parent / "new.sqlite").stat().st_mode & 0o777 == 0o600


# A database that cannot be written ----------------------------------------------------------------------------------


class Disk:
    """Whether the disk has room, or none for statements with this word."""

    full = False
    once = False
    word = ""
    refused = 0


@pytest.fixture
def disk() -> Iterator[Disk]:
    """Writes fail while it is full."""
    disk = Disk()

    def execute(cursor: Any, statement: str, *rest: Any) -> None:
        writes = statement.lstrip().split(None, 1)[0].upper() in ("INSERT", "UPDATE", "DELETE")
        if disk.full and writes and disk.word in statement:
            disk.refused += 1
            disk.full = not disk.once
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "do_execute", execute)
    yield disk
    sqlalchemy.event.remove(sqlalchemy.engine.Engine, "do_execute", execute)


@contextmanager
def after(group: type, method: str, do: Callable[[], None]) -> Iterator[None]:
    """Have something happen right after a method has returned."""
    original = getattr(group, method)

    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await original(self, *args, **kwargs)
        finally:
            do()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group, method, call)
        yield


@pytest.mark.parametrize("method", ["create", "wait", "stop"])
async def test_a_full_disk_ends_and_forgets_nothing(
    method: str, fake_trooper: FakeTrooper, database: str, disk: Disk
) -> None:
    """The disk is full right after a purchase, a wait or a setting: all continue once there is room, sent once."""
    order = fake_trooper.add_order().order_id

    def fill() -> None:
        disk.full = True

    async with application(lambda account: fake_trooper.client(), database):
        with after(Orders, method, fill):
            bought = await start("job", durable.order, "acme", 1, **TERMS)
            stopped = await start("stop", durable.switch, "acme", order, "stop")
            await until(lambda: disk.refused)
        assert await status("job") in ("PENDING", "ENQUEUED")
        disk.full = False
        assert await bought.get_result() == 124
        assert await stopped.get_result() == "stopped"
    assert [len(fake_trooper.sent(path)) for path in (ORDER, SWITCH)] == [1, 1]


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("refusal", [None, 400], ids=["bought", "refused"])
async def test_an_outcome_that_cannot_be_stored_is_stored_later(
    refusal: int | None, once: bool, fake_trooper: FakeTrooper, database: str, disk: Disk
) -> None:
    """A purchase is made and the disk is full: no database error replaces its outcome."""
    if refusal is not None:
        fake_trooper.fail_next(ORDER, status=refusal)
    disk.word, disk.once = "workflow_output", once
    async with application(lambda account: fake_trooper.client(), database):
        disk.full = True
        job = await start("job", durable.order, "acme", 1, **TERMS)
        await until(lambda: disk.refused)
        if not once:
            assert await status("job-purchase") in ("PENDING", "ENQUEUED")
        disk.full = False
        if refusal is None:
            assert await job.get_result() == 123
        else:
            with pytest.raises(errors.BadRequestError):
                await job.get_result()
    assert len(fake_trooper.sent(ORDER)) == 1


async def test_the_outcome_of_a_fleets_start_is_stored_later(
    fake_trooper: FakeTrooper, database: str, disk: Disk
) -> None:
    """A frozen server was started and the disk is full: the report of its fleet has the outcome."""
    frozen = fake_trooper.add_order(status="frozen").order_id
    disk.word, disk.once = "workflow_output", True
    async with application(lambda account: fake_trooper.client(), database):
        disk.full = True
        text = await durable.converge("acme", {frozen: "running"}, migration_allowed=True)
    (outcome,) = FleetReport.from_json(text).succeeded
    assert (outcome.order_id, outcome.order and outcome.order.current_status, disk.refused) == (frozen, "running", 1)
    assert len(fake_trooper.sent(SWITCH)) == 1


async def test_a_read_only_database_ends_nothing(
    fake_trooper: FakeTrooper, server_database: str, request: pytest.FixtureRequest
) -> None:
    """On Postgres: workflows wait, and continue once a new connection may write; nobody has to close the old ones."""
    order = fake_trooper.add_order().order_id
    name = server_database.rpartition("/")[2]
    failures: list[str] = []

    def failed(context: sqlalchemy.engine.ExceptionContext) -> None:
        failures.append(str(context.original_exception))

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "handle_error", failed)
    request.addfinalizer(lambda: sqlalchemy.event.remove(sqlalchemy.engine.Engine, "handle_error", failed))
    async with (
        application(lambda account: fake_trooper.client(), server_database),
        await psycopg.AsyncConnection.connect(server_database, autocommit=True) as operator,
    ):
        await operator.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'.encode())
        await operator.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        starting = [
            asyncio.create_task(start("job", durable.order, "acme", 1, **TERMS)),
            asyncio.create_task(start("stop", durable.switch, "acme", order, "stop")),
        ]
        await until(lambda: any("read-only transaction" in failure for failure in failures))
        await operator.execute("SET default_transaction_read_only = off")
        await operator.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only'.encode())
        bought, stopped = await asyncio.gather(*starting)
        assert await bought.get_result() == 124
        assert await stopped.get_result() == "stopped"
    assert [len(fake_trooper.sent(path)) for path in (ORDER, SWITCH)] == [1, 1]


async def test_other_database_errors_fail_at_once(database: str) -> None:
    """A missing table is no lost connection: the query fails at once, as without an open Accounts."""
    engine = sqlalchemy.create_engine(database)
    async with application(lambda account: TrooperClient("key"), database):
        with pytest.raises(sqlalchemy.exc.OperationalError) as caught, engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT 1 FROM nowhere"))
    engine.dispose()
    assert not caught.value.connection_invalidated
