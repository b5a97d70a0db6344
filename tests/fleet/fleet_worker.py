"""A process that runs a fleet and stores its report before each action is sent, to be killed by test_fleet.py.

    python -m tests.fleet.fleet_worker URL FILE stop|restart 124,125,…

If FILE exists, it continues that run.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from trooper_async import FleetProgress, FleetReport, PollSchedule, TrooperClient


async def main(url: str, file: Path, action: str, ids: list[int]) -> None:
    def store(progress: FleetProgress) -> None:
        part = file.with_suffix(".part")
        part.write_text(progress.report().to_json())
        part.replace(file)

    poll = PollSchedule(floor=0.02, cap=0.2)
    async with TrooperClient("fake-key-for-tests-only", base_url=url, poll=poll) as client:
        if file.exists():
            await client.fleet.resume(FleetReport.from_json(file.read_text()), on_progress=store)
        elif action == "stop":
            await client.fleet.stop(ids, concurrency=4, on_progress=store)
        else:
            await client.fleet.restart(ids, concurrency=4, on_progress=store)


if __name__ == "__main__":
    url, file, action, ids = sys.argv[1:]
    asyncio.run(main(url, Path(file), action, [int(each) for each in ids.split(",")]))
