"""A fleet's report in a file that grows with the run, so that a run that is killed can be continued."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from trooper_async._fleet.report import FleetProgress, FleetReport
from trooper_async.errors import ConfigurationError

_START = '{"trooper_fleet_report"'
"""How a report begins."""


class ReportFile:
    """Keeps a run's report in a file. Pass it as `on_progress`:

        with ReportFile("freeze.report") as file:
            if file.report is None:
                report = await client.fleet.freeze(orders, on_progress=file)
            else:  # of a run that was killed
                report = await client.fleet.resume(file.report, on_progress=file)

    `resume` continues with the orders of that run only: a program that runs again and again then starts a new run, with
    a fresh list.

    The file holds a line of JSON with all orders, then one line for each change, so the cost of a change does not grow
    with the fleet. An order is in the file before its action is sent, so nothing is lost if the process is killed. The
    file is locked while it is open, so that no two runs use one report.

    Args:
        path: the file. A finished report in it is replaced by that of the next run; one that is not finished is kept
            until it is resumed.

    Raises:
        ConfigurationError: it cannot be opened, holds something else than a report, or another run has it open.
            Nothing was sent.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._file = -1
        self._is_new = True
        self._orders: set[tuple[int, str]] | None = None
        self._began = time.monotonic()
        self.report: FleetReport | None = None
        """The report that was in the file, if its run has orders left to send or to wait for."""
        if self._path.exists() and not self._path.is_file():  # a device or a pipe is not even opened
            raise self._refused("is not a regular file")
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise self._refused(f"cannot be opened ({error.strerror})") from None
        try:
            self._take()
        except ConfigurationError:
            os.close(self._file)  # an empty file stays: it may be that of another run
            raise

    def __call__(self, progress: FleetProgress) -> None:
        """Write the progress of a run to the file.

        Args:
            progress: what the run passes to `on_progress`.

        Raises:
            ConfigurationError: the file holds the report of another run, which is not finished. Nothing was sent.
        """
        if self._is_new:
            report = progress.report()
            if self.report is not None and _orders(report) != _orders(self.report):
                raise self._refused("holds the report of another run: resume that one, or name another file")
            self._began -= report.elapsed
            self.store(report)
            self._is_new = False
        else:
            self._append(FleetReport((progress.latest,), time.monotonic() - self._began))

    def read(self) -> FleetReport | None:
        """Read the report that is in the file now.

        Returns:
            The report, finished or not; None if there is none.

        Raises:
            ConfigurationError: the file holds something else than a report.
        """
        text = self._content().decode(errors="replace")
        if not text or ("\n" not in text and _START.startswith(text[: len(_START)]) and not text.endswith("}")):
            return None  # the process was killed while it wrote the first line, and nothing had been sent
        try:
            return FleetReport.from_json(text)
        except ConfigurationError:
            raise self._refused("is not the report of a fleet") from None

    def store(self, report: FleetReport) -> None:
        """Write a whole report to the file, such as that of a run without orders, which calls no `on_progress`.

        Args:
            report: the report. It takes the place of the one in the file.
        """
        if self._orders != _orders(report):
            os.ftruncate(self._file, 0)
        self._append(report)  # a report of the same orders is not removed first: the process may be killed in between
        self._orders = _orders(report)

    def _append(self, report: FleetReport) -> None:
        size = os.fstat(self._file).st_size
        rest = memoryview(report.to_json().encode() + b"\n")
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            os.ftruncate(self._file, size)  # no half line, which a later one would continue
            raise

    def close(self) -> None:
        """Unlock and close the file, so that another run can use it. An empty file is removed."""
        if self._file >= 0:
            if os.fstat(self._file).st_size == 0:
                self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _take(self) -> None:
        """Lock the file and read it."""
        is_locked = _lock(self._file)
        try:  # the run that held it may have removed its empty file since it was opened here
            is_there = os.path.samestat(os.fstat(self._file), self._path.stat())
        except FileNotFoundError:
            is_there = False
        if not is_locked or not is_there:
            raise self._refused("is the report of a run that has not finished")
        report = self.read()
        end = self._content().rfind(b"\n") + 1
        if report is None or end:
            os.ftruncate(self._file, end)  # the process was killed while it wrote the last line
        if report is not None:
            self._orders = _orders(report) if end else None
            self.report = report if report.pending else None

    def _content(self) -> bytes:
        os.lseek(self._file, 0, os.SEEK_SET)
        return os.read(self._file, os.fstat(self._file).st_size)

    def _refused(self, problem: str) -> ConfigurationError:
        return ConfigurationError(f"{self._path} {problem}: nothing was sent", operation="ReportFile")


def _orders(report: FleetReport) -> set[tuple[int, str]]:
    return {(outcome.order_id, outcome.action) for outcome in report.outcomes}


def _lock(file: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: a second run is not detected there
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
