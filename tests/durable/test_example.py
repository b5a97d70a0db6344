"""examples/durable_fleet.py: real processes, on SQLite and on Postgres."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.helpers.conditions import until
from tests.helpers.processes import Child, python

EXAMPLE = Path(__file__).parents[2] / "examples" / "durable_fleet.py"


def check(example: Child) -> None:
    """The fleet is frozen and the job is done, by the remaining or next worker, which ends on SIGTERM."""
    lines = example.out.splitlines()
    for line in (
        "worker 1 is killed",
        "worker 2 has frozen 20 of 20 servers",
        "worker 2 has trained on order 143",
        "worker 2 has ended",
        "1 purchase was sent, and none twice",
    ):
        assert line in lines
    assert "Traceback" not in example.err


def runs(pid: int) -> bool:
    """Whether the process is running, not only its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def workers(example: Child) -> list[int]:
    """The processes that it has started, in order."""
    pid = example._process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_nothing_is_lost_when_a_worker_is_killed() -> None:
    """On SQLite: one worker after the other."""
    async with python(EXAMPLE) as example:
        assert await example.ends() == 0, example.err
    check(example)


async def test_runs_can_share_a_database_with_an_aborted_one(server_database: str, tmp_path: Path) -> None:
    """When a run is killed, its workers end and leave their work behind; two others do theirs at the same time."""
    async with python(EXAMPLE, server_database, env={"TMPDIR": str(tmp_path)}) as aborted:
        await aborted.says("worker 2 has begun")
        started = workers(aborted)
        aborted.send(signal.SIGKILL)
        await until(lambda: not any(map(runs, started)))  # without the run there is no API, and they would retry
        assert await aborted.ends() == -signal.SIGKILL
    async with python(EXAMPLE, server_database) as one, python(EXAMPLE, server_database) as other:
        assert (await one.ends(), await other.ends()) == (0, 0), one.err + other.err
    check(one)
    check(other)


async def test_it_ends_when_its_worker_ends(server_database: str) -> None:
    """It exits with 1 and a sentence, and ends the other worker."""
    async with python(EXAMPLE, server_database) as example:
        await until(lambda: len(workers(example)) == 2)
        first, second = workers(example)
        os.kill(second, signal.SIGKILL)
        assert await example.ends() == 1
        assert example.err == "worker 2 ended with -9, before its work was done\n"
        assert not runs(first)


async def test_it_ends_on_ctrl_c(server_database: str) -> None:
    """It exits without a traceback, and its workers end as well."""
    async with python(EXAMPLE, server_database) as example:
        await until(lambda: len(workers(example)) == 2)
        started = workers(example)
        example.send(signal.SIGINT)
        assert (await example.ends(), example.err) == (130, "")
        assert not any(map(runs, started))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://nobody@127.0.0.1:1/none", "the database cannot be used: connection failed"),
        ("postgres//secret@x", "the argument is not the URL of a Postgres database"),
        ("sqlite:///x", "the argument is not the URL of a Postgres database"),
    ],
)
async def test_an_invalid_url_is_reported(url: str, says: str) -> None:
    """It ends with a sentence before any worker is started."""
    async with python(EXAMPLE, url) as example:
        assert await example.ends() == 1
    assert example.err.startswith(says)
    assert "secret" not in example.err
    assert example.err.count("\n") <= 2
    assert example.out == ""
