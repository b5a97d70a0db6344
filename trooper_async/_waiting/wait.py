"""One wait for an order: what it has seen, when it ends, and the error with which it fails."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable
from contextvars import copy_context
from typing import Required, TypedDict, Unpack

from trooper_async._waiting.histories import Histories
from trooper_async._waiting.judges import Judge, PredicateJudge, RestartJudge, Verdict
from trooper_async._waiting.poller import Poller, Subscription
from trooper_async._waiting.store import Snapshot
from trooper_async.errors import (
    APIStatusError,
    ClientClosedError,
    OrderNotFoundError,
    OrderVanishedError,
    OutcomeUnknownError,
    SupersededError,
    TrooperError,
    WaitContext,
    WaitError,
    WaitTimeoutError,
)
from trooper_async.models import Order, StatusChange, Transition

OnChange = Callable[[Order], object]
"""Called with an order for each status seen during a wait. A plain function: a coroutine is not awaited."""


class WaitOptions(TypedDict, total=False):
    """What a wait takes besides the order and its judge."""

    operation: Required[str]
    """What is attempted, as errors name it."""
    timeout: Required[float | None]
    """Seconds from `began` until the wait ends; None for no limit."""
    began: float | None
    """When the surrounding call began, by the event loop's clock; None for now."""
    on_change: OnChange | None
    """Called with the order for each status seen."""


class Wait(Subscription[Order]):
    """A wait for an order, driven by the poll.

    Args:
        order_id: the order.
        judge: decides when the wait is over.
        transition: the accepted action that is waited for, if any.
        lost: the action's error, if its response was lost.
        on_end: called once, when the wait has ended.
        histories: reads the order's status history when the judge wants it.
    """

    __slots__ = (
        "_context",
        "_histories",
        "_on_change",
        "_on_end",
        "began",
        "error",
        "judge",
        "lost",
        "operation",
        "order",
        "other_error",
        "timeout",
        "transition",
        "verdict",
    )

    def __init__(
        self,
        order_id: int,
        judge: Judge,
        *,
        transition: Transition | None,
        lost: OutcomeUnknownError | None,
        on_end: Callable[[Wait], None],
        histories: Histories,
        **options: Unpack[WaitOptions],
    ) -> None:
        began, timeout, on_change = options.get("began"), options["timeout"], options.get("on_change")
        self.began: float = asyncio.get_running_loop().time() if began is None else began
        super().__init__(order_id, deadline=math.inf if timeout is None else self.began + timeout)
        self.judge: Judge = judge
        self.operation: str = options["operation"]
        self.timeout: float | None = timeout
        self.transition: Transition | None = transition
        self.lost: OutcomeUnknownError | None = lost
        self._on_change = on_change
        self._on_end = on_end
        self._histories = histories
        # the caller's functions run in the caller's context, not in that of the poll
        self._context = copy_context() if on_change is not None or isinstance(judge, PredicateJudge) else None
        self.order: Order | None = None
        self.verdict: Verdict = Verdict.WAIT
        self.error: BaseException | None = None
        self.other_error: TrooperError | None = None

    @property
    def order_id(self) -> int:
        assert self.item_id is not None  # noqa: S101 - __init__ takes an int
        return self.item_id

    @property
    def ended(self) -> bool:
        return self.verdict is not Verdict.WAIT

    def observe(self, snapshot: Snapshot[Order], began: float, received: float) -> bool:
        if self._context is None:
            return self._observe(snapshot, began, received)
        return self._context.run(self._observe, snapshot, began, received)

    def _observe(self, snapshot: Snapshot[Order], began: float, received: float) -> bool:
        sighting = snapshot.get(self.order_id)
        if isinstance(sighting, Order):
            before, self.order = self.order, sighting
            if self._on_change is not None and (before is None or _statuses(before) != _statuses(sighting)):
                _call(self._on_change, sighting)
        verdict = self.judge.observe(sighting, began, received)
        if verdict is Verdict.READ_HISTORY:
            self._histories.ask(self.order_id, self._history_was_read)
        elif verdict is not Verdict.WAIT:
            self._end(verdict)
        return self.judge.wants_every_poll

    def _history_was_read(self, read: list[StatusChange] | TrooperError, at: float) -> None:
        rows = None if isinstance(read, TrooperError) else read
        if isinstance(read, TrooperError):
            self.other_error = read
        if isinstance(self.judge, RestartJudge) and self.judge.read_history(rows, at) is Verdict.DONE:
            self._end(Verdict.DONE)

    def fail(self, error: BaseException) -> None:
        self.error = error
        self._end(Verdict.FAILED)

    def expire(self) -> None:
        self._end(Verdict.TIMED_OUT)

    def cancel(self) -> None:
        """End a wait whose result is not needed any more."""
        self._on_end = lambda wait: None
        self._end(Verdict.FAILED)

    def _end(self, verdict: Verdict) -> None:
        if not self.ended:
            self.verdict = verdict
            if isinstance(self.judge, RestartJudge):
                self._histories.forget(self._history_was_read)
            self._on_end(self)

    def result(self, poller: Poller[Order]) -> Order:
        """Return the order in its target state, or raise the error with which the wait failed."""
        if self.verdict is Verdict.DONE and self.order is not None:
            return self.order
        error = self.failure(poller)
        if isinstance(error, WaitError) and error.__cause__ is None and self.lost is not None:
            raise error from self.lost
        raise error

    def context(self, poller: Poller[Order]) -> WaitContext:
        """What all errors of this wait state."""
        return WaitContext(
            operation=self.operation,
            subject=f"order {self.order_id}",
            seconds=asyncio.get_running_loop().time() - self.began,
            order=self.order,
            target=self.judge.target,
            polls=poller.good_polls(self),
            last_error=poller.last_error or self.other_error,
            transition=self.transition,
        )

    def failure(self, poller: Poller[Order]) -> BaseException:
        """The error with which it failed."""
        subject = f"order {self.order_id}"
        seconds = asyncio.get_running_loop().time() - self.began
        if isinstance(self.error, ClientClosedError):
            if self.lost is not None:
                return self.lost.about(self.operation, subject)
            closed = self.error.about(self.operation, subject)
            if self.transition is not None:
                text = (
                    f"the API accepted the {self.transition.action}, and the client was closed before it was confirmed"
                )
                closed = ClientClosedError(text, transition=self.transition, operation=self.operation, subject=subject)
            closed.seconds = seconds
            return closed
        if self.error is not None and not isinstance(self.error, APIStatusError):
            return self.error  # of the caller's function
        context = self.context(poller)
        last = _last_seen(self.order)
        what = self.judge.target or "the awaited condition"
        match self.verdict:
            case Verdict.FAILED if isinstance(self.error, APIStatusError):
                refused = WaitError(f"{refusal(self.error)} ({last})", **context)
                refused.__cause__ = refused.last_error = self.error
                return refused
            case Verdict.SUPERSEDED:
                return SupersededError(f"another action replaced this one ({last}, not {what})", **context)
            case Verdict.VANISHED if self.order is None and self.transition is None:
                not_found = OrderNotFoundError("it is not in the list of orders", operation=self.operation)
                not_found.subject, not_found.seconds = subject, seconds
                return not_found
            case Verdict.VANISHED:
                return OrderVanishedError(f"it is no longer in the list of orders ({last})", **context)
            case Verdict.FAILED_STATUS:
                return WaitError(f"it is {last.removeprefix('last seen ')}, which cannot become {what}", **context)
            case Verdict.UNJUDGEABLE:
                text = "the API gives no desired status for it: wait for a status by name instead"
                return WaitError(text, **context)
        if isinstance(self.judge, RestartJudge) and last.startswith("last seen running"):
            last = "running, but " + (
                "not for long enough yet to prove the restart" if self.judge.proven else "no restart was seen"
            )
        text = f"{what} was not reached within {self.timeout or 0:g} s ({last})"
        if poller.last_error is not None:
            text += f"; no poll has succeeded for {poller.silent_for():.0f} s: {poller.last_error.message}"
        elif self.other_error is not None:
            text += f"; the last failure in that time: {self.other_error.message}"
        return WaitTimeoutError(text, **context)


def refusal(error: APIStatusError) -> str:
    """Why all waits of a client failed."""
    return f"the API refuses the key, twice in a row: the API returned {error.status}: {error.message.rstrip('.')}"


def _call(on_change: OnChange, order: Order) -> None:
    returned = on_change(order)
    if inspect.iscoroutine(returned):
        returned.close()
        raise TypeError("on_change must be a plain function: a coroutine is not awaited")


def _statuses(order: Order) -> tuple[str, str | None]:
    return order.current_status, order.desired_status


def _last_seen(order: Order | None) -> str:
    if order is None:
        return "never seen in the list"
    desired = order.desired_status
    return f"last seen {order.current_status}" + (f", desired {desired}" if desired is not None else "")
