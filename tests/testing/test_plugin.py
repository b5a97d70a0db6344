"""The pytest plugin, in separate pytest runs that load it by its entry point, as if the package were installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from textwrap import indent

import pytest

ROOT = Path(__file__).resolve().parents[2]

FAKE = """
async def test_the_fake_serves(fake_trooper):
    import aiohttp
    async with aiohttp.ClientSession() as session, session.get(fake_trooper.url + "/api/test") as response:
        assert await response.json() == {"test": "meinstring5"}
    assert [request.path for request in fake_trooper.requests] == ["/api/test"]
"""
CLIENT = """
async def test_the_client_waits(fake_trooper, trooper):
    order = fake_trooper.add_order(status="stopped")
    assert (await trooper.orders.start_and_wait(order)).current_status == "running"
"""
BLOCKING = """
import urllib.request
def test_one(fake_trooper, session_fake_trooper):
    for fake in (fake_trooper, session_fake_trooper):
        with urllib.request.urlopen(fake.url + "/api/test") as response:
            assert response.status == 200
def test_each_test_has_its_own(fake_trooper):
    assert fake_trooper.requests == []
def test_one_for_the_session(session_fake_trooper):
    assert len(session_fake_trooper.requests) == 1
    session_fake_trooper.reset()
    assert session_fake_trooper.requests == []
"""
ANYIO = """
import pytest
pytestmark = pytest.mark.anyio
@pytest.fixture
def anyio_backend():
    return "asyncio"
"""
UNRELATED = """
import sys
def test_unrelated():
    assert "trooper_async.testing.plugin" in sys.modules
    assert "aiohttp.web" not in sys.modules
    assert "trooper_async.testing._fake" not in sys.modules
    assert "trooper_async.client" not in sys.modules
"""


class Runner:
    """Runs pytest in its own folder, with the package on its path and its entry points registered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self.folder.mkdir()
        # Plugins that are needed only here: hypothesis alone takes longer to import than everything else.
        self.without = ["cacheprovider", "randomly", "hypothesispytest", "anyio"]
        self.site = folder / "site"
        metadata = self.site / "trooper_async-0.dist-info"
        metadata.mkdir(parents=True)
        metadata.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: trooper-async\nVersion: 0\n")
        declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
        lines = "".join(f"{name} = {module}\n" for name, module in declared.items())
        metadata.joinpath("entry_points.txt").write_text(f"[pytest11]\n{lines}")

    def __call__(self, test: str, *options: str) -> tuple[int, str]:
        """The exit code and the output of a run of this one test file."""
        self.folder.joinpath("test_it.py").write_text(test)
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
        env["PYTHONPATH"] = os.pathsep.join([str(self.site), str(ROOT)])
        # pytest-asyncio warns of its own default in projects that configure nothing, as this one.
        strict = ["-W", "error", "-W", "ignore:The configuration option:pytest.PytestDeprecationWarning"]
        without = [option for name in self.without for option in ("-p", f"no:{name}")]
        command = [sys.executable, "-m", "pytest", *strict, *without]
        run = subprocess.run(
            [*command, *options], cwd=self.folder, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        return run.returncode, run.stdout + run.stderr


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def marked(test: str) -> str:
    """The test as strict mode needs it."""
    return f"import pytest\npytestmark = pytest.mark.asyncio\n{test}"


def test_the_fixtures_work_in_auto_mode(run: Runner) -> None:
    """`fake_trooper` is a running server and `trooper` its client in pytest-asyncio's auto mode."""
    code, output = run(FAKE + CLIENT, "-o", "asyncio_mode=auto")
    assert code == 0, output
    assert "2 passed" in output


def test_a_conftest_can_load_the_plugin(run: Runner) -> None:
    """If the entry point is blocked, a conftest can name the plugin."""
    run.folder.joinpath("conftest.py").write_text('pytest_plugins = ["trooper_async.testing.plugin"]\n')
    code, output = run(marked(FAKE), "-p", "no:trooper_async")
    assert code == 0, output


def test_the_fixtures_are_listed(run: Runner) -> None:
    """`pytest --fixtures` shows the fixtures with a description, and not those behind them."""
    code, output = run("", "--fixtures")
    assert code in (0, pytest.ExitCode.NO_TESTS_COLLECTED), output
    assert "A running `FakeTrooper`" in output
    assert "A `TrooperClient` for `fake_trooper`" in output
    assert "A `FakeTrooper` that runs for the whole session" in output
    assert "_trooper_in" not in output


def test_a_missing_plugin_is_named(run: Runner) -> None:
    """Without pytest-asyncio a test that requests a client fails with what to install."""
    code, output = run("def test_it(trooper): ...\n", "-p", "no:asyncio")
    assert code == 1
    assert "the fixture `trooper` needs pytest-asyncio" in output
    assert "`fake_trooper` needs neither" in output


@pytest.mark.parametrize("options", [(), ("-p", "no:asyncio")])
def test_only_tests_that_use_the_fake_pay_for_it(run: Runner, options: tuple[str, ...]) -> None:
    """Tests without Trooper import no server; then both fakes work in sync tests, with pytest-asyncio and without."""
    code, output = run(UNRELATED + BLOCKING, *options)
    assert code == 0, output
    assert "4 passed" in output


def test_the_client_belongs_to_the_loop_of_its_test(run: Runner) -> None:
    """In strict mode, pytest-asyncio's default, the fixtures work in the loop of a test, also of a wider scope."""
    test = indent(CLIENT.replace("(fake", "(self, fake"), "    ")
    test += test.replace("waits", "waits_again")
    classes = [
        f'@pytest.mark.asyncio(loop_scope="{scope}")\nclass Test{scope.title()}:{test}'
        for scope in ("function", "class", "module", "package", "session")
    ]
    code, output = run("\n".join(["import pytest", f"@pytest.mark.asyncio{FAKE}", *classes]))
    assert code == 0, output
    assert "11 passed" in output


def test_the_default_loop_scope_is_followed(run: Runner) -> None:
    """The project's default loop scope needs no marker."""
    code, output = run(FAKE + CLIENT, "-o", "asyncio_mode=auto", "-o", "asyncio_default_test_loop_scope=session")
    assert code == 0, output
    assert "2 passed" in output


@pytest.mark.parametrize("options", [(), ("-p", "no:asyncio")])
def test_anyio_tests_use_the_fixtures(run: Runner, options: tuple[str, ...]) -> None:
    """Under anyio's plugin both fixtures work, in its loop, with pytest-asyncio beside it and without."""
    run.without.remove("anyio")
    code, output = run(ANYIO + FAKE + CLIENT, *options)
    assert code == 0, output
    assert "2 passed" in output
