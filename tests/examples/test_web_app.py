"""examples/web_app.py: over HTTP in this process, and run as a user runs it; always on the fake server."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

for _library in ("fastapi", "uvicorn"):
    pytest.importorskip(_library, reason="needs the examples extra: pip install -e '.[examples]'")

from examples import web_app  # noqa: E402 - what it needs may be missing
from tests.helpers import processes  # noqa: E402
from tests.helpers.conditions import LIMIT, free_port, until  # noqa: E402
from tests.helpers.day import OUTAGES, Day  # noqa: E402
from tests.helpers.fake_orders import outage, sent_of  # noqa: E402
from trooper_async import ClientClosedError, TrooperClient  # noqa: E402
from trooper_async.testing import FakeTrooper  # noqa: E402

Event = tuple[str, Any]


@asynccontextmanager
async def serving(client: TrooperClient) -> AsyncIterator[aiohttp.ClientSession]:
    """A session that calls the service, in this process and with this client."""
    server = web_app.Server(web_app.application(client), 0)
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started or task.done())
    port = server.servers[0].sockets[0].getsockname()[1]
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield session
    server.should_exit = True
    await task


@pytest.fixture
async def http(fake_trooper: FakeTrooper) -> AsyncIterator[aiohttp.ClientSession]:
    async with serving(fake_trooper.client()) as session:
        yield session


async def call(http: aiohttp.ClientSession, path: str, method: str = "GET") -> tuple[int, Any]:
    async with http.request(method, path) as response:
        return response.status, await response.json()


async def act(http: aiohttp.ClientSession, order_id: int, action: str) -> str:
    """The URL of an accepted action's progress."""
    status, body = await call(http, f"/servers/{order_id}/{action}", "POST")
    assert status == 202, body
    progress: str = body["progress"]
    return progress


async def events(
    http: aiohttp.ClientSession, progress: str, seen: Callable[[str], object] = lambda line: None
) -> list[Event]:
    """All events of a stream, as name and data; `seen` gets each line as it comes."""
    found: list[Event] = []
    async with http.get(progress, timeout=aiohttp.ClientTimeout(LIMIT)) as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
        name = ""
        async for raw in response.content:
            line = raw.decode().rstrip("\n")
            seen(line)
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                found.append((name, json.loads(line.removeprefix("data: "))))
    return found


def busy() -> set[asyncio.Task[Any]]:
    """The running tasks, except those of servers' idle connections."""
    return {task for task in asyncio.all_tasks() if "RequestHandler.start" not in repr(task.get_coro())}


def waits() -> list[asyncio.Task[Any]]:
    """The service's active waits."""
    return [task for task in asyncio.all_tasks() if "Orders.wait" in repr(task.get_coro())]


async def test_servers_are_shown(http: aiohttp.ClientSession, fake_trooper: FakeTrooper) -> None:
    """All servers, and one of them, as JSON."""
    order = fake_trooper.add_order(title="mine", status="stopped", desired_status="running")
    status, (shown,) = await call(http, "/servers")
    assert (status, shown) == (200, order.to_dict())
    assert await call(http, f"/servers/{order.order_id}") == (200, shown)


@pytest.mark.parametrize(
    ("action", "before", "on_the_way", "after"),
    [
        ("start", "stopped", "starting", "running"),
        ("stop", "running", "stopping", "stopped"),
        ("freeze", "running", "freezing", "frozen"),
        ("restart", "running", "restarting", "running"),
    ],
)
async def test_progress_is_streamed(
    action: str, before: str, on_the_way: str, after: str, http: aiohttp.ClientSession, fake_trooper: FakeTrooper
) -> None:
    """The POST returns once the action is accepted; its progress has each status, and ends once it is confirmed."""
    fake_trooper.durations[action] = 600
    order = fake_trooper.add_order(status=before)

    def end_the_action(line: str) -> None:
        if on_the_way in line:
            fake_trooper.advance(600)

    *statuses, (name, done) = await events(http, await act(http, order.order_id, action), end_the_action)
    assert {event for event, _ in statuses} == {"status"}
    assert on_the_way in [shown["current_status"] for _, shown in statuses]
    assert (name, done["current_status"], done["desired_status"]) == ("done", after, after)


async def test_progress_can_be_requested_again(http: aiohttp.ClientSession, fake_trooper: FakeTrooper) -> None:
    """Later, and from another instance of the service: the action is not sent again."""
    order = fake_trooper.add_order()
    progress = await act(http, order.order_id, "restart")
    assert (await events(http, progress))[-1][0] == "done"
    async with serving(fake_trooper.client()) as another:
        assert (await events(another, progress))[-1][0] == "done"
    assert len(fake_trooper.sent("/api/order-status")) == 1


async def test_a_lost_response_can_be_waited_for(http: aiohttp.ClientSession, fake_trooper: FakeTrooper) -> None:
    """The response to a restart is lost: the error has the URL of its progress, and it is not sent again."""
    order = fake_trooper.add_order()
    fake_trooper.drop_next("/api/order-status", when="after")
    status, body = await call(http, f"/servers/{order.order_id}/restart", "POST")
    assert (status, "It may have been done" in body["error"]) == (502, True)
    assert (await events(http, body["progress"]))[-1][0] == "done"
    assert len(fake_trooper.sent("/api/order-status")) == 1


async def test_many_streams_share_one_client_and_its_poll(
    http: aiohttp.ClientSession, fake_trooper: FakeTrooper
) -> None:
    """Fifty concurrent streams need no more list reads than one wait would in that time."""
    fake_trooper.durations["stop"] = 0.5
    orders = [fake_trooper.add_order() for _ in range(50)]
    loop = asyncio.get_running_loop()
    began = loop.time()
    progress = [await act(http, order.order_id, "stop") for order in orders]
    streams = await asyncio.gather(*(events(http, one) for one in progress))
    assert {stream[-1][0] for stream in streams} == {"done"}
    assert len(fake_trooper.sent("/api/orders")) <= (loop.time() - began) / 0.02 + 2  # the floor; a look-up of ids


async def test_a_timeout_ends_the_stream_but_not_the_action(
    http: aiohttp.ClientSession, fake_trooper: FakeTrooper
) -> None:
    """The stream ends in time and says how far it got; requested again, it succeeds."""
    fake_trooper.durations["stop"] = 600
    order = fake_trooper.add_order()
    progress = await act(http, order.order_id, "stop")
    name, failure = (await events(http, f"{progress}&timeout=1"))[-1]
    assert (name, failure["status"], "last seen stopping" in failure["error"]) == ("failed", 504, True)
    fake_trooper.set_status(order, "stopped")
    assert (await events(http, progress))[-1][0] == "done"


async def test_a_quiet_stream_is_kept_open(
    http: aiohttp.ClientSession, fake_trooper: FakeTrooper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comments are sent while nothing changes, so that no proxy closes the stream."""
    monkeypatch.setattr(web_app, "QUIET", 0.01)
    fake_trooper.durations["stop"] = 600
    order = fake_trooper.add_order()
    progress, lines = await act(http, order.order_id, "stop"), list[str]()
    stream = asyncio.create_task(events(http, progress, lines.append))
    await until(lambda: lines.count(": waiting") >= 3)
    fake_trooper.set_status(order, "stopped")
    assert (await stream)[-1][0] == "done"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/progress?transition=x", 400),
        ("/progress", 422),
        *((f"/progress?transition=x&timeout={timeout}", 422) for timeout in ("soon", "0", "-1", "nan", "inf")),
        ("/servers/0", 422),
        ("/servers/x", 422),
        ("/servers/99", 404),
    ],
)
async def test_an_invalid_request_is_refused(http: aiohttp.ClientSession, path: str, status: int) -> None:
    """With its own status, before anything is waited for."""
    assert (await call(http, path))[0] == status


async def test_errors_have_their_statuses(http: aiohttp.ClientSession, fake_trooper: FakeTrooper) -> None:
    """Unknown 404, locked 409, a 429 with its Retry-After, a failing API 502; each with its text."""
    order, locked = fake_trooper.add_order(), fake_trooper.add_order(is_locked=True)
    status, body = await call(http, "/servers/99/start", "POST")
    assert (status, "not in the list of orders" in body["error"]) == (404, True)
    assert (await call(http, f"/servers/{order.order_id}/explode", "POST"))[0] == 422
    assert (await call(http, f"/servers/{locked.order_id}/stop", "POST"))[0] == 409
    fake_trooper.fail_next("/api/order-status", status=400, body={"error": "no"})
    assert (await call(http, f"/servers/{order.order_id}/stop", "POST"))[0] == 502
    fake_trooper.fail_next("/api/order-status", status=429, retry_after=3599.5)
    async with http.post(f"/servers/{order.order_id}/stop") as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "3600")


async def test_superseded_and_vanished_fail(http: aiohttp.ClientSession, fake_trooper: FakeTrooper) -> None:
    """A server started by somebody else meanwhile fails with 409, one that vanishes with 410."""
    fake_trooper.durations["stop"] = 60
    started, gone = fake_trooper.add_order(), fake_trooper.add_order()
    progress = [await act(http, order.order_id, "stop") for order in (started, gone)]
    lines: list[str] = []
    streams = [asyncio.create_task(events(http, one, lines.append)) for one in progress]
    await until(lambda: lines.count("event: status") == 2)
    polls = len(fake_trooper.sent("/api/orders"))
    await until(lambda: len(fake_trooper.sent("/api/orders")) >= polls + 3)  # the requested stop was seen
    fake_trooper.set_status(started, "running")
    fake_trooper.remove_order(gone)
    ends = [stream[-1] for stream in await asyncio.gather(*streams)]
    assert [(name, failure["status"]) for name, failure in ends] == [("failed", 409), ("failed", 410)]


async def test_a_reader_that_hangs_up_affects_no_other(http: aiohttp.ClientSession, fake_trooper: FakeTrooper) -> None:
    """Of three readers two hang up: their waits end, the third continues to its end, nothing is left."""
    fake_trooper.durations["stop"] = 60
    order = fake_trooper.add_order()
    progress = await act(http, order.order_id, "stop")
    before, lines = busy(), list[str]()
    *hasty, patient = [asyncio.create_task(events(http, progress, lines.append)) for _ in range(3)]
    await until(lambda: lines.count("event: status") == 3)
    assert len(waits()) == 3
    for stream in hasty:
        stream.cancel()
    await until(lambda: len(waits()) == 1)
    fake_trooper.set_status(order, "stopped")
    assert (await patient)[-1][0] == "done"
    await until(lambda: busy() == before)  # the poll has ended, too


async def test_shutdown_does_not_wait_for_streams(fake_trooper: FakeTrooper) -> None:
    """A stream ends with a 503 when the service does, and the client is closed."""
    fake_trooper.durations["stop"] = 600
    order, lines = fake_trooper.add_order(), list[str]()
    client = fake_trooper.client()
    async with aiohttp.ClientSession() as reader:
        async with serving(client) as http:
            progress = f"{http._base_url}{await act(http, order.order_id, 'stop')}"
            stream = asyncio.create_task(events(reader, progress, lines.append))
            await until(lambda: "event: status" in lines)
        name, failure = (await stream)[-1]
    assert (name, failure["status"]) == ("failed", 503)
    with pytest.raises(ClientClosedError):
        await client.orders.list()


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Origin": "https://evil.example"}, 403), ({"Origin": "null"}, 403), ({"Host": "evil.example"}, 400)],
)
async def test_browsers_are_refused(
    headers: dict[str, str], status: int, http: aiohttp.ClientSession, fake_trooper: FakeTrooper
) -> None:
    """Requests from a web page are refused: with any Origin, or a foreign name for this machine."""
    order = fake_trooper.add_order()
    async with http.post(f"/servers/{order.order_id}/stop", headers=headers) as response:
        assert response.status == status
    async with http.get("/servers", headers=headers) as response:
        assert response.status == status
    assert fake_trooper.requests == []


def run(*arguments: str, **environment: str) -> AbstractAsyncContextManager[processes.Child]:
    return processes.python(web_app.__file__, "--port", "0", *arguments, env=environment)


async def url_of(child: processes.Child) -> str:
    await child.says("Uvicorn running on")
    found = re.search(r"http://127\.0\.0\.1:\d+", child.err)
    assert found is not None
    return found[0]


async def test_it_runs_on_the_embedded_fake() -> None:
    """It serves the fake's servers, ignores TROOPER_* unless it is told to go live, and ends on Ctrl-C."""
    async with run(TROOPER_API_KEY="never-used", TROOPER_BASE_URL="https://127.0.0.1:1") as child:
        async with aiohttp.ClientSession(await url_of(child)) as http:
            _, shown = await call(http, "/servers")
            assert [row["current_status"] for row in shown] == ["running", "stopped", "frozen"]
        child.send(signal.SIGINT)
        assert await child.ends() == 0
        assert "Traceback" not in child.err


@pytest.mark.parametrize(("end", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)])
async def test_it_runs_live_until_a_signal(end: signal.Signals, code: int, fake_trooper: FakeTrooper) -> None:
    """A signal ends it at once although a stream is open, which is ended; the key is in no output."""
    fake_trooper.durations["stop"] = 600
    fake_trooper.add_order()
    key = {"TROOPER_API_KEY": fake_trooper.api_key, "TROOPER_BASE_URL": fake_trooper.url}
    lines: list[str] = []
    async with run("--live", **key) as child:
        async with aiohttp.ClientSession(await url_of(child)) as http:
            stream = asyncio.create_task(events(http, await act(http, 123, "stop"), lines.append))
            await until(lambda: "event: status" in lines)
            child.send(end)
            assert (await stream)[-1][0] == "failed"
        assert await child.ends() == code
        assert not any(word in child.err for word in ("Traceback", fake_trooper.api_key))


# A day, on a clock that the test puts forward -----------------------------------------------------------------------


@pytest.fixture
def day(fake_trooper: FakeTrooper, tmp_path: Path) -> Day:
    fake_trooper.durations["restart"] = 60
    fake_trooper.add_order(order_id=1)
    return Day(fake_trooper, tmp_path)


@asynccontextmanager
async def service(day: Day, port: int = 0) -> AsyncIterator[tuple[processes.Child, aiohttp.ClientSession]]:
    options = ("--live", "--port", str(port))
    async with day.started(web_app.__file__, *options) as child, aiohttp.ClientSession(await url_of(child)) as http:
        yield child, http


async def follow(http: aiohttp.ClientSession, progress: str) -> asyncio.Task[list[Event]]:
    """A reader of the stream, once it has got its first event."""
    lines: list[str] = []
    stream = asyncio.create_task(events(http, progress, lines.append))
    await until(lambda: "event: status" in lines)
    return stream


@pytest.mark.parametrize("seconds", OUTAGES.values(), ids=OUTAGES)
async def test_a_stream_survives_an_outage(day: Day, seconds: float) -> None:
    """It continues until its wait's deadline; requested again, it succeeds. The restart is sent once."""
    async with service(day) as (child, http):
        progress = await act(http, 1, "restart")
        stream = await follow(http, progress)
        with outage(day.fake, "/api/orders"):
            await day.passes(seconds, child)
        if seconds == OUTAGES["3 h"]:
            name, failure = (await stream)[-1]
            assert (name, failure["status"], "a 503 of fail_next" in failure["error"]) == ("failed", 504, True)
            stream = await follow(http, progress)
        await day.passes(120, child)
        assert (await stream)[-1][0] == "done"
    assert sent_of(day.fake) == [(1, "restarted")]
    assert "Traceback" not in child.err


async def test_killed_during_a_restart(day: Day) -> None:
    """The next process continues the stream; if the POST itself was lost, the server's status shows the outcome."""
    async with service(day) as (child, http):
        progress = await act(http, 1, "restart")
        stream = await follow(http, progress)
        await child.kill()
        with pytest.raises(aiohttp.ClientError):
            await stream
    async with service(day) as (child, http):
        stream = await follow(http, progress)
        await day.passes(120, child)
        assert (await stream)[-1][0] == "done"
        with day.fake.hold_next("/api/order-status") as hold:
            posted = asyncio.create_task(act(http, 1, "restart"))
            await hold.arrived()
            await child.kill()
            with pytest.raises(aiohttp.ClientError):
                await posted
    async with service(day) as (_, http):
        assert (await call(http, "/servers/1"))[1]["current_status"] == "restarting"
    assert sent_of(day.fake) == [(1, "restarted")] * 2


async def test_two_copies_send_once(day: Day) -> None:
    """Both stream what one of them has sent; a copy on the same port exits and says why."""
    port = free_port()
    async with service(day, port) as (child, http), service(day) as (_, other):
        progress = await act(http, 1, "restart")
        streams = [await follow(one, progress) for one in (http, other)]
        async with day.started(web_app.__file__, "--live", "--port", str(port)) as third:
            assert await third.ends() > 0
        assert "address already in use" in third.err
        assert "Traceback" not in third.err
        await day.passes(120, child)
        assert [stream[-1][0] for stream in await asyncio.gather(*streams)] == ["done", "done"]
    assert sent_of(day.fake) == [(1, "restarted")]
