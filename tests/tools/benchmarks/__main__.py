"""Runs the benchmarks and prints their table; exits with 1 if a median misses its goal by more than 20 %."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import platform
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from attrs import frozen

from tests.tools.benchmarks import calls, capacity, curves, fleet, poll, schedule, waiters
from tests.tools.benchmarks.measure import HEADER, Figure, keep_memory
from tests.tools.benchmarks.server import in_a_process

T = TypeVar("T")

SUBJECTS = ("poll", "waiters", "schedule", "calls", "fleet", "capacity", "plots")


@frozen
class Sizes:
    """The size of each benchmark."""

    runs: int = 5
    orders: int = 10_000
    polls: int = 12
    waiters: int = 10_000
    waits: int = 50
    restarts: int = 300
    calls: int = 1_000
    imports: int = 5
    fleet: int = 10_000
    accounts: int = 200
    plot_orders: tuple[int, ...] = (100, 300, 1_000, 3_000, 10_000, 50_000)
    plot_waiters: tuple[int, ...] = (1, 10, 100, 1_000, 3_000, 10_000, 100_000)


QUICK = Sizes(
    runs=3,
    orders=2_000,
    polls=8,
    waiters=1_000,
    waits=20,
    restarts=20,
    calls=200,
    imports=2,
    fleet=200,
    accounts=50,
    plot_orders=(100, 300, 1_000),
    plot_waiters=(1, 1_000),
)
"""Less of everything, and so not what the goals are for."""


def figures_of(subject: str, sizes: Sizes, images: Path) -> Iterator[Figure]:
    """The figures of one subject; `plots` has none, and draws."""
    runs = sizes.runs
    match subject:
        case "poll":
            yield from served(lambda url: poll.figures(url, orders=sizes.orders, polls=sizes.polls, runs=runs))
        case "waiters":
            yield from waiters.virtual_figures(waiters=sizes.waiters, runs=runs)
            yield from served(lambda url: waiters.figures(url, waiters=sizes.waiters, runs=runs))
        case "schedule":
            yield from schedule.figures(restarts=sizes.restarts, waits=sizes.waits, runs=runs)
        case "calls":
            yield from served(lambda url: calls.figures(url, count=sizes.calls, processes=sizes.imports, runs=runs))
        case "fleet":
            yield from asyncio.run(fleet.figures(orders=sizes.fleet, runs=runs))
        case "plots":
            served(lambda url: curves.draw(url, images, orders=sizes.plot_orders, waiters=sizes.plot_waiters))
        case "capacity":
            life = capacity.waiter_us(sizes.waiters)
            yield from served(
                lambda url: capacity.figures(
                    url, accounts=sizes.accounts, waiters=sizes.waiters, runs=runs, waiter_us=life
                )
            )


def served(measure: Callable[[str], Coroutine[Any, Any, T]]) -> T:
    """Measure in a new event loop, with a stand-in of the API in another process."""

    async def measured() -> T:
        async with in_a_process("tests.tools.benchmarks.server") as url:
            return await measure(url)

    return asyncio.run(measured())


def machine() -> str:
    """The machine of the measurement."""
    models = [line.split(":")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    cpu_model = models[0].strip() if models else platform.machine()
    return f"{os.cpu_count()} cores of {cpu_model}, {platform.system()}, Python {platform.python_version()}"


def benchmark(sizes: Sizes, subjects: Sequence[str], images: Path) -> list[Figure]:
    """Measure the subjects in turn, print the table as it grows, and draw."""
    began = time.perf_counter()
    print(HEADER, flush=True)
    figures = []
    for subject in subjects:
        for figure in figures_of(subject, sizes, images):
            print(figure, flush=True)
            figures.append(figure)
    print(f"\n{machine()}; {sizes.runs} runs; {time.perf_counter() - began:.0f} s in all")
    if "capacity" in subjects:
        print(f"\n{capacity.estimate(figures)}")
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything, in less than a minute")
    parser.add_argument("--only", choices=SUBJECTS, help="one subject")
    parser.add_argument("--images", type=Path, default=Path("examples/images"), help="where the plots go (%(default)s)")
    options = parser.parse_args(arguments)
    sizes = QUICK if options.quick else Sizes()
    figures = benchmark(sizes, [options.only] if options.only else SUBJECTS, options.images)
    return int(any(figure.missed for figure in figures))


if __name__ == "__main__":
    keep_memory()
    logging.disable()  # log lines about retries are not the subject
    raise SystemExit(main())
