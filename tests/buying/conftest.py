"""Fixtures for the tests of purchases: a fake that can hold responses back, and a path for a ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from trooper_async import TrooperClient
from trooper_async.testing import FakeTrooper


@pytest_asyncio.fixture
async def fake_trooper() -> AsyncIterator[FakeTrooper]:
    """A running fake whose responses can be held back, with one order, so that its list is not empty."""
    async with FakeTrooper() as fake:
        fake.add_order(order_id=100)
        yield fake


@pytest_asyncio.fixture
async def trooper(fake_trooper: FakeTrooper) -> AsyncIterator[TrooperClient]:
    """A client of the fake that polls fast; closed after the test."""
    async with fake_trooper.client() as client:
        yield client


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path for a ledger."""
    return tmp_path / "purchases.jsonl"
