"""The transport: what is sent, retries, rate limits, limits of size and time, and that the key is nowhere else."""

from __future__ import annotations

import asyncio
import gc
import gzip
import logging
import pickle
import warnings
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any, Self
from unittest import mock

import aiohttp
import pytest
from aioresponses import aioresponses
from multidict import CIMultiDict
from yarl import URL

from tests.helpers.clock import forward
from tests.helpers.conditions import LIMIT, free_port, until
from tests.helpers.failures import FAILURES, buy
from tests.helpers.raw_server import CUT, FAST, KEY, SILENCE, TEXT, Answer, RawServer, http, serving
from tests.helpers.secrets import chain, has_key, texts, told
from tests.helpers.texts import exactly
from tests.tools.simulator.clock import run
from tests.tools.simulator.script import Script, row
from tests.tools.simulator.script import reply as scripted_reply
from trooper_async import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    Blib,
    ClientClosedError,
    ConfigurationError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    PurchaseUnknownError,
    RateLimitError,
    ResponseFormatError,
    RetryPolicy,
    ServerError,
    Transition,
    TrooperClient,
    TrooperError,
    __version__,
)
from trooper_async._api.endpoints import ORDER, Call
from trooper_async._api.responses import Response
from trooper_async._http import gate, sessions
from trooper_async._http.wire import stripped
from trooper_async.testing import FakeTrooper

# --- narrow cases, without a socket -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "requests"),
    [
        (301, APIStatusError, 1),
        (307, APIStatusError, 1),
        (400, BadRequestError, 1),
        (401, AuthenticationError, 1),
        (402, APIStatusError, 1),
        (403, PermissionDeniedError, 1),
        (404, NotFoundError, 1),
        (408, APIStatusError, 4),
        (418, APIStatusError, 1),
        (500, ServerError, 4),
        (502, ServerError, 4),
        (503, ServerError, 4),
        (599, ServerError, 4),
    ],
)
async def test_each_status_has_its_class_and_attempts(
    responses: aioresponses, status: int, kind: type[APIStatusError], requests: int
) -> None:
    """A status becomes its class, after one request, or after four if it may be temporary."""
    responses.get("https://api.example/api/test", status=status, payload={"error": "no"}, repeat=True)

    async with TrooperClient(base_url="https://api.example", retry=FAST) as client:
        with pytest.raises(kind) as caught:
            await client.ping()

    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.message, caught.value.attempts) == (status, "no", requests)
    assert len(responses.requests[("GET", URL("https://api.example/api/test"))]) == requests


async def test_the_headers_of_a_read(responses: aioresponses) -> None:
    """A GET names the application first and the package, and what it accepts; it has no body and no content type."""
    responses.get("https://api.example/api/test", payload={"test": "x"})

    async with TrooperClient(base_url="https://api.example/", app="my-bot/1.2") as client:
        await client.ping()

    ((request,),) = responses.requests.values()
    assert request.kwargs["headers"] == {
        "User-Agent": f"my-bot/1.2 trooper-async/{__version__} aiohttp/{aiohttp.__version__}",
        "Accept": "application/json",
        "Cache-Control": "no-cache",
    }
    assert request.kwargs["data"] is None
    assert request.kwargs["allow_redirects"] is False


async def test_the_headers_of_a_post(responses: aioresponses) -> None:
    """A POST says that it carries JSON; without `app` the User-Agent is the package's alone."""
    responses.post("https://api.example/api/template-install-retry", payload={"success": True})

    async with TrooperClient(KEY, base_url="https://api.example") as client:
        await client.templates.retry(5)

    ((request,),) = responses.requests.values()
    assert request.kwargs["headers"]["User-Agent"].startswith("trooper-async/")
    assert request.kwargs["headers"]["Content-Type"] == "application/json"
    assert request.kwargs["data"] == b'{"install_id": 5}'


# --- in flight ----------------------------------------------------------------------------------------------------


async def test_the_key_is_only_in_the_authorization_header() -> None:
    """Each request carries the key once, in its Authorization header."""
    async with RawServer(http(), http(b'{"success": true}')) as wire, wire.client() as client:
        await client.ping()
        await client.templates.retry(5)

    assert len(wire.requests) == 2
    for request in wire.requests:
        assert request.header("Authorization") == [f"Bearer {KEY}"]
        assert (request.head + request.body.decode()).count(KEY) == 1


async def test_without_a_key_there_is_no_authorization_header() -> None:
    """A public endpoint is called without an Authorization header if there is no key."""
    async with RawServer() as wire, wire.client(api_key=None) as client:
        assert await client.ping() == "hello"

    assert wire.requests[0].header("Authorization") == []


async def test_a_redirect_is_never_followed() -> None:
    """The key goes nowhere but to the base URL, whatever the API responds."""
    async with RawServer() as elsewhere:
        moved = http(b"", f"Location: {elsewhere.url}/api/test", status="302 Found")
        async with RawServer(moved) as wire, wire.client() as client:
            with pytest.raises(APIStatusError) as caught:
                await client.ping()

    assert caught.value.status == 302
    assert (len(wire.requests), elsewhere.requests) == (1, [])


async def test_a_base_url_may_have_a_path() -> None:
    """A gateway's prefix is kept in front of every path."""
    async with RawServer() as wire, wire.client(base_url=f"{wire.url}/gateway/") as client:
        await client.ping()

    assert wire.requests[0].head.startswith("GET /gateway/api/test HTTP/1.1")


async def test_reads_reuse_their_connection() -> None:
    """Consecutive reads share one connection."""
    async with RawServer() as wire, wire.client() as client:
        for _ in range(5):
            await client.ping()

    assert (len(wire.requests), wire.connections) == (5, 1)


async def test_a_once_only_call_has_a_new_connection() -> None:
    """A once-only call is never sent on a connection that the server may just have closed."""
    async with RawServer(http(b'{"success": true, "test": ""}')) as wire, wire.client() as client:
        await client.ping()
        for _ in range(3):
            await client.templates.retry(5)
        await client.ping()

    assert [request.connection for request in wire.requests] == [1, 2, 3, 4, 1]


async def test_aiohttp_does_not_resend_on_a_lost_connection() -> None:
    """aiohttp would resend a GET by itself, uncounted; here each request that is sent is an attempt."""
    async with RawServer(http(), CUT) as wire, wire.client(retry=RetryPolicy(attempts=1)) as client:
        await client.ping()
        with pytest.raises(APIConnectionError) as caught:
            await client.ping()

    assert caught.value.attempts == 1
    assert len(wire.requests) == 2


async def test_every_request_is_counted_as_an_attempt(caplog: pytest.LogCaptureFixture) -> None:
    """Every request that is sent has its DEBUG line and is counted, also after a kept connection was closed."""
    caplog.set_level(logging.DEBUG, "trooper_async.transport")
    async with RawServer(http(), CUT, CUT, http(b"no JSON")) as wire, wire.client() as client:
        await client.ping()
        with pytest.raises(ResponseFormatError) as caught:
            await client.ping()

    lines = [record for record in caplog.records if record.levelno == logging.DEBUG]
    assert caught.value.attempts == 4
    assert len(wire.requests) == len(lines) == 1 + 4
    assert [record.getMessage().split()[:3] for record in lines[:2]] == [
        ["GET", "/api/test", "200"],
        ["GET", "/api/test", "lost"],
    ]


async def test_a_lost_reused_connection_costs_no_budget() -> None:
    """A kept connection that was closed says nothing about the API; a new one that is lost does."""
    policy = RetryPolicy(budget=1, max_delay=0.0)
    async with RawServer(http(), CUT, CUT, http()) as wire, wire.client(retry=policy) as client:
        await client.ping()
        assert await client.ping() == "hello"
        assert len(wire.requests) == 4

        wire.answers = [CUT]
        with pytest.raises(APIConnectionError):
            await client.ping()

    assert len(wire.requests) == 4 + 1, "one more for the kept connection, and no token left"


@pytest.mark.parametrize("why", ["Connection: close", "idle for too long", "yours"])
async def test_a_lost_new_connection_after_a_response_costs_budget(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a response's connection was not kept for the next request, losing the next one still costs budget."""
    if why == "idle for too long":
        monkeypatch.setattr(sessions, "_IDLE", 0.0)
    answer = http(TEXT, "Connection: close") if why == "Connection: close" else http()
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
        RawServer(answer, CUT) as wire,
        wire.client(retry=RetryPolicy(budget=1, max_delay=0.0), session=session if why == "yours" else None) as client,
    ):
        await client.ping()
        with pytest.raises(APIConnectionError):
            await client.ping()

    assert wire.connections == len(wire.requests)
    assert len(wire.requests) == 1 + 2, "one token, spent"


async def test_cookies_are_not_kept() -> None:
    """A cookie that the API sets is not sent back."""
    async with RawServer(http(TEXT, "Set-Cookie: track=me; Path=/")) as wire:
        url = wire.url.replace("127.0.0.1", "localhost")  # aiohttp keeps no cookies for an IP address anyway
        async with wire.client(base_url=url) as client:
            await client.ping()
            await client.ping()

    assert [request.header("Cookie") for request in wire.requests] == [[], []]


async def test_proxies_and_netrc_of_the_environment_are_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Neither a proxy nor credentials are taken from the environment."""
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\ndefault login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    async with RawServer() as wire, wire.client() as client, wire.client(api_key=None) as stranger:
        assert await client.ping() == "hello"
        assert await stranger.ping() == "hello"

    assert [request.header("Authorization") for request in wire.requests] == [[f"Bearer {KEY}"], []]


async def test_the_given_proxy_is_used() -> None:
    """With `proxy`, requests go through it."""
    async with RawServer() as proxy, proxy.client(base_url="http://127.0.0.1:9", proxy=proxy.url) as client:
        assert await client.ping() == "hello"

    assert proxy.requests[0].head.startswith("GET http://127.0.0.1:9/api/test HTTP/1.1")


async def test_an_unreachable_proxy_means_never_sent() -> None:
    """If the proxy can't be reached nothing was sent: the call is retried, and its outcome is not unknown."""
    async with TrooperClient(
        KEY, base_url="http://127.0.0.1:9", proxy=f"http://127.0.0.1:{free_port()}", retry=FAST
    ) as client:
        with pytest.raises(APIConnectionError) as caught:
            await client.templates.retry(5)

    assert caught.value.attempts == 4


# --- never sent ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["read", "setting", "once", "purchase"])
async def test_a_refused_connection_is_retried_and_means_never_sent(verb: str) -> None:
    """If nobody listens, certainly nothing was sent: four attempts, then APIConnectionError, for purchases too."""
    calls: dict[str, Callable[[TrooperClient], Awaitable[object]]] = {
        "read": lambda client: client.ping(),
        "setting": lambda client: client.templates.remove(5),
        "once": lambda client: client.templates.retry(5),
        "purchase": lambda client: client._transport.request(Call(ORDER, "orders.create")),
    }
    async with TrooperClient(KEY, base_url=f"http://127.0.0.1:{free_port()}", retry=FAST) as client:
        with pytest.raises(
            APIConnectionError, match=r": no connection to http://127\.0\.0\.1:\d+ \(\w+: Cannot connect to host"
        ) as caught:
            await calls[verb](client)

    assert caught.value.attempts == 4


async def test_a_purchase_is_sent_once_the_api_listens_again() -> None:
    """A purchase whose connection is refused is retried, and the one request that is sent buys one server."""
    retry = RetryPolicy(attempts=1000, budget=1000, max_delay=0.01)
    async with RawServer(http(b'[{"order_id": 5, "status": "running"}]')) as wire, wire.client(retry=retry) as client:
        await client.orders.list()
        wire.stop_listening()  # the connection of the list stays open
        buying = asyncio.create_task(
            client.orders.create(Blib(1, price_h=Decimal(1)), contract_interval="HOUR", terms_accepted=True)
        )
        await until(lambda: len(wire.requests) == 2)
        async with RawServer(http(b'{"success": true, "orderId": 7}'), port=wire.port) as again:
            assert await buying == Transition(7, "create", "running")

    assert [request.head.split()[:2] for request in again.requests] == [["POST", "/api/order"]]


async def test_an_unfinished_tls_handshake_means_never_sent() -> None:
    """A TLS handshake without a response ends after the connection timeout, and nothing was sent."""
    async with RawServer(SILENCE) as wire:
        url = wire.url.replace("http:", "https:")
        async with wire.client(base_url=url, timeout=0.05, retry=RetryPolicy(attempts=2, max_delay=0.0)) as client:
            with pytest.raises(APIConnectionError, match="no connection") as caught:
                await client.templates.retry(5)

    assert not isinstance(caught.value, TimeoutError)
    assert (caught.value.attempts, wire.requests) == (2, [])


# --- the budget and the deadline (the retry table: test_retry and tests/tools/test_faults) --------------------------


async def test_an_empty_budget_ends_the_retries(fake_trooper: FakeTrooper) -> None:
    """A failing API gets as many retries as the budget has tokens, over all calls of the client."""
    fake_trooper.fail_next("/api/test", status=500, times=100)
    policy = RetryPolicy(attempts=4, budget=5, max_delay=0.0)

    async with fake_trooper.client(retry=policy) as client:
        attempts = []
        for _ in range(5):
            with pytest.raises(ServerError) as caught:
                await client.ping()
            attempts.append(caught.value.attempts)

    assert attempts == [4, 3, 1, 1, 1]
    assert len(fake_trooper.requests) == sum(attempts)


async def test_ten_calls_restore_one_retry(fake_trooper: FakeTrooper) -> None:
    """The budget grows by a tenth with each call, up to its initial value."""
    async with fake_trooper.client(retry=RetryPolicy(budget=1, max_delay=0.0)) as client:

        async def attempts_of_a_failing_call() -> int:
            fake_trooper.fail_next("/api/test", status=500, times=2)
            with pytest.raises(ServerError) as caught:
                await client.ping()
            for _ in range(2 - caught.value.attempts):
                with suppress(ServerError):  # what is left of the two
                    await client.ping()
            return caught.value.attempts

        assert await attempts_of_a_failing_call() == 2
        assert await attempts_of_a_failing_call() == 1
        for _ in range(10):
            await client.ping()
        assert await attempts_of_a_failing_call() == 2


async def test_no_attempt_starts_after_the_deadline(fake_trooper: FakeTrooper) -> None:
    """If the next attempt would start after the policy's deadline, the call ends at once."""
    fake_trooper.fail_next("/api/test", status=503, retry_after=60, times=2)

    async with fake_trooper.client(retry=RetryPolicy(deadline=30.0)) as client, asyncio.timeout(29):
        with pytest.raises(ServerError) as caught:
            await client.ping()

    assert (caught.value.attempts, caught.value.retry_after) == (1, 60.0)


# --- Retry-After and rate limits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [503, 429])
async def test_the_pause_is_at_least_retry_after(fake_trooper: FakeTrooper, status: int) -> None:
    """The next request is not sent before the API asked for it."""
    fake_trooper.fail_next("/api/test", status=status, retry_after=0.15)

    async with fake_trooper.client(retry=FAST) as client:
        await client.ping()

    first, second = [request.started for request in fake_trooper.requests]
    assert second - first >= 0.15


async def test_a_429_costs_neither_attempts_nor_budget(fake_trooper: FakeTrooper) -> None:
    """Even with one attempt and no budget, a call waits out a rate limit."""
    fake_trooper.fail_next("/api/test", status=429, times=5)

    async with fake_trooper.client(retry=RetryPolicy(attempts=1, budget=0, max_delay=0.0)) as client:
        assert await client.ping() == "meinstring5"

    assert len(fake_trooper.requests) == 6


async def test_a_429_pauses_the_whole_client(fake_trooper: FakeTrooper) -> None:
    """After a 429 no call of the client is sent before the pause is over; then all of them succeed."""
    fake_trooper.fail_next("/api/test", status=429, retry_after=0.15, times=4)

    async with fake_trooper.client(retry=FAST, max_concurrency=4) as client:
        answers = await asyncio.gather(*(client.ping() for _ in range(10)), *(client.blibs.list() for _ in range(10)))

    assert len(answers) == 20
    last_refused = [request.status for request in fake_trooper.requests].index(429)
    refused = [request for request in fake_trooper.requests if request.status == 429]
    others = [request for request in fake_trooper.requests if request.status == 200]
    assert (last_refused, len(refused), len(others)) == (0, 4, 20)
    assert min(request.started for request in others) - refused[-1].started >= 0.15


async def test_after_a_429_requests_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the pause each request waits for the response of the one before."""
    monkeypatch.setattr(gate, "_FIRST_GAP", 0.002)
    busy = 0
    most: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal busy
        while True:
            await reader.readuntil(b"\r\n\r\n")
            busy += 1
            most.append(busy)
            number = len(most)
            await until(lambda: len(most) >= 8)  # the first eight get their responses once all of them have arrived
            busy -= 1
            writer.write(http() if number > 8 else http(b"{}", "Retry-After: 0", status="429 Slow down"))

    async with serving(answer) as url, TrooperClient(base_url=url, retry=FAST, max_concurrency=8) as client:
        await asyncio.gather(*(client.ping() for _ in range(18)))

    assert most[:8] == [1, 2, 3, 4, 5, 6, 7, 8], "before any 429: all at once"
    assert most[8:18] == [1] * 10, "ten by ones after it"


async def test_a_retry_after_of_more_than_two_minutes_fails_at_once(fake_trooper: FakeTrooper) -> None:
    """No call waits that long: RateLimitError with the pause that the API asked for."""
    fake_trooper.fail_next("/api/test", status=429, retry_after=121)

    async with fake_trooper.client(retry=RetryPolicy(deadline=10_000.0)) as client, asyncio.timeout(LIMIT):
        with pytest.raises(RateLimitError) as caught:
            await client.ping()

    assert (caught.value.retry_after, caught.value.status, caught.value.attempts) == (121.0, 429, 1)


async def test_during_a_long_pause_other_calls_fail_at_once(fake_trooper: FakeTrooper) -> None:
    """A call that can't be sent before its deadline is a RateLimitError that says how long the pause is."""
    fake_trooper.fail_next("/api/test", status=429, retry_after=1000)

    async with fake_trooper.client() as client, asyncio.timeout(LIMIT):
        with pytest.raises(RateLimitError):
            await client.ping()
        with pytest.raises(RateLimitError) as caught:
            await client.orders.list()

    assert len(fake_trooper.requests) == 1
    assert caught.value.attempts == 0
    assert caught.value.retry_after is not None
    assert 60.0 < caught.value.retry_after <= 120.0


async def test_a_retry_after_beyond_the_deadline_fails_at_once(fake_trooper: FakeTrooper) -> None:
    """A pause that is longer than the call may take is not begun."""
    fake_trooper.fail_next("/api/test", status=429, retry_after=20)

    async with fake_trooper.client(retry=RetryPolicy(deadline=10.0)) as client, asyncio.timeout(19):
        with pytest.raises(RateLimitError) as caught:
            await client.ping()

    assert caught.value.retry_after == 20.0


async def test_a_retry_after_may_be_a_date(fake_trooper: FakeTrooper) -> None:
    """An HTTP date is compared with the server's own clock."""
    headers = {"Date": "Tue, 24 Nov 2026 08:00:00 GMT", "Retry-After": "Tue, 24 Nov 2026 08:05:00 GMT"}
    fake_trooper.fail_next("/api/test", status=429, headers=headers)

    async with fake_trooper.client() as client, asyncio.timeout(LIMIT):
        with pytest.raises(RateLimitError) as caught:
            await client.ping()

    assert caught.value.retry_after == 300.0


@pytest.mark.parametrize("nonsense", ["soon", "-5", "1e9", "NaN", "9" * 40, "Tue, 99 Nov 2026 08:05:00 GMT"])
async def test_an_invalid_retry_after_is_ignored(fake_trooper: FakeTrooper, nonsense: str) -> None:
    """A Retry-After that is neither seconds nor a date counts as missing."""
    fake_trooper.fail_next("/api/test", status=503, retry_after=nonsense)

    async with fake_trooper.client(retry=FAST) as client, asyncio.timeout(LIMIT):
        await client.ping()

    assert len(fake_trooper.requests) == 2


# --- limits -------------------------------------------------------------------------------------------------------


async def test_a_body_of_the_maximum_size_is_read() -> None:
    """The limit is the largest body that is read."""
    async with RawServer() as wire, wire.client(max_body_bytes=len(TEXT)) as client:
        assert await client.ping() == "hello"


async def test_a_larger_body_is_not_read() -> None:
    """One byte too many is a ResponseFormatError that names the option."""
    async with RawServer() as wire, wire.client(max_body_bytes=len(TEXT) - 1) as client:
        with pytest.raises(ResponseFormatError) as caught:
            await client.ping()

    assert caught.value.expected == "smaller than max_body_bytes"
    assert len(wire.requests) == caught.value.attempts == 2


async def test_an_endless_body_is_stopped_at_the_limit() -> None:
    """The connection to a server that never stops sending is closed."""
    hung_up = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"1000\r\n" + b" " * 0x1000 + b"\r\n")
                await writer.drain()
        finally:
            hung_up.set()

    policy = RetryPolicy(attempts=1)
    async with serving(flood) as url, TrooperClient(base_url=url, max_body_bytes=100_000, retry=policy) as client:
        with pytest.raises(ResponseFormatError, match="max_body_bytes"):
            await client.ping()
        async with asyncio.timeout(LIMIT):
            await hung_up.wait()


async def test_a_compressed_response_is_read() -> None:
    """gzip is accepted, and decompressed."""
    async with RawServer(http(gzip.compress(TEXT), "Content-Encoding: gzip")) as wire, wire.client() as client:
        assert await client.ping() == "hello"

    assert "gzip" in wire.requests[0].header("Accept-Encoding")[0]


async def test_a_gzip_bomb_is_stopped_at_the_limit() -> None:
    """The decompressed size counts while it arrives, so the connection is closed long before the end."""
    hung_up = asyncio.Event()
    bomb = zlib.compressobj(wbits=31)
    begin = bomb.compress(b'{"test": "' + b"a" * 2**20) + bomb.flush(zlib.Z_SYNC_FLUSH)

    async def tick(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 500000\r\n\r\n" + begin)
        await reader.read()  # the rest never comes
        hung_up.set()

    assert len(begin) < 10_000
    policy = RetryPolicy(attempts=1)
    async with serving(tick) as url, TrooperClient(base_url=url, max_body_bytes=100_000, retry=policy) as client:
        with pytest.raises(ResponseFormatError) as caught:
            await client.ping()
        async with asyncio.timeout(LIMIT):
            await hung_up.wait()

    assert caught.value.expected == "smaller than max_body_bytes"


async def test_the_compressed_size_counts_too() -> None:
    """A body that is larger compressed than decompressed is measured compressed."""
    stored = zlib.compressobj(level=0, wbits=31)  # gzip without compression
    body = TEXT + b" " * 3000
    answer = http(stored.compress(body) + stored.flush(), "Content-Encoding: gzip")

    async with RawServer(answer) as wire, wire.client(max_body_bytes=len(body)) as client:
        with pytest.raises(ResponseFormatError, match="max_body_bytes"):
            await client.ping()


@pytest.mark.parametrize(
    "answer",
    [
        Answer(http(b"no gzip at all", "Content-Encoding: gzip")),
        Answer(http(b"\xff\xff\xff\xff", "Content-Encoding: deflate")),
        Answer(http(b'{"test": "hel', length=len(TEXT)), "hang up"),
        Answer(http(gzip.compress(TEXT)[:12], "Content-Encoding: gzip", length=400), "hang up"),
        Answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", "hang up"),
        Answer(b"HTTP/1.1 200 OK\r\nContent-Le", "hang up"),
        Answer(b"SSH-2.0-not-http\r\n\r\n", "hang up"),
        Answer(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}", "hang up"),
        Answer(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n", "hang up"),
    ],
    ids=["no gzip", "no deflate", "cut", "cut gzip", "cut chunk", "cut head", "no http", "bad length", "long header"],
)
async def test_an_incomplete_response_counts_as_lost(answer: Answer) -> None:
    """A read whose response is cut or broken is retried, then a connection error; a once-only call is unknown."""
    async with RawServer(answer) as wire, wire.client() as client:
        with pytest.raises(APIConnectionError) as caught:
            await client.ping()
        assert (len(wire.requests), caught.value.attempts) == (4, 4)

        with pytest.raises(OutcomeUnknownError):
            await client.templates.retry(5)
        assert len(wire.requests) == 5

        wire.answers = [answer, Answer(http())]
        assert await client.ping() == "hello"


async def test_a_mistake_before_sending_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has left, so not even a setting has an unknown outcome."""
    async with RawServer() as wire, wire.client() as client:
        monkeypatch.setattr(client._transport.wire, "send", mock.AsyncMock(side_effect=KeyError("a mistake")))
        with pytest.raises(KeyError, match="a mistake"):
            await client.templates.remove(1)


async def test_a_late_response_is_a_timeout_error() -> None:
    """A read without a response within `timeout` is retried, then an APITimeoutError, which is a TimeoutError."""
    policy = RetryPolicy(attempts=2, max_delay=0.0, deadline=None)
    async with RawServer(SILENCE) as wire, wire.client(timeout=20.0, retry=policy) as client:
        reading = asyncio.create_task(client.ping())
        await until(lambda: len(wire.requests) == 1)
        forward(30)
        await until(lambda: len(wire.requests) == 2)
        forward(30)
        with pytest.raises(APITimeoutError) as caught:
            await reading

    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.attempts, len(wire.requests)) == (2, 2)


async def test_a_response_that_stalls_in_its_body_is_a_timeout_error() -> None:
    """The timeout is for the whole response."""
    stalled = Answer(http(b'{"test": "hel', length=len(TEXT)), "nothing")
    async with RawServer(stalled) as wire, wire.client(timeout=20.0, retry=RetryPolicy(attempts=1)) as client:
        reading = asyncio.create_task(client.ping())
        await until(lambda: wire.requests)
        forward(30)
        with pytest.raises(APITimeoutError):
            await reading


async def test_a_once_only_call_has_more_time_than_a_read() -> None:
    """`timeout` does not interrupt a once-only call, since that would only make its outcome unknown."""
    arrived = 0
    answer = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        await reader.readuntil(b"\r\n\r\n")
        arrived += 1
        await answer.wait()
        writer.write(http(b'{"success": true}'))

    policy = RetryPolicy(attempts=1)
    async with serving(slow) as url, TrooperClient(KEY, base_url=url, timeout=20.0, retry=policy) as client:
        retrying, reading = (asyncio.create_task(one) for one in (client.templates.retry(5), client.ping()))
        await until(lambda: arrived == 2)
        forward(180)
        with pytest.raises(APITimeoutError):
            await reading
        assert not retrying.done()
        answer.set()
        await retrying


async def test_a_once_only_call_without_a_response_has_an_unknown_outcome() -> None:
    """It is no TimeoutError, so that a retry on timeouts does not send it again."""
    async with RawServer(SILENCE) as wire, wire.client() as client:
        retrying = asyncio.create_task(client.templates.retry(5))
        await until(lambda: wire.requests)
        forward(190)
        with pytest.raises(OutcomeUnknownError) as caught:
            await retrying

    assert not isinstance(caught.value, TimeoutError)
    assert len(wire.requests) == 1


@pytest.mark.parametrize("limit", [3, 101], ids=["few", "more than aiohttp allows by default"])
async def test_at_most_max_concurrency_requests_are_in_flight(limit: int) -> None:
    """The other calls wait for their turn, without a connection."""
    async with RawServer(SILENCE) as wire, wire.client(max_concurrency=limit) as client:
        calls = [asyncio.create_task(client.ping()) for _ in range(limit + 6)]
        await until(lambda: len(wire.requests) == limit)
        for _ in range(50):
            await asyncio.sleep(0)

        assert (len(wire.requests), wire.connections) == (limit, limit)
        for one in calls:
            one.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


# --- your own session ---------------------------------------------------------------------------------------------


MINE = {"X-Mine": "yes"}


async def test_your_session_is_used_and_not_closed() -> None:
    """Every request goes through the given session, and closing the client does not close it."""
    async with (
        RawServer(http(b'{"success": true, "test": ""}')) as wire,
        aiohttp.ClientSession(headers=MINE) as session,
    ):
        client = wire.client(session=session)
        await client.ping()
        await client.templates.retry(5)
        await client.close()
        assert not session.closed
        async with session.get(wire.url) as response:
            assert response.status == 200

    assert [request.header("X-Mine") for request in wire.requests] == [["yes"]] * 3
    assert [request.header("Authorization") for request in wire.requests] == [[f"Bearer {KEY}"]] * 2 + [[]]


async def test_your_session_that_keeps_connections_gets_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The first once-only call on it logs what to set; reads and later calls log nothing."""
    async with (
        RawServer(http(b'{"success": true, "test": ""}')) as wire,
        aiohttp.ClientSession() as session,
        wire.client(session=session) as client,
    ):
        await client.ping()
        assert caplog.records == []
        await client.templates.retry(5)
        await client.templates.retry(5)

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages == [
        "your session keeps connections, and a request on one that the server has just closed is lost: "
        "if it sends purchases or restarts, give it TCPConnector(force_close=True)"
    ]


async def test_your_session_that_keeps_no_connections_gets_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """With `force_close` there is no warning."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with (
        RawServer(http(b'{"success": true}')) as wire,
        aiohttp.ClientSession(connector=connector) as session,
        wire.client(session=session) as client,
    ):
        await client.templates.retry(5)

    assert caplog.records == []


async def test_a_session_with_auth_is_refused() -> None:
    """Its header would replace the key: the error comes at once, without its secrets."""
    with pytest.warns(DeprecationWarning, match="auth"):
        session = aiohttp.ClientSession(auth=aiohttp.BasicAuth("me", "secret"))
    with pytest.raises(
        ConfigurationError, match=r"^a session with `auth` can't be used: its header would replace the API key$"
    ) as caught:
        TrooperClient(KEY, session=session)
    await session.close()

    assert "secret" not in str(caught.value)


async def test_a_closed_session_fails_at_once() -> None:
    """If your own session is closed, the call is a ClientClosedError that says so."""
    async with RawServer() as wire:
        session = aiohttp.ClientSession()
        async with wire.client(session=session) as client:
            await session.close()
            with pytest.raises(
                ClientClosedError, match=r": the session that was given to this client is closed: nothing was sent\. "
            ):
                await client.ping()

    assert wire.requests == []


async def test_the_middlewares_of_your_session_are_not_used() -> None:
    """The client's own middleware replaces them, as documented."""

    async def yours(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        raise AssertionError("not called")

    async with (
        RawServer() as wire,
        aiohttp.ClientSession(middlewares=[yours]) as session,
        wire.client(session=session) as client,
    ):
        assert await client.ping() == "hello"


# --- closing the client -------------------------------------------------------------------------------------------


async def test_closing_ends_a_read_in_flight() -> None:
    """A read in flight ends with ClientClosedError at once."""
    async with RawServer(SILENCE) as wire:
        client = wire.client()
        reading = asyncio.create_task(client.ping())
        await until(lambda: wire.requests)

        await client.close()

        async with asyncio.timeout(LIMIT):
            with pytest.raises(ClientClosedError):
                await reading
    assert len(wire.requests) == 1


async def test_closing_makes_a_setting_in_flight_unknown() -> None:
    """A change in flight may have been applied, so its outcome is unknown, not merely closed."""
    async with RawServer(SILENCE) as wire:
        client = wire.client()
        removing = asyncio.create_task(client.templates.remove(5))
        await until(lambda: wire.requests)

        await client.close()

        async with asyncio.timeout(LIMIT):
            with pytest.raises(OutcomeUnknownError):
                await removing
    assert len(wire.requests) == 1


async def test_closing_ends_waiting_calls() -> None:
    """A call that was not sent yet is not sent any more."""
    async with RawServer(SILENCE) as wire:
        client = wire.client(max_concurrency=1)
        calls = [asyncio.create_task(client.templates.remove(number)) for number in (1, 2, 3)]
        await until(lambda: wire.requests)

        await client.close()

        async with asyncio.timeout(LIMIT):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [OutcomeUnknownError, ClientClosedError, ClientClosedError]
    assert len(wire.requests) == 1


@pytest.mark.parametrize("status", ["503 Later", "429 Slow down"])
async def test_closing_ends_the_pause_before_a_retry(status: str) -> None:
    """A call that waits out a Retry-After ends when the client is closed, not when the pause is over."""
    async with RawServer(http(b"{}", "Retry-After: 50", status=status)) as wire:
        client = wire.client(retry=RetryPolicy(deadline=1000.0))
        reading = asyncio.create_task(client.ping())
        await until(lambda: wire.requests and client._transport._gate._inside == 0)

        await client.close()

        async with asyncio.timeout(LIMIT):
            with pytest.raises(ClientClosedError):
                await reading
    assert len(wire.requests) == 1


async def test_a_closed_client_sends_nothing() -> None:
    """After `close`, which may be called twice, every call is a ClientClosedError."""
    async with RawServer() as wire:
        async with wire.client() as client:
            await client.ping()
        await client.close()

        with pytest.raises(
            ClientClosedError, match=exactly(f"ping: the client is closed: nothing was sent. {ClientClosedError.hint}")
        ):
            await client.ping()
        with pytest.raises(ClientClosedError):
            async with client:
                pass

    assert len(wire.requests) == 1


async def test_a_client_belongs_to_one_event_loop() -> None:
    """Used on another loop, the client raises an error that says so, and sends nothing."""
    async with RawServer() as wire, wire.client() as client:
        await client.ping()
        with pytest.raises(
            ConfigurationError, match=exactly("ping: this client belongs to another event loop: make one per loop")
        ):
            await asyncio.to_thread(lambda: asyncio.run(client.ping()))

    assert len(wire.requests) == 1


async def test_a_client_that_was_not_closed_is_a_resource_warning() -> None:
    """A client that is dropped with open sessions warns; one that was closed, or never used, does not."""

    async def dropped(*, used: bool, closed: bool) -> list[str]:
        client = wire.client()
        if used:
            await client.ping()
        if closed:
            await client.close()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del client
            gc.collect()
            told = [str(warning.message) for warning in caught if issubclass(warning.category, ResourceWarning)]
            caught.clear()  # aiohttp keeps its objects, which warn too
            gc.collect()
            await until(lambda: not wire._tasks)  # its connections are closed
        return [text for text in told if "TrooperClient" in text]

    async with RawServer() as wire:
        assert await dropped(used=True, closed=False) == ["a TrooperClient was not closed: use `async with`"]
        assert await dropped(used=True, closed=True) == []
        assert await dropped(used=False, closed=False) == []


async def test_cancelling_a_call_leaves_no_task() -> None:
    """A call that is cancelled in flight, in the pause before a retry or at the gate leaves no task behind."""
    async with (
        RawServer(http(b"{}", "Retry-After: 50", status="503 Later"), SILENCE) as wire,
        wire.client(max_concurrency=2, retry=RetryPolicy(deadline=1000.0)) as client,
    ):
        before = asyncio.all_tasks()
        calls = [asyncio.create_task(client.ping())]
        await until(lambda: wire.requests and client._transport._gate._inside == 0)
        calls += [asyncio.create_task(client.ping()) for _ in range(4)]
        await until(lambda: len(wire.requests) == 3)

        for one in calls:
            one.cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)

        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 5
        await until(lambda: asyncio.all_tasks() == before)
        wire.answers = [Answer(http())]
        assert await client.ping() == "hello"


# --- the key ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", FAILURES)
async def test_no_error_contains_the_key(failure: str) -> None:
    """Neither its text nor its attributes, pickle, causes and contexts, nor the locals of any frame contain it."""
    kind, run = FAILURES[failure]
    async with FakeTrooper(api_key=KEY) as fake:
        fake.add_order(order_id=123)
        with pytest.raises(kind) as caught:
            await run(fake)

    assert type(caught.value) is kind
    assert not has_key(told(caught.value))
    if isinstance(caught.value, TrooperError):
        assert KEY.encode() not in pickle.dumps(caught.value)
        assert type(pickle.loads(pickle.dumps(caught.value))) is type(caught.value)


async def test_a_cancellation_has_no_other_exception_as_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that was being handled, for example one with the request's headers, is not in its context."""

    class Cancelled:
        def request(self, *arguments: object, **options: object) -> Self:
            return self

        async def __aenter__(self) -> None:
            try:
                raise RuntimeError(KEY)
            except RuntimeError as error:
                raise asyncio.CancelledError from error

        async def __aexit__(self, *error: object) -> None:
            raise AssertionError("never entered")

    async with RawServer() as wire, wire.client() as client:
        monkeypatch.setattr(client._transport.wire.sessions, "get", lambda once: Cancelled())
        with pytest.raises(asyncio.CancelledError) as caught:
            await client.ping()

    assert list(chain(caught.value)) == [caught.value]


@pytest.mark.parametrize("once", [True, False])
async def test_an_unexpected_exception_after_sending_is_an_unknown_outcome(
    fake_trooper: FakeTrooper, monkeypatch: pytest.MonkeyPatch, once: bool
) -> None:
    """A mistake in somebody's code while a response is read: a restart may have taken place, and a read is harmless."""
    order = fake_trooper.add_order()
    async with fake_trooper.client() as client:
        await client.orders.history(order)
        reading = mock.AsyncMock(side_effect=[[], KeyError("x")] if once else KeyError("x"))
        monkeypatch.setattr(client._transport, "interpret", reading)
        with pytest.raises(OutcomeUnknownError if once else KeyError) as caught:
            await (client.orders.restart(order) if once else client.orders.history(order))

    if isinstance(caught.value, OutcomeUnknownError):
        assert str(caught.value).startswith(
            f"orders.restart of order {order.order_id}: sent, and its outcome is unknown: "
            "KeyError while the response was read (1 attempt"
        )
        assert caught.value.transition == Transition(order.order_id, "restart", "running", None)
        assert caught.value.attempts == 1
        assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(("error", "notes"), [(ValueError(), 1), (asyncio.CancelledError(), 0)], ids=["mistake", "end"])
def test_a_stripped_exception_holds_no_frame(error: BaseException, notes: int) -> None:
    """A mistake has a note instead, however often it is caught; a cancellation needs none."""
    for _ in range(2):
        with pytest.raises(type(error)):
            raise error from KeyError("holds a header")
        assert stripped(error) is error
        assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)
        assert len(getattr(error, "__notes__", ())) == notes
    assert not hasattr(stripped(ValueError()), "__notes__"), "it was raised nowhere"


async def test_the_search_for_the_key_finds_it() -> None:
    """These tests can fail: a key held in an attribute or a local is found."""

    class Holder:
        __slots__ = ("inner",)

        def __init__(self, inner: object) -> None:
            self.inner = inner

    def fails(secret: str) -> None:
        raise RuntimeError("x")

    assert any(map(has_key, texts(Holder([{"a": (KEY,)}]))))
    assert any(map(has_key, texts({"headers": CIMultiDict({"Authorization": f"Bearer {KEY}"})})))
    with pytest.raises(RuntimeError) as caught:
        fails(f"Bearer {KEY}")
    assert has_key(told(caught.value))


async def test_no_attribute_of_the_client_contains_the_key() -> None:
    """The key is in no repr and in nothing that can be reached from the client by attributes, sessions included."""
    async with FakeTrooper(api_key=KEY) as fake, fake.client(retry=FAST) as client:
        order = fake.add_order(order_id=123)
        await client.orders.list()
        await client.orders.stop_and_wait(order)
        await client.orders.restart(order)
        fake.delay_next("/api/templates", 30)
        on_the_wire = asyncio.create_task(client.templates.list())
        await until(lambda: fake.requests[-1].path == "/api/templates")

        found = list(texts(client))

        assert not any(map(has_key, found))
        assert not has_key(repr(client) + str(client) + repr(vars(client)) + repr(vars(client._transport)))
        assert any("/api/" in text or "127.0.0.1" in text for text in found), "it looked into the client"
        on_the_wire.cancel()


async def test_no_log_line_contains_the_key(caplog: pytest.LogCaptureFixture) -> None:
    """True at DEBUG of all loggers, aiohttp's and asyncio's included, through successes and failures."""
    caplog.set_level(logging.DEBUG)
    for logger in ("aiohttp", "aiohttp.client", "aiohttp.internal", "asyncio", "trooper_async"):
        caplog.set_level(logging.DEBUG, logger)
    async with FakeTrooper(api_key=KEY) as fake, fake.client(retry=FAST) as client:
        order = fake.add_order(order_id=123)
        await client.orders.list()
        await client.orders.stop_and_wait(order)
        fake.drop_next("/api/orders")
        fake.fail_next("/api/orders", body={"error": KEY})
        await client.orders.list()
        fake.fail_next("/api/orders", body={"error": KEY})
        await client.orders.wait_until(order, "stopped")
        fake.drop_next("/api/order")
        with pytest.raises(PurchaseUnknownError):
            await buy(client)

    assert "GET /api/orders 200" in caplog.text
    assert not has_key(caplog.text)
    for record in caplog.records:
        assert not any(map(has_key, texts(vars(record))))


def test_a_failed_setting_that_a_429_then_delays_too_long_is_unknown() -> None:
    """A stop that got a 5xx, and whose second attempt a 429 delays past its deadline, may have been applied."""

    async def main() -> None:
        async def answer(call: Call[Any]) -> Response:
            if call.endpoint.path == "/api/order-status":
                return scripted_reply({"error": "oops"}, 500)
            return scripted_reply({}, 429, Retry_After="119")

        async with Script(lambda t: [row(1, "running")], answer).client() as client:
            await client.orders.list()
            stop = asyncio.create_task(client.orders.stop(1))
            await asyncio.sleep(0)
            ping = asyncio.create_task(client.ping())
            with pytest.raises(OutcomeUnknownError) as caught:
                await stop
            assert caught.value.attempts == 1
            assert caught.value.transition is not None
            with pytest.raises(RateLimitError):
                await ping

    run(main())
