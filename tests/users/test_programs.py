"""Ten programs as users write them, each a separate process using the fake: their output, and that nothing is left."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest

pytest.importorskip("mcp", reason="needs the packages of the programs: pip install -e '.[examples]'")

from mcp import Client, StdioServerParameters, stdio_client

from tests.helpers.conditions import until
from trooper_async.testing import FakeTrooper

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture
async def fake() -> AsyncIterator[FakeTrooper]:
    """A fake whose servers take long enough to be seen in transition."""
    async with FakeTrooper(durations=0.5) as fake:
        yield fake


@asynccontextmanager
async def running(fake: FakeTrooper, *program: object, **settings: str) -> AsyncIterator[Process]:
    """The program as a separate process; killed if it does not end. Warnings, for example of unclosed resources, fail
    it.
    """
    quiet = {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}  # older kernels' debugger complains about Python's own modules
    environment = os.environ | {"TROOPER_API_KEY": fake.api_key, "TROOPER_BASE_URL": fake.url} | quiet | settings
    command = [sys.executable, "-W", "error::ResourceWarning", *map(str, program)]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment, cwd=PROGRAMS
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def output(process: Process, text: str = "") -> list[str]:
    """What it prints once it has read `text`, until it ends with status 0 and an empty stderr."""
    printed, complaints = await asyncio.wait_for(process.communicate(text.encode()), 120)
    assert (process.returncode, complaints.decode()) == (0, "")
    return printed.decode().splitlines()


async def line(stream: asyncio.StreamReader | None, pattern: str) -> str:
    """The first group of the first line that matches."""
    assert stream is not None
    async with asyncio.timeout(60):
        while read := await stream.readline():
            if found := re.search(pattern, read.decode()):
                return found[1]
    raise AssertionError(f"ended without {pattern}")


async def url(process: Process) -> str:
    return await line(process.stderr, r"running on (http://\S+)")


def posts(fake: FakeTrooper) -> int:
    return sum(request.method == "POST" for request in fake.requests)


async def test_fastapi_streams_the_progress_of_a_restart(fake: FakeTrooper) -> None:
    """Each status is a line as it is seen; errors become responses; the service ends with 0 on SIGTERM."""
    fake.durations["restart"] = 600
    order_id, lines = fake.add_order().order_id, list[object]()
    async with running(fake, "fastapi_service.py") as process, aiohttp.ClientSession(await url(process)) as http:
        async with http.post(f"/servers/{order_id}/restart") as response:
            async for read in response.content:
                lines.append(json.loads(read))
                if lines[-1] == {"status": "restarting"}:
                    fake.advance(600)
        assert lines[-1] == {"done": "running"}
        async with http.get("/servers") as response:
            assert [row["order_id"] for row in await response.json()] == [order_id]
        async with http.get(f"/servers/{order_id}/status") as response:
            assert await response.json() == {"status": "running"}
        async with http.get("/servers/4711/status") as response:
            assert response.status == 404
            assert "order 4711" in (await response.json())["error"]
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) in (0, -signal.SIGTERM)
    assert posts(fake) == 1


async def test_fastapi_continues_when_a_reader_hangs_up(fake: FakeTrooper) -> None:
    """A stream that nobody reads any more ends its wait, and affects no other."""
    fake.durations["restart"] = 30.0
    first, second = fake.add_order().order_id, fake.add_order(status="running").order_id
    async with running(fake, "fastapi_service.py") as process, aiohttp.ClientSession(await url(process)) as http:
        async with http.post(f"/servers/{first}/restart") as response:
            assert json.loads(await response.content.readline())
        fake.durations["restart"] = 0.5
        async with http.post(f"/servers/{second}/restart") as response:
            assert json.loads((await response.text()).splitlines()[-1]) == {"done": "running"}


async def test_starlette_closes_the_client_with_the_application(fake: FakeTrooper) -> None:
    """SIGTERM during a wait: the waiting request gets a response or is cut, and the client is closed."""
    order_id = fake.add_order().order_id
    async with running(fake, "starlette_lifespan.py") as process, aiohttp.ClientSession(await url(process)) as http:
        async with http.post(f"/servers/{order_id}/stop") as response:
            assert (response.status, await response.text()) == (200, "stopped")
        fake.durations["stop"] = 300.0
        waiting = asyncio.create_task(http.post(f"/servers/{fake.add_order().order_id}/stop"))
        await until(lambda: posts(fake) == 2)
        process.send_signal(signal.SIGTERM)
        await line(process.stdout, "(closed)")
        assert await asyncio.wait_for(process.wait(), 60) in (0, -signal.SIGTERM)
        await asyncio.wait([waiting])
        if waiting.exception() is None:
            waiting.result().close()


async def test_anyio_task_group_and_cancel_scope_work(fake: FakeTrooper) -> None:
    """Waits in a task group share one poll; a cancel scope ends a wait and closes the client; no task is left."""
    first, second, never = (fake.add_order().order_id for _ in range(3))
    async with running(fake, "anyio_group.py", first, second, never) as process:
        assert await output(process) == [f"stopped {first} {second}", "gave up", "left behind: []"]


async def test_a_notebook_works(fake: FakeTrooper) -> None:
    """In Jupyter: top-level await, one client over many cells, and an empty stderr."""
    for _ in range(3):
        fake.add_order()
    async with running(fake, "notebook.py") as process:
        assert await output(process) == ["execute_result: 3", "stream: stopped", "stream: 3"]


async def test_a_chat_bot_works(fake: FakeTrooper) -> None:
    """A loop that regularly reads everything, and commands at any time, through a short outage."""
    order = fake.add_order()
    async with running(fake, "chat_bot.py") as process:
        assert process.stdin is not None
        process.stdin.write(f"stop {order.order_id}\nstatus 4711\n".encode())
        assert await line(process.stdout, r"(sorry: .*4711)")
        assert await line(process.stdout, rf"{order.order_id} is (\w+)") == "stopped"
        fake.fail_next("/api/orders", status=401, times=1)
        assert await line(process.stdout, "(looked in vain)")
        process.stdin.write(f"start {order.order_id}\n".encode())
        assert await line(process.stdout, rf"{order.order_id} is (\w+)") == "running"
        assert await output(process, "\n") == []


async def test_forked_workers_with_their_own_client_buy_once(fake: FakeTrooper, tmp_path: Path) -> None:
    """Two workers, one ledger, one reference: one order is bought; a worker that finds the ledger locked is refused."""
    async with running(fake, "prefork.py", "after", tmp_path / "ledger") as process:
        results = await output(process)
    bought = {result for result in results if result.startswith("order ")}
    assert len(bought) == 1
    assert all("ledger" in result for result in results if result not in bought)
    assert posts(fake) == 1


async def test_forked_workers_with_an_inherited_client_buy_nothing(fake: FakeTrooper, tmp_path: Path) -> None:
    """The parent's lock does not protect a child: each is refused, with what to do."""
    async with running(fake, "prefork.py", "before", tmp_path / "ledger") as process:
        results = await output(process)
    assert len(results) == 2
    assert all(result.startswith("refused: ") and "make one per process" in result for result in results)
    assert posts(fake) == 0


GUNICORN = ("-m", "gunicorn", "gunicorn_app:app", "--preload", "-k", "asgi", "-w", 2, "-b", "127.0.0.1:0")


async def test_gunicorn_works_with_a_client_in_each_worker(fake: FakeTrooper) -> None:
    """Each worker of `gunicorn --preload` makes its client when it starts; they end with 0 on SIGTERM."""
    order = fake.add_order()
    async with running(fake, *GUNICORN, CLIENT="in each worker") as process:
        address = await line(process.stderr, r"Listening at: (http://\S+)")
        workers: set[int] = set()
        async with asyncio.timeout(60):
            while len(workers) < 2:
                async with (
                    aiohttp.ClientSession(address) as http,
                    http.post(f"/servers/{order.order_id}/stop") as reply,
                ):
                    told = await reply.json()
                assert told["status"] == "stopped"
                workers.add(told["pid"])
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0


async def test_gunicorn_refuses_a_client_from_before_the_fork(fake: FakeTrooper) -> None:
    """A client that `gunicorn --preload` forks is refused when each worker starts, and the log says what to do."""
    async with running(fake, *GUNICORN, CLIENT="before") as process:
        assert await line(process.stderr, "(made in another process, before a fork: make one per process)")
    assert fake.requests == []


async def test_a_pandas_report_works(fake: FakeTrooper) -> None:
    """Orders become a data frame with numbers that add up."""
    for status, price in (("running", "0.85"), ("stopped", "0.85"), ("running", "2.50")):
        gpu = "A100" if price == "2.50" else "RTX 4090"
        fake.add_order(status=status, price_h=Decimal(price), blib_gpu_type=gpu)
    async with running(fake, "pandas_report.py") as process:
        assert await output(process) == ["blib_gpu_type,servers,price,cost", "A100,1,2.5,2.5", "RTX 4090,2,1.7,1.15"]


async def test_mcp_tools_return_models(fake: FakeTrooper) -> None:
    """A tool that returns models' dicts gives an assistant structured data, over stdio."""
    order = fake.add_order(title="mine", price_h=Decimal("0.85"))
    environment = os.environ | {"TROOPER_API_KEY": fake.api_key, "TROOPER_BASE_URL": fake.url}
    program = StdioServerParameters(command=sys.executable, args=[str(PROGRAMS / "mcp_tools.py")], env=environment)
    async with asyncio.timeout(120), Client(stdio_client(program)) as assistant:
        listed = (await assistant.call_tool("servers", {})).structured_content
        assert listed is not None
        assert [row["title"] for row in listed["result"]] == ["mine"]
        assert listed["result"][0]["price_h"] == "0.85"
        one = (await assistant.call_tool("server_of", {"order_id": order.order_id})).structured_content
        assert one is not None
        assert one["price_h"] == 0.85


async def test_blocking_tests_use_the_fake(fake: FakeTrooper, tmp_path: Path) -> None:
    """A user's own pytest run, without pytest-asyncio: plain tests use the fixture, and none hangs."""
    program = shutil.copy(PROGRAMS / "sync_tests.py", tmp_path)  # away from the configuration of these tests
    options = (
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:asyncio",
        "-c",
        os.devnull,
        "--rootdir",
        tmp_path,
        "--basetemp",
        tmp_path / "base",
    )
    async with running(fake, "-m", "pytest", *options, program) as process:
        assert "2 passed" in (await output(process))[-1]
