"""`TrooperClient`: its configuration, and invalid input, which gives a clear error and sends nothing."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
import socket
import traceback
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.helpers.texts import case_id, exactly
from trooper_async import (
    AuthenticationError,
    Blib,
    ClientClosedError,
    ConfigurationError,
    MigrationQuote,
    Order,
    OrderNotFoundError,
    PriceError,
    RetryPolicy,
    Transition,
    TrooperClient,
    WaitError,
)
from trooper_async.testing import FakeTrooper

ORDER = Order(123, "running")
BLIB = Blib(1, "RTX 4090 Single", price_h=Decimal("0.85"))
QUOTE = MigrationQuote(123, 2, total_due=Decimal("0.8"))
STOP = Transition(123, "stop", "stopped")

Run = Callable[[TrooperClient], Awaitable[object]]


def buy(trooper: TrooperClient, blib: Any = BLIB, **arguments: Any) -> Awaitable[object]:
    return trooper.orders.create(blib, **{"contract_interval": "HOUR", "terms_accepted": True, **arguments})


def buy_and_wait(trooper: TrooperClient, **arguments: Any) -> Awaitable[object]:
    return trooper.orders.create_and_wait(BLIB, contract_interval="HOUR", terms_accepted=True, **arguments)


PUBLIC: dict[str, Run] = {
    "ping": lambda trooper: trooper.ping(),
    "blibs.list": lambda trooper: trooper.blibs.list(),
    "templates.list": lambda trooper: trooper.templates.list(),
    "blibs.wait_until_available": lambda trooper: trooper.blibs.wait_until_available(1),
}

PRIVATE: dict[str, Run] = {
    "blibs.list_private": lambda trooper: trooper.blibs.list_private(),
    "orders.list": lambda trooper: trooper.orders.list(),
    "orders.get": lambda trooper: trooper.orders.get(123),
    "orders.find": lambda trooper: trooper.orders.find(title="*"),
    "orders.create": lambda trooper: buy(trooper),
    "orders.create_and_wait": lambda trooper: buy_and_wait(trooper),
    "orders.start": lambda trooper: trooper.orders.start(ORDER),
    "orders.stop": lambda trooper: trooper.orders.stop(123),
    "orders.restart": lambda trooper: trooper.orders.restart(ORDER),
    "orders.freeze": lambda trooper: trooper.orders.freeze(ORDER),
    "orders.start_and_wait": lambda trooper: trooper.orders.start_and_wait(ORDER),
    "orders.stop_and_wait": lambda trooper: trooper.orders.stop_and_wait(ORDER),
    "orders.restart_and_wait": lambda trooper: trooper.orders.restart_and_wait(ORDER),
    "orders.freeze_and_wait": lambda trooper: trooper.orders.freeze_and_wait(123),
    "orders.wait": lambda trooper: trooper.orders.wait(STOP),
    "orders.wait_until": lambda trooper: trooper.orders.wait_until(ORDER, "stopped"),
    "orders.wait_until_converged": lambda trooper: trooper.orders.wait_until_converged(ORDER),
    "orders.wait_until_reachable": lambda trooper: trooper.orders.wait_until_reachable(ORDER),
    "orders.watch": lambda trooper: anext(trooper.orders.watch()),
    "orders.rename": lambda trooper: trooper.orders.rename(ORDER, "x"),
    "orders.lock": lambda trooper: trooper.orders.lock(ORDER),
    "orders.unlock": lambda trooper: trooper.orders.unlock(123),
    "orders.credentials": lambda trooper: trooper.orders.credentials(ORDER),
    "orders.history": lambda trooper: trooper.orders.history(ORDER),
    "migrations.options": lambda trooper: trooper.migrations.options(ORDER),
    "migrations.quote": lambda trooper: trooper.migrations.quote(ORDER, 2),
    "migrations.buy": lambda trooper: trooper.migrations.buy(QUOTE, keep_data=True),
    "migrations.buy_and_wait": lambda trooper: trooper.migrations.buy_and_wait(QUOTE, keep_data=True),
    "templates.installs": lambda trooper: trooper.templates.installs(ORDER),
    "templates.install": lambda trooper: trooper.templates.install(ORDER, 1),
    "templates.install_and_wait": lambda trooper: trooper.templates.install_and_wait(ORDER, 1),
    "templates.wait": lambda trooper: trooper.templates.wait(ORDER, 1),
    "templates.remove": lambda trooper: trooper.templates.remove(1),
    "templates.retry": lambda trooper: trooper.templates.retry(1),
}

EVERY = {**PUBLIC, **PRIVATE}

SUBJECTS = {
    **dict.fromkeys(("ping", "blibs.list", "blibs.list_private", "orders.list", "orders.find", "templates.list"), ""),
    **dict.fromkeys(("orders.create", "orders.create_and_wait", "migrations.buy", "migrations.buy_and_wait"), ""),
    **dict.fromkeys(("templates.install", "templates.install_and_wait"), "template 1 on order 123"),
    **dict.fromkeys(("templates.remove", "templates.retry"), "install 1"),
}
"""What the errors of the methods name besides the method; for the others it is their order."""


# --- the key ------------------------------------------------------------------------------------------------------


class SecretStr:
    """Like pydantic's."""

    def get_secret_value(self) -> str:
        raise AssertionError("not read")


BAD_KEYS: dict[str, Any] = {
    "empty": "",
    "blank": "  ",
    "bearer": "Bearer sesame-open",
    "secret": SecretStr(),
    "space": "sesame open",
    "leading space": " sesame-open",
    "newline": "sesame-open\n",
    "header": "sesame-open\r\nX-Injected: yes",
    "tab": "sesame\topen",
    "null": "sesame\0open",
    "delete": "sesame\x7fopen",
    "non-ASCII": "sésame-open",
    "bytes": b"sesame-open",
    "number": 5,
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_an_invalid_key_is_refused(name: str) -> None:
    """Anything but printable ASCII is a ConfigurationError that names the mistake, and never the key."""
    mistakes = {
        "empty": "the API key is empty",
        "blank": "the API key is empty",
        "bearer": "pass the API key alone, without `Bearer` in front of it",
        "secret": "the API key must be a str, not SecretStr: pass its get_secret_value()",
        "bytes": "the API key must be a str, not bytes: decode it",
        "number": "the API key must be a str, not int",
    }
    with pytest.raises(ConfigurationError) as caught:
        TrooperClient(BAD_KEYS[name])

    assert str(caught.value) == mistakes.get(name, "the API key must be printable ASCII without spaces or line ends")


def test_a_key_may_have_any_printable_character() -> None:
    """From the first to the last of ASCII."""
    TrooperClient("".join(map(chr, range(0x21, 0x7F))))


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrooperClient(BAD_KEYS["newline"]),
        lambda: TrooperClient(BAD_KEYS["non-ASCII"]),
        lambda: TrooperClient("sesame" + "-open", timeout=-1),
        lambda: TrooperClient("sesame" + "-open", base_url="nowhere"),
        lambda: TrooperClient("sesame" + "-open", app="b\xf6t"),
        lambda: TrooperClient("sesame" + "-open", max_concurrency=0),
    ],
)
def test_no_configuration_error_contains_the_key(make: Callable[[], TrooperClient]) -> None:
    """A refused key, or one passed beside a refused argument, is in no text and no frame's locals."""
    with pytest.raises(ConfigurationError) as caught:
        make()

    told = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "max_body_bytes = 67108864" in told, "the locals are there"
    assert "same-open" not in told


async def test_the_key_and_the_base_url_come_from_the_environment(
    fake_trooper: FakeTrooper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without arguments the client uses TROOPER_API_KEY and TROOPER_BASE_URL."""
    monkeypatch.setenv("TROOPER_API_KEY", fake_trooper.api_key)
    monkeypatch.setenv("TROOPER_BASE_URL", fake_trooper.url)

    async with TrooperClient() as client:
        assert await client.orders.list() == []


async def test_arguments_win_over_the_environment(fake_trooper: FakeTrooper, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument counts, whatever the environment says."""
    monkeypatch.setenv("TROOPER_API_KEY", "another")
    monkeypatch.setenv("TROOPER_BASE_URL", "http://example.com")

    async with TrooperClient(fake_trooper.api_key, base_url=fake_trooper.url) as client:
        assert await client.orders.list() == []


def test_an_invalid_key_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """For example, a key read from a file with its newline."""
    monkeypatch.setenv("TROOPER_API_KEY", "sesame-open\n")

    with pytest.raises(ConfigurationError, match=r"^the API key must be printable ASCII"):
        TrooperClient()


async def test_an_empty_key_in_the_environment_counts_as_none(
    fake_trooper: FakeTrooper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty TROOPER_API_KEY counts as not set: public endpoints only."""
    monkeypatch.setenv("TROOPER_API_KEY", "")

    async with TrooperClient(base_url=fake_trooper.url) as client:
        assert await client.ping() == "meinstring5"
        with pytest.raises(ConfigurationError, match="no API key"):
            await client.orders.list()

    assert [request.path for request in fake_trooper.requests] == ["/api/test"]


@pytest.mark.parametrize("method", PRIVATE)
async def test_without_a_key_private_endpoints_send_nothing(fake_trooper: FakeTrooper, method: str) -> None:
    """A call that needs a key is a ConfigurationError that says how to set one."""
    async with fake_trooper.client(api_key=None) as client:
        with pytest.raises(
            ConfigurationError, match=r": no API key \(pass api_key, or set TROOPER_API_KEY\): nothing was sent$"
        ):
            await PRIVATE[method](client)

    assert fake_trooper.requests == []


@pytest.mark.parametrize("method", PUBLIC)
async def test_without_a_key_public_endpoints_work(fake_trooper: FakeTrooper, method: str) -> None:
    """What the API returns to everybody needs no key."""
    async with fake_trooper.client(api_key=None) as client:
        assert await PUBLIC[method](client)


async def test_a_wrong_key_is_an_authentication_error(fake_trooper: FakeTrooper) -> None:
    """A key that the API does not accept is its 401, also for a wait, which polls once more to confirm."""
    async with fake_trooper.client(api_key="wrong") as client:
        with pytest.raises(AuthenticationError):
            await client.orders.list()
        with pytest.raises(WaitError) as caught:
            await client.orders.wait(STOP)
        assert isinstance(caught.value.__cause__, AuthenticationError)

    assert [request.status for request in fake_trooper.requests] == [401, 401, 401]


# --- the base URL -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://james.trooper.ai",
        "http://example.com:8080",
        "http://10.0.0.1",
        "http://192.168.1.5",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://[2001:db8::1]",
        "HTTP://example.com",
    ],
)
def test_http_is_refused_except_for_loopback(url: str) -> None:
    """Over http anybody in between could read the key."""
    problem = "base_url must be https: over http anyone in between could read the API key"
    with pytest.raises(ConfigurationError, match=exactly(problem)):
        TrooperClient("key", base_url=url)


@pytest.mark.parametrize(
    "url",
    [
        "https://me@example.com",
        "https://me:secret@example.com",
        "https://:secret@example.com",
        "https://@example.com",
        "https://example.com?tenant=1",
        "https://example.com/?",
        "https://example.com/#fragment",
        "https://example.com#",
        "https://example.com/a path",
        "https://example.com\n",
        "https://exa mple.com",
        "ftp://example.com",
        "file:///etc/passwd",
        "example.com",
        "//example.com",
        "https://",
        "https:///path",
        "/api",
    ],
)
def test_a_base_url_with_other_parts_is_refused(url: str) -> None:
    """A user, a query, a fragment, spaces, another scheme or no host: only a plain base URL is accepted."""
    rest = " without user, query and fragment" if "://" in url else ": write https:// in front of the host"
    with pytest.raises(ConfigurationError, match=exactly(f"base_url must be an https URL{rest}")):
        TrooperClient("key", base_url=url)


@pytest.mark.parametrize("url", ["https://example.com:99999", "https://example.com:port", "https://[::1", 5, object()])
def test_an_invalid_base_url_is_refused(url: Any) -> None:
    """What can't be parsed is not a valid URL."""
    with pytest.raises(ConfigurationError, match=exactly("base_url is not a valid URL")):
        TrooperClient("key", base_url=url)


@pytest.mark.parametrize("proxy", ["proxy:3128", "socks5://proxy:1080", "http://", "http://proxy:port", 5])
def test_an_invalid_proxy_is_refused(proxy: Any) -> None:
    """Only the URL of an HTTP proxy is accepted."""
    with pytest.raises(ConfigurationError, match=exactly("proxy must be the URL of an HTTP proxy (http://host:port)")):
        TrooperClient("key", proxy=proxy)


@pytest.mark.parametrize("url", ["https://example.com", "https://example.com/prefix/", "https://example.com:8443"])
async def test_https_is_accepted_for_any_host(url: str) -> None:
    """Any host over https, with a port or a path."""
    async with TrooperClient("key", base_url=url):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST"])
async def test_http_to_loopback_works(fake_trooper: FakeTrooper, host: str) -> None:
    """A server on this machine may use http."""
    async with fake_trooper.client(base_url=fake_trooper.url.replace("127.0.0.1", host)) as client:
        assert await client.orders.list() == []


async def test_http_to_ipv6_loopback_works() -> None:
    """The same over IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    async with FakeTrooper(host="::1") as fake, fake.client() as client:
        assert fake.url.startswith("http://[::1]:")
        assert await client.orders.list() == []


# --- other settings -----------------------------------------------------------------------------------------------

BAD_SECONDS: list[Any] = [0, 0.0, -1, math.nan, "5", True]


@pytest.mark.parametrize("timeout", [*BAD_SECONDS, math.inf, None])
def test_an_invalid_timeout_is_refused(timeout: Any) -> None:
    """A request may take a number of seconds above 0, but not forever."""
    with pytest.raises(ConfigurationError, match=r"^timeout must be a number of seconds above 0"):
        TrooperClient("key", timeout=timeout)


@pytest.mark.parametrize("value", [0, -1, 1.5, "16", True, None])
@pytest.mark.parametrize("name", ["max_concurrency", "max_body_bytes"])
def test_an_invalid_limit_is_refused(name: str, value: Any) -> None:
    """Limits are whole numbers above 0."""
    with pytest.raises(ConfigurationError, match=f"{name} must be a whole number above 0"):
        TrooperClient("key", **{name: value})


@pytest.mark.parametrize("app", ["my-bot\r\nX-Injected: yes", "b\xf6t", "tab\there", 5])
def test_an_app_that_no_header_can_carry_is_refused(app: Any) -> None:
    """A header value is printable ASCII."""
    with pytest.raises(ConfigurationError, match="app must be printable ASCII"):
        TrooperClient("key", app=app)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("attempts", 0, "a whole number of at least 1, or None"),
        ("attempts", 1.5, "a whole number of at least 1, or None"),
        ("attempts", True, "a whole number of at least 1, or None"),
        ("max_delay", -1, "a number of at least 0"),
        ("max_delay", None, "a number of at least 0"),
        ("deadline", math.inf, "a number of at least 0, or None"),
        ("deadline", math.nan, "a number of at least 0, or None"),
        ("budget", -1, "a whole number of at least 0, or None"),
    ],
)
def test_an_invalid_policy_is_refused(name: str, value: Any, problem: str) -> None:
    """Retry policies are checked when they are made."""
    with pytest.raises(ConfigurationError) as caught:
        RetryPolicy(**{name: value})
    assert caught.value.message == f"RetryPolicy.{name} must be {problem}"


# --- ids ----------------------------------------------------------------------------------------------------------

WITH_ORDER: dict[str, Callable[[TrooperClient, Any], Awaitable[object]]] = {
    "get": lambda trooper, order: trooper.orders.get(order),
    "start": lambda trooper, order: trooper.orders.start(order),
    "stop": lambda trooper, order: trooper.orders.stop(order),
    "restart": lambda trooper, order: trooper.orders.restart(order),
    "freeze": lambda trooper, order: trooper.orders.freeze(order),
    "stop_and_wait": lambda trooper, order: trooper.orders.stop_and_wait(order),
    "rename": lambda trooper, order: trooper.orders.rename(order, "x"),
    "lock": lambda trooper, order: trooper.orders.lock(order),
    "unlock": lambda trooper, order: trooper.orders.unlock(order),
    "credentials": lambda trooper, order: trooper.orders.credentials(order),
    "history": lambda trooper, order: trooper.orders.history(order),
    "wait_until": lambda trooper, order: trooper.orders.wait_until(order, "stopped"),
    "wait_until_converged": lambda trooper, order: trooper.orders.wait_until_converged(order),
    "wait_until_reachable": lambda trooper, order: trooper.orders.wait_until_reachable(order),
    "options": lambda trooper, order: trooper.migrations.options(order),
    "quote": lambda trooper, order: trooper.migrations.quote(order, 2),
    "quote of a blib": lambda trooper, blib: trooper.migrations.quote(ORDER, blib),
    "installs": lambda trooper, order: trooper.templates.installs(order),
    "install": lambda trooper, order: trooper.templates.install(order, 1),
    "install of a template": lambda trooper, template: trooper.templates.install(ORDER, template),
    "install_and_wait": lambda trooper, order: trooper.templates.install_and_wait(order, 1),
    "wait for an install on": lambda trooper, order: trooper.templates.wait(order, 1),
    "wait for an install": lambda trooper, install: trooper.templates.wait(ORDER, install),
    "remove": lambda trooper, install: trooper.templates.remove(install),
    "retry": lambda trooper, install: trooper.templates.retry(install),
    "wait_until_available": lambda trooper, blib: trooper.blibs.wait_until_available(blib),
    "create with a template": lambda trooper, template: buy(trooper, templates=[template]),
}


@pytest.mark.parametrize("method", WITH_ORDER)
async def test_an_invalid_id_sends_nothing(fake_trooper: FakeTrooper, trooper: TrooperClient, method: str) -> None:
    """Ids are whole numbers above 0; a boolean or text is none."""
    for bad in (0, -1, True, "123", 1.0, None, b"1"):
        with pytest.raises(ConfigurationError, match=r"a whole number above 0.*nothing was sent"):
            await WITH_ORDER[method](trooper, bad)

    assert fake_trooper.requests == []


async def test_an_unknown_id_sends_no_post(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """An id that is not in the list is looked up, and nothing is sent for it."""
    for method in ("stop", "stop_and_wait", "wait_until", "wait_until_converged", "wait_until_reachable"):
        with pytest.raises(OrderNotFoundError, match="4711"):
            await WITH_ORDER[method](trooper, 4711)

    assert {request.method for request in fake_trooper.requests} == {"GET"}


# --- money --------------------------------------------------------------------------------------------------------

BAD_AMOUNTS: list[Any] = [math.nan, math.inf, -math.inf, -0.01, Decimal("NaN"), Decimal("-1"), "abc", "", True]
NO_JSON_NUMBER = Decimal("0.12345678901234567890")


@pytest.mark.parametrize(
    ("name", "amount"),
    [(name, amount) for name in ("price_h", "total_price", "max_price_h") for amount in BAD_AMOUNTS]
    + [("price_h", NO_JSON_NUMBER), ("total_price", NO_JSON_NUMBER)],  # a limit is never sent
    ids=case_id,
)
async def test_an_invalid_price_buys_nothing(
    fake_trooper: FakeTrooper, trooper: TrooperClient, name: str, amount: Any
) -> None:
    """NaN, infinity, a negative number, no number, or one that JSON cannot express: a ConfigurationError."""
    with pytest.raises(ConfigurationError):
        await buy(trooper, **{name: amount})

    assert fake_trooper.requests == []
    assert trooper.orders.purchases == ()


@pytest.mark.parametrize("amount", BAD_AMOUNTS, ids=case_id)
async def test_an_invalid_limit_buys_no_migration(
    fake_trooper: FakeTrooper, trooper: TrooperClient, amount: Any
) -> None:
    """An invalid `max_total_due` is refused before the price is requested."""
    with pytest.raises(ConfigurationError, match="max_total_due"):
        await trooper.migrations.buy(QUOTE, keep_data=True, max_total_due=amount)

    assert fake_trooper.requests == []


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        (
            {"blib": Blib(1, price_h=NO_JSON_NUMBER)},
            ConfigurationError,
            r": price_h must be an amount that a JSON number can hold, not Decimal: nothing was sent$",
        ),
        ({"price_h": Decimal("0.84")}, PriceError, r": the offer costs 0\.85 EUR per hour, not 0\.84\. "),
        (
            {"max_price_h": Decimal("0.84")},
            PriceError,
            r": it costs 0\.85 EUR per hour, and at most 0\.84 are allowed\. ",
        ),
    ],
)
async def test_a_purchase_with_an_invalid_argument_sends_nothing(
    fake_trooper: FakeTrooper,
    trooper: TrooperClient,
    arguments: dict[str, Any],
    kind: type[Exception],
    text: str,
) -> None:
    """Whatever is certainly wrong with a purchase is reported before anything is sent."""
    with pytest.raises(kind, match=text) as caught:
        await buy(trooper, **arguments)

    assert str(caught.value).startswith("orders.create")
    assert fake_trooper.requests == []
    assert trooper.orders.purchases == ()


# --- the lifetime of the client -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", EVERY)
async def test_a_closed_client_sends_nothing(fake_trooper: FakeTrooper, method: str) -> None:
    """After `close` every method is a ClientClosedError."""
    fake_trooper.add_order(order_id=123)
    async with fake_trooper.client() as client:
        pass

    with pytest.raises(ClientClosedError, match="closed") as caught:
        await EVERY[method](client)

    if not method.partition(".")[2].startswith(("wait", "watch")):  # these name the poll
        operation = "orders.history" if ".restart" in method else method
        assert (caught.value.operation, caught.value.subject) == (operation, SUBJECTS.get(method, "order 123"))
    assert fake_trooper.requests == []
    assert client.orders.purchases == ()


@pytest.mark.parametrize("method", EVERY)
async def test_a_client_of_another_event_loop_sends_nothing(fake_trooper: FakeTrooper, method: str) -> None:
    """A client that was used on one loop refuses to be used on another."""
    fake_trooper.add_order(order_id=123)

    async def elsewhere() -> None:
        await EVERY[method](client)

    async with fake_trooper.client() as client:
        with pytest.raises(ConfigurationError, match=r"this client belongs to another event loop: make one per loop$"):
            await asyncio.to_thread(lambda: asyncio.run(elsewhere()))

    assert fake_trooper.requests == []


def test_a_client_belongs_to_the_loop_of_its_first_use() -> None:
    """It may be made before there is a loop; entered on a second one, it raises."""
    client = TrooperClient("key")

    async def enter() -> None:
        async with client:
            pass

    asyncio.run(enter())
    with pytest.raises(ConfigurationError, match=r"this client belongs to another event loop: make one per loop$"):
        asyncio.run(enter())


async def test_an_unused_client_can_be_closed(fake_trooper: FakeTrooper) -> None:
    """`close` needs no call before it, and may be called again."""
    client = fake_trooper.client()
    await client.close()
    await client.close()

    assert fake_trooper.requests == []


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
async def test_a_client_refuses_to_be_pickled_or_copied(
    trooper: TrooperClient, duplicate: Callable[[object], object]
) -> None:
    """It holds a key, and so do its groups; the attempt leaves no half-made object behind."""
    text = "a TrooperClient holds an API key, and can't be pickled or copied"
    with pytest.raises(TypeError, match=exactly(text)):
        duplicate(trooper)
    if duplicate is not copy.copy:
        with pytest.raises(TypeError, match=exactly(text)):
            duplicate(trooper.orders)
