"""Many durable waits over many accounts on one Postgres: requests, rows, seconds, bytes."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from tests.tools.crash.postgres import Postgres
from trooper_async.testing import FakeTrooper

ROOT = Path(__file__).parents[3]
TICK = 1.0


@dataclass
class Measured:
    """What so many waits have cost."""

    waits: int
    begun: float
    sent: float
    ended: float
    gets: list[float]
    """GETs of the list a tick, by account, while everything waited."""
    rows: dict[str, int]
    size: int
    """Bytes of those rows and their indexes."""
    processor: float
    """Seconds of it that the workers used."""
    transactions: int
    """All that the database has seen, those of asking for work included."""
    idle: float
    """Transactions a second while everything waited."""


async def measure(server: Postgres, *, waits: int, accounts: int, workers: int, window: float) -> Measured:
    """Stop as many servers, each of which takes until all are sent and a window has passed."""
    async with AsyncExitStack() as stack:
        names = [f"account-{number}" for number in range(accounts)]
        fakes = [await stack.enter_async_context(FakeTrooper(durations={"stop": 100_000.0})) for _ in names]
        ids = [[fake.add_order().order_id for _ in range(waits // accounts)] for fake in fakes]
        program = {
            "urls": {name: fake.url for name, fake in zip(names, fakes, strict=True)},
            "key": fakes[0].api_key,
            "database": server.url,
            "tick": TICK,
        }
        processes = []
        for number in range(workers):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.tools.crash.stopper", stdin=PIPE, stdout=PIPE, cwd=ROOT
            )
            assert process.stdin is not None
            work: dict[str, Any] = {**program, "orders": dict(zip(names, ids, strict=True)) if number == 0 else {}}
            process.stdin.write(json.dumps(work).encode() + b"\n")
            processes.append(process)
        first = processes[0].stdout
        assert first is not None
        began = time.monotonic()
        assert await first.readline() == b"begun\n"
        begun = time.monotonic() - began
        while sum(request.path == "/api/order-status" for fake in fakes for request in fake.requests) < waits:  # noqa: ASYNC110 - it happens in other processes
            await asyncio.sleep(0.05)
        sent = time.monotonic() - began
        await asyncio.sleep(3)
        transactions = await _transactions(server)
        before = [len(fake.requests) for fake in fakes]
        await asyncio.sleep(window)
        gets = [(len(fake.requests) - count) / (window / TICK) for fake, count in zip(fakes, before, strict=True)]
        idle = (await _transactions(server) - transactions) / window
        now = time.monotonic()
        for fake, orders in zip(fakes, ids, strict=True):
            for order in orders:
                fake.set_status(order, "stopped")
        assert await first.readline() == b"ended\n"
        ended = time.monotonic() - now
        processor = 0.0
        for process in processes:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write_eof()
            processor += float((await process.stdout.read()).split()[-1])
            await process.wait()
    async with await psycopg.AsyncConnection.connect(server.url, autocommit=True) as database:
        rows, size = {}, 0
        for table in ("workflow_status", "workflow_input", "workflow_output", "operation_outputs"):
            count = SQL("SELECT count(*), pg_total_relation_size({0}) FROM dbos.{1}")
            query = count.format(Literal(f"dbos.{table}"), Identifier(table))
            row = await (await database.execute(query)).fetchone()
            assert row is not None
            rows[table] = row[0]
            size += row[1]
    return Measured(waits, begun, sent, ended, gets, rows, size, processor, await _transactions(server), idle)


async def _transactions(server: Postgres) -> int:
    async with await psycopg.AsyncConnection.connect(server.url, autocommit=True) as database:
        row = await (await database.execute("SELECT sum(xact_commit) FROM pg_stat_database")).fetchone()
    assert row is not None
    return int(row[0])
