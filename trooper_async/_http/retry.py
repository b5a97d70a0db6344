"""What is sent again, and after how long: a pure decision, no clock and no I/O. The only user of `backoff`."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from itertools import islice
from typing import Any

from attrs import Attribute, field, frozen

from trooper_async._api.endpoints import Repeatability
from trooper_async._api.responses import Failure
from trooper_async.errors import ConfigurationError

MAX_RETRY_AFTER = 120.0
"""Seconds; who asks for a longer pause gets no second request from this call."""


_RETRIED = {
    Repeatability.READ: {Failure.NEVER_SENT, Failure.LOST, Failure.SERVER_ERROR, Failure.UNREADABLE},
    Repeatability.SETTING: {Failure.NEVER_SENT, Failure.LOST, Failure.SERVER_ERROR, Failure.UNREADABLE},
    Repeatability.ONCE: {Failure.NEVER_SENT},
    Repeatability.PURCHASE: {Failure.NEVER_SENT},
}

_DEFINITE = {Failure.NEVER_SENT, Failure.REFUSED, Failure.RATE_LIMITED}
"""After these, this attempt has changed nothing, for certain."""


def outcome_unknown(kind: Repeatability, attempts: list[Failure]) -> bool:
    """Whether a call that gives up after these attempts may have done its work all the same."""
    match kind:
        case Repeatability.READ:
            return False
        case Repeatability.ONCE | Repeatability.PURCHASE:
            return any(failure not in _DEFINITE for failure in attempts)
        case Repeatability.SETTING if attempts[-1] in _DEFINITE:
            return any(failure not in _DEFINITE for failure in attempts)
        case Repeatability.SETTING:
            # a last answer that is whole has its own class of error, unless an attempt without one may be at work still
            return Failure.LOST in attempts


def _number(least: float) -> Callable[[object, Attribute[Any], float], None]:
    def validate(instance: object, attribute: Attribute[Any], value: float) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < float("inf"):
            raise ConfigurationError(f"RetryPolicy.{attribute.name} must be a number of at least {least:g}")

    return validate


def _whole(instance: object, attribute: Attribute[int], value: int) -> None:
    if type(value) is not int:
        raise ConfigurationError(f"RetryPolicy.{attribute.name} must be a whole number")


@frozen
class RetryPolicy:
    """How often a call is tried, and how long it may go on trying.

    `attempts` in all; `max_delay` seconds between two at the most; `deadline` seconds after which no further attempt
    starts (it never cuts one on the wire that must not be repeated); `budget` retries that a client may have in hand
    against a failing API (each call brings back a tenth of one). A 429 costs neither attempts nor budget.
    """

    attempts: int = field(default=4, validator=[_whole, _number(1)])
    max_delay: float = field(default=20.0, validator=_number(0))
    deadline: float = field(default=60.0, validator=_number(0))
    budget: int = field(default=10, validator=[_whole, _number(0)])

    def delay(
        self,
        kind: Repeatability,
        attempts: list[Failure],
        *,
        left: float,
        retry_after: float | None = None,
        budget: float = 1.0,
        rng: Callable[[], float] = random.random,
    ) -> float | None:
        """Seconds until the next attempt, or None to give up.

        Args:
            kind: what is being called.
            attempts: what became of each attempt so far, the last one last.
            left: seconds of the call's deadline that are left.
            retry_after: seconds that the API asked to wait. Never undercut.
            budget: retries that the client has in hand.
            rng: the jitter's source, from 0 up to 1.
        """
        last = attempts[-1]
        tries = len(attempts)
        if last is Failure.RATE_LIMITED:
            tries = attempts.count(Failure.RATE_LIMITED)
        else:
            counted = tries - attempts.count(Failure.RATE_LIMITED)
            if last not in _RETRIED[kind] or counted >= self.attempts or budget < 1:
                return None
            if last is Failure.UNREADABLE and attempts.count(last) > 1:
                return None
        delay = self.backoff(tries, rng)
        if retry_after is not None:
            if retry_after > MAX_RETRY_AFTER:
                return None
            delay = max(delay, retry_after + min(1.0, 0.1 * retry_after) * rng())
        return delay if delay < left else None

    def backoff(self, tries: int, rng: Callable[[], float] = random.random) -> float:
        """Seconds to wait after that many tries: 0.5·2ⁿ, at most `max_delay`, times a jitter of 0.5 to 1."""
        return min(self.max_delay, _expo(tries)) * (0.5 + 0.5 * rng())


ONE_ATTEMPT = RetryPolicy(attempts=1)
"""For what is asked again on a schedule anyway: the two must not multiply."""


@cache
def _expo(tries: int) -> float:
    from backoff import expo

    # expo yields None once before its values; past 32 doublings every cap is reached
    return next(islice(expo(factor=0.5), min(tries, 32), None))
