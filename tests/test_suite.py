"""What the tests rely on: their own environment, the search for what they leave behind, and their page."""

from __future__ import annotations

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.helpers import leaks, processes
from tests.helpers.conditions import block_until

TESTS = Path(__file__).parent


@contextmanager
def _process() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield
        process.kill()


@contextmanager
def _orphan() -> Iterator[None]:
    """A grandchild whose parent has ended."""
    program = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'])"
    read, write = os.pipe()
    subprocess.run([sys.executable, "-c", program], stdin=read, check=True)
    yield
    os.close(write)  # the end of its input ends it
    os.close(read)


@contextmanager
def _thread() -> Iterator[None]:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    yield
    over.set()
    thread.join()


@contextmanager
def _socket() -> Iterator[None]:
    with socket.socket():
        yield


@contextmanager
def _folder() -> Iterator[None]:
    folder = tempfile.mkdtemp()
    yield
    shutil.rmtree(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process holds")
@pytest.mark.parametrize(
    ("thing", "named"),
    [(_process, "process"), (_orphan, "process"), (_thread, "thread"), (_socket, "socket"), (_folder, "temporary")],
)
def test_what_a_test_leaves_behind_is_found(
    thing: Callable[[], AbstractContextManager[None]], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes, also of children, threads, sockets and temporary files are found while they exist."""
    before = leaks.held()
    with ExitStack() as stack, monkeypatch.context() as patch:
        stack.enter_context(thing())
        patch.setattr(leaks, "_PATIENCE", 0.0)
        (left,) = leaks.left_since(before)
        assert left.startswith(named)
    assert leaks.left_since(before) == []


async def test_a_child_is_killed_with_its_own_children() -> None:
    """The whole process group is gone after the block, also a grandchild that ignores signals."""
    ignores = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ignores!r}])"
    before = leaks.held()
    async with processes.python("-c", program) as child:
        await child.says("up")
    assert not child.running
    assert leaks.left_since(before) == []


def test_the_environment_is_that_of_the_tests() -> None:
    """Whatever the caller has set, blocked or ignored: Ctrl-C works, and no foreign variable is there."""
    program = """
import os, signal
from tests.helpers.environment import isolate
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
isolate()
print(sorted(os.environ))
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
os.kill(os.getpid(), signal.SIGTERM)
"""
    foreign = {"TROOPER_API_KEY": "k", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "LC_ALL": "C", "COLUMNS": "20"}
    run = subprocess.run(
        [sys.executable, "-c", program], env=foreign, capture_output=True, text=True, check=False, cwd=TESTS.parent
    )
    assert run.stdout.splitlines() == ["['LANG', 'TERM', 'TZ']", "interrupted"]
    assert run.returncode < 0


def test_the_page_names_files_that_exist() -> None:
    """Each path in the table of promises exists."""
    rows = [line for line in (TESTS / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    named = re.findall(r"`(\w+/[\w./]*|test_\w+\.py)`", "\n".join(rows))
    assert len(named) > 20
    assert [path for path in named if not (TESTS / path).exists()] == []


def test_a_failed_wait_for_a_condition_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure shows the condition."""
    monkeypatch.setattr("tests.helpers.conditions.LIMIT", 0.0)
    never_true: list[str] = []
    with pytest.raises(AssertionError, match=r"still false after 0 s.*never_true"):
        block_until(lambda: never_true)


def _sleeps(node: ast.AST) -> Iterator[ast.Call]:
    """The calls of `sleep` with a fixed time of more than a hundredth of a second."""
    for call in ast.walk(node):
        match call:
            case ast.Call(func=ast.Attribute(attr="sleep") | ast.Name(id="sleep"), args=[ast.Constant(value=seconds)]):
                if isinstance(seconds, int | float) and seconds > 0.01:
                    yield call


def test_no_test_waits_for_a_fixed_time() -> None:
    """A test on the real clock waits for a condition or puts a clock forward. (`def` with `run` is virtual time.)"""
    found = []
    for path in sorted(TESTS.rglob("*.py")):
        if TESTS / "tools" in path.parents or path.parent.name == "programs":
            continue
        if "sleep(" not in (text := path.read_text(encoding="utf-8")):
            continue
        tree = ast.parse(text)
        sleeps = [call for call in _sleeps(tree) if ast.unparse(call.func) == "time.sleep"]
        for node in ast.walk(tree):
            if isinstance(node, ast.AsyncFunctionDef) and node.name.startswith("test_"):
                sleeps += _sleeps(node)
        found += [f"{path.relative_to(TESTS)}:{call.lineno}" for call in sleeps]
    assert found == []
