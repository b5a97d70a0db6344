"""The gate before all requests but the poll's: places, rate limits, patience and deadlines, and nothing left behind."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tools.simulator.clock import VirtualLoop, run
from trooper_async._http import gate
from trooper_async._http.gate import Gate

FOREVER = 1e9


@pytest.fixture(autouse=True)
def _no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The places alone: the gap between two requests has tests of its own, below and in test_rate_limit."""
    monkeypatch.setattr(gate, "_FIRST_GAP", 0.0)


def scheduled() -> list[asyncio.TimerHandle]:
    """The loop's handles that will still run."""
    handles: list[asyncio.TimerHandle] = vars(asyncio.get_running_loop())["_scheduled"]
    return [handle for handle in handles if not handle.cancelled()]


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    before = scheduled()
    yield
    assert [handle for handle in scheduled() if handle not in before] == []


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


class Queue:
    """Callers at a gate, by name: who waits, who is inside, who was turned away."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.inside: list[str] = []
        self.refused: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, *names: str, patience: float = FOREVER, until: float = FOREVER, again: bool = False) -> None:
        for name in names:
            self.tasks[name] = asyncio.create_task(self._enter(name, patience, until, again))
        await settle()

    async def _enter(self, name: str, patience: float, until: float, again: bool) -> None:
        entered = await self.gate.enter(patience, until=until, again=again)
        (self.inside if entered else self.refused).append(name)

    async def go(self, name: str) -> None:
        self.inside.remove(name)
        self.gate.leave()
        await settle()

    async def cancel(self, *names: str) -> None:
        for name in names:
            self.tasks[name].cancel()
        await asyncio.gather(*(self.tasks[name] for name in names), return_exceptions=True)


async def pass_with_success(gate: Gate, times: int) -> None:
    for _ in range(times):
        assert await gate.enter(FOREVER)
        gate.got_through()
        gate.leave()


async def test_no_more_than_its_places_are_inside() -> None:
    """As many as there are places enter at once; the next waits until one leaves."""
    queue = Queue(Gate(3))

    await queue.come("a", "b", "c", "d")

    assert queue.inside == ["a", "b", "c"]
    await queue.go("b")
    assert queue.inside == ["a", "c", "d"]


async def test_first_come_first_served() -> None:
    """Those who wait are let in in the order in which they came."""
    queue = Queue(Gate(1))
    names = [str(number) for number in range(10)]

    await queue.come(*names)
    for name in names:
        assert queue.inside == [name]
        await queue.go(name)

    assert queue.inside == []


async def test_nobody_overtakes_those_who_wait() -> None:
    """Who comes while a place has just become free, but others wait, goes to the end of the queue."""
    queue = Queue(Gate(1))
    await queue.come("holder", "first")

    queue.inside.remove("holder")
    queue.gate.leave()  # `first` is let in, and has not run yet
    await queue.come("late")

    assert queue.inside == ["first"]
    await queue.go("first")
    assert queue.inside == ["late"]


async def test_nobody_overtakes_those_who_wait_for_the_gate_to_open() -> None:
    """Who comes when the pause has just passed, before the loop has opened the gate, goes to the end of the queue."""
    queue = Queue(Gate(1))
    queue.gate.close(60.0)
    await queue.come("first")

    queue.gate.opens_at = asyncio.get_running_loop().time()  # as if a minute had passed
    await queue.come("late")

    assert queue.inside == ["first"]
    await queue.go("first")
    assert queue.inside == ["late"]


def test_nobody_loses_patience_who_only_waits_for_others() -> None:
    """Without a 429 in play, however long others take, who waits for them is not turned away."""

    async def main() -> None:
        queue = Queue(Gate(1))
        await queue.come("holder")
        await queue.come("waiting", "another", patience=0.0)
        await asyncio.sleep(1000)
        assert queue.refused == []
        await queue.go("holder")
        assert queue.inside == ["waiting"]
        await queue.cancel("another")

    run(main())


@pytest.mark.parametrize("rate_limited", [False, True])
def test_a_deadline_ends_the_waiting_in_any_case(rate_limited: bool) -> None:
    """At `until` who waits is turned away, at a gate that is only full too; one whose time is over never enters."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        queue = Queue(Gate(1))
        await queue.come("holder")
        if rate_limited:
            queue.gate.close(0.0)
        await queue.come("late", until=loop.time() + 50)
        await queue.come("patient")
        await asyncio.sleep(49)
        assert queue.refused == []
        await asyncio.sleep(2)
        assert queue.refused == ["late"]
        await queue.go("holder")
        await queue.go("patient")
        await queue.come("too late", until=loop.time())
        assert queue.refused == ["late", "too late"]

    run(main())


async def test_a_cancelled_waiter_is_passed_over() -> None:
    """One who gave up waiting takes no place."""
    queue = Queue(Gate(1))
    await queue.come("holder", "gone", "next")

    await queue.cancel("gone")
    await queue.go("holder")

    assert queue.inside == ["next"]


@pytest.mark.parametrize("cancelled_first", [True, False], ids=["cancelled, then let in", "let in, then cancelled"])
async def test_a_waiter_cancelled_in_the_moment_it_is_let_in_gives_its_place_back(cancelled_first: bool) -> None:
    """Whichever of the two comes first in the same turn of the loop, no place is lost."""
    queue = Queue(Gate(1))
    await queue.come("holder", "unlucky", "next")

    queue.inside.remove("holder")
    if cancelled_first:
        queue.tasks["unlucky"].cancel()
        queue.gate.leave()
    else:
        queue.gate.leave()
        queue.tasks["unlucky"].cancel()
    await settle()

    assert queue.tasks["unlucky"].cancelled()
    assert queue.inside == ["next"]
    await queue.go("next")
    await queue.come("a", "b")
    assert queue.inside == ["a"], "one place, as before"
    await queue.cancel("b")


async def test_all_waiters_of_a_closed_gate_cancelled_at_once_leave_no_handle() -> None:
    """After a crowd gave up at a closed gate, nothing is left that would open it."""
    queue = Queue(Gate(2))
    queue.gate.close(60.0)
    names = [str(number) for number in range(500)]
    await queue.come(*names)

    await queue.cancel(*names)

    assert scheduled() == []
    assert queue.inside == queue.refused == []


async def test_all_waiters_of_a_full_gate_cancelled_at_once_leave_its_places_as_they_were() -> None:
    """After a crowd gave up at a full gate, the next who comes is let in when a place is free."""
    queue = Queue(Gate(1))
    names = [str(number) for number in range(500)]
    await queue.come("holder", *names)

    await queue.cancel(*names)
    await queue.come("next")

    assert queue.inside == ["holder"]
    await queue.go("holder")
    assert queue.inside == ["next"]


def test_a_closed_gate_lets_nobody_in_before_the_pause_is_over() -> None:
    """Nobody enters before `opens_at`, who comes first no more than who waits."""

    async def main() -> None:
        gate = Gate(4)
        loop = asyncio.get_running_loop()
        gate.close(50)
        opens = gate.opens_at
        assert opens >= loop.time() + 50

        async def enter() -> float:
            assert await gate.enter(FOREVER)
            now = loop.time()
            gate.leave()
            return now

        assert min(await asyncio.gather(*(enter() for _ in range(5)))) >= opens

    run(main())


def test_a_second_429_makes_the_pause_longer_never_shorter() -> None:
    """Of two pauses the later end counts, also for those who wait already."""

    async def main() -> None:
        queue = Queue(Gate(2))
        queue.gate.close(100)
        await queue.come("waiting")
        queue.gate.close(150)
        queue.gate.close(10)
        await asyncio.sleep(149)
        assert queue.inside == []
        await asyncio.sleep(2)
        assert queue.inside == ["waiting"]

    run(main())


async def test_after_a_429_requests_go_one_by_one() -> None:
    """When the pause is over one enters; the next when that one has left, and not before."""
    gate = Gate(5)
    queue = Queue(gate)
    gate.close(0.0)

    await queue.come("a", "b", "c")

    assert gate.is_rate_limited(asyncio.get_running_loop().time())
    assert queue.inside == ["a"]
    await queue.go("a")
    assert queue.inside == ["b"]
    await queue.go("b")
    assert queue.inside == ["c"]


@pytest.mark.parametrize(("successes", "at_once"), [(0, 1), (9, 1), (10, 2), (19, 2), (20, 3), (35, 4), (1000, 4)])
async def test_ten_successes_bring_one_more_place(successes: int, at_once: int) -> None:
    """One more may pass at once for every ten successes, up to the places that there were."""
    gate = Gate(4)
    gate.close(0.0)
    await pass_with_success(gate, successes)
    queue = Queue(gate)

    await queue.come(*"abcdef")

    assert len(queue.inside) == at_once
    assert gate.is_rate_limited(asyncio.get_running_loop().time()) is (at_once < 4)
    await queue.cancel(*(name for name in "abcdef" if name not in queue.inside))


async def test_the_place_that_a_success_brings_is_taken_at_once() -> None:
    """The tenth success lets a waiter in without anybody leaving."""
    gate = Gate(2)
    gate.close(0.0)
    await pass_with_success(gate, 9)
    queue = Queue(gate)
    await queue.come("a", "b")
    assert queue.inside == ["a"]

    gate.got_through()
    await settle()

    assert queue.inside == ["a", "b"]


async def test_the_next_429_lets_requests_pass_one_by_one_again() -> None:
    """However many passed at once again, after another 429 it is one at a time."""
    gate = Gate(4)
    gate.close(0.0)
    await pass_with_success(gate, 25)
    gate.close(0.0)
    await pass_with_success(gate, 9)
    queue = Queue(gate)

    await queue.come("a", "b")

    assert queue.inside == ["a"]
    await queue.cancel("b")


async def test_those_inside_at_a_429_are_counted() -> None:
    """Who was inside when the gate closed may finish, and only then the next enters."""
    gate = Gate(3)
    queue = Queue(gate)
    await queue.come("a", "b")
    gate.close(0.0)

    await queue.come("c")

    assert queue.inside == ["a", "b"]
    await queue.go("a")
    assert queue.inside == ["b"]
    await queue.go("b")
    assert queue.inside == ["c"]


async def test_a_gate_that_opens_too_late_refuses_at_once() -> None:
    """Who would lose patience, or miss a deadline, before the pause is over is told so without waiting."""
    gate = Gate(1)
    gate.close(60.0)

    async with asyncio.timeout(29):
        assert not await gate.enter(30.0)
        assert not await gate.enter(FOREVER, until=asyncio.get_running_loop().time() + 30.0)

    assert scheduled() == []


async def test_without_patience_a_rate_limited_gate_refuses_at_once_and_an_open_one_does_not() -> None:
    """Whether anybody else waits or not."""
    queue = Queue(Gate(2))
    await queue.come("a", patience=0.0)
    assert queue.inside == ["a"]
    queue.gate.close(0.0)

    await queue.come("b", patience=0.0)

    assert queue.refused == ["b"]


def test_patience_ends_where_nobody_gets_through() -> None:
    """At a rate limited gate who waits for so long, and sees no request get through, is turned away."""

    async def main() -> None:
        queue = Queue(Gate(2))
        queue.gate.close(0.0)
        await queue.come("holder")
        await queue.come("late", patience=60.0)
        await queue.come("patient")
        await asyncio.sleep(119)
        assert queue.refused == []
        await asyncio.sleep(2)
        assert queue.refused == ["late"]
        await queue.go("holder")
        assert queue.inside == ["patient"]

    run(main())


def test_patience_does_not_end_while_others_get_through() -> None:
    """Each request that gets through shows the others that their turn will come."""

    async def main() -> None:
        queue = Queue(Gate(2))
        queue.gate.close(0.0)
        await queue.come("holder")
        await queue.come("waiting", patience=30.0)
        for _ in range(9):  # the tenth would bring a place
            await asyncio.sleep(50)
            queue.gate.got_through()
        await asyncio.sleep(59)
        assert queue.refused == []
        await asyncio.sleep(2)
        assert queue.refused == ["waiting"]

    run(main())


async def test_who_met_a_429_goes_first() -> None:
    """A call that comes again after a 429 passes those that have not had their turn; two of them keep their order."""
    queue = Queue(Gate(1))
    await queue.come("holder", "new")
    await queue.come("again", "again too", again=True)

    for name in ("holder", "again", "again too", "new"):
        assert queue.inside == [name]
        await queue.go(name)


async def test_turned_away_all_who_wait_get_false() -> None:
    """`turn_away` ends all waiting, at a closed gate as at a full one, and gives nobody a place."""
    gate = Gate(1)
    queue = Queue(gate)
    await queue.come("holder", "b")
    gate.close(60.0)
    await queue.come("c")

    gate.turn_away()
    await settle()

    assert queue.refused == ["b", "c"]
    assert scheduled() == []


async def test_turned_away_and_cancelled_in_the_same_moment_takes_no_place() -> None:
    """A waiter that gets False and is cancelled at once gives no place back that it never had."""
    gate = Gate(1)
    queue = Queue(gate)
    await queue.come("holder", "b")

    gate.turn_away()
    queue.tasks["b"].cancel()
    await settle()
    await queue.come("c", "d")

    assert queue.inside == ["holder"]
    await queue.cancel("c", "d")


def test_no_handle_is_left_once_all_have_entered() -> None:
    """A crowd that was let in through a rate limited gate leaves no timer, whatever its patience and its deadlines."""

    async def main() -> None:
        gate = Gate(8)
        gate.close(1)
        loop = asyncio.get_running_loop()

        async def enter(number: int) -> bool:
            entered = await gate.enter(1000.0 + number, until=loop.time() + 1000.0 + number)
            gate.got_through()
            gate.leave()
            return entered

        assert all(await asyncio.gather(*(enter(number) for number in range(300))))

        assert scheduled() == []
        assert not gate.is_rate_limited(loop.time())

    run(main())


def test_each_429_widens_the_gap_between_two_requests_and_an_open_gate_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Requests are spaced after 429s, further apart after more of them, and not at all once all may pass again."""
    monkeypatch.setattr(gate, "_FIRST_GAP", 0.05)

    async def main() -> tuple[float, float, float]:
        loop = asyncio.get_running_loop()

        async def pass_through(gate: Gate, count: int) -> float:
            began = loop.time()
            for _ in range(count):
                assert await gate.enter(1000)
                gate.leave()
            return loop.time() - began

        once, often = Gate(2), Gate(2)
        once.close(0.0)
        for _ in range(5):
            await asyncio.sleep(1)
            often.close(0.0)
        assert (once.refusals, often.refusals) == (1, 5)
        spaced, further = await pass_through(once, 5), await pass_through(often, 5)
        for _ in range(10):
            once.got_through()
            often.got_through()
        assert once.refusals == often.refusals == 0
        return spaced, further, await pass_through(once, 50) + await pass_through(often, 50)

    spaced, further, opened = run(main())
    assert spaced == pytest.approx(4 * 0.05)
    assert further == pytest.approx(4 * 0.05 * 1.25**4)
    assert opened <= 0.05 * (1 + 1.25**4)  # the first of each is spaced from the one before


# Clocks -------------------------------------------------------------------------------------------------------------


class MovingLoop(VirtualLoop):
    """Its clock moves at each reading, as real ones may."""

    step = 0.0

    def time(self) -> float:
        self._jump.now += self.step
        return super().time()


class CoarseLoop(VirtualLoop):
    """Its clock shows whole steps only, as uvloop's shows whole milliseconds."""

    step = 0.0

    def time(self) -> float:
        now = super().time()
        self._jump.step = self.step
        return now - now % self.step if self.step else now


steps = st.sampled_from([0.0, 1e-9, 1e-6, 1e-3, 0.013, 0.4])
acts = st.lists(
    st.tuples(st.sampled_from(["come", "429", "poll's 429", "through"]), st.floats(0, 0.5), st.floats(0, 2)),
    min_size=1,
    max_size=30,
)


@settings(max_examples=300)
@given(st.sampled_from([MovingLoop, CoarseLoop]), steps, st.integers(1, 4), acts)
def test_the_gate_never_forgets_to_open(
    kind: type[MovingLoop | CoarseLoop], step: float, places: int, acts: list[tuple[str, float, float]]
) -> None:
    """Whatever the clock does between two readings, everybody gets in, and no more than there are places at once."""

    async def main() -> None:
        gate = Gate(places)
        gate._gap = 0.01
        inside = 0

        async def pass_through(what: str, seconds: float) -> None:
            nonlocal inside
            assert await gate.enter(math.inf)  # without a timer of its own: only the gate can wake it
            inside += 1
            assert inside <= places
            await asyncio.sleep(seconds / 10)
            if what == "429":
                gate.close(seconds)
                inside -= 1
                gate.leave()
                assert await gate.enter(math.inf, again=True)
                inside += 1
            elif what == "through":
                gate.got_through()
            inside -= 1
            gate.leave()

        async with asyncio.TaskGroup() as group:
            for what, pause, seconds in acts:
                if what == "poll's 429":
                    gate.close(seconds)
                else:
                    group.create_task(pass_through(what, seconds))
                await asyncio.sleep(pause)
        assert gate._inside == 0

    with asyncio.Runner(loop_factory=kind) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, kind)
        loop.step = step
        runner.run(main())


def test_429s_of_requests_that_were_in_flight_together_count_once() -> None:
    """A burst of refusals is one: the pause does not grow with the number of requests that met it."""

    async def main() -> int:
        gate = Gate(5)
        for _ in range(5):
            gate.close(10.0)
        return gate.refusals

    assert run(main()) == 1
