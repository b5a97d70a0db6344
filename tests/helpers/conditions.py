"""Waiting for something to happen, instead of for some time to pass; and a port where nobody listens."""

from __future__ import annotations

import asyncio
import inspect
import socket
import time
from collections.abc import Callable

LIMIT = 60.0
"""Seconds after which a test gives up: far more than it needs, even beside many busy processes."""
_PAUSE = 0.002


async def until(condition: Callable[[], object]) -> None:
    """Return once `condition()` is true; fail, and show the condition, if that takes more than `LIMIT`."""
    ends = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < ends, f"still false after {LIMIT:.0f} s: {_source(condition)}"
        await asyncio.sleep(_PAUSE)


def block_until(condition: Callable[[], object]) -> None:
    """`until`, for tests that are not async."""
    ends = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < ends, f"still false after {LIMIT:.0f} s: {_source(condition)}"
        time.sleep(_PAUSE)


def _source(condition: Callable[[], object]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)


def free_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
