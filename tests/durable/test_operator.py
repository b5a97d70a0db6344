"""`trooper purchases --database` as a process: an operator lists and decides purchases of unknown outcome."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.durable.test_workflows import ORDER, TERMS, result, start
from tests.helpers.durable import application, eventually, operator
from tests.helpers.processes import python
from trooper_async import ConfigurationError, durable
from trooper_async.durable._purchases import connected
from trooper_async.testing import FakeTrooper

BOUGHT = 501


class Ran(NamedTuple):
    status: int | None
    out: str
    err: str


async def trooper(*arguments: str) -> Ran:
    """A command without a key."""
    async with python("-c", "from trooper_async.cli import main; main()", *arguments) as child:
        return Ran(await child.ends(), child.out, child.err)


@asynccontextmanager
async def undecided(fake: FakeTrooper, url: str, *accounts: str) -> AsyncIterator[None]:
    """An application makes purchases for these accounts, and is gone before they are decided; afterwards it runs again,
    and each ends as decided.
    """
    async with application(lambda account: fake.client(), url):
        with operator(url) as script:
            for account in accounts:
                fake.drop_next(ORDER, when="after")
                await start(account, durable.order, account, 1, **TERMS)
                await eventually(lambda: script.get_event_async(f"{account}-purchase", "undecided", 0))  # noqa: B023
    yield
    async with application(lambda account: fake.client(), url):
        await start(accounts[0], durable.order, accounts[0], 1, **TERMS)
        assert await result(accounts[0]) == BOUGHT
    assert len(fake.sent(ORDER)) == len(accounts)


async def test_an_operator_decides_from_the_command_line(fake_trooper: FakeTrooper, database: str) -> None:
    """While no worker runs: existing orders are refused, the first decision counts, and the workflow continues."""
    before = fake_trooper.add_order(order_id=BOUGHT - 1).order_id
    resolve = ("purchases", "resolve", "--database", database)
    async with undecided(fake_trooper, database, "acme", "acme too"):
        shown = await trooper("purchases", "--database", database)
        assert (shown.status, shown.err) == (0, "")
        command = f"trooper purchases resolve --database {database}"
        assert f"`{command} acme-purchase --order ID` or `--not-made`" in shown.out
        assert f"`{command} 'acme too-purchase' --order ID`" in shown.out
        several = await trooper(*resolve, "acme", "--not-made")
        assert (several.status, "several undecided purchases have an id that begins with" in several.err) == (1, True)
        refused = await trooper(*resolve, "acme-purchase", "--order", str(before))
        assert (refused.status, "it was there before" in refused.err) == (2, True)
        decided = await trooper(*resolve, "acme-p", "--order", str(BOUGHT))
        said = (
            f"purchase acme-purchase: decided as order {BOUGHT}, unless it was decided before; a worker continues it\n"
        )
        assert (decided.status, decided.out, decided.err) == (0, said, "")
        assert (await trooper(*resolve, "acme-p", "--not-made")).status == 0  # it has no effect
    (left,) = json.loads((await trooper("purchases", "--database", database, "--json")).out)
    assert (left["workflow_id"], left["account"], left["blib_id"]) == ("acme too-purchase", "acme too", 1)
    assert left["known"] == [before, BOUGHT]


async def test_an_operator_decides_on_postgres(fake_trooper: FakeTrooper, server_database: str) -> None:
    """The same; an id that matches no purchase, or several, is reported."""
    fake_trooper.add_order(order_id=BOUGHT - 1)
    async with undecided(fake_trooper, server_database, "acme"):
        (asked,) = json.loads((await trooper("purchases", "--database", server_database, "--json")).out)
        resolve = ("purchases", "resolve", "--database", server_database)
        assert (
            "no undecided purchase has an id that begins with 'zz'" in (await trooper(*resolve, "zz", "--not-made")).err
        )
        assert (await trooper(*resolve, asked["workflow_id"], "--order", str(BOUGHT))).status == 0


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("sqlite:///{folder}/none.sqlite", "there is no database {folder}/none.sqlite"),
        ("sqlite:///{folder}/other.sqlite", "can't be used: no such table: "),
        ("postgresql://me:SECRET@127.0.0.1:1/x", "can't be used: connection failed: "),
        ("postgresql://me:SECRET@[::1/x", "can't be used: "),
        ("nonsense:SECRET", "can't be used: "),
        ("mysql://me:SECRET@host", "can't be used: "),
    ],
)
async def test_an_unusable_database_is_reported(url: str, problem: str, tmp_path: Path) -> None:
    """No file is created, and no password is shown."""
    (tmp_path / "other.sqlite").touch()
    with (
        pytest.raises(ConfigurationError, match=problem.format(folder=tmp_path)) as raised,
        connected(url.format(folder=tmp_path)) as client,
    ):
        await durable.undecided(client)
    assert "SECRET" not in str(raised.value)
    assert not (tmp_path / "none.sqlite").exists()


async def test_an_unusable_database_is_one_line() -> None:
    """With status 2 and without a traceback or the password."""
    ran = await trooper("purchases", "--database", "postgresql://me:SECRET@127.0.0.1:1/x")
    (line,) = ran.err.splitlines()
    assert (ran.status, line.startswith("error: the database can't be used: connection failed: ")) == (2, True)
    assert "SECRET" not in line


def test_without_dbos_it_says_what_to_install() -> None:
    """The command itself does not need DBOS."""
    without = "import sys; sys.modules['dbos'] = None"
    code = f"{without}; from trooper_async.cli import main; main()"
    command = [sys.executable, "-W", "error", "-c", code, "purchases", "--database", "sqlite:///x"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    said = "error: trooper_async.durable needs DBOS: pip install 'trooper-async[durable]'\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", said)
