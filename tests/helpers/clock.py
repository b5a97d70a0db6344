"""A clock that a test puts forward, instead of waiting for time to pass."""

from __future__ import annotations

import asyncio
import time

import pytest


def forward(seconds: float) -> None:
    """Put the clock of the running loop forward: what is due by then happens now. For asyncio's own loops only."""
    loop = asyncio.get_running_loop()
    before = loop.time
    vars(loop)["time"] = lambda: before() + seconds


def forward_with_the_date(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the loop's clock and the date forward: durable workflows count by the date."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + seconds)
    forward(seconds)
