"""The API key and every password are nowhere but on the wire: a scan of all that the package says, to whomever.

What `test_transport.py` asks of single errors is asked here of everything at once, and counted.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import faulthandler
import gc
import io
import logging
import pickle
import traceback
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.test_transport import (
    CUT,
    FAILURES,
    FAST,
    KEY,
    Wire,
    _buy,
    _dropping,
    _echoing,
    chain,
    free_port,
    http,
    texts,
    until,
)
from trooper_async import (
    APIConnectionError,
    APIStatusError,
    ClientClosedError,
    ConfigurationError,
    Order,
    PollSchedule,
    TrooperClient,
    TrooperError,
    errors,
)
from trooper_async.testing import FakeTrooper

PASSWORD = "pw-of-the-server-42"
PROXY_PASSWORD = "pw-of-the-proxy-43"
SECRETS = {
    form
    for secret in (KEY, PASSWORD, PROXY_PASSWORD)
    for form in (secret, base64.b64encode(secret.encode()).decode(), secret[::-1])
} | {base64.b64encode(f"me:{PROXY_PASSWORD}".encode()).decode()}
CREDENTIALS = {"ip": "203.0.113.1", "ssh_port": 22, "username": "root", "password": PASSWORD, "status": "running"}


class Scan:
    """What was said, and where a secret was in it."""

    def __init__(self) -> None:
        self.said: Counter[str] = Counter()
        self.hits: list[str] = []

    def text(self, kind: str, text: str | bytes) -> None:
        self.said[kind] += 1
        text = text if isinstance(text, str) else text.decode("latin-1")
        if any(secret in text for secret in SECRETS):
            self.hits.append(kind)

    def thing(self, name: str, thing: object, *, copied: bool = True) -> None:
        """All the ways to print an object, or to store it."""
        for way in (repr, str, format, ascii, lambda one: f"{one!r:>5}", lambda one: f"{[one]} { ({'x': one}) }"):
            self.text(f"print {name}", way(thing))
        with suppress(TypeError):
            self.text(f"vars {name}", repr(vars(thing)))
        copies = [copy.copy, copy.deepcopy] if copied else []
        for store in (*copies, *(partial(pickle.dumps, protocol=number) for number in range(6))):
            try:
                stored = store(thing)
            except Exception as refused:  # noqa: BLE001 - what it says is what is looked at
                self.error(f"refused {name}", refused, inside=False)
            else:
                self.text(f"stored {name}", stored if isinstance(stored, bytes) else repr(stored))

    def walk(self, name: str, thing: object) -> None:
        """Every text in reach of an object."""
        for text in list(texts(thing)):
            self.text(f"reach of {name}", text)

    def error(self, name: str, error: BaseException, *, inside: bool = True) -> None:
        """All that a crash reporter tells of an exception, of those that hang on it, and of our frames."""
        for one in chain(error):
            for shown in (
                str(one),
                repr(one),
                format(one),
                repr(one.args),
                repr(vars(one)),
                *getattr(one, "__notes__", ()),
            ):
                self.text(f"error {name}", shown)
            for line in traceback.TracebackException.from_exception(one, capture_locals=True).format():
                self.text(f"traceback {name}", line)
            for frame, _ in traceback.walk_tb(one.__traceback__) if inside else ():
                if "/trooper_async/" in frame.f_code.co_filename or "/aiohttp/" in frame.f_code.co_filename:
                    self.walk(f"frames of {name}", list(frame.f_locals.values()))
        record = logging.LogRecord(
            "x", logging.ERROR, "x", 1, "failed: %r", (error,), (type(error), error, error.__traceback__)
        )
        self.text(f"logged {name}", logging.Formatter().format(record))
        if isinstance(error, TrooperError):
            self.text(f"stored {name}", pickle.dumps(error))

    def clean(self, at_least: int) -> None:
        print(f"{self.said.total()} emissions scanned, {len(self.hits)} with a secret")
        assert self.hits == []
        assert self.said.total() >= at_least


@pytest.fixture
def scan() -> Scan:
    return Scan()


# Errors of every class -----------------------------------------------------------------------------------------------


async def _with(fake: FakeTrooper, run: Callable[[TrooperClient], Awaitable[object]], **options: Any) -> None:
    async with fake.client(retry=FAST, **options) as client:
        await run(client)


async def _unresolved(client: TrooperClient) -> None:
    with suppress(errors.PurchaseUnknownError):
        await _buy(client)
    await _buy(client)


async def _priced(client: TrooperClient) -> None:
    blib = (await client.blibs.list())[0]
    await client.orders.create(blib, contract_interval="HOUR", terms_accepted=True, max_price_h=0)


async def _not_ready(client: TrooperClient) -> None:
    blib = (await client.blibs.list())[0]
    await client.orders.create_and_wait(blib, contract_interval="HOUR", terms_accepted=True, timeout=0.05)


async def _superseded(fake: FakeTrooper, client: TrooperClient) -> None:
    waiting = asyncio.create_task(client.orders.wait_until(123, "frozen", timeout=20))
    for current, desired in (("freezing", "frozen"), ("stopped", "stopped")):
        fake.set_status(123, current, desired)
        polls = len(fake.requests)
        await until(lambda: waiting.done() or len(fake.requests) > polls + 2)  # noqa: B023 - awaited here
    await waiting


def _vanished(fake: FakeTrooper, client: TrooperClient) -> Awaitable[object]:
    fake.remove_order(123)
    return client.orders.wait_until(Order(123, "running"), "stopped", timeout=20)


async def _failing(fake: FakeTrooper, client: TrooperClient) -> None:
    fake.failing_templates.add(1)
    await client.templates.install_and_wait(123, 1, timeout=20)


QUICK = PollSchedule(floor=0.01, cap=0.02)
MORE: dict[str, tuple[type[TrooperError], Callable[[FakeTrooper], Awaitable[None]]]] = {
    "dear": (errors.PriceError, lambda fake: _with(fake, _priced)),
    "unresolved": (errors.UnresolvedPurchaseError, lambda fake: _with(_dropping(fake, "/api/order"), _unresolved)),
    "not ready": (errors.PurchaseNotReadyError, lambda fake: _with(fake, _not_ready)),
    "superseded": (errors.SupersededError, lambda fake: _with(fake, lambda c: _superseded(fake, c), poll=QUICK)),
    "vanished": (errors.OrderVanishedError, lambda fake: _with(fake, lambda c: _vanished(fake, c), poll=QUICK)),
    "template": (errors.TemplateFailedError, lambda fake: _with(fake, lambda c: _failing(fake, c), poll=QUICK)),
    "http": (ConfigurationError, lambda fake: _with(fake, lambda c: c.ping(), base_url="http://203.0.113.1")),
    "bad key": (ConfigurationError, lambda fake: _with(fake, lambda c: c.ping(), api_key=f"{KEY}\n")),
}


async def test_errors_of_every_class_tell_no_secret(scan: Scan) -> None:
    """Each class of error is provoked, and neither it nor what hangs on it nor the frames it came through tell."""
    provoked: set[type] = set()
    for name, (kind, run) in [*FAILURES.items(), *MORE.items()]:
        async with FakeTrooper(api_key=KEY, durations={"create": 30.0, "install": 0.0}) as fake:
            fake.add_order(order_id=123)
            with pytest.raises(kind) as caught:
                await run(fake)
        scan.error(name, caught.value)
        provoked |= {type(one) for one in chain(caught.value)}

    abstract = {errors.WaitError, errors.TrooperError}
    every = {one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.TrooperError)}
    assert every - provoked - abstract == set()
    assert asyncio.CancelledError in provoked
    scan.clean(at_least=1000)


async def test_a_cancellation_at_any_moment_tells_no_secret(scan: Scan) -> None:
    """However far a call has come when it is cancelled, what its caller catches holds neither header nor body."""
    cancelled = 0
    async with FakeTrooper(api_key=KEY) as fake, fake.client(retry=FAST) as client:
        order = fake.add_order(order_id=123)
        for steps in range(60):
            fake.fail_next("/api/credentials", status=200, body=CREDENTIALS)
            task = asyncio.create_task(client.orders.credentials(order))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError as error:
                cancelled += 1
                scan.error("cancelled", error)
            fake._coming.clear()
    assert cancelled > 5
    scan.clean(at_least=100)


# Logs, debug output, stacks ------------------------------------------------------------------------------------------


class Lines(logging.Handler):
    def __init__(self, scan: Scan) -> None:
        super().__init__(logging.NOTSET)
        self.scan = scan
        self.loggers: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.loggers.add(record.name)
        self.scan.text("log line", self.format(record))
        self.scan.walk("log record", vars(record))


def test_logs_debug_output_and_stacks_tell_no_secret(scan: Scan, tmp_path: Path) -> None:
    """All loggers at DEBUG, asyncio in debug mode with each step called slow, tasks' stacks, faulthandler, warnings."""

    async def main() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0.0
        async with FakeTrooper(api_key=KEY) as fake, fake.client(retry=FAST, poll=QUICK) as client:
            order = fake.add_order(order_id=123)
            fake.fail_next("/api/credentials", status=200, body=CREDENTIALS)
            credentials = await client.orders.credentials(order)
            assert credentials.password == PASSWORD
            logging.getLogger("app").error("got %s %r", credentials, {"c": [credentials]})
            await client.orders.stop_and_wait(order)
            fake.drop_next("/api/orders")
            await client.orders.list()
            with suppress(TrooperError):
                await client.templates.install(_echoing(fake, 500).add_order(), 999)
            with suppress(TrooperError):
                await client.orders.list()
            fake._coming.clear()
            fake.delay_next("/api/blibs", 30)
            reading = asyncio.create_task(client.blibs.list())
            await until(lambda: fake.requests[-1].path == "/api/blibs")
            stacks = io.StringIO()
            for task in asyncio.all_tasks():
                scan.text("task", repr(task))
                task.print_stack(file=stacks)
            scan.text("stacks", stacks.getvalue())
            with (tmp_path / "faults").open("w+") as file:
                faulthandler.dump_traceback(file, all_threads=True)
                file.seek(0)
                scan.text("faulthandler", file.read())
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
            forgotten = fake.client()
            await forgotten.orders.list()
            del forgotten
            forgotten_coroutine = client.ping()
            del forgotten_coroutine
            gc.collect()
            for request in fake.requests:
                scan.text("recorded request", repr(request))
            scan.text("recorded requests", repr(fake.requests) + repr(fake) + str(fake))

    lines, root = Lines(scan), logging.getLogger()
    level = root.level
    root.addHandler(lines)
    root.setLevel(logging.DEBUG)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            asyncio.run(main(), debug=True)
            gc.collect()
    finally:
        root.removeHandler(lines)
        root.setLevel(level)
    for warning in caught:
        scan.text("warning", warnings.formatwarning(str(warning.message), warning.category, "x", 1) + repr(warning))
    assert {"trooper_async.transport", "asyncio", "app"} <= lines.loggers
    assert scan.said["warning"] >= 2
    scan.clean(at_least=500)


# Objects -------------------------------------------------------------------------------------------------------------


async def test_objects_tell_no_secret(scan: Scan) -> None:
    """However they are printed, stored or walked through: the client, its groups, data, purchases, and the fake's log."""
    async with FakeTrooper(api_key=KEY) as fake, fake.client(retry=FAST) as client:
        order = fake.add_order(order_id=123)
        fake.fail_next("/api/credentials", status=200, body=CREDENTIALS)
        credentials = await client.orders.credentials(order)
        blib = (await client.blibs.list())[0]
        await client.orders.create(blib, contract_interval="HOUR", terms_accepted=True)
        transition = await client.orders.stop(order)
        groups = {name: value for name, value in vars(client).items()}
        assert len(groups) > 4
        for name, thing in {**groups, "client": client, "transport": client._transport}.items():
            scan.thing(name, thing, copied=False)
            scan.walk(name, thing)
        for name, thing in {"order": order, "credentials": credentials, "transition": transition, "blib": blib}.items():
            scan.thing(name, thing)
        scan.thing("purchases", client.orders.purchases)
        scan.text("transition", transition.to_json())
        scan.thing("requests", fake.requests)
        with pytest.raises(TypeError, match="can't be pickled"):
            pickle.dumps(credentials)
        with pytest.raises(TypeError, match="can't be pickled"):
            pickle.dumps(client)
    scan.clean(at_least=300)


# The proxy's password, other hosts, the wire -------------------------------------------------------------------------


ANSWERS = {"407": http(b"", status=f"407 {PROXY_PASSWORD}"), "502": http(b"", status="502 No"), "cut": CUT}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("kind", ["answers", "is no URL", "nobody is there"])
async def test_the_proxys_password_is_in_no_error(scan: Scan, answer: str, kind: str) -> None:
    """Whether the proxy refuses, hangs up, is not there or can't be one: its URL is not told, and it gets no key."""
    async with Wire(ANSWERS[answer]) as wire:
        where = {
            "answers": f"127.0.0.1:{wire.port}",
            "is no URL": "x:99999",
            "nobody is there": f"127.0.0.1:{free_port()}",
        }
        proxy = f"http://me:{PROXY_PASSWORD}@{where[kind]}"
        async with wire.client(base_url="https://api.example", proxy=proxy) as client:
            del proxy  # this frame is in the traceback
            with pytest.raises(APIConnectionError) as caught:
                await client.ping()
            scan.error(kind, caught.value)
            scan.text("vars", repr(vars(client._transport)))
            scan.text("vars", repr(vars(client)))
    assert all(KEY not in request.head for request in wire.requests)
    assert bool(wire.requests) == (kind == "answers")
    scan.clean(at_least=20)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308, 401, 407, 421])
async def test_no_other_host_sees_the_key(status: int) -> None:
    """A redirect, a challenge or a Refresh to another host is not followed: it is asked nothing at all."""
    async with Wire() as elsewhere:
        there = f"{elsewhere.url}/api/test"
        named = [f"{name}: {there}" for name in ("Location", "Content-Location", "Alt-Svc", "Link")]
        moved = http(
            b"", *named, f"Refresh: 0; url={there}", 'WWW-Authenticate: Basic realm="x"', status=f"{status} Go"
        )
        async with Wire(moved) as wire, wire.client() as client:
            with pytest.raises(APIStatusError):
                await client.ping()
    assert (len(wire.requests), elsewhere.requests) == (1, [])


@pytest.mark.parametrize(
    "url",
    ["http://api.example", "http://127.0.0.1.example", "http://localhost.example", "http://[::2]", "http://10.0.0.1"],
)
def test_the_key_is_refused_over_plain_http(url: str) -> None:
    """Only to this machine itself, whatever the host's name looks like."""
    with pytest.raises(ConfigurationError, match="https"):
        TrooperClient(KEY, base_url=url)


async def test_the_wire_has_the_key_in_one_header_and_no_other() -> None:
    """Neither the User-Agent nor the path, the query or another header has it, with an application's name too."""
    async with Wire(http(b'{"success": true, "test": "x"}')) as wire, wire.client(app="bot/1.0") as client:
        await client.ping()
        await client.templates.retry(5)
    for request in wire.requests:
        lines = [line for line in request.head.split("\r\n") if KEY in line]
        assert lines == [f"Authorization: Bearer {KEY}"]
        assert request.header("User-Agent")[0].startswith("bot/1.0 trooper-async/")


async def test_a_closed_client_tells_no_secret(scan: Scan) -> None:
    """After its end the client holds as little as before."""
    async with FakeTrooper(api_key=KEY) as fake, fake.client() as client:
        await client.orders.list()
    with pytest.raises(ClientClosedError) as caught:
        await client.orders.list()
    scan.error("closed", caught.value)
    scan.thing("client", client, copied=False)
    scan.walk("client", client)
    scan.clean(at_least=30)


# The scan itself -----------------------------------------------------------------------------------------------------


def test_the_scan_finds_what_is_there(scan: Scan) -> None:
    """It can fail: in texts, reprs, attributes, frames and causes, plain, as base64 and in an error's notes."""

    class Holder:
        def __init__(self) -> None:
            self.inner = {"headers": [f"Bearer {KEY}"]}

    def fails(secret: str) -> None:
        raise RuntimeError("x") from ValueError(secret)

    scan.thing("holder", Holder())
    scan.walk("holder", Holder())
    scan.text("base64", base64.b64encode(f"me:{PROXY_PASSWORD}".encode()))
    try:
        fails(PASSWORD)
    except RuntimeError as error:
        error.add_note(f"it was {KEY}")
        scan.error("failed", error)
    assert {"vars holder", "reach of holder", "base64", "error failed", "traceback failed", "logged failed"} <= set(
        scan.hits
    )
    with pytest.raises(AssertionError):
        scan.clean(at_least=1)
