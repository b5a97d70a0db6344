"""The model of the API: the truth about every server as a timeline, and what a read shows of it."""

from __future__ import annotations

import bisect
import json
import random
from datetime import UTC, datetime
from typing import Literal

from attrs import define, evolve, field, frozen

TARGETS = {"start": "running", "stop": "stopped", "freeze": "frozen", "restart": "running"}
_BETWEEN = {"start": "starting", "stop": "stopping", "freeze": "freezing", "restart": "restarting"}


@frozen
class Settings:
    """What the API document leaves open, for one simulated API."""

    dialect: Literal["status", "current_status"]
    status_user: Literal["requested", "reached", "absent"]
    desired_when: Literal["accepted", "begun"]
    """When the desired status changes."""
    effect: float
    """An accepted action takes effect up to so many seconds later."""
    lags: tuple[float, ...]
    """By how many seconds each replica's reads lag behind."""
    words: Literal["known", "unknown"]
    """What servers are called on the way."""
    rows: Literal["accepted", "begun", "ended"]
    """When an action's row is written to the history, with the desired status in it."""
    row_delay: float
    """How late a row can be read, in seconds at the most."""
    row_ids: Literal["rising", "falling", "ranks"]
    row_times: bool
    etag: bool
    omits: float
    """How likely a list leaves one order out."""
    faults: float
    """The probability of a failure instead of the response."""
    slow: float
    """Seconds that a response may be held after it was made."""
    others: float
    """How likely somebody else switches a server during a wait."""

    @classmethod
    def draw(cls, rng: random.Random) -> Settings:
        harsh = rng.random() < 0.5
        return cls(
            dialect=rng.choice(("status", "current_status")),
            status_user=rng.choice(("requested", "requested", "reached", "reached", "absent")),
            desired_when=rng.choice(("accepted", "accepted", "begun")),
            effect=rng.choice((0.0, 0.0, 5.0, 60.0)),
            lags=rng.choice(((0.0,), (0.0,), (0.0, 3.0), (0.0, 2.0, 10.0), (10.0,))),
            words=rng.choice(("known", "unknown")),
            rows=rng.choice(("accepted", "begun", "ended", "ended")),
            row_delay=rng.choice((0.0, 0.0, 2.0, 30.0)),
            row_ids=rng.choice(("rising", "falling", "ranks")),
            row_times=rng.random() < 0.8,
            etag=rng.random() < 0.5,
            omits=rng.choice((0.0, 0.0, 0.02)),
            faults=rng.choice((0.0, 0.02, 0.1)) if harsh else 0.0,
            slow=rng.choice((0.0, 2.0, 20.0)) if harsh else 0.0,
            others=0.15 if harsh else 0.0,
        )

    @classmethod
    def calm(cls) -> Settings:
        """An ideal API."""
        return cls(
            dialect="status",
            status_user="requested",
            desired_when="accepted",
            effect=0.0,
            lags=(0.0,),
            words="known",
            rows="ended",
            row_delay=0.0,
            row_ids="falling",
            row_times=True,
            etag=False,
            omits=0.0,
            faults=0.0,
            slow=0.0,
            others=0.0,
        )

    @property
    def settle(self) -> float:
        """Seconds after which nothing old can be read any more."""
        return max(self.lags) + self.row_delay


@frozen
class State:
    """The true state of a server at one time. `current` None: it is not in the list."""

    current: str | None
    desired: str
    reached: str


@frozen
class Row:
    """A row of the history, and since when it can be read."""

    number: int
    word: str
    since: float
    readable: float


@define
class Action:
    """An action that was sent, as it really went."""

    kind: str
    accepted: float
    begins: float | None = None
    ends: float | None = None
    """When it had taken effect; None: never."""
    ours: bool = False
    """Whether the client under test sent it."""


@define
class Server:
    """The truth about one server."""

    order_id: int
    times: list[float] = field(factory=list)
    states: list[State] = field(factory=list)
    rows: list[Row] = field(factory=list)
    actions: list[Action] = field(factory=list)

    def at(self, time: float) -> State | None:
        """The state at that time; None before the server existed."""
        index = bisect.bisect_right(self.times, time) - 1
        return self.states[index] if index >= 0 and self.states[index].current is not None else None

    def put(self, time: float, state: State) -> None:
        """Sets the state from `time` on, and cancels everything planned after it."""
        index = bisect.bisect_left(self.times, time)
        del self.times[index:], self.states[index:]
        self.times.append(time)
        self.states.append(state)


class World:
    """The servers of one account of a simulated API."""

    def __init__(self, settings: Settings, rng: random.Random) -> None:
        self.settings = settings
        self.rng = rng
        self.servers: dict[int, Server] = {}
        self._rows = 0
        self._ids = 100

    def add(self, now: float, current: str) -> Server:
        """A server that has always been `current`."""
        self._ids += 1
        server = Server(self._ids)
        server.put(now - 1e6, State(current, current, current))
        for age in (9e4, 8e4, 7e4):
            self._write(server, now - age, current, 0.0)
        self.servers[server.order_id] = server
        return server

    def create(self, now: float, *, replaces: Server | None = None) -> Server:
        """A server that was just ordered; one that it replaces is gone once it runs."""
        self._ids += 1
        server = Server(self._ids)
        appears = now + self._effect()
        server.put(appears, State(self._between("start"), "running", "frozen"))
        action = Action("migrate" if replaces else "create", now, appears, ours=True)
        action.ends = self._end(server, appears, "start")
        server.actions.append(action)
        self.servers[server.order_id] = server
        if replaces is not None:
            replaces.put(action.ends, State(None, "running", "running"))
        return server

    def remove(self, now: float, server: Server) -> None:
        """Terminates it."""
        server.put(now, State(None, "", ""))

    def switch(self, now: float, server: Server, kind: str, *, ours: bool = False) -> Action:
        """An accepted action, of anybody."""
        before = server.at(now)
        action = Action(kind, now, ours=ours)
        server.actions.append(action)
        if before is None:
            return action
        for earlier in server.actions[:-1]:  # a pending action never finishes
            if earlier.ends is not None and earlier.ends > now:
                earlier.ends = None
        target = TARGETS[kind]
        if self.settings.desired_when == "accepted":
            server.put(now, evolve(before, desired=target))
        begins = action.begins = now + self._effect()
        between = self._between(kind)
        server.put(begins, State(between, target, before.reached))
        action.ends = self._end(server, begins, kind)
        when = {"accepted": now, "begun": begins, "ended": action.ends}[self.settings.rows]
        server.rows = [row for row in server.rows if row.since <= now]  # nor is its row written
        self._write(server, when, target, self.rng.uniform(0, self.settings.row_delay))
        return action

    def _end(self, server: Server, begins: float, kind: str) -> float:
        target = TARGETS[kind]
        seconds = 10 ** self.rng.uniform(-1.3, 2.7)  # 0.05 s to 8 min
        if kind == "start" and self.rng.random() < 0.05:
            seconds = self.rng.uniform(600, 5400)  # a migration in between
        if self.settings.words == "unknown":
            last = server.states[-1]
            server.put(begins + seconds / 2, evolve(last, current="verifying-vram"))
        server.put(begins + seconds, State(target, target, target))
        return begins + seconds

    def _effect(self) -> float:
        return self.rng.uniform(0, self.settings.effect)

    def _between(self, kind: str) -> str:
        return _BETWEEN[kind] if self.settings.words == "known" else f"phase-{self.rng.randrange(9)}"

    def _write(self, server: Server, when: float, word: str, delay: float) -> None:
        self._rows += 1
        server.rows.append(Row(self._rows, word, when, when + delay))

    # What reads show --------------------------------------------------------------------------------------------

    def list(self, now: float) -> bytes:
        """The body of GET /api/orders, read from one of the replicas."""
        read = now - self.rng.choice(self.settings.lags)
        rows = [row for server in self.servers.values() if (row := self._row(server, read)) is not None]
        if rows and self.rng.random() < self.settings.omits:
            rows.pop(self.rng.randrange(len(rows)))
        return json.dumps(rows).encode()

    def _row(self, server: Server, read: float) -> dict[str, object] | None:
        state = server.at(read)
        if state is None:
            return None
        current, second = ("status", "status_user")
        if self.settings.dialect == "current_status":
            current, second = ("current_status", "desired_status")
        row: dict[str, object] = {"order_id": server.order_id, "serverId": server.order_id, current: state.current}
        if self.settings.status_user != "absent":
            row[second] = state.desired if self.settings.status_user == "requested" else state.reached
        return row

    def history(self, now: float, order_id: int) -> bytes:
        """The body of GET /api/order-status-history."""
        server = self.servers[order_id]
        read = now - self.rng.choice(self.settings.lags)
        rows = sorted((row for row in server.rows if row.readable <= read), key=lambda row: -row.since)[:5]
        shown = []
        for rank, row in enumerate(rows, 1):
            ids = {"rising": row.number, "falling": 10**6 - row.number, "ranks": rank}
            shown.append({"id": ids[self.settings.row_ids], "status_user": row.word, "status_txt": "changed"})
            if self.settings.row_times:
                shown[-1]["status_since"] = datetime.fromtimestamp(row.since, UTC).isoformat()
        return json.dumps({"success": True, "history": shown}).encode()
