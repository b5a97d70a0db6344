"""A pytest plugin for mutmut: no cache of the package outlives a test.

mutmut runs the tests that reached the changed function in a fork of a process in which all tests have run. A function
behind a full cache was reached by one test or none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(autouse=True, scope="session")
def caches() -> list[Callable[[], None]]:
    """What empties each cache of a function."""
    modules: list[Any] = [module for name, module in sys.modules.items() if name.startswith("trooper_async")]
    values = [value for module in modules for value in vars(module).values()]
    return [value.cache_clear for value in values if hasattr(value, "cache_clear")]


@pytest.fixture(autouse=True)
def _uncached(caches: list[Callable[[], None]]) -> None:
    for clear in caches:
        clear()
