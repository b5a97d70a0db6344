"""One run: workers for two accounts, which are killed or disturbed until all work has ended, and which are judged."""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from tests.tools.crash import worker
from trooper_async import FleetReport, OutcomeUnknownError
from trooper_async.testing import FakeTrooper

# Workers are forked from a process that has imported what they need, and nothing else.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.tools.crash.worker", "pytest"])


@contextmanager
def forkserver() -> Iterator[None]:
    """The processes that `multiprocessing` keeps running for the workers, which otherwise live as long as this one."""
    multiprocessing.forkserver.ensure_running()
    try:
        yield
    finally:  # what ends them is neither public nor typed
        multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]
        multiprocessing.resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]
        multiprocessing.util._run_finalizers()  # type: ignore[attr-defined]


CHANGES = ("/api/order", "/api/buy-migration", "/api/order-status", "/api/template-install-add")
TARGETS = {"stop": "stopped", "freeze": "frozen", "start": "running", "restart": "running"}


@dataclass
class Verdict:
    """The result of a run; its faults must never happen."""

    kills: int = 0
    disturbed: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    sent_again: int = 0
    undecided: int = 0
    faults: list[str] = field(default_factory=list)


class Worker:
    """A process that can be killed, and what it has reported."""

    def __init__(
        self, fakes: dict[str, FakeTrooper], database: str, jobs: list[dict[str, Any]], *, blind: bool = False
    ) -> None:
        orders = {
            "urls": {account: fake.url for account, fake in fakes.items()},
            "keys": {account: fake.api_key for account, fake in fakes.items()},
            "database": database,
            "jobs": jobs,
            "blind": blind,
        }
        self._connection, connection = _PROCESSES.Pipe()
        self.process = _PROCESSES.Process(target=worker.run, args=(orders, connection), daemon=True)
        self.told: list[dict[str, Any]] = []
        self.ready, self.ended = asyncio.Event(), asyncio.Event()
        self.process.start()
        connection.close()
        asyncio.get_running_loop().add_reader(self._connection.fileno(), self._hear)

    def go(self) -> None:
        self._connection.send("go")

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, how)

    def _hear(self) -> None:
        try:
            self.told.append(self._connection.recv())
        except (EOFError, ConnectionResetError):
            asyncio.get_running_loop().remove_reader(self._connection.fileno())
            self._connection.close()
            self.process.join()
            self.ended.set()
        self.ready.set()


async def run(seed: int, database: str, *, workers: int, blind: bool = False) -> Verdict:
    """Kill workers, disturb their database; another life begins, or the others go on alone.

    Args:
        seed: of all that is random in it.
        database: an empty one.
        workers: how many.
        blind: whether the workers do not look at the marks of those before them, so that the judge has something to
            catch.
    """
    rng = random.Random(seed)
    durations = {
        name: rng.uniform(0.05, 0.8)
        for name in ("start", "stop", "freeze", "restart", "create", "migrate", "thaw", "install")
    }
    async with FakeTrooper(durations=durations) as one, FakeTrooper(durations=durations) as two:
        fakes: dict[str, FakeTrooper] = {"one": one, "two": two}
        for blib in (4, 5):
            one.blibs[blib].is_available = two.blibs[blib].is_available = True
        jobs = [job for account, fake in fakes.items() for job in _jobs(account, fake)]
        rng.shuffle(jobs)
        for fake in fakes.values():
            for path in CHANGES:
                fake.delay_next(
                    path, rng.choice((0.0, 0.02, 0.2)), times=4
                )  # the request was carried out, its response is in flight
        verdict, lives = Verdict(), list[Worker]()

        async def start() -> Worker:
            life = Worker(fakes, database, jobs, blind=blind)
            lives.append(life)
            await life.ready.wait()
            return life

        running = await asyncio.gather(*(start() for _ in range(workers)))
        for life in running:
            life.go()
        for _ in range(rng.choice((1, 1, 2))):
            number = rng.randrange(workers)
            victim = running[number]
            await _moment(rng, fakes, victim)
            if rng.random() < 0.3:
                verdict.disturbed[await _disturb(rng, database, victim)] += 1
            elif not victim.ended.is_set():
                victim.kill(rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))
                verdict.kills += 1
                await victim.ended.wait()
            if all(life.ended.is_set() for life in running) or (victim.ended.is_set() and rng.random() < 0.5):
                running[number] = await start()
                running[number].go()
        for life in lives:
            try:
                async with asyncio.timeout(90):
                    await life.ended.wait()
            except TimeoutError:
                verdict.faults.append("a worker did not end")
                life.kill(signal.SIGABRT)  # it shows its status
                await life.ended.wait()
            if life.process.exitcode not in (0, -signal.SIGKILL, -signal.SIGABRT):
                verdict.faults.append(f"a worker ended with {life.process.exitcode}")
        await _judge(verdict, fakes, jobs, [line for life in lives for line in life.told])
        return verdict


async def _disturb(rng: random.Random, database: str, victim: Worker) -> str:
    """What happens to databases: connections are cut, it is read-only for a while, its disk is full."""
    if not database.startswith("postgresql"):
        victim.kill(signal.SIGUSR1)
        return "full disk"
    name = Identifier(database.rpartition("/")[2])
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    read_only = rng.random() < 0.5
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        if read_only:
            await connection.execute(SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
        await connection.execute(f"SELECT pg_terminate_backend(pid) {others}")
        if not read_only:
            return "connections cut"
        await asyncio.sleep(rng.choice((0.5, 3, 20)))
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute(SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
        return "read-only"


def _jobs(account: str, fake: FakeTrooper) -> list[dict[str, Any]]:
    """One of each kind. Each purchase has its own offer, so that its requests can be told apart."""
    wanted = [("stop", "running"), ("freeze", "running"), ("start", "stopped"), ("restart", "running")]
    jobs: list[dict[str, Any]] = [
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
    install = {"action": "install", "order": fake.add_order().order_id, "template": 1}
    jobs.append({**install, "account": account, "id": f"{account}-install"})
    buy = {"action": "create", "account": account}
    jobs += [{**buy, "blib": blib, "id": f"{account}-buy-{blib}"} for blib in (1, 2, 3)]
    migrated = fake.add_order().order_id
    jobs.append({"action": "migrate", "order": migrated, "blib": 4, "account": account, "id": f"{account}-migrate"})
    fleet = {fake.add_order().order_id: "stopped", fake.add_order(status="frozen").order_id: "running"}
    jobs.append({"action": "converge", "targets": fleet, "account": account, "id": f"{account}-fleet"})
    for job in jobs:
        job["offer"] = fake.blibs[job["blib"]].name if "blib" in job else None
    return jobs


async def _moment(rng: random.Random, fakes: dict[str, FakeTrooper], victim: Worker) -> None:
    """A random time, or right at a random one of the requests that change something."""
    if rng.random() < 0.5:
        await asyncio.sleep(rng.uniform(0.0, 1.5))
        return
    after = _changes(fakes) + rng.randint(1, 8)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 2
    while _changes(fakes) < after and loop.time() < deadline and not victim.ended.is_set():  # noqa: ASYNC110 - it happens in another process
        await asyncio.sleep(0.001)
    await asyncio.sleep(rng.choice((0.0, 0.0, 0.005, 0.03)))


def _changes(fakes: dict[str, FakeTrooper]) -> int:
    return sum(request.path in CHANGES for fake in fakes.values() for request in fake.requests)


async def _judge(
    verdict: Verdict, fakes: dict[str, FakeTrooper], jobs: list[dict[str, Any]], said: list[dict[str, Any]]
) -> None:
    verdict.undecided = len({line["id"] for line in said if "undecided" in line})
    results: dict[str, dict[str, Any]] = {}
    for line in said:
        if "result" in line or "error" in line:
            known = results.setdefault(line["id"], line)
            if known != line:
                verdict.faults.append(f"two results of {line['id']}: {known} {line}")
    bought: dict[str, dict[int, str]] = {account: {} for account in fakes}
    for job in jobs:
        fake, line = fakes[job["account"]], results.get(job["id"], {})
        if job["action"] == "converge":
            verdict.faults += _faults_of_fleet(verdict, fake, job, line)
            continue
        posts, result, outcome = _posts(fake, job), line.get("result"), line.get("error", "reached")
        verdict.ended[outcome if line else "no result"] += 1
        again = max(0, posts - 1)
        verdict.sent_again += again
        setting = job["action"] in ("stop", "freeze") or (job["action"] == "start" and "migration_allowed" not in job)
        fault = f"{job['id']}: sent {posts} times, and {line or 'no result'}"
        if again > (verdict.kills + verdict.disturbed.total() if setting else 0) or not line:
            verdict.faults.append(fault)
        elif job["action"] in ("create", "migrate"):
            if result is not None:
                bought[job["account"]][result] = job["offer"]
            right = posts == 1 if result is not None else outcome == "NotBoughtError" and not posts
            verdict.faults += [] if right else [fault]
        elif outcome == "reached":
            right = bool(posts) and (job["action"] == "install" or result == TARGETS[job["action"]])
            verdict.faults += [] if right else [fault]
        elif outcome != "OutcomeUnknownError" or posts or setting:
            verdict.faults.append(fault)
    for account, fake in fakes.items():
        made = await _made(fake, [job for job in jobs if job["account"] == account])
        if made != bought[account]:
            verdict.faults.append(f"{account}: made {made}, recorded {bought[account]}")


def _faults_of_fleet(verdict: Verdict, fake: FakeTrooper, job: dict[str, Any], line: dict[str, Any]) -> list[str]:
    """One server is stopped, which may be sent again; the other, which is frozen, is started once."""
    verdict.ended["reached" if "result" in line else "no result"] += 1
    report = FleetReport.from_json(line["result"]) if "result" in line else FleetReport(())
    stopped, started = job["targets"]
    stops, starts = (
        _posts(fake, {"action": name, "order": one}) for name, one in (("stop", stopped), ("start", started))
    )
    verdict.sent_again += max(0, stops - 1)
    right = {outcome.order_id for outcome in report.succeeded} >= {stopped} and len(report.outcomes) == 2
    right &= 1 <= stops <= 1 + verdict.kills + verdict.disturbed.total()
    unknown = [outcome for outcome in report.failed if isinstance(outcome.error, OutcomeUnknownError)]
    right &= starts == 0 if unknown else starts == 1 and not report.failed
    return [] if right else [f"{job['id']}: {stops} stops, {starts} starts, and {line or 'no result'}"]


def _posts(fake: FakeTrooper, job: dict[str, Any]) -> int:
    words = {"stop": "stopped", "freeze": "frozen", "start": "running", "restart": "restarted"}
    match job["action"]:
        case "create":
            wanted = ("/api/order", {"blib_id": job["blib"]})
        case "migrate":
            wanted = ("/api/buy-migration", {"order_id": job["order"]})
        case "install":
            wanted = ("/api/template-install-add", {"order_id": job["order"], "template_id": job["template"]})
        case action:
            server_id = fake._world.servers[job["order"]].server_id
            wanted = ("/api/order-status", {"serverId": server_id, "action": words[action]})
    path, body = wanted
    return sum(request.path == path and body.items() <= (request.json or {}).items() for request in fake.requests)


async def _made(fake: FakeTrooper, jobs: list[dict[str, Any]]) -> dict[int, str | None]:
    """The orders that purchases have made and their offers, whether or not their responses arrived."""
    given = {order for job in jobs for order in (job.get("order"), *job.get("targets", ()))}
    async with fake.client() as client:
        return {order.order_id: order.blib_name for order in await client.orders.list() if order.order_id not in given}
