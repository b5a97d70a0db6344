"""Polls that fail for a while: what is tolerated, for how long, and who is notified."""

from __future__ import annotations

import asyncio
import logging
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.tools.simulator.clock import run
from tests.tools.simulator.script import Script, reply, row
from trooper_async import Order, OrderChange, Outage, Transition, WaitTimeoutError
from trooper_async._api.responses import Response

STOP = Transition(1, "stop", "stopped")


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize(
    ("status", "headers", "longest"),
    [
        (503, {"Retry-After": "3600"}, 31),
        (503, {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, 31),
        (429, {"Retry-After": "3600"}, 121),
    ],
    ids=["an hour", "the year 9999", "rate limited"],
)
def test_a_long_retry_after_does_not_stop_the_polls(status: int, headers: dict[str, str], longest: float) -> None:
    """A pause that the API asks for is honoured up to the cap, after a 429 up to two minutes."""

    async def main() -> float:
        script = Script(lambda t: [row(1, "stopped")])
        answers = iter([Response(status, headers, b"{}")])
        script.orders = lambda t: next(answers, [row(1, "stopped")])
        async with script.client() as client:
            began = now()
            await client.orders.wait(STOP)
            return now() - began

    assert run(main()) < longest


def test_a_list_read_elsewhere_ends_the_pause() -> None:
    """If `list()` succeeds, so may the poll: waits do not sit out the pause of an earlier failure."""

    async def main() -> float:
        failures = iter([reply({}, 503, Retry_After="30")])
        async with Script(lambda t: next(failures, [row(1, "stopped")])).client() as client:
            began = now()
            waiting = asyncio.create_task(client.orders.wait(STOP))
            await asyncio.sleep(5)
            await client.orders.list()
            await waiting
            return now() - began

    assert run(main()) < 10


def test_a_rate_limited_wait_has_a_final_poll() -> None:
    """A wait whose deadline lies within the pause of a 429 still polls once before it."""

    async def main() -> Order:
        script = Script(lambda t: [])
        script.orders = lambda t: reply({}, 429, Retry_After="100") if len(script.polls) == 1 else [row(1, "stopped")]
        async with script.client() as client:
            return await client.orders.wait(STOP, timeout=20)

    assert run(main()).current_status == "stopped"


def test_a_429_of_a_poll_pauses_all_calls() -> None:
    """The pause that a poll gets counts for all calls of the client."""

    async def main() -> float:
        script = Script(lambda t: [])
        script.orders = lambda t: reply({}, 429, Retry_After="100") if len(script.polls) == 1 else [row(1, "stopped")]
        async with script.client() as client:
            waiting = asyncio.create_task(client.orders.wait(STOP, timeout=20))
            await asyncio.sleep(5)
            closed_for = client._transport._gate.opens_at - asyncio.get_running_loop().time()
            await waiting
            return closed_for

    assert 94 <= run(main()) <= 96


def test_a_wait_without_successful_polls_says_why_and_for_how_long() -> None:
    """Its timeout says how long no poll has succeeded, and how the last one failed."""

    async def main() -> WaitTimeoutError:
        async with Script(lambda t: reply({"error": "overloaded"}, 503)).client() as client:
            with pytest.raises(WaitTimeoutError) as caught:
                await client.orders.wait(STOP, timeout=60)
            return caught.value

    error = run(main())
    assert "never seen in the list" in str(error)
    assert "no poll has succeeded for 60 s: overloaded" in str(error)
    assert (error.polls, error.order) == (0, None)
    assert error.seconds == pytest.approx(60)


def test_an_outage_is_logged_when_it_begins_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    """Single failures are INFO; an outage is one WARNING, and its end is another."""
    caplog.set_level(logging.INFO, "trooper_async")

    async def main() -> None:
        def orders(t: float) -> Any:
            return reply({"error": "overloaded"}, 503) if 1010 < t < 1100 else [row(1, "running")]

        async with Script(orders).client() as client:
            with pytest.raises(WaitTimeoutError):
                await client.orders.wait(STOP, timeout=200)

    run(main())
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    failed, again = warnings
    assert re.fullmatch(r"the poll of the orders has failed for \d+ s: overloaded", failed)
    assert re.fullmatch(r"the poll of the orders succeeds again after \d+ s", again)
    single = next(record.getMessage() for record in caplog.records if record.levelno == logging.INFO)
    assert re.fullmatch(
        r"the poll of the orders: the API returned 503: overloaded \(1 attempt, \d\.\d s\)\. "
        r"A 5xx does not say whether anything was done: try again later; the next one is due in \d\.\d s",
        single,
    )


@pytest.mark.parametrize(("failures", "warnings"), [(1, 0), (2, 0), (3, 2)])
def test_three_failed_polls_in_a_row_are_an_outage(
    failures: int, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    """One or two failed polls log no warning; three in a row are an outage, which begins and ends."""

    async def main() -> None:
        script = Script(lambda t: [])
        script.orders = lambda t: reply({}, 503) if len(script.polls) <= failures else [row(1, "stopped")]
        async with script.client() as client:
            await client.orders.wait(STOP)

    run(main())
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == warnings


def test_watch_yields_an_outage_and_its_end() -> None:
    """`watch(outages=True)` yields since when polls have failed and why, and when they succeed again."""

    async def main() -> list[OrderChange | Outage]:
        def orders(t: float) -> Any:
            return reply({"error": "overloaded"}, 503) if 1010 < t < 1100 else [row(1, "running", price_h=t)]

        seen: list[OrderChange | Outage] = []
        async with Script(orders).client() as client, client.orders.watch(outages=True) as changes:
            async for change in changes:
                seen.append(change)
                if isinstance(change, Outage) and change.over:
                    return seen
        raise AssertionError("it ended")

    first, second = [one for one in run(main()) if isinstance(one, Outage)]
    assert not first.over
    assert first.error is not None
    assert first.error.message == "overloaded"
    assert second.over
    assert first.since == second.since
    assert datetime.now(UTC) - first.since > timedelta(seconds=1), "the third failed poll was the first to count"


def test_watch_yields_no_outages_by_default() -> None:
    """By default `watch` yields changes only."""

    async def main() -> None:
        def orders(t: float) -> Any:
            return reply({}, 503) if 1010 < t < 1100 else [row(1, "running" if t < 1050 else "stopped")]

        async with Script(orders).client() as client:
            changes = client.orders.watch()
            assert [(await anext(changes)).kind for _ in range(2)] == ["appeared", "changed"]
            await changes.aclose()

    run(main())
