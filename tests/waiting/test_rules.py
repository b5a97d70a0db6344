"""The rules of waiting, 1 to 14, each on virtual time: no sockets, no sleeping, and the test controls the clock."""

from __future__ import annotations

import asyncio
import gc
import itertools
import traceback
import warnings
from collections.abc import Coroutine
from typing import Any
from unittest import mock

import pytest

from tests.helpers.texts import exactly
from tests.tools.simulator.clock import run
from tests.tools.simulator.script import Script, reply, row
from trooper_async import (
    APIConnectionError,
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    Order,
    OrderChange,
    OrderNotFoundError,
    OrderVanishedError,
    OutcomeUnknownError,
    PollSchedule,
    ResponseFormatError,
    ServerError,
    StatusChange,
    SupersededError,
    Transition,
    TrooperClient,
    WaitError,
    WaitTimeoutError,
)
from trooper_async._api.endpoints import Call
from trooper_async._api.responses import FailedAttempt, Failure, Response
from trooper_async._base.converter import structure
from trooper_async._waiting import store

STOP = Transition(1, "stop", "stopped")
START = Transition(1, "start", "running")


def now() -> float:
    return asyncio.get_running_loop().time()


def others() -> set[asyncio.Task[Any]]:
    """The tasks besides the current one."""
    return asyncio.all_tasks() - {asyncio.current_task()}


async def ticks(count: int = 20) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_rule_01_one_poll_serves_all_waiters() -> None:
    """A thousand waiters cost the same polls as one, never two at once, and none after the last has left."""

    def polls(waiters: int) -> tuple[int, bool]:
        async def main() -> tuple[int, bool]:
            script = Script(lambda t: [row(1, "running" if t < 1100 else "stopped", "stopped")])
            async with script.client() as client:
                await asyncio.gather(*(client.orders.wait(STOP) for _ in range(waiters)))
                count = len(script.polls)
                await asyncio.sleep(500)
                return count, len(script.polls) == count and not others()

        return run(main())

    one, quiet = polls(1)
    many, quiet_too = polls(1000)
    assert quiet
    assert quiet_too
    assert abs(one - many) <= 2  # the jitter is drawn anew


def test_rule_01_a_cancelled_waiter_does_not_cancel_the_poll() -> None:
    """Cancelling one waiter during a GET leaves that GET to the others, and its response ends their wait."""

    async def main() -> int:
        script = Script(lambda t: [row(1, "stopped")], seconds=5.0)
        async with script.client() as client:
            gone = asyncio.create_task(client.orders.wait(STOP))
            stays = asyncio.create_task(client.orders.wait(STOP))
            await asyncio.sleep(2)
            gone.cancel()
            await stays
            assert gone.cancelled()
            return len(script.polls)

    assert run(main()) == 1


def test_rule_01_new_waiters_do_not_poll_faster_than_the_floor() -> None:
    """Waiters that come and go one after the other do not make polls closer than the floor."""

    async def main() -> list[float]:
        script = Script(lambda t: [row(1, "stopped")])
        async with script.client() as client:
            for _ in range(5):
                await client.orders.wait(STOP)
        return script.polls

    polls = run(main())
    assert all(later - earlier >= 1.0 for earlier, later in itertools.pairwise(polls))


def test_rule_02_a_response_to_an_earlier_request_does_not_end_a_wait() -> None:
    """Only the start of a poll counts: a GET already in flight when the wait began is not trusted."""

    async def main() -> tuple[float, list[float]]:
        script = Script(lambda t: [row(1, "stopped" if t < 1001 or t > 1030 else "running", "stopped")], seconds=10.0)
        async with script.client() as client:
            early = asyncio.create_task(client.orders.wait_until(1, lambda order: False, timeout=100))
            await asyncio.sleep(5)  # a poll is in flight that will show `stopped`, the state when it began
            begun = now()
            await client.orders.wait(STOP)
            early.cancel()
            return begun, script.polls

    begun, polls = run(main())
    assert polls[0] < begun
    assert max(polls) > 1030


def test_rule_02_a_cached_response_does_not_end_a_wait() -> None:
    """An `Age` above 0 proves nothing, and the timeout mentions it."""

    async def main() -> WaitTimeoutError:
        script = Script(lambda t: reply([row(1, "stopped")], Age="7"))
        async with script.client() as client:
            with pytest.raises(WaitTimeoutError) as caught:
                await client.orders.wait(STOP, timeout=60)
            return caught.value

    error = run(main())
    assert error.polls == 0
    assert "Age should be 0: a cached response proves nothing" in str(error.last_error)


def test_rule_03_the_desired_status_has_to_agree() -> None:
    """The current status does not end a wait while another status is desired."""

    async def main() -> float:
        script = Script(lambda t: [row(1, "stopped", "running" if t < 1050 else "stopped")])
        async with script.client() as client:
            await client.orders.wait(STOP)
            return now()

    assert run(main()) > 1050


def test_rule_04_a_restart_needs_evidence() -> None:
    """`running` alone never ends a restart, and the timeout says that no restart was seen."""

    async def main() -> WaitTimeoutError:
        script = Script(lambda t: [row(1, "running")])
        async with script.client() as client:
            with pytest.raises(WaitTimeoutError) as caught:
                await client.orders.wait(Transition(1, "restart", "running", ()), timeout=900)
            return caught.value

    assert "running, but no restart was seen" in str(run(main()))


def history(*rows: tuple[int, str, str]) -> Response:
    return reply(
        {
            "success": True,
            "history": [{"id": i, "status_user": word, "status_since": since} for i, word, since in rows],
        }
    )


OLD = (9, "running", "2026-01-01T00:00:00Z")
NEW = (8, "running", "2026-01-01T01:00:00Z")


@pytest.mark.parametrize("ids", ["falling", "ranks"])
def test_rule_04_a_departure_and_a_new_row_confirm_a_restart(ids: str) -> None:
    """Left, came back, and a new row: done at once, whatever the ids, and in another process too."""

    async def main() -> float:
        new, old = (NEW, OLD) if ids == "falling" else ((1, *NEW[1:]), (2, *OLD[1:]))

        async def answer(call: Call[Any]) -> Response:
            return history(new, old) if now() > 1040 else history(OLD)

        script = Script(lambda t: [row(1, "restarting" if 1003 < t < 1040 else "running", "running")], answer)
        async with script.client() as client:
            transition = await client.orders.restart(1)
            await client.orders.wait(Transition.from_json(transition.to_json()))
            return now()

    assert 1040 < run(main()) < 1050


def test_rule_04_a_departure_counts_from_when_its_response_came() -> None:
    """A slow response may show a later state than that of its request: the next `running` could be stale."""

    async def main() -> float:
        async def answer(call: Call[Any]) -> Response:
            return history(NEW, OLD)

        script = Script(lambda t: [row(1, "restarting" if len(script.polls) == 1 else "running", "running")], answer)
        script.seconds = 15
        async with script.client() as client:
            await client.orders.wait(Transition(1, "restart", "running", (StatusChange("running", id=9),)))
            return now()

    assert run(main()) == 1045, "after the second running"


def test_rule_04_a_new_row_and_steady_running_confirm_a_restart() -> None:
    """Never seen away, but a new row: done once `running` has been steady for three times the cap."""

    async def main() -> float:
        async def answer(call: Call[Any]) -> Response:
            return history(NEW, OLD) if now() > 1005 else history(OLD)

        script = Script(lambda t: [row(1, "running")], answer)
        async with script.client() as client:
            await client.orders.restart_and_wait(1)
            return now()

    assert 1090 < run(main()) < 1120


def test_rule_04_an_unreadable_history_is_read_again() -> None:
    """An error of the history ends no wait; once readable, it confirms the restart."""

    async def main() -> float:
        async def answer(call: Call[Any]) -> Response:
            if call.endpoint.path != "/api/order-status-history":
                return reply({"success": True})
            if 1001 < now() < 1060:
                return reply({"error": "down"}, 500)
            return history(NEW, OLD) if now() > 1060 else history(OLD)

        script = Script(lambda t: [row(1, "restarting" if 1003 < t < 1040 else "running", "running")], answer)
        async with script.client() as client:
            await client.orders.restart_and_wait(1)
            return now()

    assert 1060 < run(main()) < 1130


def test_rule_04_the_error_of_a_restart_has_the_failure_of_its_history() -> None:
    """A restart that could not be confirmed, since its history cannot be read, says so."""

    async def main() -> WaitTimeoutError:
        async def down(call: Call[Any]) -> Response:
            return reply({"error": "the history is down"}, 500)

        async with Script(lambda t: [row(1, "running")], down).client() as client:
            with pytest.raises(WaitTimeoutError) as caught:
                await client.orders.wait(
                    Transition(1, "restart", "running", (StatusChange("running", id=9),)), timeout=60
                )
            return caught.value

    error = run(main())
    assert isinstance(error.last_error, ServerError)
    assert str(error.last_error).startswith("orders.history of order 1: the API returned 500")
    assert "within 60 s (running, but no restart was seen); the last failure in that time: the history is down" in str(
        error
    )


def test_rule_04_a_restart_is_sent_without_a_readable_baseline() -> None:
    """Without a baseline, a departure and then a steady `running` confirm it, and the history is not read again."""

    async def main() -> tuple[float, int]:
        asked = 0

        async def answer(call: Call[Any]) -> Response:
            nonlocal asked
            if call.endpoint.path == "/api/order-status-history":
                asked += 1
                return reply({"error": "down"}, 500)
            return reply({"success": True})

        script = Script(lambda t: [row(1, "restarting" if 1003 < t < 1040 else "running", "running")], answer)
        async with script.client() as client:
            await client.orders.restart_and_wait(1)
            return now(), asked

    ended, asked = run(main())
    assert 1130 < ended < 1170
    assert asked == 1


def test_rule_04_at_most_four_histories_are_read_at_once() -> None:
    """Fifty restarts that return at once read at most four histories at a time, each in a named task, and few times."""

    async def main() -> tuple[int, int, set[str]]:
        inside = most = asked = 0
        names: set[str] = set()

        async def answer(call: Call[Any]) -> Response:
            nonlocal inside, most, asked
            if call.endpoint.path != "/api/order-status-history":
                return reply({"success": True})
            inside, asked = inside + 1, asked + 1
            most = max(most, inside)
            names.update(task.get_name() for task in others())
            await asyncio.sleep(0.2)
            inside -= 1
            return history(NEW, OLD)

        rows = range(1, 51)
        script = Script(
            lambda t: [row(i, "restarting" if 1003 < t < 1060 else "running", "running") for i in rows], answer
        )
        old = StatusChange("running", None, None, 9)
        async with script.client() as client:
            await asyncio.gather(*(client.orders.wait(Transition(i, "restart", "running", (old,))) for i in rows))
        return most, asked, names

    most, asked, names = run(main())
    assert most == 4
    assert asked <= 4 * 50
    assert "trooper history" in names


@pytest.mark.parametrize("moved", [True, False])
def test_rule_05_a_steady_other_status_supersedes_a_wait(moved: bool) -> None:
    """Desired was stopped once, then both are steadily running, even if current never changed: superseded."""

    async def main() -> tuple[float, SupersededError]:
        def orders(t: float) -> list[dict[str, Any]]:
            if t < 1020:
                return [row(1, "stopping" if moved else "running", "stopped")]
            return [row(1, "running")]

        async with Script(orders).client() as client:
            with pytest.raises(SupersededError) as caught:
                await client.orders.wait(STOP)
            return now(), caught.value

    ended, error = run(main())
    assert 1050 <= ended < 1080
    assert error.order is not None
    assert (error.order.current_status, error.target, error.transition) == ("running", "stopped", STOP)


def test_rule_05_lagging_reads_do_not_supersede_a_wait() -> None:
    """Two reads in a row that fall back to the old state, again and again, supersede nothing."""

    async def main() -> Order:
        script = Script(lambda t: [])

        def orders(t: float) -> list[dict[str, Any]]:
            if t > 1500:
                return [row(1, "stopped")]
            return [row(1, "running", "running" if len(script.polls) % 3 else "stopped")]

        script.orders = orders
        async with script.client() as client:
            return await client.orders.wait(STOP)

    assert run(main()).current_status == "stopped"


def test_rule_06_an_order_has_vanished_once_it_is_steadily_absent() -> None:
    """Missing on three fresh polls over the cap: OrderVanishedError, with the order as it was last seen."""

    async def main() -> tuple[float, OrderVanishedError]:
        async with Script(lambda t: [row(1, "stopping", "stopped")] if t < 1010 else []).client() as client:
            with pytest.raises(OrderVanishedError) as caught:
                await client.orders.wait(STOP)
            return now(), caught.value

    ended, error = run(main())
    assert 1040 <= ended < 1060
    assert error.order is not None


def test_rule_06_an_order_that_was_never_listed_is_not_found() -> None:
    """An id that nobody ordered is steadily absent from the start: the error says how long that took to prove."""

    async def main() -> OrderNotFoundError:
        async with Script(lambda t: []).client() as client:
            with pytest.raises(OrderNotFoundError) as caught:
                await client.orders.wait_until(1, "stopped")
            return caught.value

    error = run(main())
    assert str(error).startswith("orders.wait_until of order 1: it is not in the list of orders")
    assert 30 <= error.seconds < 60


def test_rule_06_failed_polls_and_rows_without_an_id_are_no_absence() -> None:
    """A list that fails, or has a row whose id can't be read, proves no absence."""

    async def main() -> Order:
        def orders(t: float) -> list[dict[str, Any]] | Response:
            if t < 1100:
                return reply({"error": "down"}, 503)
            if t < 1300:
                return [{"status": "running"}]
            return [row(1, "stopped")]

        async with Script(orders).client() as client:
            return await client.orders.wait(STOP)

    assert run(main()).order_id == 1


def test_rule_06_a_new_order_may_appear_late() -> None:
    """After create and migrate the order may be missing for four times the cap until it first appears."""

    async def main() -> float:
        async with Script(lambda t: [row(1, "running")] if t > 1110 else []).client() as client:
            await client.orders.wait(Transition(1, "create", "running"))
            return now()

    assert run(main()) > 1110


def test_rule_07_an_unknown_status_ends_no_wait() -> None:
    """No status fails a wait by its name, not even one that sounds like an error."""

    async def main() -> Order:
        words = ["error", "FAILED", "booting", "migrated", "terminated", "running"]
        script = Script(lambda t: [row(1, words[min(5, int(t - 1000) // 10)], "running")])
        async with script.client() as client:
            return await client.orders.wait(START)

    assert run(main()).current_status == "running"


def test_rule_08_a_confirmed_401_ends_every_wait() -> None:
    """A key that is refused by two polls in a row ends all waits, each with its own error."""

    async def main() -> list[BaseException]:
        script = Script(lambda t: [row(1, "running")] if t < 1010 else reply({"error": "no", "next": "login"}, 401))
        async with script.client() as client:
            results = await asyncio.gather(
                client.orders.wait(STOP), client.orders.wait_until(1, "frozen"), return_exceptions=True
            )
            assert not others()
            return [result for result in results if isinstance(result, BaseException)]

    errors = run(main())
    assert [type(error) for error in errors] == [WaitError, WaitError]
    assert [type(error.__cause__) for error in errors] == [AuthenticationError, AuthenticationError]
    assert errors[0] is not errors[1]


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_rule_08_a_single_failure_ends_no_wait(status: int) -> None:
    """Refusals and failures that the next poll does not confirm end no wait."""

    async def main() -> Order:
        script = Script(lambda t: [])

        def orders(t: float) -> list[dict[str, Any]] | Response:
            if len(script.polls) % 2 == 0:
                return reply({"error": "no"}, status)
            return [row(1, "running" if t < 1100 else "stopped", "stopped")]

        script.orders = orders
        async with script.client() as client:
            return await client.orders.wait(STOP)

    assert run(main()).current_status == "stopped"


def test_rule_08_failures_are_tolerated_and_reported() -> None:
    """A wait whose polls fail until the deadline times out with the last failure; polls back off meanwhile."""

    async def main() -> tuple[WaitTimeoutError, int]:
        script = Script(lambda t: FailedAttempt(Failure.LOST, APIConnectionError("cut")))
        async with script.client() as client:
            with pytest.raises(WaitTimeoutError) as caught:
                await client.orders.wait(STOP, timeout=600)
            return caught.value, len(script.polls)

    error, polls = run(main())
    assert isinstance(error.last_error, APIConnectionError)
    assert (error.polls, error.order) == (0, None)
    assert 20 < polls < 50


def test_rule_08_retry_after_is_honoured() -> None:
    """A 429 delays the next poll for as long as the API asked."""

    async def main() -> list[float]:
        script = Script(lambda t: reply({}, 429, Retry_After="77") if t < 1001 else [row(1, "stopped")])
        async with script.client() as client:
            await client.orders.wait(STOP)
        return script.polls

    first, second = run(main())
    assert second - first >= 77


def test_rule_08_an_unreadable_row_affects_only_its_own_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It neither ends nor delays the waits for other orders; its own goes on, and it is logged once."""

    async def main() -> float:
        def orders(t: float) -> list[dict[str, Any]]:
            bad = row(2, "stopped") if t > 1200 else {"order_id": 2, "status": 7}
            return [bad, row(1, "stopped" if t > 1050 else "running", "stopped")]

        async with Script(orders).client() as client:
            other = asyncio.create_task(client.orders.wait(Transition(2, "stop", "stopped")))
            await client.orders.wait(STOP)
            ended = now()
            await other
            assert now() > 1200
            return ended

    assert 1050 < run(main()) < 1070
    assert len([record for record in caplog.records if "order 2 can't be read" in record.getMessage()]) == 1


def test_rule_08_each_unreadable_row_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A row that cannot be read is a WARNING when it appears, which says what that means; of one poll a hundred are."""

    def broken(number: int) -> dict[str, Any]:
        return {**row(number, "running"), "status": number}

    def orders(t: float) -> list[dict[str, Any]]:
        more = range(3, 153) if t > 1030 else []
        nameless = {**row(1, "running"), "order_id": None}
        return [row(1, "running" if t < 1060 else "stopped"), nameless, *map(broken, [2, *more])]

    async def main() -> None:
        async with Script(orders).client() as client:
            await client.orders.wait(STOP)

    run(main())
    fault = "the response is not as documented: $[%d]"
    undecided = f"order %d can't be read, and its waits are undecided: {fault}.current_status should be a status word"
    nameless = "a row of the orders has no readable id: until it has, nothing counts as absent"
    first, second, *later, last = caplog.messages
    assert first == undecided % (2, 2)
    assert second == f"{nameless} ({fault % 1}.order_id should be there)"
    assert later == [undecided % (number, number) for number in range(3, 103)]
    assert last == "50 more rows of the orders can't be read"


def test_rule_09_the_poll_interval_follows_the_age_of_the_wait() -> None:
    """Ninety minutes cost some 200 polls; a change is noticed within a tenth of the time waited."""

    async def main() -> tuple[int, float]:
        script = Script(lambda t: [row(1, "migrating" if t < 1000 + 5400 else "running", "running")])
        async with script.client(poll=PollSchedule(cap=3600)) as client:
            await client.orders.wait(Transition(1, "start", "running", migration_allowed=True))
            return len(script.polls), now() - 6400

    polls, late = run(main())
    assert polls < 100
    assert late < 0.11 * 5400 + 1


@pytest.mark.parametrize("readers", [0, 1])
def test_rule_09_polls_are_never_closer_than_the_floor(readers: int) -> None:
    """Neither a deadline, nor a reader with a short interval or one that joins later, brings two polls closer."""

    async def main() -> list[float]:
        script = Script(lambda t: [row(1, "running")])

        async def read(client: TrooperClient) -> None:
            async for _ in client.orders.watch(interval=0.1):
                pass

        async with script.client() as client, asyncio.TaskGroup() as group:
            reading = [group.create_task(read(client)) for _ in range(readers)]
            timeouts = (10.4, 10.8, 11.3, 20.0, 20.9, 40.0)
            waits = [asyncio.create_task(client.orders.wait(STOP, timeout=timeout)) for timeout in timeouts]
            await asyncio.sleep(15.3)
            reading += [group.create_task(read(client)) for _ in range(readers)]
            await asyncio.wait(waits)
            assert all(isinstance(wait.exception(), WaitTimeoutError) for wait in waits)
            for reader in reading:
                reader.cancel()
        return script.polls

    assert min(after - before for before, after in itertools.pairwise(run(main()))) > 0.999


def test_rule_09_clients_that_began_together_do_not_poll_together() -> None:
    """Each poll interval has a jitter of its own."""

    async def main() -> list[float]:
        script = Script(lambda t: [row(1, "running")])
        async with script.client() as client:
            with pytest.raises(WaitTimeoutError):
                await client.orders.wait(STOP, timeout=200)
        return script.polls

    one, other = run(main()), run(main())
    assert not {*one[20:-2]} & {*other[20:-2]}
    shares = [(after - at) / (0.1 * (at - one[0])) for at, after in itertools.pairwise(one[20:-2])]
    assert 0.9 <= min(shares) < 0.99 < 1.01 < max(shares) <= 1.1


def test_rule_09_there_is_a_final_poll_before_the_deadline() -> None:
    """A state reached between the last regular poll and the deadline is seen by a final poll."""

    async def main() -> Order:
        script = Script(lambda t: [row(1, "stopped" if t > 1198 else "running", "stopped")])
        async with script.client() as client:
            return await client.orders.wait(STOP, timeout=200)

    for _ in range(20):
        assert run(main()).current_status == "stopped"


def test_rule_10_the_deadline_is_kept_while_a_get_hangs() -> None:
    """A wait ends at its deadline although the poll's GET does not, and the others keep that GET."""

    async def main() -> tuple[float, int]:
        script = Script(lambda t: [row(1, "stopped")], seconds=25.0)
        async with script.client() as client:
            longer = asyncio.create_task(client.orders.wait(STOP, timeout=100))
            await asyncio.sleep(0)  # its deadline is the first that is known
            with pytest.raises(WaitTimeoutError):
                await client.orders.wait(STOP, timeout=7)
            ended = now()
            await longer
            return ended, len(script.polls)

    assert run(main()) == (1007.0, 1)


def test_rule_10_each_waiter_has_its_own_deadline() -> None:
    """A hundred deadlines end a hundred waits, each at its own time."""

    async def main() -> list[float]:
        async with Script(lambda t: [row(1, "running", "stopped")]).client() as client:

            async def wait(seconds: float) -> float:
                with pytest.raises(WaitTimeoutError):
                    await client.orders.wait(STOP, timeout=seconds)
                return now()

            return await asyncio.gather(*(wait(float(seconds)) for seconds in range(1, 101)))

    assert run(main()) == [1000.0 + seconds for seconds in range(1, 101)]


@pytest.mark.parametrize("error", [RuntimeError("mine"), TimeoutError("mine"), asyncio.CancelledError("mine")])
def test_rule_11_an_exception_of_a_predicate_fails_its_own_wait_only(error: BaseException) -> None:
    """The exception is raised unchanged by its own wait; others are not affected."""

    async def main() -> Order:
        def broken(order: Order) -> bool:
            raise error

        async with Script(lambda t: [row(1, "running" if t < 1010 else "stopped", "stopped")]).client() as client:
            other = asyncio.create_task(client.orders.wait(STOP))
            with pytest.raises(type(error), match="mine"):
                await client.orders.wait_until(1, broken)
            return await other

    assert run(main()).current_status == "stopped"


@pytest.mark.parametrize("answer", [1, None, "yes"])
def test_rule_11_a_predicate_must_return_a_bool(answer: object) -> None:
    """Anything but a bool from a predicate is a TypeError for its own wait."""

    async def main() -> None:
        async with Script(lambda t: [row(1, "running")]).client() as client:
            with pytest.raises(TypeError, match="bool"):
                await client.orders.wait_until(1, lambda order: answer)  # type: ignore[arg-type, return-value]  # on purpose

    run(main())


def test_rule_11_async_functions_are_refused_without_a_warning() -> None:
    """An async predicate or on_change is a TypeError, and no coroutine is left un-awaited."""

    async def predicate(order: Order) -> bool:
        return True

    async def main() -> None:
        async with Script(lambda t: [row(1, "stopped")]).client() as client:
            with pytest.raises(TypeError, match="async"):
                await client.orders.wait_until(1, predicate)  # type: ignore[arg-type]  # on purpose
            with pytest.raises(TypeError, match=r"^on_change must be a plain function: a coroutine is not awaited$"):
                await client.orders.wait(STOP, on_change=lambda order: predicate(order))
            with pytest.raises(
                ConfigurationError,
                match=exactly("orders.wait: on_change must be a plain function, not an async one: nothing was sent"),
            ):
                await client.orders.wait(STOP, on_change=predicate)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(main())
        gc.collect()


def test_rule_11_on_change_sees_each_status_once() -> None:
    """`on_change` is called for each pair of statuses that a poll shows, including the last, in the
    caller's context.
    """

    async def main() -> list[str]:
        words = ["running", "stopping", "stopping", "halted", "stopped"]
        script = Script(lambda t: [row(1, words[min(4, int(t - 1000) // 20)], "stopped", title=str(t))])
        seen: list[str] = []
        async with script.client() as client:
            await client.orders.wait(STOP, on_change=lambda order: seen.append(order.current_status))
        return seen

    assert run(main()) == ["running", "stopping", "halted", "stopped"]


def test_rule_11_close_ends_waits_and_leaves_nothing() -> None:
    """`close()` ends every wait and every reader of `watch` with ClientClosedError; no task, no future is left."""

    async def main() -> None:
        client = Script(lambda t: [row(1, "running")]).client()

        async def read() -> None:
            async for _ in client.orders.watch():
                pass

        waits: list[Coroutine[Any, Any, Any]] = [
            client.orders.wait(STOP),
            client.orders.wait_until(1, "frozen"),
            client.orders.wait(Transition(1, "restart", "running", ())),
            read(),
        ]
        tasks = [asyncio.create_task(wait) for wait in waits]
        await asyncio.sleep(3)
        await client.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [ClientClosedError] * 4
        assert str(results[0]) == (
            "orders.wait of order 1: the API accepted the stop, and the client was closed before it was confirmed. "
            + ClientClosedError.hint
        )
        assert str(results[1]) == (
            f"orders.wait_until of order 1: the client was closed while waiting. {ClientClosedError.hint}"
        )
        assert not others()
        with pytest.raises(ClientClosedError):
            await client.orders.wait(STOP)

    run(main(), debug=True)


def test_rule_12_watch_yields_the_current_orders_and_then_each_change_once() -> None:
    """Current orders first as `appeared`, then each change with its `previous`, and `vanished` when steady."""

    async def main() -> list[tuple[str, int, str | None, str]]:
        def orders(t: float) -> list[dict[str, Any]]:
            rows = [row(1, "running" if t < 1020 else "stopped", "stopped")]
            if 1040 < t < 1100:
                rows.append(row(2, "running"))
            if not 1005 < t < 1025:  # lists that lack an order for less than `cap`
                rows.append(row(3, "running"))
            return rows

        changes: list[tuple[str, int, str | None, str]] = []
        async with Script(orders).client() as client:
            async for change in client.orders.watch():
                previous = str(change.previous.current_status) if change.previous else None
                changes.append((change.kind, change.order_id, previous, str(change.order.current_status)))
                if change.kind == "vanished":
                    break
            gc.collect()
            await ticks()
            assert not others()
        return changes

    assert run(main()) == [
        ("appeared", 1, None, "running"),
        ("appeared", 3, None, "running"),
        ("changed", 1, "running", "stopped"),
        ("appeared", 2, None, "running"),
        ("vanished", 2, "running", "running"),
    ]


def test_rule_12_a_slow_reader_gets_the_latest_state() -> None:
    """An order that changed ten times while the reader was busy is yielded once, as it is now."""

    async def main() -> list[OrderChange]:
        changes: list[OrderChange] = []
        async with Script(lambda t: [row(1, f"word-{int(t - 1000) // 10}", "running")]).client() as client:
            async for change in client.orders.watch(interval=1):
                changes.append(change)
                if len(changes) == 2:
                    return changes
                await asyncio.sleep(101)
        raise AssertionError

    first, second = run(main())
    assert first.order.current_status == "word-0"
    assert second.order.current_status in ("word-10", "word-9")
    assert second.previous == first.order


def test_rule_12_a_reader_has_its_interval_for_good() -> None:
    """However long it has read, two polls are never further apart than its interval and jitter."""

    async def main() -> list[float]:
        script = Script(lambda t: [row(1, "running" if t < 1600 else "stopped")])
        async with script.client() as client:
            async for change in client.orders.watch(interval=5):
                if change.order.current_status == "stopped":
                    break
        return script.polls

    assert all(later - earlier < 10 for earlier, later in itertools.pairwise(run(main())))


def test_rule_12_readers_and_waiters_share_one_poll() -> None:
    """Three readers and a waiter cost no more polls than the one with the shortest interval."""

    async def main() -> list[float]:
        script = Script(lambda t: [row(1, "running" if t < 1060 else "stopped", "stopped")])
        async with script.client() as client:

            async def read() -> None:
                async for change in client.orders.watch(interval=5):
                    if change.order.current_status == "stopped":
                        return

            await asyncio.gather(read(), read(), read(), client.orders.wait(STOP))
        return script.polls

    polls = run(main())
    assert all(later - earlier >= 1.0 for earlier, later in itertools.pairwise(polls))
    assert len(polls) <= 40


def test_rule_12_a_new_reader_does_not_wait_for_its_interval() -> None:
    """A reader that comes right after a poll gets the current orders at the floor, not an interval later."""

    async def main() -> float:
        async with Script(lambda t: [row(1, "stopped")]).client() as client:
            await client.orders.wait(STOP)
            async for _ in client.orders.watch(interval=60):
                break
            return now()

    assert run(main()) < 1002


def test_rule_12_a_reader_that_joins_at_the_moment_of_a_poll_does_not_wait() -> None:
    """A coarse clock reads the same for both: that poll began earlier, so it does not count, and the next
    comes soon.
    """

    async def main() -> float:
        joined: list[tuple[float, asyncio.Task[None]]] = []
        begun = asyncio.Event()

        async def watch() -> None:
            async for _ in client.orders.watch(interval=60):
                return

        def orders(t: float) -> list[dict[str, Any]]:
            if t > 1300 and not joined:  # the other one is old by then, and polls rarely
                joined.append((t, asyncio.create_task(watch())))
                begun.set()
            return [row(1, "running")]

        async with Script(orders).client() as client:
            other = asyncio.create_task(client.orders.wait_until(1, "stopped", timeout=None))
            await begun.wait()
            await joined[0][1]
            other.cancel()
            return now() - joined[0][0]

    assert run(main()) < 3


def test_rule_12_watch_raises_a_confirmed_401_and_tolerates_other_failures() -> None:
    """5xx do not end a `watch`; a key refused twice in a row does."""

    async def main() -> int:
        def orders(t: float) -> list[dict[str, Any]] | Response:
            if t < 1100:
                return [row(1, f"word-{int(t) // 10}")] if int(t) % 3 else reply({}, 502)
            return reply({"error": "no"}, 401)

        seen = 0
        async with Script(orders).client() as client:
            with pytest.raises(AuthenticationError, match=r"^orders\.watch: "):  # noqa: PT012 - the loop is what raises
                async for _ in client.orders.watch(interval=1):
                    seen += 1
            assert not others()
        return seen

    assert run(main()) >= 5


def test_rule_13_a_304_counts_as_a_poll() -> None:
    """A 304 to our ETag counts as a poll that shows the same as the last one: three of them make it steady."""

    async def main() -> tuple[float, int]:
        tags: list[str | None] = []
        script = Script(lambda t: [])

        async def fetch(call: Call[Any], **more: Any) -> Response | FailedAttempt:
            tags.append(more["headers"].get("If-None-Match"))
            if now() < 1010:
                answer = reply([row(1, "running", "stopped")], ETag='"a"')
            elif tags[-1] == '"b"':
                answer = Response(304, {}, b"")
            else:
                answer = reply([row(1, "running")], ETag='"b"')
            script.orders = lambda t: answer
            return await Script.fetch(script, call, **more)

        async with script.client() as client:
            client._transport.wire.send = fetch  # type: ignore[method-assign]  # to see the headers
            with pytest.raises(SupersededError):
                await client.orders.wait(STOP)
            return now(), tags.count('"b"')

    ended, unchanged = run(main())
    assert ended < 1080
    assert unchanged >= 2


def test_rule_13_after_a_list_read_elsewhere_no_old_etag_is_sent() -> None:
    """A 304 means "as the last poll showed", but a later list may be the reference now, and it has no ETag."""

    async def main() -> list[str | None]:
        tags: list[str | None] = []
        script = Script(lambda t: [])

        async def fetch(call: Call[Any], **more: Any) -> Response | FailedAttempt:
            if more.get("headers") is not None:
                tags.append(more["headers"].get("If-None-Match"))
            answer = Response(304, {}, b"") if tags[-1:] == ['"stopped"'] else reply([row(1, word)], ETag=f'"{word}"')
            script.orders = lambda t: answer
            return await Script.fetch(script, call, **more)

        async with script.client() as client:
            client._transport.wire.send = fetch  # type: ignore[method-assign]  # to see the headers
            word = "stopped"
            await client.orders.wait_until(1, "stopped")
            word = "running"
            await client.orders.list()
            word = "stopped"
            assert (await client.orders.wait_until(1, "stopped")).current_status == "stopped"
        return tags

    assert set(run(main())) == {None}


@pytest.mark.parametrize("read", ["list", "get", "find"])
def test_rule_02_a_change_seen_by_another_read_ends_a_wait_at_its_first_poll(read: str) -> None:
    """A poll that shows nothing new since a list read elsewhere is still new to the wait."""

    async def main() -> tuple[Order, int]:
        script = Script(lambda t: [row(1, "stopped")])
        async with script.client() as client:
            await getattr(client.orders, read)(*([1] if read == "get" else []))
            return await client.orders.wait_until(1, "stopped"), len(script.polls)

    order, polls = run(main())
    assert (order.current_status, polls) == ("stopped", 1)


def test_rule_02_a_list_read_during_a_wait_hides_no_change() -> None:
    """A change that a list has shown is still a change for the poll, whose waiters have not seen it."""

    async def main() -> float:
        script = Script(lambda t: [row(1, "stopped" if t > 1015 else "running", "stopped"), row(2, str(int(t)))])
        async with script.client() as client:
            waiting = asyncio.create_task(client.orders.wait_until(1, "stopped"))
            while not waiting.done():
                await client.orders.list()
                await asyncio.sleep(0.4)
            await waiting
            return now()

    assert run(main()) < 1030


def test_rule_08_an_unreadable_row_is_logged_although_another_read_has_logged_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The wait that it affects is logged, even if another read has met the row before."""

    async def main() -> None:
        script = Script(lambda t: [row(1, "running"), {"order_id": 2, "status": 7}])
        async with script.client() as client:
            await client.orders.find()
            await client.orders.wait_until(1, "running")

    run(main())
    assert len([record for record in caplog.records if "order 2 can't be read" in record.getMessage()]) == 1


def test_rule_13_the_etag_is_kept_between_waits() -> None:
    """A new wait begins with the ETag of the last, unless a list was read meanwhile."""

    async def main() -> list[str | None]:
        tags: list[str | None] = []
        script = Script(lambda t: [])

        async def fetch(call: Call[Any], **more: Any) -> Response | FailedAttempt:
            tags.append(more["headers"].get("If-None-Match"))
            answer = Response(304, {}, b"") if tags[-1] else reply([row(1, "running")], ETag='"a"')
            script.orders = lambda t: answer
            return await Script.fetch(script, call, **more)

        async with script.client() as client:
            client._transport.wire.send = fetch  # type: ignore[method-assign]  # to see the headers
            for _ in range(3):
                with pytest.raises(WaitTimeoutError):
                    await client.orders.wait_until(1, "stopped", timeout=5)
        return tags

    tags = run(main())
    assert tags[0] is None
    assert set(tags[1:]) == {'"a"'}


def test_the_caller_owns_what_it_gets() -> None:
    """Changing an install's settings in a result changes neither the next read nor a wait."""

    def settings(order: Order) -> dict[str, Any]:
        assert order.template_installs
        config = order.template_installs[0].config
        assert config is not None
        return config

    async def main() -> None:
        script = Script(lambda t: [row(1, "running", template_installs=[{"id": 1, "config": {"a": [1]}}])])
        async with script.client() as client:
            for _ in range(2):
                listed, found = (await client.orders.list())[0], (await client.orders.find())[0]
                watch = client.orders.watch()
                watched = (await anext(watch)).order
                await watch.aclose()
                waited = await client.orders.wait_until(1, lambda order: settings(order) == {"a": [1]}, timeout=5)
                for order in (listed, found, await client.orders.get(1), waited, watched):
                    assert settings(order) == {"a": [1]}
                    settings(order)["a"].append(2)

    run(main())


def test_an_unreadable_order_is_a_new_error_for_each_get() -> None:
    """One error raised repeatedly would collect the frames of all its callers."""

    async def main() -> list[ResponseFormatError]:
        errors = []
        async with Script(lambda t: [{"order_id": 2, "status": 7}]).client() as client:
            for _ in range(3):
                with pytest.raises(ResponseFormatError) as caught:
                    await client.orders.get(2)
                errors.append(caught.value)
        return errors

    errors = run(main())
    assert len({id(error) for error in errors}) == 3
    assert len({len(traceback.extract_tb(error.__traceback__)) for error in errors}) == 1
    assert {(error.operation, error.subject) for error in errors} == {("orders.get", "order 2")}


def test_queued_reads_decode_only_what_the_previous_one_left() -> None:
    """A list is compared with the last one at the time of its response, not of its call."""

    async def main() -> None:
        async with Script(lambda t: [row(n, "running") for n in range(1, 51)]).client(max_concurrency=1) as client:
            await asyncio.gather(*(client.orders.get(number) for number in range(1, 21)))

    with mock.patch.object(store, "structure", wraps=structure) as decoded:
        run(main())
    assert decoded.call_count == 50


def test_the_first_poll_after_a_look_up_decodes_only_changes() -> None:
    """What a look-up has read is not decoded again by the next poll or list."""

    async def main() -> None:
        script = Script(lambda t: [row(number, "running") for number in range(1, 51)])
        async with script.client() as client:
            await client.orders.list()
            await client.orders.wait_until(50, "running")
            await client.orders.get(7)

    with mock.patch.object(store, "structure", wraps=structure) as decoded:
        run(main())
    assert decoded.call_count == 50


@pytest.mark.parametrize("done", [True, False])
def test_rule_14_waiting_continues_after_a_lost_response(done: bool) -> None:
    """After a lost response the wait decides: it succeeds, or its error has the lost response as cause."""

    async def main() -> BaseException | Order:
        async def lost(call: Call[Any]) -> Response | FailedAttempt:
            return FailedAttempt(Failure.LOST, APIConnectionError("cut"))

        script = Script(lambda t: [row(1, "stopped" if done and t > 1050 else "running", "stopped")], lost)
        async with script.client() as client:
            try:
                return await client.orders.stop_and_wait(1, timeout=300)
            except WaitError as error:
                return error

    end = run(main())
    if done:
        assert isinstance(end, Order)
    else:
        assert isinstance(end, WaitTimeoutError)
        assert isinstance(end.__cause__, OutcomeUnknownError)


def test_a_resumed_wait_that_is_already_over_ends_at_once() -> None:
    """A stored transition of an earlier process needs one poll if it has finished."""

    async def main() -> int:
        script = Script(lambda t: [row(1, "stopped")])
        async with script.client() as client:
            await client.orders.wait(Transition.from_json(STOP.to_json()))
        return len(script.polls)

    assert run(main()) == 1


def test_a_bug_in_the_poll_fails_all_waits(caplog: pytest.LogCaptureFixture) -> None:
    """An exception in the poll itself is logged, and raised by every wait: none hangs."""

    async def main() -> None:
        def orders(t: float) -> list[dict[str, Any]]:
            raise ZeroDivisionError("a bug")

        async with Script(orders).client() as client:
            with pytest.raises(ZeroDivisionError):
                await client.orders.wait(STOP)

    run(main())
    assert caplog.messages == ["the poll of the orders broke"]


def test_a_poll_cancelled_from_outside_ends_the_waits() -> None:
    """Cancelling the poll's task leaves no wait hanging, and a later wait polls again."""

    async def main() -> None:
        async with Script(lambda t: [row(1, "stopped" if t > 1050 else "running", "stopped")]).client() as client:
            wait = asyncio.create_task(client.orders.wait_until(1, "stopped"))
            await asyncio.sleep(3)
            (poll,) = others() - {wait}
            poll.cancel()
            with pytest.raises(ClientClosedError, match=r": the poll was cancelled from outside\. "):
                await wait
            await client.orders.wait(STOP)

    run(main())


def test_wait_until_converged_ends_when_both_statuses_agree() -> None:
    """Current equal to desired ends it; a row without a desired status is a WaitError."""

    async def main() -> Order:
        async with Script(lambda t: [row(1, "stopping" if t < 1010 else "stopped", "stopped")]).client() as client:
            return await client.orders.wait_until_converged(1)

    assert run(main()).current_status == "stopped"

    async def silent() -> None:
        async with Script(lambda t: [{"order_id": 1, "status": "running"}]).client() as client:
            with pytest.raises(WaitError, match="no desired status"):
                await client.orders.wait_until_converged(1)

    run(silent())


def test_the_virtual_clock_reports_a_deadlock() -> None:
    """A deadlock fails its test instead of hanging."""

    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="deadlock"):
        run(main())


def test_rule_12_an_exception_in_the_loop_stops_the_polls() -> None:
    """An exception inside the loop over `watch`, and a plain `aclose`, end the polls like a `break` does."""

    async def main() -> None:
        script = Script(lambda t: [row(1, "running")])
        async with script.client() as client:
            with pytest.raises(KeyError):  # noqa: PT012 - the loop is what raises
                async for _ in client.orders.watch():
                    raise KeyError
            gc.collect()
            await ticks()
            assert not others()
            changes = client.orders.watch()
            await anext(changes)
            await changes.aclose()
            assert not others()
            polls = len(script.polls)
            await asyncio.sleep(100)
            assert len(script.polls) == polls

    run(main())


def test_rule_09_a_burst_of_waiters_shares_one_poll() -> None:
    """Waiters that come within one floor share the next poll: none gets its own."""

    async def main() -> list[float]:
        script = Script(lambda t: [row(1, "stopped" if t > 1003 else "running", "stopped")])
        async with script.client() as client:
            waits = []
            for _ in range(50):
                waits.append(asyncio.create_task(client.orders.wait(STOP)))
                await asyncio.sleep(0.03)
            await asyncio.gather(*waits)
        return script.polls

    polls = run(main())
    assert len(polls) <= 5
    assert all(later - earlier >= 1.0 for earlier, later in itertools.pairwise(polls))
