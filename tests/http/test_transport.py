"""The transport: what is on the wire, what is sent again, the pace, the limits, and where the key is (nowhere else)."""

from __future__ import annotations

import asyncio
import gc
import gzip
import itertools
import logging
import pickle
import socket
import traceback
import warnings
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import aiohttp
import pytest
from aioresponses import aioresponses
from multidict import CIMultiDict
from yarl import URL

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
    Order,
    OrderNotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    PurchaseUnknownError,
    RateLimitError,
    RefusedError,
    ResponseFormatError,
    RetryPolicy,
    ServerError,
    ServerLockedError,
    Transition,
    TrooperClient,
    TrooperError,
    WaitTimeoutError,
    __version__,
)
from trooper_async._api.endpoints import ORDER, Call, call
from trooper_async._api.responses import Response
from trooper_async._http import gate, sessions
from trooper_async._http import wire as wire_module
from trooper_async.testing import FakeTrooper

KEY = "tk-0123456789-the-key-of-these-tests"
STOP = Transition(123, "stop", "stopped")
FAST = RetryPolicy(max_delay=0.0)
TEXT = b'{"test": "hello"}'


# --- a server that writes what it is told -------------------------------------------------------------------------


class Answer(NamedTuple):
    """The bytes of an answer, and what comes after them."""

    data: bytes
    then: Literal["next", "hang up", "nothing"] = "next"


SILENCE = Answer(b"", "nothing")
CUT = Answer(b"", "hang up")


def http(body: bytes = TEXT, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """An HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Request(NamedTuple):
    """What came in on a connection."""

    head: str
    body: bytes
    connection: int

    def header(self, name: str) -> list[str]:
        """All values of a header."""
        pairs = [line.partition(": ") for line in self.head.split("\r\n")[1:]]
        return [value for key, _, value in pairs if key.casefold() == name.casefold()]


class Wire:
    """A server whose answers are given byte for byte, one after the other, the last one for all further requests."""

    def __init__(self, *answers: bytes | Answer, port: int = 0) -> None:
        self.answers = [answer if isinstance(answer, Answer) else Answer(answer) for answer in answers or (http(),)]
        self.requests: list[Request] = []
        self.connections = 0
        self.port = port
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> TrooperClient:
        return TrooperClient(**{"api_key": KEY, "base_url": self.url, "retry": FAST, **options})

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop_listening(self) -> None:
        """Refuse new connections; those that are there go on."""
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):  # of __aexit__
                await self._converse(reader, writer, self.connections)
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        then = "next"
        while then == "next":
            head = (await reader.readuntil(b"\r\n\r\n")).decode().removesuffix("\r\n\r\n")
            request = Request(head, b"", connection)
            length = int((request.header("Content-Length") or ["0"])[0])
            self.requests.append(request._replace(body=await reader.readexactly(length)))
            data, then = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            writer.write(data)
            await writer.drain()
            if then == "nothing":
                await reader.read()


@asynccontextmanager
async def serving(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A server whose connections are served by a function; its URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):  # of the end below
                await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


async def until(condition: Callable[[], object]) -> None:
    """Wait until something has happened."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - conditions of all kinds
            await asyncio.sleep(0.001)


def free_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


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
async def test_each_status_has_its_class_and_its_attempts(
    responses: aioresponses, status: int, kind: type[APIStatusError], requests: int
) -> None:
    """A status becomes its class, after one request, or after four where it may pass."""
    responses.get("https://api.example/api/test", status=status, payload={"error": "no"}, repeat=True)

    async with TrooperClient(base_url="https://api.example", retry=FAST) as client:
        with pytest.raises(kind) as caught:
            await client.ping()

    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.message, caught.value.attempts) == (status, "no", requests)
    assert len(responses.requests[("GET", URL("https://api.example/api/test"))]) == requests


async def test_the_headers_of_a_read(responses: aioresponses) -> None:
    """A GET says who asks, the application first, and what it accepts; it has no body and so no type of one."""
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
    """A POST says that it carries JSON; without an application of yours the User-Agent is the package's alone."""
    responses.post("https://api.example/api/template-install-retry", payload={"success": True})

    async with TrooperClient(KEY, base_url="https://api.example") as client:
        await client.templates.retry(5)

    ((request,),) = responses.requests.values()
    assert request.kwargs["headers"]["User-Agent"].startswith("trooper-async/")
    assert request.kwargs["headers"]["Content-Type"] == "application/json"
    assert request.kwargs["data"] == b'{"install_id": 5}'


# --- on the wire --------------------------------------------------------------------------------------------------


async def test_the_key_is_on_the_wire_and_only_there() -> None:
    """Each request carries the key once, in its Authorization header."""
    async with Wire(http(), http(b'{"success": true}')) as wire, wire.client() as client:
        await client.ping()
        await client.templates.retry(5)

    assert len(wire.requests) == 2
    for request in wire.requests:
        assert request.header("Authorization") == [f"Bearer {KEY}"]
        assert (request.head + request.body.decode()).count(KEY) == 1


async def test_without_a_key_there_is_no_authorization() -> None:
    """A public endpoint is asked without an Authorization header where there is no key."""
    async with Wire() as wire, wire.client(api_key=None) as client:
        assert await client.ping() == "hello"

    assert wire.requests[0].header("Authorization") == []


async def test_a_redirect_is_never_followed() -> None:
    """The key goes to no other place than the base URL, whatever the API answers."""
    async with Wire() as elsewhere:
        moved = http(b"", f"Location: {elsewhere.url}/api/test", status="302 Found")
        async with Wire(moved) as wire, wire.client() as client:
            with pytest.raises(APIStatusError) as caught:
                await client.ping()

    assert caught.value.status == 302
    assert (len(wire.requests), elsewhere.requests) == (1, [])


async def test_a_base_url_may_have_a_path() -> None:
    """A gateway's prefix stays in front of every path."""
    async with Wire() as wire, wire.client(base_url=f"{wire.url}/gateway/") as client:
        await client.ping()

    assert wire.requests[0].head.startswith("GET /gateway/api/test HTTP/1.1")


async def test_reads_reuse_their_connection() -> None:
    """Reads one after the other share one connection."""
    async with Wire() as wire, wire.client() as client:
        for _ in range(5):
            await client.ping()

    assert (len(wire.requests), wire.connections) == (5, 1)


async def test_once_only_calls_have_a_fresh_connection_each() -> None:
    """What must not be sent twice never goes out on a connection that the server may just have closed."""
    async with Wire(http(b'{"success": true, "test": ""}')) as wire, wire.client() as client:
        await client.ping()
        for _ in range(3):
            await client.templates.retry(5)
        await client.ping()

    assert [request.connection for request in wire.requests] == [1, 2, 3, 4, 1]


async def test_a_reused_connection_that_is_cut_is_not_resent_behind_our_back() -> None:
    """aiohttp would send a GET again on its own, uncounted: here each request on the wire is an attempt."""
    async with Wire(http(), CUT) as wire, wire.client(retry=RetryPolicy(attempts=1)) as client:
        await client.ping()
        with pytest.raises(APIConnectionError) as caught:
            await client.ping()

    assert caught.value.attempts == 1
    assert len(wire.requests) == 2


async def test_attempts_counted_are_the_requests_on_the_wire(caplog: pytest.LogCaptureFixture) -> None:
    """Every request on the wire has its DEBUG line and is counted, also after a kept connection was closed."""
    caplog.set_level(logging.DEBUG, "trooper_async.transport")
    async with Wire(http(), CUT, CUT, http(b"no JSON")) as wire, wire.client() as client:
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


async def test_a_cut_on_a_reused_connection_costs_no_budget() -> None:
    """That a kept connection was closed says nothing of the API; a cut on a fresh one does."""
    policy = RetryPolicy(budget=1, max_delay=0.0)
    async with Wire(http(), CUT, CUT, http()) as wire, wire.client(retry=policy) as client:
        await client.ping()
        assert await client.ping() == "hello"
        assert len(wire.requests) == 4

        wire.answers = [CUT]
        with pytest.raises(APIConnectionError):
            await client.ping()

    assert len(wire.requests) == 4 + 1, "one more for the kept connection, and no token left"


@pytest.mark.parametrize("why", ["Connection: close", "idle for too long", "yours"])
async def test_a_cut_on_a_fresh_connection_after_an_answer_costs_budget(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer whose connection is not there for the next request makes no cut after it a free one."""
    if why == "idle for too long":
        monkeypatch.setattr(sessions, "_IDLE", 0.0)
    answer = http(TEXT, "Connection: close") if why == "Connection: close" else http()
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
        Wire(answer, CUT) as wire,
        wire.client(retry=RetryPolicy(budget=1, max_delay=0.0), session=session if why == "yours" else None) as client,
    ):
        await client.ping()
        with pytest.raises(APIConnectionError):
            await client.ping()

    assert wire.connections == len(wire.requests)
    assert len(wire.requests) == 1 + 2, "one token, spent"


async def test_cookies_are_not_kept() -> None:
    """What the API sets as a cookie is not sent back."""
    async with Wire(http(TEXT, "Set-Cookie: track=me; Path=/")) as wire:
        url = wire.url.replace("127.0.0.1", "localhost")  # for an address aiohttp keeps no cookies anyway
        async with wire.client(base_url=url) as client:
            await client.ping()
            await client.ping()

    assert [request.header("Cookie") for request in wire.requests] == [[], []]


async def test_proxies_and_netrc_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Neither a proxy nor credentials come out of the environment."""
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\ndefault login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    async with Wire() as wire, wire.client() as client, wire.client(api_key=None) as stranger:
        assert await client.ping() == "hello"
        assert await stranger.ping() == "hello"

    assert [request.header("Authorization") for request in wire.requests] == [[f"Bearer {KEY}"], []]


async def test_the_proxy_that_is_given_is_used() -> None:
    """With `proxy` the request goes there."""
    async with Wire() as proxy, proxy.client(base_url="http://127.0.0.1:9", proxy=proxy.url) as client:
        assert await client.ping() == "hello"

    assert proxy.requests[0].head.startswith("GET http://127.0.0.1:9/api/test HTTP/1.1")


async def test_a_proxy_that_refuses_is_never_sent() -> None:
    """Where the proxy can't be reached nothing was sent: retried, and no unknown outcome."""
    async with TrooperClient(
        KEY, base_url="http://127.0.0.1:9", proxy=f"http://127.0.0.1:{free_port()}", retry=FAST
    ) as client:
        with pytest.raises(APIConnectionError) as caught:
            await client.templates.retry(5)

    assert caught.value.attempts == 4


# --- never sent ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["read", "setting", "once", "purchase"])
async def test_a_refused_connection_is_retried_by_all_and_means_never_sent(verb: str) -> None:
    """Where nobody listens nothing was sent, for certain: four attempts, then APIConnectionError, purchases too."""
    calls: dict[str, Callable[[TrooperClient], Awaitable[object]]] = {
        "read": lambda client: client.ping(),
        "setting": lambda client: client.templates.remove(5),
        "once": lambda client: client.templates.retry(5),
        "purchase": lambda client: client._transport.request(call(ORDER, "orders.create")),
    }
    async with TrooperClient(KEY, base_url=f"http://127.0.0.1:{free_port()}", retry=FAST) as client:
        with pytest.raises(APIConnectionError, match=r"no connection to http://127\.0\.0\.1") as caught:
            await calls[verb](client)

    assert caught.value.attempts == 4


async def test_a_purchase_is_sent_once_the_api_listens_again() -> None:
    """A purchase whose connection is refused is tried again, and its one request on the wire buys one server."""
    retry = RetryPolicy(attempts=1000, budget=1000, max_delay=0.01)
    async with Wire(http(b"[]")) as wire, wire.client(retry=retry) as client:
        await client.orders.list()
        wire.stop_listening()  # the connection that the list came on stays
        buying = asyncio.create_task(
            client.orders.create(Blib(1, price_h=Decimal(1)), contract_interval="HOUR", terms_accepted=True)
        )
        await until(lambda: len(wire.requests) == 2)
        async with Wire(http(b'{"success": true, "orderId": 7}'), port=wire.port) as again:
            assert await buying == Transition(7, "create", "running")

    assert [request.head.split()[:2] for request in again.requests] == [["POST", "/api/order"]]


async def test_a_connection_that_does_not_come_about_is_never_sent() -> None:
    """A TLS handshake that is never answered ends after the connection's own time, and nothing was sent."""
    async with Wire(SILENCE) as wire:
        url = wire.url.replace("http:", "https:")
        async with wire.client(base_url=url, timeout=0.05, retry=RetryPolicy(attempts=2, max_delay=0.0)) as client:
            with pytest.raises(APIConnectionError, match="no connection") as caught:
                await client.templates.retry(5)

    assert not isinstance(caught.value, TimeoutError)
    assert (caught.value.attempts, wire.requests) == (2, [])


# --- what is sent again -------------------------------------------------------------------------------------------


class Verb(NamedTuple):
    """A method of the Surface, and what may be done with its request."""

    name: str
    kind: Literal["read", "setting", "once"]
    path: str
    run: Callable[[TrooperClient, Order], Awaitable[object]]
    transition: Transition | None = None


VERBS = [
    Verb("ping", "read", "/api/test", lambda client, order: client.ping()),
    Verb("list", "read", "/api/orders", lambda client, order: client.orders.list()),
    Verb("credentials", "read", "/api/credentials", lambda client, order: client.orders.credentials(order)),
    Verb("quote", "read", "/api/migration-cost", lambda client, order: client.migrations.quote(order, 2)),
    Verb(
        "start",
        "setting",
        "/api/order-status",
        lambda client, order: client.orders.start(order),
        Transition(123, "start", "running"),
    ),
    Verb(
        "stop",
        "setting",
        "/api/order-status",
        lambda client, order: client.orders.stop(order),
        Transition(123, "stop", "stopped"),
    ),
    Verb(
        "freeze",
        "setting",
        "/api/order-status",
        lambda client, order: client.orders.freeze(order),
        Transition(123, "freeze", "frozen"),
    ),
    Verb("rename", "setting", "/api/order-title", lambda client, order: client.orders.rename(order, "x")),
    Verb("lock", "setting", "/api/order-lock", lambda client, order: client.orders.lock(order)),
    Verb("remove", "setting", "/api/template-install-delete", lambda client, order: client.templates.remove(1)),
    Verb(
        "restart",
        "once",
        "/api/order-status",
        lambda client, order: client.orders.restart(order),
        Transition(123, "restart", "running"),
    ),
    Verb(
        "start with migration",
        "once",
        "/api/order-status",
        lambda client, order: client.orders.start(order, migration_allowed=True),
        Transition(123, "start", "running", migration_allowed=True),
    ),
    Verb("install", "once", "/api/template-install-add", lambda client, order: client.templates.install(order, 1)),
    Verb("retry", "once", "/api/template-install-retry", lambda client, order: client.templates.retry(1)),
]
READS = [verb for verb in VERBS if verb.kind == "read"]
SETTINGS = [verb for verb in VERBS if verb.kind == "setting"]
ONCE = [verb for verb in VERBS if verb.kind == "once"]


def name(value: object) -> str | None:
    return value.name if isinstance(value, Verb) else None


class Api:
    """The fake with an order and an installation that has failed, and a client that retries without delay."""

    def __init__(self, fake: FakeTrooper, client: TrooperClient, order: Order) -> None:
        self.fake, self.client, self.order = fake, client, order

    async def run(self, verb: Verb) -> object:
        return await verb.run(self.client, self.order)

    def sent(self, verb: Verb) -> int:
        """How many requests came in for it."""
        return [request.path for request in self.fake.requests].count(verb.path)

    async def fails(self, verb: Verb, kind: type[TrooperError], *, attempts: int) -> Any:
        """Run it, and give the error that it ends with: of that very kind, after so many requests."""
        with pytest.raises(kind) as caught:
            await self.run(verb)
        assert type(caught.value) is kind
        assert caught.value.attempts == self.sent(verb) == attempts
        return caught.value


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with FakeTrooper(durations={"install": 0.0}) as fake, fake.client(retry=FAST) as client:
        order = fake.add_order(order_id=123)
        fake.failing_templates.add(1)
        assert await client.templates.install(order, 1) == 1
        fake.requests.clear()
        yield Api(fake, client, order)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("verb", READS + [verb for verb in SETTINGS if verb.name != "remove"], ids=name)
async def test_a_lost_answer_of_a_read_or_a_setting_is_asked_for_again(
    api: Api, verb: Verb, when: Literal["before", "after"]
) -> None:
    """Whether the work was done or not before the line was cut: it is sent again, and succeeds."""
    api.fake.drop_next(verb.path, when=when)

    await api.run(verb)

    assert api.sent(verb) == 2


@pytest.mark.parametrize("verb", READS, ids=name)
async def test_a_read_that_gets_no_answer_is_a_connection_error(api: Api, verb: Verb) -> None:
    """After four attempts a read is given up, and nothing is unknown: it changed nothing."""
    api.fake.drop_next(verb.path, times=5)

    await api.fails(verb, APIConnectionError, attempts=4)


@pytest.mark.parametrize("verb", SETTINGS, ids=name)
async def test_a_setting_that_gets_no_answer_has_an_unknown_outcome(api: Api, verb: Verb) -> None:
    """After four attempts it may have been done or not; the transition is there to be waited for."""
    api.fake.drop_next(verb.path, times=5)

    error = await api.fails(verb, OutcomeUnknownError, attempts=4)

    assert error.transition == verb.transition
    assert not isinstance(error, TimeoutError | APIConnectionError)


def without_history(transition: Transition | None) -> Transition | None:
    """A transition to compare with: what the history held before a restart is another test's matter."""
    if transition is None:
        return None
    return Transition(
        transition.order_id, transition.action, transition.target, migration_allowed=transition.migration_allowed
    )


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("verb", ONCE, ids=name)
async def test_a_once_only_call_is_sent_once(api: Api, verb: Verb, when: Literal["before", "after"]) -> None:
    """Its answer lost, it is not sent again: the outcome is unknown, with the transition where there is one."""
    api.fake.drop_next(verb.path, when=when)

    error = await api.fails(verb, OutcomeUnknownError, attempts=1)

    assert without_history(error.transition) == verb.transition
    assert not isinstance(error, TimeoutError | APIConnectionError)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
@pytest.mark.parametrize("verb", [READS[0], READS[2], SETTINGS[1], SETTINGS[5]], ids=name)
async def test_a_failing_api_is_asked_four_times(api: Api, verb: Verb, status: int) -> None:
    """5xx and 408 on a read or a setting: four attempts, then the status's own class."""
    api.fake.fail_next(verb.path, status=status, times=5)

    error = await api.fails(verb, ServerError if status >= 500 else APIStatusError, attempts=4)

    assert error.status == status


@pytest.mark.parametrize("verb", READS + SETTINGS, ids=name)
async def test_a_failure_that_passes_is_not_seen(api: Api, verb: Verb) -> None:
    """Three 5xx and then an answer: success."""
    api.fake.fail_next(verb.path, status=503, times=3)

    await api.run(verb)

    assert api.sent(verb) == 4


@pytest.mark.parametrize("body", [None, {"success": False, "error": "not done, so it says"}])
@pytest.mark.parametrize("status", [500, 503, 408])
@pytest.mark.parametrize("verb", ONCE, ids=name)
async def test_a_once_only_call_under_5xx_has_an_unknown_outcome(
    api: Api, verb: Verb, status: int, body: object
) -> None:
    """Whatever the body says: a catch-all handler can answer `false` after the work was done."""
    api.fake.fail_next(verb.path, status=status, body=body)

    error = await api.fails(verb, OutcomeUnknownError, attempts=1)

    assert str(status) in error.message
    assert without_history(error.transition) == verb.transition


@pytest.mark.parametrize("verb", READS + SETTINGS, ids=name)
async def test_an_answer_that_cannot_be_read_is_asked_for_once_more(api: Api, verb: Verb) -> None:
    """A 200 that is no JSON: two attempts, then ResponseFormatError."""
    api.fake.fail_next(verb.path, status=200, body="<html>hello</html>", times=3)

    error = await api.fails(verb, ResponseFormatError, attempts=2)

    assert (error.path, error.expected) == ("$", "JSON")


@pytest.mark.parametrize("verb", ONCE, ids=name)
async def test_a_once_only_answer_that_cannot_be_read_has_an_unknown_outcome(api: Api, verb: Verb) -> None:
    """A 200 that is no JSON proves nothing of what must not be sent twice."""
    api.fake.fail_next(verb.path, status=200, body="<html>hello</html>")

    await api.fails(verb, OutcomeUnknownError, attempts=1)


@pytest.mark.parametrize("verb", VERBS, ids=name)
async def test_a_redirect_is_final(api: Api, verb: Verb) -> None:
    """A 3xx is not followed and not retried; of a once-only call the outcome is unknown then."""
    api.fake.fail_next(verb.path, status=307, headers={"Location": "/api/test"})

    await api.fails(verb, OutcomeUnknownError if verb.kind == "once" else APIStatusError, attempts=1)

    assert "/api/test" not in [request.path for request in api.fake.requests[1:]]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, BadRequestError), (403, PermissionDeniedError), (404, NotFoundError), (200, RefusedError)],
)
@pytest.mark.parametrize("verb", VERBS, ids=name)
async def test_a_refusal_is_final(api: Api, verb: Verb, status: int, kind: type[TrooperError]) -> None:
    """A 4xx, or `success: false` under a 2xx: sent once, and refused for certain, once-only calls too."""
    api.fake.fail_next(verb.path, status=status, body={"success": False, "error": "no"})

    await api.fails(verb, kind, attempts=1)


@pytest.mark.parametrize(
    ("happened", "kind"),
    [
        (["cut", 500, 500, 500], OutcomeUnknownError),
        ([500, "cut", 500, 503], OutcomeUnknownError),
        ([500, 500, 500, 500], ServerError),
        (["cut", 403], OutcomeUnknownError),
        ([500, 403], OutcomeUnknownError),
        (["cut", 200], OutcomeUnknownError),
        (["cut", 429, 403], OutcomeUnknownError),
        ([429, 403], PermissionDeniedError),
        ([403], PermissionDeniedError),
        (["cut", 307], OutcomeUnknownError),
        ([500, 307], APIStatusError),
    ],
)
async def test_what_a_setting_ends_with(api: Api, happened: list[int | str], kind: type[TrooperError]) -> None:
    """A refusal after an attempt whose outcome is unknown leaves it unknown; so does a 5xx after one that was cut."""
    stop = SETTINGS[1]
    for what in happened:
        if isinstance(what, int):
            api.fake.fail_next(stop.path, status=what, body={"success": False, "error": "no"})
        else:
            api.fake.drop_next(stop.path)

    await api.fails(stop, kind, attempts=len(happened))


@pytest.mark.parametrize(
    ("happened", "kind"),
    [
        (["cut", 403], PermissionDeniedError),
        ([500, 403], PermissionDeniedError),
        (["cut", "cut", "cut", 503], ServerError),
        ([503, 503, 503, "cut"], APIConnectionError),
    ],
)
async def test_what_a_read_ends_with(api: Api, happened: list[int | str], kind: type[TrooperError]) -> None:
    """A read ends with what happened last: it changes nothing, so nothing is unknown."""
    credentials = READS[2]
    for what in happened:
        if isinstance(what, int):
            api.fake.fail_next(credentials.path, status=what)
        else:
            api.fake.drop_next(credentials.path)

    await api.fails(credentials, kind, attempts=len(happened))


async def test_a_budget_that_runs_dry_ends_the_retries(fake_trooper: FakeTrooper) -> None:
    """A failing API is asked again as often as the budget has tokens, all calls of the client together."""
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


async def test_ten_calls_bring_one_retry_back(fake_trooper: FakeTrooper) -> None:
    """The budget grows by a tenth for each call, up to where it was."""
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
    """Where the next attempt would start after the policy's deadline, the call ends at once."""
    fake_trooper.fail_next("/api/test", status=503, retry_after=60, times=2)

    async with fake_trooper.client(retry=RetryPolicy(deadline=30.0)) as client, asyncio.timeout(10):
        with pytest.raises(ServerError) as caught:
            await client.ping()

    assert (caught.value.attempts, caught.value.retry_after) == (1, 60.0)


# --- Retry-After and the pace -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [503, 429])
@pytest.mark.parametrize("verb", [READS[0], SETTINGS[1]], ids=name)
async def test_retry_after_is_not_undercut(api: Api, verb: Verb, status: int) -> None:
    """The next request is not before what the API asked for."""
    api.fake.fail_next(verb.path, status=status, retry_after=0.15)

    await api.run(verb)

    first, second = [request.started for request in api.fake.requests]
    assert second - first >= 0.15


@pytest.mark.parametrize("verb", VERBS, ids=name)
async def test_a_429_is_waited_out_by_every_call(api: Api, verb: Verb) -> None:
    """A 429 did nothing: what must not be sent twice is sent again too, until it passes."""
    api.fake.fail_next(verb.path, status=429, retry_after=0, times=3)

    await api.run(verb)

    assert api.sent(verb) == 4


async def test_a_429_costs_neither_attempts_nor_budget(fake_trooper: FakeTrooper) -> None:
    """With one attempt and no budget a call still outlasts a rate limit."""
    fake_trooper.fail_next("/api/test", status=429, times=5)

    async with fake_trooper.client(retry=RetryPolicy(attempts=1, budget=0, max_delay=0.0)) as client:
        assert await client.ping() == "meinstring5"

    assert len(fake_trooper.requests) == 6


async def test_a_429_closes_the_gate_for_the_whole_client(fake_trooper: FakeTrooper) -> None:
    """After a 429 no call of the client goes out before the pause is over; then all of them succeed."""
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
    """When the pause is over the next request waits for the answer of the one before."""
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
            await until(lambda: len(most) >= 8)  # the first eight are answered once all of them are there
            busy -= 1
            writer.write(http() if number > 8 else http(b"{}", "Retry-After: 0", status="429 Slow down"))

    async with serving(answer) as url, TrooperClient(base_url=url, retry=FAST, max_concurrency=8) as client:
        await asyncio.gather(*(client.ping() for _ in range(18)))

    assert most[:8] == [1, 2, 3, 4, 5, 6, 7, 8], "before any 429: all at once"
    assert most[8:18] == [1] * 10, "ten by ones after it"


async def test_a_retry_after_beyond_two_minutes_is_an_error_at_once(fake_trooper: FakeTrooper) -> None:
    """Nobody waits so long within a call: RateLimitError with what the API asked for."""
    fake_trooper.fail_next("/api/test", status=429, retry_after=121)

    async with fake_trooper.client(retry=RetryPolicy(deadline=10_000.0)) as client, asyncio.timeout(10):
        with pytest.raises(RateLimitError) as caught:
            await client.ping()

    assert (caught.value.retry_after, caught.value.status, caught.value.attempts) == (121.0, 429, 1)


async def test_while_the_gate_is_closed_for_long_others_are_told_at_once(fake_trooper: FakeTrooper) -> None:
    """A call that can't be let in before its deadline is a RateLimitError that says how long, and is not sent."""
    fake_trooper.fail_next("/api/test", status=429, retry_after=1000)

    async with fake_trooper.client() as client, asyncio.timeout(10):
        with pytest.raises(RateLimitError):
            await client.ping()
        with pytest.raises(RateLimitError) as caught:
            await client.orders.list()

    assert len(fake_trooper.requests) == 1
    assert caught.value.attempts == 0
    assert caught.value.retry_after is not None
    assert 60.0 < caught.value.retry_after <= 120.0


async def test_a_retry_after_beyond_the_deadline_is_an_error_at_once(fake_trooper: FakeTrooper) -> None:
    """A pause that is longer than the call may take is not begun."""
    fake_trooper.fail_next("/api/test", status=429, retry_after=20)

    async with fake_trooper.client(retry=RetryPolicy(deadline=10.0)) as client, asyncio.timeout(10):
        with pytest.raises(RateLimitError) as caught:
            await client.ping()

    assert caught.value.retry_after == 20.0


async def test_a_retry_after_may_be_a_date(fake_trooper: FakeTrooper) -> None:
    """An HTTP date counts from the server's own clock."""
    headers = {"Date": "Tue, 24 Nov 2026 08:00:00 GMT", "Retry-After": "Tue, 24 Nov 2026 08:05:00 GMT"}
    fake_trooper.fail_next("/api/test", status=429, headers=headers)

    async with fake_trooper.client() as client, asyncio.timeout(10):
        with pytest.raises(RateLimitError) as caught:
            await client.ping()

    assert caught.value.retry_after == 300.0


@pytest.mark.parametrize("nonsense", ["soon", "-5", "1e9", "NaN", "9" * 40, "Tue, 99 Nov 2026 08:05:00 GMT"])
async def test_a_nonsense_retry_after_is_ignored(fake_trooper: FakeTrooper, nonsense: str) -> None:
    """What is neither seconds nor a date is as if it were not there."""
    fake_trooper.fail_next("/api/test", status=503, retry_after=nonsense)

    async with fake_trooper.client(retry=FAST) as client, asyncio.timeout(10):
        await client.ping()

    assert len(fake_trooper.requests) == 2


# --- limits -------------------------------------------------------------------------------------------------------


async def test_a_body_of_the_allowed_size_is_read() -> None:
    """The cap is the largest body that is read."""
    async with Wire() as wire, wire.client(max_body_bytes=len(TEXT)) as client:
        assert await client.ping() == "hello"


async def test_a_body_beyond_the_cap_is_not_read() -> None:
    """One byte too many is a ResponseFormatError that names the option."""
    async with Wire() as wire, wire.client(max_body_bytes=len(TEXT) - 1) as client:
        with pytest.raises(ResponseFormatError) as caught:
            await client.ping()

    assert caught.value.expected == "smaller than max_body_bytes"
    assert len(wire.requests) == caught.value.attempts == 2


async def test_a_body_without_end_is_cut_at_the_cap() -> None:
    """A server that never stops sending is hung up on."""
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
        async with asyncio.timeout(10):
            await hung_up.wait()


async def test_a_compressed_answer_is_read() -> None:
    """gzip is asked for, and undone."""
    async with Wire(http(gzip.compress(TEXT), "Content-Encoding: gzip")) as wire, wire.client() as client:
        assert await client.ping() == "hello"

    assert "gzip" in wire.requests[0].header("Accept-Encoding")[0]


async def test_a_gzip_bomb_is_stopped_at_the_cap() -> None:
    """The inflated size counts, as it comes in: a bomb is hung up on long before its end."""
    hung_up = asyncio.Event()
    bomb = zlib.compressobj(wbits=31)
    begin = bomb.compress(b'{"test": "' + b"a" * 2**20) + bomb.flush(zlib.Z_SYNC_FLUSH)

    async def tick(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 500000\r\n\r\n" + begin)
        await reader.read()  # the rest comes never
        hung_up.set()

    assert len(begin) < 10_000
    policy = RetryPolicy(attempts=1)
    async with serving(tick) as url, TrooperClient(base_url=url, max_body_bytes=100_000, retry=policy) as client:
        with pytest.raises(ResponseFormatError) as caught:
            await client.ping()
        async with asyncio.timeout(10):
            await hung_up.wait()

    assert caught.value.expected == "smaller than max_body_bytes"


async def test_the_size_on_the_wire_counts_too() -> None:
    """A body that is larger on the wire than inflated is measured on the wire."""
    stored = zlib.compressobj(level=0, wbits=31)  # gzip, nothing compressed
    body = TEXT + b" " * 3000
    answer = http(stored.compress(body) + stored.flush(), "Content-Encoding: gzip")

    async with Wire(answer) as wire, wire.client(max_body_bytes=len(body)) as client:
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
async def test_an_answer_that_is_not_whole_is_none(answer: Answer) -> None:
    """A read whose answer is cut or broken on its way is retried, then a connection error; of a once-only call the
    outcome is unknown."""
    async with Wire(answer) as wire, wire.client() as client:
        with pytest.raises(APIConnectionError) as caught:
            await client.ping()
        assert (len(wire.requests), caught.value.attempts) == (4, 4)

        with pytest.raises(OutcomeUnknownError):
            await client.templates.retry(5)
        assert len(wire.requests) == 5

        wire.answers = [answer, Answer(http())]
        assert await client.ping() == "hello"


async def test_no_answer_in_time_is_a_timeout_error() -> None:
    """A read that is not answered within `timeout` is retried, then an APITimeoutError, which is a TimeoutError."""
    policy = RetryPolicy(attempts=2, max_delay=0.0)
    async with Wire(SILENCE) as wire, wire.client(timeout=0.2, retry=policy) as client:
        with pytest.raises(APITimeoutError) as caught:
            await client.ping()

    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.attempts, len(wire.requests)) == (2, 2)


async def test_an_answer_that_stalls_within_its_body_is_a_timeout_error() -> None:
    """The time limit is for the whole answer."""
    stalled = Answer(http(b'{"test": "hel', length=len(TEXT)), "nothing")
    async with Wire(stalled) as wire, wire.client(timeout=0.2, retry=RetryPolicy(attempts=1)) as client:
        with pytest.raises(APITimeoutError):
            await client.ping()


async def test_a_once_only_call_is_given_more_time_than_a_read() -> None:
    """`timeout` does not cut what must not be sent twice: it would only make its outcome unknown."""

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.6)
        writer.write(http(b'{"success": true, "test": ""}'))

    policy = RetryPolicy(attempts=1)
    async with serving(slow) as url, TrooperClient(KEY, base_url=url, timeout=0.2, retry=policy) as client:
        await client.templates.retry(5)
        with pytest.raises(APITimeoutError):
            await client.ping()


async def test_a_once_only_call_without_an_answer_has_an_unknown_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time over too, it is no TimeoutError, so that nobody's retry on a timeout sends it again."""
    monkeypatch.setattr(wire_module, "_ONCE_ANSWER", 0.2)
    async with Wire(SILENCE) as wire, wire.client(timeout=0.2) as client:
        with pytest.raises(OutcomeUnknownError) as caught:
            await client.templates.retry(5)

    assert not isinstance(caught.value, TimeoutError)
    assert len(wire.requests) == 1


async def test_no_more_than_max_concurrency_are_on_the_wire() -> None:
    """The other calls wait for their turn, without a connection."""
    async with Wire(SILENCE) as wire, wire.client(max_concurrency=3) as client:
        calls = [asyncio.create_task(client.ping()) for _ in range(9)]
        await until(lambda: len(wire.requests) == 3)
        for _ in range(50):
            await asyncio.sleep(0)

        assert (len(wire.requests), wire.connections) == (3, 3)
        for one in calls:
            one.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


# --- a session of yours -------------------------------------------------------------------------------------------


MINE = {"X-Mine": "yes"}


async def test_your_session_is_used_and_not_closed() -> None:
    """Every request goes out on the session that was given, and the client's end is not the session's."""
    async with Wire(http(b'{"success": true, "test": ""}')) as wire, aiohttp.ClientSession(headers=MINE) as session:
        client = wire.client(session=session)
        await client.ping()
        await client.templates.retry(5)
        await client.close()
        assert not session.closed
        async with session.get(wire.url) as response:
            assert response.status == 200

    assert [request.header("X-Mine") for request in wire.requests] == [["yes"]] * 3
    assert [request.header("Authorization") for request in wire.requests] == [[f"Bearer {KEY}"]] * 2 + [[]]


async def test_your_session_that_keeps_connections_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """The first once-only call on it says in the log what to set; reads and later calls say nothing."""
    async with (
        Wire(http(b'{"success": true, "test": ""}')) as wire,
        aiohttp.ClientSession() as session,
        wire.client(session=session) as client,
    ):
        await client.ping()
        assert caplog.records == []
        await client.templates.retry(5)
        await client.templates.retry(5)

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "force_close=True" in caplog.text


async def test_your_session_that_keeps_no_connections_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """With `force_close` all is well."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with (
        Wire(http(b'{"success": true}')) as wire,
        aiohttp.ClientSession(connector=connector) as session,
        wire.client(session=session) as client,
    ):
        await client.templates.retry(5)

    assert caplog.records == []


async def test_a_session_with_auth_is_refused() -> None:
    """Its header would take the key's place: said at once, with none of its secrets."""
    with pytest.warns(DeprecationWarning, match="auth"):
        session = aiohttp.ClientSession(auth=aiohttp.BasicAuth("me", "secret"))
    with pytest.raises(ConfigurationError, match="auth") as caught:
        TrooperClient(KEY, session=session)
    await session.close()

    assert "secret" not in str(caught.value)


async def test_a_session_that_is_closed_is_said_at_once() -> None:
    """A closed session of yours is a ClientClosedError that says whose it was."""
    async with Wire() as wire:
        session = aiohttp.ClientSession()
        async with wire.client(session=session) as client:
            await session.close()
            with pytest.raises(ClientClosedError, match="session that was given"):
                await client.ping()

    assert wire.requests == []


async def test_the_middlewares_of_your_session_are_replaced() -> None:
    """The client's own middleware takes their place, as the docs say."""

    async def yours(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        raise AssertionError("not called")

    async with (
        Wire() as wire,
        aiohttp.ClientSession(middlewares=[yours]) as session,
        wire.client(session=session) as client,
    ):
        assert await client.ping() == "hello"


# --- the client's end ---------------------------------------------------------------------------------------------


async def test_close_in_mid_call_ends_a_read_with_client_closed() -> None:
    """A read on the wire ends with ClientClosedError, at once."""
    async with Wire(SILENCE) as wire:
        client = wire.client()
        reading = asyncio.create_task(client.ping())
        await until(lambda: wire.requests)

        await client.close()

        async with asyncio.timeout(10):
            with pytest.raises(ClientClosedError):
                await reading
    assert len(wire.requests) == 1


async def test_close_in_mid_call_leaves_a_setting_unknown() -> None:
    """What was on the wire and changes something may have been done: its outcome is unknown, not merely closed."""
    async with Wire(SILENCE) as wire:
        client = wire.client()
        removing = asyncio.create_task(client.templates.remove(5))
        await until(lambda: wire.requests)

        await client.close()

        async with asyncio.timeout(10):
            with pytest.raises(OutcomeUnknownError):
                await removing
    assert len(wire.requests) == 1


async def test_close_ends_calls_that_wait_for_their_turn() -> None:
    """A call that was not sent yet is not sent any more."""
    async with Wire(SILENCE) as wire:
        client = wire.client(max_concurrency=1)
        calls = [asyncio.create_task(client.templates.remove(number)) for number in (1, 2, 3)]
        await until(lambda: wire.requests)

        await client.close()

        async with asyncio.timeout(10):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [OutcomeUnknownError, ClientClosedError, ClientClosedError]
    assert len(wire.requests) == 1


@pytest.mark.parametrize("status", ["503 Later", "429 Slow down"])
async def test_close_ends_the_pause_before_a_retry(status: str) -> None:
    """A call that waits out a Retry-After ends when the client is closed, not when the pause is over."""
    async with Wire(http(b"{}", "Retry-After: 50", status=status)) as wire:
        client = wire.client(retry=RetryPolicy(deadline=1000.0))
        reading = asyncio.create_task(client.ping())
        await until(lambda: wire.requests and client._transport._gate._inside == 0)

        await client.close()

        async with asyncio.timeout(10):
            with pytest.raises(ClientClosedError):
                await reading
    assert len(wire.requests) == 1


async def test_a_closed_client_sends_nothing() -> None:
    """After `close`, which may be called twice, every call is a ClientClosedError."""
    async with Wire() as wire:
        async with wire.client() as client:
            await client.ping()
        await client.close()

        with pytest.raises(ClientClosedError, match="closed: nothing was sent"):
            await client.ping()
        with pytest.raises(ClientClosedError):
            async with client:
                pass

    assert len(wire.requests) == 1


async def test_a_client_belongs_to_one_event_loop() -> None:
    """Used on another loop it says so, and sends nothing."""
    async with Wire() as wire, wire.client() as client:
        await client.ping()
        with pytest.raises(ConfigurationError, match="another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(client.ping()))

    assert len(wire.requests) == 1


async def test_a_forgotten_close_is_a_resource_warning() -> None:
    """A client that is dropped with sessions open warns; one that was closed, or never used, does not."""

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
            caught.clear()  # aiohttp's own keep its objects, which warn in their turn
            gc.collect()
            await asyncio.sleep(0.01)
        return [text for text in told if "TrooperClient" in text]

    async with Wire() as wire:
        assert await dropped(used=True, closed=False) == ["a TrooperClient was not closed: use `async with`"]
        assert await dropped(used=True, closed=True) == []
        assert await dropped(used=False, closed=False) == []


async def test_cancelling_a_call_leaves_no_task() -> None:
    """A call that is cancelled on the wire, in the pause before a retry or at the gate leaves no task behind."""
    async with (
        Wire(http(b"{}", "Retry-After: 50", status="503 Later"), SILENCE) as wire,
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


def chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that hang on it, also those that a traceback would not print."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            todo += [one.__cause__, one.__context__]
            if isinstance(one, BaseExceptionGroup):
                todo += one.exceptions


def told(error: BaseException) -> str:
    """All that a crash reporter could tell of an exception: its texts, its attributes, and every frame's locals."""
    parts = []
    for one in chain(error):
        report = traceback.TracebackException.from_exception(one, capture_locals=True)
        parts += [*report.format(), str(one), repr(one), repr(one.args), repr(vars(one))]
        for frame, _ in traceback.walk_tb(one.__traceback__):
            if "/trooper_async/" in frame.f_code.co_filename or "/aiohttp/" in frame.f_code.co_filename:
                parts += [text for value in frame.f_locals.values() for text in texts(value)]
    return "\n".join(parts)


def texts(root: object) -> Iterator[str]:
    """Every text that can be reached from an object by its attributes and items, without the event loop."""
    seen: set[int] = set()
    kept: list[object] = []  # so that no id is given twice
    todo = [root]
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        kept.append(one)
        if isinstance(one, str):
            yield one
        elif isinstance(one, bytes | bytearray):
            yield one.decode(errors="replace")
        elif isinstance(one, asyncio.AbstractEventLoop | type) or type(one).__name__ in ("module", "function"):
            continue  # the loop also runs the server that got the key; code holds no state
        else:
            if isinstance(one, dict):
                todo += [*one.keys(), *one.values()]
            elif isinstance(one, list | tuple | set | frozenset):
                todo += one
            elif isinstance(one, Mapping):
                todo += [item for pair in one.items() for item in pair]
            todo += getattr(one, "__dict__", {}).values()
            slots = itertools.chain.from_iterable(
                (names,) if isinstance(names, str) else names
                for names in (vars(kind).get("__slots__", ()) for kind in type(one).__mro__)
            )
            for slot in slots:
                with suppress(AttributeError):
                    todo.append(getattr(one, slot))


def has_key(text: str) -> bool:
    return KEY in text


Run = Callable[[TrooperClient], Awaitable[object]]


async def _raw(*answers: bytes | Answer, **options: Any) -> None:
    async with Wire(*answers) as wire, wire.client(retry=RetryPolicy(attempts=1), **options) as client:
        await client.ping()


async def _fake(fake: FakeTrooper, run: Run, **options: Any) -> None:
    async with fake.client(retry=FAST, **options) as client:
        await run(client)


def _echoing(fake: FakeTrooper, status: int, body: object = None, **faults: Any) -> FakeTrooper:
    """The fake, whose next lists fail and tell the key to whoever asks. (No test's frame may hold it.)"""
    echo = {"error": f"what is {KEY}?", "next": f"try {KEY}", "message": KEY, "success": False}
    fake.fail_next("/api/orders", status=status, times=9, body=echo if body is None else body, **faults)
    return fake


def _dropping(fake: FakeTrooper, path: str, times: int = 1) -> FakeTrooper:
    fake.drop_next(path, when="after", times=times)
    return fake


def _list(client: TrooperClient) -> Awaitable[object]:
    return client.orders.list()


def _buy(client: TrooperClient) -> Awaitable[object]:
    blib = Blib(1, price_h=Decimal("0.85"))
    return client.orders.create(blib, contract_interval="HOUR", terms_accepted=True)


async def _close_in_mid_call(fake: FakeTrooper) -> None:
    fake.delay_next("/api/orders", 30)
    client = fake.client()
    reading = asyncio.create_task(client.orders.list())
    await until(lambda: fake.requests)
    await client.close()
    await reading


async def _wait_for(fake: FakeTrooper) -> None:
    fake.delay_next("/api/orders", 30)
    async with fake.client() as client:
        await asyncio.wait_for(client.orders.list(), 0.1)


async def _time_out_in_a_body() -> None:
    async with Wire(Answer(http(b"[", length=100), "nothing")) as wire, wire.client() as client, asyncio.timeout(0.1):
        await client.orders.list()


async def _cancel(fake: FakeTrooper) -> None:
    fake.delay_next("/api/orders", 30)
    async with fake.client() as client:
        reading = asyncio.create_task(client.orders.list())
        await until(lambda: fake.requests)
        reading.cancel()
        await reading


async def _group(fake: FakeTrooper) -> None:
    fake.fail_next("/api/templates", status=403)
    async with fake.client(retry=FAST) as client, asyncio.TaskGroup() as group:
        group.create_task(client.orders.list())
        group.create_task(client.templates.list())


FAILURES: dict[str, tuple[type[BaseException], Callable[[FakeTrooper], Awaitable[None]]]] = {
    "refused": (APIConnectionError, lambda fake: _fake(fake, _list, base_url=f"http://127.0.0.1:{free_port()}")),
    "no TLS": (APIConnectionError, lambda fake: _fake(fake, _list, base_url=fake.url.replace("http:", "https:"))),
    "dropped": (APIConnectionError, lambda fake: _raw(CUT)),
    "cut in the body": (APIConnectionError, lambda fake: _raw(Answer(http(length=99), "hang up"))),
    "broken gzip": (APIConnectionError, lambda fake: _raw(http(b"no gzip at all", "Content-Encoding: gzip"))),
    "no HTTP": (APIConnectionError, lambda fake: _raw(Answer(b"SSH-2.0-hello\r\n\r\n", "hang up"))),
    "too slow": (APITimeoutError, lambda fake: _raw(SILENCE, timeout=0.2)),
    "too large": (ResponseFormatError, lambda fake: _raw(http(), max_body_bytes=1)),
    "no JSON": (ResponseFormatError, lambda fake: _fake(_echoing(fake, 200, f"<b>{KEY}</b>"), _list)),
    "no list": (ResponseFormatError, lambda fake: _fake(_echoing(fake, 200, {"echo": KEY}), _list)),
    "a wrong id": (ResponseFormatError, lambda fake: _fake(_echoing(fake, 200, [{"order_id": KEY}]), _list)),
    "a wrong title": (
        ResponseFormatError,
        lambda fake: _fake(_echoing(fake, 200, [{"order_id": 1, "status": "x", "title": [KEY]}]), _list),
    ),
    "200 false": (RefusedError, lambda fake: _fake(_echoing(fake, 200), _list)),
    "302": (APIStatusError, lambda fake: _fake(_echoing(fake, 302, headers={"Location": f"/?{KEY}"}), _list)),
    "400": (BadRequestError, lambda fake: _fake(_echoing(fake, 400), _list)),
    "401": (AuthenticationError, lambda fake: _fake(_echoing(fake, 401), _list)),
    "403": (PermissionDeniedError, lambda fake: _fake(_echoing(fake, 403), _list)),
    "locked": (ServerLockedError, lambda fake: _fake(_echoing(fake, 403, {"error": f"locked by {KEY}"}), _list)),
    "404": (NotFoundError, lambda fake: _fake(_echoing(fake, 404), _list)),
    "429": (RateLimitError, lambda fake: _fake(_echoing(fake, 429, retry_after=999), _list)),
    "500": (ServerError, lambda fake: _fake(_echoing(fake, 500), _list)),
    "a look-up": (AuthenticationError, lambda fake: _fake(_echoing(fake, 401), lambda client: client.orders.stop(1))),
    "unknown id": (OrderNotFoundError, lambda fake: _fake(fake, lambda client: client.orders.stop(4711))),
    "setting": (
        OutcomeUnknownError,
        lambda fake: _fake(_dropping(fake, "/api/order-title", 4), lambda client: client.orders.rename(123, "x")),
    ),
    "once-only": (
        OutcomeUnknownError,
        lambda fake: _fake(_dropping(fake, "/api/order-status"), lambda client: client.orders.restart(123)),
    ),
    "purchase": (PurchaseUnknownError, lambda fake: _fake(_dropping(fake, "/api/order"), _buy)),
    "wait": (
        WaitTimeoutError,
        lambda fake: _fake(_dropping(fake, "/api/orders", 999), lambda client: client.orders.wait(STOP, timeout=0.1)),
    ),
    "wait refused": (
        AuthenticationError,
        lambda fake: _fake(_echoing(fake, 401), lambda client: client.orders.wait(STOP, timeout=30)),
    ),
    "closed": (ClientClosedError, _close_in_mid_call),
    "wait_for": (TimeoutError, _wait_for),
    "timeout in the body": (TimeoutError, lambda fake: _time_out_in_a_body()),
    "cancelled": (asyncio.CancelledError, _cancel),
    "group": (ExceptionGroup, lambda fake: _group(_echoing(fake, 500))),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_no_error_tells_the_key(failure: str) -> None:
    """Neither its text nor its attributes, its pickle, its causes and contexts, nor the locals of any frame."""
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


async def test_a_cancellation_brings_no_other_exception_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was being handled when it came, an exception with the request's headers, say, is not in its context."""

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

    async with Wire() as wire, wire.client() as client:
        monkeypatch.setattr(client._transport._wire.sessions, "get", lambda sending, once: Cancelled())
        with pytest.raises(asyncio.CancelledError) as caught:
            await client.ping()

    assert list(chain(caught.value)) == [caught.value]


async def test_the_search_for_the_key_finds_it() -> None:
    """The tests around this one can fail: where the key is held in an attribute or a local, they see it."""

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


async def test_no_attribute_of_the_client_holds_the_key() -> None:
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


async def test_no_log_line_holds_the_key(caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG of all loggers, aiohttp's and asyncio's included, through successes and failures."""
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
            await _buy(client)

    assert "GET /api/orders 200" in caplog.text
    assert not has_key(caplog.text)
    for record in caplog.records:
        assert not any(map(has_key, texts(vars(record))))


def test_a_setting_that_failed_and_is_then_held_up_for_too_long_is_unknown() -> None:
    """A stop that got a 5xx, and whose second attempt a 429 keeps away past its deadline, may have been done."""

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
