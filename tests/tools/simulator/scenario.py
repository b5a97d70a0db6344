"""What the callers do in one simulated account, and how each end of a wait is judged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any

from attrs import define, field

from tests.tools.simulator.api import Api
from tests.tools.simulator.clock import run
from tests.tools.simulator.world import TARGETS, Server, Settings, World
from trooper_async import (
    Blib,
    MigrationQuote,
    OrderNotFoundError,
    OrderVanishedError,
    OutcomeUnknownError,
    PollSchedule,
    SupersededError,
    Transition,
    TrooperClient,
    TrooperError,
    UnresolvedPurchaseError,
    WaitTimeoutError,
)

SCHEDULE = PollSchedule()
LEGAL = {
    "running": ("stop", "freeze", "restart", "restart"),
    "stopped": ("start", "freeze"),
    "frozen": ("start",),
}


@define
class Judged:
    """One wait, and how its end compares with the truth."""

    action: str
    verdict: str
    seed: str
    settings: Settings = field(repr=False)
    notice: float = 0.0
    """Seconds from the truth to the end of the wait, as a share of what is allowed; only without faults."""
    detail: str = ""


@define
class Wait:
    """One wait as its caller knows it."""

    server: Server
    action: str
    posted: float
    """Before the request was sent."""
    began: float
    """When the wait (or its last leg, in another process) began."""
    deadline: float
    ended: float = 0.0
    error: BaseException | None = None
    baseline: tuple[object, ...] | None = None
    api: Api | None = None

    @property
    def target(self) -> str:
        return TARGETS.get(self.action, "running")


def simulate(seed: str, *, servers: int = 12, actions: int = 3) -> list[Judged]:
    """One account for some virtual hours; every wait judged."""
    random.seed(seed)  # the client's own jitter
    rng = random.Random(seed)
    settings = Settings.draw(rng)
    return run(_account(seed, rng, settings, servers, actions))


async def _account(seed: str, rng: random.Random, settings: Settings, servers: int, actions: int) -> list[Judged]:
    loop = asyncio.get_running_loop()
    world = World(settings, rng)
    first, second = Api(world), Api(world)
    judged: list[Judged] = []
    async with first.client(SCHEDULE) as client, second.client(SCHEDULE) as resumed:
        people = [
            _Person(world, rng, client, first, resumed, second, seed, judged, world.add(loop.time(), state))
            for state in rng.choices(("running", "stopped", "frozen"), (4, 2, 1), k=servers)
        ]
        async with asyncio.TaskGroup() as group:
            for person in people:
                group.create_task(person.live(actions))
        assert first.impatient == second.impatient == 0, f"polls too close, or before Retry-After: {seed}"
    assert len(asyncio.all_tasks()) == 1, f"tasks are left: {seed}"
    return judged


@define
class _Person:
    """Changes one server, waits for it, and may be killed meanwhile."""

    world: World
    rng: random.Random
    client: TrooperClient
    api: Api
    resumed: TrooperClient
    resumed_api: Api
    seed: str
    judged: list[Judged]
    server: Server

    async def live(self, actions: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(actions):
            await asyncio.sleep(self.world.settings.settle + self.rng.choice((0.0, self.rng.uniform(0, 60))))
            state = self.server.at(loop.time())
            if state is None:
                return
            if state.current not in LEGAL or self.server.times[-1] > loop.time() - self.world.settings.settle:
                continue  # the state before can still be read: then no client can tell it from the new one
            kind = self.rng.choice(LEGAL[str(state.current)])
            if self.rng.random() < 0.1:
                kind = self.rng.choice(("create", "migrate")) if state.current == "running" else "create"
            async with asyncio.TaskGroup() as group:
                meddler = group.create_task(self._meddle()) if kind in TARGETS else None
                await self._act(kind)
                if meddler is not None:
                    meddler.cancel()

    async def _meddle(self) -> None:
        """Somebody else changes the same server."""
        if self.rng.random() >= self.world.settings.others:
            return
        await asyncio.sleep(self.rng.uniform(0, 150))
        now = asyncio.get_running_loop().time()
        if self.server.at(now) is None:
            return
        if self.rng.random() < 0.1:
            self.world.remove(now, self.server)
        else:
            self.world.switch(now, self.server, self.rng.choice(("start", "stop", "freeze")))

    async def _act(self, kind: str) -> None:
        loop = asyncio.get_running_loop()
        posted = loop.time()
        try:
            transition = await self._send(kind)
        except OutcomeUnknownError as error:
            if error.transition is None:
                return
            transition = error.transition
        except UnresolvedPurchaseError as error:
            await self.client.orders.resolve(error, None)
            return
        except TrooperError:
            return  # not accepted, or so it seems: nothing is waited for
        server = self.world.servers[transition.order_id]
        seconds = self.rng.choice((900.0, 3600.0, 7200.0, self.rng.uniform(5, 200)))
        begun = loop.time()
        wait = Wait(server, kind, posted, begun, begun + seconds, api=self.api, baseline=transition.history_before)
        if self.rng.random() < 0.15:
            await self._be_killed(wait, transition, seconds)
        else:
            twin = kind in TARGETS and kind != "restart" and self.rng.random() < 0.2
            async with asyncio.TaskGroup() as group:
                if twin:  # somebody else waits for the same, by its status
                    other = Wait(server, kind, posted, begun, begun + seconds, api=self.api)
                    group.create_task(
                        self._wait(
                            other, self.client.orders.wait_until(server.order_id, TARGETS[kind], timeout=seconds)
                        )
                    )
                await self._wait(wait, self.client.orders.wait(transition, timeout=seconds))

    def _send(self, kind: str) -> Coroutine[Any, Any, Transition]:
        orders, order_id = self.client.orders, self.server.order_id
        blib = Blib(id=1, name="one", price_h=Decimal("0.85"))
        sends: dict[str, Callable[[], Coroutine[Any, Any, Transition]]] = {
            "start": lambda: orders.start(order_id, migration_allowed=self.rng.random() < 0.3),
            "stop": lambda: orders.stop(order_id),
            "freeze": lambda: orders.freeze(order_id),
            "restart": lambda: orders.restart(order_id),
            "create": lambda: orders.create(blib, contract_interval="HOUR", terms_accepted=True),
            "migrate": lambda: self.client.migrations.buy(
                MigrationQuote(order_id=order_id, target_blib_id=2, total_due=Decimal("3.2")), keep_data=True
            ),
        }
        return sends[kind]()

    async def _be_killed(self, wait: Wait, transition: Transition, seconds: float) -> None:
        """The process dies during a wait; another one continues with what was stored."""
        stored = transition.to_json()
        task = asyncio.ensure_future(self.client.orders.wait(transition, timeout=seconds))
        await asyncio.wait([task], timeout=self.rng.uniform(0, 100))
        if task.cancel():
            await asyncio.wait([task])
            wait.began = asyncio.get_running_loop().time()
            wait.deadline = wait.began + seconds
            wait.api = self.resumed_api
            await self._wait(wait, self.resumed.orders.wait(Transition.from_json(stored), timeout=seconds))
        else:
            await self._wait(wait, task)

    async def _wait(self, wait: Wait, waiting: Any) -> None:
        try:
            await waiting
        except TrooperError as error:
            wait.error = error
        wait.ended = asyncio.get_running_loop().time()
        verdict, notice, detail = judge(wait, self.world.settings)
        self.judged.append(Judged(wait.action, verdict, self.seed, self.world.settings, notice, detail))


def judge(wait: Wait, settings: Settings) -> tuple[str, float, str]:
    """(verdict, notice, detail) of a wait that has ended."""
    reached = _reached(wait)
    calm = not (settings.faults or settings.slow or settings.omits)
    if wait.error is None:
        if reached is None or reached > wait.ended:
            return "too early", 0.0, f"reached {reached}, ended {wait.ended}"
        late = wait.ended - max(_last_reached(wait), wait.began)
        share = late / _allowed(wait, settings)
        if calm and share > 1:
            return "too late", share, f"{late:.1f} s after it was reached"
        return "right", share if calm else 0.0, ""
    if wait.ended > wait.deadline + 1e-3:
        return "outlived its deadline", 0.0, f"{wait.ended - wait.deadline:.3f} s"
    others = [a for a in wait.server.actions if not a.ours and (a.ends is None or a.ends > wait.posted)]
    if isinstance(wait.error, SupersededError):
        return ("right" if others else "wrong error"), 0.0, "superseded by nobody"
    if isinstance(wait.error, OrderVanishedError | OrderNotFoundError):
        return ("right" if wait.server.at(wait.ended) is None else "wrong error"), 0.0, "vanished, and is there"
    if not isinstance(wait.error, WaitTimeoutError):
        return "wrong error", 0.0, repr(wait.error)
    if wait.ended < wait.deadline - 1e-3:
        return "wrong error", 0.0, "timed out before the deadline"
    if calm and _superseded_in_time(wait, settings):
        return "missed", 0.0, f"superseded, and not told: {wait.error}"
    if reached is None or not _stays(wait, reached):
        return "right", 0.0, ""
    visible = max(reached, wait.began) + _allowed(wait, settings) + (0 if calm else 300 + 3 * settings.slow)
    if visible >= wait.deadline:
        return "right", 0.0, ""
    if wait.action == "restart" and not _was_shown(wait):
        return "impossible", 0.0, "nothing that a restart leaves was ever shown"
    return "missed", 0.0, f"reached {reached}, deadline {wait.deadline}: {wait.error}"


def _allowed(wait: Wait, settings: Settings) -> float:
    """Seconds within which the truth has to be noticed: a poll interval, two response times, and the lag of reads."""
    age = wait.ended - wait.began
    allowed = max(SCHEDULE.floor, min(SCHEDULE.cap, 0.11 * age)) + 0.5 + max(settings.lags)
    allowed += SCHEDULE.floor  # a poll may wait that long for the final poll of another wait
    if wait.action == "restart":
        away = _seconds_away(wait)
        prompt = settings.rows == "ended" and not settings.row_delay and settings.row_times and max(settings.lags) == 0
        if prompt and wait.baseline is not None and away > allowed:  # both kinds of evidence can be had at once
            allowed += max(0.0, SCHEDULE.cap / 3 - away + 2 * allowed)  # the departure is noticed by a poll, too
        else:  # with one kind alone, `running` has to be steady; its row may come late
            allowed += 3 * SCHEDULE.cap + settings.row_delay + 2 * SCHEDULE.cap
    return allowed


def _seconds_away(wait: Wait) -> float:
    """How long the wait could see the server not running, at a stretch: it may leave `running` more than once."""
    longest, left = 0.0, None
    for time, state in zip(wait.server.times, wait.server.states, strict=True):
        if not wait.posted < time <= wait.ended:
            continue
        if state.current != "running":
            left = max(time, wait.began) if left is None else left
        elif left is not None:
            longest, left = max(longest, time - left), None
    return longest if left is None else max(longest, wait.ended - left)


def _superseded_in_time(wait: Wait, settings: Settings) -> bool:
    """Whether somebody else's action was steady and visible long before the deadline."""
    if settings.status_user != "requested" or settings.desired_when != "accepted":
        return False
    others = [action for action in wait.server.actions if not action.ours and action.accepted > wait.posted]
    last = wait.server.states[-1]
    if not others or last.current is None or last.current != last.desired or last.desired == wait.target:
        return False
    agreed_for = others[0].accepted - wait.began - max(settings.lags)
    seen = max(wait.server.times[-1], wait.began) + max(settings.lags)
    return agreed_for > 2 * SCHEDULE.cap and seen + 4 * SCHEDULE.cap < wait.deadline


def _reached(wait: Wait) -> float | None:
    """When the wanted state was first true after the request was sent."""
    away = wait.action != "restart"
    for time, state in zip(wait.server.times, wait.server.states, strict=True):
        if time < wait.posted:
            continue
        if not away:
            away = state.current != "running" and state.current is not None
        elif state.current == wait.target:
            return time
    return None


def _last_reached(wait: Wait) -> float:
    """The last time before the end at which the target was reached: somebody else may have left it in between."""
    times, states = wait.server.times, wait.server.states
    return max(
        time for time, state in zip(times, states, strict=True) if state.current == wait.target and time <= wait.ended
    )


def _stays(wait: Wait, since: float) -> bool:
    """Whether it stays so, as current and desired status, from then until the deadline."""
    times, states = wait.server.times, wait.server.states
    during = [state for time, state in zip(times, states, strict=True) if since <= time <= wait.deadline]
    return all(state.current == wait.target and state.desired == wait.target for state in during)


def _was_shown(wait: Wait) -> bool:
    """Whether the waiting client saw anything of a restart. If not, no client can know of it."""
    assert wait.api is not None
    shown = wait.api.shown.get(wait.server.order_id)
    if shown is None:
        return False
    if any(at > wait.began for at in shown.away):
        return True
    known = {(row.status_user, row.status_since or row.id) for row in wait.baseline or ()}  # type: ignore[attr-defined]
    from trooper_async._base.converter import structure
    from trooper_async._base.json_text import loads
    from trooper_async.models import StatusChange

    return wait.baseline is not None and any(
        (row.status_user, row.status_since or row.id) not in known
        for body in shown.histories
        for row in structure(loads(body)["history"], list[StatusChange])  # type: ignore[index, call-overload]
    )
