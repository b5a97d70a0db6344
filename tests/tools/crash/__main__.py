"""Durable workflows whose processes are killed (SIGKILL, SIGTERM) at random moments, and whose databases are disturbed.

Each run is real processes against the fake server in another one. Afterwards every job has to have ended right:
settings sent at most once more per kill, all else once; each purchase recorded, or decided by hand. It ends with 1
where one has not. With `--blind`, workers do not look whether an earlier life may have sent something, and it ends
with 1 where the judge has not noticed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from contextlib import closing, suppress

import psycopg
from psycopg.sql import SQL, Identifier

from tests.tools.crash import worker
from tests.tools.crash.postgres import postgres
from tests.tools.crash.run import Verdict, run


async def many(
    runs: int, at_once: int, seed: int, workers: tuple[int, ...], server: str | None, *, blind: bool = False
) -> list[Verdict]:
    """So many runs, each with its own database: a copy, since making one takes a second."""
    slots = asyncio.Semaphore(at_once)
    with tempfile.TemporaryDirectory() as folder:
        template = f"sqlite:///{folder}/template.sqlite" if server is None else await create(server, f"of_{seed}")
        async with worker.application({"database": template}):
            pass

        async def one(number: int) -> Verdict:
            async with slots:
                if server is None:
                    shutil.copy(f"{folder}/template.sqlite", f"{folder}/{number}.sqlite")
                    if number % 2:  # as `embedded` has it
                        with closing(sqlite3.connect(f"{folder}/{number}.sqlite")) as connection:
                            connection.execute("PRAGMA journal_mode = WAL")
                    database = f"sqlite:///{folder}/{number}.sqlite"
                else:
                    database = await create(server, f"of_{seed}_{number}", f"of_{seed}")
                verdict = await run(seed + number, database, workers=workers[number % len(workers)], blind=blind)
            for fault in verdict.faults:
                print(f"  seed {seed + number}: {fault}", flush=True)
            return verdict

        return await asyncio.gather(*map(one, range(runs)))


async def create(server: str, name: str, template: str = "template1") -> str:
    """A database on a server, as a copy of another one; its URL."""
    query = SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(template))
    async with await psycopg.AsyncConnection.connect(server, autocommit=True) as connection:
        while True:
            with suppress(psycopg.errors.ObjectInUse):  # a connection that was just closed
                await connection.execute(query)
                return f"{server.rpartition('/')[0]}/{name}"
            await asyncio.sleep(0.02)


def report(what: str, verdicts: list[Verdict], seconds: float) -> int:
    """Print the results of the runs; the number of their faults."""
    ended = sum((verdict.ended for verdict in verdicts), Counter[str]())
    disturbed = sum((verdict.disturbed for verdict in verdicts), Counter[str]())
    faults = sum(len(verdict.faults) for verdict in verdicts)
    kills, again = (sum(getattr(verdict, name) for verdict in verdicts) for name in ("kills", "sent_again"))
    troubles = "".join(f", {number} times {name}" for name, number in disturbed.most_common())
    print(f"{what}: {len(verdicts)} runs, {kills} kills{troubles}, {seconds:.0f} s")
    print(f"  {sum(ended.values())} jobs: {', '.join(f'{number} {name}' for name, number in ended.most_common())}")
    print(f"  settings sent again: {again}; purchases decided by hand: {sum(v.undecided for v in verdicts)}")
    print(f"  faults (purchases sent twice or not recorded, wrong ends, …): {faults}")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.crash", description=__doc__)
    parser.add_argument("--sqlite", type=int, default=200, help="runs with one worker on SQLite (%(default)s)")
    parser.add_argument("--postgres", type=int, default=50, help="runs with two or three on Postgres (%(default)s)")
    parser.add_argument("--at-once", type=int, default=3, help="runs at once (%(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9), help="of the random moments")
    parser.add_argument("--blind", action="store_true", help="whether the judge notices blind workers")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    began, faults = time.monotonic(), 0
    if given.sqlite:
        verdicts = asyncio.run(many(given.sqlite, given.at_once, given.seed, (1,), None, blind=given.blind))
        faults += report("SQLite, one worker", verdicts, time.monotonic() - began)
    if given.postgres:
        with postgres("fsync=off", "max_connections=300") as server:
            began = time.monotonic()
            verdicts = asyncio.run(
                many(given.postgres, given.at_once, given.seed, (2, 3), server.url, blind=given.blind)
            )
            faults += report("Postgres, two or three workers", verdicts, time.monotonic() - began)
    return int(not faults if given.blind else bool(faults))


if __name__ == "__main__":
    raise SystemExit(main())
