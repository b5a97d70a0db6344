"""What became of each server of a run: kept while it goes on, written to a file, shown at its end."""

from __future__ import annotations

import asyncio
import math
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import click
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trooper_async._fleet.report import FleetProgress, FleetReport
from trooper_async.cli._cli import Cli
from trooper_async.cli._errors import partly, reason
from trooper_async.cli._tables import table
from trooper_async.cli._text import NOTHING, cell, count, span, status
from trooper_async.errors import ConfigurationError

_WRITTEN_EVERY = 1.0


class Keeper:
    """Keeps what is known of a run, however it ends: `with keeper:` around it."""

    def __init__(self, cli: Cli, file: Path | None, report: FleetReport | None = None) -> None:
        self.report = report or FleetReport(())
        self._cli = cli
        self._file = file
        self._written = -math.inf
        self._latest: FleetProgress | None = None

    def see(self, progress: FleetProgress) -> None:
        """How far it is: what is about to be sent is in the file before it is; ends may come with the next call."""
        self._latest = progress
        about_to_be_sent = progress.latest.sent is None and not progress.latest.ended
        if self._file is not None and (about_to_be_sent or time.monotonic() - self._written >= _WRITTEN_EVERY):
            self.keep(progress.report())

    def keep(self, report: FleetReport) -> None:
        """The report as it is now."""
        self.report = report
        if self._file is not None:
            new = self._file.with_name(f".{self._file.name}.{os.getpid()}")
            new.write_text(report.to_json(), encoding="utf-8")
            new.replace(self._file)
            self._written = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            return
        if self._latest is not None:
            self.keep(self._latest.report())
        if isinstance(error, asyncio.CancelledError):
            self._cli.say(_interrupted(self.report, self._file))


def _interrupted(report: FleetReport, file: Path | None) -> str:
    if not report.outcomes:
        return "interrupted before anything was sent"
    on_their_way = sum(outcome.sent is not False for outcome in report.pending)
    ended = count(len(report.outcomes) - len(report.pending), "server")
    not_sent = len(report.pending) - on_their_way
    text = f"interrupted: {ended} ended, {on_their_way} on their way (they go on at the API), {not_sent} not sent"
    return text + ("" if file is None else f"; trooper resume {file}")


def read_report(file: Path) -> FleetReport:
    """The report in a file that `--report` wrote."""
    return FleetReport.from_json(file.read_text(encoding="utf-8", errors="replace"))


def check_free(file: Path | None) -> None:
    """Refuse to write over what is no report, or one with servers of which it is not known whether they were sent.

    Raises:
        click.UsageError: it is in the way.
    """
    if file is None or not file.exists() or not file.stat().st_size:
        return
    try:
        left = [outcome for outcome in read_report(file).pending if outcome.sent is not True]
    except ConfigurationError:
        problem = f"{file} is another file than one of --report"
    else:
        if not left:
            return
        problem = f"{file} is of a run that was cut, with {count(len(left), 'server')} left: `trooper resume {file}`"
    raise click.UsageError(f"{problem}; or name another file", click.get_current_context())


def show_report(cli: Cli, report: FleetReport) -> None:
    """Its outcomes as a command's result, and its exit status where some failed."""
    failures = [outcome.error for outcome in report.outcomes if outcome.error is not None]
    shown: list[RenderableType] = (
        [] if len(failures) == len(report.outcomes) == 1 else [_outcomes(report), _summary(report)]
    )
    cli.result(report.outcomes, *(shown if report.outcomes else []))
    if failures:
        raise partly(failures, len(report.outcomes))


def _outcomes(report: FleetReport) -> Table:
    made = table("id", "title", "status", "took")
    for outcome in report.outcomes:
        order, took = outcome.order, span(outcome.seconds)
        if outcome.error is not None:
            made.add_row(str(outcome.order_id), NOTHING, Text(reason(outcome.error), "red"), took)
        elif order is None:
            made.add_row(str(outcome.order_id), NOTHING, "accepted" if outcome.sent else "not sent", took)
        else:
            made.add_row(str(outcome.order_id), cell(order.title), status(order), took)
    return made


def _summary(report: FleetReport) -> Text:
    accepted = sum(bool(outcome.sent) for outcome in report.pending)
    parts = [f"{len(report.succeeded)} done", f"{accepted} accepted", f"{len(report.failed)} failed"]
    text = ", ".join(part for part in parts if not part.startswith("0 "))
    return Text(f"{text or 'nothing to do'} in {span(report.elapsed)}", "bold")
