"""One call: its attempts, its deadline, what is retried, and how fast all calls of the client may go."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
import warnings
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from trooper_async._api.endpoints import Call, Repeatability
from trooper_async._api.responses import FailedAttempt, Failure, Response, interpret
from trooper_async._base.cancellation import finished
from trooper_async._base.slices import in_slices
from trooper_async._base.timeouts import timeout
from trooper_async._http.before_sending import make_check
from trooper_async._http.gate import Gate
from trooper_async._http.retry import MAX_RETRY_AFTER, RetryPolicy, outcome_unknown
from trooper_async._http.sessions import Sending
from trooper_async._http.wire import CONNECT, Wire, stripped
from trooper_async.errors import (
    APIStatusError,
    APITimeoutError,
    ClientClosedError,
    ConfigurationError,
    OutcomeUnknownError,
    RateLimitError,
    TrooperError,
)

T = TypeVar("T")

LOG = logging.getLogger("trooper_async.transport")

_ONCE_ONLY = (Repeatability.ONCE, Repeatability.PURCHASE)
_GOT_THROUGH = (Failure.REFUSED, Failure.UNREADABLE, Failure.REDIRECTED)
_LONGEST_ESTIMATE = 10.0
"""Most seconds that the gate is closed after a 429 without a `Retry-After`."""


class Transport:
    """Sends calls. It belongs to the process that made it and to the event loop that first uses it."""

    def __init__(self, wire: Wire, *, retry: RetryPolicy, max_concurrency: int) -> None:
        self.wire: Wire = wire
        self.retry: RetryPolicy = retry
        """The client's retry policy."""
        self._budget = retry.most_budget
        self._gate = Gate(max_concurrency)
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()
        self._outliving_their_call: set[asyncio.Task[Any]] = set()

    @property
    def inherited(self) -> bool:
        """Whether this process was forked from the one that made it: its sockets and tasks are the parent's."""
        return os.getpid() != self._process

    def request(
        self,
        call: Call[T],
        *,
        retry: RetryPolicy | None = None,
        until: float = math.inf,
        sending: Sending | None = None,
    ) -> Coroutine[Any, Any, T]:
        """Send `call`, retry it where that is safe and promising, and return what its endpoint returns.

        The call always ends at `until`. A request in flight that may be repeated is cut. One that must not be repeated
        is left in flight, and its outcome is unknown to the caller; the transport awaits it, or cuts it when the client
        is closed.

        Args:
            call: what to send.
            retry: the retry policy, if not the client's.
            until: the deadline of the whole call, by the loop's clock. Rate limits may delay the call until then,
                instead of for the policy's `deadline`.
            sending: shows, during the call, whether the request may have been sent.

        Raises:
            APIConnectionError, APIStatusError, ResponseFormatError: the last attempt failed so.
            APITimeoutError: `until` has passed, and nothing was changed.
            OutcomeUnknownError: it may or may not have been done.
            ClientClosedError: the client, or the session that was given to it, is closed. It was not done.
            ConfigurationError: it cannot be sent, or the client belongs to another process or event loop.
        """
        sending = sending or Sending()
        attempts = self._attempts(call, retry or self.retry, until, sending)
        if until == math.inf or call.kind not in _ONCE_ONLY:
            return attempts
        return self._result_by(until, attempts, call, sending)

    async def _attempts(self, call: Call[T], retry: RetryPolicy, until: float, sending: Sending) -> T:
        self.check(call, ": nothing was sent")
        loop = asyncio.get_running_loop()
        began = loop.time()
        patience = retry.most_seconds if until == math.inf else math.inf
        first_sent: float | None = None
        attempts: list[Failure] = []
        rate_limited_for = 0.0
        self._budget = min(self.retry.most_budget, self._budget + 0.1)
        while True:
            if not await self._gate.enter(rate_limited_for + patience, until=until, again=bool(attempts)):
                made, error = [*attempts, Failure.NEVER_SENT], self.closed() or self._held_up()
                break
            try:
                if call.kind in _ONCE_ONLY:
                    await make_check()
                if (closed := self.closed()) is not None:
                    made, error = [*attempts, Failure.NEVER_SENT], closed
                    break
                now = loop.time()
                first_sent = now if first_sent is None else first_sent
                limit = math.inf  # what must not be repeated is left in flight
                if call.kind not in _ONCE_ONLY:
                    limit = min(max(0.0, first_sent + retry.most_seconds - now) + CONNECT, until - now)
                outcome = await self._attempt(call, sending, attempts, limit)
                if not isinstance(outcome, FailedAttempt):
                    self._gate.got_through()
                    return outcome
                attempts.append(outcome.failure)
                made, error = attempts, outcome.error
                if not outcome_unknown(call.kind, attempts):
                    sending.may_have_left = False
                delay = self._delay(retry, call.kind, attempts, outcome, first_sent=first_sent, until=until)
            finally:
                self._gate.leave()
            if delay is None:
                break
            LOG.info("%s: %s; retrying in %.2f s", call.operation, outcome.error.message, delay)
            rate_limited_for = delay if outcome.failure is Failure.RATE_LIMITED else 0.0
            if not rate_limited_for:  # after a 429 the call waits at the gate
                await self.pause(delay)
            if (closed := self.closed()) is not None:
                made, error = [*attempts, Failure.NEVER_SENT], closed
                break
        if outcome_unknown(call.kind, made):
            error = OutcomeUnknownError(f"sent, and its outcome is unknown: {_what(error)}", transition=call.transition)
        error.operation, error.subject = call.operation, call.subject
        error.attempts, error.seconds = len(attempts), loop.time() - began
        raise error

    async def _attempt(
        self, call: Call[T], sending: Sending, earlier: list[Failure], limit: float
    ) -> T | FailedAttempt:
        """One attempt. An unexpected exception is raised as it is, unless the request may have taken effect."""
        try:
            reply = await self.wire.send(call, sending=sending, limit=limit)
            return await self.interpret(call, reply)
        except TrooperError:
            raise
        except Exception as error:  # noqa: BLE001 - any mistake
            unexpected = stripped(error)
        made = [*earlier, Failure.LOST if sending.may_have_left else Failure.NEVER_SENT]
        if not outcome_unknown(call.kind, made):
            raise unexpected
        raise OutcomeUnknownError(
            f"sent, and its outcome is unknown: {type(unexpected).__name__} while the response was read",
            transition=call.transition,
            operation=call.operation,
            subject=call.subject,
            attempts=len(made),
        ) from unexpected

    async def _result_by(self, until: float, attempts: Coroutine[Any, Any, T], call: Call[T], sending: Sending) -> T:
        """The result of the attempts by then; a request that is still in flight is left behind."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        task = loop.create_task(attempts, name=f"trooper {call.operation}")
        try:
            await asyncio.wait([task], timeout=max(0.0, until - began))
            if not task.done() and not sending.may_have_left:
                task.cancel()
                await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await finished(task)
            raise
        if task.done() and not task.cancelled():
            return task.result()
        error: TrooperError
        if sending.may_have_left:
            error = OutcomeUnknownError("sent, and no response came before the deadline", transition=call.transition)
        else:
            error = APITimeoutError("the deadline passed before it could be sent")
        if not task.done():
            self._outliving_their_call.add(task)
            task.add_done_callback(self._log_late_response)
        error.operation, error.subject = call.operation, call.subject
        error.attempts, error.seconds = int(sending.may_have_left), loop.time() - began
        raise error

    def _log_late_response(self, task: asyncio.Task[Any]) -> None:
        self._outliving_their_call.discard(task)
        if task.cancelled():
            LOG.info("%s: cancelled, since the client was closed", task.get_name())
        else:
            LOG.info("%s: the response came after its deadline: %s", task.get_name(), task.exception() or "it was done")

    async def interpret(self, call: Call[T], reply: Response | FailedAttempt) -> T | FailedAttempt:
        """The result of an attempt at `call`."""
        if isinstance(reply, FailedAttempt):
            return reply
        steps = interpret(call, reply, redact=self.wire.keys.redact, now=time.time())
        return await in_slices(steps)

    def _delay(
        self,
        retry: RetryPolicy,
        kind: Repeatability,
        attempts: list[Failure],
        failed: FailedAttempt,
        *,
        first_sent: float,
        until: float,
    ) -> float | None:
        """Seconds until the next attempt, or None to give up; also updates the budget and the gate."""
        now = asyncio.get_running_loop().time()
        deadline = first_sent + retry.most_seconds
        if failed.failure is not Failure.RATE_LIMITED:
            left = min(deadline, until) - now
            delay = retry.delay(kind, attempts, left=left, retry_after=failed.retry_after, budget=self._budget)
            if failed.failure in _GOT_THROUGH:
                self._gate.got_through()
            if delay is not None and retry.budget is not None and not failed.reused_connection:
                self._budget -= 1
            return delay
        # without `until`, a pause that begins before the deadline is waited for in full
        left = until - now if until < math.inf else (retry.most_seconds if now < deadline else 0.0)
        pause = failed.retry_after
        if pause is None:
            # it slows the whole client; too long a guess would only waste the allowed rate
            pause = min(_LONGEST_ESTIMATE, retry.backoff(self._gate.refusals + 1))
        delay = retry.delay(kind, attempts, left=left, retry_after=pause)
        self._gate.close(min(pause, MAX_RETRY_AFTER) if delay is None else delay)
        return delay

    def rate_limited(self, seconds: float | None) -> None:
        """The poll got a 429: close the gate for all calls."""
        self._gate.close(min(MAX_RETRY_AFTER, self.retry.backoff(1) if seconds is None else seconds))

    async def pause(self, seconds: float) -> None:
        """Sleep, but end at `stop`."""
        with suppress(TimeoutError):
            async with timeout(seconds):
                await self._stopped.wait()

    def _held_up(self) -> TrooperError:
        """The error of a call that the gate did not let in."""
        now = asyncio.get_running_loop().time()
        if not self._gate.is_rate_limited(now):
            return APITimeoutError("the deadline passed before it could be sent")
        pause = max(0.0, self._gate.opens_at - now)
        return RateLimitError("rate limited for longer than this call may wait", status=429, retry_after=pause)

    def closed(self) -> ClientClosedError | None:
        """Why nothing more can be sent; None if the client is open."""
        if self._stopped.is_set():
            return ClientClosedError("the client is closed")
        if self.wire.sessions.yours_is_closed:
            return ClientClosedError("the session that was given to this client is closed")
        return None

    def check(self, call: Call[T], consequence: str = "") -> None:
        """Refuse, before anything is sent, a call that cannot be."""
        try:
            self.bind(call.operation, consequence)
            _ = call.body
            if not self.wire.keys.has_key and not call.endpoint.public:
                raise ConfigurationError("no API key (pass api_key, or set TROOPER_API_KEY): nothing was sent")
        except (ClientClosedError, ConfigurationError) as error:
            error.operation, error.subject = call.operation, call.subject
            raise

    def bind(self, operation: str = "", consequence: str = "") -> None:
        """Make sure that the client is open, and is used in one process and on one event loop only."""
        loop = asyncio.get_running_loop()
        if self.inherited:
            text = "this client was made in another process, before a fork: make one per process"
            raise ConfigurationError(text, operation=operation)
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            text = "this client belongs to another event loop: make one per loop"
            raise ConfigurationError(text, operation=operation)
        if (closed := self.closed()) is not None:
            raise ClientClosedError(closed.message + consequence, operation=operation)

    def stop(self) -> None:
        """Begin no new call; those in flight may end."""
        self._stopped.set()
        self._gate.turn_away()

    async def close(self) -> None:
        """Cut what was left in flight, and close our sessions."""
        self.stop()
        while self._outliving_their_call:
            for task in self._outliving_their_call:
                task.cancel()
            await asyncio.wait(self._outliving_their_call)
        await self.wire.sessions.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a TrooperClient holds an API key, and can't be pickled or copied")

    def __del__(self) -> None:
        if self.wire.sessions.any_open and not self.inherited:
            warnings.warn("a TrooperClient was not closed: use `async with`", ResourceWarning, stacklevel=2)


def _what(error: TrooperError) -> str:
    return f"the API returned {error.status}" if isinstance(error, APIStatusError) else error.message
