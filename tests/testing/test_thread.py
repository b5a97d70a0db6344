"""The fake serves from its own thread: who can use it, who may change it, and what is left at the end."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import aiohttp
import pytest
import uvloop
from anyio.from_thread import start_blocking_portal

from tests.helpers.fake_api import LONG, arrived
from trooper_async.testing import FakeTrooper

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


def get(fake: FakeTrooper, path: str) -> Any:
    """The response to a blocking client."""
    request = urllib.request.Request(fake.url + path, headers={"Authorization": f"Bearer {fake.api_key}"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "FakeTrooper"]


# --- who can use it -----------------------------------------------------------------------------------------------


def test_blocking_code_can_use_the_fake() -> None:
    """A test without an event loop starts it, sends requests, and changes it."""
    with FakeTrooper() as fake:
        order = fake.add_order(status="stopped")
        assert get(fake, "/api/orders")[0]["status"] == "stopped"
        fake.set_status(order, "running")
        assert get(fake, "/api/orders")[0]["status"] == "running"
        assert [request.status for request in fake.requests] == [200, 200]


def test_an_application_in_another_thread_can_use_the_fake() -> None:
    """A sync test whose application runs in a loop in its own thread, as under Starlette's `TestClient`."""

    async def stop(order_id: int) -> str:
        async with fake.client() as client:
            return (await client.orders.stop_and_wait(order_id)).current_status

    with FakeTrooper() as fake, start_blocking_portal() as portal:
        assert portal.call(stop, fake.add_order().order_id) == "stopped"


@pytest.mark.parametrize("new_loop", LOOPS)
def test_the_fake_outlives_the_loops_of_its_clients(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """One fake serves successive loops, asyncio's or uvloop's, entered in either way."""

    async def waits(fake: FakeTrooper, order_id: int) -> str:
        async with fake.client() as client:
            return (await client.orders.restart_and_wait(order_id)).current_status

    async def enters() -> str:
        async with FakeTrooper() as fake:
            return await waits(fake, fake.add_order().order_id)

    with FakeTrooper() as fake:
        order = fake.add_order()
        for _ in range(2):
            with asyncio.Runner(loop_factory=new_loop) as runner:
                assert runner.run(waits(fake, order.order_id)) == "running"
    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(enters()) == "running"


def test_entering_the_fake_needs_no_event_loop() -> None:
    """`async with` awaits nothing, so it works under any async library, including trio."""
    fake = FakeTrooper()
    for coroutine in (fake.__aenter__(), fake.__aexit__(None, None, None)):
        with pytest.raises(StopIteration):  # it ends at the first step
            coroutine.send(None)
    assert threads() == []


async def test_the_fake_responds_while_the_tests_loop_is_blocked() -> None:
    """A test that blocks its own loop gets its response nevertheless."""
    with FakeTrooper() as fake:
        assert get(fake, "/api/test") == {"test": "meinstring5"}


# --- who may change it --------------------------------------------------------------------------------------------


def test_concurrent_changes_are_neither_lost_nor_mixed() -> None:
    """Controls used by eight threads at once, while eight others read: every change is there at the end."""
    with FakeTrooper() as fake, ThreadPoolExecutor(16) as pool:

        def changes(_: int) -> None:
            orders = [fake.add_order() for _ in range(10)]
            for order in orders:
                fake.set_status(order, "stopped")
                fake.fail_next("/api/blibs")
            fake.remove_order(orders[-1])

        def reads(_: int) -> None:
            for _ in range(5):
                get(fake, "/api/orders")

        for done in [*pool.map(changes, range(8)), *pool.map(reads, range(8))]:
            assert done is None
        rows = get(fake, "/api/orders")
        assert len({row["order_id"] for row in rows}) == len(rows) == 8 * 9
        assert {row["status"] for row in rows} == {"stopped"}
        failed = 0
        while True:
            try:
                get(fake, "/api/blibs")
                break
            except urllib.error.HTTPError as error:
                error.close()
                failed += 1
        assert failed == 80


def test_a_control_applies_to_the_next_request() -> None:
    """The change has happened when the call returns, two hundred times in a row."""
    with FakeTrooper() as fake:
        order = fake.add_order()
        for number in range(200):
            fake.set_status(order, f"word-{number}")
            assert get(fake, "/api/orders")[0]["status"] == f"word-{number}"


async def test_a_response_is_held_until_it_is_released() -> None:
    """A held request was carried out at `arrived`, and its response, of that moment, is sent after `release`."""
    async with FakeTrooper() as fake, fake.client() as client:
        order = fake.add_order(status="stopped")
        with fake.hold_next("/api/orders") as hold:
            assert repr(hold) == "<Hold /api/orders to come>"
            reading = asyncio.create_task(client.orders.list())
            await hold.arrived()
            fake.set_status(order, "running")
            assert [request.path for request in fake.requests] == ["/api/orders"]
            assert await client.ping() == "meinstring5"  # other paths are not held
            assert not reading.done()
            assert repr(hold) == "<Hold /api/orders held>"
        assert [row.current_status for row in await reading] == ["stopped"]
        assert repr(hold) == "<Hold /api/orders released>"
        hold.release()  # again, and nothing happens


def test_blocking_code_can_hold_a_response() -> None:
    """`wait_arrived` and `release` do the same without an event loop."""
    with FakeTrooper() as fake, ThreadPoolExecutor(1) as pool, fake.hold_next("/api/test") as hold:
        asked = pool.submit(get, fake, "/api/test")
        hold.wait_arrived()
        assert not asked.done()
        hold.release()
        assert asked.result(60) == {"test": "meinstring5"}


async def test_a_request_that_does_not_arrive_is_reported() -> None:
    """Waiting for it fails with the path; a hold that was already released holds nothing."""
    async with FakeTrooper() as fake, fake.client() as client:
        hold = fake.hold_next("/api/test")
        with pytest.raises(TimeoutError, match="no request to /api/test arrived within"):
            await hold.arrived(timeout=0.01)
        with pytest.raises(TimeoutError, match="no request to /api/test arrived within"):
            hold.wait_arrived(timeout=0.01)
        hold.release()
        assert await client.ping() == "meinstring5"
        await hold.arrived()
        with pytest.raises(ValueError, match="no endpoint '/api/tests'"):
            fake.hold_next("/api/tests")


async def test_a_client_that_hangs_up_is_not_waited_for() -> None:
    """A client that gives up while it is held does no harm: its hold can be released, and the next request works."""
    async with FakeTrooper() as fake, aiohttp.ClientSession() as session:
        hold = fake.hold_next("/api/test")
        asking = asyncio.create_task(session.get(f"{fake.url}/api/test"))
        await hold.arrived()
        asking.cancel()
        await asyncio.wait([asking])
        hold.release()
        async with session.get(f"{fake.url}/api/test") as response:
            assert response.status == 200


# --- the end ------------------------------------------------------------------------------------------------------


async def test_closing_leaves_nothing_behind() -> None:
    """Closing is quick and leaves no thread and no task, even with held responses and clients that hung up."""
    tasks = asyncio.all_tasks()
    async with aiohttp.ClientSession() as session:
        with FakeTrooper() as fake:
            fake.delay_next("/api/test", LONG, times=5)
            fake.hold_next("/api/test")
            calls = [asyncio.create_task(session.get(f"{fake.url}/api/test")) for _ in range(6)]
            await arrived(fake, len(calls))
            for call in calls[:3]:
                call.cancel()
            left = time.monotonic()
        assert time.monotonic() - left < LONG / 10
        assert threads() == []
        assert asyncio.all_tasks() <= tasks | set(calls)
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(end, BaseException) for end in ends)
    gc.collect()  # an unclosed socket would warn, and a warning is an error here


def test_a_client_that_does_not_read_does_not_delay_closing() -> None:
    """Closing does not wait for a response of megabytes that nobody reads."""
    with FakeTrooper() as fake, socket.create_connection(("127.0.0.1", int(fake.url.rpartition(":")[2]))) as client:
        fake.fail_next("/api/test", body="x" * 50_000_000)
        client.sendall(b"GET /api/test HTTP/1.1\r\nHost: fake\r\n\r\n")
        assert client.recv(1) == b"H"
        fake.close()
        assert threads() == []


def test_connections_made_during_closing_are_closed() -> None:
    """A connection made while the fake is closing is closed too: no socket is left for the garbage collector."""
    for _ in range(30):
        with ExitStack() as stack, FakeTrooper() as fake:
            address = ("127.0.0.1", int(fake.url.rpartition(":")[2]))
            for _ in range(8):
                stack.enter_context(socket.create_connection(address))
    gc.collect()  # an unclosed socket would warn, and a warning is an error here


def test_a_fake_can_be_closed_twice_and_restarted() -> None:
    """A second close does nothing; a second start while it runs is an error; after a close it starts anew."""
    fake = FakeTrooper()
    fake.close()
    fake.start()
    with pytest.raises(RuntimeError, match="is running already"):
        fake.start()
    assert len(threads()) == 1
    fake.close()
    fake.close()
    assert threads() == []
    with fake:
        assert get(fake, "/api/test") == {"test": "meinstring5"}


def test_closing_from_two_threads_is_closing_once() -> None:
    """Whoever closes it, and how often at once: the thread ends, and nobody waits forever."""
    for _ in range(20):
        fake = FakeTrooper()
        fake.start()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: fake.close(), range(4)))  # noqa: B023 - they end within the loop
        assert threads() == []


def test_a_fake_that_was_not_closed_warns() -> None:
    """A fake that nobody closed stops when it is no longer referenced, with a warning that is shown by default."""
    fake = FakeTrooper()
    fake.start()
    url = fake.url
    get(fake, "/api/test")
    with pytest.warns(RuntimeWarning, match=f"FakeTrooper at {url} was never closed: use `with FakeTrooper"):
        del fake
    assert threads() == []


def test_a_reset_restores_the_initial_state() -> None:
    """After `reset` orders, requests, faults and changed durations and offers are gone, and ids begin again."""
    with FakeTrooper(durations={"stop": 3}) as fake:
        first = fake.add_order(status="stopped")
        fake.durations["stop"] = 60
        fake.blibs[1].is_available = False
        fake.fail_next("/api/test")
        get(fake, "/api/orders")
        fake.reset()

        assert fake.requests == []
        assert (fake.durations["stop"], fake.blibs[1].is_available) == (3, True)
        assert get(fake, "/api/test") == {"test": "meinstring5"}
        assert get(fake, "/api/orders") == []
        assert fake.add_order().order_id == first.order_id


def test_the_clock_only_goes_forward() -> None:
    """`advance` by a negative number is a ValueError."""
    fake = FakeTrooper()
    for seconds in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="at least 0 seconds"):
            fake.advance(seconds)
