"""When a wait is over: pure decisions from successive sightings of one order.

No I/O and no clock: the caller passes each sighting with the time at which its poll began. The poller passes only polls
that began after the wait, since older ones may show an earlier state.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TypeAlias

from attrs import Factory, define

from trooper_async._waiting.schedule import PollSchedule
from trooper_async._waiting.store import Blank
from trooper_async.models import Order, OrderStatus, StatusChange, Transition, meant, same_word

_STEADY_POLLS = 3
_LAG_SHARE = 1 / 3
"""Share of the schedule's cap by which a read may lag, so that a stale `running` is not taken for the end of a
restart.
"""
_LATE_CAPS = 3
"""Multiple of the schedule's cap: how long after a single proof a restart may still be about to take effect."""
_APPEAR_CAPS = 4
"""Multiple of the schedule's cap for which an order that was just bought may be missing from the list."""

Sighting: TypeAlias = Order | Blank


class Verdict(Enum):
    """What a sighting means for a wait, or how the wait ended."""

    WAIT = "wait"
    READ_HISTORY = "wait, and read the status history"
    DONE = "done"
    SUPERSEDED = "superseded"
    VANISHED = "vanished"
    FAILED_STATUS = "a status that the caller calls a failure"
    UNJUDGEABLE = "the API does not say what is wanted"
    TIMED_OUT = "its deadline has passed"
    FAILED = "the poll, or the caller's function, has failed"


@define(eq=False)
class Steady:
    """Whether a condition held on three sightings in a row that span at least `span` seconds.

    One or two contradicting polls prove nothing: reads may come from replicas that lag.
    """

    span: float
    _count: int = 0
    _first: float = 0.0

    def reset(self) -> None:
        self._count = 0

    def seen(self, at: float) -> bool:
        """The condition holds at the time `at`. Returns whether it is steady now."""
        if self._count == 0:
            self._first = at
        self._count += 1
        return self._count >= _STEADY_POLLS and at - self._first >= self.span


@define(eq=False, kw_only=True)
class Judge:
    """The rules that all waits for an order share; `_judge` decides what is specific to one."""

    transition: Transition | None = None
    """The accepted action that is waited for, if any."""
    target: OrderStatus | str | None
    cap: float
    fail_on: frozenset[str] = frozenset()
    """Statuses, in lower case, that end the wait once they are steady."""
    appearing: bool = False
    """Whether the order was just bought, and has not been seen yet."""
    _unclear: bool = False
    """Whether the last sighting was no order."""
    _absent: Steady | None = None
    _failed: Steady | None = None
    _received: float = 0.0

    @property
    def wants_every_poll(self) -> bool:
        """Whether the next sighting counts even if it equals the last one."""
        return self._unclear or self._failed is not None

    def observe(self, sighting: Sighting, at: float, received: float | None = None) -> Verdict:
        """Judge what a fresh poll showed; it was sent at `at` and its response came at `received`, in seconds."""
        self._received = at if received is None else received
        self._unclear = not isinstance(sighting, Order)
        if isinstance(sighting, Order):
            self.appearing, self._absent = False, None
            verdict = self._judge(sighting, at)
            return self._judge_failure(sighting, at) if self.fail_on and verdict is Verdict.WAIT else verdict
        self._unseen()
        if sighting is Blank.UNREADABLE:
            self._absent = None
            return Verdict.WAIT
        self._absent = self._absent or Steady(_APPEAR_CAPS * self.cap if self.appearing else self.cap)
        return Verdict.VANISHED if self._absent.seen(at) else Verdict.WAIT

    def _judge(self, order: Order, at: float) -> Verdict:
        raise NotImplementedError

    def _judge_failure(self, order: Order, at: float) -> Verdict:
        if order.current_status.casefold() not in self.fail_on:
            self._failed = None
            return Verdict.WAIT
        self._failed = self._failed or Steady(self.cap)
        return Verdict.FAILED_STATUS if self._failed.seen(at) else Verdict.WAIT

    def _unseen(self) -> None:
        """The order was not seen: counts of sightings in a row restart."""


@define(eq=False, kw_only=True)
class StatusJudge(Judge):
    """Waits until the current status is `target` and the desired status, if the API gives one, agrees.

    This is right whether `status_user` means the requested state or the last one reached. The wait is superseded if the
    desired status agreed once and both statuses are now, steadily, a different one.
    """

    _agreed: bool = False
    _superseding: Steady | None = None

    @property
    def wants_every_poll(self) -> bool:
        return super().wants_every_poll or self._superseding is not None

    def _judge(self, order: Order, at: float) -> Verdict:
        desired = order.desired_status
        agrees = desired is None or same_word(meant(desired), str(self.target))
        if desired is not None and agrees:
            self._agreed = True
        if self._agreed and not agrees and order.is_converged:
            self._not_arrived()
            self._superseding = self._superseding or Steady(self.cap)
            return Verdict.SUPERSEDED if self._superseding.seen(at) else Verdict.WAIT
        self._superseding = None
        if agrees and same_word(order.current_status, str(self.target)):
            return self._arrived(at)
        self._not_arrived()
        return Verdict.WAIT

    def _arrived(self, at: float) -> Verdict:
        return Verdict.DONE

    def _not_arrived(self) -> None:
        """It has not, or not for certain, reached the target."""

    def _unseen(self) -> None:
        self._superseding = None
        self._not_arrived()


@define(eq=False, kw_only=True)
class RestartJudge(StatusJudge):
    """A restart begins and ends at `running`, so `running` alone proves nothing.

    There are two proofs: a departure (another status was seen), and a row of the history that was not there before the
    restart was sent. With both, and a new row that says `running`, the wait is done at the first `running` that cannot
    be from before the departure. A single proof can have another cause: a stale read may show an earlier start, and a
    row may be written on acceptance, long before the restart takes effect. With only one, the wait is done once
    `running` is steady.
    """

    target: OrderStatus | str | None = OrderStatus.running
    before: Sequence[StatusChange] | None
    """The history as it was before the restart was sent; None if that is unknown."""
    floor: float
    departed_at: float | None = None
    recorded: bool = False
    _recorded_running: bool = False
    _running: Steady = Factory(lambda judge: Steady(_LATE_CAPS * judge.cap), takes_self=True)
    _running_polls: int = 0
    _running_at: float = 0.0
    _reads: int = 0
    _next_read_at: float = 0.0

    @property
    def wants_every_poll(self) -> bool:
        return super().wants_every_poll or self._running_polls > 0

    @property
    def proven(self) -> bool:
        """Whether any evidence of a restart was seen."""
        return self.departed_at is not None or self.recorded

    def _judge(self, order: Order, at: float) -> Verdict:
        if self.departed_at is None and not same_word(order.current_status, OrderStatus.running):
            self.departed_at = self._received
        return super()._judge(order, at)

    def _arrived(self, at: float) -> Verdict:
        self._running_polls += 1
        self._running_at = at
        if self._is_over():
            return Verdict.DONE
        if self.proven and self._running.seen(at):
            return Verdict.DONE
        if self.before is None or self._recorded_running or at < self._next_read_at:
            return Verdict.WAIT  # there is no baseline, nothing more to learn, or it is too early
        ask = self.departed_at is not None or self._running_polls >= 2
        return Verdict.READ_HISTORY if ask else Verdict.WAIT

    def _is_over(self) -> bool:
        """Whether both proofs exist, and the last `running` was read too late to be a stale read from before the
        departure.
        """
        if self.departed_at is None or not self._recorded_running or self._running_polls == 0:
            return False
        return self._running_at - self.departed_at >= _LAG_SHARE * self.cap

    def _not_arrived(self) -> None:
        self._running.reset()
        self._running_polls = 0

    def read_history(self, rows: Sequence[StatusChange] | None, at: float) -> Verdict:
        """Judge the history as read at `at` (None: it could not be read). The next read is due after floor, 2·floor, …
        cap.
        """
        self._next_read_at = at + min(self.cap, self.floor * 2 ** min(self._reads, 32))
        self._reads += 1
        new = new_rows(rows or (), self.before or ())
        self.recorded = self.recorded or bool(new)
        self._recorded_running = any(same_word(row.status_user, OrderStatus.running) for row in new)
        return Verdict.DONE if self._is_over() else Verdict.WAIT


@define(eq=False, kw_only=True)
class ReachJudge(StatusJudge):
    """Tells whether a server runs. It never ends the wait, since the SSH server has to respond as well."""

    target: OrderStatus | str | None = OrderStatus.running
    on_seen: Callable[[], object]
    running: bool = False

    def _arrived(self, at: float) -> Verdict:
        self.running = True
        self.on_seen()
        return Verdict.WAIT

    def _not_arrived(self) -> None:
        self.running = False


@define(eq=False, kw_only=True)
class ConvergedJudge(Judge):
    """Waits until the current status is the desired one, whatever that is."""

    target: OrderStatus | str | None = None

    def _judge(self, order: Order, at: float) -> Verdict:
        if order.desired_status is None:
            return Verdict.UNJUDGEABLE
        return Verdict.DONE if order.is_converged else Verdict.WAIT


@define(eq=False, kw_only=True)
class PredicateJudge(Judge):
    """Waits until the caller's function returns True. It is called for the first sighting, and then for each change."""

    target: OrderStatus | str | None = None
    predicate: Callable[[Order], bool]
    _last: Order | None = None

    def _judge(self, order: Order, at: float) -> Verdict:
        if order == self._last:
            return Verdict.WAIT
        self._last = order
        returned: object = self.predicate(order)
        if returned is True:
            return Verdict.DONE
        if returned is False:
            return Verdict.WAIT
        if inspect.iscoroutine(returned):
            returned.close()
        raise TypeError(f"the predicate must return a bool, not {type(returned).__name__} (an async one can't be used)")


def judge_of(transition: Transition, schedule: PollSchedule) -> Judge:
    """The judge for an accepted action."""
    cap, target = schedule.cap, transition.target
    if transition.action == "restart":
        departed_at = -math.inf if transition.departed else None
        before, floor = transition.history_before, schedule.floor
        return RestartJudge(transition=transition, before=before, cap=cap, floor=floor, departed_at=departed_at)
    appearing = transition.action in ("create", "migrate")
    return StatusJudge(transition=transition, target=target, cap=cap, appearing=appearing)


def new_rows(rows: Sequence[StatusChange], before: Sequence[StatusChange]) -> list[StatusChange]:
    """The rows that were not there before. Ids may fall with time or be ranks, so they count only for rows without a
    time.
    """
    known = {_identity(row) for row in before}
    return [row for row in rows if _identity(row) not in known]


def _identity(row: StatusChange) -> tuple[str, object]:
    return row.status_user.casefold(), row.id if row.status_since is None else row.status_since
