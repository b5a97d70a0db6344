"""Every hostile response, each with a client in a new process; exits with 1 if error or memory are wrong."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

from tests.tools.hostile.answers import HOSTILE, LEGITIMATE, Hostile
from tests.tools.hostile.measure import ALLOWED_SECONDS, Measured
from tests.tools.hostile.server import HostileServer

ALLOWED_MIB = 64 + 32
"""max_body_bytes, and 32 MiB."""
ALLOWED_STALL_MS = 100


async def measured(answer: Hostile) -> Measured:
    """The response's figures, from a process in which only the client runs."""
    async with HostileServer(answer, innocent=1) as server:
        command = ("-m", "tests.tools.hostile.measure", answer.name, server.url)
        process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
        output = b""
        try:
            async with asyncio.timeout(60):
                output, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
    if process.returncode:
        return Measured(outcome=f"exit {process.returncode}", attempts=0, peak_mib=0.0, stall_ms=0.0, seconds=0.0)
    figures: Measured = json.loads(output)
    return figures


def wrong(answer: Hostile, figures: Measured) -> list[str]:
    """What is not as it must be."""
    expected = "20000 orders" if answer.error is None else answer.error.__name__
    found = [f"not {expected}"] if figures["outcome"] != expected else []
    if figures["peak_mib"] > ALLOWED_MIB:
        found.append("memory")
    return found


def slow(answer: Hostile, figures: Measured) -> list[str]:
    """What took too long. It depends on the machine: reported, and an error only with --timings."""
    found = ["stalled"] if figures["stall_ms"] > ALLOWED_STALL_MS else []
    if figures["seconds"] > ALLOWED_SECONDS:
        found.append("late")
    return found


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only answers with this in their name")
    parser.add_argument("--timings", action="store_true", help="end with 1 for a stall or a late end, too")
    options = parser.parse_args()
    print(f"{'answer':40} {'outcome':20} {'tries':>5} {'peak MiB':>8} {'stall ms':>8} {'seconds':>7}")
    failed = False
    for answer in [*HOSTILE, LEGITIMATE]:
        if options.only not in answer.name:
            continue
        figures = await measured(answer)
        problems, delays = wrong(answer, figures), slow(answer, figures)
        failed = failed or bool(problems) or (options.timings and bool(delays))
        line = "{outcome:20} {attempts:5} {peak_mib:8.1f} {stall_ms:8.1f} {seconds:7.2f}".format(**figures)
        notes = [*(problem.upper() for problem in problems), *delays]
        print(f"{answer.name:40} {line}  {', '.join(notes)}".rstrip(), flush=True)
    print(f"allowed: {ALLOWED_MIB} MiB over the start, {ALLOWED_STALL_MS} ms, {ALLOWED_SECONDS} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
