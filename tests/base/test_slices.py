"""Long work lets the event loop run in between: decoding a list, and notifying many waiters."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from tests.helpers.conditions import until
from tests.waiting.test_store import body_of, first_of, numbered, opened, row_of
from trooper_async import ClientClosedError, PollSchedule, TrooperClient
from trooper_async._api.endpoints import ORDERS, Call
from trooper_async._api.responses import Response, interpret
from trooper_async._base import slices
from trooper_async._base.slices import SlicedWork, in_slices
from trooper_async._waiting.store import Snapshot
from trooper_async._waiting.waits import ORDER_LIST
from trooper_async.models import Order

# In slices ----------------------------------------------------------------------------------------------------------


def _pauses(steps: SlicedWork[Any]) -> int:
    return sum(1 for _ in steps)


def test_a_decode_may_pause_after_every_row() -> None:
    """A decode may pause after each row that it decodes and each run that it takes over, also in a plain list."""
    body = body_of(*numbered(50))
    assert _pauses(Snapshot(ORDER_LIST).next(opened(body))) == 50
    assert _pauses(interpret(Call(ORDERS, "x"), Response(200, {}, body), redact=str, now=0.0)) == 50
    assert _pauses(first_of(*numbered(50)).next(opened(body_of(*numbered(49), row_of(51))))) == 2


async def test_the_event_loop_runs_after_each_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop gets a turn whenever a slice is used up, and not before."""
    clock = itertools.count()
    monkeypatch.setattr("trooper_async._base.slices.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr(slices, "_SLICE", 4)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def steps() -> SlicedWork[None]:
        yield from [None] * 40

    task = asyncio.create_task(other())
    await in_slices(steps())
    task.cancel()
    assert turns == 10


async def test_a_cancelled_decode_stops_and_holds_nothing() -> None:
    """Cancelling a decode stops it where it is, and nothing keeps a reference to it."""
    ended = False

    def endless() -> SlicedWork[None]:
        nonlocal ended
        try:
            while True:
                yield
        finally:
            ended = True

    task = asyncio.create_task(in_slices(endless()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended


# While others wait --------------------------------------------------------------------------------------------------


class Api:
    """Returns a list of orders for each poll; `during` is called while the response is decoded."""

    def __init__(self, client: TrooperClient, rows: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows = rows
        self.polls = 0
        self.during: Callable[[], object] | None = None
        monkeypatch.setattr(client._transport.wire, "send", self.fetch)
        monkeypatch.setattr(slices, "_SLICE", 0.0)  # a turn after each row

    def has_responded(self, polls: int) -> bool:
        return self.polls >= polls

    async def fetch(self, call: object, **options: object) -> Response:
        await asyncio.sleep(0)
        self.polls += 1
        if self.during is not None:
            asyncio.get_running_loop().call_soon(self.during)
            self.during = None
        return Response(200, {}, body_of(*self.rows))


@pytest.fixture
async def client() -> AsyncIterator[TrooperClient]:
    async with TrooperClient("tk-0123456789", poll=PollSchedule(floor=0.01, cap=0.02)) as client:
        yield client


async def test_a_wait_that_begins_during_a_decode_ignores_that_response(
    client: TrooperClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A response that is being decoded was requested before the wait began, so it proves nothing to that wait."""
    api = Api(client, numbered(20), monkeypatch)
    late: list[tuple[int, asyncio.Task[tuple[Order, int]]]] = []

    async def wait() -> tuple[Order, int]:
        return await client.orders.wait_until(5, "running", timeout=5), api.polls

    api.during = lambda: late.append((api.polls, asyncio.create_task(wait())))
    await client.orders.wait_until(7, "running", timeout=5)
    (began, task), (_, ended) = late[0], await late[0][1]
    assert began == 1
    assert ended >= 2
    assert task.done()


async def test_closing_during_a_decode_fails_the_waits(client: TrooperClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the client is closed while a response is decoded, its waits fail, and half a response is never used."""
    api = Api(client, numbered(200), monkeypatch)
    closing: list[asyncio.Task[None]] = []
    api.during = lambda: closing.append(asyncio.create_task(client.close()))
    with pytest.raises(ClientClosedError):
        await client.orders.wait_until(7, "running", timeout=5)
    await closing[0]
    assert client._waits.orders.store.latest.rows == {}


async def test_the_event_loop_runs_between_notified_waiters(
    client: TrooperClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When many waiters finish at once, a few do so in each turn of the loop; so too when the client is closed."""
    api = Api(client, numbered(1), monkeypatch)
    turn = 0

    async def turning() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    async def wait() -> int:
        with suppress(ClientClosedError):
            await client.orders.wait_until(1, "stopped", timeout=20)
        return turn

    async with asyncio.TaskGroup() as group:
        turner = group.create_task(turning())
        for end in (lambda: api.rows.__setitem__(0, row_of(1, "stopped")), client.close):
            api.rows[:] = numbered(1)
            waits = [asyncio.create_task(wait()) for _ in range(640)]
            await until(partial(api.has_responded, api.polls + 2))
            if (ending := end()) is not None:
                await ending
            ends = Counter(await asyncio.gather(*waits))
            assert len(ends) >= 10
            assert max(ends.values()) <= 64
        turner.cancel()


async def test_a_cancelled_wait_is_not_notified(client: TrooperClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that is cancelled while others are notified is not evaluated any more, and leaves nothing behind."""
    Api(client, numbered(1), monkeypatch)
    asked: list[int] = []

    def predicate(number: int, order: Order) -> bool:
        asked.append(number)
        return number == 0

    async def first() -> None:
        await client.orders.wait_until(1, partial(predicate, 0), timeout=20)
        for task in others[150:]:
            task.cancel()

    ending = asyncio.create_task(first())
    others = [
        asyncio.create_task(client.orders.wait_until(1, partial(predicate, number), timeout=20))
        for number in range(1, 300)
    ]
    await ending
    await asyncio.wait(others[150:])
    assert set(asked) <= set(range(151))
    for task in others:
        task.cancel()
    await asyncio.wait(others)
    assert not client._waits.orders._every_poll


async def test_a_cancelled_close_still_ends_all_waits(client: TrooperClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if `close` is cancelled, all waits have ended."""
    api = Api(client, numbered(1), monkeypatch)
    waits = [asyncio.create_task(client.orders.wait_until(1, "stopped", timeout=20)) for _ in range(640)]
    await until(partial(api.has_responded, 1))
    closing = asyncio.create_task(client.close())
    await until(lambda: any(wait.done() for wait in waits))
    closing.cancel()
    results = await asyncio.gather(*waits, return_exceptions=True)
    assert {type(result) for result in results} == {ClientClosedError}
    with suppress(asyncio.CancelledError):
        await closing


async def test_at_most_a_hundred_unreadable_rows_are_logged_one_by_one(
    client: TrooperClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If every row is unreadable, the first hundred are logged one by one and the others as one count."""
    api = Api(client, [*numbered(150, status=5), row_of(151)], monkeypatch)
    waiting = asyncio.create_task(client.orders.wait_until(151, "stopped", timeout=None))
    await until(partial(api.has_responded, 3))
    waiting.cancel()
    await asyncio.wait([waiting])
    lines = [record.getMessage() for record in caplog.records if "can't be read" in record.getMessage()]
    assert len(lines) == 101
    assert lines[-1] == "50 more rows of the orders can't be read"
