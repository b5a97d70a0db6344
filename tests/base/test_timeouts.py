"""Deadlines behave as asyncio's do, and also in a task that was cancelled before, on every supported Python."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import pytest

from tests.helpers.clock import forward
from tests.helpers.conditions import until
from tests.helpers.raw_server import SILENCE, RawServer
from trooper_async import APIConnectionError, APITimeoutError, RetryPolicy
from trooper_async._base import timeouts
from trooper_async._base.timeouts import timeout, timeout_at


class AsInPython3112:
    """`asyncio.Timeout` as Python 3.11.2 has it: it forgets that the task may have been cancelled before."""

    def __init__(self, when: float | None) -> None:
        self._when = when
        self._expired = False

    def expired(self) -> bool:
        return self._expired

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        loop = asyncio.get_running_loop()
        self._handle = None if self._when is None else loop.call_at(self._when, self._expire)
        return self

    def _expire(self) -> None:
        self._task.cancel()
        self._expired = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if self._expired and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TimeoutError


@pytest.fixture(params=["this Python", "3.11.2"])
def _python(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "3.11.2":
        monkeypatch.setattr(asyncio, "timeout_at", AsInPython3112)
        monkeypatch.setattr(timeouts, "BROKEN", True)


pytestmark = pytest.mark.usefixtures("_python")


async def after_a_cancellation(work: Callable[[], Awaitable[object]]) -> object:
    """What `work` returns or raises in a task that was cancelled and goes on, as clean-up does."""

    async def main() -> object:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return await work()
        raise AssertionError("not cancelled")

    task = asyncio.create_task(main())
    await asyncio.sleep(0)
    task.cancel()
    return await task


async def never() -> None:
    await asyncio.Event().wait()


async def test_the_deadline_ends_the_block_with_a_timeout_error() -> None:
    """At its deadline the block is left with TimeoutError, and the task is not cancelled."""
    limit = timeout(0.001)
    with pytest.raises(TimeoutError):
        async with limit:
            await never()
    assert limit.expired()
    with pytest.raises(TimeoutError):
        async with timeout_at(asyncio.get_running_loop().time() - 1):
            await never()
    assert timeouts.cancellations() == 0


async def test_a_block_that_ends_in_time_does_not_time_out() -> None:
    """A block that ends in time is left as if there were no deadline; None means no deadline."""
    for seconds in (60.0, None):
        async with timeout(seconds) as limit:
            await asyncio.sleep(0)
        assert not limit.expired()


async def test_a_deadline_works_in_a_task_that_was_cancelled_before() -> None:
    """A task that was cancelled once and goes on gets TimeoutError, and its own cancellation stays counted."""

    async def work() -> int:
        with pytest.raises(TimeoutError):
            async with timeout(0.001):
                await never()
        return timeouts.cancellations()

    assert await after_a_cancellation(work) == 1


async def test_of_two_deadlines_the_one_that_passed_raises() -> None:
    """An outer deadline that has not passed does not swallow the inner one's TimeoutError, nor the reverse."""

    async def work() -> None:
        async with timeout(60.0) as outer:
            with pytest.raises(TimeoutError):
                async with timeout(0.001):
                    await never()
        assert not outer.expired()
        inner = timeout(60.0)
        with pytest.raises(TimeoutError):
            async with timeout(0.001), inner:
                await never()
        assert not inner.expired()

    await after_a_cancellation(work)


async def test_a_cancellation_from_outside_wins_over_a_deadline() -> None:
    """If a task is cancelled at the moment its deadline passes, it is cancelled and does not time out."""

    async def work() -> None:
        async with timeout(0.0):
            asyncio.get_running_loop().call_soon(task.cancel)
            await never()

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_request_times_out_in_a_task_that_was_cancelled_before() -> None:
    """A response that is late is an APITimeoutError and is retried, also in clean-up after Ctrl-C."""

    async def work() -> None:
        async with RawServer(SILENCE) as wire:

            async def let_time_pass() -> None:
                for requests in (1, 2):
                    await until(lambda: len(wire.requests) == requests)  # noqa: B023 - it is over within the loop
                    forward(30)

            passing = asyncio.create_task(let_time_pass())
            retry = RetryPolicy(attempts=2, max_delay=0.0, deadline=None)
            async with wire.client(timeout=20.0, retry=retry) as client:
                with pytest.raises(APITimeoutError) as caught:
                    await client.ping()
            await passing
            assert caught.value.attempts == len(wire.requests) == 2

    await after_a_cancellation(work)


async def test_a_connection_times_out_in_a_task_that_was_cancelled_before() -> None:
    """If a connection is not made in time, nothing was sent, so even a once-only call is retried."""

    async def work() -> None:
        async with RawServer(SILENCE) as wire:

            async def let_time_pass() -> None:
                for connections in (1, 2):
                    await until(lambda: wire.connections == connections)  # noqa: B023 - it is over within the loop
                    forward(11)  # aiohttp rounds a limit of more than 5 s up to a full second of the clock

            passing = asyncio.create_task(let_time_pass())
            retry = RetryPolicy(attempts=2, max_delay=0.0)
            url = wire.url.replace("http:", "https:")  # the handshake never ends
            async with wire.client(base_url=url, retry=retry) as client:
                with pytest.raises(APIConnectionError, match="no connection") as caught:
                    await client.templates.retry(5)
            await passing
            assert (caught.value.attempts, wire.requests) == (2, [])

    await after_a_cancellation(work)


async def test_the_simulated_python_has_the_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without our own deadlines, the clean-up above is cancelled on this Python: the simulation can fail."""
    monkeypatch.setattr(timeouts, "BROKEN", False)
    monkeypatch.setattr(asyncio, "timeout_at", AsInPython3112)

    async def work() -> None:
        async with timeout(0.001):
            await never()

    with pytest.raises(asyncio.CancelledError):
        await after_a_cancellation(work)
