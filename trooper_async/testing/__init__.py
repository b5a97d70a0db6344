"""A fake Trooper API for tests: a real HTTP server on the loopback, with the API's behaviour and its faults.

    with FakeTrooper() as fake:
        order = fake.add_order(status="stopped")
        async with fake.client() as trooper:
            await trooper.orders.start_and_wait(order)

It serves from a thread of its own, so blocking tests and any event loop can use it. For pytest there are the fixtures
`fake_trooper`, `session_fake_trooper` and `trooper`; for any other program `python -m trooper_async.testing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trooper_async.testing._assumptions import Assumption, assumptions
    from trooper_async.testing._controls import RecordedRequest
    from trooper_async.testing._fake import FakeTrooper
    from trooper_async.testing._faults import Hold
    from trooper_async.testing._profile import PROFILES, Profile
    from trooper_async.testing._recording import ClientApi, RecordingError, record
    from trooper_async.testing._replay import Replayed, replay
    from trooper_async.testing._stock import FakeBlib
    from trooper_async.testing._world import OrderFields

__all__ = [
    "PROFILES",
    "Assumption",
    "ClientApi",
    "FakeBlib",
    "FakeTrooper",
    "Hold",
    "OrderFields",
    "Profile",
    "RecordedRequest",
    "RecordingError",
    "Replayed",
    "assumptions",
    "record",
    "replay",
]

_PLACES = {
    "PROFILES": "_profile",
    "Assumption": "_assumptions",
    "ClientApi": "_recording",
    "FakeBlib": "_stock",
    "FakeTrooper": "_fake",
    "Hold": "_faults",
    "OrderFields": "_world",
    "Profile": "_profile",
    "RecordedRequest": "_controls",
    "RecordingError": "_recording",
    "Replayed": "_replay",
    "assumptions": "_assumptions",
    "record": "_recording",
    "replay": "_replay",
}


def __getattr__(name: str) -> object:
    """Import what is asked for when it is first asked for: pytest loads this package in every run (its entry point)."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
