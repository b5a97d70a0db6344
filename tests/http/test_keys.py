"""The API key as a function: called when a key is needed, and again after a 401; and what a valid key looks like."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from yarl import URL

from tests.helpers.clock import forward
from tests.helpers.conditions import until
from tests.helpers.raw_server import CUT, FAST, KEY, RawServer, http, serving
from tests.helpers.secrets import texts, told
from trooper_async import (
    APIConnectionError,
    AuthenticationError,
    ConfigurationError,
    RetryPolicy,
    TrooperClient,
    TrooperError,
)
from trooper_async.testing import FakeTrooper

REFUSED = http(b'{"error": "who?"}', status="401 Unauthorized")
SUCCESS = http(b'{"success": true, "test": "hello"}')


def keys_seen(server: RawServer) -> list[str]:
    return [request.header("Authorization")[0].removeprefix("Bearer ") for request in server.requests]


class Vault:
    """Returns one key after the other."""

    def __init__(self, *keys: str) -> None:
        self.keys = list(keys)
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        return self.keys[min(self.asked, len(self.keys)) - 1]

    async def later(self) -> str:
        await asyncio.sleep(0)
        return self()


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_the_key_function_is_called_once(kind: str) -> None:
    """Its key serves all requests until one is refused."""
    vault = Vault("first")
    async with RawServer(SUCCESS) as server:
        function: Callable[[], str | Awaitable[str]] = vault if kind == "sync" else vault.later
        async with server.client(api_key=function) as client:
            assert vault.asked == 0
            for _ in range(3):
                await client.ping()
    assert (vault.asked, keys_seen(server)) == (1, ["first"] * 3)


async def test_after_a_401_the_key_function_is_called_again() -> None:
    """A rotated key costs one extra request, even for a once-only call, since a 401 has changed nothing."""
    vault = Vault("old", "new")
    async with RawServer(SUCCESS, REFUSED, SUCCESS) as server, server.client(api_key=vault) as client:
        await client.ping()
        await client.templates.retry(5)
    assert keys_seen(server) == ["old", "old", "new"]


async def test_the_same_key_after_a_401_is_refused() -> None:
    """If the function returns the same key again, the 401 is raised, and nothing is retried."""
    vault = Vault("only")
    async with RawServer(REFUSED) as server, server.client(api_key=vault) as client:
        with pytest.raises(AuthenticationError):
            await client.ping()
    assert (vault.asked, keys_seen(server)) == (2, ["only"])


async def test_simultaneous_401s_call_the_key_function_once() -> None:
    """Requests that were in flight together when the key was rotated share one call for the new key."""
    vault = Vault("old", "new")
    async with FakeTrooper(api_key="old") as fake, fake.client(api_key=vault, max_concurrency=8) as client:
        await client.orders.list()
        fake.api_key = "new"
        await asyncio.gather(*(client.orders.list() for _ in range(8)))
    assert vault.asked == 2
    assert sum(request.status == 401 for request in fake.requests) <= 8


async def test_calls_do_not_wait_for_a_key_that_another_fetches() -> None:
    """Until the new key is there, the last one is used."""
    vault, fetched = Vault("old", "new"), asyncio.Event()

    async def slowly() -> str:
        key = vault()
        if key == "new":
            await fetched.wait()
        return key

    async with RawServer(REFUSED, SUCCESS) as server, server.client(api_key=slowly) as client:
        refused = asyncio.create_task(client.ping())
        await until(lambda: vault.asked == 2)
        assert await client.ping() == "hello"
        fetched.set()
        assert await refused == "hello"
    assert keys_seen(server) == ["old", "old", "new"]


async def test_a_wait_survives_a_rotated_key() -> None:
    """The poll gets the new key like any call."""
    vault = Vault("old", "new")
    async with FakeTrooper(api_key="old") as fake, fake.client(api_key=vault) as client:
        order = fake.add_order()
        waiting = asyncio.create_task(client.orders.wait_until(order, "stopped"))
        await until(lambda: len(fake.requests) >= 2)
        fake.api_key = "new"
        fake.set_status(order, "stopped", "stopped")
        assert (await waiting).current_status == "stopped"
    assert vault.asked == 2


async def test_a_failing_key_function_sends_nothing() -> None:
    """Its failure is reported without the key; once the function works again, so do calls."""
    asked = 0

    def vault() -> str:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise ConnectionError("the vault\nis \x1bsealed")
        return "key"

    retry = RetryPolicy(attempts=2, max_delay=0.0)
    async with RawServer(SUCCESS) as server, server.client(api_key=vault, retry=retry) as client:
        with pytest.raises(
            APIConnectionError,
            match=r": the api_key function failed \(ConnectionError: the vault is  sealed\) \(2 attempts",
        ) as caught:
            await client.templates.retry(1)
        assert (caught.value.attempts, server.requests) == (2, [])
        assert str(caught.value).endswith(". Nothing was sent: check what the api_key function does")
        await client.templates.retry(1)
    assert len(server.requests) == 1


async def test_a_hanging_key_function_times_out() -> None:
    """The function has as long as a response has."""

    asked = asyncio.Event()

    async def vault() -> str:
        asked.set()
        await asyncio.Event().wait()
        return ""

    retry = RetryPolicy(attempts=1)
    async with RawServer(SUCCESS) as server, server.client(api_key=vault, timeout=20.0, retry=retry) as client:
        reading = asyncio.create_task(client.ping())
        await asked.wait()
        forward(20)
        with pytest.raises(APIConnectionError, match=r": the api_key function failed \(TimeoutError\) "):
            await reading
    assert server.requests == []


@pytest.mark.parametrize("key", ["", "Bearer x", "a b", b"bytes", None, 5])
async def test_the_key_that_the_function_returns_is_checked(key: object) -> None:
    """It is checked like a key passed directly: nothing is sent with an invalid one."""
    async with RawServer(SUCCESS) as server, server.client(api_key=lambda: key, retry=FAST) as client:
        with pytest.raises(APIConnectionError, match=r": the api_key function failed \(ConfigurationError: .*API key"):
            await client.ping()
    assert server.requests == []


async def failure(client: TrooperClient) -> BaseException:
    """The error that a call fails with. (No frame of its traceback is a test's, which knows the keys.)"""
    try:
        await client.ping()
    except TrooperError as error:
        return error
    raise AssertionError("it succeeded")


async def test_no_key_of_a_function_is_in_an_error() -> None:
    """Neither the old nor the new key is in an error, the API's own text or an attribute."""
    old = KEY[::-1]
    echo = http(b'{"error": "%s and %s"}' % (old.encode(), KEY.encode()), status="400 No")
    server = RawServer(SUCCESS, REFUSED, echo, CUT)
    async with server, server.client(api_key=Vault(old, KEY), retry=FAST) as client:
        await client.ping()
        echoed, cut = await failure(client), await failure(client)
        found = [told(echoed), told(cut), *texts(client)]
    assert keys_seen(server)[:3] == [old, old, KEY]
    assert "[api key] and [api key]" in str(echoed)
    assert not any(key in text for text in found for key in (old, KEY))


def test_a_base_url_may_be_a_url_object() -> None:
    """A yarl URL is accepted, and checked like any other."""
    TrooperClient("key", base_url=URL("https://example.com/api"))
    with pytest.raises(ConfigurationError, match=r"^base_url must be https: over http anyone"):
        TrooperClient("key", base_url=URL("http://example.com"))


async def test_a_slow_key_function_does_not_shorten_the_response_timeout() -> None:
    """The response has its whole timeout, however long the key took."""
    arrived, answer = asyncio.Event(), asyncio.Event()

    def vault() -> str:
        forward(50)
        return "key"

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        await answer.wait()
        writer.write(http())

    once = RetryPolicy(attempts=1, deadline=None)
    async with serving(slow) as url, TrooperClient(vault, base_url=url, timeout=60.0, retry=once) as client:
        reading = asyncio.create_task(client.ping())
        await arrived.wait()
        forward(50)
        answer.set()
        assert await reading == "hello"
