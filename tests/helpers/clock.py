"""A clock that a test puts forward, instead of waiting for time to pass."""

from __future__ import annotations

import asyncio


def forward(seconds: float) -> None:
    """Put the clock of the running loop forward: what is due by then happens now. For asyncio's own loops only."""
    loop = asyncio.get_running_loop()
    before = loop.time
    vars(loop)["time"] = lambda: before() + seconds
