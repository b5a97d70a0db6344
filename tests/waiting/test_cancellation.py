"""Cancelling a wait at every possible point: other waits are not affected, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from tests.helpers.conditions import until
from tests.helpers.suspending import Suspending
from tests.tools.simulator.api import Api
from tests.tools.simulator.clock import VirtualLoop, run
from tests.tools.simulator.world import Settings, World
from trooper_async import Blib, MigrationQuote, PollSchedule, Transition, TrooperClient, WaitTimeoutError
from trooper_async._waiting.poller import Subscription
from trooper_async.testing import FakeTrooper

BLIB = Blib(id=1, name="one", price_h=Decimal("0.85"))
QUOTE = MigrationQuote(order_id=101, target_blib_id=2, total_due=Decimal("3.2"))

Wait = Callable[[TrooperClient], Awaitable[Any]]


async def _watch(client: TrooperClient) -> None:
    async with contextlib.aclosing(client.orders.watch(interval=2)) as changes:
        async for change in changes:
            if change.order_id == 103 and change.order.current_status == "stopped":
                return


# Server 101 runs, 102 is stopped; somebody else stops 103 at the beginning.
WAITS: dict[str, Wait] = {
    "start_and_wait": lambda client: client.orders.start_and_wait(102, timeout=None),
    "start_and_wait, migration allowed": lambda client: client.orders.start_and_wait(
        102, migration_allowed=True, timeout=None
    ),
    "stop_and_wait": lambda client: client.orders.stop_and_wait(101),
    "freeze_and_wait": lambda client: client.orders.freeze_and_wait(101),
    "restart_and_wait": lambda client: client.orders.restart_and_wait(101),
    "wait": lambda client: client.orders.wait(Transition(103, "stop", "stopped")),
    "wait_until a status": lambda client: client.orders.wait_until(103, "stopped"),
    "wait_until a predicate": lambda client: client.orders.wait_until(103, lambda order: order.is_converged),
    "wait_until_converged": lambda client: client.orders.wait_until_converged(103),
    "create_and_wait": lambda client: client.orders.create_and_wait(
        BLIB, contract_interval="HOUR", terms_accepted=True
    ),
    "buy_and_wait": lambda client: client.migrations.buy_and_wait(QUOTE, keep_data=True),
    "install_and_wait": lambda client: client.templates.install_and_wait(101, 1),
    "wait_until_available": lambda client: client.blibs.wait_until_available(1),
    "watch": _watch,
}


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def cancel_at(wait: Wait, nth: int = 0, *, after: float | None = None, beside: bool) -> bool:
    """Cancels `wait` at its nth suspension, or after so many seconds, and checks what is left; whether it was
    cancelled.
    """
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    world = World(Settings.calm(), random.Random(7))
    api = Api(world)
    for state in ("running", "stopped", "running"):
        world.add(loop.time(), state)
    world.switch(loop.time(), world.servers[103], "stop")
    neighbour: asyncio.Task[Any] | None = None
    async with api.client(PollSchedule()) as client:
        if beside:
            neighbour = asyncio.create_task(client.orders.wait(Transition(103, "stop", "stopped")))
            await asyncio.sleep(0)
        suspending = Suspending(wait(client), nth)

        task = asyncio.create_task(_await(suspending))
        if after is not None:
            await asyncio.wait([task], timeout=after)
            task.cancel()
        await asyncio.wait([task])
        if neighbour is not None:
            if not neighbour.done():
                assert api.cut == 0, "a GET that the neighbour awaits was cut"
            assert (await neighbour).current_status == "stopped"
        reached = task.cancelled()
        if not reached:
            task.result()
        del task, suspending, neighbour
        await asyncio.sleep(0)
        poller = client._waits.orders
        assert poller._subscriptions == {}
        assert poller._by_item == {}
        assert poller._every_poll == {}
        assert poller._task is None
    assert not complaints
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert [handle for handle in loop._scheduled if not handle.cancelled()] == []  # type: ignore[attr-defined]
    return reached


@pytest.fixture
def _no_subscription_is_left() -> Iterator[None]:
    """Nothing in this process refers to a subscription of the test."""
    gc.collect()
    gc.freeze()  # what was there before is not looked at
    yield
    gc.collect()
    assert not any(isinstance(found, Subscription) for found in gc.get_objects())


@pytest.mark.usefixtures("_no_subscription_is_left")
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another wait"])
@pytest.mark.parametrize("name", WAITS)
def test_a_wait_can_be_cancelled_at_every_suspension(name: str, beside: bool) -> None:
    """At any of its suspensions: other waits are not affected, no shared GET is cancelled, nothing is left."""
    nth = 1
    while run(cancel_at(WAITS[name], nth, beside=beside)):
        nth += 1
    assert nth > 1


@pytest.mark.usefixtures("_no_subscription_is_left")
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another wait"])
@pytest.mark.parametrize("name", WAITS)
def test_a_wait_can_be_cancelled_at_any_time(name: str, beside: bool) -> None:
    """Before, while and after a request is in flight, and between two polls: the same."""
    moments = [0.037 * moment for moment in range(1, 60, 2)] + [2.5 * moment for moment in range(1, 20, 2)]
    mine = moments[beside::2]
    cancelled = [moment for moment in mine if run(cancel_at(WAITS[name], after=moment, beside=beside))]
    assert len(cancelled) > 5


@pytest.mark.parametrize("name", ["stop_and_wait", "restart_and_wait", "watch"])
def test_cancelling_in_a_debug_loop_raises_no_complaint(name: str) -> None:
    """asyncio's debug mode reports nothing."""
    nth = 1
    while run(cancel_at(WAITS[name], nth, beside=True), debug=True):
        nth += 1
    assert nth > 1


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.parametrize("name", WAITS)
def test_cancelling_with_eager_tasks(name: str) -> None:
    """With tasks that start at once, before `create_task` returns."""

    async def eager(nth: int) -> bool:
        factory = asyncio.eager_task_factory  # type: ignore[attr-defined, unused-ignore]  # new in 3.12
        asyncio.get_running_loop().set_task_factory(factory)
        return await cancel_at(WAITS[name], nth, beside=True)

    nth = 1
    while run(eager(nth)):
        nth += 1
    assert nth > 1


async def _stuck(client: TrooperClient) -> None:
    await client.orders.wait_until(101, lambda order: False, timeout=None)


@pytest.mark.parametrize("how", ["timeout", "wait_for", "sibling"])
def test_timeouts_and_task_groups_cancel_a_wait(how: str) -> None:
    """asyncio.timeout, wait_for and a failing sibling in a TaskGroup end a wait, and leave nothing."""

    async def main() -> None:
        world = World(Settings.calm(), random.Random(7))
        world.add(asyncio.get_running_loop().time(), "running")
        async with Api(world).client(PollSchedule()) as client:
            if how == "timeout":
                with pytest.raises(TimeoutError) as caught:
                    async with asyncio.timeout(5):
                        await _stuck(client)
                assert not isinstance(caught.value, WaitTimeoutError)
            elif how == "wait_for":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(_stuck(client), 5)
            else:

                async def fails() -> None:
                    await asyncio.sleep(5)
                    raise KeyError

                with pytest.raises(ExceptionGroup) as group:  # noqa: PT012 - the group is what raises
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(_stuck(client))
                        tasks.create_task(fails())
                assert group.group_contains(KeyError)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def test_ctrl_c_ends_waits_and_leaves_nothing() -> None:
    """KeyboardInterrupt under asyncio.Runner, on the real loop: waits end, sessions are closed, no warning."""
    finished: list[str] = []

    async def main() -> None:
        async with FakeTrooper() as fake, fake.client() as client:
            order = fake.add_order()

            async def wait() -> None:
                try:
                    await client.orders.wait_until(order, "frozen", timeout=None)
                finally:
                    finished.append("wait")

            async with asyncio.TaskGroup() as group:
                group.create_task(wait())
                group.create_task(wait())
                await until(lambda: any(request.path == "/api/orders" for request in fake.requests))  # they wait
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), asyncio.Runner() as runner:
        runner.run(main())
    assert finished == ["wait", "wait"]
    gc.collect()


def test_waits_work_on_uvloop() -> None:
    """On uvloop, if installed: act, wait, cancel, watch."""
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        async with FakeTrooper() as fake, fake.client() as client:
            order = fake.add_order()
            await client.orders.stop_and_wait(order)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(client.orders.wait_until(order, "frozen", timeout=None), 0.1)
            async for change in client.orders.watch():
                assert change.order.current_status == "stopped"
                break

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_the_other_tests_run_on_a_virtual_loop() -> None:
    """The clock of these tests jumps: an hour passes at once."""

    async def main() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    loop = VirtualLoop()
    try:
        assert loop.run_until_complete(main()) == 4600.0
    finally:
        loop.close()
