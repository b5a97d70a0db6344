"""`until`: the deadline of a whole call, and what happens to a request that is in flight at that moment."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from tests.helpers.clock import forward
from tests.helpers.conditions import until
from tests.helpers.raw_server import FAST, SILENCE, RawServer, http, serving
from tests.helpers.texts import exactly
from tests.tools.simulator.clock import run
from tests.tools.simulator.script import Script, reply
from trooper_async import (
    APITimeoutError,
    OutcomeUnknownError,
    RateLimitError,
    RetryPolicy,
    ServerError,
    TrooperClient,
)
from trooper_async._api.endpoints import INSTALL_DELETE, INSTALL_RETRY, ORDER, TEST, Call
from trooper_async._api.responses import Response
from trooper_async._http.sessions import Sending

READ = Call(TEST, "ping")
SETTING = Call(INSTALL_DELETE, "templates.remove", sent={"install_id": 1})
ONCE = Call(INSTALL_RETRY, "templates.retry", sent={"install_id": 1})
PURCHASE = Call(ORDER, "orders.create")
NO_LIMITS = RetryPolicy(attempts=None, deadline=None, budget=None)
DONE = b'{"success": true}'


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_the_policys_deadline_ends_a_read_in_flight() -> None:
    """A read ends soon after the deadline of the retry policy, even if its own timeout is longer."""
    policy = RetryPolicy(attempts=1, deadline=20.0)
    async with RawServer(SILENCE) as server, server.client(retry=policy, timeout=6000.0) as client:
        reading = asyncio.create_task(client.ping())
        await until(lambda: server.requests)
        forward(60)
        with pytest.raises(APITimeoutError):
            await reading


async def test_a_read_in_flight_ends_at_its_deadline() -> None:
    """At the deadline a read ends, whatever its own timeout is: nothing was changed."""
    async with RawServer(SILENCE) as server, server.client(retry=FAST) as client:
        reading = asyncio.create_task(client._transport.request(READ, until=now() + 20))
        await until(lambda: server.requests)
        forward(20)
        with pytest.raises(APITimeoutError, match=r": no whole response within \d+\.\d s \(1 attempt") as caught:
            await reading
    assert (caught.value.attempts, len(server.requests)) == (1, 1)


async def test_a_setting_in_flight_at_its_deadline_is_unknown() -> None:
    """A setting is interrupted at its deadline: whether it was applied is unknown."""
    async with RawServer(SILENCE) as server, server.client(retry=FAST) as client:
        removing = asyncio.create_task(client._transport.request(SETTING, until=now() + 20))
        await until(lambda: server.requests)
        forward(20)
        with pytest.raises(OutcomeUnknownError) as caught:
            await removing
    assert (caught.value.attempts, len(server.requests)) == (1, 1)


@pytest.mark.parametrize("sent", [ONCE, PURCHASE], ids=["once", "purchase"])
async def test_a_once_only_request_stays_in_flight_after_its_deadline(
    sent: Call[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The caller gets "unknown" at the deadline; the request runs to its end, and its late response is logged."""
    caplog.set_level(logging.INFO, "trooper_async.transport")
    answer = asyncio.Event()
    arrived = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        await reader.readuntil(b"\r\n\r\n")
        arrived += 1
        await answer.wait()
        writer.write(http(b'{"success": true, "orderId": 7}'))
        await reader.read()

    async with serving(serve) as url, TrooperClient("key", base_url=url, retry=FAST) as client:
        sending = asyncio.create_task(client._transport.request(sent, until=now() + 20))
        await until(lambda: arrived)
        forward(20)
        with pytest.raises(
            OutcomeUnknownError,
            match=rf"^{sent.operation}: sent, and no response came before the deadline \(1 attempt, ",
        ) as caught:
            await sending
        assert 20 <= caught.value.seconds < 60
        assert (caught.value.attempts, arrived, len(client._transport._outliving_their_call)) == (1, 1, 1)
        answer.set()
        await until(lambda: not client._transport._outliving_their_call)
    assert caplog.messages == [f"trooper {sent.operation}: the response came after its deadline: it was done"]
    assert arrived == 1


async def test_closing_ends_a_request_that_outlived_its_deadline(caplog: pytest.LogCaptureFixture) -> None:
    """`close` does not wait for a response that nobody waits for any more; nothing is left behind."""
    caplog.set_level(logging.INFO, "trooper_async.transport")
    async with RawServer(SILENCE) as server:
        before = asyncio.all_tasks()
        async with server.client(retry=FAST) as client:
            sending = asyncio.create_task(client._transport.request(ONCE, until=now() + 20))
            await until(lambda: server.requests)
            forward(20)
            with pytest.raises(OutcomeUnknownError):
                await sending
            assert client._transport._outliving_their_call
        assert not client._transport._outliving_their_call
        assert caplog.messages == [f"trooper {ONCE.operation}: cancelled, since the client was closed"]
        await until(lambda: len(asyncio.all_tasks() - before) <= 1)  # the server's own


async def test_cancelling_a_call_with_a_deadline_cancels_its_request() -> None:
    """With or without a deadline, cancelling the call cancels the request."""
    async with RawServer(SILENCE) as server, server.client(retry=FAST) as client:
        task = asyncio.create_task(client._transport.request(ONCE, until=now() + 60))
        await until(lambda: server.requests)
        (request,) = [one for one in asyncio.all_tasks() if one.get_name() == "trooper templates.retry"]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not client._transport._outliving_their_call
        assert request.cancelled()


async def test_a_response_in_time_is_returned() -> None:
    """The deadline changes nothing for a call that gets its response, or a refusal, in time."""
    failed = http(b'{"error": "no"}', status="404 Not Found")
    async with RawServer(http(DONE), failed) as server, server.client(retry=FAST) as client:
        await client._transport.request(ONCE, until=now() + 60)
        with pytest.raises(Exception, match="404"):
            await client._transport.request(ONCE, until=now() + 60)


@pytest.mark.parametrize("sent", [READ, SETTING, ONCE], ids=["read", "setting", "once"])
async def test_a_call_whose_deadline_passes_in_the_queue_is_not_sent(sent: Call[Any]) -> None:
    """A call whose deadline passes while it waits for others is an APITimeoutError, and nothing was sent."""
    async with RawServer(SILENCE) as server, server.client(retry=FAST, max_concurrency=1) as client:
        holder = asyncio.create_task(client.ping())
        await until(lambda: server.requests)
        waiting = asyncio.create_task(client._transport.request(sent, until=now() + 20))
        await until(lambda: client._transport._gate._waiting)
        forward(20)
        with pytest.raises(
            APITimeoutError,
            match=exactly(f"{sent.operation}: the deadline passed before it could be sent. {APITimeoutError.hint}"),
        ) as caught:
            await waiting
        holder.cancel()
        await asyncio.gather(holder, return_exceptions=True)
    assert (caught.value.attempts, len(server.requests)) == (0, 1)


async def test_a_passed_deadline_sends_nothing() -> None:
    """A call whose deadline has already passed is not sent, even if there is a place for it."""
    async with RawServer(http(DONE)) as server, server.client(retry=FAST) as client:
        both: list[Call[Any]] = [READ, ONCE]
        for sent in both:
            with pytest.raises(APITimeoutError):
                await client._transport.request(sent, until=now())
    assert server.requests == []


@pytest.mark.parametrize("sent", [READ, SETTING, ONCE], ids=["read", "setting", "once"])
async def test_a_connection_is_retried_until_the_deadline(sent: Call[Any]) -> None:
    """If no connection is made before the deadline, nothing was sent, whatever the call is."""
    async with RawServer(SILENCE) as server:
        url = server.url.replace("http:", "https:")  # the handshake never ends
        async with server.client(base_url=url, retry=FAST) as client:
            sending = Sending()
            connecting = asyncio.create_task(client._transport.request(sent, until=now() + 5, sending=sending))
            await until(lambda: server.connections)
            forward(5)
            text = "the deadline passed before it could be sent" if sent is ONCE else "no connection within "
            with pytest.raises(APITimeoutError, match=f": {text}"):
                await connecting
            assert not sending.may_have_left
    assert server.requests == []


def scripted(status: int, until_time: float, **headers: str) -> Script:
    """An API that responds with that status until then."""

    async def answer(call: Call[Any]) -> Response:
        await asyncio.sleep(0.1)
        return reply({"success": True, "test": "x"}) if now() >= until_time else reply({}, status, **headers)

    return Script(lambda t: [], answer)


@pytest.mark.parametrize("sent", [READ, SETTING], ids=["read", "setting"])
def test_a_policy_without_limits_retries_until_the_deadline(sent: Call[Any]) -> None:
    """Ten minutes of 503 are tolerated if the deadline allows it, without a limit of attempts or budget."""

    async def main() -> int:
        script = scripted(503, now() + 600)
        async with script.client() as client:
            with pytest.raises(ServerError) as caught:
                await client._transport.request(sent, retry=NO_LIMITS, until=now() + 100)
            assert 80 < caught.value.seconds < 101  # the last response takes 0.1 s
            await client._transport.request(sent, retry=NO_LIMITS, until=now() + 900)
            assert client._transport._budget == 10, "nothing was taken from the other calls"
        return len(script.sent)

    assert 30 < run(main()) < 80


def test_a_policy_without_limits_repeats_no_once_only_call() -> None:
    """A once-only call under 503 is unknown after one request, whatever its deadline is."""

    async def main() -> None:
        script = scripted(503, now() + 600)
        async with script.client() as client:
            with pytest.raises(OutcomeUnknownError):
                await client._transport.request(ONCE, retry=NO_LIMITS, until=now() + 900)
        assert len(script.sent) == 1

    run(main())


def test_a_rate_limit_may_delay_a_call_until_its_deadline(caplog: pytest.LogCaptureFixture) -> None:
    """A call with its own deadline may wait longer than the policy's, but not past its own, and says so."""
    caplog.set_level(logging.INFO, "trooper_async")

    async def main() -> None:
        script = scripted(429, now() + 300, Retry_After="20")
        async with script.client() as client:
            with pytest.raises(RateLimitError) as caught:
                await client._transport.request(ONCE, until=now() + 100)
            assert 60 < caught.value.seconds <= 100
            assert sum("retrying in" in one for one in caplog.messages) == caught.value.attempts - 1
            await client._transport.request(ONCE, until=now() + 900)
            assert now() < 1000 + 300 + 30

    run(main())
