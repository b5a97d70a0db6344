"""Closing the client: it completes however often its caller is cancelled; twice or concurrently is fine."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
import uvloop

from tests.helpers.clock import forward
from tests.helpers.conditions import until
from tests.helpers.raw_server import FAST
from tests.helpers.texts import exactly
from trooper_async import (
    Blib,
    ClientClosedError,
    ConfigurationError,
    OutcomeUnknownError,
    RetryPolicy,
    Transition,
    TrooperClient,
)
from trooper_async.testing import FakeTrooper

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def run_on(loop: str, main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main)


def is_closed(client: TrooperClient) -> bool:
    """Whether everything that a client closes is closed."""
    return not client._transport.wire.sessions.any_open and client._transport.closed() is not None


@pytest.mark.parametrize("loop", LOOPS)
def test_a_cancelled_scope_does_not_interrupt_close(loop: str, tmp_path: Path) -> None:
    """anyio cancels at each turn of the loop: sessions are closed, the ledger unlocked, the purchase awaited."""

    async def main() -> None:
        ledger = tmp_path / "ledger.jsonl"
        async with FakeTrooper() as fake:
            blib = (await _offers(fake))[0]
            client = fake.client(ledger=ledger)
            cancelling: asyncio.Task[None] | None = None
            with anyio.CancelScope() as scope, fake.hold_next("/api/order") as hold:

                async def cancel() -> None:
                    await hold.arrived()
                    scope.cancel()
                    for _ in range(50):
                        await asyncio.sleep(0)
                    hold.release()

                cancelling = asyncio.create_task(cancel())
                async with client:
                    await client.orders.create(blib, contract_interval="HOUR", terms_accepted=True)
            assert cancelling is not None
            await cancelling
            assert scope.cancelled_caught
            assert is_closed(client)
            assert [purchase.state for purchase in client.orders.purchases] == ["bought"]
            async with fake.client(ledger=ledger) as again:  # it is not locked
                assert len(again.orders.purchases) == 1

    run_on(loop, main())


async def _offers(fake: FakeTrooper) -> list[Blib]:
    async with fake.client() as client:
        return await client.blibs.list()


@pytest.mark.parametrize("loop", LOOPS)
def test_close_cancelled_at_any_await_completes(loop: str) -> None:
    """Wherever the cancellation comes, once or repeatedly, it takes effect only when everything is closed."""

    async def close_cancelled_after(fake: FakeTrooper, turns: int, times: int) -> bool:
        """Whether the cancellation came before the end."""
        fake.requests.clear()
        client = fake.client()
        waiting = asyncio.create_task(client.orders.wait_until(1, "stopped"))
        await until(lambda: fake.requests)
        with fake.hold_next("/api/templates") as hold:
            reading = asyncio.create_task(client.templates.list())
            await hold.arrived()
            closing = asyncio.create_task(client.close())
            for _ in range(turns):
                await asyncio.sleep(0)
            for _ in range(times):
                closing.cancel()
                await asyncio.sleep(0)
            with suppress(asyncio.CancelledError):
                await closing
            assert is_closed(client)
            for one in (waiting, reading):
                with pytest.raises(ClientClosedError):
                    await one
        return closing.cancelled()

    async def main() -> None:
        async with FakeTrooper() as fake:
            fake.add_order(order_id=1)
            before = asyncio.all_tasks()
            for times in (1, 3, 50):
                turns = 0
                for turns in range(1, 60):  # before its first turn it has not begun
                    if not await close_cancelled_after(fake, turns, times):
                        break
                assert 3 < turns < 59
            assert asyncio.all_tasks() == before

    run_on(loop, main())


async def test_close_may_be_called_twice_and_concurrently(fake_trooper: FakeTrooper) -> None:
    """All callers return once the client is closed."""
    client = fake_trooper.client()
    await client.ping()
    await asyncio.gather(*(client.close() for _ in range(5)))
    assert is_closed(client)
    await client.close()


async def test_a_cancelled_close_does_not_end_another(fake_trooper: FakeTrooper) -> None:
    """The closing belongs to the client, not to its first caller."""
    client = fake_trooper.client()
    await client.ping()
    first = asyncio.create_task(client.close())
    second = asyncio.create_task(client.close())
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert is_closed(client)
    assert first.done()


async def test_a_failure_in_close_leaves_nothing_open(
    fake_trooper: FakeTrooper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one part can't be closed the others are, and the error is raised."""
    client = fake_trooper.client()
    await client.ping()

    async def fails() -> None:
        raise OSError("disk full")

    monkeypatch.setattr(client._purchases, "close", fails)
    with pytest.raises(OSError, match="disk full"):
        await client.close()
    assert is_closed(client)


@pytest.mark.parametrize(
    "verb", ["stop", "start_and_wait", "stop_and_wait", "restart_and_wait", "freeze_and_wait", "restart"]
)
async def test_closing_with_an_action_in_flight_is_unknown(fake_trooper: FakeTrooper, verb: str) -> None:
    """What was sent is never reported as "nothing was sent": it is unknown, and can be waited for."""
    order = fake_trooper.add_order(status="stopped" if verb == "start_and_wait" else "running")
    async with fake_trooper.client(retry=FAST) as client:
        hold = fake_trooper.hold_next("/api/order-status")
        acting = asyncio.create_task(getattr(client.orders, verb)(order))
        await hold.arrived()
    with pytest.raises(OutcomeUnknownError) as caught:
        await acting
    assert "nothing was sent" not in str(caught.value)
    assert caught.value.transition is not None
    assert caught.value.transition.order_id == order.order_id


@pytest.mark.parametrize("action", ["start", "stop", "restart", "freeze"])
async def test_closing_with_a_fleets_action_in_flight_is_unknown(fake_trooper: FakeTrooper, action: str) -> None:
    """The same in a report: the next attempt, which the closed client refuses, does not hide the first one."""
    order = fake_trooper.add_order(status="stopped" if action == "start" else "running")
    async with fake_trooper.client(retry=FAST) as client:
        hold = fake_trooper.hold_next("/api/order-status")
        acting = asyncio.create_task(getattr(client.fleet, action)([order]))
        await hold.arrived()
    (outcome,) = (await acting).outcomes
    assert isinstance(outcome.error, OutcomeUnknownError)
    assert "nothing was sent" not in str(outcome.error)
    assert (outcome.sent, outcome.resumable) == (None, True)
    assert outcome.transition is not None


@pytest.mark.parametrize("action", ["start", "stop", "restart", "freeze"])
async def test_closing_during_a_wait_says_that_the_action_was_accepted(fake_trooper: FakeTrooper, action: str) -> None:
    """The wait says so, with the order and the transition, which another client can wait for."""
    order = fake_trooper.add_order(order_id=123, status="stopped" if action == "start" else "running")
    client = fake_trooper.client()
    await client.orders.list()
    with fake_trooper.hold_next("/api/order-status") as hold:
        acting = asyncio.create_task(getattr(client.orders, f"{action}_and_wait")(order))
        await hold.arrived()
        client._transport.stop()
    text = f"the API accepted the {action}, and the client was closed before it was confirmed. {ClientClosedError.hint}"
    with pytest.raises(ClientClosedError, match=exactly(f"orders.{action}_and_wait of order 123: {text}")) as caught:
        await acting
    await client.close()
    assert caught.value.transition is not None
    assert (caught.value.transition.order_id, caught.value.transition.action) == (123, action)
    async with fake_trooper.client() as another:
        await another.orders.wait(caught.value.transition)


async def test_closing_during_a_fleet_run_reports_each_order(fake_trooper: FakeTrooper) -> None:
    """Each order has its own outcome: an accepted one has its transition, an unsent one says so."""
    orders = [fake_trooper.add_order() for _ in range(4)]
    client = fake_trooper.client()
    with fake_trooper.hold_next("/api/order-status") as hold:
        stopping = asyncio.create_task(client.fleet.stop(orders, concurrency=1))
        await hold.arrived()
        client._transport.stop()
    report = await stopping
    await client.close()
    assert {type(outcome.error) for outcome in report.outcomes} == {ClientClosedError}
    assert [outcome.transition is not None for outcome in report.outcomes] == [True, False, False, False]


async def test_nothing_was_sent_is_said_only_where_it_is_true(fake_trooper: FakeTrooper) -> None:
    """Only a call after `close` says it; a wait that begins then may be about something sent."""
    client = fake_trooper.client()
    await client.close()
    with pytest.raises(ClientClosedError, match="the client is closed: nothing was sent"):
        await client.ping()
    with pytest.raises(ClientClosedError) as caught:
        await client.orders.wait_until(1, "stopped")
    assert "nothing was sent" not in str(caught.value)


def _waits(client: TrooperClient) -> dict[str, Coroutine[Any, Any, Any]]:
    """A wait of each kind, by how its errors begin."""

    async def watch() -> None:
        async for _ in client.orders.watch():
            pass

    return {
        "orders.wait_until of order 1": client.orders.wait_until(1, "stopped"),
        "orders.wait of order 7": client.orders.wait(Transition(7, "create", "running")),
        "orders.wait_until_reachable of order 1": client.orders.wait_until_reachable(1),
        "orders.watch": watch(),
        "blibs.wait_until_available of blib 999": client.blibs.wait_until_available(999),
    }


async def test_closing_ends_each_wait_with_its_own_error(fake_trooper: FakeTrooper) -> None:
    """The error names the method and what it waited for, and says for how long; so does that of a wait begun later."""
    fake_trooper.add_order(order_id=1, status="starting")
    client = fake_trooper.client()
    waiting = {name: asyncio.create_task(wait) for name, wait in _waits(client).items()}
    await until(lambda: len(fake_trooper.requests) > 1)
    await client.close()
    for name, ended in waiting.items():
        with pytest.raises(ClientClosedError, match=f"^{name}: ") as caught:
            await ended
        assert caught.value.seconds > 0 or name == "orders.watch"
    for name, wait in _waits(client).items():
        with pytest.raises(ClientClosedError, match=f"^{name}: "):
            await wait


async def test_closing_ends_many_waits_in_several_turns(fake_trooper: FakeTrooper) -> None:
    """While thousands of waits end, the event loop has turns for others."""
    fake_trooper.add_order(order_id=1, status="starting")
    ended, turns = set[int](), 0

    async def wait(client: TrooperClient) -> None:
        with pytest.raises(ClientClosedError):
            await client.orders.wait_until(1, "running")
        ended.add(turns)

    async with asyncio.TaskGroup() as group, fake_trooper.client() as client:
        for _ in range(500):
            group.create_task(wait(client))
        await until(lambda: len(fake_trooper.requests) > 1)
        closing = group.create_task(client.close())
        while not closing.done():
            turns += 1
            await asyncio.sleep(0)
    assert len(ended) > 500 / 64


# Your own session, closed meanwhile ---------------------------------------------------------------------------------


async def test_a_closed_session_ends_waits_at_once(fake_trooper: FakeTrooper) -> None:
    """A wait whose session is closed does not run to its deadline."""
    order = fake_trooper.add_order()
    async with aiohttp.ClientSession() as session, fake_trooper.client(session=session) as client:
        waiting = asyncio.create_task(client.orders.wait_until(order, "stopped", timeout=600))
        await until(lambda: fake_trooper.requests)
        await session.close()
        with pytest.raises(ClientClosedError, match=r": the session that was given to this client is closed[. ]"):
            async with asyncio.timeout(60):
                await waiting


async def test_a_session_closed_in_a_rate_limit_leaves_a_purchase_unsent(fake_trooper: FakeTrooper) -> None:
    """A purchase that waits out a 429 was certainly never made."""
    blib = (await _offers(fake_trooper))[0]
    fake_trooper.fail_next("/api/order", status=429, retry_after=30)
    async with aiohttp.ClientSession() as session, fake_trooper.client(session=session) as client:
        buying = asyncio.create_task(client.orders.create(blib, contract_interval="HOUR", terms_accepted=True))
        await until(lambda: client._transport._gate.opens_at)
        await session.close()
        forward(60)
        with pytest.raises(ClientClosedError, match=r": the session that was given to this client is closed[. ]"):
            await buying
        assert [purchase.state for purchase in client.orders.purchases] == ["refused"]
    assert len(fake_trooper.sent("/api/order")) == 1


async def test_a_session_closed_in_the_pause_before_a_retry(fake_trooper: FakeTrooper) -> None:
    """A read ends with ClientClosedError; a setting whose attempt failed may have been applied."""
    fake_trooper.fail_next("/api/order-status", status=503, retry_after=30)
    order = fake_trooper.add_order()
    async with aiohttp.ClientSession() as session, fake_trooper.client(session=session, retry=RetryPolicy()) as client:
        await client.orders.list()
        stopping = asyncio.create_task(client.orders.stop(order))
        await until(lambda: fake_trooper.sent("/api/order-status") and client._transport._gate._inside == 0)
        await session.close()
        forward(60)
        with pytest.raises(
            OutcomeUnknownError,
            match=r": sent, and its outcome is unknown: the session that was given to this client is closed \(",
        ):
            await stopping


# Another process ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_client_from_before_a_fork_is_refused() -> None:
    """In another process than the one that made it, nothing is sent: `async with` and each call raise."""
    client = TrooperClient("key", base_url="http://127.0.0.1:9")

    async def use() -> str:
        said = []
        for what in (client.__aenter__, client.ping, client.orders.list):
            try:
                await what()
            except ConfigurationError as error:
                said.append(str(error))
        return "\n".join(said)

    sys.stdout.flush()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, asyncio.run(use()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        said = pipe.read().decode().splitlines()
    os.waitpid(child, 0)
    text = "this client was made in another process, before a fork: make one per process"
    assert said == [text, f"ping: {text}", f"orders.list: {text}"]
