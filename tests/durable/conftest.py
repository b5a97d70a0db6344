"""What the tests of durable workflows share: a copied database, one Postgres, and short pauses."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dbos import DBOS

from tests.helpers.durable import application
from tests.helpers.requirements import missing
from tests.tools.crash.__main__ import create
from tests.tools.crash.postgres import Postgres, binaries, postgres
from trooper_async import TrooperClient
from trooper_async.durable import _accounts, _workflows
from trooper_async.durable._purchases import PURCHASES

QUEUE_POLL = 0.1


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter pauses than in production."""
    for module, pauses in (
        (_accounts, {"_PAUSE": 0.02, "_LONGEST_PAUSE": 0.05, "_LONGEST_RETRY_AFTER": 0.05, "_LEAST_TIMEOUT": 1.0}),
        (_workflows, {"_QUEUE_POLL": QUEUE_POLL, "_LOOK_AGAIN": 0.02}),
    ):
        for name, seconds in pauses.items():
            monkeypatch.setattr(module, name, seconds)


def once(database: str) -> None:
    """Make a database as a first process leaves it; no other application has its version."""

    async def make() -> None:
        async with application(lambda account: TrooperClient("key"), database, version="template"):
            # DBOS looks for new queues once a second, and for those of earlier processes as it is launched.
            queue = f"{PURCHASES} of tests"
            await DBOS.register_queue_async(queue, partition_concurrency=1, polling_interval_sec=QUEUE_POLL)

    with ThreadPoolExecutor(1) as thread:  # the first test that uses it may be running a loop in this thread
        thread.submit(asyncio.run, make()).result()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("database") / "template.sqlite"
    once(f"sqlite:///{path}")
    return path


@pytest.fixture
def file(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(template, tmp_path / "trooper.sqlite"))


@pytest.fixture
def database(file: Path) -> str:
    return f"sqlite:///{file}"


@pytest.fixture(scope="session")
def server(_nothing_of_the_session_is_left: None) -> Iterator[Postgres]:
    """One Postgres for all tests; its own database is the template of theirs."""
    if binaries() is None:
        missing("Postgres", "apt-get install postgresql")
    with postgres("fsync=off") as server:
        once(server.url)
        yield server


@pytest.fixture
async def server_database(server: Postgres) -> str:
    """A database on it for this test."""
    beside = f"{server.url.rpartition('/')[0]}/template1"  # a template must not be in use
    return await create(beside, f"of_{uuid.uuid4().hex}", "postgres")
