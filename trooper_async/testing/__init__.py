"""A fake Trooper API for tests: a real HTTP server on the loopback, with the API's behaviour and its faults.

    async with FakeTrooper() as fake, fake.client() as trooper:
        order = fake.add_order(status="stopped")
        await trooper.orders.start_and_wait(order)

For pytest there are the fixtures `fake_trooper` and `trooper` (with pytest-asyncio); for any other program there is
`python -m trooper_async.testing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trooper_async.testing._server import FakeTrooper, RecordedRequest

__all__ = ["FakeTrooper", "RecordedRequest"]


def __getattr__(name: str) -> object:
    """Import the server when it is first asked for: pytest loads this package in every run (its entry point)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trooper_async.testing import _server

    return getattr(_server, name)
