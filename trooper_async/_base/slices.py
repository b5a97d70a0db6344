"""Long work in slices: a generator that yields wherever it can pause. Whoever runs it decides whether it pauses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")

SlicedWork: TypeAlias = Generator[None, None, T]

_SLICE = 0.002
"""Seconds of work before the event loop gets a turn. A pass of the garbage collector is extra."""


class TimeSlice:
    """Gives the event loop a turn whenever a slice of work is over."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends = time.perf_counter() + _SLICE

    async def yield_if_due(self) -> None:
        """Let others run if the slice is over; call it often."""
        if time.perf_counter() >= self._ends:
            await asyncio.sleep(0)
            self._ends = time.perf_counter() + _SLICE


async def in_slices(steps: SlicedWork[T]) -> T:
    """Run it to the end, and give the event loop a turn every few milliseconds."""
    turns = TimeSlice()
    try:
        while True:
            try:
                next(steps)
            except StopIteration as end:
                result: T = end.value
                return result
            await turns.yield_if_due()
    finally:
        steps.close()  # its frame holds a body, and a cancellation's traceback would hold the frame
