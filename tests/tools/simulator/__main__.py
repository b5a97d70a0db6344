"""Runs the simulator on all cores and prints its table; exits with 1 if any wait ended wrongly."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from multiprocessing import Pool

from tests.tools.simulator.scenario import Judged, simulate

FINE = ("right", "impossible")


def table(judged: Iterable[Judged]) -> str:
    """Waits, ends and the latest notice by action."""
    counts: Counter[tuple[str, str]] = Counter()
    notice: dict[str, float] = {}
    for one in judged:
        counts[one.action, one.verdict] += 1
        notice[one.action] = max(notice.get(one.action, 0.0), one.notice)
    verdicts = ("right", "impossible", "too early", "missed", "too late", "outlived its deadline", "wrong error")
    lines = [f"{'action':8} {'waits':>7}" + "".join(f" {verdict:>12.12}" for verdict in verdicts) + "  latest notice"]
    for action in sorted(notice):
        waits = sum(count for (kind, _), count in counts.items() if kind == action)
        ends = "".join(f" {counts[action, verdict]:12}" for verdict in verdicts)
        lines.append(f"{action:8} {waits:7}{ends}  {notice[action]:.2f} of what is allowed")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waits", type=int, default=100_000)
    parser.add_argument("--seed", default=str(int(time.time())))
    parser.add_argument("--only", help="one account's seed, as printed with a wrong end")
    options = parser.parse_args()
    if options.only:
        wrong = [one for one in simulate(options.only) if one.verdict not in FINE]
        print(*wrong, sep="\n")
        return bool(wrong)
    print(f"seed {options.seed}")
    began = time.perf_counter()
    judged: list[Judged] = []
    with Pool(os.cpu_count()) as pool:
        seeds = (f"{options.seed}-{number}" for number in range(10**9))
        for account in pool.imap_unordered(simulate, seeds_until(seeds, judged, options.waits), chunksize=4):
            judged.extend(account)
            if len(judged) >= options.waits:
                pool.terminate()
                break
    seconds = time.perf_counter() - began
    print(table(judged))
    print(f"{len(judged)} waits in {seconds:.0f} s: {1000 * seconds / len(judged):.2f} s for 1,000")
    wrong = [one for one in judged if one.verdict not in FINE]
    for one in wrong[:20]:
        print(one.verdict, one.action, one.seed, one.detail, file=sys.stderr)
    return bool(wrong)


def seeds_until(seeds: Iterable[str], judged: list[Judged], waits: int) -> Iterable[str]:
    """Seeds as long as they are needed, so that the pool is not filled forever."""
    for number, seed in enumerate(seeds):
        if len(judged) >= waits or number > waits:
            return
        yield seed


if __name__ == "__main__":
    logging.disable()  # log lines about outages are not the subject
    raise SystemExit(main())
