"""One call: its attempts, its deadline, what is sent again, and the pace of it all."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TypeVar

from trooper_async._api.endpoints import Call, Repeatability
from trooper_async._api.responses import FailedAttempt, Failure, Response, interpret
from trooper_async._base.slices import in_slices
from trooper_async._base.timeouts import timeout
from trooper_async._http.gate import Gate
from trooper_async._http.once import make_check
from trooper_async._http.retry import MAX_RETRY_AFTER, RetryPolicy, outcome_unknown
from trooper_async._http.wire import Wire
from trooper_async.errors import (
    APIStatusError,
    ClientClosedError,
    ConfigurationError,
    OutcomeUnknownError,
    RateLimitError,
    TrooperError,
)

T = TypeVar("T")

LOG = logging.getLogger("trooper_async.transport")

_LONGEST_GUESS = 10.0
"""Seconds that the gate is closed for at the most where a 429 does not say how long."""


class Transport:
    """Sends calls. Bound to the event loop that it is first used on."""

    def __init__(self, wire: Wire, *, retry: RetryPolicy, max_concurrency: int) -> None:
        self._wire = wire
        self.fetch = wire.fetch
        """One attempt, which passes no gate and is not sent again."""
        self._retry = retry
        self._budget = float(retry.budget)
        self._gate = Gate(max_concurrency)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()

    @property
    def closed(self) -> bool:
        return self._stopped.is_set()

    async def request(
        self,
        call: Call[T],
        *,
        pace: float | None = None,
        retry: RetryPolicy | None = None,
        unsent: Callable[[], None] | None = None,
    ) -> T:
        """Send `call`, again where that is safe and promising, and return what its endpoint returns.

        Args:
            call: what to send.
            pace: seconds that a rate limit may hold it up; the retry policy's deadline by default.
            retry: the retry policy, where it is another than the client's.
            unsent: called after an attempt that has certainly come to nothing: until the next, it is as if never sent.
        """
        self.check(call)
        retry = retry or self._retry
        loop = asyncio.get_running_loop()
        started = loop.time()
        pace = retry.deadline if pace is None else pace
        # waiting for others to finish is not on the account of this call
        pace_ends = started + pace if self._gate.paced else math.inf
        deadline: float | None = None
        interrupted = False
        attempts: list[Failure] = []
        self._budget = min(self._retry.budget, self._budget + 0.1)
        while True:
            if not await self._gate.enter(pace_ends):
                last, ends, interrupted = self._turned_away(), [*attempts, Failure.RATE_LIMITED], self.closed
                break
            try:
                if self.closed:  # in the moment in which it was let in
                    last, ends, interrupted = self._turned_away(), [*attempts, Failure.RATE_LIMITED], True
                    break
                if deadline is None:
                    deadline = loop.time() + retry.deadline
                    pace_ends = min(pace_ends, loop.time() + pace)
                if call.kind in (Repeatability.ONCE, Repeatability.PURCHASE):
                    await make_check()
                outcome = await self.interpret(call, await self.fetch(call, left=deadline - loop.time()))
                if not isinstance(outcome, FailedAttempt):
                    self._gate.succeeded()
                    return outcome
                attempts.append(outcome.failure)
                ends = attempts
                if unsent is not None and not outcome_unknown(call.kind, attempts):
                    unsent()
                last = outcome.error
                delay = self._delay(retry, call.kind, attempts, outcome, deadline=deadline, pace_ends=pace_ends)
            finally:
                self._gate.leave()
            interrupted = self._stopped.is_set() and delay is not None  # what is definite is told all the same
            if delay is None or interrupted:
                break
            LOG.warning("%s: %s; sending it again in %.2f s", call.operation, outcome.failure.value, delay)
            if outcome.failure is not Failure.RATE_LIMITED:  # that is waited for at the gate
                await self.pause(delay)
            interrupted = self._stopped.is_set()
            if interrupted:
                break
        error: TrooperError = last
        if outcome_unknown(call.kind, ends):
            error = OutcomeUnknownError(f"sent, and its outcome is unknown: {_what(last)}", transition=call.transition)
        elif interrupted:
            error = ClientClosedError("the client was closed meanwhile")
        error.operation, error.subject = call.operation, call.subject
        error.attempts, error.seconds = len(attempts), loop.time() - started
        raise error

    async def interpret(self, call: Call[T], reply: Response | FailedAttempt) -> T | FailedAttempt:
        """What an attempt at `call` has come to."""
        if isinstance(reply, FailedAttempt):
            return reply
        steps = interpret(call, reply, redact=self._wire.redact, now=time.time())
        return await in_slices(steps)

    def _delay(
        self,
        retry: RetryPolicy,
        kind: Repeatability,
        attempts: list[Failure],
        fault: FailedAttempt,
        *,
        deadline: float,
        pace_ends: float,
    ) -> float | None:
        """Seconds until the next attempt, or None to give up; keeps the budget's and the gate's accounts."""
        paced = fault.failure is Failure.RATE_LIMITED
        left = (pace_ends if paced else deadline) - asyncio.get_running_loop().time()
        pause = fault.retry_after
        if paced and pause is None:
            # of the whole client, not of this call; too long a guess would only leave the allowed pace unused
            pause = min(_LONGEST_GUESS, retry.backoff(self._gate.refusals + 1))
        delay = retry.delay(kind, attempts, left=left, retry_after=pause, budget=self._budget)
        if paced and pause is not None:
            self._gate.close(min(pause, MAX_RETRY_AFTER) if delay is None else delay)
        elif delay is not None and not fault.reused_connection:
            self._budget -= 1
        return delay

    def paced(self, seconds: float | None) -> None:
        """The poll got a 429: the gate closes for all calls too."""
        self._gate.close(min(MAX_RETRY_AFTER, self._retry.backoff(1) if seconds is None else seconds))

    async def pause(self, seconds: float) -> None:
        """Sleep, but not past `stop`."""
        with suppress(TimeoutError):
            async with timeout(seconds):
                await self._stopped.wait()

    def _turned_away(self) -> TrooperError:
        pause = max(0.0, self._gate.opens_at - asyncio.get_running_loop().time())
        return RateLimitError("rate limited for longer than this call may wait", status=429, retry_after=pause)

    def check(self, call: Call[T]) -> None:
        """Refuse what can't be sent before anything is."""
        problem: TrooperError | None = None
        try:
            self.bind()
            _ = call.body
        except (ConfigurationError, ClientClosedError) as error:
            problem = error
        if problem is None and not self._wire.has_key and not call.endpoint.public:
            problem = ConfigurationError("no API key (pass api_key, or set TROOPER_API_KEY): nothing was sent")
        if problem is not None:
            problem.operation, problem.subject = call.operation, call.subject
            raise problem

    def bind(self) -> None:
        """Make sure that the client is open, and used on one event loop only."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise ConfigurationError("this client belongs to another event loop: make one per loop")
        if self.closed or self._wire.sessions.yours_is_closed:
            whose = "client" if self.closed else "session that was given to this client"
            raise ClientClosedError(f"the {whose} is closed: nothing was sent")

    def stop(self) -> None:
        """Begin nothing any more; what is on the wire may end."""
        self._stopped.set()
        self._gate.turn_away()

    async def close(self) -> None:
        """Close the sessions that are ours."""
        self.stop()
        await self._wire.sessions.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("it holds an API key, and can't be pickled or copied")

    def __del__(self) -> None:
        if self._wire.sessions.any_open:
            warnings.warn("a TrooperClient was not closed: use `async with`", ResourceWarning, stacklevel=2)


def _what(error: TrooperError) -> str:
    return f"the API returned {error.status}" if isinstance(error, APIStatusError) else error.message
