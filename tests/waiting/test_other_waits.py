"""The waits for other things than a state change: new orders, templates, offers, and an SSH server that responds."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from tests.helpers.clock import forward
from tests.helpers.conditions import until
from tests.helpers.suspending import Suspending
from tests.tools.simulator.clock import run
from tests.tools.simulator.script import Script, reply, row
from trooper_async import (
    APIConnectionError,
    AuthenticationError,
    ClientClosedError,
    Order,
    PurchaseNotReadyError,
    RateLimitError,
    SupersededError,
    TemplateFailedError,
    TemplateInstall,
    TrooperClient,
    WaitError,
    WaitTimeoutError,
)
from trooper_async._api.endpoints import Call
from trooper_async._api.responses import FailedAttempt, Failure, Response
from trooper_async._waiting import waits
from trooper_async._waiting.ssh import ssh_responds
from trooper_async.testing import FakeTrooper


def now() -> float:
    return asyncio.get_running_loop().time()


def installs(*installs: dict[str, Any]) -> Response:
    return reply({"success": True, "templates": list(installs)})


def install_script(config: Callable[[float], Response | FailedAttempt]) -> Script:
    """A server on which install 5 proceeds as `config(now)` says."""

    async def answer(call: Call[Any]) -> Response | FailedAttempt:
        if call.endpoint.path == "/api/template-install-add":
            return reply({"success": True, "install_id": 5})
        await asyncio.sleep(0.05)
        return config(now())

    return Script(lambda t: [row(1, "running")], answer)


def wait_for_install(
    config: Callable[[float], Response | FailedAttempt], **options: Any
) -> tuple[TemplateInstall, float]:
    async def main() -> tuple[TemplateInstall, float]:
        async with install_script(config).client() as client:
            return await client.templates.install_and_wait(1, 1, **options), now()

    return run(main())


def test_a_wait_for_an_install_tolerates_unknown_codes_absence_and_failures() -> None:
    """Unknown status codes, an install that is not listed yet, 5xx and lost responses do not end the wait; the word
    `Completed` does.
    """

    def config(t: float) -> Response | FailedAttempt:
        if t < 1010:
            return installs()
        if t < 1030:
            return installs({"install_id": 5, "status": 17, "status_readable": "Brewing"})
        if t < 1050:
            return reply({}, 503)
        if t < 1070:
            return FailedAttempt(Failure.LOST, APIConnectionError("cut"))
        return installs({"install_id": 4, "status": 1}, {"install_id": 5, "status": 17, "status_readable": "Completed"})

    install, ended = wait_for_install(config)
    assert (install.install_id, install.status) == (5, 17)
    assert 1070 < ended < 1105


def test_an_install_that_was_just_accepted_may_be_missing_for_two_minutes() -> None:
    """Four times the `cap`; one that an earlier process began is missing after the `cap`."""

    def config(t: float) -> Response:
        return installs() if t < 1110 else installs({"install_id": 5, "status": 1})

    assert wait_for_install(config)[0].status == 1

    async def main() -> None:
        async with install_script(config).client() as client:
            await client.templates.wait(1, 5)

    with pytest.raises(WaitError, match="not among the installs") as early:
        run(main())
    with pytest.raises(WaitError, match="not among the installs") as late:
        wait_for_install(lambda t: installs())
    assert 30 < early.value.seconds < 60
    assert 120 < late.value.seconds < 150


def test_an_install_begun_by_another_process_is_awaited() -> None:
    """`wait` sends nothing and uses the install's id; a failure of another install does not affect it."""

    def config(t: float) -> Response:
        other = {"install_id": 4, "status": 3, "status_readable": "Failed"}
        return installs(other, {"install_id": 5, "status": int(t > 1050)})

    async def main() -> tuple[TemplateInstall, float, list[str]]:
        script = install_script(config)
        async with script.client() as client:
            with pytest.raises(TemplateFailedError) as caught:
                await client.templates.wait(1, 4)
            assert caught.value.operation == "templates.wait"
            return await client.templates.wait(1, 5), now(), script.sent

    install, ended, sent = run(main())
    assert (install.install_id, install.status) == (5, 1)
    assert 1050 < ended < 1065
    assert set(sent) == {"/api/template-config"}


@pytest.mark.parametrize("text", ["Failed", "INSTALL ERROR", "it has failed."])
def test_a_failed_install_is_an_error_with_the_install(text: str) -> None:
    """A status text that contains "fail" or "error", in any case, is a TemplateFailedError with the install."""
    with pytest.raises(TemplateFailedError, match=f"failed \\({text}") as caught:
        wait_for_install(lambda t: installs({"install_id": 5, "status": 3, "status_readable": text}))
    assert caught.value.install.status == 3


def test_a_slow_install_times_out_with_the_last_failure(caplog: pytest.LogCaptureFixture) -> None:
    """The deadline is kept even if every poll fails; the error has the last failure."""
    with pytest.raises(WaitTimeoutError) as caught:
        wait_for_install(lambda t: reply({"error": "down"}, 500), timeout=77)
    assert caught.value.seconds == pytest.approx(77)
    assert "the API returned 500" in str(caught.value.last_error)
    assert (caught.value.target, caught.value.polls) == ("installed", 0)
    (outage,) = caplog.messages
    assert re.fullmatch(r"the poll of the installs of order 1 has failed for \d+ s: down", outage)


def test_an_install_is_polled_once_more_right_before_the_deadline() -> None:
    """What happens between the last regular poll and the deadline is seen."""
    _, ended = wait_for_install(lambda t: installs({"install_id": 5, "status": int(t > 1098)}), timeout=100)
    assert 1098 < ended <= 1100


def test_a_wait_for_an_install_ends_at_a_confirmed_401() -> None:
    """One 401 is tolerated, two in a row are not: after acceptance it is a WaitError with the cause."""
    once = iter([reply({"error": "no"}, 401), installs(), installs({"install_id": 5, "status": 1})])
    assert wait_for_install(lambda t: next(once))[0].status == 1
    with pytest.raises(WaitError) as caught:
        wait_for_install(lambda t: reply({"error": "not for GPU X."}, 401))
    assert str(caught.value).startswith(
        "templates.install_and_wait of install 5 on order 1: "
        "the API refuses the key, twice in a row: the API returned 401: not for GPU X ("
    )
    assert isinstance(caught.value.__cause__, AuthenticationError)


def test_a_wait_for_an_install_honours_retry_after() -> None:
    """A 429 delays the next poll for as long as the API asked."""
    looks: list[float] = []

    def config(t: float) -> Response:
        looks.append(t)
        return installs({"install_id": 5, "status": 1}) if len(looks) > 1 else reply({}, 429, Retry_After="50")

    wait_for_install(config)
    assert looks[1] - looks[0] >= 50


@pytest.mark.parametrize("status", [200, 429])
def test_closing_the_client_ends_a_wait_for_an_install(status: int) -> None:
    """`close()` ends a wait for an install, whether it is between two polls or delayed by a 429."""

    async def main() -> None:
        client = install_script(lambda t: installs() if status == 200 else reply({}, 429, Retry_After="60")).client()
        task = asyncio.create_task(client.templates.install_and_wait(1, 1))
        await asyncio.sleep(20)
        await client.close()
        with pytest.raises((ClientClosedError, RateLimitError)):
            await task

    run(main())


def test_an_offer_is_awaited_until_it_can_be_ordered() -> None:
    """An offer that is not listed, then not available, is waited for."""

    async def main() -> float:
        async def answer(call: Call[Any]) -> Response:
            offers = [{"id": 1, "is_available": True}, {"id": 2, "is_available": now() > 1200}]
            return reply(offers if now() > 1100 else offers[:1])

        async with Script(lambda t: [], answer).client() as client:
            blib = await client.blibs.wait_until_available(2)
            assert blib.is_available
            return now()

    assert 1200 < run(main()) < 1225


def test_a_failed_poll_of_the_offers_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The log says which list could not be polled."""
    caplog.set_level(logging.INFO, "trooper_async")
    replies = iter([reply({"error": "overloaded"}, 503), reply([{"id": 2, "is_available": True}])])

    async def main() -> None:
        async def answer(call: Call[Any]) -> Response:
            return next(replies)

        async with Script(lambda t: [], answer).client() as client:
            await client.blibs.wait_until_available(2)

    run(main())
    assert [message.partition(": the API")[0] for message in caplog.messages] == ["the poll of the offers"]


def purchase_script(orders: Callable[[float], list[dict[str, Any]]]) -> Script:
    """An API that sells order 7; `orders` says what its list shows once it is sold."""
    sold: list[int] = []

    async def answer(call: Call[Any]) -> Response:
        match call.endpoint.path:
            case "/api/blibs":
                return reply([{"id": 1, "price_h": 0.85}])
            case "/api/migration-options":
                return reply({"success": True, "availableBlibs": [{"id": 2}]})
            case "/api/migration-cost":
                return reply({"success": True, "totalDue": 3.20})
        sold.append(7 + len(sold))
        name = "orderId" if call.endpoint.path == "/api/order" else "new_order_id"
        return reply({"success": True, name: sold[-1]})

    return Script(lambda t: orders(t) if sold else [row(1, "running")], answer)


async def create(client: TrooperClient, **options: Any) -> Order:
    (blib,) = await client.blibs.list()
    return await client.orders.create_and_wait(blib, contract_interval="HOUR", terms_accepted=True, **options)


async def migrate(client: TrooperClient, **options: Any) -> Order:
    quote = await client.migrations.quote(1, 2)
    return await client.migrations.buy_and_wait(quote, keep_data=True, **options)


@pytest.mark.parametrize("buy", [create, migrate])
def test_a_new_order_may_appear_late(buy: Callable[..., Awaitable[Order]]) -> None:
    """The new order is waited for by its own id, even if the list does not show it for a while."""

    async def main() -> Order:
        def orders(t: float) -> list[dict[str, Any]]:
            late = [row(7, "starting" if t < 1150 else "running", "running")] if t > 1100 else []
            return [row(1, "running"), *late]

        async with purchase_script(orders).client() as client:
            order = await buy(client)
            assert now() > 1150
            return order

    assert run(main()).order_id == 7


@pytest.mark.parametrize("buy", [create, migrate])
def test_a_failed_wait_after_a_purchase_says_that_it_is_bought(buy: Callable[..., Awaitable[Order]]) -> None:
    """However the wait after a purchase fails, the error says that it is bought, and what to wait for."""

    async def main() -> None:
        def orders(t: float) -> list[dict[str, Any]]:
            return [row(7, "starting", "running") if t < 1010 else row(7, "frozen")]

        async with purchase_script(orders).client() as client:
            with pytest.raises(PurchaseNotReadyError) as caught:
                await buy(client)
            error = caught.value
            assert isinstance(error.__cause__, SupersededError)
            assert not isinstance(error, TimeoutError)
            assert (error.purchase.state, error.purchase.order_id) == ("bought", 7)
            assert error.transition is not None
            assert error.transition.order_id == 7
            assert error.order is not None
            assert error.order.current_status == "frozen"

    run(main())


@pytest.mark.parametrize("buy", [create, migrate])
def test_a_failing_on_change_after_a_purchase_says_that_it_is_bought(buy: Callable[..., Awaitable[Order]]) -> None:
    """The exception of `on_change` is the cause of the error, which says what is bought."""

    async def main() -> None:
        async with purchase_script(lambda t: [row(7, "starting", "running")]).client() as client:
            with pytest.raises(PurchaseNotReadyError) as broken:
                await buy(client, on_change=lambda order: 1 / 0)
            assert isinstance(broken.value.__cause__, ZeroDivisionError)
            assert broken.value.purchase.order_id == 7

    run(main())


def test_concurrent_purchases_wait_concurrently() -> None:
    """Three concurrent `create_and_wait` buy three servers one after the other, and wait for them together."""

    async def main() -> list[int]:
        async with FakeTrooper() as fake, fake.client() as client:
            offers = await client.blibs.list()
            orders = await asyncio.gather(
                *(
                    client.orders.create_and_wait(offers[0], contract_interval="HOUR", terms_accepted=True)
                    for _ in range(3)
                )
            )
            assert sum(request.path == "/api/order" for request in fake.requests) == 3
            return sorted(order.order_id for order in orders)

    assert asyncio.run(main()) == [123, 124, 125]


# An SSH server that responds --------------------------------------------------------------------------------------


@asynccontextmanager
async def listening(greeting: bytes) -> AsyncIterator[tuple[int, list[asyncio.StreamWriter]]]:
    """A port that greets, or accepts and stays silent; and the connections that it has had."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(greeting)
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], writers
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


async def test_a_server_is_reachable_when_its_ssh_server_responds(
    trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """A server that is starting is waited for, then its port has to send `SSH-`."""
    order = fake_trooper.add_order(status="stopped")
    transition = await trooper.orders.start(order)
    credentials = await trooper.orders.wait_until_reachable(transition.order_id)
    assert credentials.username == "root"
    assert credentials.password


@pytest.mark.parametrize(
    "greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"x" * 100_000, b"\xff\xfe\r\n" * 30, b"220 mail\r\n" * 25]
)
async def test_another_protocol_is_not_reachable(
    greeting: bytes, trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """Another protocol, nothing, or an endless line is no SSH server: the wait goes on until its deadline."""
    async with listening(greeting) as (port, connections):
        order = fake_trooper.add_order(ip="127.0.0.1", ssh_port=port)
        reaching = asyncio.create_task(trooper.orders.wait_until_reachable(order, timeout=20))
        await until(lambda: len(connections) >= (2 if greeting.count(b"\n") >= 20 else 1))
        forward(20)
        with pytest.raises(WaitTimeoutError, match="no SSH server responded within"):
            await reaching


async def test_a_banner_may_come_before_the_ssh_line(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """RFC 4253 lets a server send other lines before its version."""
    async with listening(b"welcome\r\nto this server\r\nSSH-2.0-OpenSSH_9.6\r\n") as (port, _):
        order = fake_trooper.add_order(ip="127.0.0.1", ssh_port=port)
        assert (await trooper.orders.wait_until_reachable(order)).ssh_port == port


async def test_silent_and_refusing_hosts_are_tried_until_the_deadline(
    trooper: TrooperClient, fake_trooper: FakeTrooper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent host is tried again after 10 s and does not hold a wait past its deadline; one that refuses connections
    is tried again, too.
    """
    async with listening(b"") as (port, connections):
        silent = fake_trooper.add_order(ip="127.0.0.1", ssh_port=port)
        reaching = asyncio.create_task(trooper.orders.wait_until_reachable(silent, timeout=60))
        await until(lambda: connections)
        forward(10)
        await until(lambda: len(connections) == 2)
        forward(50)
        with pytest.raises(WaitTimeoutError):
            await reaching
    refusing = fake_trooper.add_order(ip="127.0.0.1", ssh_port=port)  # nobody listens there any more
    tries: list[bool] = []

    async def tried(host: str, port: int) -> bool:
        tries.append(await ssh_responds(host, port))
        return tries[-1]

    monkeypatch.setattr(waits, "ssh_responds", tried)
    reaching = asyncio.create_task(trooper.orders.wait_until_reachable(refusing, timeout=20))
    await until(lambda: len(tries) >= 2)
    forward(20)
    with pytest.raises(WaitTimeoutError):
        await reaching
    assert not any(tries)


async def test_your_functions_run_in_the_context_of_their_wait(
    trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """Not in that of the poll, which another wait has started: a request id in your logs is the right one."""
    request: ContextVar[str] = ContextVar("request")
    orders = [fake_trooper.add_order() for _ in range(2)]
    seen: list[tuple[str, int]] = []

    async def stop(order: Order, name: str) -> None:
        request.set(name)
        await trooper.orders.stop_and_wait(order, on_change=lambda now: seen.append((request.get(), now.order_id)))

    await asyncio.gather(stop(orders[0], "first"), stop(orders[1], "second"))
    assert set(seen) == {("first", orders[0].order_id), ("second", orders[1].order_id)}


async def test_address_and_port_are_read_again(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """A port that changes during the wait, as after a migration, is found."""
    async with listening(b"not yet\r\n" * 25) as (old, _):
        order = fake_trooper.add_order(status="frozen", ip="127.0.0.1", ssh_port=old)
        await trooper.orders.start(order, migration_allowed=True)
        credentials = await trooper.orders.wait_until_reachable(order)
    assert credentials.ssh_port != old


async def test_a_wait_until_reachable_can_be_cancelled_at_each_step(
    trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """Cancelled while it polls, reads credentials, connects or listens: it ends, and leaves nothing."""
    async with listening(b"not yet\r\n" * 20) as (port, connections):
        order = fake_trooper.add_order(ip="127.0.0.1", ssh_port=port)

        async def reach(nth: int) -> None:
            await Suspending(trooper.orders.wait_until_reachable(order, timeout=None), nth)

        def polls() -> list[asyncio.Task[Any]]:
            return [task for task in asyncio.all_tasks() if task.get_name() == "the poll of the orders"]

        reaching = asyncio.create_task(trooper.orders.wait_until_reachable(order, timeout=None))
        await until(polls)
        reaching.cancel()
        await asyncio.wait([reaching])
        assert polls() == []

        nth = 0
        while len(connections) < 5:  # five of the awaits came after a connection was made
            nth += 1
            with pytest.raises(asyncio.CancelledError):
                await asyncio.create_task(reach(nth))
            assert polls() == []


@pytest.mark.parametrize("missing", [{"ip": None}, {"ssh_port": None}])
async def test_credentials_without_an_address_are_not_reachable(
    missing: dict[str, None], trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """While the API gives no address or port, there is nothing to reach."""
    order = fake_trooper.add_order()
    body = {"success": True, "ip": "127.0.0.1", "ssh_port": 22, "username": "root", "password": "x", **missing}
    fake_trooper.fail_next("/api/credentials", status=200, body=body, times=40)
    reaching = asyncio.create_task(trooper.orders.wait_until_reachable(order, timeout=20))
    await until(lambda: fake_trooper.sent("/api/credentials"))
    seen = len(fake_trooper.requests)
    await until(lambda: len(fake_trooper.requests) > seen + 2)  # it continues
    forward(20)
    with pytest.raises(WaitTimeoutError):
        await reaching
