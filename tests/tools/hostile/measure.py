"""One hostile response, measured within the client's own process: `python -m tests.tools.hostile.measure NAME URL`."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from tests.tools.hostile.answers import BY_NAME, MIB
from trooper_async import RetryPolicy, TrooperClient, TrooperError

TIMEOUT = 2.0
DEADLINE = 4.0
ALLOWED_SECONDS = DEADLINE + TIMEOUT + 0.5
"""The deadline decides whether another attempt starts; that one has `TIMEOUT` at most to connect. And a little."""
TICK = 0.001
STATUS = Path("/proc/self/status")


class Measured(TypedDict):
    outcome: str
    attempts: int
    peak_mib: float
    stall_ms: float
    seconds: float


def _memory(field: str) -> float:
    """A field of /proc/self/status in MiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def _start() -> float:
    """Forget the peak so far; the memory now."""
    if STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")
        return _memory("VmRSS")
    return _peak()


def _peak() -> float:
    if STATUS.exists():
        return _memory("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024


class Ticker:
    """The longest time for which the loop did nothing else."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(TICK)
            now = time.perf_counter()
            self.longest = max(self.longest, now - last - TICK)
            last = now


async def measure(name: str, url: str) -> Measured:
    """What the response of that name costs a client with default limits."""
    answer = BY_NAME[name]
    logging.getLogger("trooper_async").setLevel(logging.ERROR)
    patient = answer.decoded
    policy = RetryPolicy(max_delay=0.0, deadline=60.0 if patient else DEADLINE)
    timeout = 30.0 if patient else TIMEOUT
    async with TrooperClient("tk-0123456789", base_url=url, retry=policy, timeout=timeout) as client:
        await client.orders.list()  # a normal one first: imports and objects made on first use
        ticker = Ticker()
        ticking = asyncio.create_task(ticker.run())
        await asyncio.sleep(0.05)
        ticker.longest, before, started = 0.0, _start(), time.perf_counter()
        attempts = 1
        try:
            outcome = f"{len(await client.orders.list())} orders"
        except TrooperError as error:
            outcome, attempts = type(error).__name__, error.attempts
        except Exception as error:  # noqa: BLE001 - must not happen, and is reported
            outcome = f"untyped: {type(error).__name__}"
        seconds = time.perf_counter() - started
        await asyncio.sleep(2 * TICK)
        ticking.cancel()
        with suppress(asyncio.CancelledError):
            await ticking
        return Measured(
            outcome=outcome,
            attempts=attempts,
            peak_mib=_peak() - before,
            stall_ms=1000 * ticker.longest,
            seconds=seconds,
        )


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(*sys.argv[1:3]))))
