"""Whether a fake of a recorded profile is like what was recorded: `python -m tests.tools.calibration --behaviours 200`.

Each behaviour is a stand-in of the tests' own, chosen at random. It is recorded, and then the same calls are sent to
it and to the fake of that profile: states, words, headers and kinds of fields have to be the same, and so have the
ends of all waits. Nothing of an account may be in the profile.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
from aiohttp.test_utils import TestServer

from tests.helpers.stand_in import KEY, SECRETS, Behaviour, Clock, OverHttp, StandIn
from trooper_async import APIStatusError, PollSchedule, RetryPolicy, TrooperClient, TrooperError
from trooper_async.testing import FakeTrooper, Profile
from trooper_async.testing._recording import record

WALK = ("stop", "start", "restart", "freeze", "thaw")
WORDS = {"stop": "stopped", "start": "running", "restart": "restarted", "freeze": "frozen", "thaw": "running"}
WRONG_KEY = "wrong-key-0"
POLLS = 40
HEADERS = ("ETag", "Content-Encoding")
PACE = 0.02
"""Seconds of the waits for one of the behaviour."""


async def differences(seed: int) -> list[str]:
    """How the fake of the recorded profile differs from the stand-in of a behaviour; what leaks."""
    behaviour, clock = Behaviour(seed), Clock()
    async with aiohttp.ClientSession() as session:
        stand_in = StandIn(behaviour, clock)
        async with TestServer(stand_in.app()) as server:
            api = OverHttp(str(server.make_url("")).rstrip("/"), KEY, session, clock)
            stranger = OverHttp(str(server.make_url("")).rstrip("/"), WRONG_KEY, session, clock)
            profile = await record(api, seconds=5, exercise=1, wrong_key=stranger)
            stand_in.set_status(1, "running")
            theirs = [await refused(server.make_url("")), *await transcript(api, behaviour, 1, 1001)]
        text = profile.to_json()
        found = [f"leaks {secret}" for secret in (*SECRETS, WRONG_KEY) if secret in text]
        found += ["it is not read as it was written"] * (Profile.from_json(text) != profile)
        with FakeTrooper(profile=profile) as fake:
            fake._clock = clock
            order = fake.add_order(order_id=1)
            api = OverHttp(fake.url, fake.api_key, session, clock)
            ours = [await refused(fake.url), *await transcript(api, behaviour, 1, order.server_id)]
    for one, other in zip(theirs, ours, strict=True):
        if one != other:
            found.append(f"the API: {one}; the fake: {other}")
            break
    ends, ends_of_fake = await waits_of_stand_in(behaviour), await waits_of_fake(profile)
    if ends != ends_of_fake:
        found.append(f"waits against the API: {ends}; against the fake: {ends_of_fake}")
    return [f"{seed}: {one}" for one in found]


async def refused(url: object) -> tuple[object, ...]:
    """How a client with a wrong key sees its refusal; of a text that names something, only its existence."""
    async with TrooperClient(WRONG_KEY, base_url=str(url).rstrip("/")) as client:
        try:
            await client.orders.list()
        except APIStatusError as error:
            message = None if error.status == 400 else error.message
            return type(error).__name__, error.status, message, error.next_step
    return ("accepted",)


async def transcript(api: OverHttp, behaviour: Behaviour, order_id: int, server_id: int) -> list[Any]:
    """The responses of a walk through all actions, poll by poll."""
    shown: list[Any] = []
    for action in WALK:
        reply = await api.post("/api/order-status", {"serverId": server_id, "action": WORDS[action]})
        said = reply.data.get("status")
        shown.append((action, reply.status, said if behaviour.courses[WORDS[action]][2] else None))
        tag = None
        for poll in range(POLLS):
            listed = await api.get("/api/orders", None, {"If-None-Match": tag} if tag else None)
            tag = listed.headers.get("ETag")
            history = await api.get("/api/order-status-history", {"order_id": order_id})
            (row,) = listed.data or [{}]
            ids = [one["id"] for one in history.data["history"]]
            shown.append(
                (
                    action,
                    poll,
                    listed.status,
                    [row.get(name) for name in ("status", "status_user", "current_status", "desired_status")],
                    {name: kind(value) for name, value in row.items() if name in stand_in_fields(behaviour)},
                    [one["status_user"] for one in history.data["history"]],
                    ids == sorted(ids, reverse=behaviour.rising),
                    [name for name in HEADERS if name in listed.headers],
                    listed.headers["Server"] if "." not in (behaviour.server or ".").partition("/")[0] else None,
                )
            )
            await api.sleep(1.0)
    shown.append((await api.get("/api/order-status-history", {"order_id": 0})).status)
    await api.post("/api/order-lock", {"serverId": server_id, "is_locked": True})
    shown.append((await api.post("/api/order-status", {"serverId": server_id, "action": "stopped"})).status)
    await api.post("/api/order-lock", {"serverId": server_id, "is_locked": False})
    return shown


def stand_in_fields(behaviour: Behaviour) -> set[str]:
    return {*behaviour.kinds, *behaviour.new}


def kind(value: object) -> str:
    return "number" if type(value) in (int, float) else type(value).__name__


async def waits_of_stand_in(behaviour: Behaviour) -> dict[str, str]:
    stand_in = StandIn(behaviour, time.monotonic, PACE, orders=len(WALK))
    async with TestServer(stand_in.app()) as server:
        orders: dict[str, int] = dict(zip(WALK, stand_in.states, strict=True))
        stand_in.set_status(orders["start"], "stopped")
        stand_in.set_status(orders["thaw"], "frozen")
        return await waits(str(server.make_url("")).rstrip("/"), KEY, orders)


async def waits_of_fake(profile: Profile) -> dict[str, str]:
    with FakeTrooper(profile=profile, scale=PACE) as fake:
        begin = {"start": "stopped", "thaw": "frozen"}
        orders = {action: fake.add_order(status=begin.get(action, "running")).order_id for action in WALK}
        return await waits(fake.url, fake.api_key, orders)


async def waits(url: str, key: str, orders: Mapping[str, int]) -> dict[str, str]:
    """The ends of the waits for all actions."""
    poll, retry = PollSchedule(floor=0.02, cap=0.1), RetryPolicy(max_delay=0.05)

    async def end(client: TrooperClient, action: str, order_id: int) -> str:
        verb = getattr(client.orders, f"{'start' if action == 'thaw' else action}_and_wait")
        try:
            return str((await verb(order_id, timeout=20)).current_status)
        except TrooperError as error:
            return type(error).__name__

    async with TrooperClient(key, base_url=url, poll=poll, retry=retry) as client:
        ends = await asyncio.gather(*(end(client, action, order_id) for action, order_id in orders.items()))
    return dict(zip(orders, ends, strict=True))


async def check(first: int, count: int, at_once: int = 4) -> list[str]:
    """The differences of so many behaviours."""
    found: list[str] = []
    seeds = iter(range(first, first + count))

    async def work() -> None:
        for seed in seeds:
            found.extend(await differences(seed))

    await asyncio.gather(*(work() for _ in range(at_once)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.calibration", description=__doc__)
    parser.add_argument("--behaviours", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the seed of the first one")
    given = parser.parse_args()
    began = time.monotonic()
    found = asyncio.run(check(given.first, given.behaviours))
    for line in found[:20]:
        print(line)
    print(f"{given.behaviours} behaviours, differences {len(found)}, {time.monotonic() - began:.0f} s")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
