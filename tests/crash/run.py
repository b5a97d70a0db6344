"""One run: workers with work for two accounts, killed at a random moment; then it goes on to the end, and is judged."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trooper_async.testing import FakeTrooper

ROOT = Path(__file__).parent.parent.parent
TARGETS = {"stop": "stopped", "freeze": "frozen", "start": "running", "restart": "running"}


@dataclass
class Verdict:
    """What a run came to; the faults are what must never be."""

    kills: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    sent_again: int = 0
    undecided: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass
class _Said:
    """What the workers have printed."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    readers: list[asyncio.Task[None]] = field(default_factory=list)


async def run(seed: int, database: str, *, workers: int) -> Verdict:
    """Kill a worker, once or twice; it begins anew, or the other one goes on alone."""
    rng = random.Random(seed)
    durations = {
        name: rng.uniform(0.05, 0.8) for name in ("start", "stop", "freeze", "restart", "create", "migrate", "thaw")
    }
    async with FakeTrooper(durations=durations) as one, FakeTrooper(durations=durations) as two:
        fakes: dict[str, FakeTrooper] = {"one": one, "two": two}
        for blib in (4, 5):
            one.blibs[blib].is_available = two.blibs[blib].is_available = True
        jobs = [job for account, fake in fakes.items() for job in _jobs(account, fake)]
        rng.shuffle(jobs)
        for fake in fakes.values():
            for path in ("/api/order", "/api/buy-migration", "/api/order-status"):
                fake.delay_next(path, rng.choice((0.0, 0.02, 0.2)), times=4)  # the work is done, its answer on the way
        verdict, said = Verdict(), _Said()
        kills = rng.choice((1, 1, 2))
        running = await asyncio.gather(*(_start(fakes, database, jobs, said) for _ in range(workers)))
        for process in running:
            _go(process)
        for _ in range(kills):
            victim = rng.randrange(workers)
            await _moment(rng, fakes, running[victim])
            if running[victim].returncode is None:
                running[victim].kill()
                verdict.kills += 1
            await running[victim].wait()
            if all(process.returncode is not None for process in running) or rng.random() < 0.5:
                running[victim] = await _start(fakes, database, jobs, said)
                _go(running[victim])
        for process in running:
            try:
                async with asyncio.timeout(90):
                    await process.wait()
            except TimeoutError:
                verdict.faults.append("a worker did not end")
                process.kill()
                await process.wait()
        await asyncio.gather(*said.readers)
        await _judge(verdict, fakes, jobs, said.lines)
        return verdict


def _jobs(account: str, fake: FakeTrooper) -> list[dict[str, Any]]:
    """One of each kind. Each purchase has an offer of its own, so that its requests can be told apart."""
    wanted = [("stop", "running"), ("freeze", "running"), ("start", "stopped"), ("restart", "running")]
    jobs = [
        {
            "action": action,
            "order": fake.add_order(status=status).order_id,
            "account": account,
            "id": f"{account}-{action}",
        }
        for action, status in wanted
    ]
    thaw = {"action": "start", "order": fake.add_order(status="frozen").order_id, "migration_allowed": True}
    jobs.append({**thaw, "account": account, "id": f"{account}-thaw"})
    buy = {"action": "create", "account": account}
    jobs += [{**buy, "blib": blib, "id": f"{account}-buy-{blib}"} for blib in (1, 2, 3)]
    migrated = fake.add_order().order_id
    jobs.append({"action": "migrate", "order": migrated, "blib": 4, "account": account, "id": f"{account}-migrate"})
    return jobs


async def _start(fakes: dict[str, FakeTrooper], database: str, jobs: list[dict[str, Any]], said: _Said) -> Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.crash.worker", stdin=PIPE, stdout=PIPE, stderr=sys.stderr, cwd=ROOT
    )
    assert process.stdin is not None
    orders = {
        "urls": {account: fake.url for account, fake in fakes.items()},
        "keys": {account: fake.api_key for account, fake in fakes.items()},
        "database": database,
        "jobs": jobs,
    }
    process.stdin.write(json.dumps(orders).encode() + b"\n")
    ready = asyncio.Event()
    said.readers.append(asyncio.create_task(_read(process, said.lines, ready)))
    await ready.wait()
    return process


def _go(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.write_eof()


async def _read(process: Process, said: list[dict[str, Any]], ready: asyncio.Event) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        try:
            said.append(json.loads(line))
        except ValueError:
            continue  # killed while it wrote
        ready.set()
    ready.set()


async def _moment(rng: random.Random, fakes: dict[str, FakeTrooper], process: Process) -> None:
    """A random time, or right at a random one of the requests that change something."""
    if rng.random() < 0.5:
        await asyncio.sleep(rng.uniform(0.0, 1.5))
        return
    after = _changes(fakes) + rng.randint(1, 8)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 5
    while _changes(fakes) < after and loop.time() < deadline and process.returncode is None:  # noqa: ASYNC110 - it happens in another process
        await asyncio.sleep(0.001)
    await asyncio.sleep(rng.choice((0.0, 0.0, 0.005, 0.03)))


def _changes(fakes: dict[str, FakeTrooper]) -> int:
    paths = ("/api/order", "/api/buy-migration", "/api/order-status")
    return sum(request.path in paths for fake in fakes.values() for request in fake.requests)


async def _judge(
    verdict: Verdict, fakes: dict[str, FakeTrooper], jobs: list[dict[str, Any]], said: list[dict[str, Any]]
) -> None:
    verdict.undecided = len({line["id"] for line in said if "undecided" in line})
    results: dict[str, dict[str, Any]] = {}
    for line in said:
        if "order" in line or "error" in line:
            known = results.setdefault(line["id"], line)
            if known != line:
                verdict.faults.append(f"two results of {line['id']}: {known} {line}")
    bought: dict[str, list[int]] = {account: [] for account in fakes}
    for job in jobs:
        fake, result = fakes[job["account"]], results.get(job["id"], {})
        posts = _posts(fake, job)
        outcome = result.get("error", "reached")
        verdict.ended[outcome if result else "no result"] += 1
        again = max(0, posts - 1)
        verdict.sent_again += again
        setting = job["action"] in ("stop", "freeze") or (job["action"] == "start" and "migration_allowed" not in job)
        if again > (verdict.kills if setting else 0):
            verdict.faults.append(f"{job['id']} was sent {posts} times")
        if not result:
            verdict.faults.append(f"{job['id']} has no result")
        elif job["action"] in ("create", "migrate"):
            if "order" in result:
                bought[job["account"]].append(result["order"])
                if posts != 1:
                    verdict.faults.append(f"{job['id']} got an order, and was sent {posts} times")
            elif outcome != "PurchaseUnknownError" or posts:
                verdict.faults.append(f"{job['id']}: sent {posts} times, and {result}")
        elif outcome == "reached":
            if result["status"] != TARGETS[job["action"]] or not posts:
                verdict.faults.append(f"{job['id']}: sent {posts} times, and {result}")
        elif outcome != "OutcomeUnknownError" or posts or setting:
            verdict.faults.append(f"{job['id']}: sent {posts} times, and {result}")
    for account, fake in fakes.items():
        made = await _made(fake, [job for job in jobs if job["account"] == account])
        if made != sorted(bought[account]):
            verdict.faults.append(f"{account}: made {made}, recorded {sorted(bought[account])}")


def _posts(fake: FakeTrooper, job: dict[str, Any]) -> int:
    words = {"stop": "stopped", "freeze": "frozen", "start": "running", "restart": "restarted"}
    match job["action"]:
        case "create":
            wanted = ("/api/order", {"blib_id": job["blib"]})
        case "migrate":
            wanted = ("/api/buy-migration", {"order_id": job["order"]})
        case action:
            wanted = ("/api/order-status", {"serverId": job["order"], "action": words[action]})
    path, body = wanted
    return sum(request.path == path and body.items() <= (request.json or {}).items() for request in fake.requests)


async def _made(fake: FakeTrooper, jobs: list[dict[str, Any]]) -> list[int]:
    """The orders that purchases have made, whether or not their answers arrived."""
    given = {job.get("order") for job in jobs}
    async with fake.client() as client:
        return sorted(order.order_id for order in await client.orders.list() if order.order_id not in given)
