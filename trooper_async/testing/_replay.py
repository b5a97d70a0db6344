"""The client's own waits against the fake of a profile: which of them end early, late or never."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from attrs import evolve, frozen

from trooper_async import PollSchedule, TrooperClient, TrooperError, WaitTimeoutError
from trooper_async.testing._fake import FakeTrooper
from trooper_async.testing._profile import Profile

_LATE_CAPS = 2
"""A wait is late if it ends more than so many of the schedule's longest intervals after the action."""


@frozen
class Replayed:
    """How the wait for one action ended under a profile. Times are seconds at the profile's own pace."""

    action: str
    """start, stop, freeze, restart, create, migrate or thaw (from frozen to running)."""
    verdict: Literal["in time", "early", "late", "never", "failed"]
    """When it ended; `failed`: with an error that is not its timeout."""
    seconds: float
    """How long after the acceptance it ended."""
    action_seconds: float
    """How long after the acceptance the action ended, as the fake knows."""
    requests: int
    """How many requests it took."""
    error: str = ""
    """What it failed with."""

    def __str__(self) -> str:
        ends = f"{self.action_seconds:.2f} s after the acceptance"
        match self.verdict:
            case "never":
                return f"{self.action}: it ends {ends}, and is not confirmed within {self.seconds:.0f} s"
            case "failed":
                return f"{self.action}: it ends {ends}, and its wait fails: {self.error}"
        return f"{self.action}: it ends {ends}, and is confirmed after {self.seconds:.2f} s ({self.verdict})"


async def replay(
    profile: Profile, *, poll: PollSchedule | None = None, seconds: float = 1.0, timeout: float = 20.0
) -> tuple[Replayed, ...]:
    """Run the wait for every action against the fake of a profile, all at once.

    An action that takes longer than `seconds` is scaled down, and the poll with it.

    Args:
        profile: How the fake behaves.
        poll: The poll whose waits are tried; that of a client by default.
        seconds: How long an action may take here.
        timeout: Seconds after which a wait is said to end never.

    Returns:
        What became of each action.
    """
    schedule = poll or PollSchedule()
    return tuple(await asyncio.gather(*(_replayed(profile, action, schedule, seconds, timeout) for action in _WAITS)))


async def _replayed(profile: Profile, action: str, poll: PollSchedule, seconds: float, timeout: float) -> Replayed:
    takes = getattr(profile.actions, action).seconds
    scale = min(1.0, seconds / takes) if takes else 1.0
    scaled = evolve(poll, floor=max(scale * poll.floor, 0.01), cap=max(scale * poll.cap, 0.05))
    begins, path, wait = _WAITS[action]
    verdict: Literal["in time", "early", "late", "never", "failed"] = "in time"
    error = ""
    with FakeTrooper(profile=profile, scale=scale) as fake:
        order_id = fake.add_order(status=begins).order_id
        async with fake.client(poll=scaled) as client:
            try:
                await wait(client, order_id, timeout)
            except WaitTimeoutError:
                verdict = "never"
            except TrooperError as failure:
                verdict, error = "failed", f"{type(failure).__name__}: {failure}"
            ended = time.monotonic()
        accepted = max((request.started for request in fake.requests if request.path == path), default=math.nan)
        requests = len(fake.requests)
    after, end = (timeout if verdict == "never" else ended - accepted) / scale, takes
    if verdict == "in time" and after < end:
        verdict = "early"
    elif verdict == "in time" and after > end + profile.read_lag + _LATE_CAPS * scaled.cap / scale:
        verdict = "late"
    return Replayed(action, verdict, after, end, requests, error)


async def _create(client: TrooperClient, order_id: int, timeout: float) -> None:
    blib = (await client.blibs.list())[0]
    await client.orders.create_and_wait(blib, contract_interval="HOUR", terms_accepted=True, timeout=timeout)


async def _migrate(client: TrooperClient, order_id: int, timeout: float) -> None:
    target = (await client.migrations.options(order_id)).available_blibs[0]
    quote = await client.migrations.quote(order_id, target)
    await client.migrations.buy_and_wait(quote, keep_data=True, timeout=timeout)


_Wait = Callable[["TrooperClient", int, float], Awaitable[object]]


def _status(action: str) -> _Wait:
    return lambda client, order_id, timeout: getattr(client.orders, f"{action}_and_wait")(order_id, timeout=timeout)


_WAITS: Mapping[str, tuple[str, str, _Wait]] = {
    "start": ("stopped", "/api/order-status", _status("start")),
    "stop": ("running", "/api/order-status", _status("stop")),
    "freeze": ("running", "/api/order-status", _status("freeze")),
    "restart": ("running", "/api/order-status", _status("restart")),
    "create": ("running", "/api/order", _create),
    "migrate": ("running", "/api/buy-migration", _migrate),
    "thaw": ("frozen", "/api/order-status", _status("start")),
}
"""By action: the status that it begins in, the path that accepts it, and its wait."""
