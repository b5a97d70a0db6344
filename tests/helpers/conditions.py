"""What tests wait for, and where nobody listens."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable


async def until(condition: Callable[[], object]) -> None:
    """Wait until something has happened."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - conditions of all kinds
            await asyncio.sleep(0.001)


def free_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
