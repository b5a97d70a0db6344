"""Starting a child process that is gone, with everything it started, after the test."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.helpers import preloaded
from tests.helpers.conditions import until


class Child:
    """A running process. `out` and `err` are what it has written so far."""

    def __init__(self, process: subprocess.Popen[bytes] | preloaded.Forked, out: int, err: int) -> None:
        self._process = process
        self._out, self._err = bytearray(), bytearray()
        self._open = {out: self._out, err: self._err}
        for file in self._open:
            asyncio.get_running_loop().add_reader(file, self._read, file)

    @property
    def out(self) -> str:
        return self._out.decode(errors="replace")

    @property
    def err(self) -> str:
        return self._err.decode(errors="replace")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        if self.running:
            os.kill(self._process.pid, number)

    async def says(self, text: str) -> str:
        """Wait until it has written `text` to stdout or stderr, and return all of its stdout."""
        await until(lambda: text in self.out + self.err or self._has_ended())
        assert text in self.out + self.err, f"it ended without {text!r}: {self.out!r}, {self.err!r}"
        return self.out

    async def ends(self) -> int:
        """Wait until it has ended and all of its output is read, and return its exit code."""
        await until(self._has_ended)
        return self._process.wait()

    async def kill(self) -> None:
        """End it and its process group, and read no more of its output."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for file in list(self._open):
            self._close(file)

    def _has_ended(self) -> bool:
        return not self.running and not self._open

    def _read(self, file: int) -> None:
        if chunk := os.read(file, 65536):
            self._open[file] += chunk
        else:
            self._close(file)

    def _close(self, file: int) -> None:
        asyncio.get_running_loop().remove_reader(file)
        os.close(file)
        del self._open[file]


def _start(
    arguments: list[str], cwd: Path | None, env: Mapping[str, str], out: int, err: int
) -> subprocess.Popen[bytes] | preloaded.Forked:
    if preloaded.serves(arguments, env):
        return preloaded.fork(arguments, cwd, env, out, err)
    return subprocess.Popen(
        [sys.executable, "-W", "error", *arguments],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        start_new_session=True,
    )


@asynccontextmanager
async def python(
    *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> AsyncIterator[Child]:
    """A Python child in its own process group, whose warnings are errors; it is killed at the end.

    Args:
        arguments: of the interpreter.
        cwd: its working folder.
        env: variables beside those of the tests.
    """
    words = list(map(str, arguments))
    variables = {**os.environ, **(env or {})}
    out, out_of_child = os.pipe()
    err, err_of_child = os.pipe()
    try:
        process = _start(words, cwd, variables, out_of_child, err_of_child)
    finally:
        os.close(out_of_child)
        os.close(err_of_child)
    child = Child(process, out, err)
    try:
        yield child
    finally:
        await child.kill()


def run(*arguments: str, cwd: Path | None = None, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The same, with only these variables, when it has ended."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        status = _start(list(arguments), cwd, env, out.fileno(), err.fileno()).wait()
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(arguments, status, out.read(), err.read())
