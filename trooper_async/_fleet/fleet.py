"""Switching many servers at once: bounded in what is being sent, each with its own outcome, on one poll for all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from typing import TypeVar, Unpack

from attrs import evolve

from trooper_async._api import arguments
from trooper_async._fleet.report import FleetOutcome, FleetReport
from trooper_async._fleet.run import Job, OnProgress, Run, RunOptions
from trooper_async._groups.lookup import Lookup, not_found
from trooper_async._groups.switching import SWITCHES, Switches
from trooper_async._waiting.store import Snapshot
from trooper_async.errors import (
    ConfigurationError,
    OutcomeUnknownError,
    ResponseFormatError,
    TrooperError,
)
from trooper_async.models import Action, Order, OrderStatus, Transition, same_word, status_word

OrderKey = TypeVar("OrderKey", bound="Order | int")

_ACTIONS: dict[str, Action] = {"running": "start", "stopped": "stop", "frozen": "freeze"}
_HEADING = {"starting": "running", "restarting": "running", "stopping": "stopped", "freezing": "frozen"}
"""Where a status on the way leads to, where its word says so."""


class Fleet:
    """`client.fleet`: one action for many orders, and a report of what became of each.

    What holds for all of its methods:

    Args:
        orders: orders or order ids, any number; one that is there twice is done once.
        concurrency: how many requests are being sent at once; the waits are not counted, and share one poll.
        timeout: seconds for each order, from its accepted request, None for no limit; by default what the action
            usually needs. A rate limit may hold up an order's request for as long again.
        wait: False returns once all are accepted; those are the report's `pending`, and `resume` waits for them.
        on_progress: a function or a coroutine function, called with a `FleetProgress` right before each order is sent
            and when it has ended. Nothing is sent before it returns: with `progress.report()` stored in each call, a
            run that is killed can be gone on with by `resume`. What it raises cancels the run and comes out.

    Returns:
        The report. An order that is locked, not there, superseded or too late is one of its `failed`, and stops no
        other. A refused key ends the run at once, and is the outcome of every order that had not ended.

    Raises:
        ConfigurationError: an argument that can't be right. Nothing was sent.
    """

    def __init__(self, lookup: Lookup, switches: Switches) -> None:
        self._lookup = lookup
        self._switches = switches

    async def start(
        self,
        orders: Iterable[Order | int],
        *,
        migration_allowed: bool = False,
        concurrency: int = 16,
        timeout: arguments.Timeout = "default",
        wait: bool = True,
        on_progress: OnProgress | None = None,
    ) -> FleetReport:
        """Start servers, and wait until they run (POST /api/order-status, action `running`).

        `migration_allowed` lets frozen servers move to other hardware, as for `orders.start`.
        """
        return await self._switch("start", orders, concurrency, timeout, wait, on_progress, migration_allowed)

    async def stop(
        self,
        orders: Iterable[Order | int],
        *,
        concurrency: int = 16,
        timeout: arguments.Timeout = "default",
        wait: bool = True,
        on_progress: OnProgress | None = None,
    ) -> FleetReport:
        """Stop servers, and wait until they have (POST /api/order-status, action `stopped`)."""
        return await self._switch("stop", orders, concurrency, timeout, wait, on_progress)

    async def restart(
        self,
        orders: Iterable[Order | int],
        *,
        concurrency: int = 16,
        timeout: arguments.Timeout = "default",
        wait: bool = True,
        on_progress: OnProgress | None = None,
    ) -> FleetReport:
        """Restart servers, each once only, and wait until they have (POST /api/order-status, action `restarted`)."""
        return await self._switch("restart", orders, concurrency, timeout, wait, on_progress)

    async def freeze(
        self,
        orders: Iterable[Order | int],
        *,
        concurrency: int = 16,
        timeout: arguments.Timeout = "default",
        wait: bool = True,
        on_progress: OnProgress | None = None,
    ) -> FleetReport:
        """Freeze servers, and wait until they are (POST /api/order-status, action `frozen`)."""
        return await self._switch("freeze", orders, concurrency, timeout, wait, on_progress)

    async def converge(
        self,
        wanted: Mapping[OrderKey, OrderStatus | str],
        *,
        migration_allowed: bool = False,
        concurrency: int = 16,
        timeout: arguments.Timeout = "default",
        on_progress: OnProgress | None = None,
    ) -> FleetReport:
        """Bring each order to the status that is wanted of it; only what is not there or on its way is sent.

        Args:
            wanted: the order, or its id → `running`, `stopped` or `frozen`.

        Returns:
            The report; what was left alone, since it was there or on its way, is in its `left_alone`.
        """
        orders: dict[int, tuple[Order | int, Action]] = {}
        for order, status in wanted.items():
            action = _ACTIONS.get(status_word(status).casefold()) if isinstance(status, str) else None
            if action is None:
                text = f"an order can be wanted running, stopped or frozen, not {status!r:.40}: nothing was sent"
                raise ConfigurationError(text, operation="fleet.converge")
            order_id = arguments.order_id(order)
            if orders.setdefault(order_id, (order, action))[1] != action:
                text = f"order {order_id} is wanted in two ways: nothing was sent"
                raise ConfigurationError(text, operation="fleet.converge")
        run = self._run(
            "converge",
            [FleetOutcome(order_id, action) for order_id, (_, action) in orders.items()],
            concurrency=concurrency,
            timeout=timeout,
            on_progress=on_progress,
            migration_allowed=migration_allowed,
        )
        listed = await self._read("fleet.converge")
        return await run.carry_out(
            _converging(order, action, listed, "fleet.converge") for order, action in orders.values()
        )

    async def resume(
        self,
        report: FleetReport,
        *,
        concurrency: int = 16,
        timeout: arguments.Timeout = "default",
        on_progress: OnProgress | None = None,
    ) -> FleetReport:
        """Go on with a run that was cancelled, killed or refused, or whose waits ended too early.

        What was accepted is only waited for. What was not sent, and a stop, freeze or plain start of which that is not
        certain, is sent now, if its server is neither there nor on its way. A restart, or a start with migration, that
        may have been sent is only waited for. Orders that failed by themselves (locked, not there, superseded) stay so.

        Args:
            report: of the run, from its progress (`progress.report()`) or `FleetReport.from_json`.

        Returns:
            The report of all the orders.
        """
        if not isinstance(report, FleetReport):
            raise ConfigurationError("resume takes a FleetReport", operation="fleet.resume")
        outcomes = [evolve(outcome, error=None) if outcome.resumable else outcome for outcome in report.outcomes]
        run = self._run(
            "resume",
            outcomes,
            concurrency=concurrency,
            timeout=timeout,
            on_progress=on_progress,
            migration_allowed=report.migration_allowed,
            elapsed=report.elapsed,
        )
        open_ones = [outcome for outcome in outcomes if not outcome.ended]
        settled = all(outcome.sent for outcome in open_ones)
        listed = Snapshot() if settled else await self._read("fleet.resume")
        return await run.carry_out(_resuming(outcome, report.migration_allowed, listed) for outcome in open_ones)

    async def _switch(
        self,
        action: Action,
        orders: Iterable[Order | int],
        concurrency: int,
        timeout: arguments.Timeout,
        wait: bool,
        on_progress: OnProgress | None,
        migration_allowed: bool = False,
    ) -> FleetReport:
        chosen: dict[int, Order | int] = {}
        for order in orders:
            order_id = arguments.order_id(order)
            if isinstance(order, Order) or order_id not in chosen:
                chosen[order_id] = order
        run = self._run(
            action,
            [FleetOutcome(order_id, action) for order_id in chosen],
            concurrency=concurrency,
            timeout=timeout,
            on_progress=on_progress,
            wait=wait,
            migration_allowed=migration_allowed,
        )
        ids = [order for order in chosen.values() if not isinstance(order, Order)]
        missing = await self._lookup.missing(ids, f"fleet.{action}")
        return await run.carry_out(Job(order, ended=missing.get(order_id)) for order_id, order in chosen.items())

    def _run(self, name: str, outcomes: list[FleetOutcome], **options: Unpack[RunOptions]) -> Run:
        operation = f"fleet.{name}"
        if type(options["concurrency"]) is not int or options["concurrency"] < 1:
            raise ConfigurationError(
                "concurrency must be a whole number above 0: nothing was sent", operation=operation
            )
        if options["timeout"] != "default":
            arguments.check_seconds(options["timeout"])
        return Run(self._switches, outcomes, operation=operation, **options)

    async def _read(self, operation: str) -> Snapshot | TrooperError:
        """The orders as they are now, or why they can't be read: that is the outcome of each."""
        try:
            return await self._lookup.snapshot(operation, "its orders")
        except TrooperError as error:
            return error


def _converging(order: Order | int, action: Action, listed: Snapshot | TrooperError, operation: str) -> Job:
    """What has to be done for an order that a setting is wanted for."""
    order_id, target = arguments.order_id(order), SWITCHES[action][1]
    failure: TrooperError
    if isinstance(listed, TrooperError):
        failure = copy(listed)
    elif isinstance(seen := listed.sighting(order_id), Order):
        if _is_there(seen, target):
            return Job(seen, ended=seen)
        return Job(seen, transition=Transition(order_id, action, target) if _is_on_its_way(seen, target) else None)
    elif order_id in listed.unreadable:
        failure = copy(listed.unreadable[order_id])
    elif listed.complete:
        failure = not_found(order_id, "")
    else:  # one of the rows may be it
        failure = ResponseFormatError("$[*].order_id", "readable")
    failure.operation, failure.subject = operation, f"order {order_id}"
    return Job(order, ended=failure)


def _resuming(outcome: FleetOutcome, migration_allowed: bool, listed: Snapshot | TrooperError) -> Job:
    """What has to be done for an order that had not ended."""
    if outcome.sent:
        return Job(outcome.order_id, transition=outcome.transition)
    once = outcome.action == "restart" or (outcome.action == "start" and migration_allowed)
    if once and outcome.transition is not None:
        lost = OutcomeUnknownError("it may have been sent by the run before", transition=outcome.transition)
        return Job(outcome.order_id, transition=outcome.transition, lost=lost)
    job = _converging(outcome.order_id, outcome.action, listed, "fleet.resume")
    if once and not isinstance(job.ended, TrooperError):
        return Job(job.order)  # a restart begins where it ends, and what was not sent has not begun
    return job


def _is_there(order: Order, target: str) -> bool:
    desired = order.desired_status
    return same_word(order.current_status, target) and (desired is None or same_word(desired, target))


def _is_on_its_way(order: Order, target: str) -> bool:
    """Whether that is certain: where it is not, a setting is sent, which does no harm a second time."""
    heading = _HEADING.get(order.current_status.casefold())
    if order.desired_status is None:
        return heading == target
    return same_word(order.desired_status, target) and heading in (None, target)
