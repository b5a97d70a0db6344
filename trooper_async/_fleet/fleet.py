"""One action for many orders: with bounded concurrency, an outcome for each order, and one poll for all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from attrs import evolve

from trooper_async._api import arguments
from trooper_async._fleet.report import FleetOutcome, FleetReport
from trooper_async._fleet.run import Entry, Job, OnProgress, Run, RunOptions
from trooper_async._groups.actions import Actions, is_once_only
from trooper_async._groups.lookup import Lookup, found
from trooper_async._waiting.waits import Waits
from trooper_async.errors import ConfigurationError, OutcomeUnknownError, TrooperError
from trooper_async.models import TARGETS, Action, Order, OrderStatus, Transition, meant, same_word, status_word

OrderKey = TypeVar("OrderKey", bound="Order | int")

_ACTION_FOR: dict[str, Action] = {"running": "start", "stopped": "stop", "frozen": "freeze"}
_BECOMES = {"starting": "running", "stopping": "stopped", "freezing": "frozen"}
"""The status that a transitional status leads to."""
_STEADY = ("running", "stopped", "frozen", "terminated")
_READS = 3
"""Reads of the list before an order counts as missing: one read alone proves nothing."""


class Fleet:
    """`client.fleet`: one action for many orders, and a report with the outcome of each.

    The list is read once before anything is sent. Orders that are already in the requested status, or changing to it,
    are left alone.
    """

    def __init__(self, lookup: Lookup, actions: Actions, waits: Waits) -> None:
        self._lookup = lookup
        self._actions = actions
        self._waits = waits

    async def start(
        self,
        orders: Iterable[Order | int],
        *,
        migration_allowed: bool = False,
        force: bool = False,
        concurrency: int = 16,
        timeout: arguments.Timeout = "default",
        wait: bool = True,
        on_progress: OnProgress | None = None,
    ) -> FleetReport:
        """Start servers, and wait until they are running (POST /api/order-status, action `running`).

        Orders that are running or starting are left alone.

        Args:
            orders: orders or order ids, any number; duplicates are ignored.
            migration_allowed: whether frozen servers may move to other hardware, which takes 10 to 90 minutes; each
                request is then sent only once.
            force: whether to send the action to every order, whatever its status.
            concurrency: the greatest number of requests in flight. Waits are not counted; they share one poll.
            timeout: seconds for each order, from its accepted request; None for no limit. The default is that of
                `orders.wait`. A rate limit may delay the request itself for as long again.
            wait: False to return once all requests are accepted; these orders are then in the report's `pending`, and
                `resume` waits for them.
            on_progress: a function or coroutine function, called with a `FleetProgress` right before each order is sent
                and when it has finished. An order is sent only after it returns, so a program that stores
                `progress.report()` in each call can be killed at any time, and `resume` continues. An exception from it
                cancels the run and is raised here.

        Returns:
            The report, with one outcome for each order. An order that is locked, not found, superseded or timed out
            does not affect the others. A refused key ends the run at once.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
        """
        options = RunOptions(
            concurrency=concurrency,
            timeout=timeout,
            on_progress=on_progress,
            wait=wait,
            migration_allowed=migration_allowed,
        )
        return await self._act("start", _wanted(orders, "start"), options, force=force)

    async def stop(
        self,
        orders: Iterable[Order | int],
        *,
        force: bool = False,
        concurrency: int = 16,
        timeout: arguments.Timeout = "default",
        wait: bool = True,
        on_progress: OnProgress | None = None,
    ) -> FleetReport:
        """Stop servers, and wait until they have stopped (POST /api/order-status, action `stopped`).

        Orders that are stopped, stopping, frozen or freezing are left alone: a stop would first boot a frozen server.

        Args:
            orders: orders or order ids, any number; duplicates are ignored.
            force: whether to send the action to every order, whatever its status.
            concurrency: the greatest number of requests in flight. Waits are not counted; they share one poll.
            timeout: seconds for each order, from its accepted request; None for no limit. The default is that of
                `orders.wait`. A rate limit may delay the request itself for as long again.
            wait: False to return once all requests are accepted; these orders are then in the report's `pending`, and
                `resume` waits for them.
            on_progress: a function or coroutine function, called with a `FleetProgress` right before each order is sent
                and when it has finished. An order is sent only after it returns, so a program that stores
                `progress.report()` in each call can be killed at any time, and `resume` continues. An exception from it
                cancels the run and is raised here.

        Returns:
            The report, with one outcome for each order. An order that is locked, not found, superseded or timed out
            does not affect the others. A refused key ends the run at once.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
        """
        options = RunOptions(concurrency=concurrency, timeout=timeout, on_progress=on_progress, wait=wait)
        return await self._act("stop", _wanted(orders, "stop"), options, force=force)

    async def restart(
        self,
        orders: Iterable[Order | int],
        *,
        force: bool = False,
        concurrency: int = 16,
        timeout: arguments.Timeout = "default",
        wait: bool = True,
        on_progress: OnProgress | None = None,
    ) -> FleetReport:
        """Restart servers, each once, and wait until they have restarted (POST /api/order-status, action `restarted`).

        Orders that are not running are left alone.

        Args:
            orders: orders or order ids, any number; duplicates are ignored.
            force: whether to send the action to every order, whatever its status.
            concurrency: the greatest number of requests in flight. Waits are not counted; they share one poll.
            timeout: seconds for each order, from its accepted request; None for no limit. The default is that of
                `orders.wait`. A rate limit may delay the request itself for as long again.
            wait: False to return once all requests are accepted; these orders are then in the report's `pending`, and
                `resume` waits for them.
            on_progress: a function or coroutine function, called with a `FleetProgress` right before each order is sent
                and when it has finished. An order is sent only after it returns, so a program that stores
                `progress.report()` in each call can be killed at any time, and `resume` continues. An exception from it
                cancels the run and is raised here.

        Returns:
            The report, with one outcome for each order. An order that is locked, not found, superseded or timed out
            does not affect the others. A refused key ends the run at once.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
        """
        options = RunOptions(concurrency=concurrency, timeout=timeout, on_progress=on_progress, wait=wait)
        return await self._act("restart", _wanted(orders, "restart"), options, force=force)

    async def freeze(
        self,
        orders: Iterable[Order | int],
        *,
        force: bool = False,
        concurrency: int = 16,
        timeout: arguments.Timeout = "default",
        wait: bool = True,
        on_progress: OnProgress | None = None,
    ) -> FleetReport:
        """Freeze servers, and wait until they are frozen (POST /api/order-status, action `frozen`).

        Orders that are frozen or freezing are left alone.

        Args:
            orders: orders or order ids, any number; duplicates are ignored.
            force: whether to send the action to every order, whatever its status.
            concurrency: the greatest number of requests in flight. Waits are not counted; they share one poll.
            timeout: seconds for each order, from its accepted request; None for no limit. The default is that of
                `orders.wait`. A rate limit may delay the request itself for as long again.
            wait: False to return once all requests are accepted; these orders are then in the report's `pending`, and
                `resume` waits for them.
            on_progress: a function or coroutine function, called with a `FleetProgress` right before each order is sent
                and when it has finished. An order is sent only after it returns, so a program that stores
                `progress.report()` in each call can be killed at any time, and `resume` continues. An exception from it
                cancels the run and is raised here.

        Returns:
            The report, with one outcome for each order. An order that is locked, not found, superseded or timed out
            does not affect the others. A refused key ends the run at once.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
        """
        options = RunOptions(concurrency=concurrency, timeout=timeout, on_progress=on_progress, wait=wait)
        return await self._act("freeze", _wanted(orders, "freeze"), options, force=force)

    async def converge(
        self,
        wanted: Mapping[OrderKey, OrderStatus | str],
        *,
        migration_allowed: bool = False,
        concurrency: int = 16,
        timeout: arguments.Timeout = "default",
        wait: bool = True,
        on_progress: OnProgress | None = None,
    ) -> FleetReport:
        """Bring each order to the status you want (GET /api/orders, POST /api/order-status).

        Orders that are already in that status, or changing to it, are left alone.

        Args:
            wanted: the order, or its id → `running`, `stopped` or `frozen`.
            migration_allowed: whether frozen servers may move to other hardware in order to start.
            concurrency: the greatest number of requests in flight.
            timeout: seconds for each order, from its accepted request; None for no limit. The default is that of
                `orders.wait`.
            wait: False to return once all requests are accepted; `resume` waits for them.
            on_progress: a function or a coroutine function, called with a `FleetProgress` right before each order is
                sent and when it has finished.

        Returns:
            The report. Orders that were left alone are in `left_alone`.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
        """
        operation = "fleet.converge"
        if not isinstance(wanted, Mapping):
            raise ConfigurationError("pass a mapping of orders to statuses: nothing was sent", operation=operation)
        orders: dict[int, tuple[Order | int, Action]] = {}
        for order, status in wanted.items():
            action = _ACTION_FOR.get(status_word(status).casefold()) if isinstance(status, str) else None
            if action is None:
                text = f"the status must be running, stopped or frozen, not {status!r:.40}: nothing was sent"
                raise ConfigurationError(text, operation=operation)
            order_id = arguments.order_id(order, operation)
            if orders.setdefault(order_id, (order, action))[1] != action:
                raise ConfigurationError(
                    f"order {order_id} is given two different statuses: nothing was sent", operation=operation
                )
        options = RunOptions(
            concurrency=concurrency,
            timeout=timeout,
            on_progress=on_progress,
            wait=wait,
            migration_allowed=migration_allowed,
        )
        return await self._act("converge", orders, options)

    async def resume(
        self,
        report: FleetReport,
        *,
        concurrency: int = 16,
        timeout: arguments.Timeout = "default",
        on_progress: OnProgress | None = None,
    ) -> FleetReport:
        """Continue a run that was cancelled, killed or refused, or timed out (GET /api/orders, POST /api/order-status).

        Accepted actions are only waited for. Actions that were not sent, and a stop, freeze or plain start that may not
        have been sent, are sent now, unless the server is already in the requested status or changing to it. A restart,
        or a start with migration, that may have been sent is only waited for. Orders that failed for a lasting reason
        (locked, superseded) stay failed.

        Args:
            report: the report of that run, from `progress.report()` or `FleetReport.from_json`.
            concurrency: the greatest number of requests in flight.
            timeout: seconds for each order; None for no limit. The default is that of `orders.wait`.
            on_progress: a function or a coroutine function, called with a `FleetProgress` right before each order is
                sent and when it has finished.

        Returns:
            The report of all orders.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
        """
        operation = "fleet.resume"
        if not isinstance(report, FleetReport):
            raise ConfigurationError("pass a FleetReport: nothing was sent", operation=operation)
        outcomes = [evolve(outcome, error=None) if outcome.resumable else outcome for outcome in report.outcomes]
        options = RunOptions(
            concurrency=concurrency,
            timeout=timeout,
            on_progress=on_progress,
            migration_allowed=report.migration_allowed,
            elapsed=report.elapsed,
        )
        run = self._run(operation, outcomes, options)
        pending = [outcome for outcome in outcomes if not outcome.ended]
        seen = await self._read_orders([one.order_id for one in pending if not one.sent], operation)
        return await run.carry_out(_resuming(one, report.migration_allowed, seen, operation) for one in pending)

    async def _act(
        self,
        name: str,
        orders: Mapping[int, tuple[Order | int, Action]],
        options: RunOptions,
        *,
        force: bool = False,
    ) -> FleetReport:
        """Carry out the action of each order where it is needed, or with `force` everywhere."""
        operation = f"fleet.{name}"
        outcomes = (FleetOutcome(order_id, action) for order_id, (_, action) in orders.items())
        run = self._run(operation, outcomes, options)
        unread = [order_id for order_id, (order, _) in orders.items() if not force or not isinstance(order, Order)]
        seen = await self._read_orders(unread, operation)

        def job(order_id: int, order: Order | int, action: Action) -> Job:
            known = seen.get(order_id, order)
            if isinstance(known, TrooperError):
                return Job(order, ended=known)
            return Job(known) if force else _needed(known, action, options.migration_allowed)

        return await run.carry_out(job(order_id, *wanted) for order_id, wanted in orders.items())

    def _run(self, operation: str, outcomes: Iterable[FleetOutcome], options: RunOptions) -> Run:
        if type(options.concurrency) is not int or options.concurrency < 1:
            raise ConfigurationError(
                "concurrency must be a whole number above 0: nothing was sent", operation=operation
            )
        arguments.check_timeout(options.timeout, operation)
        arguments.check_function(options.on_progress, "on_progress", "a FleetProgress", operation)
        entries = {one.order_id: Entry(one) for one in outcomes}
        return Run(self._actions, self._waits, entries, operation, options)

    async def _read_orders(self, order_ids: list[int], operation: str) -> dict[int, Order | int | TrooperError]:
        """These orders as they are now, or why that cannot be determined."""
        seen: dict[int, Order | int | TrooperError] = {}
        left = order_ids
        for look in range(_READS):
            if not left:
                break
            if look:
                await self._lookup.pause(self._waits.schedule.floor)
            try:
                snapshot = await self._lookup.store.read(operation)
            except TrooperError as error:
                return seen | {order_id: error.about(operation, f"order {order_id}") for order_id in left}
            for order_id in left:
                try:
                    seen[order_id] = found(snapshot, order_id, operation)
                except TrooperError as error:
                    seen[order_id] = error
            left = [order_id for order_id in left if isinstance(seen[order_id], TrooperError)]
        return seen


def _wanted(orders: Iterable[Order | int], action: Action) -> dict[int, tuple[Order | int, Action]]:
    if isinstance(orders, Order) or not isinstance(orders, Iterable):
        text = f"pass several orders, or their ids, in a list, not {type(orders).__name__}: nothing was sent"
        raise ConfigurationError(text, operation=f"fleet.{action}")
    wanted: dict[int, tuple[Order | int, Action]] = {}
    for order in orders:
        order_id = arguments.order_id(order, f"fleet.{action}")
        if isinstance(order, Order) or order_id not in wanted:
            wanted[order_id] = order, action
    return wanted


def _needed(order: Order | int, action: Action, migration_allowed: bool) -> Job:
    """The job for an order as it is now."""
    if not isinstance(order, Order):
        return Job(order)
    target = TARGETS[action]
    if action == "restart":
        return Job(order) if _has_status(order, target) else Job(order, ended=order)
    frozen = OrderStatus.frozen
    is_beyond = action == "stop" and (_has_status(order, frozen) or _is_becoming(order, frozen, once=False))
    if is_beyond or _has_status(order, target):
        return Job(order, ended=order)
    if _is_becoming(order, target, once=is_once_only(action, migration_allowed)):
        return Job(order, transition=Transition(order.order_id, action, target, None, migration_allowed))
    return Job(order)


def _resuming(
    outcome: FleetOutcome, migration_allowed: bool, seen: Mapping[int, Order | int | TrooperError], operation: str
) -> Job:
    """The job for an order that has not finished."""
    if outcome.sent:
        return Job(outcome.order_id, transition=outcome.transition)
    once = is_once_only(outcome.action, migration_allowed)
    if once and outcome.transition is not None:
        lost = OutcomeUnknownError("it may have been sent by the earlier run", transition=outcome.transition)
        return Job(outcome.order_id, transition=outcome.transition, lost=lost)
    known = seen[outcome.order_id]
    if isinstance(known, TrooperError):
        return Job(outcome.order_id, ended=known)
    if once:
        return Job(known)  # not sent, so not begun: it is sent now, whatever the order's status is
    return _needed(known, outcome.action, migration_allowed)


def _has_status(order: Order, target: str) -> bool:
    desired = order.desired_status
    return same_word(order.current_status, target) and (desired is None or same_word(meant(desired), target))


def _is_becoming(order: Order, target: str, *, once: bool) -> bool:
    """Whether that is certain. If it is not, the action is sent, which is harmless even if it is repeated."""
    current = order.current_status.casefold()
    becomes = _BECOMES.get(current)
    if order.desired_status is None:
        return becomes == target
    if not same_word(meant(order.desired_status), target):
        return False
    if current in _STEADY:  # the API may have dropped the request, but what could move a server twice is not repeated
        return once
    return becomes in (None, target)
