"""examples/dashboard.py over plain HTTP, and run as a user runs it; always on the fake server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import unused_port

from examples import dashboard
from tests.helpers import processes
from tests.helpers.conditions import LIMIT, until
from trooper_async import AuthenticationError
from trooper_async.testing import FakeTrooper

SCRIPT = dashboard.__file__


@contextlib.asynccontextmanager
async def serving(fake: FakeTrooper) -> AsyncIterator[str]:
    """The dashboard of a fake, in this process; its URL."""
    port = unused_port()
    task = asyncio.create_task(dashboard.serve(fake.client(), port, interval=0.02))
    try:
        await until(lambda: task.done() or answers(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        task.cancel()
        async with asyncio.timeout(LIMIT):  # an open stream would delay it by 60 s
            with contextlib.suppress(asyncio.CancelledError):
                await task


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@pytest.fixture
async def url(fake_trooper: FakeTrooper) -> AsyncIterator[str]:
    async with serving(fake_trooper) as url:
        yield url


async def states(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The server-sent events of a stream, decoded."""
    received = b""
    async for chunk in response.content.iter_any():
        *events, received = (received + chunk).split(b"\n\n")
        for event in events:
            yield json.loads(event.removeprefix(b"data: "))


async def first(feed: AsyncIterator[dict[str, Any]], condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The first state for which the condition holds."""
    async for state in feed:
        if condition(state):
            return state
    raise AssertionError("the stream ended before")


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "{url}"}, 204),
        ({}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
    ],
)
async def test_only_the_page_itself_can_send_actions(
    url: str, fake_trooper: FakeTrooper, headers: dict[str, str], status: int
) -> None:
    """A POST needs the page's own origin, on a loopback name: otherwise nothing is sent to the API."""
    order = fake_trooper.add_order()
    headers = {name: value.format(url=url) for name, value in headers.items()}
    stop = f"{url}/orders/{order.order_id}/stop"
    async with aiohttp.ClientSession(headers=headers) as session, session.post(stop) as response:
        assert response.status == status
    assert len(fake_trooper.sent("/api/order-status")) == (status == 204)


@pytest.mark.parametrize("path", ["/", "/events"])
async def test_other_sites_read_nothing(url: str, path: str) -> None:
    """Another origin, or a foreign name for this machine (DNS rebinding), gets neither page nor stream."""
    names = ("evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example")
    async with aiohttp.ClientSession() as session:
        for headers in ({"Origin": "https://evil.example"}, *({"Host": name} for name in names)):
            async with session.get(f"{url}{path}", headers=headers) as response:
                assert (response.status, await response.read()) == (403, b"")


async def test_the_policy_has_a_new_nonce_each_time(url: str) -> None:
    """Only the page's own script and style run, by an unpredictable nonce; no site can frame the page."""
    nonces = []
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.get(url) as response:
                policy, text = response.headers["Content-Security-Policy"], await response.text()
            nonces.append(policy.partition("script-src 'nonce-")[2].partition("'")[0])
            assert text.count(f'nonce="{nonces[-1]}"') == text.count("<script") + text.count("<style") == 2
            assert policy.startswith("default-src 'none'; ")
            assert "frame-ancestors 'none'" in policy
    assert len(set(nonces)) == 2


async def test_an_error_of_the_client_becomes_a_status(url: str, fake_trooper: FakeTrooper) -> None:
    """A 502 with its text if nothing was done, a 504 if that is unknown."""
    order = fake_trooper.add_order().order_id
    async with aiohttp.ClientSession(headers={"Origin": url}) as session:
        async with session.post(f"{url}/orders/99/stop") as response:
            assert response.status == 502
            assert "not in the list of orders" in await response.text()
        fake_trooper.drop_next("/api/order-status", when="after")
        async with session.post(f"{url}/orders/{order}/restart") as response:
            assert response.status == 504
            assert "It may have been done" in await response.text()
        fake_trooper.fail_next("/api/order-status", status=500, times=20)
        async with session.post(f"{url}/orders/{order}/stop") as response:
            assert response.status == 504
        async with session.post(f"{url}/orders/99/explode") as response:
            assert response.status == 404


async def test_an_outage_is_reported_from_the_start(fake_trooper: FakeTrooper) -> None:
    """An account without servers, too, is shown as such only once the API has responded."""
    holds = [fake_trooper.hold_next("/api/orders") for _ in range(2)]
    async with serving(fake_trooper) as url, aiohttp.ClientSession() as session, session.get(f"{url}/events") as one:
        for hold in holds:
            await hold.arrived()
        feed = states(one)
        state = await anext(feed)
        assert (state["known"], state["orders"], state["outage"]["reason"]) == (False, [], "connecting")
        assert datetime.fromisoformat(state["outage"]["since"]) <= datetime.now(UTC)
        for hold in holds:
            hold.release()
        state = await first(feed, lambda state: state["known"])
        assert (state["orders"], state["outage"]) == ([], None)


async def test_bars_show_what_is_unknown(url: str, fake_trooper: FakeTrooper) -> None:
    """From the first failed poll to the next successful one."""
    fake_trooper.add_order()
    async with aiohttp.ClientSession() as session, session.get(f"{url}/events") as response:
        feed = states(response)
        state = await first(feed, lambda state: state["orders"])
        assert state["outage"] is None
        fake_trooper.fail_next("/api/orders", status=503, times=3)
        with fake_trooper.hold_next("/api/orders"):
            state = await first(feed, lambda state: state["outage"])
            assert state["outage"]["reason"] == "a 503 of fail_next"
            bars = state["orders"][0]["bars"]
            assert [status for _, status in bars] == ["running", None]
            assert bars[0][0] <= bars[1][0] <= state["now"]
        state = await first(feed, lambda state: not state["outage"])
        assert [status for _, status in state["orders"][0]["bars"]] == ["running", None, "running"]


async def test_browsers_share_one_watch_and_leave_nothing_behind(url: str, fake_trooper: FakeTrooper) -> None:
    """Each of many streams gets every state; a closed one ends its task, and the others go on."""
    order = fake_trooper.add_order()
    tasks = asyncio.all_tasks()
    async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as stack:
        responses = [await stack.enter_async_context(session.get(f"{url}/events")) for _ in range(10)]
        feeds = [states(response) for response in responses]
        for feed in feeds:
            async for state in feed:
                if state["orders"]:
                    break
        for response in responses[1:]:
            response.close()
        await until(lambda: len(asyncio.all_tasks() - tasks) <= 2)  # of the one stream: its connection and its handler
        fake_trooper.set_status(order, "stopped")
        async for state in feeds[0]:
            if [row["current_status"] for row in state["orders"]] == ["stopped"]:
                assert [status for _, status in state["orders"][0]["bars"]] == ["running", "stopped"]
                break
    await until(lambda: asyncio.all_tasks() <= tasks)


async def test_a_slow_browser_gets_the_latest_state(url: str, fake_trooper: FakeTrooper) -> None:
    """A browser that stops reading misses intermediate states, but not the last one, and delays no other."""
    order, *_ = [fake_trooper.add_order(title="x" * 200_000) for _ in range(10)]  # 2 MB, sent each time
    words = [f"word {number}" for number in range(20)]
    events = f"{url}/events"
    async with aiohttp.ClientSession() as session, session.get(events) as slow, session.get(events) as quick:
        feed = states(quick)
        for word in words:
            fake_trooper.set_status(order, word)
            async for state in feed:
                if word in [row["current_status"] for row in state["orders"]]:
                    break
        seen = []
        async for state in states(slow):
            seen += [row["current_status"] for row in state["orders"] if row["order_id"] == order.order_id]
            if seen[-1:] == words[-1:]:
                break
        assert len(set(seen)) < len(words)


# --- as a user runs it ------------------------------------------------------------------------------------------------


async def test_it_runs_on_the_embedded_fake_until_ctrl_c() -> None:
    """It prints its URL, streams a busy fleet, and Ctrl-C ends it at once, with 130 and open streams closed."""
    not_used = {"TROOPER_API_KEY": "never-used", "TROOPER_BASE_URL": "https://127.0.0.1:1"}
    async with aiohttp.ClientSession() as session, processes.python(SCRIPT, "--port", "0", env=not_used) as child:
        url = (await child.says("\n")).strip()
        async with session.get(f"{url}/events") as response:
            async for state in states(response):
                if len(state["orders"]) == 6:
                    break
            child.send(signal.SIGINT)
            assert (await child.ends(), child.out.strip(), child.err) == (130, url, "")
            with contextlib.suppress(aiohttp.ClientError):
                await response.read()


async def test_a_refused_key_ends_it(fake_trooper: FakeTrooper) -> None:
    """The error is raised, the server does not continue without data, and the port is free again."""
    port = unused_port()
    with pytest.raises(AuthenticationError):
        await dashboard.serve(fake_trooper.client(api_key="wrong-key"), port, interval=0.02)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))


async def test_a_port_in_use_is_reported() -> None:
    """One line on stderr and exit code 1, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with processes.python(SCRIPT, "--port", str(taken.getsockname()[1])) as child:
            assert await child.ends() == 1
    assert child.err.count("\n") == 1
    assert "in use" in child.err
