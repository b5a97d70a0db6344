"""Durable workflows whose processes are killed (SIGKILL) at random moments: `python -m tests.tools.crash [--sqlite N]`.

Each run is real processes against the fake server in another one. Afterwards every job has to have ended right:
settings sent at most once more per kill, all else once; each purchase recorded, or decided by hand. It ends with 1
where one has not.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import tempfile
import time
from collections import Counter

import psycopg
from psycopg.sql import SQL, Identifier

from tests.tools.crash.postgres import postgres
from tests.tools.crash.run import Verdict, run
from tests.tools.crash.scale import Measured, measure
from trooper_async import TrooperClient
from trooper_async.durable import Durable


async def many(runs: int, at_once: int, seed: int, workers: int, server: str | None) -> list[Verdict]:
    """So many runs, each with a database of its own: a copy of one, since to make one takes a second."""
    slots = asyncio.Semaphore(at_once)
    with tempfile.TemporaryDirectory() as folder:
        template = f"sqlite:///{folder}/template.sqlite" if server is None else await _create(server, f"of_{seed}")
        async with Durable(lambda account: TrooperClient("key"), database_url=template):
            pass

        async def one(number: int) -> Verdict:
            async with slots:
                if server is None:
                    shutil.copy(f"{folder}/template.sqlite", f"{folder}/{number}.sqlite")
                    database = f"sqlite:///{folder}/{number}.sqlite"
                else:
                    database = await _create(server, f"of_{seed}_{number}", f"of_{seed}")
                verdict = await run(seed + number, database, workers=workers)
            for fault in verdict.faults:
                print(f"  seed {seed + number}: {fault}", flush=True)
            return verdict

        return await asyncio.gather(*map(one, range(runs)))


async def _create(server: str, name: str, template: str = "template1") -> str:
    async with await psycopg.AsyncConnection.connect(server, autocommit=True) as connection:
        await connection.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(template)))
    return f"{server.rpartition('/')[0]}/{name}"


def report(what: str, verdicts: list[Verdict], seconds: float) -> int:
    ended = sum((verdict.ended for verdict in verdicts), Counter[str]())
    faults = sum(len(verdict.faults) for verdict in verdicts)
    kills, again = (sum(getattr(verdict, name) for verdict in verdicts) for name in ("kills", "sent_again"))
    print(f"{what}: {len(verdicts)} runs, {kills} kills, {seconds:.0f} s")
    print(f"  {sum(ended.values())} jobs: {', '.join(f'{number} {name}' for name, number in ended.most_common())}")
    print(f"  settings sent again: {again}; purchases decided by hand: {sum(v.undecided for v in verdicts)}")
    print(f"  faults (purchases sent twice or not recorded, wrong ends, …): {faults}")
    return faults


def _tell(measured: Measured) -> None:
    waits, gets = measured.waits, measured.gets
    print(f"{waits} waits over {len(gets)} accounts and 2 workers, one Postgres")
    print(f"  begun in {measured.begun:.1f} s, all sent after {measured.sent:.1f} s,", end=" ")
    print(f"all ended within {measured.ended:.1f} s")
    print(f"  GETs a tick and account: {min(gets):.2f} to {max(gets):.2f} (both workers together)")
    rows = ", ".join(f"{count / waits:.1f} {table}" for table, count in measured.rows.items())
    print(f"  a wait: {sum(measured.rows.values()) / waits:.1f} rows ({rows}), {measured.size / waits / 1024:.1f} KiB,")
    print(f"    {measured.processor / waits * 1000:.0f} ms of a worker's processor,", end=" ")
    print(f"{measured.transactions / waits:.0f} transactions; while all wait: {measured.idle:.0f} a second")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.crash", description=__doc__)
    parser.add_argument("--sqlite", type=int, default=200, help="runs with one worker on SQLite (%(default)s)")
    parser.add_argument("--postgres", type=int, default=50, help="runs with two workers on Postgres (%(default)s)")
    parser.add_argument("--at-once", type=int, default=3, help="runs at once (%(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9), help="of the random moments")
    parser.add_argument("--scale", type=int, default=0, help="measure so many waits instead, on two workers")
    given = parser.parse_args()
    if given.scale:
        with postgres("max_connections=200") as server:
            _tell(asyncio.run(measure(server, waits=given.scale, accounts=10, workers=2, window=20.0)))
        return 0
    print(f"seed {given.seed}", flush=True)
    began, faults = time.monotonic(), 0
    if given.sqlite:
        verdicts = asyncio.run(many(given.sqlite, given.at_once, given.seed, 1, None))
        faults += report("SQLite, one worker", verdicts, time.monotonic() - began)
    if given.postgres:
        with postgres("fsync=off", "max_connections=300") as server:
            began = time.monotonic()
            verdicts = asyncio.run(many(given.postgres, given.at_once, given.seed, 2, server.url))
            faults += report("Postgres, two workers", verdicts, time.monotonic() - began)
    return min(faults, 1)


if __name__ == "__main__":
    raise SystemExit(main())
