"""Hostile responses: each ends in its own error, and no more of it is read than allowed.

What each costs in memory and time is measured by `python -m tests.tools.hostile`, in processes of their own.
"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import Any

import pytest

from tests.tools.hostile import answers
from tests.tools.hostile.__main__ import ALLOWED_MIB, slow, wrong
from tests.tools.hostile.answers import BY_NAME, HOSTILE, LEGITIMATE, MIB, ODD, Hostile
from tests.tools.hostile.measure import Measured
from tests.tools.hostile.server import HostileServer
from trooper_async import (
    APIConnectionError,
    APITimeoutError,
    Order,
    OutcomeUnknownError,
    ResponseFormatError,
    RetryPolicy,
    TrooperClient,
    TrooperError,
)
from trooper_async._base import slices
from trooper_async._base.converter import structure

KEY = "tk-0123456789"
IN_FLIGHT = 16 * MIB
"""What the kernel's buffers may hold of what nobody reads."""


def client(server: HostileServer, **options: Any) -> TrooperClient:
    return TrooperClient(KEY, base_url=server.url, **{"retry": RetryPolicy(attempts=1), **options})


@pytest.mark.parametrize("answer", HOSTILE, ids=lambda answer: answer.name)
async def test_a_hostile_response_is_its_stated_error(answer: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the stated class, and the amount read is limited wherever size, not time, ends it."""
    monkeypatch.setattr(answers, "large", 2 * MIB)
    cap = 64 * MIB if answer.error is APIConnectionError or answer.decoded else 4 * MIB
    timeout, calls = 0.1 if answer.needs_deadline else 30.0, 0
    async with asyncio.timeout(60), HostileServer(answer) as server:
        while True:
            async with client(server, max_body_bytes=cap, timeout=timeout) as trooper:
                with pytest.raises(TrooperError) as caught:
                    await trooper.orders.list()
            timeout, calls = 4 * timeout, calls + 1
            if server.requests:  # else the deadline has passed before the request arrived, which shows nothing
                break

    assert type(caught.value) is answer.error
    assert caught.value.attempts == 1
    assert server.requests <= calls
    assert answer.needs_deadline or server.sent <= cap + IN_FLIGHT
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("answer", ODD, ids=lambda answer: answer.name)
async def test_an_unexpected_value_affects_only_its_field(answer: Hostile) -> None:
    """An unexpected value in an optional field does not make its order, or the list, unreadable."""
    async with HostileServer(answer) as server, client(server) as trooper:
        (order,) = await trooper.orders.list()

    assert (order.order_id, order.current_status, server.requests) == (7, "running", 1)


async def test_a_list_of_20_000_orders_is_read() -> None:
    """A large but legitimate list (about 12 MB) is accepted."""
    async with HostileServer(LEGITIMATE) as server, client(server) as trooper:
        orders = await trooper.orders.list()

    assert len(orders) == 20_000
    assert server.sent > 10 * MIB
    assert orders[-1].server_id == 20_000


@pytest.mark.parametrize("name", ["gzip bomb, 1 MB to 1 GiB", "200 KB header", "100,000 nested brackets", "NaN"])
async def test_a_once_only_call_with_a_hostile_response_is_unknown(name: str) -> None:
    """It was sent, and the response proves nothing: sent once, and its outcome is unknown."""
    async with HostileServer(BY_NAME[name]) as server, client(server, max_body_bytes=MIB) as trooper:
        with pytest.raises(OutcomeUnknownError):
            await trooper.templates.retry(5)

    assert server.requests == 1


async def test_the_client_works_after_a_hostile_response() -> None:
    """The connection of a hostile response is not reused, and the next response is read."""
    for name in ("gzip bomb, 0.5 MB to 512 MiB", "endless chunked body", "content-length too small", "endless headers"):
        async with HostileServer(BY_NAME[name]) as server, client(server, max_body_bytes=MIB) as trooper:
            with pytest.raises(TrooperError):
                await trooper.orders.list()
            server.innocent = 9

            assert [order.order_id for order in await trooper.orders.list()] == [1]


async def test_retries_do_not_accumulate_bodies() -> None:
    """An incomplete body is freed at once, not when the garbage collector reaches aiohttp's exceptions."""
    piece = b" " * 65536
    cut = Hostile(
        "8 MiB, then cut",
        lambda: iter([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"10000\r\n%b\r\n" % piece] * 128]),
        APIConnectionError,
    )
    gc.disable()
    tracemalloc.start()
    try:
        async with (
            HostileServer(cut) as server,
            client(server, retry=RetryPolicy(attempts=4, max_delay=0.0)) as trooper,
        ):
            with pytest.raises(APIConnectionError):
                await trooper.orders.list()
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()

    assert server.requests == 4
    assert peak > 8 * MIB, "it was read"
    assert left < 4 * MIB


async def test_the_event_loop_runs_while_a_bomb_is_decompressed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two pieces of a body the loop runs once a slice is over: a bomb is never decompressed in one go."""
    monkeypatch.setattr(slices, "_SLICE", 0.0)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with HostileServer(BY_NAME["gzip bomb, 1 MB to 1 GiB"]) as server, client(server) as trooper:
        task = asyncio.create_task(other())
        with pytest.raises(ResponseFormatError):
            await trooper.orders.list()
        task.cancel()

    assert turns > 50  # for 64 MiB


@pytest.mark.parametrize(
    ("rows", "path"),
    [
        ([{}] * 300_000, "$[0].order_id"),
        ([{"order_id": 1, "status": "x"}, *[7] * 300_000], "$[1]"),
    ],
    ids=["objects", "numbers"],
)
def test_of_many_invalid_rows_the_first_is_named(rows: list[Any], path: str) -> None:
    """A list of only invalid rows costs one error, not as many as it has rows."""
    tracemalloc.start()
    try:
        with pytest.raises(ResponseFormatError) as caught:
            structure(rows, list[Order])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert caught.value.path == path
    assert peak < 4 * MIB


def test_the_verdict_of_the_table() -> None:
    """A wrong error and too much memory are failures; a stall and a late end are reported separately."""
    answer = Hostile("x", lambda: iter([]), APITimeoutError)
    fine = Measured(outcome="APITimeoutError", attempts=1, peak_mib=60.0, stall_ms=5.0, seconds=1.0)

    assert (wrong(answer, fine), slow(answer, fine)) == ([], [])
    assert wrong(answer, {**fine, "outcome": "untyped: ValueError"}) == ["not APITimeoutError"]
    assert wrong(answer, {**fine, "outcome": "exit -9"}) == ["not APITimeoutError"]
    assert wrong(answer, {**fine, "peak_mib": ALLOWED_MIB + 1.0}) == ["memory"]
    assert slow(answer, {**fine, "stall_ms": 101.0, "seconds": 7.0}) == ["stalled", "late"]
    assert wrong(LEGITIMATE, {**fine, "outcome": "20000 orders"}) == []
