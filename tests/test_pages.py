"""The pages and docstrings are true: their Python runs, their tables name what exists, their commands are complete."""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
import os
import re
import sqlite3
import sys
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest

import trooper_async
from tests.helpers import processes
from tests.helpers.pages import BLOCKS, PAGES, ROOT, Block, sections
from tests.tools.api_document import SAMPLES
from trooper_async import Blibs, Migrations, Orders, PollSchedule, Templates, TrooperClient
from trooper_async.testing import FakeTrooper

README = ROOT / "README.md"
SHELL = sections(README, "sh")


def blocks(kind: str) -> pytest.MarkDecorator:
    """All blocks of a kind, as the parameters of a test."""
    chosen = [block for block in BLOCKS if block.kind == kind]
    return pytest.mark.parametrize("block", chosen, ids=[f"{block.page}:{block.line}" for block in chosen])


class EnoughError(Exception):
    """Ends a program that runs until it is interrupted."""


@blocks("script")
def test_a_script_runs(block: Block, tmp_path: Path) -> None:
    """A whole program runs as it is copied into an empty folder, with the key in the environment."""
    if "sqlite:///" in block.code and sys.version_info >= (3, 12) and sqlite3.sqlite_version_info < (3, 42):
        pytest.skip("DBOS needs SQLite 3.42 there, as the page says")
    with FakeTrooper() as fake:
        fake.add_order(title="training-1")
        environment = {**os.environ, "TROOPER_BASE_URL": fake.url, "TROOPER_API_KEY": fake.api_key}
        script = tmp_path / "script.py"
        script.write_text(block.code, encoding="utf-8")
        done = processes.run(script.name, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout
        if "orders.rented" in block.code:
            assert done.stdout.startswith("ssh -p ")
            assert [body["action"] for body in fake.sent("/api/order-status")] == ["frozen"]


@blocks("fragment")
async def test_a_fragment_runs(block: Block, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A fragment runs on the fake server, with a `client` and order 123."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("trooper_async"), "level", logging.NOTSET)
    monkeypatch.setitem(vars(TrooperClient)["__init__"].__kwdefaults__, "poll", PollSchedule(floor=0.1))  # not 1 s
    async with (
        FakeTrooper() as fake,
        fake.client() as client,
        aiohttp.ClientSession(fake.url, headers={"Authorization": f"Bearer {fake.api_key}"}) as session,
    ):
        monkeypatch.setenv("TROOPER_API_KEY", fake.api_key)
        monkeypatch.setenv("TROOPER_BASE_URL", fake.url)
        order = fake.add_order(title="training-1")
        assert order.order_id == 123
        given = {"client": client, "asyncio": asyncio, "session": session, "server_id": order.server_id, "fake": fake}
        if "while True" in block.code:  # a loop with a fixed sleep
            given["asyncio"] = SimpleNamespace(sleep=lambda seconds: asyncio.sleep(seconds / 100))
        if not block.page.endswith(".md"):  # a docstring: its reader has imported what it names
            given |= {name: getattr(trooper_async, name) for name in trooper_async.__all__}
            given |= {"FakeTrooper": FakeTrooper, "orders": [order], "blib": (await client.blibs.list())[0]}
        if "PurchaseUnknownError" in block.code:
            fake.drop_next("/api/order", when="after")
        if "database_url" in block.code:
            given["database_url"] = await _database(client, tmp_path)
        if "orders.watch(" in block.code:
            given["print"] = _print_once
        code = compile(block.code, block.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        try:
            running = eval(code, given)
            if inspect.isawaitable(running):
                await running
        except EnoughError:
            assert "orders.watch(" in block.code
        assert fake.requests or "client.orders." not in block.code or "database_url" in block.code


async def _database(client: TrooperClient, folder: Path) -> str:
    """The address of a database of durable workflows."""
    from trooper_async import durable

    async with durable.embedded(lambda account: client, folder / "trooper.sqlite"):
        return f"sqlite:///{folder / 'trooper.sqlite'}"


def _print_once(*values: object) -> None:
    raise EnoughError


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_the_example_tests_pass(mode: str, pytester: pytest.Pytester) -> None:
    """Tests pass as they are copied into an empty folder, with no settings but pytest-asyncio's mode."""
    tests = [block.code for block in BLOCKS if block.kind == "test"]
    chosen = [code for code in tests if ("pytest.mark.asyncio" in code) == (mode == "strict")]
    pytester.makepyfile(**{f"test_{number}": code for number, code in enumerate(chosen)})
    result = pytester.runpytest_subprocess("-q", "-p", "no:hypothesispytest", "-o", f"asyncio_mode={mode}")
    result.assert_outcomes(passed=len(chosen))
    assert chosen


def test_each_page_is_found() -> None:
    """Each package has its page, and its blocks are run."""
    found = {str(path.relative_to(ROOT)) for path in PAGES}
    rooms = ("_api", "_buying", "_fleet", "_groups", "_http", "_waiting", "cli", "durable", "testing")
    assert found >= {"README.md", "trooper_async/README.md", *(f"trooper_async/{room}/README.md" for room in rooms)}
    assert {block.kind for block in BLOCKS} == {"script", "fragment", "test"}


def test_the_readme_is_short() -> None:
    """At most 1,500 words, including tables and code."""
    assert len(README.read_text(encoding="utf-8").split()) <= 1500


@pytest.mark.parametrize("part", ["examples/quickstart.py", "-m pytest"])
def test_the_first_commands_are_one_line_each(part: str) -> None:
    """The command that runs the example, and the one that runs the tests, are one line each."""
    (command,) = [block.code for block in SHELL if part in block.code]
    assert command.count("\n") == 1
    assert command.startswith("python3 -m venv .venv && ")


def test_the_table_of_endpoints_is_complete_and_correct() -> None:
    """All 18 endpoints of the API document are in the table, each with methods that exist."""
    table = (ROOT / "trooper_async/_api/README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(?:GET|POST) (\S+)` \| (.*) \|$", table, re.M))
    assert rows.keys() == SAMPLES.keys()
    groups: dict[str, type] = {
        "client": TrooperClient,
        "blibs": Blibs,
        "orders": Orders,
        "migrations": Migrations,
        "templates": Templates,
    }
    for methods in rows.values():
        for group, method in re.findall(r"`(\w+)\.(\w+)\(", methods):
            assert inspect.isfunction(getattr(groups[group], method)), f"{group}.{method}"


def test_every_error_is_explained() -> None:
    """Each exception that can be caught is in the table of errors."""
    table = (ROOT / "trooper_async/_http/README.md").read_text(encoding="utf-8")
    names = [name for name in trooper_async.__all__ if name.endswith("Error")]
    assert [name for name in names if f"`{name}`" not in table and name != "WaitError"] == []
