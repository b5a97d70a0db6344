"""One run over a fleet: sends each order's action in turn, records its outcome, and can report at any moment."""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from attrs import Factory, define, evolve, field, frozen

from trooper_async._api import arguments
from trooper_async._fleet.report import FleetOutcome, FleetProgress, FleetReport
from trooper_async._groups.actions import Actions, is_once_only
from trooper_async._waiting.judges import Verdict, judge_of
from trooper_async._waiting.wait import Wait
from trooper_async._waiting.waits import Waits
from trooper_async.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    OutcomeUnknownError,
    ResponseFormatError,
    ServerError,
    TrooperError,
)
from trooper_async.models import Order, Transition

OnProgress = Callable[[FleetProgress], object]
"""A function or a coroutine function, called before each order is sent and when it has ended."""

_UNKNOWN_OUTCOME = (OutcomeUnknownError, ServerError, ResponseFormatError)
"""Errors after which the action may still have been accepted."""


@frozen
class Job:
    """The job for one order: send its action and wait, only wait, or nothing since it has finished."""

    order: Order | int
    transition: Transition | None = None
    """What is only awaited, not sent."""
    lost: OutcomeUnknownError | None = None
    """The error of `transition`, if its outcome is unknown."""
    ended: Order | TrooperError | None = None


@frozen
class RunOptions:
    """How a run is carried out."""

    concurrency: int
    timeout: arguments.Timeout
    on_progress: OnProgress | None
    migration_allowed: bool = False
    wait: bool = True
    elapsed: float = 0.0


@define(eq=False)
class Entry:
    """One order of a run."""

    outcome: FleetOutcome
    """As far as it is known."""
    order: Order | int = Factory(lambda entry: entry.outcome.order_id, takes_self=True)
    """As it was seen before the run, or its id."""
    began: float = 0.0
    until: float = math.inf
    """When to stop trying to send it, by the loop's clock."""
    tries: int = 0
    failure: TrooperError | None = None
    """The failure of an earlier try: of the last one that may have been accepted, or else of the last one."""
    wait: Wait | None = field(default=None, repr=False)


class _EndRunError(Exception):
    """Ends all tasks of the run, which has noted why."""


@define(eq=False)
class Run:
    """A run over the orders of `entries`, some of which may have ended before."""

    _actions: Actions
    _waits: Waits
    _entries: dict[int, Entry]
    _operation: str
    _options: RunOptions
    _done: int = Factory(lambda run: sum(one.outcome.ended for one in run._entries.values()), takes_self=True)
    _failed: int = Factory(
        lambda run: sum(one.outcome.error is not None for one in run._entries.values()), takes_self=True
    )
    _reporting: asyncio.Lock = Factory(asyncio.Lock)
    _following: int = 0
    _deferred: deque[Entry] = Factory(deque)
    """To be tried again after the others."""
    _finished: asyncio.Queue[Wait | None] = Factory(asyncio.Queue)
    """Waits that have ended and are yet to be recorded; None: a task that sends has ended."""
    _refusal: APIStatusError | None = None
    """Ends the run: the API refuses the key."""
    _raised: BaseException | None = None
    """Ends the run: the caller's function has raised it."""
    _began: float = Factory(lambda run: time.monotonic() - run._options.elapsed, takes_self=True)
    _ended: float | None = None

    def report(self) -> FleetReport:
        """The report as it is now."""
        now = time.monotonic() if self._ended is None else self._ended
        outcomes = tuple(entry.outcome for entry in self._entries.values())
        return FleetReport(outcomes, now - self._began, self._options.migration_allowed)

    async def carry_out(self, jobs: Iterable[Job]) -> FleetReport:
        """Do the jobs; the report of all."""
        try:
            async with asyncio.TaskGroup() as group:
                turns = iter(jobs)
                senders = [
                    group.create_task(self._send_in_turn(turns))
                    for _ in range(min(self._options.concurrency, len(self._entries)))
                ]
                group.create_task(self._follow(senders))
        except* _EndRunError:
            pass
        finally:
            self._ended = time.monotonic()
            for entry in self._entries.values():
                if entry.wait is not None:
                    self._waits.abandon(entry.wait)
            await self._waits.settle()
        if self._raised is not None:
            raise self._raised
        for order_id, entry in self._entries.items():
            if self._refusal is not None and not entry.outcome.ended:
                error = self._refusal.about(self._operation, f"order {order_id}")
                error.attempts = 0
                entry.outcome = evolve(entry.outcome, error=error)
        return self.report()

    async def _send_in_turn(self, turns: Iterator[Job]) -> None:
        """Do the shared jobs one after the other; those deferred by an outage come last."""
        for job in turns:
            entry = self._entries[arguments.order_id(job.order, self._operation)]
            entry.order, entry.began = job.order, time.monotonic()
            seconds = arguments.seconds_of(self._options.timeout, entry.outcome.action, self._may_migrate(entry))
            entry.until = arguments.deadline(asyncio.get_running_loop().time(), seconds)
            if job.ended is not None:
                await self._end(entry, job.ended)
            elif job.transition is not None:
                entry.outcome = evolve(entry.outcome, transition=job.transition)
                await self._sent(entry, job.lost)
            else:
                await self._try(entry)
        while self._deferred:
            entry = self._deferred.popleft()
            await self._actions.pause(entry.tries)
            await self._try(entry)

    async def _try(self, entry: Entry) -> None:
        """Send an order's action. If that fails and a retry is safe, defer it until after the others."""
        try:
            lost = await self._send(entry)
        except AuthenticationError as error:
            self._refusal = error
            raise _EndRunError from None
        except TrooperError as error:
            may_pass = isinstance(error, APIConnectionError | ServerError | ResponseFormatError)
            if may_pass and self._defer(entry, error):
                return
            earlier = entry.failure
            if isinstance(earlier, OutcomeUnknownError):
                await self._sent(entry, earlier)
                return
            # the earlier failure says more if this try came too late, or was refused after one that may have been
            # accepted
            if earlier is not None and (isinstance(error, APITimeoutError) or isinstance(earlier, _UNKNOWN_OUTCOME)):
                error = earlier
            await self._end(entry, error)
            return
        once = is_once_only(entry.outcome.action, self._may_migrate(entry))
        if lost is None or once or not self._defer(entry, lost):
            await self._sent(entry, lost)

    def _defer(self, entry: Entry, failure: TrooperError) -> bool:
        """Keep an order for another try, if its deadline leaves time for one. Returns whether it does."""
        if not asyncio.get_running_loop().time() < entry.until < math.inf:
            return False
        if isinstance(failure, _UNKNOWN_OUTCOME) or not isinstance(entry.failure, _UNKNOWN_OUTCOME):
            entry.failure = failure
        self._deferred.append(entry)
        return True

    async def _sent(self, entry: Entry, lost: OutcomeUnknownError | None) -> None:
        """Begin to wait for what was, or may have been, sent."""
        if not self._options.wait:
            await self._end(entry, lost)
            return
        transition = entry.outcome.transition
        assert transition is not None  # noqa: S101 - of the job, or noted before it was sent
        self._following += 1
        entry.wait = self._waits.begin(
            transition.order_id,
            judge_of(transition, self._waits.schedule),
            operation=self._operation,
            timeout=arguments.seconds_of(self._options.timeout, transition.action, transition.migration_allowed),
            lost=lost,
            on_end=self._finished.put_nowait,
        )

    def _may_migrate(self, entry: Entry) -> bool:
        return self._options.migration_allowed and entry.outcome.action == "start"

    async def _send(self, entry: Entry) -> OutcomeUnknownError | None:
        """Send an order's action. Returns the error if its outcome is unknown; other failures are raised."""
        entry.tries += 1
        before = entry.outcome
        try:
            migrates = self._may_migrate(entry)
            request, transition = await self._actions.prepare(
                entry.order, before.action, self._operation, migration_allowed=migrates, until=entry.until
            )
            # from here on it may have been sent, however the run or the process ends
            entry.outcome = evolve(before, transition=transition, sent=None, sent_at=datetime.now(UTC))
            if entry.tries == 1:
                await self._report_progress(entry)
            lost = await self._actions.send(request, until=entry.until)
            if lost is None:
                entry.outcome = evolve(entry.outcome, sent=True, sent_at=datetime.now(UTC))
            return lost
        except TrooperError as error:
            if not isinstance(error, _UNKNOWN_OUTCOME):
                entry.outcome = before
            raise

    async def _follow(self, senders: list[asyncio.Task[None]]) -> None:
        """Record the end of each wait, until all have ended."""
        for sender in senders:
            sender.add_done_callback(lambda _: self._finished.put_nowait(None))
        while self._following or not all(sender.done() for sender in senders):
            wait = await self._finished.get()
            if wait is None:
                continue
            self._following -= 1
            entry = self._entries[wait.order_id]
            entry.wait = None
            if wait.verdict is Verdict.DONE:
                await self._end(entry, wait.order)
                continue
            if isinstance(wait.error, APIStatusError):  # two polls in a row failed so: the key is refused
                self._refusal = wait.error
                raise _EndRunError
            error = wait.failure(self._waits.orders)
            if not isinstance(error, TrooperError):
                raise error
            if wait.lost is not None:
                error.__cause__ = wait.lost
            await self._end(entry, error)

    async def _end(self, entry: Entry, ended: Order | TrooperError | None) -> None:
        """Record how an order has ended; None: its action is accepted, and not waited for."""
        order, error = (None, ended) if isinstance(ended, TrooperError) else (ended, None)
        self._done += 1
        self._failed += error is not None
        seconds = time.monotonic() - entry.began
        entry.outcome = evolve(entry.outcome, order=order, error=error, seconds=seconds)
        await self._report_progress(entry)

    async def _report_progress(self, entry: Entry) -> None:
        """Call the caller's function before anything else happens to the order."""
        if self._options.on_progress is None:
            return
        progress = FleetProgress(self._done, self._failed, len(self._entries), entry.outcome, self.report)
        async with self._reporting:  # one call at a time, in the order of events
            try:
                returned = self._options.on_progress(progress)
                if inspect.isawaitable(returned):
                    await returned
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                self._raised = error
                raise _EndRunError from None
            except Exception as error:  # noqa: BLE001 - the caller's function: it comes out of the run
                self._raised = error
                raise _EndRunError from None
