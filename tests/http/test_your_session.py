"""Your own session: its trace hooks may read responses, and their mistakes surface; and how the client's own requests
are logged.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import re
import traceback
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from tests.helpers.conditions import until
from tests.helpers.raw_server import CUT, FAST, KEY, RawServer, http, serving
from tests.helpers.secrets import has_key, told
from trooper_async import (
    APIConnectionError,
    OutcomeUnknownError,
    PurchaseUnknownError,
    ResponseFormatError,
    RetryPolicy,
    TrooperClient,
)
from trooper_async._http import wire
from trooper_async.testing import FakeTrooper

DONE = http(b'{"success": true, "test": "hello", "orderId": 7}')


def reading_session() -> tuple[aiohttp.ClientSession, list[str]]:
    """A session that logs each response, as applications do, and what it read."""
    read: list[str] = []
    config = aiohttp.TraceConfig()

    async def log(session: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:
        read.append(await params.response.text())
        assert context.trace_request_ctx is None, "the request's context is the application's"

    config.on_request_end.append(log)
    return aiohttp.ClientSession(trace_configs=[config], connector=aiohttp.TCPConnector(force_close=True)), read


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_trace_hook_may_read_the_response(compressed: bool) -> None:
    """The call still gets a response that your hook has read."""
    body = b'{"test": "hello"}'
    answer = http(gzip.compress(body), "Content-Encoding: gzip") if compressed else http(body)
    session, read = reading_session()
    async with RawServer(answer) as server, session, server.client(session=session) as client:
        assert await client.ping() == "hello"
        await client.ping()
    assert read == [body.decode()] * 2


async def test_a_purchase_whose_response_a_trace_hook_reads_is_known(fake_trooper: FakeTrooper) -> None:
    """The outcome is "bought", not unknown."""
    session, read = reading_session()
    async with session, fake_trooper.client(session=session) as client:
        blib = (await client.blibs.list())[0]
        transition = await client.orders.create(blib, contract_interval="HOUR", terms_accepted=True)
    assert str(transition.order_id) in read[-1]


async def test_a_response_read_by_a_trace_hook_has_the_same_size_limit() -> None:
    """What your hook has read counts towards the limit."""
    session, _ = reading_session()
    async with (
        RawServer(DONE) as server,
        session,
        server.client(session=session, max_body_bytes=10, retry=FAST) as client,
    ):
        with pytest.raises(ResponseFormatError, match="max_body_bytes"):
            await client.ping()


# Mistakes -----------------------------------------------------------------------------------------------------------


def broken_session(event: str) -> aiohttp.ClientSession:
    """A session whose trace hook has a bug."""
    config = aiohttp.TraceConfig()

    async def mistaken(session: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:
        params.response_that_is_not_there.log()

    getattr(config, event).append(mistaken)
    return aiohttp.ClientSession(trace_configs=[config], connector=aiohttp.TCPConnector(force_close=True))


@pytest.mark.parametrize("event", ["on_request_start", "on_request_end"])
async def test_a_bug_in_a_trace_hook_surfaces_in_a_read(event: str) -> None:
    """It is raised as it is, once, with its place, and is not reported as a lost response."""
    session = broken_session(event)
    async with RawServer(DONE) as server, session, server.client(session=session, retry=FAST) as client:
        with pytest.raises(AttributeError, match="response_that_is_not_there") as caught:
            await client.ping()
    assert len(server.requests) <= 1
    told_where = r"raised in mistaken \(.+, line \d+\) while a request was made$"
    assert re.search(told_where, "".join(traceback.format_exception(caught.value)), re.MULTILINE)
    assert not has_key(told(caught.value))


async def test_a_bug_in_a_trace_hook_after_sending_is_an_unknown_outcome(fake_trooper: FakeTrooper) -> None:
    """After the request was sent, a setting and a purchase are unknown, with the bug as the cause."""
    order = fake_trooper.add_order()
    async with fake_trooper.client() as clean:
        blib = (await clean.blibs.list())[0]
        await clean.orders.list()
    async with broken_session("on_request_end") as session, fake_trooper.client(session=session) as client:
        with pytest.raises(OutcomeUnknownError) as caught:
            await client.templates.remove(1)
        assert isinstance(caught.value.__cause__, AttributeError)
        with pytest.raises(AttributeError):
            await client.orders.stop(order.order_id)  # its look-up is a read
    config = aiohttp.TraceConfig()

    async def mistaken(session: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:
        if params.url.path == "/api/order":
            raise KeyError("mine")

    config.on_request_end.append(mistaken)
    async with aiohttp.ClientSession(trace_configs=[config]) as session, fake_trooper.client(session=session) as client:
        with pytest.raises(PurchaseUnknownError):
            await client.orders.create(blib, contract_interval="HOUR", terms_accepted=True)
        assert [purchase.state for purchase in client.orders.purchases] == ["unknown"]


async def test_a_header_that_is_too_long_is_reported() -> None:
    """The error says what was wrong with the response."""
    async with RawServer(http(b"{}", f"X-Long: {'x' * 9000}")) as server, server.client(retry=FAST) as client:
        with pytest.raises(APIConnectionError, match="8190"):
            await client.ping()


# The log ------------------------------------------------------------------------------------------------------------


async def test_the_debug_line_names_the_failure(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has type and text of the failure, and milliseconds; the key is removed if the API echoes it."""
    seconds = iter([5.0, 6.0, 7.0, 257.0])
    monkeypatch.setattr(wire, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    caplog.set_level(logging.DEBUG, "trooper_async.transport")
    odd = RawServer(f"HTTP/1.1 {KEY}\r\n\r\n".encode(), CUT)
    async with odd as server, server.client(retry=RetryPolicy(attempts=1)) as client:
        for _ in range(2):
            with pytest.raises(APIConnectionError):
                await client.ping()
    odd_line, cut_line = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert "[api key]" in odd_line
    assert not has_key(caplog.text)
    assert re.fullmatch(
        r"GET /api/test lost \(the response was lost or cut \(ServerDisconnectedError: Server disconnected\)\) "
        "250000 ms",
        cut_line,
    )


async def test_a_retry_is_logged_at_info(fake_trooper: FakeTrooper, caplog: pytest.LogCaptureFixture) -> None:
    """Without logging set up nothing is written for a retry; at INFO a line says why, and when the next attempt is
    made.
    """
    caplog.set_level(logging.INFO, "trooper_async")
    fake_trooper.fail_next("/api/test", status=503)
    async with fake_trooper.client(retry=FAST) as client:
        await client.ping()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("trooper_async.transport", logging.INFO)
    assert record.getMessage() == "ping: a 503 of fail_next; retrying in 0.00 s"


def test_the_package_configures_no_logging() -> None:
    """The logger has a NullHandler: without handlers of yours nothing is written to stderr."""
    assert any(isinstance(one, logging.NullHandler) for one in logging.getLogger("trooper_async").handlers)


# Kept connections --------------------------------------------------------------------------------------------------


async def test_a_lost_new_connection_costs_budget_although_others_are_kept() -> None:
    """What counts is whether that request's own connection was used before, not whether any are kept."""
    cut_now = asyncio.Event()
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            if cut_now.is_set():
                return
            if connections == 1:
                await until(lambda: connections > 1)
            writer.write(http())

    async with serving(serve) as url, TrooperClient("key", base_url=url, retry=RetryPolicy(max_delay=0.0)) as client:
        await asyncio.gather(client.ping(), client.ping())
        assert connections == 2
        full = client._transport._budget
        cut_now.set()
        with pytest.raises(APIConnectionError) as caught:
            await client.ping()
    # both kept ones are tried first, which costs nothing; then new ones
    assert caught.value.attempts == 4
    assert client._transport._budget == pytest.approx(min(10.0, full + 0.1) - 1)
