"""What all tests share: the package's own fixtures, and aioresponses made to work with aiohttp 3.14."""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator
from unittest import mock

import aioresponses.core
import pytest
from aiohttp import ClientResponse
from aiohttp.abc import AbstractStreamWriter
from aioresponses import aioresponses as mocked
from hypothesis import settings

pytest_plugins = ["trooper_async.testing.plugin", "pytester"]

# No deadline: a slow machine is no failure. Failures print a blob that runs them again.
settings.register_profile("tests", deadline=None, print_blob=True)
settings.load_profile("tests")


def pytest_collection_finish() -> None:
    """Keep what all tests share (modules, thousands of items) out of the collections that many of them ask for."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_settings_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TROOPER_API_KEY", raising=False)
    monkeypatch.delenv("TROOPER_BASE_URL", raising=False)


@pytest.fixture
def responses(monkeypatch: pytest.MonkeyPatch) -> Iterator[mocked]:
    """aioresponses, for narrow tests of the transport. It calls no middleware: so no key, and no attempt counted."""
    # aioresponses 0.7.9 builds a ClientResponse without the stream_writer that aiohttp 3.14 wants.
    writer = mock.create_autospec(AbstractStreamWriter, instance=True, output_size=0)
    shimmed = functools.partial(ClientResponse, stream_writer=writer)
    monkeypatch.setattr(aioresponses.core, "ClientResponse", shimmed)
    with mocked(passthrough=["http://127.0.0.1"]) as responses:
        yield responses
