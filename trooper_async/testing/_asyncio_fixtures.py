"""Clients of the fixture `fake_trooper` for pytest-asyncio's loops, with one fixture for each loop scope.

`plugin` registers this module if pytest-asyncio is active, and picks the fixture by the test's loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Literal

import pytest_asyncio

if TYPE_CHECKING:
    from trooper_async import TrooperClient
    from trooper_async.testing import FakeTrooper


def _in_loop(scope: Literal["function", "class", "module", "package", "session"]) -> object:
    @pytest_asyncio.fixture(loop_scope=scope, name=f"_trooper_in_{scope}_loop")
    async def trooper(fake_trooper: FakeTrooper) -> AsyncIterator[TrooperClient]:
        async with fake_trooper.client() as client:
            yield client

    return trooper


_function = _in_loop("function")
_class = _in_loop("class")
_module = _in_loop("module")
_package = _in_loop("package")
_session = _in_loop("session")
