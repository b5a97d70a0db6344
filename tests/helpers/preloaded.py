"""An interpreter that has imported what most children import, and forks one for each child that a test starts.

A child then costs a few hundredths of a second of the processor; with imports of its own it costs a third of a second.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import os
import socket
import subprocess
import sys
import termios
import time
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_PROGRAM = "import sys; from tests.helpers import preloaded; exec(*preloaded.fork_children(int(sys.argv[1])))"
_channel: socket.socket | None = None


class Forked:
    """A child that was forked, as `subprocess.Popen` shows one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


@contextmanager
def interpreter() -> Iterator[None]:
    """Run it in this block. Only Linux gives a child whose parent has ended to the tests (`leaks.adopt_orphans`)."""
    global _channel
    # CI runs the tests with their own imports as well.
    if sys.platform != "linux" or os.environ.get("TROOPER_REQUIRE_ALL") == "1":
        yield
        return
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-W", "error", "-c", _PROGRAM, str(there.fileno())]
    with (
        here,
        subprocess.Popen(
            command,
            cwd=_ROOT,
            pass_fds=[there.fileno()],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # what Python makes of a pipe fits the children's pipes
            stderr=subprocess.PIPE,
        ) as process,
    ):
        there.close()
        _channel = here
        try:
            yield
        finally:
            _channel = None
            process.kill()


def serves(arguments: list[str], env: Mapping[str, str]) -> bool:
    """Whether it runs, and is what `python *arguments` would be with these variables."""
    special = any(name.startswith(("LC_", "PYTHON")) and name != "PYTHONPATH" for name in env)
    return _channel is not None and not special and (arguments[0] in ("-c", "-m") or arguments[0][0] != "-")


def fork(
    arguments: list[str], cwd: Path | None, env: Mapping[str, str], out: int, err: int, terminal: int | None = None
) -> Forked:
    """A child that runs `python *arguments`; without a terminal its input is empty."""
    assert _channel is not None
    request = {"arguments": arguments, "cwd": str(cwd or Path.cwd()), "env": dict(env)}
    socket.send_fds(_channel, [json.dumps(request).encode()], [out, err, *([] if terminal is None else [terminal])])
    pid = int(_channel.recv(16))
    _channel.recv(1)  # its parent has ended, so it is a child of this process now
    return Forked(pid)


def fork_children(file: int) -> tuple[types.CodeType, dict[str, Any]]:
    """Import, and fork a child for each request. In a child: its program, and the globals to run it in."""
    for module in ("client", "_groups.costs", "cli._app", "cli._tables", "cli._templates", "testing._fake"):
        importlib.import_module(f"trooper_async.{module}")
    importlib.import_module("cattrs")  # which the package imports once it reads a response
    client = importlib.import_module("trooper_async.client")
    # A fake may be polled more than once a second. CI also runs the programs with the client's own default.
    vars(client.TrooperClient)["__init__"].__kwdefaults__["poll"] = client.PollSchedule(floor=0.1)

    with socket.socket(fileno=file) as channel:
        while True:
            message, files, _, _ = socket.recv_fds(channel, 1 << 20, 3)
            if not message:
                raise SystemExit
            request = json.loads(message)
            if any("durable" in argument or argument == "--database" for argument in request["arguments"]):
                importlib.import_module("trooper_async.durable")  # the slowest import, which few programs need
            gc.freeze()
            if (between := os.fork()) == 0:
                if child := os.fork():
                    channel.send(str(child).encode())
                    os._exit(0)
                break
            os.waitpid(between, 0)
            channel.send(b".")
            for received in files:
                os.close(received)
    return _program(request, files)


def _leave(names: Iterable[str]) -> None:
    """Leave modules to the end of the process: an interpreter that frees them copies most of its memory."""
    left = [sys.modules.pop(name, None) for name in names]
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(left))


def _program(request: dict[str, Any], files: list[int]) -> tuple[types.CodeType, dict[str, Any]]:
    """Become the process that was asked for."""
    atexit.register(_leave, sys.modules.keys() - {"sys", "builtins", "__main__"})  # the first one is called last
    os.setsid()
    out, err, *terminal = files
    if terminal:
        fcntl.ioctl(terminal[0], termios.TIOCSCTTY, 0)
    for number, received in enumerate([*(terminal or [os.open(os.devnull, os.O_RDONLY)]), out, err]):
        os.dup2(received, number)
        os.close(received)
    if terminal:
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - it stays open
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    first, *sys.argv = request["arguments"]
    paths = list(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    if first == "-c":
        code, folder = compile(sys.argv[0], "<string>", "exec"), ""
        sys.argv[0] = "-c"
    elif first == "-m":
        folder = os.getcwd()
        code = compile(f"import runpy; runpy.run_module({sys.argv[0]!r}, None, '__main__', True)", "<string>", "exec")
    else:
        sys.argv.insert(0, first)
        main.__file__ = first
        code, folder = compile(Path(first).read_bytes(), first, "exec"), str(Path(first).parent.resolve())
    sys.path[:1] = [folder, *paths]
    return code, vars(main)
