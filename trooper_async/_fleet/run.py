"""One run over a fleet: each order in its turn, its own outcome, and what is known of all of them at any moment."""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from typing import Required, TypedDict, Unpack

from attrs import evolve, frozen

from trooper_async._api import arguments
from trooper_async._fleet.report import FleetOutcome, FleetProgress, FleetReport
from trooper_async._groups.switching import SWITCHES, Switches
from trooper_async.errors import (
    AuthenticationError,
    OutcomeUnknownError,
    PermissionDeniedError,
    ResponseFormatError,
    ServerError,
    TrooperError,
)
from trooper_async.models import Order, Transition

OnProgress = Callable[[FleetProgress], object]
"""A function or a coroutine function."""


@frozen
class Job:
    """What is to be done for one order: to send its action and wait; or only to wait; or nothing, as it has ended."""

    order: Order | int
    transition: Transition | None = None
    """What is only waited for."""
    lost: OutcomeUnknownError | None = None
    """Where `transition` may have been sent, and may not."""
    ended: Order | TrooperError | None = None


class RunOptions(TypedDict, total=False):
    """How a run is carried out."""

    concurrency: Required[int]
    timeout: Required[arguments.Timeout]
    on_progress: Required[OnProgress | None]
    migration_allowed: bool
    wait: bool
    elapsed: float


class _EndOfRunError(Exception):
    """Raised in the task of one order, to end those of all."""

    def __init__(self, error: BaseException, *, refused: bool = False) -> None:
        super().__init__()
        self.error = error
        self.refused = refused


class Run:
    """A run over the orders of `outcomes`, some of which may have ended before."""

    def __init__(
        self,
        switches: Switches,
        outcomes: Iterable[FleetOutcome],
        *,
        operation: str,
        **options: Unpack[RunOptions],
    ) -> None:
        self._switches = switches
        self._outcomes = {outcome.order_id: outcome for outcome in outcomes}
        self._operation = operation
        self._concurrency = options["concurrency"]
        self._timeout: arguments.Timeout = options["timeout"]
        self._on_progress = options["on_progress"]
        self._migration_allowed = options.get("migration_allowed", False)
        self._wait = options.get("wait", True)
        self._done = sum(outcome.ended for outcome in self._outcomes.values())
        self._failed = sum(outcome.error is not None for outcome in self._outcomes.values())
        self._telling = asyncio.Lock()
        self._began = time.monotonic() - options.get("elapsed", 0.0)
        self._ended: float | None = None

    def report(self) -> FleetReport:
        """The report as it is now."""
        now = time.monotonic() if self._ended is None else self._ended
        return FleetReport(tuple(self._outcomes.values()), now - self._began, self._migration_allowed)

    async def carry_out(self, jobs: Iterable[Job]) -> FleetReport:
        """Do the jobs; the report of all."""
        ends: list[_EndOfRunError] = []
        turns = iter(jobs)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._concurrency, len(self._outcomes))):
                    group.create_task(self._work(turns, group))
        except* _EndOfRunError as group_of_ends:
            ends = [end for end in group_of_ends.exceptions if isinstance(end, _EndOfRunError)]
        finally:
            self._ended = time.monotonic()
        if ends:
            self._refuse_or_raise(ends)
        return self.report()

    async def _work(self, turns: Iterator[Job], group: asyncio.TaskGroup) -> None:
        """Send one after the other of the jobs that all workers share; whoever is waited for has a task of its own."""
        for job in turns:
            order_id, began = arguments.order_id(job.order), time.monotonic()
            try:
                if isinstance(job.ended, TrooperError):
                    raise job.ended
                lost = await self._send(job.order) if job.ended is None and job.transition is None else job.lost
            except AuthenticationError as error:
                raise _EndOfRunError(error, refused=True) from None
            except TrooperError as error:
                await self._end(order_id, began, error=error)
                continue
            if job.ended is not None:
                await self._end(order_id, began, order=job.ended)
                continue
            if job.transition is not None:
                self._outcomes[order_id] = evolve(self._outcomes[order_id], transition=job.transition)
            if self._wait:
                group.create_task(self._follow(order_id, began, lost))
            elif lost is not None:
                await self._end(order_id, began, error=lost)
            else:
                await self._end(order_id, began)

    async def _send(self, order: Order | int) -> OutcomeUnknownError | None:
        """Send an order's action. What is raised was not done."""
        order_id = arguments.order_id(order)
        action = self._outcomes[order_id].action
        migration_allowed = self._migration_allowed and action == "start"
        planned = Transition(order_id, action, SWITCHES[action][1], None, migration_allowed)
        pace = arguments.seconds_of(self._timeout, planned) or math.inf  # a rate limit stretches the run
        try:
            switch, transition = await self._switches.prepare(
                order, action, self._operation, migration_allowed=migration_allowed, pace=pace
            )
            # from here on it may have been sent, whatever ends the run or the process
            await self._note(evolve(self._outcomes[order_id], transition=transition, sent=None))
            lost = await self._switches.send(switch, pace=pace)
            if lost is None:
                self._outcomes[order_id] = evolve(self._outcomes[order_id], sent=True)
            return lost
        except TrooperError as error:
            if not isinstance(error, ServerError | ResponseFormatError):  # these prove nothing
                self._outcomes[order_id] = evolve(self._outcomes[order_id], transition=None, sent=False)
            raise

    async def _follow(self, order_id: int, began: float, lost: OutcomeUnknownError | None) -> None:
        """Wait for what was sent."""
        transition = self._outcomes[order_id].transition
        assert transition is not None  # noqa: S101 - of the job, or noted before it was sent
        try:
            order = await self._switches.wait(transition, lost, operation=self._operation, timeout=self._timeout)
        except (AuthenticationError, PermissionDeniedError) as error:  # of the poll, twice in a row: of the key
            raise _EndOfRunError(error, refused=True) from None
        except TrooperError as error:
            await self._end(order_id, began, error=error)
        else:
            await self._end(order_id, began, order=order)

    async def _end(
        self, order_id: int, began: float, *, order: Order | None = None, error: TrooperError | None = None
    ) -> None:
        self._done += 1
        self._failed += error is not None
        seconds = time.monotonic() - began
        await self._note(evolve(self._outcomes[order_id], order=order, error=error, seconds=seconds))

    async def _note(self, outcome: FleetOutcome) -> None:
        """Keep it, and tell the caller before anything else is done about it."""
        self._outcomes[outcome.order_id] = outcome
        if self._on_progress is None:
            return
        progress = FleetProgress(self._done, self._failed, len(self._outcomes), outcome, self.report)
        async with self._telling:  # one at a time, in the order in which it happened
            try:
                answer = self._on_progress(progress)
                if inspect.isawaitable(answer):
                    await answer
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                raise _EndOfRunError(error) from None
            except Exception as error:  # noqa: BLE001 - the caller's function: it comes out of the run
                raise _EndOfRunError(error) from None

    def _refuse_or_raise(self, ends: list[_EndOfRunError]) -> None:
        """What the caller's function raised comes out; a refused key is the outcome of all that had not ended."""
        for end in ends:
            if not end.refused:
                raise end.error
        for order_id, outcome in self._outcomes.items():
            if not outcome.ended:
                error = copy(ends[0].error)
                assert isinstance(error, TrooperError)  # noqa: S101 - the API's refusal
                error.operation, error.subject, error.attempts = self._operation, f"order {order_id}", 0
                self._outcomes[order_id] = evolve(outcome, error=error)
