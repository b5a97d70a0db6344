"""examples/web_app.py: over HTTP in this process, and run as a user runs it; always on the fake server."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer, unused_port
from aiohttp.web import Application, Request

from examples import web_app
from tests.helpers import processes
from tests.helpers.conditions import LIMIT, until
from trooper_async import ClientClosedError
from trooper_async.testing import FakeTrooper

Caller = TestClient[Request, Application]


@pytest.fixture
async def caller(fake_trooper: FakeTrooper) -> AsyncIterator[Caller]:
    """Calls the application of the fake; its server cancels what hangs up, as the command's does."""
    server = TestServer(web_app.application(fake_trooper.client()), host="127.0.0.1")
    async with TestClient(server) as caller:
        yield caller


async def post(caller: Caller | aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    async with caller.post(path) as response:
        return response.status, await response.json()


def busy() -> set[asyncio.Task[Any]]:
    """The tasks that there are, without those of servers' idle connections."""
    return {task for task in asyncio.all_tasks() if "RequestHandler.start" not in repr(task.get_coro())}


async def test_servers_are_shown(caller: Caller, fake_trooper: FakeTrooper) -> None:
    """All servers, and one of them, as JSON."""
    order = fake_trooper.add_order(title="mine", status="stopped", desired_status="running")
    mine = {
        "id": order.order_id,
        "title": "mine",
        "current_status": "stopped",
        "desired_status": "running",
        "price_h": "0.85",
    }
    async with caller.get("/servers") as response:
        assert (response.status, await response.json()) == (200, [mine])
    async with caller.get(f"/servers/{order.order_id}") as response:
        assert (response.status, await response.json()) == (200, mine)


@pytest.mark.parametrize(
    ("verb", "before", "after"),
    [
        ("start", "stopped", "running"),
        ("stop", "running", "stopped"),
        ("freeze", "running", "frozen"),
        ("restart", "running", "running"),
    ],
)
async def test_a_post_answers_once_the_server_is_there(
    caller: Caller, fake_trooper: FakeTrooper, verb: str, before: str, after: str
) -> None:
    """The answer to a switch is the server as it is then."""
    order = fake_trooper.add_order(status=before)
    status, body = await post(caller, f"/servers/{order.order_id}/{verb}")
    assert (status, body["current_status"], body["desired_status"]) == (200, after, after)


async def test_many_requests_share_one_client_and_its_poll(caller: Caller, fake_trooper: FakeTrooper) -> None:
    """Fifty requests that wait at once cost no more reads of the list than the time they take allows one wait."""
    fake_trooper.durations["stop"] = 0.5
    orders = [fake_trooper.add_order() for _ in range(50)]
    loop = asyncio.get_running_loop()
    began = loop.time()
    answers = await asyncio.gather(*(post(caller, f"/servers/{order.order_id}/stop") for order in orders))
    assert {status for status, _ in answers} == {200}
    assert len(fake_trooper.sent("/api/orders")) <= (loop.time() - began) / 0.02 + 2  # the floor; a look-up of ids


async def test_a_timeout_is_a_504_and_what_was_sent_goes_on(caller: Caller, fake_trooper: FakeTrooper) -> None:
    """The wait ends in time and says how far it got; asked again, the server gets there."""
    fake_trooper.durations["stop"] = 600
    order = fake_trooper.add_order()
    status, body = await post(caller, f"/servers/{order.order_id}/stop?timeout=2")
    assert status == 504
    assert "last seen stopping" in body["error"]
    fake_trooper.set_status(order, "stopped")
    assert (await post(caller, f"/servers/{order.order_id}/stop"))[0] == 200


@pytest.mark.parametrize("timeout", ["soon", "0", "-1", "nan"])
async def test_a_timeout_that_is_none_is_a_400(caller: Caller, fake_trooper: FakeTrooper, timeout: str) -> None:
    """Nothing is sent for a request that can't be right."""
    order = fake_trooper.add_order()
    async with caller.post(f"/servers/{order.order_id}/stop?timeout={timeout}") as response:
        assert response.status == 400
    assert fake_trooper.sent("/api/order-status") == []


async def test_errors_are_statuses(caller: Caller, fake_trooper: FakeTrooper) -> None:
    """Unknown 404, locked 409, a 429 with its Retry-After, a failing API 502; each with its text."""
    order, locked = fake_trooper.add_order(), fake_trooper.add_order(is_locked=True)
    status, body = await post(caller, "/servers/99/start")
    assert (status, "not in the list of orders" in body["error"]) == (404, True)
    async with caller.get("/servers/99") as response:
        assert response.status == 404
    assert (await post(caller, f"/servers/{locked.order_id}/stop"))[0] == 409
    fake_trooper.fail_next("/api/order-status", status=400, body={"error": "no"})
    assert (await post(caller, f"/servers/{order.order_id}/stop"))[0] == 502
    fake_trooper.fail_next("/api/order-status", status=429, retry_after=3599.5)
    async with caller.post(f"/servers/{order.order_id}/stop") as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "3600")


async def test_superseded_and_vanished_are_statuses(caller: Caller, fake_trooper: FakeTrooper) -> None:
    """A server that somebody else switches meanwhile is a 409, one that vanishes a 410."""
    fake_trooper.durations["stop"] = 60
    switched, gone = fake_trooper.add_order(), fake_trooper.add_order()
    waits = [asyncio.create_task(post(caller, f"/servers/{order.order_id}/stop")) for order in (switched, gone)]
    await until(lambda: len(fake_trooper.sent("/api/order-status")) == 2)
    polls = len(fake_trooper.sent("/api/orders"))
    await until(lambda: len(fake_trooper.sent("/api/orders")) >= polls + 3)  # the wish to stop was seen
    fake_trooper.set_status(switched, "running")
    fake_trooper.remove_order(gone)
    assert [status for status, _ in await asyncio.gather(*waits)] == [409, 410]


async def test_who_hangs_up_waits_no_more_and_disturbs_nobody(caller: Caller, fake_trooper: FakeTrooper) -> None:
    """Of three that wait for a server two hang up: their waits end, the third gets its answer, nothing is left."""
    fake_trooper.durations["stop"] = 60
    order = fake_trooper.add_order()
    before = busy()
    *hasty, patient = [asyncio.create_task(post(caller, f"/servers/{order.order_id}/stop")) for _ in range(3)]
    await until(lambda: len(fake_trooper.sent("/api/order-status")) == 3)
    waiting = len(busy())
    for wait in hasty:
        wait.cancel()
    await until(lambda: len(busy()) == waiting - 4)  # two callers, and two handlers
    fake_trooper.set_status(order, "stopped")
    status, body = await patient
    assert (status, body["current_status"]) == (200, "stopped")
    await until(lambda: busy() == before)  # the poll has ended, too


async def test_the_shutdown_does_not_wait_for_waits(fake_trooper: FakeTrooper) -> None:
    """Requests that wait end with a 503, and the client is closed."""
    fake_trooper.durations["stop"] = 60
    order = fake_trooper.add_order()
    client = fake_trooper.client()
    server = TestServer(web_app.application(client), host="127.0.0.1")
    async with TestClient(server) as caller:
        wait = asyncio.create_task(post(caller, f"/servers/{order.order_id}/stop"))
        await until(lambda: fake_trooper.sent("/api/order-status"))
        async with asyncio.timeout(LIMIT - 5):  # the default would be 60 s
            await server.close()
        assert (await wait)[0] == 503
    with pytest.raises(ClientClosedError):
        await client.orders.list()


async def test_browsers_are_refused(caller: Caller, fake_trooper: FakeTrooper) -> None:
    """What a web page sends is refused: with an Origin, whatever it is, and under a foreign name of this machine."""
    order = fake_trooper.add_order()
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
        async with caller.post(f"/servers/{order.order_id}/stop", headers=headers) as response:
            assert response.status == 403
    assert fake_trooper.sent("/api/order-status") == []


@asynccontextmanager
async def running(*arguments: str, **environment: str) -> AsyncIterator[str]:
    """The URL of the example in a process of its own, which Ctrl-C ends."""
    async with AsyncExitStack() as stack:
        while True:
            port = unused_port()
            command = (web_app.__file__, "--port", str(port), *arguments)
            child = await stack.enter_async_context(processes.python(*command, env=environment))
            try:
                await child.says(f":{port}")
                break
            except AssertionError:
                assert "address already in use" in child.err  # somebody else was given the port meanwhile
        yield f"http://127.0.0.1:{port}"
        child.send(signal.SIGINT)
        assert (await child.ends(), child.err) == (0, "")


async def test_run_on_the_embedded_fake_until_ctrl_c() -> None:
    """It serves the fake's servers, and Ctrl-C ends it with 0, also while a request waits, which gets its 503."""
    environment = {"TROOPER_API_KEY": "never-used", "TROOPER_BASE_URL": "https://127.0.0.1:1"}
    async with aiohttp.ClientSession() as session:

        async def stop(url: str) -> int:
            async with session.post(f"{url}/servers/123/stop") as response:
                return response.status

        async with running(**environment) as url:
            async with session.get(f"{url}/servers") as response:
                assert [row["current_status"] for row in await response.json()] == ["running", "stopped", "frozen"]
            stopping = asyncio.create_task(stop(url))
            while True:
                async with session.get(f"{url}/servers/123") as response:
                    if (await response.json())["current_status"] == "stopping":
                        break
        assert await stopping == 503


async def test_run_live_it_polls_for_nobody_who_has_gone(fake_trooper: FakeTrooper) -> None:
    """Live it talks to the API; once the only one that waited has hung up, the API is not asked any more."""
    fake_trooper.durations["stop"] = 600
    fake_trooper.add_order()
    environment = {"TROOPER_API_KEY": fake_trooper.api_key, "TROOPER_BASE_URL": fake_trooper.url}
    async with running("--live", **environment) as url, aiohttp.ClientSession(url) as session:
        waiting = asyncio.create_task(post(session, "/servers/123/stop"))
        await until(lambda: len(fake_trooper.sent("/api/orders")) > 1)
        waiting.cancel()
        loop = asyncio.get_running_loop()
        await until(lambda: loop.time() - fake_trooper.requests[-1].started > 2.5)  # it polled every second
