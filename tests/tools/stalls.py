"""A pytest plugin: asyncio's loops stand still now and then, for up to 0.6 s, as those of a busy machine do.

What fails with it rests on speed. It finds in one run what many runs beside busy processes do not.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

_OFTEN = 0.05  # of a loop's turns
_MOST = 15  # in one test, since some need thousands of turns
_chance = random.Random()  # pytest-randomly seeds the shared one
_left = _MOST


def pytest_runtest_setup() -> None:
    global _left
    _left = _MOST


def pytest_configure() -> None:
    loop: Any = asyncio.SelectorEventLoop  # a virtual clock's loop is a class of its own
    run_once, sleep = loop._run_once, time.sleep

    def stalling(self: Any) -> None:
        global _left
        if _left and type(self) is loop and _chance.random() < _OFTEN:
            _left -= 1
            sleep(_chance.uniform(0.2, 0.6))
        run_once(self)

    loop._run_once = stalling
