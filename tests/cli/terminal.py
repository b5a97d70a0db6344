"""A command in a real terminal, and what its screen shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pexpect  # type: ignore[import-untyped]  # it comes without types
import ptyprocess  # type: ignore[import-untyped]  # the same

from tests.helpers import preloaded, processes

# the terminal codes that rich writes
_SEQUENCE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+|\x1b.")
_PATIENCE = 30.0

_PYTHON = [sys.executable, "-W", "error"]
_CODE = "from trooper_async.cli import main; main()"
COMMAND = [*_PYTHON, "-c", _CODE]
"""`trooper`, where it may not be on the PATH."""
_POLLS_FAST = """
import sys
from attrs import evolve
from trooper_async import PollSchedule
from trooper_async.cli._app import run
from trooper_async.cli._settings import load
sys.exit(run(sys.argv[1:], evolve(load(), options={"poll": PollSchedule(floor=0.05)})))
"""


class _Spawn(pexpect.spawn):  # type: ignore[misc]  # it comes without types
    """A child in a terminal; Python is forked as in `tests.helpers.processes`."""

    def _spawnpty(self, command: list[bytes], **options: Any) -> Any:
        program, *arguments = map(os.fsdecode, command)
        del arguments[: len(_PYTHON) - 1]
        if program != sys.executable or not preloaded.serves(arguments, options["env"]):
            return super()._spawnpty(command, **options)  # pyright: ignore[reportAttributeAccessIssue]  # no types
        ours, theirs = os.openpty()
        termios.tcsetwinsize(theirs, options["dimensions"])
        child = preloaded.fork(arguments, None, options["env"], theirs, theirs, theirs)
        os.close(theirs)
        return ptyprocess.PtyProcess(child.pid, ours)


class Terminal:
    """`trooper` in a terminal, with polls that take less than a second. `said` is all that it has written."""

    def __init__(self, words: tuple[str, ...], environment: Mapping[str, str], columns: int, shell: str) -> None:
        self.said = ""
        self._forgotten = ""
        command = [*_PYTHON, "-c", _POLLS_FAST, *words]
        if shell:
            command = ["bash", "-c", shell, "bash", *command]
        self._child = _Spawn(
            command[0],
            command[1:],
            env={**environment, "TERM": "xterm-256color"},
            dimensions=(40, columns),
            encoding="utf-8",
        )

    @property
    def all(self) -> str:
        """All that it has written, including forgotten output."""
        return self._forgotten + self.said

    def forget(self) -> None:
        """Look only at what is written from now on."""
        self._forgotten += self.said
        self.said = ""

    def type(self, line: str) -> None:
        self._child.sendline(line)

    def ctrl_c(self) -> None:
        self._child.sendintr()

    def ctrl_z(self) -> None:
        self._child.sendcontrol("z")

    def terminate(self) -> None:
        self._child.kill(signal.SIGTERM)

    def until(self, *texts: str) -> str:
        """Read until the screen shows all of these texts; returns the screen."""
        ends = time.monotonic() + _PATIENCE
        while not all(text in screen(self.said) for text in texts):
            assert time.monotonic() < ends, f"{texts} were not shown:\n{screen(self.said)}"
            try:
                self.said += self._child.read_nonblocking(4096, timeout=0.1)
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                raise AssertionError(f"it ended before {texts} were shown:\n{screen(self.said)}") from None
        return screen(self.said)

    def wait_for(self, holds: Callable[[], bool]) -> None:
        """Wait until a condition holds that the screen does not show."""
        ends = time.monotonic() + _PATIENCE
        while not holds():
            assert time.monotonic() < ends, screen(self.said)
            time.sleep(0.01)

    def end(self) -> tuple[int | None, str]:
        """Read to its end; returns the exit status and the screen."""
        with suppress(pexpect.EOF):
            while True:
                self.said += self._child.read_nonblocking(4096, timeout=_PATIENCE)
        self._child.wait()
        return self._child.exitstatus, screen(self.said)

    def close(self) -> None:
        self._child.close(force=True)


def command(*words: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The command without a terminal, when it has ended."""
    return processes.run("-c", _CODE, *words, env=environment)


@contextmanager
def terminal(*words: str, environment: Mapping[str, str], columns: int = 120, shell: str = "") -> Iterator[Terminal]:
    """The command in a terminal of 40 lines; `shell` is a script of bash that runs it, as "$@"."""
    opened = Terminal(words, environment, columns, shell)
    try:
        yield opened
    finally:
        opened.close()


def styled_lines(said: str) -> list[str]:
    """The lines of the screen, with their colours."""
    lines, row, fresh = [""], 0, True
    for sequence in _SEQUENCE.finditer(said):
        text, (count, code) = sequence[0], sequence.groups()
        if text == "\n":
            row, fresh = row + 1, True
            lines += [""] * (row + 1 - len(lines))
        elif text == "\r":
            fresh = True
        elif code == "A":
            row = max(0, row - int(count or 1))
        elif code == "K":
            lines[row] = ""
        elif code == "m" or not text.startswith("\x1b"):
            if fresh and not code:
                lines[row], fresh = "", False  # a line written from its start is written completely
            lines[row] += text
    return lines


def screen(said: str) -> str:
    """What the screen shows."""
    return "\n".join(re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in styled_lines(said))
