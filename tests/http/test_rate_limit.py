"""A 429 slows the client down instead of failing the call: a thousand calls at sixty a minute, on virtual time."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest

from tests.tools.simulator.clock import run
from tests.tools.simulator.script import Script, reply, row
from trooper_async import RateLimitError, RetryPolicy
from trooper_async._api.endpoints import Call
from trooper_async._api.responses import FailedAttempt, Response
from trooper_async._http.wire import CONNECT

Limiter = Callable[[float], float | None]
"""At a time: None where the request is allowed, else the seconds until one will be."""


def window() -> Limiter:
    """Sixty per minute of the clock."""
    seen: dict[int, int] = {}

    def limit(now: float) -> float | None:
        minute = int(now // 60)
        seen[minute] = seen.get(minute, 0) + 1
        return None if seen[minute] <= 60 else 60 - now % 60

    return limit


def sliding() -> Limiter:
    """Sixty in any sixty seconds."""
    allowed: list[float] = []

    def limit(now: float) -> float | None:
        while allowed and allowed[0] <= now - 60:
            del allowed[0]
        if len(allowed) < 60:
            allowed.append(now)
            return None
        return allowed[0] + 60 - now

    return limit


def bucket() -> Limiter:
    """One token per second, and up to five in reserve."""
    tokens, at = 5.0, 1000.0

    def limit(now: float) -> float | None:
        nonlocal tokens, at
        tokens, at = min(5.0, tokens + now - at), now
        if tokens >= 1:
            tokens -= 1
            return None
        return 1 - tokens

    return limit


@pytest.mark.parametrize("told", [True, False], ids=["Retry-After", "no Retry-After"])
@pytest.mark.parametrize("limiter", [window, sliding, bucket])
def test_a_thousand_calls_at_sixty_a_minute_all_succeed(limiter: Callable[[], Limiter], told: bool) -> None:
    """With the default policy: at most 1.3 requests per call, 90 % of the allowed rate or more; the poll goes on."""

    async def main() -> tuple[int, float, list[float]]:
        limit, requests = limiter(), 0

        async def answer(call: Call[Any]) -> Response | FailedAttempt:
            nonlocal requests
            requests += 1
            await asyncio.sleep(0.05)
            wait = limit(asyncio.get_running_loop().time())
            await asyncio.sleep(0.05)
            if wait is None:
                return reply({"test": "ok"})
            return reply({}, 429, **({"Retry_After": str(math.ceil(wait))} if told else {}))

        script = Script(lambda t: [row(1, "running")], answer)
        async with script.client() as client:
            began = asyncio.get_running_loop().time()
            watching = asyncio.create_task(client.orders.wait_until(1, lambda order: False, timeout=None))
            assert set(await asyncio.gather(*(client.ping() for _ in range(1000)))) == {"ok"}
            watching.cancel()
            return requests, asyncio.get_running_loop().time() - began, script.polls

    requests, seconds, polls = run(main())
    assert requests <= 1300
    assert seconds <= 1000 / 0.9
    assert max(later - earlier for earlier, later in itertools.pairwise(polls)) <= 31


def always_429(until: float, **headers: str) -> Script:
    """An API that responds with 429 until then."""

    async def answer(call: Call[Any]) -> Response:
        await asyncio.sleep(0.1)
        return reply({"test": "ok"}) if asyncio.get_running_loop().time() >= until else reply({}, 429, **headers)

    return Script(lambda t: [], answer)


def test_retry_after_is_used_as_the_pause() -> None:
    """Fourteen 429s in a row, each with `Retry-After: 0`, take seconds: nothing is added to the API's figure."""

    async def main() -> float:
        left = 14

        async def answer(call: Call[Any]) -> Response:
            nonlocal left
            left -= 1
            return reply({}, 429, Retry_After="0") if left >= 0 else reply({"test": "ok"})

        async with Script(lambda t: [], answer).client() as client:
            began = asyncio.get_running_loop().time()
            assert await client.ping() == "ok"
            return asyncio.get_running_loop().time() - began

    assert run(main()) < 10


def test_an_endless_429_fails_all_calls_within_minutes() -> None:
    """If no call gets through, a hundred calls raise RateLimitError within minutes, not one after the other."""

    async def main() -> tuple[float, list[float], int]:
        script = always_429(1e9, Retry_After="5")
        async with script.client() as client:
            began = asyncio.get_running_loop().time()
            errors = await asyncio.gather(*(client.ping() for _ in range(100)), return_exceptions=True)
            assert {type(error) for error in errors} == {RateLimitError}
            seconds = [error.seconds for error in errors if isinstance(error, RateLimitError)]
            return asyncio.get_running_loop().time() - began, seconds, len(script.sent)

    took, seconds, requests = run(main())
    assert took < 180
    assert min(seconds) >= 55
    assert requests < 150


@pytest.mark.parametrize(("retry_after", "passes"), [("60", True), ("61", False)])
def test_a_pause_as_long_as_the_deadline_is_waited_out(retry_after: str, passes: bool) -> None:
    """A limit per minute may return `Retry-After: 60`, and the default deadline is a minute."""

    async def main() -> None:
        async with always_429(1050, Retry_After=retry_after).client() as client:
            if passes:
                assert await client.ping() == "ok"
            else:
                with pytest.raises(RateLimitError):
                    await client.ping()

    run(main())


def test_after_a_pause_beyond_the_deadline_a_read_has_time_to_connect() -> None:
    """The attempt is not cut at once."""

    async def main() -> list[float]:
        script = always_429(1060.1, Retry_After="60")
        async with script.client() as client:
            await client.ping()
        return script.limits

    assert run(main()) == [60 + CONNECT, CONNECT]


@pytest.mark.parametrize(("pause", "deadline"), [(60.5, 60.0), (0.5, 0.25)])
def test_a_call_that_the_pause_would_outlast_fails_at_once(pause: float, deadline: float) -> None:
    """If the pause is longer than the call may take, even by less than a second, it neither waits nor is sent."""

    async def main() -> None:
        script = always_429(1e9, Retry_After=str(pause))
        async with script.client(retry=RetryPolicy(deadline=deadline)) as client:
            with pytest.raises(RateLimitError):
                await client.ping()
            began = asyncio.get_running_loop().time()
            with pytest.raises(
                RateLimitError, match=r"429: rate limited for longer than this call may wait\. "
            ) as caught:
                await client.ping()
            assert asyncio.get_running_loop().time() == began
            assert caught.value.retry_after == pytest.approx(pause)
            assert (caught.value.attempts, len(script.sent)) == (0, 1)

    run(main())


def test_a_failing_api_gets_few_retries() -> None:
    """The budget: a thousand calls of an API that returns 500 cost at most 1.1 requests each, plus twelve."""

    async def main() -> int:
        requests = 0

        async def answer(call: Call[Any]) -> Response | FailedAttempt:
            nonlocal requests
            requests += 1
            await asyncio.sleep(0.05)
            return reply({"error": "down"}, 500)

        async with Script(lambda t: [], answer).client() as client:
            await asyncio.gather(*(client.ping() for _ in range(1000)), return_exceptions=True)
        return requests

    assert run(main()) <= 1.1 * 1000 + 12
