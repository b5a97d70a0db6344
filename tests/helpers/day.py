"""A program as a process whose clock a test puts forward: hours pass as fast as the program copes with them.

`python -m tests.helpers.day FOLDER SCRIPT …` runs the script unchanged. Its monotonic clock jumps from one timer to the
next whenever it has nothing to do and waits for no response, until it has reached the time that the test has set.
"""

from __future__ import annotations

import os
import runpy
import selectors
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp

from tests.helpers import processes
from tests.helpers.conditions import until
from trooper_async.testing import FakeTrooper

OUTAGES = {"5 s": 5.0, "5 min": 300.0, "3 h": 10_800.0}


class Day:
    """The fake API and the processes that use it, on one clock, which only `passes` puts forward."""

    def __init__(self, fake: FakeTrooper, folder: Path) -> None:
        self.fake, self.folder = fake, folder
        self._target, self._set = folder / "target", 0.0
        self._target.write_text("0")

    def started(
        self, script: str | Path, *options: str, env: dict[str, str] | None = None
    ) -> AbstractAsyncContextManager[processes.Child]:
        """The program. It is killed (SIGKILL) at the end of the block."""
        live = {"TROOPER_BASE_URL": self.fake.url, "TROOPER_API_KEY": self.fake.api_key}
        root = {"PYTHONPATH": str(Path(__file__).parents[2])}
        command = ("-m", "tests.helpers.day", self.folder, script, *options)
        return processes.python(*command, env={**live, **root, **(env or {})})

    async def passes(self, seconds: float, child: processes.Child) -> None:
        """Put the clock forward, and wait until the process has done what was due by then."""
        self.fake.advance(seconds)
        self._set += seconds
        new = self._target.with_suffix(".new")
        new.write_text(str(self._set))
        new.replace(self._target)
        reached = self.folder / f"{child.pid} reached"
        await until(lambda: not child.running or (reached.exists() and float(reached.read_text()) >= self._set))

    async def passes_until(self, condition: Callable[[], object], child: processes.Child) -> None:
        """Put the clock forward, by a day at most, until the condition holds."""
        ends = self._set + 86_400
        while not condition():
            assert self._set < ends, f"still false after a day: {child.err[-2000:]}"
            await self.passes(5.0, child)


class _Clock:
    """The clock in the process."""

    def __init__(self, folder: Path) -> None:
        self._target, self._reached = folder / "target", folder / f"{os.getpid()} reached"
        self.ahead = self._said = self._known = float(self._target.read_text())
        self.requests = 0
        """How many have got no response yet."""
        self.responses: list[aiohttp.ClientResponse] = []

    def flies(self) -> bool:
        """Whether it advances as soon as there is nothing to do."""
        return not self.waits() and self.ahead < self._read()

    def waits(self) -> bool:
        """Whether a response, or the rest of one, is being awaited."""
        self.responses = [response for response in self.responses if response.connection is not None]
        return bool(self.requests or self.responses)

    def idle(self, timeout: float | None) -> None:
        """There is nothing to do before the next timer, which is due after so many seconds."""
        if self.waits():
            return
        target = self._read()
        if self.ahead < target:
            self.ahead = target if timeout is None else min(target, self.ahead + timeout)
        elif self._said != target:
            self._said = target
            new = self._reached.with_suffix(".new")
            new.write_text(str(target))
            new.replace(self._reached)

    def _read(self) -> float:
        if self.ahead >= self._known:
            self._known = float(self._target.read_text())
        return self._known


def _count(clock: _Clock, owner: Any, name: str, but: str = "") -> None:
    """Let the clock stand while a response to this function's requests is awaited, but for some URLs."""
    request = getattr(owner, name)

    async def counted(*arguments: Any, **named: Any) -> Any:
        if but and but in str(arguments):
            return await request(*arguments, **named)
        clock.requests += 1
        try:
            response = await request(*arguments, **named)
        finally:
            clock.requests -= 1
        if isinstance(response, aiohttp.ClientResponse):
            clock.responses.append(response)
        return response

    setattr(owner, name, counted)


def _run(folder: Path, script: str, *options: str) -> None:
    clock, monotonic, others = _Clock(folder), time.monotonic, {"asyncssh", "httpx"}

    class Selector(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            for name in others & sys.modules.keys():
                others.remove(name)
                module: Any = sys.modules[name]
                if name == "httpx":
                    _count(clock, module.AsyncClient, "send", but="getUpdates")  # Telegram's long poll
                else:
                    _count(clock, module, "connect")
                    _count(clock, module.SSHClientConnection, "create_process")
            if timeout is not None and timeout <= 0:
                return super().select(0)
            pause = 0.0 if clock.flies() else 0.005
            if not (ready := super().select(pause if timeout is None else min(timeout, pause))):
                clock.idle(timeout)
            return ready

    _count(clock, aiohttp.ClientSession, "_request")
    time.monotonic = lambda: monotonic() + clock.ahead
    mock.patch.object(selectors, "DefaultSelector", Selector).start()
    vars(sys)["modules"]["uvloop"] = None  # its clock is its own
    sys.argv = [script, *options]
    sys.path[0] = str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    _run(Path(sys.argv[1]), *sys.argv[2:])
