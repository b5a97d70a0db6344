"""What is retried, and after how long: a pure decision, without clock and I/O. The only user of `backoff`.

The table and its rules are in the docstring of `trooper_async._http`.
"""

from __future__ import annotations

import math
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
"""Seconds; if the API asks for a longer pause, the call gives up."""


_RETRIED = {
    Repeatability.READ: {Failure.NEVER_SENT, Failure.LOST, Failure.SERVER_ERROR, Failure.UNREADABLE},
    Repeatability.SETTING: {Failure.NEVER_SENT, Failure.LOST, Failure.SERVER_ERROR, Failure.UNREADABLE},
    Repeatability.ONCE: {Failure.NEVER_SENT},
    Repeatability.PURCHASE: {Failure.NEVER_SENT},
}

_DEFINITE = {Failure.NEVER_SENT, Failure.REFUSED, Failure.RATE_LIMITED}
"""Failures after which the attempt has certainly changed nothing."""


def outcome_unknown(kind: Repeatability, attempts: list[Failure]) -> bool:
    """Whether a call that gives up after these attempts may have taken effect."""
    match kind:
        case Repeatability.READ:
            return False
        case Repeatability.ONCE | Repeatability.PURCHASE:
            return any(failure not in _DEFINITE for failure in attempts)
        case Repeatability.SETTING if attempts[-1] in _DEFINITE:
            return any(failure not in _DEFINITE for failure in attempts)
        case Repeatability.SETTING:
            # a whole last response has its own error class, unless an earlier attempt without one may have taken effect
            return Failure.LOST in attempts


def _limit(
    least: float, *, whole: bool = False, optional: bool = True
) -> Callable[[object, Attribute[Any], float | None], None]:
    def validate(instance: object, attribute: Attribute[Any], value: float | None) -> None:
        if value is None and optional:
            return
        is_number = type(value) is int or (isinstance(value, float) and not whole)
        if value is None or not is_number or not least <= value < math.inf:
            what = f"{'a whole number' if whole else 'a number'} of at least {least:g}{', or None' if optional else ''}"
            raise ConfigurationError(f"RetryPolicy.{attribute.name} must be {what}")

    return validate


@frozen
class RetryPolicy:
    """How often a call is tried, and for how long.

    A 429 is not a failure: it uses neither attempts nor budget, and slows down all calls of the client until they
    succeed. A call that waits behind others waits as long as they succeed: a gather of 1,000 calls at 60 a minute
    succeeds. `RateLimitError` is raised if the API asks for a pause of more than `deadline` or 120 seconds, if it still
    returns 429 `deadline` seconds after the first request of the call, or if no call succeeds for twice as long.

    Attributes:
        attempts: the number of requests that one call may send, the first one included; None for no limit.
        max_delay: the greatest delay between two attempts, in seconds.
        deadline: seconds after which no further attempt starts; None for no limit. It never cuts a request in flight
            that must not be repeated.
        budget: the number of retries that the whole client may spend while the API fails; None for no limit. Each call
            adds a tenth of a retry, up to this number.
    """

    attempts: int | None = field(default=4, validator=_limit(1, whole=True))
    max_delay: float = field(default=20.0, validator=_limit(0, optional=False))
    deadline: float | None = field(default=60.0, validator=_limit(0))
    budget: int | None = field(default=10, validator=_limit(0, whole=True))

    @property
    def most_seconds(self) -> float:
        """The deadline as a number."""
        return math.inf if self.deadline is None else self.deadline

    @property
    def most_budget(self) -> float:
        """The budget as a number."""
        return math.inf if self.budget is None else self.budget

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

        Returns:
            The seconds, or None.
        """
        last = attempts[-1]
        jitter = 0.0 if retry_after is None else min(1.0, 0.1 * retry_after) * rng()
        if retry_after is not None and retry_after > MAX_RETRY_AFTER:
            return None
        if last is Failure.RATE_LIMITED:
            pause = self.backoff(attempts.count(last), rng) if retry_after is None else retry_after
            return pause + jitter if left > 0 and pause <= left else None
        counted = len(attempts) - attempts.count(Failure.RATE_LIMITED)
        if last not in _RETRIED[kind] or (self.attempts is not None and counted >= self.attempts):
            return None
        if self.budget is not None and budget < 1:
            return None
        if last is Failure.UNREADABLE and attempts.count(last) > 1:
            return None
        delay = self.backoff(len(attempts), rng)
        if retry_after is not None:
            delay = max(delay, retry_after + jitter)
        return delay if delay < left else None

    def backoff(self, tries: int, rng: Callable[[], float] = random.random) -> float:
        """Seconds to wait after so many tries: 0.5·2ⁿ, at most `max_delay`, times a jitter of 0.5 to 1.

        Args:
            tries: how many attempts were made.
            rng: the jitter's source, from 0 up to 1.

        Returns:
            The seconds.
        """
        return min(self.max_delay, _expo(tries)) * (0.5 + 0.5 * rng())


ONE_ATTEMPT = RetryPolicy(attempts=1)
"""For requests that a schedule repeats anyway: retries must not multiply with it."""


@cache
def _expo(tries: int) -> float:
    from backoff import expo

    # expo yields None before its values; past 32 doublings every cap is reached
    return next(islice(expo(factor=0.5), min(tries, 32), None))
