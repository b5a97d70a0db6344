"""Measurements: CPU of this process, stalls of its event loop, and a figure with its goal."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from statistics import median

from attrs import frozen

_TICK = 0.001
_TOLERANCE = 0.2
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@frozen
class Figure:
    """One line of the table: the value of each run, beside the goal."""

    work: str
    values: Sequence[float]
    goal: float | None = None
    """None: reported, not judged."""
    unit: str = "×"  # noqa: RUF001 - a ratio
    at_least: bool = False
    """Whether the goal is a floor."""

    @property
    def missed(self) -> bool:
        """Whether the median misses the goal by more than 20 %."""
        if self.goal is None:
            return False
        if self.at_least:
            return median(self.values) < self.goal * (1 - _TOLERANCE)
        return median(self.values) > self.goal * (1 + _TOLERANCE)

    def __str__(self) -> str:
        """Its row: the work, the minimum, median and maximum, the goal and the verdict."""
        values = (min(self.values), median(self.values), max(self.values))
        goal = "" if self.goal is None else f"{'≥' if self.at_least else '≤'} {_number(self.goal)} {self.unit}"
        verdict = "" if self.goal is None else "MISSED" if self.missed else "near" if self._off else "met"
        return line([self.work, *(f"{_number(value)} {self.unit}" for value in values), goal, verdict])

    @property
    def _off(self) -> bool:
        assert self.goal is not None
        return median(self.values) < self.goal if self.at_least else median(self.values) > self.goal


_WIDTHS = (84, 10, 10, 10, 12, 6)


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table, with the same width as every other."""
    first, *others = zip(cells, _WIDTHS, strict=True)
    return " | ".join([f"| {first[0]:{first[1]}}", *(f"{cell:>{width}}" for cell, width in others)]) + " |"


HEADER = "\n".join(
    [
        line(["work", "minimum", "median", "maximum", "goal", ""]),
        line(["-" * _WIDTHS[0], *("-" * (width - 1) + ":" for width in _WIDTHS[1:])]),
    ]
)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def tidy() -> None:
    """Collect garbage of earlier work, and exclude what the peers have imported from later collections."""
    gc.collect()
    gc.freeze()


def keep_memory() -> None:
    """Let the C library keep what was freed: else it gives it back, or not, as it happens.

    A read of 5.8 MB costs 1.4 ms or, with a page fault for each page, 7 ms: more than what is measured.
    """
    with suppress(AttributeError):  # it is not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, 2**30)
        mallopt(_M_MMAP_THRESHOLD, 2**25)


async def cpu(work: Callable[[], Awaitable[object]], times: int = 1) -> float:
    """CPU seconds of this process per repetition of the work."""
    tidy()
    began = time.process_time()
    for _ in range(times):
        await work()
    return (time.process_time() - began) / times


def peak_mib() -> float:
    """The peak memory of this process (Linux; getrusage would include the parent's from before the exec)."""
    return _status("VmHWM")


def resident_mib() -> float:
    """The memory of this process (Linux)."""
    return _status("VmRSS")


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


class Stalls:
    """The longest time in which the event loop ran nothing else, in milliseconds."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0
        """What its thread worked, and how long that took: more, where the machine is busy with others."""

    def reset(self) -> None:
        self.cpu = self.wall = 0.0

    async def _tick(self) -> None:
        cpu, wall = time.thread_time(), time.perf_counter()
        while True:
            await asyncio.sleep(_TICK)
            before, last = cpu, wall
            cpu, wall = time.thread_time(), time.perf_counter()
            late = wall - last - _TICK
            self.cpu = max(self.cpu, 1000 * min(cpu - before, late))
            self.wall = max(self.wall, 1000 * late)


@asynccontextmanager
async def stalls() -> AsyncGenerator[Stalls]:
    """Watch the event loop."""
    tidy()
    watched = Stalls()
    ticking = asyncio.create_task(watched._tick())
    await asyncio.sleep(5 * _TICK)
    watched.reset()
    try:
        yield watched
    finally:
        await asyncio.sleep(2 * _TICK)  # the last turn
        ticking.cancel()
        with suppress(asyncio.CancelledError):
            await ticking
