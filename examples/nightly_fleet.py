"""Freezes a fleet every evening and starts it again every morning, by local time, daylight saving included.

    python examples/nightly_fleet.py --title "job-*" --freeze 19:00 --start 08:00 --timezone Europe/Berlin

In the evening what runs under such a title is frozen, except what is locked. In the morning what was frozen that way is
started, and nothing that somebody froze by hand. Each run keeps its report in `nightly/2026-11-24-freeze.json`, written
before anything is sent and after each end: killed in the middle of a run, the next start of this program goes on with
it and sends nothing again, unless the other time of the day has come. What came and went while it was down is not made
up for. The key comes from TROOPER_API_KEY. It runs until Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from attrs import frozen

from trooper_async import FleetProgress, FleetReport, TrooperClient, TrooperError
from trooper_async._groups.selection import select


class Due(NamedTuple):
    at: datetime
    action: str


def around(now: datetime, times: dict[str, time], zone: ZoneInfo) -> tuple[Due, Due]:
    """What was due last, `now` included, and what is due next, in UTC.

    A time that the clocks skip comes an hour later by the wall clock; of one that comes twice, the first counts.
    """
    today = now.astimezone(zone).date()
    all_due = [  # in UTC, since times of one zone are compared by the wall clock
        Due(datetime.combine(today + timedelta(days), at, zone).astimezone(UTC), action)
        for days in (-2, -1, 0, 1, 2)
        for action, at in times.items()
    ]
    return max(due for due in all_due if due.at <= now), min(due for due in all_due if due.at > now)


@frozen
class Nightly:
    client: TrooperClient
    times: dict[str, time]
    zone: ZoneInfo
    title: str
    folder: Path = Path("nightly")
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def run(self, every: float = 60.0) -> None:
        """Look at the clock every so many seconds: one long sleep would not notice that it was set."""
        due, following = around(self.clock(), self.times, self.zone)
        done = due if load(self.path(due)) is None else None  # begun before: it is gone on with
        print(f"next: {following.action} at {following.at.astimezone(self.zone):%Y-%m-%d %H:%M %Z}", flush=True)
        while True:
            due, _ = around(self.clock(), self.times, self.zone)
            try:
                if done is None or due > done:  # the clock may be set back
                    await self.carry_out(due)
                    done = due
            except TrooperError as error:  # those of single servers are in the report
                print(f"{due.action}: {error}. It is tried again", flush=True)
            await asyncio.sleep(every)

    async def carry_out(self, due: Due) -> None:
        fleet, path = self.client.fleet, self.path(due)

        async def keep(progress: FleetProgress) -> None:
            await asyncio.to_thread(store, path, progress.report())

        if (begun := load(path)) is not None:
            report = await fleet.resume(begun, concurrency=8, on_progress=keep)
        elif due.action == "freeze":
            orders = select(await self.client.orders.find(), title=self.title, status="running")
            report = await fleet.freeze([o for o in orders if not o.is_locked], concurrency=8, on_progress=keep)
        else:
            evening = load(self.path(around(due.at - timedelta.resolution, self.times, self.zone)[0]))
            ours = [outcome.order_id for outcome in evening.outcomes if outcome.sent is not False] if evening else []
            report = await fleet.start(ours, concurrency=8, on_progress=keep)
        print(f"{due.action}: {len(report.succeeded)} of {len(report.outcomes)} in {report.elapsed:.0f} s", flush=True)
        print(*(f"failed: {outcome.error}\n" for outcome in report.failed), sep="", end="", flush=True)

    def path(self, due: Due) -> Path:
        return self.folder / f"{due.at.astimezone(self.zone):%Y-%m-%d}-{due.action}.json"


def load(path: Path) -> FleetReport | None:
    return FleetReport.from_json(path.read_text()) if path.exists() else None


def store(path: Path, report: FleetReport) -> None:
    """In one step: killed in the middle, it leaves the report that was there."""
    path.parent.mkdir(exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(report.to_json())
    new.replace(path)


async def main() -> None:
    parser = argparse.ArgumentParser(description="Freeze a fleet every evening, start it every morning.")
    parser.add_argument("--title", required=True, help="of the servers, like job-*")
    parser.add_argument("--freeze", type=time.fromisoformat, default=time(19), help="when (%(default)s)")
    parser.add_argument("--start", type=time.fromisoformat, default=time(8), help="when (%(default)s)")
    parser.add_argument("--timezone", type=ZoneInfo, required=True, help="of these times, like Europe/Berlin")
    options = parser.parse_args()
    async with TrooperClient() as client:
        await Nightly(client, {"freeze": options.freeze, "start": options.start}, options.timezone, options.title).run()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
