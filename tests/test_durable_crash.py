"""Durable workflows in real processes that are really killed, and on a Postgres that really goes away."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.__main__ import many
from tests.crash.postgres import Postgres, binaries, postgres
from trooper_async.durable import Durable
from trooper_async.testing import FakeTrooper


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    if binaries() is None and not os.environ.get("CI"):
        pytest.skip("Postgres is not installed here")
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
    verdicts = await many(2, 2, seed, 2, server.url)
    assert [fault for verdict in verdicts for fault in verdict.faults] == [], f"seed {seed}"


async def test_a_database_that_goes_away_is_waited_for(
    server: Postgres, fake_trooper: FakeTrooper, caplog: pytest.LogCaptureFixture
) -> None:
    """What waits and what is begun meanwhile goes on when it is back; nothing is sent twice, and the log says why."""
    fake_trooper.durations["stop"] = 1.0
    orders = [fake_trooper.add_order() for _ in range(3)]
    async with Durable(lambda account: fake_trooper.client(), database_url=server.url) as work:
        handles = [await work.switch("one", order, "stop") for order in orders[:2]]
        async with asyncio.timeout(20):
            while len([request for request in fake_trooper.requests if request.method == "POST"]) < 2:  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.01)
        await asyncio.to_thread(server.stop)
        begun = asyncio.create_task(work.switch("one", orders[2], "stop"))
        await asyncio.sleep(1.5)  # the servers stop meanwhile, and nobody can store that
        await asyncio.to_thread(server.start)
        handles.append(await begun)
        results = await asyncio.gather(*(handle.result() for handle in handles))
    assert {order.current_status for order in results} == {"stopped"}
    assert len([request for request in fake_trooper.requests if request.method == "POST"]) == 3
    assert "Database connection failed" in caplog.text


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_the_example_loses_nothing_when_its_worker_is_killed(database: str, request: pytest.FixtureRequest) -> None:
    """All servers are stopped and one is bought, by the worker that is left or comes after."""
    arguments = [] if database == "sqlite" else [request.getfixturevalue("server").url]
    example = Path(__file__).parent.parent / "examples" / "durable_fleet.py"
    process = subprocess.run(
        [sys.executable, "-W", "error", example, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    assert "worker 1 is killed" in process.stdout
    assert "worker 2 has stopped 20 of 20 servers" in process.stdout
    assert "1 purchase was sent, and none twice" in process.stdout


async def test_what_a_dead_worker_had_begun_is_taken_over(
    server: Postgres, fake_trooper: FakeTrooper, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that is there goes on with it, and whoever begins the same work again gets its result: sent once."""
    order = fake_trooper.add_order().order_id
    fake_trooper.durations["stop"] = 2.0
    jobs = [{"action": "stop", "order": order, "account": "one", "id": "the-stop"}]
    keys, urls = {"one": fake_trooper.api_key}, {"one": fake_trooper.url}
    program = json.dumps({"urls": urls, "keys": keys, "database": server.url, "jobs": jobs})
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.crash.worker", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    assert other.stdin is not None
    other.stdin.write(program.encode() + b"\n")
    other.stdin.write_eof()
    async with Durable(lambda account: fake_trooper.client(), database_url=server.url) as work:
        async with asyncio.timeout(30):
            while not [request for request in fake_trooper.requests if request.method == "POST"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        other.kill()
        await other.wait()
        handle = await work.switch("one", order, "stop", workflow_id="the-stop")
        assert (await handle.result()).current_status == "stopped"
    assert len([request for request in fake_trooper.requests if request.method == "POST"]) <= 2
