"""Programs as users write them, each a process of its own against the fake: what they print, and what is left."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from trooper_async.testing import FakeTrooper

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture
async def fake() -> AsyncIterator[FakeTrooper]:
    """A fake whose servers take long enough to be seen on their way."""
    async with FakeTrooper(durations=0.5) as fake:
        yield fake


@asynccontextmanager
async def running(fake: FakeTrooper, program: str, *arguments: object) -> AsyncIterator[Process]:
    """The program as a process of its own; killed if it does not end. Warnings, as of what is left open, fail it."""
    environment = os.environ | {"TROOPER_API_KEY": fake.api_key, "TROOPER_BASE_URL": fake.url}
    command = [sys.executable, "-W", "error::ResourceWarning", str(PROGRAMS / program), *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def output(process: Process, text: str = "") -> list[str]:
    """What it prints once it has read `text`, to its end, which must be a good one with no word on stderr."""
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


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.01)


def posts(fake: FakeTrooper) -> int:
    return sum(request.method == "POST" for request in fake.requests)


async def test_fastapi_streams_the_progress_of_a_restart(fake: FakeTrooper) -> None:
    """Each status is a line as it is seen; errors become responses; the service ends well on SIGTERM."""
    order_id = fake.add_order().order_id
    async with running(fake, "fastapi_service.py") as process, aiohttp.ClientSession(await url(process)) as http:
        async with http.post(f"/servers/{order_id}/restart") as response:
            lines = [json.loads(read) async for read in response.content]
        assert lines[-1] == {"done": "running"}
        assert {"status": "restarting"} in lines
        async with http.get(f"/servers/{order_id}/status") as response:
            assert await response.json() == {"status": "running"}
        async with http.get("/servers/4711/status") as response:
            assert response.status == 404
            assert "order 4711" in (await response.json())["error"]
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) in (0, -signal.SIGTERM)
    assert posts(fake) == 1


async def test_fastapi_goes_on_when_a_reader_hangs_up(fake: FakeTrooper) -> None:
    """A stream that nobody reads any more ends its wait, and disturbs no other."""
    fake.durations["restart"] = 30.0
    first, second = fake.add_order().order_id, fake.add_order(status="running").order_id
    async with running(fake, "fastapi_service.py") as process, aiohttp.ClientSession(await url(process)) as http:
        async with http.post(f"/servers/{first}/restart") as response:
            assert json.loads(await response.content.readline())
        fake.durations["restart"] = 0.5
        async with http.post(f"/servers/{second}/restart") as response:
            assert json.loads((await response.text()).splitlines()[-1]) == {"done": "running"}


async def test_starlette_closes_the_client_with_the_application(fake: FakeTrooper) -> None:
    """SIGTERM in mid-wait: the waiting request is answered or cut, and the client is closed."""
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


async def test_notebook(fake: FakeTrooper) -> None:
    """In Jupyter: top-level await, one client over many cells, and no word on stderr."""
    for _ in range(3):
        fake.add_order()
    async with running(fake, "notebook.py") as process:
        assert await output(process) == ["execute_result: 3", "stream: stopped", "stream: 3"]


async def test_chat_bot(fake: FakeTrooper) -> None:
    """A loop that looks at everything again and again, and commands at any time, through a short outage."""
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
