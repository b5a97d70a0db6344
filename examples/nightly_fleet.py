"""Freezes a fleet every evening and starts it again every morning, by local time, daylight saving included.

    python examples/nightly_fleet.py --title "job-*" --freeze 19:00 --start 08:00 --timezone Europe/Berlin >> night.log

In the evening it freezes the servers with this title that run, except locked ones. In the morning it starts those that
it froze; a server that somebody started in the meantime, and perhaps froze again, is left alone. Failures are retried
until the other time of the day comes.

It keeps a report of each evening and morning in `nightly/`, in a folder for each title; give each account a `--folder`
of its own. The report is written before anything is sent, so this program can be killed at any time. When it is started
again, it continues, and makes up for a time that it missed, unless the other time has come since; if it has not run for
a week, it only waits for the next time. A second copy for the same folder and title exits.

With `--dry-run` it only says which servers match. The key comes from TROOPER_API_KEY. It runs until Ctrl-C or SIGTERM.

It is a loop and not a schedule of the durable engine, because `durable.converge` reads the list again after a crash,
and would then freeze what somebody has started by hand in the night.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, time, timedelta
from io import TextIOWrapper
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from attrs import evolve, frozen

from trooper_async import (
    APIConnectionError,
    FleetOutcome,
    FleetReport,
    Order,
    OrderVanishedError,
    RateLimitError,
    ReportFile,
    ResponseFormatError,
    ServerError,
    ServerLockedError,
    SupersededError,
    Timeout,
    TrooperClient,
    TrooperError,
    WaitTimeoutError,
)

LOG = logging.getLogger("nightly_fleet")
AWAY = {"stopping", "stopped", "freezing", "frozen", "terminated"}
FINAL = (ServerLockedError, SupersededError, OrderVanishedError)  # somebody has decided otherwise, or it is gone
WEEK = timedelta(days=7)  # older reports do not count


class Due(NamedTuple):
    at: datetime
    action: str


def around(now: datetime, times: Mapping[str, time], zone: ZoneInfo) -> tuple[Due, Due]:
    """The last due time, up to now, and the next one, in UTC.

    A time that the clocks skip comes an hour later; of a time that comes twice, the first one counts.
    """
    today = now.astimezone(zone).date()
    all_due = [  # in UTC, since Python compares times of one zone by the wall clock
        Due(datetime.combine(today + timedelta(days), at, zone).astimezone(UTC), action)
        for days in (-2, -1, 0, 1, 2)
        for action, at in times.items()
    ]
    return max(due for due in all_due if due.at <= now), min(due for due in all_due if due.at > now)


@frozen
class Nightly:
    client: TrooperClient
    title: str
    times: Mapping[str, time]
    """Of the actions `freeze` and `start`."""
    zone: ZoneInfo
    folder: Path
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    every: float = 60.0
    """Seconds between two checks of the clock, and before a retry."""
    patience: Timeout = "default"
    """Seconds after which a server that is not there yet is reported, and then awaited further; by default what the
    action usually needs."""

    async def run(self) -> None:
        """Do what is due, one after the other, until cancelled."""
        due, following = around(self.clock(), self.times, self.zone)
        is_first = not self.recent(due)
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            with ReportFile(self.path(due)) as file:  # it is locked: a second copy fails here
                if is_first:
                    file.store(FleetReport(()))  # there is nothing to make up for
                    is_first = False
                LOG.info("next: %s at %s", following.action, self.text(following))
                async with asyncio.TaskGroup() as group:
                    work = group.create_task(self.carry_out(due, following, file))
                    while self.clock() < following.at:  # noqa: ASYNC110 - a long sleep would not notice a set clock
                        await asyncio.sleep(self.every)
                    if work.cancel():
                        LOG.error("%s of %s is not complete, and ends now", due.action, self.text(due))
            due, following = around(self.clock(), self.times, self.zone)

    async def carry_out(self, due: Due, following: Due, file: ReportFile) -> None:
        """Freeze or start, and retry what has failed."""
        pause = self.every
        while True:
            try:
                report = await self.go_on(due, file)
            except (TrooperError, OSError) as error:  # the list could not be read, or the report not be written
                LOG.warning("%s: %s; trying again until %s", due.action, error, self.text(following))
                await asyncio.sleep(self.every)
                continue
            count = f"{len(report.succeeded)} of {len(report.outcomes)} servers" if report.outcomes else "nothing to do"
            LOG.info("%s of %s: %s", due.action, self.text(due), count)
            failures: defaultdict[str, list[int]] = defaultdict(list)
            for outcome in report.outcomes:
                if may_succeed(outcome):
                    failures[outcome.error.message if outcome.error else "not finished"].append(outcome.order_id)
                elif outcome.error is not None:
                    LOG.warning("left alone: %s", outcome.error)
            for message, order_ids in failures.items():
                LOG.error("%s failed for order %s: %s", due.action, ", ".join(map(str, order_ids)), message)
            if not failures:
                return
            LOG.info("%s: trying again until %s", due.action, self.text(following))
            await asyncio.sleep(pause)
            pause = min(2 * pause, max(self.every, 900.0))

    async def go_on(self, due: Due, file: ReportFile) -> FleetReport:
        """Begin with what is due, or continue with what is in the file."""
        fleet = self.client.fleet
        begun = file.read()
        if begun is not None:
            if not any(may_succeed(one) for one in begun.outcomes):
                return begun
            await self.client.orders.find()  # in an outage this raises, and is tried again soon
            begun = evolve(begun, outcomes=tuple(again(one) if may_succeed(one) else one for one in begun.outcomes))
            return await fleet.resume(begun, concurrency=8, timeout=self.patience, on_progress=file)
        if due.action == "freeze":
            orders = [one for one in await self.find(self.title) if runs(one) and not one.is_locked]
            report = await fleet.freeze(orders, concurrency=8, timeout=self.patience, on_progress=file)
        else:
            orders = await self.frozen_by_us(due)
            report = await fleet.start(orders, concurrency=8, timeout=self.patience, on_progress=file)
        if not orders:
            file.store(report)
        return report

    async def find(self, title: str | None) -> list[Order]:
        """The servers that three reads of the list show: one read may be incomplete, and nobody looks again later."""
        orders: dict[int, Order] = {}
        for pause in (0.0, self.every / 20, self.every / 20):
            await asyncio.sleep(pause)
            orders |= {order.order_id: order for order in await self.client.orders.find(title=title)}
        return list(orders.values())

    async def frozen_by_us(self, due: Due) -> list[Order]:
        """The servers that this program froze, including before a morning that it missed, and that nobody started
        since.
        """
        sent: dict[int, datetime] = {}
        for path in self.recent(due, "freeze"):
            with ReportFile(path) as file:
                evening = file.read() or FleetReport(())
            sent |= {one.order_id: one.sent_at for one in evening.outcomes if one.sent_at is not None}
        ours = [one for one in await self.find(None) if one.order_id in sent and not one.is_locked]
        ours = [one for one in ours if one.current_status.casefold() in ("freezing", "frozen")]
        return [one for one in ours if not await self.was_started(one, sent[one.order_id])]

    async def was_started(self, order: Order, since: datetime) -> bool:
        """Whether the server ran after it was frozen here, also if its history does not say when it ran."""
        try:
            rows = await self.client.orders.history(order)
        except ResponseFormatError as error:
            LOG.error("left alone: %s", error)
            return True
        ran = [row.status_since for row in rows if row.status_user.casefold() not in AWAY]
        if was_started := any(at is None or at > since for at in ran):
            LOG.info("left alone: order %d (%s) was started since it was frozen", order.order_id, order.title)
        return was_started

    def path(self, due: Due) -> Path:
        return self.folder / f"{due.at.astimezone(self.zone):%Y-%m-%d-%H%M}-{due.action}.report"

    def recent(self, due: Due, action: str = "*") -> list[Path]:
        """The reports of the week before, the oldest first."""
        oldest = self.path(Due(due.at - WEEK, "freeze"))
        return sorted(path for path in self.folder.glob(f"*-{action}.report") if path >= oldest)

    def text(self, due: Due) -> str:
        return f"{due.at.astimezone(self.zone):%Y-%m-%d %H:%M %Z}"


def runs(order: Order) -> bool:
    """Whether it runs, or is about to."""
    return AWAY.isdisjoint({order.current_status.casefold(), (order.desired_status or "running").casefold()})


def may_succeed(outcome: FleetOutcome) -> bool:
    """Whether a server is not in its status, and a retry can help."""
    return outcome.order is None and not isinstance(outcome.error, FINAL)


def again(outcome: FleetOutcome) -> FleetOutcome:
    """The outcome as an unfinished one. An accepted action without an effect in time may be sent once more."""
    sent = None if isinstance(outcome.error, WaitTimeoutError) else outcome.sent
    return evolve(outcome, error=None, sent=sent)


async def show(client: TrooperClient, title: str, *, dry_run: bool) -> None:
    """Say which servers match. An error if the key is missing or refused; an outage is one only for a dry run."""
    try:
        orders = await client.orders.find(title=title)
    except (APIConnectionError, RateLimitError, ResponseFormatError, ServerError) as error:
        if dry_run:
            raise
        LOG.warning("which servers match cannot be read yet: %s", error)
        return
    for order in orders:
        what = (
            "is locked: it is left alone" if order.is_locked else "would be frozen" if runs(order) else "does not run"
        )
        LOG.info("order %d (%s, %s) matches, and %s", order.order_id, order.title, order.current_status, what)
    if not orders:
        LOG.warning("no server has the title %s", title)


async def nightly(options: argparse.Namespace) -> None:
    folder = options.folder / quote(options.title.casefold(), safe="")
    async with TrooperClient(app="nightly_fleet") as client:
        await show(client, options.title, dry_run=options.dry_run)
        if not options.dry_run:
            times = {"freeze": options.freeze, "start": options.start}
            await Nightly(client, options.title, times, options.timezone, folder).run()


def timezone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError):
        raise argparse.ArgumentTypeError(f"{name} is no time zone; Europe/Berlin is one") from None


def main() -> int:
    parser = argparse.ArgumentParser(description="Freeze a fleet every evening, start it every morning.")
    parser.add_argument("--title", required=True, help="the servers' title, or a pattern such as job-*")
    parser.add_argument("--freeze", type=time.fromisoformat, default=time(19), help="when to freeze (%(default)s)")
    parser.add_argument("--start", type=time.fromisoformat, default=time(8), help="when to start (%(default)s)")
    parser.add_argument("--timezone", type=timezone, required=True, help="of these times, such as Europe/Berlin")
    parser.add_argument("--folder", type=Path, default=Path("nightly"), help="of the reports; one for each account")
    parser.add_argument("--dry-run", action="store_true", help="only say which servers match")
    options = parser.parse_args()
    if options.freeze == options.start:
        parser.error("--freeze and --start must be different times")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # no character of a title is an error
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s")  # flushes each line
    try:
        asyncio.run(nightly(options))
    except (TrooperError, OSError) as error:
        LOG.error("ended: %s", error)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
