"""Unusual ends of waits: failures of the caller's functions, at the deadline, and after the acceptance."""

from __future__ import annotations

import asyncio
import inspect
from decimal import Decimal
from typing import Any

import pytest

from tests.helpers.clock import forward
from tests.tools.simulator.clock import run
from tests.tools.simulator.script import Script, reply, row
from trooper_async import (
    AuthenticationError,
    Blib,
    MigrationQuote,
    Order,
    OrderChange,
    OutcomeUnknownError,
    PermissionDeniedError,
    PollSchedule,
    Transition,
    TrooperClient,
    WaitError,
    WaitTimeoutError,
)
from trooper_async._api.endpoints import Call
from trooper_async._api.responses import Response
from trooper_async.testing import FakeTrooper

STOP = Transition(1, "stop", "stopped")
RESTART = Transition(1, "restart", "running", ())


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("status", [401, 403])
def test_after_acceptance_only_wait_errors_are_raised(status: int) -> None:
    """After the API accepted a stop, a refused poll is a WaitError with the transition, not "nothing was done"."""

    async def main() -> WaitError:
        script = Script(lambda t: [])
        script.orders = lambda t: [row(1, "running")] if len(script.polls) < 2 else reply({"error": "no"}, status)
        async with script.client() as client:
            with pytest.raises(WaitError, match="the API refuses the key, twice in a row: ") as caught:
                await client.orders.stop_and_wait(Order(1, "running"))
            return caught.value

    error = run(main())
    assert error.transition == STOP
    assert type(error.__cause__) is {401: AuthenticationError, 403: PermissionDeniedError}[status]
    assert not isinstance(error, AuthenticationError | PermissionDeniedError)


@pytest.mark.parametrize("raised", [pytest.fail.Exception("no"), SystemExit(3), KeyError("x"), StopIteration()])
def test_an_exception_of_a_predicate_fails_its_own_wait_only(raised: BaseException) -> None:
    """Even if it is no Exception: the poll goes on for the other waits."""

    def predicate(order: Order) -> bool:
        raise raised

    async def main() -> Order:
        async with Script(lambda t: [row(1, "stopped" if t > 1010 else "running")]).client() as client:
            other = asyncio.create_task(client.orders.wait(STOP))
            await asyncio.sleep(3)
            with pytest.raises(
                (type(raised), RuntimeError)
            ) as caught:  # a coroutine turns StopIteration into the latter
                await client.orders.wait_until(1, predicate)
            assert raised in (caught.value, caught.value.__cause__)
            return await other

    assert run(main()).current_status == "stopped"


def test_if_the_poll_fails_all_waits_fail() -> None:
    """Whatever ends the poll from within ends each wait: none hangs."""

    async def main() -> list[object]:
        script = Script(lambda t: [row(1, "running")])
        async with script.client() as client:
            waits = [asyncio.create_task(client.orders.wait(STOP)) for _ in range(3)]
            await asyncio.sleep(2)

            def broken(_: float) -> list[Any]:
                raise MemoryError

            script.orders = broken
            return [*await asyncio.wait_for(asyncio.gather(*waits, return_exceptions=True), 60)]

    assert [type(end) for end in run(main())] == [MemoryError] * 3


@pytest.mark.parametrize("desired", ["restarted", "restarting", "Restarted"])
@pytest.mark.parametrize("wait", ["running", "converged", "predicate"])
def test_a_desired_status_that_stays_restarted_means_running(desired: str, wait: str) -> None:
    """A server that runs after a restart has arrived, even if its desired status stays `restarted`."""

    async def main() -> Order:
        async with Script(lambda t: [row(1, "running", desired)]).client() as client:
            if wait == "running":
                return await client.orders.wait_until(1, "running", timeout=60)
            if wait == "converged":
                return await client.orders.wait_until_converged(1, timeout=60)
            return await client.orders.wait_until(1, lambda order: order.is_converged, timeout=60)

    assert run(main()).current_status == "running"


@pytest.mark.parametrize(
    "target", ["running", lambda order: order.current_status == "running"], ids=["word", "function"]
)
def test_fail_on_ends_a_wait_at_these_statuses(target: Any) -> None:
    """With `fail_on` a wait ends once such a status is steady, not at its deadline; by default none fails it."""

    async def main(**options: Any) -> tuple[float, WaitError]:
        async with Script(lambda t: [row(1, "terminated", "running")]).client() as client:
            began = now()
            with pytest.raises(WaitError) as caught:
                await client.orders.wait_until(1, target, timeout=900, **options)
            return now() - began, caught.value

    seconds, error = run(main(fail_on={"Terminated", "error"}))
    assert 30 <= seconds < 70
    assert str(error).startswith("orders.wait_until of order 1: it cannot ")
    assert " (last seen terminated, desired running) (" in str(error)
    seconds, error = run(main())
    assert seconds >= 900
    assert isinstance(error, WaitTimeoutError)


def test_watch_continues_after_a_step_that_timed_out() -> None:
    """`wait_for(anext(changes), 5)` may time out and be called again: nothing is lost."""

    async def main() -> list[str]:
        async with Script(lambda t: [row(1, "running" if t < 1030 else "stopped")]).client() as client:
            changes = client.orders.watch()
            kinds: list[str] = []
            while len(kinds) < 2:
                try:
                    kinds.append((await asyncio.wait_for(anext(changes), 5)).kind)
                except TimeoutError:
                    continue
            await changes.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(changes)
            return kinds

    assert run(main()) == ["appeared", "changed"]


def test_an_abandoned_watch_ends_its_poll() -> None:
    """A loop that was left by `break` needs no `aclose`: with its last reference the poll ends."""

    async def main() -> None:
        script = Script(lambda t: [row(1, "running")])
        async with script.client() as client:

            async def first(client: TrooperClient) -> OrderChange:
                async for change in client.orders.watch():
                    return change
                raise AssertionError("it ended")

            await first(client)
            await asyncio.sleep(60)
            polls = len(script.polls)
            await asyncio.sleep(60)
            assert len(script.polls) == polls

    run(main())


def test_steady_running_ends_a_restart_whose_history_hangs() -> None:
    """After the server left `running`, a steady `running` ends the wait even if the history request hangs."""
    cut = 0

    async def hangs(call: Call[Any]) -> Response:
        nonlocal cut
        try:
            await asyncio.sleep(25)
        except asyncio.CancelledError:
            cut += 1
            raise
        return reply({"success": True, "history": []})

    async def main() -> float:
        def orders(t: float) -> list[Any]:
            return [row(1, "restarting" if 1001 < t < 1010 else "running", "running")]

        async with Script(orders, hangs).client() as client:
            began = now()
            waits = [client.orders.wait(RESTART) for _ in range(20)]
            await asyncio.gather(*waits)
            assert len(asyncio.all_tasks()) == 1
            return now() - began

    assert run(main()) < 10 + 3 * 30 + 30 + 5
    assert cut > 0


def test_an_empty_history_is_no_baseline_of_a_restart() -> None:
    """With an empty history as baseline, every old row would look like the restart's."""

    async def others(call: Call[Any]) -> Response:
        return reply({"success": True, "history": []})

    async def main() -> Transition:
        async with Script(lambda t: [row(1, "running")], others).client() as client:
            return await client.orders.restart(1)

    assert run(main()).history_before is None


@pytest.mark.parametrize("before", [0.5, 0.3])
def test_a_state_reached_right_before_the_deadline_is_seen(before: float) -> None:
    """A regular poll just before the deadline does not replace the final poll."""
    missed = 0
    for timeout in range(20, 60):

        async def main(timeout: float = timeout) -> Order:
            began = now()
            script = Script(lambda t: [row(1, "stopped" if t > began + timeout - before else "running", "stopped")])
            async with script.client() as client:
                return await client.orders.wait(STOP, timeout=timeout)

        try:
            run(main())
        except WaitTimeoutError:
            missed += 1
    assert missed == 0


def test_each_deadline_has_its_own_final_poll() -> None:
    """Of two waits with close deadlines the second one gets a final poll after the first has ended."""

    async def main() -> list[object]:
        began = now()
        script = Script(lambda t: [row(1, "stopped" if t > began + 601.5 else "running", "stopped")])
        async with script.client() as client:
            waits = (client.orders.wait(STOP, timeout=timeout) for timeout in (600, 602.5))
            return list(await asyncio.gather(*waits, return_exceptions=True))

    first, second = run(main())
    assert isinstance(first, WaitTimeoutError)
    assert isinstance(second, Order)


def test_a_slow_list_is_read_once_before_the_deadline() -> None:
    """The final poll begins early enough to end in time, and no other one follows it."""

    async def main() -> list[float]:
        script = Script(lambda t: [row(1, "running", "stopped")], seconds=0.6)
        async with script.client() as client:
            began = now()
            with pytest.raises(WaitTimeoutError):
                await client.orders.wait(STOP, timeout=300)
        return [at - began for at in script.polls]

    assert [at for at in run(main()) if at > 298] == [pytest.approx(300 - 1.3)]


def test_a_suspended_process_polls_once_more() -> None:
    """A deadline that passed while the process was suspended ends no wait without a poll."""

    async def main() -> Order:
        async with Script(lambda t: [row(1, "running" if t < 1500 else "stopped", "stopped")]).client() as client:
            waiting = asyncio.create_task(client.orders.wait(STOP, timeout=300))
            await asyncio.sleep(100)
            loop: Any = asyncio.get_running_loop()
            loop._jump.now += 1000  # nothing ran in the meantime
            return await waiting

    assert run(main()).current_status == "stopped"


def test_a_process_suspended_during_the_pause_of_a_429_polls_once_more() -> None:
    """The one more poll does not wait for the end of that pause, even if there was a poll during it."""

    async def main() -> list[object]:
        loop: Any = asyncio.get_running_loop()

        def orders(t: float) -> Any:
            if 1250 < t < 1290:
                return reply({"error": "slower"}, 429, Retry_After="120")
            return [row(1, "stopped" if t > 1290 else "running", "stopped")]

        async with Script(orders).client() as client:
            waits = [asyncio.create_task(client.orders.wait(STOP, timeout=timeout)) for timeout in (270, 300)]
            await asyncio.sleep(280)
            loop._jump.now += 60  # past the second deadline, but not past the pause
            return await asyncio.gather(*waits, return_exceptions=True)

    first, second = run(main())
    assert isinstance(first, WaitTimeoutError)
    assert isinstance(second, Order)


def test_a_process_suspended_during_a_poll_still_ends_its_waits() -> None:
    """One more poll may take twice the `cap`: not as long as the poll during which the process was suspended."""

    async def main() -> float:
        loop: Any = asyncio.get_running_loop()
        pauses = [0, 1000, 5]  # seconds, during the first polls

        def orders(_: float) -> list[dict[str, Any]]:
            loop._jump.now += pauses.pop(0) if pauses else 0
            return [row(1, "running", "stopped")]

        began = now()
        async with Script(orders).client() as client:
            with pytest.raises(WaitTimeoutError):
                await client.orders.wait(STOP, timeout=300)
        return now() - began

    assert run(main()) == pytest.approx(1000 + 5 + 2 * PollSchedule().cap, abs=5)


@pytest.mark.parametrize("verb", ["stop", "restart"])
async def test_the_timeout_of_an_action_and_wait_is_for_the_whole_call(fake_trooper: FakeTrooper, verb: str) -> None:
    """If the request itself hangs, its outcome is unknown at the deadline, not after a minute or three."""
    order = fake_trooper.add_order()
    hold = fake_trooper.hold_next("/api/order-status")
    async with fake_trooper.client() as client:
        act = {"stop": client.orders.stop_and_wait, "restart": client.orders.restart_and_wait}[verb]
        acting = asyncio.create_task(act(order, timeout=20))
        await hold.arrived()
        forward(20)
        with pytest.raises(OutcomeUnknownError) as caught:
            await acting
    assert caught.value.transition is not None
    assert caught.value.transition.action == verb


OFFER = Blib(1, price_h=Decimal(1))
QUOTE = MigrationQuote(1, 2, Decimal(1))
HOURLY: Any = {"contract_interval": "HOUR", "terms_accepted": True}


@pytest.mark.parametrize(
    ("operation", "seconds", "arguments", "options"),
    [
        ("orders.start_and_wait", 900, [1], {}),
        ("orders.start_and_wait", 7200, [1], {"migration_allowed": True}),
        ("orders.stop_and_wait", 900, [1], {}),
        ("orders.restart_and_wait", 900, [1], {}),
        ("orders.freeze_and_wait", 3600, [1], {}),
        ("orders.wait", 900, [STOP], {}),
        ("orders.wait_until", 900, [1, "running"], {}),
        ("orders.wait_until_converged", 900, [1], {}),
        ("orders.wait_until_reachable", 900, [1], {}),
        ("orders.running", 900, [1], {}),
        ("orders.create_and_wait", 1800, [OFFER], HOURLY),
        ("orders.rented", 1800, [OFFER], HOURLY),
        ("migrations.buy_and_wait", 7200, [QUOTE], {"keep_data": True}),
        ("templates.wait", 3600, [1, 5], {}),
        ("templates.install_and_wait", 3600, [1, 5], {}),
    ],
)
def test_every_wait_has_its_timeout_and_its_name(
    operation: str, seconds: float, arguments: list[Any], options: dict[str, Any]
) -> None:
    """Without `timeout` it is the documented one, for the whole call. The error names the method and the seconds, and
    `on_change` was called for what was seen.
    """
    seen: list[Order] = []

    async def others(call: Call[Any]) -> Response:
        await asyncio.sleep(10)
        fields: dict[str, Any] = {"success": True, "history": [], "availableBlibs": [{"id": 2}], "totalDue": 1}
        fields |= {"orderId": 2, "new_order_id": 2, "install_id": 5, "templates": [{"install_id": 5, "status": 0}]}
        return reply(fields)

    async def main() -> None:
        def orders(_: float) -> list[dict[str, Any]]:
            bought = {"/api/order", "/api/buy-migration"} & {*script.sent}
            return [row(number, "starting", "elsewhere") for number in (1, 2)[: 1 + bool(bought)]]

        script = Script(orders, others)
        async with script.client() as client:
            group, name = operation.split(".")
            method = getattr(getattr(client, group), name)
            is_heard = "on_change" in inspect.signature(method).parameters
            began = now()
            wait = method(*arguments, **options, **({"on_change": seen.append} if is_heard else {}))
            with pytest.raises(WaitError, match=f"not reached within {seconds} s") as caught:
                await (wait.__aenter__() if name in ("running", "rented") else wait)
            # an install's timeout begins with the accepted request; a server is frozen at the end
            more = 10 if operation in ("orders.running", "orders.rented", "templates.install_and_wait") else 0
            assert now() - began == pytest.approx(seconds + more, abs=1)
        errors = [error for error in (caught.value, caught.value.__cause__) if isinstance(error, WaitError)]
        assert {error.operation for error in errors} == {operation}
        assert [order.current_status for order in seen] == ["starting"] * is_heard

    run(main())
