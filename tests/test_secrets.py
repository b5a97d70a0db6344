"""The API key and every password are sent and never shown: a scan of everything that the package prints, logs, raises
or stores. `test_transport.py` checks single errors; this checks everything at once, and counts.
"""

from __future__ import annotations

import asyncio
import base64
import faulthandler
import gc
import io
import logging
import pickle
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.conditions import free_port, until
from tests.helpers.failures import FAILURES, echoing
from tests.helpers.raw_server import CUT, FAST, KEY, Answer, RawServer, http
from tests.helpers.secrets import chain
from tests.helpers.texts import exactly
from tests.tools.hostile.provoke import MORE, QUICK
from tests.tools.hostile.scan import CREDENTIALS, PASSWORD, PROXY_PASSWORD, Lines, Scan
from trooper_async import (
    APIConnectionError,
    APIStatusError,
    ConfigurationError,
    TrooperClient,
    TrooperError,
    errors,
)
from trooper_async.testing import FakeTrooper


@pytest.fixture
def scan() -> Scan:
    return Scan()


async def test_errors_of_every_class_contain_no_secret(scan: Scan) -> None:
    """Each class of error is provoked, and neither it nor its attributes nor the frames it came through have one."""
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


async def test_a_cancellation_at_any_moment_contains_no_secret(scan: Scan) -> None:
    """However far a call has come when it is cancelled, the exception holds neither header nor body."""
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
            fake._pending_faults.clear()
    assert cancelled > 5
    scan.clean(at_least=100)


def test_logs_debug_output_and_stacks_contain_no_secret(scan: Scan, tmp_path: Path) -> None:
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
                await client.templates.install(echoing(fake, 500).add_order(), 999)
            with suppress(TrooperError):
                await client.orders.list()
            fake._pending_faults.clear()
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
            while caught:
                warning = caught.pop()
                scan.text("warning", f"{warnings.formatwarning(warning.message, warning.category, 'x', 1)}{warning!r}")
                del warning  # it keeps aiohttp's objects, which warn too
            gc.collect()
    finally:
        root.removeHandler(lines)
        root.setLevel(level)
    assert {"trooper_async.transport", "asyncio", "app"} <= lines.loggers
    assert scan.said["warning"] >= 2
    scan.clean(at_least=500)


async def test_objects_contain_no_secret(scan: Scan) -> None:
    """Printed, stored or walked through: the client, its groups, data, purchases."""
    async with FakeTrooper(api_key=KEY) as fake, fake.client(retry=FAST) as client:
        order = fake.add_order(order_id=123)
        fake.fail_next("/api/credentials", status=200, body=CREDENTIALS)
        credentials = await client.orders.credentials(order)
        blib = (await client.blibs.list())[0]
        await client.orders.create(blib, contract_interval="HOUR", terms_accepted=True)
        transition = await client.orders.stop(order)
        groups = dict(vars(client))
        assert len(groups) > 4
        for name, thing in {
            **groups,
            "client": client,
            "transport": client._transport,
            "wire": client._transport.wire,
        }.items():
            scan.thing(name, thing, copied=False)
            scan.walk(name, thing)
        for name, thing in {"order": order, "credentials": credentials, "transition": transition, "blib": blib}.items():
            scan.thing(name, thing)
        scan.thing("purchases", client.orders.purchases)
        scan.text("transition", transition.to_json())
        scan.thing("requests", fake.requests)
        holds = "^(Credentials hold a password|a TrooperClient holds an API key), and can't be pickled or copied$"
        for holder in credentials, client, client._transport, client._transport.wire:
            with pytest.raises(TypeError, match=holds):
                pickle.dumps(holder)
    scan.clean(at_least=300)


# The proxy's password, other hosts, the wire -------------------------------------------------------------------------


PROXY_URL = f"https://me:{PROXY_PASSWORD}@proxy.example"
ANSWERS: dict[str, bytes | Answer] = {
    "407": http(b"", status=f"407 {PROXY_PASSWORD}"),
    "502": http(b"", status="502 No"),
    "cut": CUT,
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("kind", ["answers", "has no name", "nobody is there"])
async def test_the_proxys_password_is_in_no_error(scan: Scan, answer: str, kind: str) -> None:
    """Whether the proxy refuses, hangs up, does not exist or has no name: its URL is not shown, and it gets no key."""
    async with RawServer(ANSWERS[answer]) as wire:
        where = {
            "answers": f"127.0.0.1:{wire.port}",
            "has no name": "proxy.invalid:3128",
            "nobody is there": f"127.0.0.1:{free_port()}",
        }
        proxy = f"http://me:{PROXY_PASSWORD}@{where[kind]}"
        async with wire.client(base_url="https://api.example", proxy=proxy) as client:
            del proxy  # this frame is in the traceback
            with pytest.raises(APIConnectionError) as caught:
                await client.ping()
            scan.error(kind, caught.value)
            scan.text("vars", repr(vars(client._transport)))
            scan.text("vars", repr(vars(client._transport.wire)))
            scan.text("vars", repr(vars(client)))
    assert all(KEY not in request.head for request in wire.requests)
    assert bool(wire.requests) == (kind == "answers")
    scan.clean(at_least=20)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308, 401, 407, 421])
async def test_no_other_host_gets_the_key(status: int) -> None:
    """A redirect, a challenge or a Refresh to another host is not followed: no request goes there."""
    async with RawServer() as elsewhere:
        there = f"{elsewhere.url}/api/test"
        named = [f"{name}: {there}" for name in ("Location", "Content-Location", "Alt-Svc", "Link")]
        moved = http(
            b"", *named, f"Refresh: 0; url={there}", 'WWW-Authenticate: Basic realm="x"', status=f"{status} Go"
        )
        async with RawServer(moved) as wire, wire.client() as client:
            with pytest.raises(APIStatusError):
                await client.ping()
    assert (len(wire.requests), elsewhere.requests) == (1, [])


async def test_a_request_has_the_key_in_one_header_only() -> None:
    """Neither the User-Agent nor the path, the query or another header has it, even with an application's name."""
    async with RawServer(http(b'{"success": true, "test": "x"}')) as wire, wire.client(app="bot/1.0") as client:
        await client.ping()
        await client.templates.retry(5)
    for request in wire.requests:
        lines = [line for line in request.head.split("\r\n") if KEY in line]
        assert lines == [f"Authorization: Bearer {KEY}"]
        assert request.header("User-Agent")[0].startswith("bot/1.0 trooper-async/")


# Known leaks, in modules that are not the transport's


def _of_ours(error: BaseException) -> list[str]:
    """The traceback with the locals of the package's frames."""
    lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
    return [line for line in lines if "/trooper_async/" in line or "File" not in line]


@pytest.mark.parametrize(
    "options",
    [{"base_url": PROXY_URL}, {"proxy": PROXY_URL, "max_concurrency": 0}, {"proxy": f"{PROXY_URL}:99999"}],
    ids=["base_url", "another", "port"],
)
def test_a_password_in_a_refused_url_is_in_no_frame(scan: Scan, options: dict[str, Any]) -> None:
    """A client whose arguments are refused does not show a password in them."""
    with pytest.raises(ConfigurationError) as caught:
        TrooperClient(KEY, **options)
    for line in _of_ours(caught.value):
        scan.text("traceback", line)
    scan.clean(at_least=2)


def test_a_foreign_proxy_is_refused_for_plain_http() -> None:
    """Plain http is allowed only if it stays on this machine."""
    text = "with a base_url of http the proxy must be on this machine: another one could read the API key"
    with pytest.raises(ConfigurationError, match=exactly(text)):
        TrooperClient(KEY, base_url="http://127.0.0.1:8080", proxy="http://203.0.113.1:3128")


async def test_a_templates_config_is_in_no_frame(scan: Scan) -> None:
    """A template's config, which may hold an application's password, is in no traceback."""
    async with FakeTrooper(api_key=KEY) as fake, fake.client(retry=FAST) as client:
        with pytest.raises(TrooperError) as caught:
            await client.templates.install(4711, 1, {"password": PASSWORD})
        for line in _of_ours(caught.value):
            scan.text("traceback", line)
    scan.clean(at_least=2)


# The scan itself -----------------------------------------------------------------------------------------------------


def test_the_scan_finds_a_secret(scan: Scan) -> None:
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
