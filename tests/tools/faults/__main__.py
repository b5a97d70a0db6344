"""The whole table, one line a cell; ends with 1 where a cell is not as it must be.

A cut at every byte is one line a call and session, whose figures are those of all offsets together.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time

from tests.tools.faults.cell import HEADING, Cell, cells_of, play_all
from tests.tools.faults.faults import FAULTS, Framing, Session, cut, whole
from tests.tools.faults.targets import TARGETS, Target

FRAMINGS: tuple[Framing, ...] = ("length", "chunked", "until closed")
SESSIONS: tuple[Session, ...] = ("ours", "yours")


def offsets(target: Target, framing: Framing) -> range:
    """Where its response can be cut."""
    return range(len(whole(target, framing)))


def one_line(target: Target, framing: Framing, session: Session, cells: list[Cell]) -> str:
    """All offsets in one line."""

    def span(figures: list[int]) -> str:
        return str(figures[0]) if len(set(figures)) == 1 else f"{min(figures)}-{max(figures)}"

    names = "/".join(sorted({type(cell.error).__name__ for cell in cells}))
    records = "/".join(sorted({cell.record or "-" for cell in cells}))
    wire = span([cell.wire for cell in cells])
    attempts = span([cell.error.attempts if cell.error else 0 for cell in cells])
    name = f"cut at each of {len(cells)} bytes ({framing})"
    seconds = sum(cell.seconds for cell in cells)
    return f"{target.name:24} {name:35} {session:7} {wire:>4} {names:21} {attempts:>8} {seconds:7.2f}  {records}"


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only faults with this in their name")
    options = parser.parse_args()
    logging.disable()  # each retry is a warning
    started, played, wrong = time.monotonic(), 0, []
    print(HEADING)
    for fault in FAULTS:
        if options.only in fault.name:
            cells = await play_all(cells_of([fault]))
            played += len(cells)
            wrong += [cell for cell in cells if cell.problems]
            print("\n".join(str(cell) for cell in cells), flush=True)
    for target in TARGETS if options.only in "cut at each byte" else ():
        for framing in FRAMINGS:
            for session in SESSIONS:
                faults = [cut(target, framing, offset) for offset in offsets(target, framing)]
                cells = await play_all((fault, target, session) for fault in faults)
                played += len(cells)
                wrong += [cell for cell in cells if cell.problems]
                print(one_line(target, framing, session, cells), flush=True)
    print(f"{played} cells in {time.monotonic() - started:.0f} s, {len(wrong)} not as they must be")
    for cell in wrong:
        print(cell)
    return 1 if wrong or not played else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
