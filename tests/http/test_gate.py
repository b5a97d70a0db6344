"""The gate that all requests except polls pass: places, rate limits, patience and deadlines; nothing is left behind."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tools.simulator.clock import VirtualLoop, run
from trooper_async._http import gate
from trooper_async._http.gate import Gate

FOREVER = 1e9


@pytest.fixture(autouse=True)
def _no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests the places alone: the gap between two requests is tested below and in test_rate_limit."""
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


async def test_only_as_many_callers_as_places_are_inside() -> None:
    """As many callers as there are places enter at once; the next waits until one leaves."""
    queue = Queue(Gate(3))

    await queue.come("a", "b", "c", "d")

    assert queue.inside == ["a", "b", "c"]
    await queue.go("b")
    assert queue.inside == ["a", "c", "d"]


async def test_waiters_enter_in_the_order_of_their_arrival() -> None:
    """Waiters enter in the order in which they came."""
    queue = Queue(Gate(1))
    names = [str(number) for number in range(10)]

    await queue.come(*names)
    for name in names:
        assert queue.inside == [name]
        await queue.go(name)

    assert queue.inside == []


async def test_a_new_caller_does_not_overtake_a_waiter_when_a_place_becomes_free() -> None:
    """A caller that comes just after a place became free goes behind those already waiting."""
    queue = Queue(Gate(1))
    await queue.come("holder", "first")

    queue.inside.remove("holder")
    queue.gate.leave()  # `first` is let in, and has not run yet
    await queue.come("late")

    assert queue.inside == ["first"]
    await queue.go("first")
    assert queue.inside == ["late"]


async def test_a_new_caller_does_not_overtake_a_waiter_when_the_pause_ends() -> None:
    """A caller that comes when the pause has just passed, before the gate opens, goes behind those waiting."""
    queue = Queue(Gate(1))
    queue.gate.close(60.0)
    await queue.come("first")

    queue.gate.opens_at = asyncio.get_running_loop().time()  # as if a minute had passed
    await queue.come("late")

    assert queue.inside == ["first"]
    await queue.go("first")
    assert queue.inside == ["late"]


def test_patience_does_not_count_without_a_rate_limit() -> None:
    """Without a 429, a caller waits for others as long as they take."""

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
def test_a_deadline_ends_any_waiting(rate_limited: bool) -> None:
    """A waiter is turned away at `until`, even if the gate is only full; one whose deadline has passed never enters."""

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


async def test_a_cancelled_waiter_is_skipped() -> None:
    """A waiter that was cancelled takes no place."""
    queue = Queue(Gate(1))
    await queue.come("holder", "gone", "next")

    await queue.cancel("gone")
    await queue.go("holder")

    assert queue.inside == ["next"]


@pytest.mark.parametrize("cancelled_first", [True, False], ids=["cancelled, then let in", "let in, then cancelled"])
async def test_a_waiter_cancelled_while_entering_returns_its_place(cancelled_first: bool) -> None:
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


async def test_cancelling_all_waiters_of_a_closed_gate_leaves_no_timer() -> None:
    """After all waiters of a closed gate were cancelled, no timer is left to open it."""
    queue = Queue(Gate(2))
    queue.gate.close(60.0)
    names = [str(number) for number in range(500)]
    await queue.come(*names)

    await queue.cancel(*names)

    assert scheduled() == []
    assert queue.inside == queue.refused == []


async def test_cancelling_all_waiters_of_a_full_gate_loses_no_place() -> None:
    """After all waiters of a full gate were cancelled, the next caller enters when a place is free."""
    queue = Queue(Gate(1))
    names = [str(number) for number in range(500)]
    await queue.come("holder", *names)

    await queue.cancel(*names)
    await queue.come("next")

    assert queue.inside == ["holder"]
    await queue.go("holder")
    assert queue.inside == ["next"]


def test_a_closed_gate_lets_nobody_in_before_its_pause_is_over() -> None:
    """Nobody enters before `opens_at`, neither a new caller nor a waiter."""

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


def test_a_second_429_can_only_lengthen_the_pause() -> None:
    """Of two pauses the later end counts, also for those who already wait."""

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
    """After the pause one caller enters, and the next only when that one has left."""
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
async def test_ten_successes_add_one_place(successes: int, at_once: int) -> None:
    """Every ten successes let one more request pass at a time, up to the original number."""
    gate = Gate(4)
    gate.close(0.0)
    await pass_with_success(gate, successes)
    queue = Queue(gate)

    await queue.come(*"abcdef")

    assert len(queue.inside) == at_once
    assert gate.is_rate_limited(asyncio.get_running_loop().time()) is (at_once < 4)
    await queue.cancel(*(name for name in "abcdef" if name not in queue.inside))


async def test_a_place_added_by_a_success_is_used_at_once() -> None:
    """The tenth success lets a waiter in although nobody leaves."""
    gate = Gate(2)
    gate.close(0.0)
    await pass_with_success(gate, 9)
    queue = Queue(gate)
    await queue.come("a", "b")
    assert queue.inside == ["a"]

    gate.got_through()
    await settle()

    assert queue.inside == ["a", "b"]


async def test_another_429_lets_requests_pass_one_by_one_again() -> None:
    """However many passed at once before, after another 429 it is one at a time."""
    gate = Gate(4)
    gate.close(0.0)
    await pass_with_success(gate, 25)
    gate.close(0.0)
    await pass_with_success(gate, 9)
    queue = Queue(gate)

    await queue.come("a", "b")

    assert queue.inside == ["a"]
    await queue.cancel("b")


async def test_callers_inside_during_a_429_count() -> None:
    """Those inside when the gate closed may finish, and only then the next enters."""
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
    """A caller whose patience or deadline ends before the pause is over is refused without waiting."""
    gate = Gate(1)
    gate.close(60.0)

    async with asyncio.timeout(29):
        assert not await gate.enter(30.0)
        assert not await gate.enter(FOREVER, until=asyncio.get_running_loop().time() + 30.0)

    assert scheduled() == []


async def test_a_caller_without_patience_is_refused_only_by_a_rate_limited_gate() -> None:
    """A rate limited gate refuses it at once whether anybody else waits or not; an open gate lets it wait."""
    queue = Queue(Gate(2))
    await queue.come("a", patience=0.0)
    assert queue.inside == ["a"]
    queue.gate.close(0.0)

    await queue.come("b", patience=0.0)

    assert queue.refused == ["b"]


def test_patience_ends_if_nobody_gets_through() -> None:
    """At a rate limited gate, a waiter that sees no request succeed for that long is turned away."""

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


def test_patience_lasts_while_others_get_through() -> None:
    """Each request that succeeds shows the waiters that their turn will come."""

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


async def test_a_call_that_met_a_429_goes_first() -> None:
    """A call that comes back after a 429 passes those that have not had their turn; two of them keep their order."""
    queue = Queue(Gate(1))
    await queue.come("holder", "new")
    await queue.come("again", "again too", again=True)

    for name in ("holder", "again", "again too", "new"):
        assert queue.inside == [name]
        await queue.go(name)


async def test_turn_away_ends_all_waiting_with_false() -> None:
    """`turn_away` ends all waiting, at a closed gate and at a full one, and gives nobody a place."""
    gate = Gate(1)
    queue = Queue(gate)
    await queue.come("holder", "b")
    gate.close(60.0)
    await queue.come("c")

    gate.turn_away()
    await settle()

    assert queue.refused == ["b", "c"]
    assert scheduled() == []


async def test_a_waiter_turned_away_and_cancelled_at_once_returns_no_place() -> None:
    """A waiter that gets False and is cancelled at the same moment does not return a place that it never had."""
    gate = Gate(1)
    queue = Queue(gate)
    await queue.come("holder", "b")

    gate.turn_away()
    queue.tasks["b"].cancel()
    await settle()
    await queue.come("c", "d")

    assert queue.inside == ["holder"]
    await queue.cancel("c", "d")


def test_no_timer_is_left_once_all_have_entered() -> None:
    """Callers that entered through a rate limited gate leave no timer, whatever their patience and deadlines."""

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


def test_each_429_widens_the_gap_between_two_requests(
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


@given(st.sampled_from([MovingLoop, CoarseLoop]), steps, st.integers(1, 4), acts)
def test_the_gate_opens_whatever_the_clock_does(
    kind: type[MovingLoop | CoarseLoop], step: float, places: int, acts: list[tuple[str, float, float]]
) -> None:
    """Whatever the clock does between two readings, every caller enters, and no more at once than there are places."""

    async def main() -> None:
        gate = Gate(places)
        gate._gap = 0.01
        inside = 0

        async def pass_through(what: str, seconds: float) -> None:
            nonlocal inside
            assert await gate.enter(math.inf)  # without its own timer: only the gate can wake it
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


def test_429s_of_simultaneous_requests_count_once() -> None:
    """A burst of 429s counts as one: the pause does not grow with the number of requests that met it."""

    async def main() -> int:
        gate = Gate(5)
        for _ in range(5):
            gate.close(10.0)
        return gate.refusals

    assert run(main()) == 1
