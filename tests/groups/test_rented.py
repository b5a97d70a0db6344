"""`orders.rented` and `orders.running`: a server runs for the duration of a job, and is released however
the job ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from typing import Any
from unittest import mock

import anyio
import pytest

from tests.helpers import processes, rented_job
from tests.helpers.buying import BLIB, LIST, POST, buy, posts
from tests.helpers.clock import forward
from tests.helpers.conditions import until
from tests.helpers.suspending import Suspending
from tests.tools.simulator.api import Api
from tests.tools.simulator.clock import run
from tests.tools.simulator.script import Script, reply, row
from tests.tools.simulator.world import Settings, World
from trooper_async import (
    AuthenticationError,
    ConfigurationError,
    Order,
    OrderNotFoundError,
    PollSchedule,
    PriceError,
    PurchaseNotReadyError,
    PurchaseUnknownError,
    RetryPolicy,
    StillRunningError,
    TrooperClient,
)
from trooper_async._api.endpoints import Call
from trooper_async._api.responses import Response
from trooper_async.testing import FakeTrooper

STATUS = "/api/order-status"


class BrokenJobError(Exception):
    """What the job raises."""


def rented(client: TrooperClient, **options: Any) -> AbstractAsyncContextManager[Order]:
    return client.orders.rented(BLIB, **{"contract_interval": "HOUR", "terms_accepted": True, **options})


def actions(fake: FakeTrooper) -> list[str]:
    """The actions that were requested."""
    return [body["action"] for body in fake.sent(STATUS)]


async def desired(client: TrooperClient, order_id: int) -> str | None:
    """The desired status of an order."""
    return (await client.orders.get(order_id)).desired_status


# Ways out -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("then", "sent"), [("freeze", ["frozen"]), ("stop", ["stopped"]), ("leave", [])])
async def test_a_rented_server_is_released_as_then_says(
    then: Any, sent: list[str], fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """It runs in the block; afterwards the API has accepted the action of `then`, and the purchase is resolved."""
    async with rented(trooper, then=then) as order:
        assert (order.order_id, order.current_status) == (123, "running")
        assert actions(fake_trooper) == []

    assert actions(fake_trooper) == sent
    assert await trooper.orders.unresolved() == ()
    assert posts(fake_trooper) == 1


async def test_a_failed_job_releases_its_server(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """Its exception is raised unchanged, and the server is frozen."""
    with pytest.raises(BrokenJobError) as caught:
        async with rented(trooper):
            raise BrokenJobError

    assert not hasattr(caught.value, "__notes__")
    assert actions(fake_trooper) == ["frozen"]


async def test_a_server_that_does_not_start_is_released(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """If the wait fails the server is bought, so it is frozen."""
    with pytest.raises(PurchaseNotReadyError):
        async with rented(trooper, on_change=lambda order: 1 / 0):
            raise AssertionError("it does not run")

    assert actions(fake_trooper) == ["frozen"]
    assert await desired(trooper, 123) == "frozen"


async def test_a_job_cancelled_repeatedly_ends_after_its_server_is_released(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """Cancellations while the server is being frozen do not interrupt that; the last one is raised afterwards."""
    hold = fake_trooper.hold_next(STATUS)
    in_job = asyncio.Event()

    async def job() -> None:
        async with rented(trooper):
            in_job.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(job())
    await in_job.wait()
    task.cancel()
    await hold.arrived()
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    hold.release()
    await asyncio.wait([task])

    assert task.cancelled()
    assert await desired(trooper, 123) == "frozen"
    assert await trooper.orders.unresolved() == ()


async def test_a_cancelled_anyio_scope_does_not_interrupt_the_release(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """anyio cancels a task at each of its awaits: the server is frozen nevertheless, and the scope ends."""
    hold = fake_trooper.hold_next(STATUS)

    async def release_later() -> None:
        await hold.arrived()
        for _ in range(10):  # it is cancelled once more in each turn
            await asyncio.sleep(0)
        hold.release()

    releasing = asyncio.create_task(release_later())
    with anyio.CancelScope() as scope:
        async with rented(trooper):
            scope.cancel()
            await anyio.sleep_forever()
    await releasing

    assert scope.cancelled_caught
    assert await desired(trooper, 123) == "frozen"


async def test_a_release_that_is_cancelled_itself_is_logged(
    fake_trooper: FakeTrooper, trooper: TrooperClient, caplog: pytest.LogCaptureFixture
) -> None:
    """An event loop that is closed cancels all tasks: an ERROR says what the server still costs."""

    async def job() -> None:
        async with rented(trooper):
            pass

    before = asyncio.all_tasks()
    with fake_trooper.hold_next(STATUS) as hold:
        task = asyncio.create_task(job())
        await hold.arrived()
        for one in asyncio.all_tasks() - before:
            one.cancel()
        await asyncio.wait([task])

    assert task.cancelled()
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "orders.rented of order 123: the freeze at its end failed (it was cancelled): order 123 still costs 0.85 EUR "
        "per hour. It is still billed: freeze or stop it, here or in the vendor's console"
    ]


async def test_a_cancelled_caller_does_not_release_what_another_bought(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """Of two purchases in flight only its own is frozen."""
    with fake_trooper.hold_next(POST) as first, fake_trooper.hold_next(POST) as second:
        other = asyncio.create_task(buy(trooper, reference="other"))
        await first.arrived()
        task = asyncio.create_task(rented(trooper, reference="job").__aenter__())
        await second.arrived()
        task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert (await other).order_id == 123
    assert [await desired(trooper, 123), await desired(trooper, 124)] == ["running", "frozen"]


async def test_a_caller_cancelled_with_its_purchase_in_flight_releases_the_server(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """The purchase is followed to its end, and what it bought is frozen before the cancellation goes on."""
    with fake_trooper.hold_next(POST) as hold:
        task = asyncio.create_task(rented(trooper).__aenter__())
        await hold.arrived()
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
    await asyncio.wait([task])

    assert task.cancelled()
    assert await desired(trooper, 123) == "frozen"
    assert await trooper.orders.unresolved() == (), "nobody has to hear of it any more"


async def test_a_caller_cancelled_as_its_purchase_ends_releases_the_server(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """If the cancellation comes between the response and the caller, what was bought is frozen as well."""
    with fake_trooper.hold_next(POST) as hold:
        task = asyncio.create_task(rented(trooper).__aenter__())
        await hold.arrived()
        (purchase,) = [one for one in asyncio.all_tasks() if one.get_name() == "trooper purchase"]
        purchase.add_done_callback(lambda _: task.cancel())
    await asyncio.wait([task])

    assert task.cancelled()
    assert await desired(trooper, 123) == "frozen"


async def test_a_release_that_cannot_be_recorded_is_logged(
    fake_trooper: FakeTrooper, trooper: TrooperClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server is frozen, and the job ends as if that had been recorded."""
    full = mock.AsyncMock(side_effect=ConfigurationError("the disk is full"))
    monkeypatch.setattr(trooper._purchases.journal, "resolve", full)
    async with rented(trooper):
        pass
    assert await desired(trooper, 123) == "frozen"
    text = "orders.rented: order 123 was frozen or stopped, but that could not be recorded: the disk is full"
    assert caplog.messages == [text]


async def test_a_closed_coroutine_logs_the_server_that_it_leaves_running(
    fake_trooper: FakeTrooper, trooper: TrooperClient, caplog: pytest.LogCaptureFixture
) -> None:
    """If nothing can be awaited any more, an ERROR names the order and what it costs."""

    async def job() -> None:
        async with rented(trooper):
            await _suspended()

    coroutine = job()
    with contextlib.suppress(StopIteration):
        await _until_suspended(coroutine)
    coroutine.close()

    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == (
        "orders.rented of order 123: the freeze at its end failed (its task did not run to its end): "
        f"order 123 still costs 0.85 EUR per hour. {StillRunningError.hint}"
    )


class _Suspension:
    def __await__(self) -> Any:
        yield self


async def _suspended() -> None:
    await _Suspension()


class _until_suspended:  # noqa: N801 - used as a function
    """Awaits a coroutine until it awaits `_suspended()`."""

    def __init__(self, coroutine: Any) -> None:
        self._steps = coroutine.__await__()

    def __await__(self) -> Any:
        sent = None
        while True:
            waited_for = self._steps.send(sent)
            if isinstance(waited_for, _Suspension):
                return
            sent = yield waited_for


# At every await -----------------------------------------------------------------------------------------------------


async def _job(client: TrooperClient) -> None:
    async with client.orders.rented(BLIB, contract_interval="HOUR", terms_accepted=True):
        await asyncio.sleep(5)


async def _known_job(client: TrooperClient) -> None:
    async with client.orders.running(101):
        await asyncio.sleep(5)


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def cancel_at(
    job: Callable[[TrooperClient], Awaitable[None]], *, nth: int = 0, after: float | None = None, again: bool
) -> tuple[bool, float]:
    """Cancels a job at its nth await, or after so many seconds, maybe repeatedly; whether it was, and its seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    world = World(Settings.calm(), random.Random(7))
    known = world.add(began, "stopped")
    async with Api(world).client(PollSchedule()) as client:
        suspending = Suspending(job(client), nth)
        task = asyncio.create_task(_await(suspending))
        if after is not None:
            await asyncio.wait([task], timeout=after)
            task.cancel()
        while not task.done():
            await asyncio.wait([task], timeout=0.01 if again else None)
            if after is not None or suspending.suspensions >= nth > 0:
                task.cancel()
        was_reached, seconds = task.cancelled(), loop.time() - began
        if not was_reached:
            task.result()
        await asyncio.sleep(0)
        for server in world.servers.values():
            state = server.at(loop.time())
            assert state is not None
            is_known = server is known and not server.actions
            assert is_known or state.desired == "frozen", f"order {server.order_id} was left running"
        assert await client.orders.unresolved() == ()
        assert asyncio.all_tasks() == {asyncio.current_task()}
    return was_reached, seconds


@pytest.mark.parametrize("again", [False, True], ids=["once", "repeatedly"])
@pytest.mark.parametrize("job", [_job, _known_job])
def test_a_job_cancelled_at_any_await_leaves_no_server_running(
    job: Callable[[TrooperClient], Awaitable[None]], again: bool
) -> None:
    """Whatever it awaits (purchase, start, wait, work, freeze), no server that it started runs on."""
    nth = 1
    while run(cancel_at(job, nth=nth, again=again))[0]:
        nth += 1
    assert nth > 4, "it has that many awaits"


@pytest.mark.parametrize("again", [False, True], ids=["once", "repeatedly"])
@pytest.mark.parametrize("job", [_job, _known_job])
def test_a_job_cancelled_at_any_time_leaves_no_server_running(
    job: Callable[[TrooperClient], Awaitable[None]], again: bool
) -> None:
    """The same at any moment, since purchase and freeze run in tasks of their own."""
    _, seconds = run(cancel_at(job, again=False))
    for number in range(100):
        run(cancel_at(job, after=0.01 * number, again=again))
        run(cancel_at(job, after=seconds - 0.01 * number, again=again))


# When the release fails ---------------------------------------------------------------------------------------------


@pytest.fixture
async def impatient(fake_trooper: FakeTrooper) -> AsyncIterator[TrooperClient]:
    """A client that gives up soon."""
    async with fake_trooper.client(poll=PollSchedule(floor=0.01, cap=0.05)) as client:
        yield client


async def test_a_failed_release_is_an_error_that_names_the_order(
    fake_trooper: FakeTrooper, trooper: TrooperClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The error and the log name the order, its cost, and what failed."""
    with pytest.raises(StillRunningError) as caught:
        async with rented(trooper):
            fake_trooper.fail_next(STATUS, status=401, times=9)

    error = caught.value
    assert (error.order_id, error.price_h, error.operation) == (123, Decimal("0.85"), "orders.rented")
    assert isinstance(error.__cause__, AuthenticationError)
    assert str(error) == (
        f"orders.rented of order 123: the freeze at its end failed ({error.__cause__.message}): "
        f"order 123 still costs 0.85 EUR per hour. {StillRunningError.hint}"
    )
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [str(error)]


async def test_a_failed_release_does_not_hide_the_failure_of_the_job(
    fake_trooper: FakeTrooper, trooper: TrooperClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The job's exception is raised, with a note; the log has the ERROR."""

    async def job() -> None:
        async with rented(trooper):
            fake_trooper.fail_next(STATUS, status=401, times=9)
            raise BrokenJobError

    with pytest.raises(BrokenJobError) as caught:
        await job()
    assert "order 123 still costs 0.85 EUR per hour" in caught.value.__notes__[0]
    assert caplog.text.count("still costs") == 1


async def test_a_release_is_retried_during_an_outage(
    fake_trooper: FakeTrooper, trooper: TrooperClient, caplog: pytest.LogCaptureFixture
) -> None:
    """While the API fails or refuses it, it is retried for up to 15 minutes, and the log says what and why."""
    async with rented(trooper):
        caplog.set_level(logging.INFO, "trooper_async")
        fake_trooper.fail_next(STATUS, status=503, times=6)
        fake_trooper.fail_next(STATUS, status=400, body={"error": "still starting"}, times=2)
        fake_trooper.fail_next(LIST, status=503, times=3)

    assert await desired(trooper, 123) == "frozen"
    assert any("trying again in" in one for one in caplog.messages)
    assert {one.split()[0].rstrip(":") for one in caplog.messages} == {"orders.rented"}


async def test_a_release_fails_after_a_long_outage(
    fake_trooper: FakeTrooper, impatient: TrooperClient, caplog: pytest.LogCaptureFixture
) -> None:
    """After that time the last failure is the cause; each one before it is logged."""

    async def late() -> None:
        await until(lambda: "trying again in" in caplog.text and impatient._transport._gate._inside == 0)
        forward(3600)

    later = asyncio.create_task(late())
    with pytest.raises(StillRunningError, match="500"):
        async with rented(impatient):
            fake_trooper.fail_next(STATUS, status=500, times=10_000)
    await later
    failure = r"orders\.rented of order 123: the API returned 500: .*; trying again in 0\.0 s"
    assert any(re.fullmatch(failure, message) for message in caplog.messages)


def test_a_release_is_tried_for_15_minutes_by_default() -> None:
    """The last attempt is the last one that begins within that time; an order without a price "costs money"."""

    async def main() -> int:
        async def down(call: Call[Any]) -> Response:
            return reply({"error": "down"}, 500)

        script = Script(lambda t: [row(1, "running")], down)
        async with script.client(poll=PollSchedule(floor=450, cap=450), retry=RetryPolicy(attempts=1)) as client:
            with pytest.raises(StillRunningError, match=r"order 1 still costs money\. "):
                async with client.orders.running(1):
                    pass
        return script.sent.count(STATUS)

    assert run(main()) == 2, "at once and after 450 s, but not after 900.1 s"


def test_the_pause_before_a_release_is_retried_doubles() -> None:
    """From the `floor` of the schedule up to its `cap`."""

    async def main() -> list[float]:
        tries: list[float] = []

        async def down(call: Call[Any]) -> Response:
            tries.append(asyncio.get_running_loop().time())
            return reply({"error": "down"}, 500)

        async with Script(lambda t: [row(1, "running")], down).client(retry=RetryPolicy(attempts=1)) as client:
            with pytest.raises(StillRunningError):
                async with client.orders.running(1, then_timeout=120):
                    pass
        return tries

    tries = run(main())
    assert [round(later - earlier) for earlier, later in itertools.pairwise(tries)] == [1, 2, 4, 8, 16, 30, 30]


async def test_a_server_is_frozen_although_the_list_is_unreadable(
    fake_trooper: FakeTrooper, impatient: TrooperClient
) -> None:
    """The freeze is sent although the status of the server is unknown."""
    async with rented(impatient, then_timeout=60):
        fake_trooper.fail_next(LIST, status=500, times=10_000)

    assert actions(fake_trooper) == ["frozen"]


async def test_a_vanished_server_needs_no_release(
    fake_trooper: FakeTrooper, impatient: TrooperClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Terminated in the meantime: once it is steadily missing, the job ends with a warning."""
    async with rented(impatient, then_timeout=60) as order:
        fake_trooper.remove_order(order)

    assert actions(fake_trooper) == []
    assert "orders.rented: order 123 is not in the list any more, so no freeze is sent" in caplog.messages


@pytest.mark.parametrize(("then", "sent"), [("stop", []), ("freeze", [])])
async def test_a_server_frozen_meanwhile_is_left_alone(
    then: Any, sent: list[str], fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """A frozen server is not stopped: that would first start it, and cost more."""
    async with rented(trooper, then=then) as order:
        fake_trooper.set_status(order, "frozen")

    assert actions(fake_trooper) == sent


# Purchases ----------------------------------------------------------------------------------------------------------


async def test_a_lost_purchase_lists_the_candidates(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """Nobody knows which order it is: nothing is frozen, and the error lists the candidates."""
    fake_trooper.drop_next(POST, when="after")

    with pytest.raises(PurchaseUnknownError) as caught:
        async with rented(trooper):
            raise AssertionError("it is not known")

    assert [order.order_id for order in caught.value.candidates] == [123]
    assert actions(fake_trooper) == []


async def test_a_lost_purchase_of_a_cancelled_caller_is_logged(
    fake_trooper: FakeTrooper, trooper: TrooperClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller gets only its cancellation, so an ERROR lists the candidates."""
    hold = fake_trooper.hold_next(LIST)
    fake_trooper.drop_next(POST, when="after")
    task = asyncio.create_task(rented(trooper).__aenter__())
    await hold.arrived()
    looking = fake_trooper.hold_next(LIST)
    hold.release()
    await looking.arrived()
    if not posts(fake_trooper):  # the list was empty, and is read again before the purchase
        looking.release()
        looking = fake_trooper.hold_next(LIST)
        await looking.arrived()
    task.cancel()
    looking.release()
    await asyncio.wait([task])

    assert task.cancelled()
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "candidates: order 123" in record.getMessage()
    assert [one.state for one in await trooper.orders.unresolved()] == ["unknown"]


async def test_a_known_reference_starts_its_server_again(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """A repeated job finds its server frozen: nothing is bought, it is started, and frozen at the end."""
    for _ in range(2):
        async with rented(trooper, reference="nightly") as order:
            assert (order.order_id, order.current_status) == (123, "running")
        await trooper.orders.wait_until(123, "frozen")

    assert posts(fake_trooper) == 1
    assert actions(fake_trooper) == ["frozen", "running", "frozen"]


async def test_the_order_of_a_known_reference_may_appear_late(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """Run again right after the purchase, the job waits until the order is listed; only a lasting absence counts."""
    await trooper.orders.create(BLIB, contract_interval="HOUR", terms_accepted=True, reference="nightly")
    fake_trooper.fail_next("/api/orders", status=200, body=[])
    async with rented(trooper, reference="nightly", then="leave") as order:
        assert order.order_id == 123
    fake_trooper.remove_order(123)
    with pytest.raises(OrderNotFoundError, match="order 123"):
        async with rented(trooper, reference="nightly", then="leave"):
            pytest.fail("there is no such server any more")
    assert posts(fake_trooper) == 1


# An existing server -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "desired", "sent"),
    [
        ("running", None, ["stopped"]),
        ("stopped", None, ["running", "stopped"]),
        ("frozen", "running", ["running", "stopped"]),
    ],
)
async def test_running_keeps_a_server_running_during_a_job(
    status: str, desired: str | None, sent: list[str], fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """It is started unless it runs, also if only the desired status says so; then `then` is applied."""
    known = fake_trooper.add_order(status=status, desired_status=desired)
    async with trooper.orders.running(known, then="stop") as order:
        assert (order.order_id, order.current_status) == (known.order_id, "running")
        if sent == ["stopped"]:
            assert len(fake_trooper.requests) == 1, "a running server is looked up, and not waited for"

    assert actions(fake_trooper) == sent


async def test_running_waits_for_a_server_that_is_starting(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """A server that is starting is not started again."""
    known = fake_trooper.add_order(status="starting", desired_status="running")
    entering = asyncio.create_task(trooper.orders.running(known, then="leave").__aenter__())
    await until(lambda: len(fake_trooper.requests) > 2)
    fake_trooper.set_status(known, "running")

    assert (await entering).current_status == "running"
    assert actions(fake_trooper) == []


async def test_running_releases_a_server_that_does_not_start(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """Here, too, a failed wait releases the server."""
    known = fake_trooper.add_order(status="stopped")

    with pytest.raises(ZeroDivisionError):
        async with trooper.orders.running(known, on_change=lambda order: 1 / 0):
            raise AssertionError("it does not run")

    assert actions(fake_trooper) == ["running", "frozen"]


async def test_running_does_not_wait_for_an_unknown_id(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """Nothing is sent for an unknown id."""
    with pytest.raises(OrderNotFoundError):
        async with trooper.orders.running(5):
            raise AssertionError("it is not there")

    assert actions(fake_trooper) == []


# Arguments, and a real process --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"then": "delete"}, {"then": None}, {"then_timeout": 0}, {"timeout": 0}, {"on_change": 5}]
)
async def test_an_invalid_argument_is_refused_before_anything_is_sent(
    options: dict[str, Any], fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """It is refused before anything is sent."""
    with pytest.raises(ConfigurationError):
        rented(trooper, **options)
    with pytest.raises(ConfigurationError):
        trooper.orders.running(123, **options)
    assert fake_trooper.requests == []


async def test_a_server_above_the_highest_price_is_not_rented(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """`max_price_h` counts as it does for `create`."""
    with pytest.raises(PriceError):
        async with rented(trooper, max_price_h=Decimal("0.84")):
            pass
    assert posts(fake_trooper) == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("moment", ["buying", "working"])
async def test_ctrl_c_releases_the_server(moment: str, loop: str) -> None:
    """A real process, interrupted with its purchase in flight or in its job: the server is frozen, then it ends."""
    async with FakeTrooper() as fake:
        hold = fake.hold_next(POST)
        async with processes.python(rented_job.__file__, fake.url, fake.api_key, loop) as child:
            await hold.arrived()
            if moment == "working":
                hold.release()
                await child.says("working on order 123")
            child.send(signal.SIGINT)
            hold.release()
            assert await child.ends() != 0
            assert "KeyboardInterrupt" in child.err
        assert actions(fake) == ["frozen"]
        assert posts(fake) == 1
