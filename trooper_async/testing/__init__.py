"""A fake Trooper API for tests: a real HTTP server on localhost, with the API's behaviour and faults on demand.

    with FakeTrooper() as fake:
        order = fake.add_order(status="stopped")
        async with fake.client() as trooper:
            await trooper.orders.start_and_wait(order)

It runs in its own thread, so that blocking tests and any event loop can use it. For pytest there are the fixtures
`fake_trooper`, `session_fake_trooper` and `trooper`; for any other program `python -m trooper_async.testing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trooper_async.testing._assumptions import Assumption, assumptions
    from trooper_async.testing._controls import RecordedRequest
    from trooper_async.testing._fake import FakeTrooper
    from trooper_async.testing._faults import Hold
    from trooper_async.testing._profile import (
        PROFILES,
        Actions,
        Course,
        Profile,
        RateLimit,
        Refusal,
        Refusals,
        Row,
        Step,
        Types,
    )
    from trooper_async.testing._recording import Api, ClientApi, RecordingError, Reply, record
    from trooper_async.testing._replay import Replayed, replay
    from trooper_async.testing._stock import FakeBlib
    from trooper_async.testing._world import OrderFields

__all__ = [
    "PROFILES",
    "Actions",
    "Api",
    "Assumption",
    "ClientApi",
    "Course",
    "FakeBlib",
    "FakeTrooper",
    "Hold",
    "OrderFields",
    "Profile",
    "RateLimit",
    "RecordedRequest",
    "RecordingError",
    "Refusal",
    "Refusals",
    "Replayed",
    "Reply",
    "Row",
    "Step",
    "Types",
    "assumptions",
    "record",
    "replay",
]

_PLACES = {
    "PROFILES": "_profile",
    "Actions": "_profile",
    "Api": "_recording",
    "Assumption": "_assumptions",
    "ClientApi": "_recording",
    "Course": "_profile",
    "FakeBlib": "_stock",
    "FakeTrooper": "_fake",
    "Hold": "_faults",
    "OrderFields": "_world",
    "Profile": "_profile",
    "RateLimit": "_profile",
    "RecordedRequest": "_controls",
    "RecordingError": "_recording",
    "Refusal": "_profile",
    "Refusals": "_profile",
    "Replayed": "_replay",
    "Reply": "_recording",
    "Row": "_profile",
    "Step": "_profile",
    "Types": "_profile",
    "assumptions": "_assumptions",
    "record": "_recording",
    "replay": "_replay",
}


def __getattr__(name: str) -> object:
    """Import names lazily: pytest loads this package in every run, through its entry point."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
