"""Fleets: one action for many orders, each with its own outcome, and nothing sent twice."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.helpers import processes
from tests.helpers.clock import forward
from tests.helpers.conditions import until
from tests.helpers.fake_orders import order_of
from tests.helpers.texts import exactly
from trooper_async import (
    APIConnectionError,
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    FleetOutcome,
    FleetProgress,
    FleetReport,
    Order,
    OrderNotFoundError,
    OrderStatus,
    OutcomeUnknownError,
    PermissionDeniedError,
    PollSchedule,
    ResponseFormatError,
    RetryPolicy,
    ServerError,
    ServerLockedError,
    SupersededError,
    Transition,
    TrooperClient,
    WaitTimeoutError,
)
from trooper_async._api.responses import FailedAttempt, Failure
from trooper_async.testing import FakeTrooper

ACTIONS = {"start": "running", "stop": "stopped", "restart": "restarted", "freeze": "frozen"}


def sent(fake: FakeTrooper) -> Counter[int]:
    """How often each server's action arrived."""
    return Counter(request.json["serverId"] for request in fake.requests if request.path == "/api/order-status")


def sent_orders(fake: FakeTrooper) -> set[int]:
    """The ids of the orders for which an action was sent."""
    return {order_of(fake, server_id) for server_id in sent(fake)}


def lists(fake: FakeTrooper) -> int:
    return sum(request.path == "/api/orders" for request in fake.requests)


class Ended:
    """`on_progress`, which counts how many orders have finished."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, progress: FleetProgress) -> None:
        self.done = progress.done


# --- a run --------------------------------------------------------------------------------------------------------


async def test_500_servers_stop_with_eight_requests_at_once(fake_trooper: FakeTrooper) -> None:
    """The waits are not limited, the requests are; two locked, one stuck and one missing have their own outcomes."""
    fake_trooper.durations["stop"] = 0.3
    orders = [fake_trooper.add_order() for _ in range(500)]
    locked, stuck, missing = {orders[7], orders[400]}, orders[100], orders[499]
    at_once = most = 0

    async def begun(*_: object) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)

    async def over(*_: object) -> None:
        nonlocal at_once
        at_once -= 1

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(begun)
    trace.on_request_end.append(over)

    async def stick() -> None:
        await until(lambda: sent(fake_trooper)[stuck.server_id])
        fake_trooper.set_status(stuck, "stopping", "stopped")

    async with aiohttp.ClientSession(trace_configs=[trace]) as session, fake_trooper.client(session=session) as client:
        for order in locked:
            await client.orders.lock(order)
        fake_trooper.remove_order(missing)
        before, most, ended, began = len(fake_trooper.requests), 0, Ended(), time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(stick())
            ids = [order.order_id for order in orders]
            run = group.create_task(client.fleet.stop(ids, concurrency=8, timeout=600, on_progress=ended))
            await until(lambda: ended.done == 499)
            forward(600)
    report = run.result()
    polls = sum(request.path == "/api/orders" for request in fake_trooper.requests[before:])
    assert most <= 8 + 1  # and the poll
    assert polls <= (time.monotonic() - began) / 0.02 + 3  # not one per server: one each 0.02 s, the client's floor
    assert len(report.outcomes) == 500
    assert [outcome.order_id for outcome in report.outcomes] == [order.order_id for order in orders]
    failed = {outcome.order_id: type(outcome.error) for outcome in report.failed}
    assert failed == {
        **{order.order_id: ServerLockedError for order in locked},
        stuck.order_id: WaitTimeoutError,
        missing.order_id: OrderNotFoundError,
    }
    assert len(report.succeeded) == 496
    assert all(o.order is not None and o.order.current_status == "stopped" for o in report.succeeded)
    assert all(outcome.sent and outcome.transition for outcome in report.succeeded)
    assert max(sent(fake_trooper).values()) == 1
    assert report.elapsed > 0


@pytest.mark.parametrize("action", ACTIONS)
async def test_each_action_sends_its_word_and_waits(
    trooper: TrooperClient, fake_trooper: FakeTrooper, action: str
) -> None:
    """Start, stop, restart and freeze send their word of the API, and wait for the status it leads to."""
    begins = "stopped" if action == "start" else "running"
    orders = [fake_trooper.add_order(status=begins) for _ in range(3)]
    seen: list[FleetProgress] = []
    report = await getattr(trooper.fleet, action)(orders, on_progress=seen.append)
    report.raise_for_failures()
    assert seen[-1].report() == report, "the clock of a run stops when it has ended"
    assert {order.current_status for order in await trooper.orders.list()} == {
        "running" if action == "restart" else ACTIONS[action]
    }
    bodies = [request.json for request in fake_trooper.requests if request.path == "/api/order-status"]
    assert [body["action"] for body in bodies] == [ACTIONS[action]] * 3


async def test_start_with_migration_is_sent_and_stored(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """`migration_allowed` reaches the API for every order, and is stored in the report."""
    orders = [fake_trooper.add_order(status="frozen") for _ in range(2)]
    report = await trooper.fleet.start(orders, migration_allowed=True)
    bodies = [request.json for request in fake_trooper.requests if request.path == "/api/order-status"]
    assert [body["migration_allowed"] for body in bodies] == [True, True]
    assert report.migration_allowed
    assert len(report.succeeded) == 2


async def test_a_duplicate_order_is_sent_once(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """An order and its id are the same order; any iterable is accepted, and an empty one is no error."""
    order = fake_trooper.add_order()
    other = fake_trooper.add_order()

    def named() -> Iterator[Order | int]:
        yield from (order.order_id, order, other, other)

    report = await trooper.fleet.stop(named())
    assert [outcome.order_id for outcome in report.outcomes] == [order.order_id, other.order_id]
    assert sent(fake_trooper) == {order.server_id: 1, other.server_id: 1}
    assert (await trooper.fleet.stop([])).outcomes == ()


async def test_unknown_ids_cost_one_read(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """All ids are looked up by one read; missing ones are looked up again, and send nothing."""
    report = await trooper.fleet.freeze(range(90_000, 90_050))
    assert {type(outcome.error) for outcome in report.failed} == {OrderNotFoundError}
    assert lists(fake_trooper) == len(fake_trooper.requests) == 3
    assert "order 90003" in str(report.failed[3].error)


async def test_an_unreadable_row_is_the_outcome_of_its_order(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """The order with the unreadable row has that as its outcome, and the others go on."""
    odd, plain = fake_trooper.add_order(), fake_trooper.add_order()
    fake_trooper.fail_next(
        "/api/orders", status=200, times=3, body=[{"order_id": odd.order_id, "serverId": "x"}, row(plain)]
    )
    report = await trooper.fleet.stop([odd.order_id, plain.order_id])
    assert [type(outcome.error) for outcome in report.outcomes] == [ResponseFormatError, type(None)]


def row(order: Order) -> dict[str, object]:
    return {"order_id": order.order_id, "serverId": order.server_id, "status": str(order.current_status)}


async def test_a_lost_response_is_waited_for(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """A restart whose response was lost is not sent again, and succeeds if it took place."""
    orders = [fake_trooper.add_order() for _ in range(3)]
    fake_trooper.drop_next("/api/order-status", when="after")
    report = await trooper.fleet.restart(orders)
    assert len(report.succeeded) == 3
    assert sorted(str(outcome.sent) for outcome in report.outcomes) == ["None", "True", "True"]
    assert max(sent(fake_trooper).values()) == 1


async def test_a_lost_request_times_out_with_its_cause(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """A request that never arrived fails with its wait, and says that its outcome was unknown."""
    order = fake_trooper.add_order()
    fake_trooper.drop_next("/api/order-status", when="before")
    restarting = asyncio.create_task(trooper.fleet.restart([order], timeout=600))
    await until(lambda: sent(fake_trooper))
    seen = lists(fake_trooper)
    await until(lambda: lists(fake_trooper) > seen)  # it is waited for
    forward(600)
    (failed,) = (await restarting).failed
    assert isinstance(failed.error, WaitTimeoutError)
    assert isinstance(failed.error.__cause__, OutcomeUnknownError)
    assert failed.transition is not None
    assert failed.sent is None
    assert failed.sent_at is not None
    assert failed.sent_at.tzinfo is UTC


async def test_a_run_without_waiting_ends_once_accepted(fake_trooper: FakeTrooper) -> None:
    """`wait=False` ends once all are accepted; a lost response is reported, and `resume` waits without resending."""
    fake_trooper.durations["restart"] = 0.3
    orders = [fake_trooper.add_order() for _ in range(4)]
    seen: list[FleetProgress] = []
    async with fake_trooper.client() as client:
        await client.orders.lock(orders[0])
        fake_trooper.drop_next("/api/order-status", when="after")
        report = await client.fleet.restart(orders[1:], concurrency=1, wait=False, on_progress=seen.append)
        assert [type(outcome.error) for outcome in report.outcomes] == [OutcomeUnknownError, type(None), type(None)]
        assert [outcome.sent for outcome in report.outcomes] == [None, True, True]
        assert len(report.pending) == 2
        assert [progress.done for progress in seen] == [0, 1, 1, 2, 2, 3]
        assert lists(fake_trooper) == 1
        resumed = await client.fleet.resume(FleetReport.from_json(report.to_json()))
        locked = await client.fleet.stop(orders[:1], wait=False)
    assert len(resumed.succeeded) == 3
    assert [type(outcome.error) for outcome in locked.failed] == [ServerLockedError]
    assert all(sent(fake_trooper)[order.server_id] == 1 for order in orders)


@pytest.mark.parametrize("name", ACTIONS)
async def test_each_action_may_be_sent_without_a_wait(
    name: str, trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """The outcome says that it was sent, and that its wait has not ended."""
    fake_trooper.durations[name] = 600
    order = fake_trooper.add_order(status="stopped" if name == "start" else "running")
    report = await getattr(trooper.fleet, name)([order], wait=False)
    assert [(outcome.sent, outcome.ended) for outcome in report.outcomes] == [(True, False)]


async def test_a_superseded_order_does_not_affect_the_others(fake_trooper: FakeTrooper) -> None:
    """Somebody else's action ends the wait for its order, and no other."""
    fake_trooper.durations["stop"] = 600
    orders = [fake_trooper.add_order() for _ in range(4)]
    async with fake_trooper.client(poll=PollSchedule(floor=0.02, cap=0.1)) as client, asyncio.TaskGroup() as group:
        run = group.create_task(client.fleet.stop(orders))
        await until(lambda: len(sent(fake_trooper)) == 4)
        seen = lists(fake_trooper)
        await until(lambda: lists(fake_trooper) > seen + 2)  # the desired status was seen to agree
        fake_trooper.set_status(orders[1], "running", "running")
        for order in (orders[0], *orders[2:]):
            fake_trooper.set_status(order, "stopped", "stopped")
    report = run.result()
    assert [type(outcome.error) for outcome in report.outcomes if outcome.error] == [SupersededError]
    assert len(report.succeeded) == 3


@pytest.mark.parametrize("retry_after", [None, 0.3])
async def test_a_rate_limit_slows_the_run_down(fake_trooper: FakeTrooper, retry_after: float | None) -> None:
    """429s fail no order, although a single call would have given up: only the timeout counts."""
    orders = [fake_trooper.add_order() for _ in range(20)]
    async with fake_trooper.client(retry=RetryPolicy(deadline=0.05, max_delay=0.2)) as client:
        fake_trooper.fail_next("/api/order-status", status=429, times=6, retry_after=retry_after)
        report = await client.fleet.stop(orders, timeout=60)
    assert len(report.succeeded) == 20


async def test_an_order_has_a_task_only_while_it_is_processed(fake_trooper: FakeTrooper) -> None:
    """Of many orders only as many have a task as are being sent or waited for."""
    orders = [fake_trooper.add_order() for _ in range(300)]
    async with fake_trooper.client() as client:
        fake_trooper.delay_next("/api/order-status", 30, times=300)
        before = len(asyncio.all_tasks())
        run = asyncio.create_task(client.fleet.stop(orders, concurrency=5))
        await until(lambda: len(sent(fake_trooper)) == 5)
        ours = len(asyncio.all_tasks()) - before
        assert len(sent(fake_trooper)) == 5
        assert ours <= 5 * 4 + 3  # ours, and those of the fake that delay their responses
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run


async def test_a_refused_key_ends_the_run(fake_trooper: FakeTrooper) -> None:
    """A 401 is the outcome of all that was not sent; the report has what was done, and the rest can be resumed."""
    fake_trooper.durations["stop"] = 0.2
    orders = [fake_trooper.add_order() for _ in range(30)]
    refused = False

    def refuse_the_eleventh(progress: FleetProgress) -> None:
        nonlocal refused
        if not refused and sum(sent(fake_trooper).values()) == 10:
            fake_trooper.fail_next("/api/order-status", status=401)
            refused = True

    async with fake_trooper.client() as client:
        report = await client.fleet.stop(orders, concurrency=1, on_progress=refuse_the_eleventh)
        assert [outcome.sent for outcome in report.outcomes] == [True] * 10 + [False] * 20
        assert {type(outcome.error) for outcome in report.outcomes[10:]} == {AuthenticationError}
        for outcome in report.failed:
            assert str(outcome.error).startswith(f"fleet.stop of order {outcome.order_id}: ")
        assert sum(sent(fake_trooper).values()) == 11
        resumed = await client.fleet.resume(FleetReport.from_json(report.to_json()))
    assert len(resumed.succeeded) == 30
    assert all(outcome.seconds > 0 for outcome in resumed.succeeded)
    assert sum(sent(fake_trooper).values()) == 31  # that of the refused one twice


async def test_two_refused_polls_end_the_run(fake_trooper: FakeTrooper) -> None:
    """If the list is refused with 403 the run ends; `resume` waits for what was sent, and sends the rest."""
    fake_trooper.durations["stop"] = 0.5
    orders = [fake_trooper.add_order() for _ in range(6)]
    async with fake_trooper.client() as client:

        async def slowly(progress: FleetProgress) -> None:
            if progress.latest.order_id == orders[0].order_id and not progress.latest.ended:
                fake_trooper.fail_next("/api/orders", status=403, times=2)
            if progress.latest.order_id == orders[3].order_id:
                await asyncio.Event().wait()  # until the run ends

        report = await client.fleet.stop(orders, concurrency=1, on_progress=slowly)
        assert {type(outcome.error) for outcome in report.failed} == {PermissionDeniedError}
        assert [outcome.sent for outcome in report.outcomes] == [True, True, True, None, False, False]
        assert sum(sent(fake_trooper).values()) == 3
        resumed = await client.fleet.resume(FleetReport.from_json(report.to_json()))
    assert len(resumed.succeeded) == 6
    assert max(sent(fake_trooper).values()) == 1


async def test_force_sends_to_all_without_a_check(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """With `force` the action is sent at once, also to a server that is already beyond it."""
    frozen = fake_trooper.add_order(status="frozen")
    await trooper.fleet.stop([frozen], force=True, wait=False)
    assert [request.path for request in fake_trooper.requests] == ["/api/order-status"]


async def test_a_server_already_there_or_beyond_is_left_alone(
    trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """A stop leaves frozen servers frozen, a restart takes running ones only, and nothing is sent for the others."""
    running, stopped, frozen = (fake_trooper.add_order(status=one) for one in ("running", "stopped", "frozen"))
    report = await trooper.fleet.restart([running, stopped, frozen])
    assert [outcome.order_id for outcome in report.left_alone] == [stopped.order_id, frozen.order_id]
    report = await trooper.fleet.stop([running, stopped, frozen])
    assert [outcome.order_id for outcome in report.left_alone] == [stopped.order_id, frozen.order_id]
    assert sent(fake_trooper) == {running.server_id: 2}


async def test_a_fleet_tolerates_an_outage(fake_trooper: FakeTrooper) -> None:
    """What is safe to repeat is retried until each order's own deadline, whatever the client's retry policy says."""
    orders = [fake_trooper.add_order() for _ in range(100)]
    policy = RetryPolicy(attempts=1, budget=0, max_delay=0.05)
    async with fake_trooper.client(retry=policy) as client:
        fake_trooper.fail_next("/api/order-status", status=503, times=60)
        report = await client.fleet.stop(orders)
    assert len(report.succeeded) == 100


async def test_failing_servers_do_not_hold_up_the_others(fake_trooper: FakeTrooper) -> None:
    """Even if more orders fail than there are requests at once, the others are sent."""
    orders = [fake_trooper.add_order() for _ in range(12)]
    async with fake_trooper.client(retry=RetryPolicy(attempts=1, max_delay=0.05)) as client:
        fake_trooper.fail_next("/api/order-status", status=503, times=6)
        report = await client.fleet.stop(orders, concurrency=2)
    assert len(report.succeeded) == 12
    tries = [request.json["serverId"] for request in fake_trooper.requests if request.path == "/api/order-status"]
    assert set(tries[:12]) == {order.server_id for order in orders}  # a failed order waits for its next turn


async def test_a_lasting_outage_ends_at_the_deadline(fake_trooper: FakeTrooper) -> None:
    """An order that the API did not accept before its deadline fails, and can be resumed."""
    order = fake_trooper.add_order()
    async with fake_trooper.client() as client:
        fake_trooper.fail_next("/api/order-status", status=503, times=10_000)
        stopping = asyncio.create_task(client.fleet.stop([order], timeout=600))
        await until(lambda: sent(fake_trooper)[order.server_id] > 1 and client._transport._gate._inside == 0)
        seen = lists(fake_trooper)
        forward(600)  # between two attempts
        await until(lambda: lists(fake_trooper) > seen)  # it may have been accepted: it is waited for
        forward(600)
        (failed,) = (await stopping).failed
    assert failed.resumable


async def test_a_lost_attempt_is_waited_for_although_the_next_is_refused(fake_trooper: FakeTrooper) -> None:
    """A refusal says nothing about the attempt before it, which the API may have accepted."""
    order = fake_trooper.add_order()
    async with fake_trooper.client(retry=RetryPolicy(attempts=1)) as client:
        fake_trooper.drop_next("/api/order-status", when="after")
        fake_trooper.fail_next("/api/order-status", status=403)
        report = await client.fleet.stop([order])
    assert len(report.succeeded) == 1


async def test_a_refusal_after_a_5xx_leaves_the_outcome_unknown(fake_trooper: FakeTrooper) -> None:
    """The order's error is the 5xx, which proves nothing, and not the 403 of the second attempt."""
    order = fake_trooper.add_order()
    async with fake_trooper.client(retry=RetryPolicy(attempts=1)) as client:
        fake_trooper.fail_next("/api/order-status", status=500)
        fake_trooper.fail_next("/api/order-status", status=403)
        report = await client.fleet.stop([order])
    (failed,) = report.failed
    assert isinstance(failed.error, ServerError)
    assert failed.sent is None


async def test_a_refusal_after_an_unsent_attempt_is_a_refusal(fake_trooper: FakeTrooper) -> None:
    """If the attempt before it was certainly never sent, the refusal counts."""
    order = fake_trooper.add_order()
    async with fake_trooper.client(retry=RetryPolicy(attempts=1)) as client:
        send, tries = client._transport.wire.send, 0

        async def never_left(call: Any, **options: Any) -> Any:
            nonlocal tries
            tries += call.endpoint.path == "/api/order-status"
            if call.endpoint.path == "/api/order-status" and tries == 1:
                return FailedAttempt(Failure.NEVER_SENT, APIConnectionError("no connection"))
            return await send(call, **options)

        client._transport.wire.send = never_left  # type: ignore[method-assign]  # where requests leave
        fake_trooper.fail_next("/api/order-status", status=403)
        report = await client.fleet.stop([order])
    (failed,) = report.failed
    assert isinstance(failed.error, PermissionDeniedError)
    assert failed.sent is False


async def test_an_empty_list_is_read_again(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """After one empty list the orders do not count as missing."""
    order = fake_trooper.add_order()
    fake_trooper.fail_next("/api/orders", status=200, body=[])
    report = await trooper.fleet.stop([order])
    assert len(report.succeeded) == 1


async def test_a_rate_limit_does_not_cost_a_restart_its_baseline(fake_trooper: FakeTrooper) -> None:
    """The history before a restart also waits for its turn: without it the restart takes longer to confirm."""
    order = fake_trooper.add_order()
    async with fake_trooper.client(retry=RetryPolicy(deadline=0.05, max_delay=0.2)) as client:
        fake_trooper.fail_next("/api/order-status-history", status=429, times=3, retry_after=0.1)
        report = await client.fleet.restart([order])
    transition = report.succeeded[0].transition
    assert transition is not None
    assert transition.history_before


async def test_a_403_of_one_order_affects_only_that_order(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """`Access denied or server not found` ends no other order, and can be resumed: it may come from a firewall."""
    orders = [fake_trooper.add_order() for _ in range(3)]
    fake_trooper.remove_order(orders[0])
    report = await trooper.fleet.stop(orders, concurrency=1, force=True)
    assert [type(outcome.error) for outcome in report.outcomes] == [PermissionDeniedError, type(None), type(None)]
    assert report.outcomes[0].sent is False
    assert report.outcomes[0].resumable


async def test_a_closed_client_ends_every_order(fake_trooper: FakeTrooper) -> None:
    """`close()` during a run leaves a report that has everything that was sent."""
    fake_trooper.durations["stop"] = 5
    orders = [fake_trooper.add_order() for _ in range(6)]
    client = fake_trooper.client()
    run = asyncio.create_task(client.fleet.stop(orders, concurrency=2))
    await until(lambda: len(sent(fake_trooper)) == 6 and client._transport._gate._inside == 0)
    await client.close()
    report = await run
    assert {type(outcome.error) for outcome in report.failed} == {ClientClosedError}
    async with fake_trooper.client() as again:
        fake_trooper.durations["stop"] = 0.05
        for order in orders:
            fake_trooper.set_status(order, "stopped", "stopped")
        resumed = await again.fleet.resume(report)
    assert len(resumed.succeeded) == 6
    assert max(sent(fake_trooper).values()) == 1


# --- on_progress --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coroutine", [False, True])
async def test_progress_is_called_before_and_after_each_order(
    trooper: TrooperClient, fake_trooper: FakeTrooper, coroutine: bool
) -> None:
    """A function or coroutine function is called right before each order is sent, and when it has finished."""
    orders = [fake_trooper.add_order() for _ in range(5)]
    await trooper.orders.lock(orders[2])
    calls: list[tuple[int, int, bool]] = []
    inside = 0

    def tell(progress: FleetProgress) -> None:
        latest = progress.latest
        calls.append((progress.done, progress.failed, latest.ended))
        assert progress.total == 5
        known = {outcome.order_id: outcome for outcome in progress.report().outcomes}
        if not latest.ended:  # it is noted, and not sent yet
            assert latest.order_id not in sent_orders(fake_trooper)
            assert known[latest.order_id].transition == latest.transition is not None

    async def tell_slowly(progress: FleetProgress) -> None:
        nonlocal inside
        inside += 1
        assert inside == 1  # one call at a time
        await asyncio.sleep(0.01)
        tell(progress)
        inside -= 1

    await trooper.fleet.stop(orders, concurrency=3, on_progress=tell_slowly if coroutine else tell)
    assert [done for done, _, ended in calls if ended] == [1, 2, 3, 4, 5]
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    assert len(calls) == 10
    assert calls[-1][:2] == (5, 1)


class OfTheCaller(Exception):  # noqa: N818 - a name of the tests
    pass


@pytest.mark.parametrize("error", [OfTheCaller(), AuthenticationError("x", status=401), asyncio.CancelledError()])
@pytest.mark.parametrize("coroutine", [False, True])
async def test_an_exception_of_on_progress_cancels_the_run(
    fake_trooper: FakeTrooper, error: BaseException, coroutine: bool
) -> None:
    """It is raised unchanged; the report is still complete."""
    fake_trooper.durations["stop"] = 0.3
    orders = [fake_trooper.add_order() for _ in range(8)]
    seen: list[FleetProgress] = []

    def tell(progress: FleetProgress) -> None:
        seen.append(progress)
        if len(seen) == 5:
            raise error

    async def tell_later(progress: FleetProgress) -> None:
        await asyncio.sleep(0)
        tell(progress)

    async with fake_trooper.client() as client:
        with pytest.raises(type(error)) as raised:
            await client.fleet.stop(orders, concurrency=2, on_progress=tell_later if coroutine else tell)
        assert raised.value is error
        await client.ping()  # what was in flight has arrived before it
        report = seen[-1].report()
        assert {o.order_id for o in report.outcomes if o.transition} >= sent_orders(fake_trooper)
        resumed = await client.fleet.resume(report)
    assert len(resumed.succeeded) == 8
    assert max(sent(fake_trooper).values()) == 1


async def test_a_cancelled_run_forgets_nothing(fake_trooper: FakeTrooper) -> None:
    """Cancelled at fifty moments, a run has all that arrived in its report, and resume sends the rest once."""
    numbers = random.Random(5)
    for moment in range(50):
        fake_trooper.durations["stop"] = 0.02
        orders = [fake_trooper.add_order() for _ in range(6)]
        mine = {order.order_id for order in orders}
        seen: list[FleetProgress] = []
        async with fake_trooper.client() as client:
            run = asyncio.create_task(client.fleet.stop(orders, concurrency=2, on_progress=seen.append))
            for _ in range(numbers.randrange(50 * moment + 1)):
                await asyncio.sleep(0)
            run.cancel()
            await asyncio.wait([run])
            await client.ping()  # what was in flight has arrived before it
            if not seen:
                assert not mine & sent_orders(fake_trooper)
                continue
            report = seen[0].report()
            assert {o.order_id for o in report.outcomes if o.transition} >= mine & sent_orders(fake_trooper)
            resumed = await client.fleet.resume(FleetReport.from_json(report.to_json()))
            assert len(resumed.succeeded) == 6
    assert max(sent(fake_trooper).values()) == 1
    assert len(asyncio.all_tasks()) < 20


# --- converge -----------------------------------------------------------------------------------------------------


async def test_converge_sends_only_what_is_needed(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """A server that has the status or is in transition to it is left alone, and the report says so."""
    there = fake_trooper.add_order(status="stopped")
    coming = fake_trooper.add_order()
    fake_trooper.durations["stop"] = 0.2
    await trooper.orders.stop(coming)
    wrong = fake_trooper.add_order(status="running")
    frozen = fake_trooper.add_order(status="frozen")
    kept = fake_trooper.add_order(status="running")
    before = sent(fake_trooper)
    wanted: dict[int, OrderStatus] = {
        there.order_id: OrderStatus.stopped,
        coming.order_id: OrderStatus.stopped,
        wrong.order_id: OrderStatus.frozen,
        frozen.order_id: OrderStatus.running,
        kept.order_id: OrderStatus.running,
    }
    report = await trooper.fleet.converge(wanted)
    report.raise_for_failures()
    assert {o.order_id for o in report.left_alone} == {there.order_id, coming.order_id, kept.order_id}
    assert sent(fake_trooper) - before == {wrong.server_id: 1, frozen.server_id: 1}
    assert {o.order_id: o.current_status for o in await trooper.orders.list()} == wanted


async def test_only_starts_may_migrate(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """With `migration_allowed` a start is once-only; a stop beside it stays a setting."""
    stops, starts = fake_trooper.add_order(), fake_trooper.add_order(status="frozen")
    fake_trooper.drop_next("/api/order-status", when="before", times=2)
    wanted, ended = {stops: "stopped", starts: "running"}, Ended()
    run = asyncio.create_task(trooper.fleet.converge(wanted, migration_allowed=True, timeout=600, on_progress=ended))
    await until(lambda: ended.done)
    forward(600)
    report = await run
    assert [type(outcome.error) for outcome in report.outcomes] == [type(None), WaitTimeoutError]
    assert sent(fake_trooper) == {stops.server_id: 2, starts.server_id: 1}
    stop = report.outcomes[0].transition
    assert stop is not None
    assert not stop.migration_allowed


@pytest.mark.parametrize(
    ("current", "desired", "target", "sends"),
    [
        ("running", "running", "running", False),
        ("running", None, "running", False),
        ("running", "stopped", "running", True),  # in transition to another status
        ("running", "stopped", "stopped", True),  # the desired status may be outdated
        ("frozen", "running", "running", True),
        ("stopping", "stopped", "stopped", False),
        ("Stopping", None, "stopped", False),
        ("thinking", "stopped", "stopped", False),
        ("thinking", None, "stopped", True),  # the target is unknown
        ("stopping", "running", "running", True),  # the desired status may be the last one reached: not certain
        ("stopping", "running", "stopped", True),
        ("starting", "running", "stopped", True),
        ("stopped", "stopped", "running", True),
        ("stopped", None, "frozen", True),
        ("frozen", "frozen", "stopped", False),  # a stop would first start it
        ("freezing", "frozen", "stopped", False),
        ("freezing", None, "stopped", False),
        ("freezing", "running", "stopped", True),
    ],
)
async def test_converge_skips_a_server_only_if_certain(
    fake_trooper: FakeTrooper, current: str, desired: str | None, target: str, sends: bool
) -> None:
    """Nothing is sent if the server certainly is there or coming; a setting is sent if that is not certain."""
    order = fake_trooper.add_order()
    listed = {**row(order), "status": current, "status_user": desired}
    fake_trooper.fail_next("/api/orders", status=200, body=[listed])
    async with fake_trooper.client() as client:
        fake_trooper.fail_next("/api/order-status", status=403)  # whether a request is sent is what matters
        report = await client.fleet.converge({order: target}, wait=False)
    assert (sum(sent(fake_trooper).values()) == 1) is sends
    assert len(report.outcomes) == 1


async def test_converge_refuses_two_statuses_for_one_order(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """An order and its id with different statuses: nobody knows which one counts."""
    order = fake_trooper.add_order()
    wanted: dict[Order | int, str] = {order: "stopped", order.order_id: "frozen"}
    with pytest.raises(
        ConfigurationError,
        match=exactly(f"fleet.converge: order {order.order_id} is given two different statuses: nothing was sent"),
    ):
        await trooper.fleet.converge(wanted)
    assert not fake_trooper.requests


async def test_an_unreadable_acceptance_may_have_been_sent(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """A 200 that is not JSON says nothing about a stop: its outcome keeps the possible transition."""
    order = fake_trooper.add_order()
    fake_trooper.fail_next("/api/order-status", status=200, body="<html>", times=10_000)
    stopping = asyncio.create_task(trooper.fleet.stop([order], timeout=600))
    await until(lambda: sent(fake_trooper)[order.server_id] > 1 and trooper._transport._gate._inside == 0)
    forward(600)  # between two attempts
    (outcome,) = (await stopping).failed
    assert isinstance(outcome.error, ResponseFormatError)
    assert (outcome.sent, outcome.transition) == (None, Transition(order.order_id, "stop", "stopped"))
    assert outcome.resumable


@pytest.mark.parametrize("status", ["restarted", "terminated", "", 3, None])
async def test_converge_refuses_other_statuses(trooper: TrooperClient, fake_trooper: FakeTrooper, status: str) -> None:
    """A status that no action leads to is refused before anything is sent."""
    order = fake_trooper.add_order()
    text = f"fleet.converge: the status must be running, stopped or frozen, not {status!r}: nothing was sent"
    with pytest.raises(ConfigurationError, match=exactly(text)):
        await trooper.fleet.converge({order: status})
    assert not fake_trooper.requests


async def test_without_a_readable_list_nothing_is_sent(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """Without a readable list nothing is sent, and the reason is each order's outcome."""
    orders = [fake_trooper.add_order() for _ in range(3)]
    fake_trooper.fail_next("/api/orders", status=400)
    report = await trooper.fleet.converge(dict.fromkeys(orders, "stopped"))
    assert {type(outcome.error) for outcome in report.failed} == {BadRequestError}
    assert not sent(fake_trooper)
    fake_trooper.fail_next("/api/orders", status=401)
    report = await trooper.fleet.converge(dict.fromkeys(orders, "stopped"))
    assert {type(outcome.error) for outcome in report.failed} == {AuthenticationError}
    assert not sent(fake_trooper)
    report = await trooper.fleet.converge({4711: "stopped"})
    assert [type(outcome.error) for outcome in report.failed] == [OrderNotFoundError]
    interrupted = FleetReport(tuple(FleetOutcome(order.order_id, "stop") for order in orders))
    for name in (*ACTIONS, "resume"):
        fake_trooper.fail_next("/api/orders", status=400)
        report = await getattr(trooper.fleet, name)(interrupted if name == "resume" else orders)
        for outcome in report.outcomes:
            assert isinstance(outcome.error, BadRequestError)
            assert outcome.error.operation == f"fleet.{name}"
    assert not sent(fake_trooper)


# --- resume -------------------------------------------------------------------------------------------------------


async def test_resume_continues_what_had_not_finished(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """Each kind of outcome is handled: final, waited for, sent now, or checked first."""
    o = [fake_trooper.add_order() for _ in range(9)]
    stopping = [Transition(order.order_id, "stop", OrderStatus.stopped) for order in o]
    for order in (o[2], o[3], o[4]):
        await trooper.orders.stop(order)
    before = sent(fake_trooper)
    report = FleetReport(
        (
            FleetOutcome(o[0].order_id, "stop", order=o[0], sent=True, transition=stopping[0]),
            FleetOutcome(o[1].order_id, "stop", error=ServerLockedError("locked", status=403, attempts=1)),
            FleetOutcome(o[2].order_id, "stop", sent=True, transition=stopping[2]),
            FleetOutcome(o[3].order_id, "stop", sent=True, transition=stopping[3], error=WaitTimeoutError("late")),
            FleetOutcome(o[4].order_id, "stop", sent=None, transition=stopping[4]),
            FleetOutcome(o[5].order_id, "stop", sent=None, transition=stopping[5]),
            FleetOutcome(o[6].order_id, "stop"),
            FleetOutcome(o[7].order_id, "stop", error=AuthenticationError("no", status=401, attempts=1)),
            FleetOutcome(o[8].order_id, "stop", error=SupersededError("no"), sent=True, transition=stopping[8]),
        ),
        elapsed=100,
    )
    resumed = await trooper.fleet.resume(report)
    assert sent(fake_trooper) - before == {o[5].server_id: 1, o[6].server_id: 1, o[7].server_id: 1}
    assert [type(outcome.error) for outcome in resumed.outcomes] == [
        {1: ServerLockedError, 8: SupersededError}.get(number, type(None)) for number in range(9)
    ]
    assert resumed.elapsed > 100


async def test_resume_sends_no_restart_twice(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """A restart that may have been sent is only waited for; one that was not is sent although its server runs."""
    happened, unsure, unsent = [fake_trooper.add_order() for _ in range(3)]
    transition = await trooper.orders.restart(happened)
    maybe = Transition(unsure.order_id, "restart", "running", tuple(await trooper.orders.history(unsure)))
    report = FleetReport(
        (
            FleetOutcome(happened.order_id, "restart", transition=transition, sent=None),
            FleetOutcome(unsure.order_id, "restart", transition=maybe, sent=None),
            FleetOutcome(unsent.order_id, "restart"),
        )
    )
    ended = Ended()
    resuming = asyncio.create_task(trooper.fleet.resume(report, timeout=600, on_progress=ended))
    await until(lambda: ended.done == 2)
    forward(600)
    resumed = await resuming
    assert sent(fake_trooper) == {happened.server_id: 1, unsent.server_id: 1}
    first, second, third = resumed.outcomes
    assert (first.order, third.order) != (None, None)
    assert isinstance(second.error, WaitTimeoutError)
    assert isinstance(second.error.__cause__, OutcomeUnknownError)
    assert second.error.__cause__.transition == maybe
    assert second.error.__cause__.message == "it may have been sent by the earlier run"


async def test_resume_keeps_migration_allowed(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """What the run was allowed also applies to what its resumption sends."""
    order = fake_trooper.add_order(status="frozen")
    report = FleetReport((FleetOutcome(order.order_id, "start"),), migration_allowed=True)
    assert (await trooper.fleet.resume(report)).migration_allowed
    bodies = [request.json for request in fake_trooper.requests if request.path == "/api/order-status"]
    assert [body["migration_allowed"] for body in bodies] == [True]


@pytest.mark.parametrize(
    ("action", "needed"), [("resume", "a FleetReport"), ("converge", "a mapping of orders to statuses")]
)
async def test_other_input_is_refused(trooper: TrooperClient, action: str, needed: str) -> None:
    """`resume` takes a report and `converge` a mapping; the error says so."""
    with pytest.raises(ConfigurationError, match=exactly(f"fleet.{action}: pass {needed}: nothing was sent")):
        await getattr(trooper.fleet, action)("{}")


def worker(
    fake: FakeTrooper, file: Path, action: str, orders: list[Order]
) -> AbstractAsyncContextManager[processes.Child]:
    ids = ",".join(str(order.order_id) for order in orders)
    return processes.python(
        "-m", "tests.fleet.fleet_worker", fake.url, file, action, ids, cwd=Path(__file__).parents[2]
    )


@pytest.mark.parametrize("action", ["stop", "restart"])
@pytest.mark.parametrize("after", [1, 9])
async def test_a_killed_run_is_resumed(fake_trooper: FakeTrooper, tmp_path: Path, action: str, after: int) -> None:
    """kill -9 during a run, and resume from the report on disk: no action is sent twice, and all servers arrive."""
    orders = [fake_trooper.add_order() for _ in range(14)]
    file = tmp_path / "report.json"
    fake_trooper.delay_next("/api/order-status", 0, times=after)
    holds = [fake_trooper.hold_next("/api/order-status") for _ in range(4)]  # all that are sent at once
    async with worker(fake_trooper, file, action, orders):
        for hold in holds:
            await hold.arrived()
    assert len(sent(fake_trooper)) == after + 4
    async with worker(fake_trooper, file, action, orders) as another:
        assert await another.ends() == 0, another.err
    assert sent(fake_trooper) == {order.server_id: 1 for order in orders}
    assert len(FleetReport.from_json(file.read_text()).succeeded) == 14


# --- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        *(({"concurrency": number}, "concurrency must be a whole number above 0") for number in (0, 2.0, True)),
        ({"timeout": 0}, "timeout must be a number of seconds above 0, or None, not 0"),
        ({"on_progress": "x"}, "on_progress must be a function that takes a FleetProgress, not 'x'"),
        ({"on_progress": lambda: None}, "on_progress must be a function that takes a FleetProgress, not function"),
    ],
)
async def test_invalid_options_send_nothing(
    trooper: TrooperClient, fake_trooper: FakeTrooper, options: dict[str, Any], problem: str
) -> None:
    """Invalid options are refused before anything is sent, by an error that names the method and the option."""
    order = fake_trooper.add_order()
    calls = {**{action: [order] for action in ACTIONS}, "converge": {order: "stopped"}, "resume": FleetReport(())}
    for action, orders in calls.items():
        with pytest.raises(ConfigurationError, match=exactly(f"fleet.{action}: {problem}: nothing was sent")):
            await getattr(trooper.fleet, action)(orders, **options)
    assert not fake_trooper.requests


async def test_an_invalid_order_sends_nothing(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """One invalid item among the orders, or an order instead of several, stops the run before it begins."""
    order = fake_trooper.add_order()
    for action in ACTIONS:
        for wrong, problem in (
            ([order, "124"], "an order, or its id (a whole number above 0), is needed, not '124'"),
            (order, "pass several orders, or their ids, in a list, not Order"),
            (5, "pass several orders, or their ids, in a list, not int"),
        ):
            with pytest.raises(ConfigurationError, match=exactly(f"fleet.{action}: {problem}: nothing was sent")):
                await getattr(trooper.fleet, action)(wrong)
    assert not fake_trooper.requests
