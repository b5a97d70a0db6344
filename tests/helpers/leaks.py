"""Detecting what a test leaves behind: processes, threads, sockets, temporary files."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Container, Hashable
from contextlib import suppress
from pathlib import Path

_LINUX = sys.platform == "linux"
_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE = 20.0  # seconds for what is just ending


def adopt_orphans(*, adopt: bool) -> None:
    """Become the parent of each orphaned descendant, so that none is overlooked; or no longer."""
    if _LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def held() -> dict[Hashable, str]:
    """What this process holds at the moment, and a description of each."""
    found: dict[Hashable, str] = {thread: f"thread {thread.name}" for thread in threading.enumerate()}
    found |= {entry.path: f"temporary {entry.path}" for entry in os.scandir(tempfile.gettempdir())}
    found |= {pid: f"process {pid}: {_command(pid)}" for pid in _children()}
    for number in os.listdir("/proc/self/fd") if _LINUX else ():
        with suppress(OSError):  # closed meanwhile
            status = os.fstat(int(number))
            if stat.S_ISSOCK(status.st_mode):
                found[status.st_ino, "socket"] = f"socket:[{status.st_ino}] as file descriptor {number}"
    return found


def left_since(before: Container[Hashable]) -> list[str]:
    """Descriptions of what is held now and was not before, once what is just ending has had time to end."""
    ends = time.monotonic() + _PATIENCE
    while left := {key: text for key, text in held().items() if key not in before}:
        if time.monotonic() > ends:
            return list(left.values())
        for pid in set(_children()) & left.keys():
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # an adopted one that has ended
        gc.collect()
        time.sleep(0.01)
    return []


def kill_children(but: Container[Hashable] = ()) -> None:
    """Kill the children that were not there before, with their process groups."""
    for pid in _children():
        if pid not in but:
            with suppress(ProcessLookupError, PermissionError):
                group = os.getpgid(pid)
                os.kill(pid, signal.SIGKILL) if group == os.getpgrp() else os.killpg(group, signal.SIGKILL)


def _children() -> list[int]:
    if not _LINUX:
        return []
    found = []
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError), open(f"/proc/self/task/{thread}/children", "rb") as children:
            found += [int(pid) for pid in children.read().split()]  # not where the thread has just ended
    return found


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
    return "?"
