"""The pytest fixtures, for runs with pytest-asyncio (`plugin` registers them). Imports the fake once a test wants it.

Both live in the loop of pytest-asyncio's fixtures: a test in a loop of a wider scope needs
`asyncio_default_fixture_loop_scope` set to that scope.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest_asyncio

if TYPE_CHECKING:
    from trooper_async import TrooperClient
    from trooper_async.testing import FakeTrooper


@pytest_asyncio.fixture
async def fake_trooper() -> AsyncIterator[FakeTrooper]:
    """A running `FakeTrooper`: a real HTTP server on the loopback with the Trooper API's behaviour."""
    from trooper_async.testing import FakeTrooper

    async with FakeTrooper() as fake:
        yield fake


@pytest_asyncio.fixture
async def trooper(fake_trooper: FakeTrooper) -> AsyncIterator[TrooperClient]:
    """A `TrooperClient` of `fake_trooper` that polls fast; closed after the test."""
    async with fake_trooper.client() as client:
        yield client
