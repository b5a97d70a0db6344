"""The pytest plugin behind the entry point: the fixtures `fake_trooper` and `trooper`.

It is loaded in every pytest run of an environment where this package is installed, so it imports pytest alone; all
else is imported once there is a pytest-asyncio to run the fixtures, or when a test asks for one.
"""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Register the fixtures, or, in a run without pytest-asyncio, those that say what is missing."""
    plugins = config.pluginmanager
    if plugins.hasplugin("asyncio") or plugins.hasplugin("pytest_asyncio.plugin"):  # entry point; `-p`
        from trooper_async.testing import _fixtures

        plugins.register(_fixtures, _fixtures.__name__)
    else:
        plugins.register(_WithoutAsyncio(), "trooper_async.testing without pytest-asyncio")


class _WithoutAsyncio:
    @pytest.fixture
    def fake_trooper(self) -> None:
        """A running `FakeTrooper` (needs pytest-asyncio)."""
        pytest.fail("the fixture `fake_trooper` needs pytest-asyncio: pip install 'trooper-async[testing]'", False)

    @pytest.fixture
    def trooper(self) -> None:
        """A client of the running `FakeTrooper` (needs pytest-asyncio)."""
        pytest.fail("the fixture `trooper` needs pytest-asyncio: pip install 'trooper-async[testing]'", False)
