"""What all tests share: their own environment, a check of what each leaves behind, the package's own fixtures."""

from __future__ import annotations

import functools
import gc
import os
import stat
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import aioresponses.core
import pytest
from aiohttp import ClientResponse
from aiohttp.abc import AbstractStreamWriter
from aioresponses import aioresponses as mocked
from hypothesis import HealthCheck, settings

from tests.helpers import environment, leaks, preloaded
from tests.helpers.requirements import required

environment.isolate()
gc.disable()  # until all tests are collected, which leaves no garbage

pytest_plugins = ["trooper_async.testing.plugin", "pytester"]

# Each run tests the same examples; `--hypothesis-profile=explore` looks for new ones, as `nox -s load` does.
# A slow machine is no failure.
_patient: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("tests", max_examples=50, derandomize=True, **_patient)
settings.register_profile("explore", max_examples=1000, print_blob=True, **_patient)
settings.load_profile("tests")


def pytest_collection_finish() -> None:
    """Keep what all tests share (modules, thousands of items) out of the garbage collections that many of
    them request.
    """
    gc.freeze()
    gc.enable()
    gc.set_threshold(20_000)  # a test makes little garbage, and none of it is large


def pytest_unconfigure() -> None:
    """However the run ends, none of its processes survives it."""
    leaks.kill_children()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    required(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    required(report)
    return report


@pytest.fixture(scope="session", autouse=True)
def _nothing_of_the_session_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the fixtures of modules and of the session leave behind fails the last test."""
    leaks.adopt_orphans(adopt=True)  # here, since mutmut forks the processes that run the tests
    tmp_path_factory.getbasetemp()  # pytest's own folder stays where it is
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="tests-") as folder:
        patch.setenv("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # for tests that run pytest
        Path(folder).chmod(0o755)  # Postgres works in it, as another user where root runs the tests
        patch.setenv("TMPDIR", folder)  # for children
        patch.setattr(tempfile, "tempdir", folder)
        before = leaks.held()
        starts_children = not sys.modules.keys().isdisjoint({"tests.helpers.processes", "tests.cli.terminal"})
        with preloaded.interpreter() if starts_children else nullcontext():
            yield
        assert leaks.left_since(before) == []
    leaks.adopt_orphans(adopt=False)  # mutmut runs tests in its own process, and fails at a child of others


@pytest.fixture(autouse=True)
def _nothing_of_a_test_is_left(_nothing_of_the_session_is_left: None) -> Iterator[None]:
    """A process, thread, socket or temporary file that outlives its test fails it; processes are killed."""
    before = leaks.held()
    yield
    left = leaks.left_since(before)
    leaks.kill_children(but=before)
    assert left == []


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A device of the tests' own: if root runs the tests, a fault in the package could change the real `/dev/null`."""
    path = tmp_path / "device"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.stat(os.devnull).st_rdev)
        os.close(os.open(path, os.O_RDONLY))
    except OSError:  # only root may make one, and not in every folder
        yield Path(os.devnull)
    else:
        yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def responses(monkeypatch: pytest.MonkeyPatch) -> Iterator[mocked]:
    """aioresponses, for narrow tests of the transport. It bypasses middlewares: so no key, and no attempt
    is counted.
    """
    # aioresponses 0.7.9 builds a ClientResponse without the stream_writer that aiohttp 3.14 wants.
    writer = mock.create_autospec(AbstractStreamWriter, instance=True, output_size=0)
    shimmed = functools.partial(ClientResponse, stream_writer=writer)
    monkeypatch.setattr(aioresponses.core, "ClientResponse", shimmed)
    with mocked(passthrough=["http://127.0.0.1"]) as responses:
        yield responses
