"""Whether an SSH server responds: a TCP connection and its first line."""

from __future__ import annotations

import asyncio

from trooper_async._base.timeouts import timeout

_PATIENCE = 10.0
"""Seconds for the connection and the first line together."""


async def ssh_responds(host: str | None, port: int | None) -> bool:
    """Whether what listens there begins with `SSH-` (RFC 4253 4.2: other lines may come before it)."""
    if host is None or port is None:
        return False
    writer: asyncio.StreamWriter | None = None
    try:
        async with timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection(host, port, limit=4096)
            for _ in range(20):
                line = await reader.readline()
                if line.startswith(b"SSH-"):
                    return True
                if not line:
                    return False
    except (OSError, TimeoutError, ValueError, OverflowError):  # unreachable, silent, an endless line, a bad port
        return False
    finally:
        if writer is not None:
            writer.transport.abort()
    return False
