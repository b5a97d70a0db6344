"""`trooper start`, `stop`, `freeze`, `restart`, `resume` and `wait`, for one server or many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

import click
from attrs import evolve, frozen
from rich.text import Text

from trooper_async import Action, FleetOutcome, FleetProgress, FleetReport, ReportFile, select
from trooper_async.cli._context import Cli
from trooper_async.cli._errors import FAILED, FailedError, partly, reason
from trooper_async.cli._live import Progress, progress
from trooper_async.cli._options import (
    Filters,
    command,
    no_wait_option,
    selection_options,
    timeout_option,
    yes_option,
)
from trooper_async.cli._servers import totals
from trooper_async.cli._tables import ORDERS, Table, plain_table, table_of
from trooper_async.cli._text import NO_VALUE, cell, count, euros, span, status
from trooper_async.errors import ConfigurationError, TrooperError
from trooper_async.models import Order

if TYPE_CHECKING:
    from trooper_async import Timeout, TrooperClient

F = TypeVar("F", bound="Callable[..., object]")
Run = Callable[..., Awaitable[FleetReport]]
"""Takes `on_progress`."""

_force = click.option(
    "--force", is_flag=True, help="Send it to every server, also to those that are left alone because of their status."
)
_concurrency = click.option(
    "--concurrency", type=click.IntRange(min=1), default=16, show_default=True, help="Requests at once."
)
_report = click.option(
    "--report",
    type=click.Path(path_type=Path),
    help="Keep what becomes of each server in this file, also when interrupted: `trooper resume FILE` continues. "
    "No other file is written over, nor the report of a run that has servers left to send.",
)


def _action_options(function: F) -> F:
    for option in (_report, _force, _concurrency, timeout_option, no_wait_option, yes_option):
        function = option(function)
    return selection_options(function)


class _ActionOptions(Filters):
    ids: Sequence[int]
    every: bool
    yes: bool
    no_wait: bool
    timeout: float | None
    concurrency: int
    force: bool
    report: Path | None


@command()
@_action_options
@click.option(
    "--migration-allowed",
    is_flag=True,
    help="Frozen servers may move to other hardware: 10 to 90 minutes, with other ports and perhaps another CPU.",
)
async def start(cli: Cli, migration_allowed: bool, **given: Unpack[_ActionOptions]) -> None:
    """Start servers, and wait until they run. Those that already run, or are starting, are left alone."""
    await _act(cli, "start", "starting", migration_allowed=migration_allowed, **given)


@command()
@_action_options
async def stop(cli: Cli, **given: Unpack[_ActionOptions]) -> None:
    """Stop servers, and wait until they have stopped. A stopped server still costs 35 % of its price.

    Servers that are already stopped or frozen, or are stopping or freezing, are left alone.
    """
    await _act(cli, "stop", "stopping", **given)


@command()
@_action_options
async def freeze(cli: Cli, **given: Unpack[_ActionOptions]) -> None:
    """Freeze servers: archive them, and release their hardware. Address and ports may change.

    Servers that are already frozen, or are freezing, are left alone.
    """
    await _act(cli, "freeze", "freezing", **given)


@command()
@_action_options
async def restart(cli: Cli, **given: Unpack[_ActionOptions]) -> None:
    """Restart servers (a forced power reset), each once, and wait until the restart is confirmed.

    Servers that do not run are left alone.
    """
    await _act(cli, "restart", "restarting", **given)


@command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_concurrency
@timeout_option
async def resume(cli: Cli, file: Path, concurrency: int, timeout: float | None) -> None:
    """Continue a run that was interrupted, from the FILE of its --report.

    Actions that were accepted are only awaited; those that were not sent are sent now, if they are still needed.
    """
    with _StoredReport(cli, file, continues=True) as stored:
        order_ids = [outcome.order_id for outcome in stored.report.outcomes if outcome.resumable]
        async with cli.client() as client:
            run = partial(client.fleet.resume, stored.report, concurrency=concurrency, timeout=timeout or "default")
            await _carry_out(cli, client, run, "continuing with", order_ids, (), stored)
    _show_report(cli, stored.report)


async def _act(
    cli: Cli,
    action: Action,
    doing: str,
    *,
    ids: Sequence[int],
    every: bool,
    yes: bool,
    no_wait: bool,
    timeout: float | None,
    concurrency: int,
    force: bool,
    report: Path | None,
    migration_allowed: bool = False,
    **filters: Unpack[Filters],
) -> None:
    _check_choice(ids, every, filters)
    with _StoredReport(cli, report) as stored:
        async with cli.client() as client:
            orders = await _chosen(cli, client, ids, every, filters, None if yes else action)
            order_ids = [order.order_id if isinstance(order, Order) else order for order in orders]
            fleet = client.fleet
            usual: Timeout = timeout or "default"
            if action == "start":
                run: Run = partial(fleet.start, orders, migration_allowed=migration_allowed)
            else:
                verbs = {"stop": fleet.stop, "freeze": fleet.freeze, "restart": fleet.restart}
                run = partial(verbs[action], orders)
            run = partial(run, timeout=usual, wait=not no_wait, concurrency=concurrency, force=force)
            seen = [order for order in orders if isinstance(order, Order)]
            await _carry_out(cli, client, run, doing, order_ids, seen, stored, waits=not no_wait)
    _show_report(cli, stored.report)


async def _carry_out(
    cli: Cli,
    client: TrooperClient,
    run: Run,
    doing: str,
    order_ids: Sequence[int],
    seen: Iterable[Order],
    stored: _StoredReport,
    *,
    waits: bool = True,
) -> None:
    what = f"{doing} {count(len(order_ids), 'server')}"
    async with progress(cli, client, what, order_ids, follows=waits) as shown:
        for order in seen:
            shown.see(order)

        def show(now: FleetProgress) -> None:
            stored.see(now)
            latest = now.latest
            if latest.ended or latest.sent:
                shown.end(latest.order_id, latest.order or latest.error, latest.seconds)

        stored.report = await run(on_progress=show)


# Which servers ----------------------------------------------------------------------------------------------------


def _check_choice(ids: Sequence[int], every: bool, filters: Filters) -> None:
    """Require exactly one choice: IDs, or --all. Nothing has been sent."""
    filtered = any(value is not None for value in filters.values())
    if every and ids:
        raise click.UsageError("name ids, or --all, not both", click.get_current_context())
    if not every and filtered:
        raise click.UsageError("filters need --all", click.get_current_context())
    if not every and not ids:
        raise click.UsageError("name the ids of servers, or --all", click.get_current_context())


async def _chosen(
    cli: Cli, client: TrooperClient, ids: Sequence[int], every: bool, filters: Filters, asked: Action | None
) -> list[Order | int]:
    """The chosen servers; with `--all`, the user confirms them first if `asked`."""
    if not every:
        return list(dict.fromkeys(ids))
    orders: list[Order | int] = []
    found = select(await client.orders.list(), **filters)
    orders.extend(found)
    if not found:
        cli.say("no server matches")
    elif asked is not None:
        cli.say(table_of(ORDERS, found), totals(found))
        if not cli.ask(_question(asked, found)):
            raise FailedError(FAILED, "not confirmed: nothing was sent", "--yes skips the question")
    return orders


def _question(action: Action, orders: Sequence[Order]) -> str:
    text = f"{action.capitalize()} {count(len(orders), 'server')}"
    if action == "start":
        price = sum(order.price_h for order in orders if order.price_h is not None)
        text += f", which cost {euros(price or None)} EUR per hour while they run"
    return f"{text}?"


# What became of each ----------------------------------------------------------------------------------------------


class _StoredReport:
    """What is known of a run so far, also in a file if `--report` names one.

    Args:
        cli: receives what is known, in case the run is interrupted.
        path: the file; None keeps it in memory only.
        continues: whether to continue the run in the file.

    Raises:
        click.UsageError: a report cannot be written to this file. Nothing was sent.
    """

    def __init__(self, cli: Cli, path: Path | None, *, continues: bool = False) -> None:
        self.report = FleetReport(())
        self._cli = cli
        self._path = path
        self._latest: FleetProgress | None = None
        self._file = None if path is None else _open(path, continues)
        if path is not None and continues:
            self.report = FleetReport.from_json(path.read_text(encoding="utf-8"))

    def see(self, progress: FleetProgress) -> None:
        """Take note of the progress. An action is in the file before it is sent."""
        self._latest = progress
        if self._file is not None:
            self._file(progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self._latest is not None:
            self.report = self._latest.report()
        if self._file is not None:
            self._file.close()
        if isinstance(error, asyncio.CancelledError):
            self._cli.say(self._interrupted())
            if self._cli.as_json:
                self._cli.result(self.report.outcomes)

    def _interrupted(self) -> str:
        report = self.report
        if not report.outcomes:
            return "interrupted before anything was sent"
        in_flight = sum(outcome.sent is not False for outcome in report.pending)
        ended = count(len(report.outcomes) - len(report.pending), "server")
        not_sent = len(report.pending) - in_flight
        text = f"interrupted: {ended} finished, {in_flight} in progress (the API continues), {not_sent} not sent"
        return text + ("" if self._path is None else f"; `trooper resume {self._path}`")


def _open(path: Path, continues: bool) -> ReportFile:
    context = click.get_current_context(silent=True)
    if str(path) == "-":
        raise click.UsageError("--report takes a file: --json writes the outcomes to stdout", context)
    if continues and path.is_file() and path.stat().st_size == 0:
        raise click.UsageError(f"{path} is not the report of a fleet", context)
    try:
        file = ReportFile(path)
    except ConfigurationError as error:
        raise click.UsageError(error.message.removesuffix(": nothing was sent"), context) from None
    if file.report is not None and not continues:
        file.close()
        if left := [outcome for outcome in file.report.pending if outcome.sent is not True]:
            run = f"a run that was interrupted, with {count(len(left), 'server')} left"
            raise click.UsageError(f"{path} belongs to {run}: `trooper resume {path}`, or name another file", context)
        path.write_text("")  # everything was sent, and is no longer awaited
        file = ReportFile(path)
    return file


def _show_report(cli: Cli, report: FleetReport) -> None:
    """Show the outcomes as the command's result, and set the exit status if some failed."""
    failures = [outcome.error for outcome in report.outcomes if outcome.error is not None]
    alone = len(failures) == len(report.outcomes) == 1
    shown: list[Text | Table | str] = []
    if report.outcomes and not alone:
        shown = [_outcomes(report.outcomes), "", _summary(report)]
    cli.result(report.outcomes, *shown)
    if failures:
        raise partly(failures, len(report.outcomes))


def _outcomes(outcomes: Iterable[FleetOutcome | WaitOutcome]) -> Table:
    rows: list[list[Text | str]] = []
    for outcome in outcomes:
        order, number, took = outcome.order, str(outcome.order_id), span(outcome.seconds)
        if outcome.error is not None:
            rows.append([number, NO_VALUE, Text("failed", "red"), took, reason(outcome.error)])
        elif order is None:
            rows.append([number, NO_VALUE, "accepted" if getattr(outcome, "sent", None) else "not sent", took, ""])
        else:
            alone = isinstance(outcome, FleetOutcome) and outcome.sent is False
            rows.append([number, cell(order.title), status(order), took, "left alone" if alone else ""])
    names = ["id", "title", "status", "took", *(["why"] if any(row[-1] for row in rows) else [])]
    return plain_table(*names, rows=rows, numbers=["id", "took"])


def _summary(report: FleetReport) -> Text:
    accepted, alone = sum(bool(outcome.sent) for outcome in report.pending), len(report.left_alone)
    parts = [f"{len(report.succeeded) - alone} done", f"{alone} left alone"]
    parts += [f"{accepted} accepted", f"{len(report.failed)} failed"]
    text = ", ".join(part for part in parts if not part.startswith("0 "))
    return Text(f"{text or 'nothing to do'} in {span(report.elapsed)}", "bold")


# wait ---------------------------------------------------------------------------------------------------------------


@frozen
class WaitOutcome:
    """The outcome of the wait for one server."""

    order_id: int
    order: Order | None = None
    error: TrooperError | None = None
    seconds: float = 0.0


@command()
@selection_options
@click.option("--until", metavar="STATUS", help="A status, such as running. By default: each server's desired one.")
@timeout_option
async def wait(
    cli: Cli,
    ids: Sequence[int],
    every: bool,
    until: str | None,
    timeout: float | None,
    **filters: Unpack[Filters],
) -> None:
    """Wait until servers reach their desired status, or one that you name (at most 900 s by default)."""
    _check_choice(ids, every, filters)
    async with cli.client() as client:
        orders = await _chosen(cli, client, ids, every, filters, None)
        order_ids = [order.order_id if isinstance(order, Order) else order for order in orders]
        what = f"waiting for {count(len(orders), 'server')}"
        async with progress(cli, client, what, order_ids) as shown, asyncio.TaskGroup() as group:
            waits = [group.create_task(_wait_for(client, order, until, timeout or 900.0, shown)) for order in order_ids]
    outcomes = [wait.result() for wait in waits]
    failures = [outcome.error for outcome in outcomes if outcome.error is not None]
    alone = len(failures) == len(outcomes) == 1
    cli.result(outcomes, *([] if alone or not outcomes else [_outcomes(outcomes)]))
    if failures:
        raise partly(failures, len(outcomes))


async def _wait_for(
    client: TrooperClient, order: int, until: str | None, timeout: float, shown: Progress
) -> WaitOutcome:
    began = time.monotonic()
    outcome = WaitOutcome(order)
    try:
        if until is None:
            outcome = evolve(outcome, order=await client.orders.wait_until_converged(order, timeout=timeout))
        else:
            outcome = evolve(outcome, order=await client.orders.wait_until(order, until, timeout=timeout))
    except TrooperError as error:
        outcome = evolve(outcome, error=error)
    outcome = evolve(outcome, seconds=time.monotonic() - began)
    shown.end(order, outcome.order or outcome.error, outcome.seconds)
    return outcome
