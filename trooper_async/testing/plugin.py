"""The pytest plugin behind the entry point: the fixtures `fake_trooper`, `session_fake_trooper` and `trooper`.

pytest loads it in every run in an environment where this package is installed, so it imports only pytest. Everything
else is imported when a test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from trooper_async import TrooperClient
    from trooper_async.testing import FakeTrooper


def pytest_configure(config: pytest.Config) -> None:
    """Register the clients for pytest-asyncio's loops, if that plugin is active."""
    plugins = config.pluginmanager
    if plugins.hasplugin("asyncio") or plugins.hasplugin("pytest_asyncio.plugin"):  # entry point; `-p`
        from trooper_async.testing import _asyncio_fixtures

        plugins.register(_asyncio_fixtures, _asyncio_fixtures.__name__)


@pytest.fixture
def fake_trooper() -> Iterator[FakeTrooper]:
    """A running `FakeTrooper`: a real HTTP server on localhost with the Trooper API's behaviour."""
    from trooper_async.testing import FakeTrooper

    with FakeTrooper() as fake:
        yield fake


@pytest.fixture(scope="session")
def session_fake_trooper() -> Iterator[FakeTrooper]:
    """A `FakeTrooper` that runs for the whole session; `reset()` restores its initial state."""
    from trooper_async.testing import FakeTrooper

    with FakeTrooper() as fake:
        yield fake


@pytest.fixture
def trooper(request: pytest.FixtureRequest) -> TrooperClient:
    """A `TrooperClient` for `fake_trooper` in the test's event loop (pytest-asyncio or anyio); it polls fast."""
    if "anyio_backend" in request.fixturenames:
        name = "_trooper_in_anyio"
    elif request.config.pluginmanager.hasplugin("trooper_async.testing._asyncio_fixtures"):
        marker = request.node.get_closest_marker("asyncio")
        scope = marker and (marker.kwargs.get("loop_scope") or marker.kwargs.get("scope"))
        name = f"_trooper_in_{scope or request.config.getini('asyncio_default_test_loop_scope')}_loop"
    else:
        pytest.fail(
            "the fixture `trooper` needs pytest-asyncio (pip install 'trooper-async[testing]'), or a test of anyio; "
            "`fake_trooper` needs neither",
            False,
        )
    client: TrooperClient = request.getfixturevalue(name)
    return client


@pytest.fixture
async def _trooper_in_anyio(anyio_backend: object, fake_trooper: FakeTrooper) -> AsyncIterator[TrooperClient]:
    async with fake_trooper.client() as client:
        yield client
