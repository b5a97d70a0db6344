"""The pytest plugin, in pytest runs of its own that load it by its entry point, as if the package were installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

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
UNRELATED = """
import sys
def test_unrelated():
    assert "trooper_async.testing.plugin" in sys.modules
    assert "aiohttp.web" not in sys.modules
    assert "trooper_async.testing._server" not in sys.modules
"""


class Runner:
    """Runs pytest in a folder of its own, with the package on its path and its entry points announced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self.folder.mkdir()
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
        # Plugins that are only here: hypothesis alone costs more to import than all else.
        without = [
            option
            for name in ("cacheprovider", "randomly", "hypothesispytest", "anyio")
            for option in ("-p", f"no:{name}")
        ]
        command = [sys.executable, "-m", "pytest", *strict, *without]
        run = subprocess.run(
            [*command, *options], cwd=self.folder, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        return run.returncode, run.stdout + run.stderr


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def marked(test: str) -> str:
    """The test as the strict mode wants it."""
    return f"import pytest\npytestmark = pytest.mark.asyncio\n{test}"


def test_the_fixtures_work_in_strict_mode(run: Runner) -> None:
    """`fake_trooper` is a running server and `trooper` its client in the strict mode of pytest-asyncio, its default."""
    code, output = run(marked(FAKE + CLIENT))
    assert code == 0, output
    assert "2 passed" in output


def test_the_fixtures_work_in_auto_mode(run: Runner) -> None:
    """The same in the auto mode of pytest-asyncio."""
    code, output = run(FAKE + CLIENT, "-o", "asyncio_mode=auto")
    assert code == 0, output
    assert "2 passed" in output


def test_a_conftest_can_load_it(run: Runner) -> None:
    """Where the entry point is blocked, a conftest can name the plugin."""
    run.folder.joinpath("conftest.py").write_text('pytest_plugins = ["trooper_async.testing.plugin"]\n')
    code, output = run(marked(FAKE), "-p", "no:trooper_async")
    assert code == 0, output


def test_the_fixtures_are_listed(run: Runner) -> None:
    """`pytest --fixtures` shows both fixtures with a description."""
    code, output = run("", "--fixtures")
    assert code in (0, pytest.ExitCode.NO_TESTS_COLLECTED), output
    assert "A running `FakeTrooper`" in output
    assert "A `TrooperClient` of `fake_trooper`" in output


@pytest.mark.parametrize("options", [(), ("-p", "no:asyncio")])
def test_other_peoples_runs_are_left_alone(run: Runner, options: tuple[str, ...]) -> None:
    """A run that has nothing to do with Trooper passes and imports no server, with pytest-asyncio and without."""
    code, output = run(UNRELATED, *options)
    assert code == 0, output


def test_what_is_missing_is_said(run: Runner) -> None:
    """Without pytest-asyncio a test that asks for a fixture is told that it is needed."""
    code, output = run("def test_it(trooper): ...\ndef test_fake(fake_trooper): ...\n", "-p", "no:asyncio")
    assert code == 1
    assert "the fixture `trooper` needs pytest-asyncio" in output
    assert "the fixture `fake_trooper` needs pytest-asyncio" in output
