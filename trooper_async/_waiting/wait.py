"""The state of one wait for an order, and the error that it ends with where it does not end well."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import copy_context
from typing import Unpack

from trooper_async._waiting.judges import Judge, PredicateJudge, RestartJudge, Verdict
from trooper_async._waiting.store import Snapshot
from trooper_async._waiting.subscription import Subscription
from trooper_async.errors import (
    OrderNotFoundError,
    OrderVanishedError,
    SupersededError,
    TrooperError,
    WaitContext,
    WaitError,
    WaitTimeoutError,
)
from trooper_async.models import Order

OnChange = Callable[[Order], object]


class Wait:
    """The state of one wait for an order."""

    __slots__ = ("_context", "_on_change", "asks_history", "end", "judge", "last_error", "order", "order_id", "ticket")

    def __init__(self, order_id: int, judge: Judge, on_change: OnChange | None, deadline: float) -> None:
        self.order_id = order_id
        self.judge = judge
        self._on_change = on_change
        # the caller's functions run in the caller's context, not in the poll's
        self._context = copy_context() if on_change is not None or isinstance(judge, PredicateJudge) else None
        self.ticket = Subscription(self._observe, order_id, deadline=deadline)
        self.order: Order | None = None
        self.end: Verdict | None = None
        self.asks_history = False
        self.last_error: TrooperError | None = None

    def _observe(self, snapshot: Snapshot, at: float, answered: float) -> bool:
        if self.end is not None:
            return False
        if self._context is None:
            return self._judge(snapshot, at, answered)
        return self._context.run(self._judge, snapshot, at, answered)

    def _judge(self, snapshot: Snapshot, at: float, answered: float) -> bool:
        sighting = snapshot.sighting(self.order_id)
        if isinstance(sighting, Order):
            before, self.order = self.order, sighting
            if self._on_change is not None and (before is None or _words(before) != _words(sighting)):
                _call(self._on_change, sighting)
        verdict = self.judge.observe(sighting, at, answered)
        if verdict is Verdict.ASK_HISTORY:
            self.asks_history = True
        elif verdict is not Verdict.WAIT:
            self.end = verdict
        if verdict is not Verdict.WAIT:
            self.ticket.tell()
        return self.judge.restless


def _words(order: Order) -> tuple[str, str | None]:
    return order.current_status, order.desired_status


def _call(on_change: OnChange, order: Order) -> None:
    answer = on_change(order)
    if inspect.iscoroutine(answer):
        answer.close()
        raise TypeError("on_change must be a plain function: nobody awaits a coroutine")


def ended(wait: Wait, timeout: float | None, **context: Unpack[WaitContext]) -> TrooperError:
    """The error of a wait that did not end well."""
    last = "never seen in the list"
    if wait.order is not None:
        wish = wait.order.desired_status
        last = f"last seen {wait.order.current_status}" + (f", desired {wish}" if wish is not None else "")
    what = context.get("target") or "what was waited for"
    match wait.end:
        case Verdict.SUPERSEDED:
            return SupersededError(f"another switch took the place of this one ({last}, not {what})", **context)
        case Verdict.VANISHED if wait.order is None and context.get("transition") is None:
            return OrderNotFoundError(
                "it is not in the list of orders",
                operation=context.get("operation", ""),
                subject=context.get("subject", ""),
                seconds=context.get("seconds", 0.0),
            )
        case Verdict.VANISHED:
            return OrderVanishedError(f"it is not in the list of orders ({last})", **context)
        case Verdict.UNJUDGEABLE:
            return WaitError("the API gives no desired status for it: wait for a status by name instead", **context)
    if isinstance(wait.judge, RestartJudge) and not wait.judge.proven and last.startswith("last seen running"):
        last = "running, but no restart was seen"
    elif isinstance(wait.judge, RestartJudge) and last.startswith("last seen running"):
        last = "running, but not for long enough yet to prove the restart"
    text = f"{what} was not reached within {timeout or 0:g} s ({last})"
    error = context.get("last_error")
    return WaitTimeoutError(f"{text}; the last failure meanwhile: {error.message}" if error else text, **context)
