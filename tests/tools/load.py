"""The suite in random order, with many more of Hypothesis's examples, beside as many busy processes as there are cores.

What fails only there rests on speed, on order, or on an example that no run had met.

python -m tests.tools.load [--runs 3] [arguments of pytest]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that do nothing but use a core each."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def run(arguments: list[str]) -> tuple[int, set[str]]:
    """The suite once: pytest's exit code, and the failed tests."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "4", "-rfE", "--hypothesis-profile=explore", *arguments]
    process = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    print(process.stdout if process.returncode else process.stdout.splitlines()[-1], flush=True)
    return process.returncode, set(re.findall(r"^(?:FAILED|ERROR) (\S+)", process.stdout, re.MULTILINE))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="how often (%(default)s)")
    options, arguments = parser.parse_known_args()
    failed: Counter[str] = Counter()
    statuses = set()
    with busy(os.cpu_count() or 1):
        for number in range(1, options.runs + 1):
            began = time.monotonic()
            status, names = run(arguments)
            statuses.add(status)
            failed.update(names)
            print(f"run {number}: exit {status}, {len(names)} failed, {time.monotonic() - began:.0f} s", flush=True)
    for name, times in failed.most_common():
        print(f"failed in {times} of {options.runs} runs: {name}")
    return int(statuses != {0})


if __name__ == "__main__":
    raise SystemExit(main())
