"""One wait for an order: what it has seen, when it ends, and the error with which it fails."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Required, TypedDict

from attrs import Factory, define

from trooper_async._api.arguments import deadline
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
from trooper_async.models import Order, StatusChange

OnChange = Callable[[Order], object]
"""Called with an order for each status seen during a wait. A plain function: a coroutine is not awaited."""


class WaitOptions(TypedDict, total=False):
    """What a wait takes besides the order and its judge."""

    operation: Required[str]
    """What is attempted, as errors name it."""
    timeout: Required[float | None]
    """Seconds from `began` until the wait ends; None for no limit."""
    began: float
    """When the surrounding call began, by the event loop's clock; by default now."""
    on_change: OnChange | None
    """Called with the order for each status seen."""


@define(eq=False, kw_only=True)
class Wait(Subscription[Order]):
    """A wait for an order, driven by the poll."""

    order_id: int
    judge: Judge
    """Decides when the wait is over."""
    operation: str
    timeout: float | None
    began: float = Factory(lambda: asyncio.get_running_loop().time())
    lost: OutcomeUnknownError | None = None
    """The action's error, if its response was lost."""
    on_change: OnChange | None = None
    on_end: Callable[[Wait], object]
    """Called once, when the wait has ended."""
    histories: Histories
    """Reads the order's status history when the judge wants it."""
    order: Order | None = None
    """The order as last seen."""
    verdict: Verdict = Verdict.WAIT
    error: BaseException | None = None
    """Why it failed, unless the judge decided so."""
    other_error: TrooperError | None = None
    """The last failure of what it read besides the list."""
    _context: Context | None = None

    def __attrs_post_init__(self) -> None:
        self.item_id: int | None = self.order_id
        self.deadline: float = deadline(self.began, self.timeout)
        # the caller's functions run in the caller's context, not in that of the poll
        if self.on_change is not None or isinstance(self.judge, PredicateJudge):
            self._context = copy_context()

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
            if self.on_change is not None and (before is None or _statuses(before) != _statuses(sighting)):
                _call(self.on_change, sighting)
        verdict = self.judge.observe(sighting, began, received)
        if verdict is Verdict.READ_HISTORY:
            self.histories.ask(self.order_id, self._history_was_read)
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
        self.on_end = lambda wait: None
        self._end(Verdict.FAILED)

    def _end(self, verdict: Verdict) -> None:
        if not self.ended:
            self.verdict = verdict
            if isinstance(self.judge, RestartJudge):
                self.histories.forget(self._history_was_read)
            self.on_end(self)

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
            transition=self.judge.transition,
        )

    def failure(self, poller: Poller[Order]) -> BaseException:
        """The error with which it failed."""
        subject = f"order {self.order_id}"
        seconds = asyncio.get_running_loop().time() - self.began
        if isinstance(self.error, ClientClosedError):
            if self.lost is not None:
                return self.lost.about(self.operation, subject)
            closed = self.error.about(self.operation, subject)
            if (transition := self.judge.transition) is not None:
                text = f"the API accepted the {transition.action}, and the client was closed before it was confirmed"
                closed = ClientClosedError(text, transition=transition, operation=self.operation, subject=subject)
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
            case Verdict.VANISHED if self.order is None and self.judge.transition is None:
                text = "it is not in the list of orders"
                return OrderNotFoundError(text, operation=self.operation, subject=subject, seconds=seconds)
            case Verdict.VANISHED:
                return OrderVanishedError(f"it is no longer in the list of orders ({last})", **context)
            case Verdict.FAILED_STATUS:
                return WaitError(f"it cannot become {what} ({last})", **context)
            case Verdict.UNJUDGEABLE:
                text = "the API gives no desired status for it: wait for a status by name instead"
                return WaitError(text, **context)
        if isinstance(self.judge, RestartJudge) and last.startswith("last seen running"):
            last = "running, but " + (
                "not for long enough yet to prove the restart" if self.judge.proven else "no restart was seen"
            )
        text = f"{what} was not reached within {self.timeout or 0:g} s ({last})"
        text += poller.failing()
        if poller.last_error is None and self.other_error is not None:
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
