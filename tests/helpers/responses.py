"""The meaning of a response, in one call: `interpret` pauses for the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from trooper_async._api.endpoints import Call
from trooper_async._api.responses import FailedAttempt, Response, interpret
from trooper_async._base.slices import SlicedWork

T = TypeVar("T")


def at_once(steps: SlicedWork[T]) -> T:
    """Run it to the end without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def interpreted(
    call: Call[T], response: Response, *, redact: Callable[[str], str] = str, now: float = 0.0
) -> T | FailedAttempt:
    """The meaning of the response to `call`."""
    work = interpret(call, response, redact=redact, now=now)
    return at_once(work)
