"""Starting a child process that is gone, with everything it started, when the test is over."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.helpers.conditions import until


class Child:
    """A running process. `out` and `err` are what it has written so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._out, self._err = bytearray(), bytearray()
        self._readers = [
            asyncio.create_task(_read(process.stdout, self._out)),
            asyncio.create_task(_read(process.stderr, self._err)),
        ]

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
        return self._process.returncode is None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def says(self, text: str) -> str:
        """Wait until it has written `text` to stdout or stderr, and return all of its stdout."""
        await until(lambda: text in self.out + self.err or self._has_ended())
        assert text in self.out + self.err, f"it ended without {text!r}: {self.out!r}, {self.err!r}"
        return self.out

    async def ends(self) -> int:
        """Wait until it has ended and all of its output is read, and return its exit code."""
        await until(self._has_ended)
        return await self._process.wait()

    async def kill(self) -> None:
        """End it and its process group, and what has read its output."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    def _has_ended(self) -> bool:
        return not self.running and all(reader.done() for reader in self._readers)


async def _read(stream: asyncio.StreamReader, into: bytearray) -> None:
    while chunk := await stream.read(65536):
        into += chunk


@asynccontextmanager
async def python(
    *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> AsyncIterator[Child]:
    """A Python child in a process group of its own, whose warnings are errors; it is killed at the end.

    Args:
        arguments: of the interpreter.
        cwd: its working folder.
        env: variables beside those of the tests.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", *arguments),
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    child = Child(process)
    try:
        yield child
    finally:
        await child.kill()
