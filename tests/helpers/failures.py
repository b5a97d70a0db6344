"""Calls that fail, by name: the class of error, and how to provoke it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

from tests.helpers.clock import forward
from tests.helpers.conditions import free_port, until
from tests.helpers.raw_server import CUT, FAST, KEY, SILENCE, Answer, RawServer, http
from trooper_async import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    Blib,
    ClientClosedError,
    NotFoundError,
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
    WaitError,
    WaitTimeoutError,
)
from trooper_async.testing import FakeTrooper

STOP = Transition(123, "stop", "stopped")


Run = Callable[[TrooperClient], Awaitable[object]]


async def _raw(*answers: bytes | Answer, **options: Any) -> None:
    async with RawServer(*answers) as wire, wire.client(retry=RetryPolicy(attempts=1), **options) as client:
        await client.ping()


async def _silence() -> None:
    async with RawServer(SILENCE) as wire, wire.client(retry=RetryPolicy(attempts=1)) as client:
        pinging = asyncio.create_task(client.ping())
        await until(lambda: wire.requests)
        forward(60)
        await pinging


async def _fake(fake: FakeTrooper, run: Run, **options: Any) -> None:
    async with fake.client(retry=FAST, **options) as client:
        await run(client)


def echoing(fake: FakeTrooper, status: int, body: object = None, **faults: Any) -> FakeTrooper:
    """The fake, whose next lists fail and repeat the key in their text. (No frame of a test may hold it.)"""
    echo = {"error": f"what is {KEY}?", "next": f"try {KEY}", "message": KEY, "success": False}
    fake.fail_next("/api/orders", status=status, times=9, body=echo if body is None else body, **faults)
    return fake


def dropping(fake: FakeTrooper, path: str, times: int = 1) -> FakeTrooper:
    fake.drop_next(path, when="after", times=times)
    return fake


def _list(client: TrooperClient) -> Awaitable[object]:
    return client.orders.list()


def buy(client: TrooperClient) -> Awaitable[object]:
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
    async with (
        RawServer(Answer(http(b"[", length=100), "nothing")) as wire,
        wire.client() as client,
        asyncio.timeout(0.1),
    ):
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
    "too slow": (APITimeoutError, lambda fake: _silence()),
    "too large": (ResponseFormatError, lambda fake: _raw(http(), max_body_bytes=1)),
    "no JSON": (ResponseFormatError, lambda fake: _fake(echoing(fake, 200, f"<b>{KEY}</b>"), _list)),
    "no list": (ResponseFormatError, lambda fake: _fake(echoing(fake, 200, {"echo": KEY}), _list)),
    "a wrong id": (ResponseFormatError, lambda fake: _fake(echoing(fake, 200, [{"order_id": KEY}]), _list)),
    "a wrong status": (
        ResponseFormatError,
        lambda fake: _fake(echoing(fake, 200, [{"order_id": 1, "status": [KEY], "title": [KEY]}]), _list),
    ),
    "200 false": (RefusedError, lambda fake: _fake(echoing(fake, 200), _list)),
    "302": (APIStatusError, lambda fake: _fake(echoing(fake, 302, headers={"Location": f"/?{KEY}"}), _list)),
    "400": (BadRequestError, lambda fake: _fake(echoing(fake, 400), _list)),
    "401": (AuthenticationError, lambda fake: _fake(echoing(fake, 401), _list)),
    "403": (PermissionDeniedError, lambda fake: _fake(echoing(fake, 403), _list)),
    "locked": (ServerLockedError, lambda fake: _fake(echoing(fake, 403, {"error": f"locked by {KEY}"}), _list)),
    "404": (NotFoundError, lambda fake: _fake(echoing(fake, 404), _list)),
    "429": (RateLimitError, lambda fake: _fake(echoing(fake, 429, retry_after=999), _list)),
    "500": (ServerError, lambda fake: _fake(echoing(fake, 500), _list)),
    "a look-up": (AuthenticationError, lambda fake: _fake(echoing(fake, 401), lambda client: client.orders.stop(1))),
    "unknown id": (OrderNotFoundError, lambda fake: _fake(fake, lambda client: client.orders.stop(4711))),
    "setting": (
        OutcomeUnknownError,
        lambda fake: _fake(dropping(fake, "/api/order-title", 4), lambda client: client.orders.rename(123, "x")),
    ),
    "once-only": (
        OutcomeUnknownError,
        lambda fake: _fake(dropping(fake, "/api/order-status"), lambda client: client.orders.restart(123)),
    ),
    "purchase": (PurchaseUnknownError, lambda fake: _fake(dropping(fake, "/api/order"), buy)),
    "wait": (
        WaitTimeoutError,
        lambda fake: _fake(dropping(fake, "/api/orders", 999), lambda client: client.orders.wait(STOP, timeout=0.1)),
    ),
    "wait refused": (
        WaitError,
        lambda fake: _fake(echoing(fake, 401), lambda client: client.orders.wait(STOP, timeout=30)),
    ),
    "closed": (ClientClosedError, _close_in_mid_call),
    "wait_for": (TimeoutError, _wait_for),
    "timeout in the body": (TimeoutError, lambda fake: _time_out_in_a_body()),
    "cancelled": (asyncio.CancelledError, _cancel),
    "group": (ExceptionGroup, lambda fake: _group(echoing(fake, 500))),
}
