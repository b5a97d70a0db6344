"""The README says what is true: its Python runs, its table names what is there, its commands are complete."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

import trooper_async
from tests.tools.api_document import SAMPLES
from trooper_async import TrooperClient
from trooper_async._groups.blibs import Blibs
from trooper_async._groups.migrations import Migrations
from trooper_async._groups.orders import Orders
from trooper_async._groups.templates import Templates
from trooper_async.testing import FakeTrooper

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
TESTS = [block for block in BLOCKS if "async def test_" in block]
SCRIPTS = [block for block in BLOCKS if "asyncio.run(" in block]
FRAGMENTS = [block for block in BLOCKS if block not in TESTS and block not in SCRIPTS]


def test_every_block_is_of_a_kind_that_is_run_here() -> None:
    """No Python of the README goes unrun: a script, a test, or a fragment with `await` at its top."""
    assert len(TESTS) == 1
    assert len(SCRIPTS) == 1
    assert len(FRAGMENTS) == 8


@pytest.mark.parametrize("block", SCRIPTS)
def test_the_first_example_runs(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The example in the first lines orders a server and stops it, as it is written."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(block, "README.md", "exec"), namespace)
    assert capsys.readouterr().out.endswith("is stopped\n")


@pytest.mark.parametrize("block", FRAGMENTS)
async def test_the_fragments_run(block: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every fragment runs against the fake server, with a client at hand and order 123 there."""
    monkeypatch.chdir(tmp_path)
    async with FakeTrooper() as fake, fake.client() as client:
        monkeypatch.setenv("TROOPER_API_KEY", fake.api_key)
        monkeypatch.setenv("TROOPER_BASE_URL", fake.url)
        assert fake.add_order(title="training-1").order_id == 123
        if "PurchaseUnknownError" in block:
            fake.drop_next("/api/order", when="after")
        code: CodeType = compile(block, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        namespace: dict[str, Any] = {"client": client, "asyncio": asyncio}
        await eval(code, namespace)
        assert fake.requests


@pytest.mark.parametrize("block", TESTS)
def test_the_example_test_passes(block: str, pytester: pytest.Pytester) -> None:
    """The README's test of somebody's bot passes as it is copied into an empty folder, with no settings at all."""
    pytester.makepyfile(test_bot=block)
    result = pytester.runpytest_subprocess("-q", "-p", "no:hypothesispytest")
    result.assert_outcomes(passed=1)


def test_the_first_two_commands_are_one_line_each() -> None:
    """The first two sh blocks are complete commands of one line; the second runs the tests."""
    first, second = re.findall(r"^```sh\n(.*?)^```", README, re.M | re.S)[:2]
    assert first.count("\n") == second.count("\n") == 1
    assert "examples/quickstart.py" in first
    assert "pytest" in second


def test_the_table_of_endpoints_is_whole_and_names_what_is_there() -> None:
    """All 18 endpoints of the API's document are in the table, each with methods that exist."""
    table = README[README.index("## Endpoints") :]
    rows = dict(re.findall(r"^\| `(?:GET|POST) (\S+)` \| (.*) \|$", table, re.M))
    assert rows.keys() == SAMPLES.keys()
    groups: dict[str, Any] = {
        "client": TrooperClient,
        "blibs": Blibs,
        "orders": Orders,
        "migrations": Migrations,
        "templates": Templates,
    }
    for methods in rows.values():
        for group, method in re.findall(r"`(\w+)\.(\w+)\(", methods):
            assert inspect.iscoroutinefunction(getattr(groups[group], method)), f"{group}.{method}"


def test_every_error_is_in_the_readme() -> None:
    """Each exception that can be caught is named in the README."""
    names = [name for name in trooper_async.__all__ if name.endswith("Error")]
    assert [name for name in names if f"`{name}`" not in README and name != "WaitError"] == []
