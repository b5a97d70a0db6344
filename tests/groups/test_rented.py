"""`orders.rented` and `orders.running`: a server runs for the length of a job, and is put away whatever ends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from typing import Any

import anyio
import pytest

from tests.helpers import processes, rented_job
from tests.helpers.buying import BLIB, LIST, POST, posts
from tests.helpers.conditions import until
from tests.helpers.suspending import Suspending
from tests.tools.simulator.api import Api
from tests.tools.simulator.clock import run
from tests.tools.simulator.world import Settings, World
from trooper_async import (
    ConfigurationError,
    Order,
    OrderNotFoundError,
    PollSchedule,
    PurchaseNotReadyError,
    PurchaseUnknownError,
    StillRunningError,
    TrooperClient,
)
from trooper_async._groups import rented as rented_module
from trooper_async.testing import FakeTrooper

STATUS = "/api/order-status"


class BrokenJobError(Exception):
    """What the job raises."""


def rented(client: TrooperClient, **options: Any) -> AbstractAsyncContextManager[Order]:
    return client.orders.rented(BLIB, **{"contract_interval": "HOUR", "terms_accepted": True, **options})


def actions(fake: FakeTrooper) -> list[str]:
    """The state changes that were asked for."""
    return [body["action"] for body in fake.sent(STATUS)]


async def wish(client: TrooperClient, order_id: int) -> str | None:
    """Where an order is wanted."""
    return (await client.orders.get(order_id)).desired_status


# Ways out -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("then", "sent"), [("freeze", ["frozen"]), ("stop", ["stopped"]), ("leave", [])])
async def test_a_rented_server_is_put_where_then_says(
    then: Any, sent: list[str], fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """It runs in the block, and after it the API has accepted what `then` says; the purchase is not unresolved."""
    async with rented(trooper, then=then) as order:
        assert (order.order_id, order.current_status) == (123, "running")
        assert actions(fake_trooper) == []

    assert actions(fake_trooper) == sent
    assert await trooper.orders.unresolved() == ()
    assert posts(fake_trooper) == 1


async def test_a_job_that_fails_is_over_too(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """Its exception goes on as it is, and the server is frozen."""
    with pytest.raises(BrokenJobError) as caught:
        async with rented(trooper):
            raise BrokenJobError

    assert not hasattr(caught.value, "__notes__")
    assert actions(fake_trooper) == ["frozen"]


async def test_a_server_that_does_not_come_up_is_released(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """A failed wait is a way out: it is bought, so it is frozen."""
    with pytest.raises(PurchaseNotReadyError):
        async with rented(trooper, on_change=lambda order: 1 / 0):
            raise AssertionError("it does not run")

    assert actions(fake_trooper) == ["frozen"]
    assert await wish(trooper, 123) == "frozen"


async def test_a_job_that_is_cancelled_again_and_again_is_over_only_once_its_server_is_released(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """Cancellations while the server is being frozen do not cut that; the last of them is raised afterwards."""
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
    assert await wish(trooper, 123) == "frozen"
    assert await trooper.orders.unresolved() == ()


async def test_a_scope_of_anyio_that_cancels_on_and_on_does_not_cut_it(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """anyio cancels a task at each of its awaits: the server is frozen all the same, and the scope ends."""
    hold = fake_trooper.hold_next(STATUS)

    async def release_later() -> None:
        await hold.arrived()
        for _ in range(10):  # in each turn it is cancelled once more
            await asyncio.sleep(0)
        hold.release()

    releasing = asyncio.create_task(release_later())
    with anyio.CancelScope() as scope:
        async with rented(trooper):
            scope.cancel()
            await anyio.sleep_forever()
    await releasing

    assert scope.cancelled_caught
    assert await wish(trooper, 123) == "frozen"


async def test_a_caller_cancelled_while_the_purchase_is_in_flight_gets_no_server_on_its_bill(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """The purchase is followed to its end, and what it bought is frozen before the cancellation goes on."""
    hold = fake_trooper.hold_next(POST)
    task = asyncio.create_task(rented(trooper).__aenter__())
    await hold.arrived()
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    hold.release()
    await asyncio.wait([task])

    assert task.cancelled()
    assert await wish(trooper, 123) == "frozen"
    assert await trooper.orders.unresolved() == (), "nobody has to hear of it any more"


async def test_a_coroutine_that_is_thrown_away_says_what_it_leaves_running(
    fake_trooper: FakeTrooper, trooper: TrooperClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nothing can be awaited any more, an ERROR names the order and what it costs."""

    async def job() -> None:
        async with rented(trooper):
            await _suspended()

    coroutine = job()
    with contextlib.suppress(StopIteration):
        await _until_suspended(coroutine)
    coroutine.close()

    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "order 123 still costs 0.85 EUR per hour" in record.getMessage()


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
    """Cancel a job at its nth await, or after so many seconds, perhaps on and on; whether it was, and its seconds."""
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
            assert is_known or state.wish == "frozen", f"order {server.order_id} was left running"
        assert await client.orders.unresolved() == ()
        assert asyncio.all_tasks() == {asyncio.current_task()}
    return was_reached, seconds


@pytest.mark.parametrize("again", [False, True], ids=["once", "again and again"])
@pytest.mark.parametrize("job", [_job, _known_job])
def test_cancelled_at_any_await_it_leaves_no_server_running(
    job: Callable[[TrooperClient], Awaitable[None]], again: bool
) -> None:
    """Whatever it was awaiting: a purchase, a start, a wait, its work, a freeze. No server that it started runs on."""
    nth = 1
    while run(cancel_at(job, nth=nth, again=again))[0]:
        nth += 1
    assert nth > 4, "it has that many awaits"


@pytest.mark.parametrize("again", [False, True], ids=["once", "again and again"])
@pytest.mark.parametrize("job", [_job, _known_job])
def test_cancelled_at_any_time_it_leaves_no_server_running(
    job: Callable[[TrooperClient], Awaitable[None]], again: bool
) -> None:
    """The purchase and the freeze go on in tasks of their own: whatever those are doing, it is the same."""
    _, seconds = run(cancel_at(job, again=False))
    for number in range(100):
        run(cancel_at(job, after=0.01 * number, again=again))
        run(cancel_at(job, after=seconds - 0.01 * number, again=again))


# When putting it away fails -----------------------------------------------------------------------------------------


@pytest.fixture
async def impatient(fake_trooper: FakeTrooper, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TrooperClient]:
    """A client that gives up soon."""
    monkeypatch.setattr(rented_module, "_PATIENCE", 0.3)
    async with fake_trooper.client(poll=PollSchedule(floor=0.01, cap=0.05)) as client:
        yield client


async def test_a_server_that_can_not_be_released_is_an_error_that_names_it(
    fake_trooper: FakeTrooper, trooper: TrooperClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The error and the log name the order and what it costs, and what failed."""
    with pytest.raises(StillRunningError) as caught:
        async with rented(trooper):
            fake_trooper.fail_next(STATUS, status=401, times=9)

    error = caught.value
    assert (error.order_id, error.price_h, error.operation) == (123, Decimal("0.85"), "orders.rented")
    assert "order 123 still costs 0.85 EUR per hour" in str(error)
    assert error.__cause__ is not None
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [str(error)]


async def test_a_job_that_failed_is_not_hidden_by_a_server_that_can_not_be_released(
    fake_trooper: FakeTrooper, trooper: TrooperClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The job's exception goes on, with a note; the log has the ERROR."""

    async def job() -> None:
        async with rented(trooper):
            fake_trooper.fail_next(STATUS, status=401, times=9)
            raise BrokenJobError

    with pytest.raises(BrokenJobError) as caught:
        await job()
    assert "order 123 still costs 0.85 EUR per hour" in caught.value.__notes__[0]
    assert caplog.text.count("still costs") == 1


async def test_an_outage_at_the_end_is_ridden_out(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """While the API fails or refuses it, it is tried again, for up to 15 minutes."""
    async with rented(trooper):
        fake_trooper.fail_next(STATUS, status=503, times=6)
        fake_trooper.fail_next(STATUS, status=400, body={"error": "still starting"}, times=2)
        fake_trooper.fail_next(LIST, status=503, times=3)

    assert await wish(trooper, 123) == "frozen"


async def test_an_outage_without_end_is_an_error(fake_trooper: FakeTrooper, impatient: TrooperClient) -> None:
    """After that long the last failure is the cause."""
    with pytest.raises(StillRunningError, match="500"):
        async with rented(impatient):
            fake_trooper.fail_next(STATUS, status=500, times=10_000)


async def test_a_list_that_can_not_be_read_does_not_keep_it_from_being_frozen(
    fake_trooper: FakeTrooper, impatient: TrooperClient
) -> None:
    """What matters is the freeze: it is sent although nobody knows where the server is."""
    async with rented(impatient):
        fake_trooper.fail_next(LIST, status=500, times=10_000)

    assert actions(fake_trooper) == ["frozen"]


async def test_a_server_that_is_gone_needs_nothing(
    fake_trooper: FakeTrooper, impatient: TrooperClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Terminated in the meantime: once it is missing steadily, the job ends with a warning."""
    async with rented(impatient) as order:
        fake_trooper.remove_order(order)

    assert actions(fake_trooper) == []
    assert "order 123 is not in the list any more" in caplog.text


@pytest.mark.parametrize(("then", "sent"), [("stop", []), ("freeze", [])])
async def test_a_server_that_was_released_meanwhile_is_left_alone(
    then: Any, sent: list[str], fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """A frozen server is not stopped: it would be started up for that, and cost more."""
    async with rented(trooper, then=then) as order:
        fake_trooper.set_status(order, "frozen")

    assert actions(fake_trooper) == sent


# Purchases ----------------------------------------------------------------------------------------------------------


async def test_a_lost_response_names_what_may_have_been_bought(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """Nobody can know which order it is: nothing is frozen, and the error lists the candidates."""
    fake_trooper.drop_next(POST, when="after")

    with pytest.raises(PurchaseUnknownError) as caught:
        async with rented(trooper):
            raise AssertionError("it is not known")

    assert [order.order_id for order in caught.value.candidates] == [123]
    assert actions(fake_trooper) == []


async def test_a_lost_response_of_a_caller_that_was_cancelled_is_in_the_log(
    fake_trooper: FakeTrooper, trooper: TrooperClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Its caller hears of a cancellation alone, so the candidates are in an ERROR."""
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


async def test_under_a_known_reference_the_server_is_started_again(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """A job that is run again finds its server frozen: nothing is bought, it is started, and frozen in the end."""
    for _ in range(2):
        async with rented(trooper, reference="nightly") as order:
            assert (order.order_id, order.current_status) == (123, "running")
        await trooper.orders.wait_until(123, "frozen")

    assert posts(fake_trooper) == 1
    assert actions(fake_trooper) == ["frozen", "running", "frozen"]


async def test_under_a_known_reference_the_server_may_not_be_in_the_list_yet(
    fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """Run again right after the purchase, the job waits until the order is listed; only one that stays away is gone."""
    await trooper.orders.create(BLIB, contract_interval="HOUR", terms_accepted=True, reference="nightly")
    fake_trooper.fail_next("/api/orders", status=200, body=[])
    async with rented(trooper, reference="nightly", then="leave") as order:
        assert order.order_id == 123
    fake_trooper.remove_order(123)
    with pytest.raises(OrderNotFoundError, match="order 123"):
        async with rented(trooper, reference="nightly", then="leave"):
            pytest.fail("there is no such server any more")
    assert posts(fake_trooper) == 1


# A server that is there ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "desired", "sent"),
    [
        ("running", None, ["stopped"]),
        ("stopped", None, ["running", "stopped"]),
        ("frozen", "running", ["running", "stopped"]),
    ],
)
async def test_a_server_runs_while_its_job_does(
    status: str, desired: str | None, sent: list[str], fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """It is started unless it runs, also where only the wish says so; then it is put where `then` says."""
    known = fake_trooper.add_order(status=status, desired_status=desired)
    async with trooper.orders.running(known, then="stop") as order:
        assert (order.order_id, order.current_status) == (known.order_id, "running")

    assert actions(fake_trooper) == sent


async def test_a_server_on_its_way_is_waited_for(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """One that is starting is not started again."""
    known = fake_trooper.add_order(status="starting", desired_status="running")
    entering = asyncio.create_task(trooper.orders.running(known, then="leave").__aenter__())
    await until(lambda: len(fake_trooper.requests) > 2)
    fake_trooper.set_status(known, "running")

    assert (await entering).current_status == "running"
    assert actions(fake_trooper) == []


async def test_a_server_that_does_not_start_is_released(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """A failed wait is a way out here, too."""
    known = fake_trooper.add_order(status="stopped")

    with pytest.raises(ZeroDivisionError):
        async with trooper.orders.running(known, on_change=lambda order: 1 / 0):
            raise AssertionError("it does not run")

    assert actions(fake_trooper) == ["running", "frozen"]


async def test_a_server_that_is_not_there_is_not_waited_for(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """Nothing is sent for an unknown id."""
    with pytest.raises(OrderNotFoundError):
        async with trooper.orders.running(5):
            raise AssertionError("it is not there")

    assert actions(fake_trooper) == []


# Arguments, and a real process --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"then": "delete"}, {"then": None}, {"timeout": 0}, {"on_change": 5}])
async def test_a_wrong_argument_is_refused_at_the_door(
    options: dict[str, Any], fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """Before anything is sent."""
    with pytest.raises(ConfigurationError):
        rented(trooper, **options)
    with pytest.raises(ConfigurationError):
        trooper.orders.running(123, **options)
    assert fake_trooper.requests == []


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("moment", ["buying", "working"])
async def test_ctrl_c_puts_the_server_away(moment: str, loop: str) -> None:
    """A real process, interrupted while its purchase is in flight or in its job: the server is frozen, then it ends."""
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
