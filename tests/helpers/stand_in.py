"""A small API with a behaviour chosen at random, which shares no code with the fake."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web

from trooper_async.testing._recording import Reply

KEY = "stand-in-key"
TARGETS = {"running": "running", "stopped": "stopped", "restarted": "running", "frozen": "frozen"}
FIELDS: dict[str, Any] = {
    "title": "my-secret-title",
    "server_name": "host-of-mine",
    "machine_name": "ai99_mine",
    "ip": "203.0.113.77",
    "ssh_port": 22001,
    "price_h": 0.123,
    "paid_until": "2031-01-02T00:00:00Z",
    "blib_gpu_num": 2,
}
NEW: tuple[Any, ...] = ("x", 5, True, None, {}, [])
SECRETS = ("my-secret-title", "203.0.113.77", "host-of-mine", "ai99_mine", KEY, "2031-01-02", "0.123")
WORDS = ("going down", "coming_up", "Queued", "Busy", "archiving", "booting", "shutting-down")


class Moment(NamedTuple):
    after: float
    current: str | None
    desired: str | None


class Behaviour:
    """What the API document leaves open, chosen at random. Times are whole seconds."""

    def __init__(self, seed: int) -> None:
        pick = random.Random(seed)
        self.seed = seed
        self.current_name, self.desired_name = pick.choice(
            [("status", "status_user"), ("current_status", "desired_status"), ("status", "desired_status")]
        )
        self.desired = pick.choice(["requested", "reached", "absent"])
        self.lag = pick.choice([0, 0, 0, 1, 2])
        self.rising = pick.random() < 0.5
        self.etag = pick.random() < 0.5
        self.honours_etag = pick.random() < 0.8
        self.gzip = pick.random() < 0.3
        self.server = pick.choice([None, "nginx", "nginx/1.25.3", "cloudflare", "host-of-mine.example"])
        self.kinds = {name: pick.choice(["same"] * 4 + ["null", "missing", "text"]) for name in FIELDS}
        self.new: dict[str, Any] = {f"new_{number}": pick.choice(NEW) for number in range(pick.randrange(3))}
        self.locked = pick.choice(
            [(403, "Server is locked"), (409, "Locked"), (423, "server my-secret-title is locked")]
        )
        self.unknown = pick.choice([(403, "Access denied"), (404, "No such order")])
        self.courses = {word: self._course(pick, TARGETS[word]) for word in TARGETS}

        self.no_key: tuple[int, Any] = pick.choice(
            [
                (401, {"error": "Unauthorized", "next": "login"}),
                (403, {"message": "Invalid API key."}),
                (401, {"detail": "No such user", "code": 7}),
                (400, {"error": "key of 203.0.113.77 is unknown"}),
                (401, "Sign in, please"),
                (403, "<html>my-secret-title</html>"),
                (401, {}),
            ]
        )

    def _course(self, pick: random.Random, target: str) -> tuple[list[Moment], list[tuple[float, str]], str | None]:
        """The steps of an action, the rows that it adds to the history, and the word in its response."""
        at, steps = 0.0, []
        for word in pick.sample(WORDS, pick.randrange(1, 4)):
            steps.append(Moment(at, word, None if self.desired == "reached" else target))
            at += pick.randrange(1, 8)
        if pick.random() < 0.3:  # it is noticed late
            steps = [Moment(0, None, None), *(step._replace(after=step.after + 2) for step in steps)]
            at += 2
        steps.append(Moment(at, target, target))
        rows = sorted(
            (pick.choice([0.0, at, at, at + pick.randrange(1, 8)]), target) for _ in range(pick.choice([1, 1, 2]))
        )
        return steps, rows, pick.choice([None, steps[0].current, "accepted"])


class StandIn:
    """Serves one order with a behaviour; `clock` is its time."""

    def __init__(self, behaviour: Behaviour, clock: Callable[[], float], pace: float = 1.0, orders: int = 1) -> None:
        self.behaviour, self.clock, self.pace = behaviour, clock, pace
        self.states = {number: [Moment(0.0, "running", "running")] for number in range(1, orders + 1)}
        self.rows: dict[int, list[tuple[float, str]]] = {number: [(0.0, "running")] for number in self.states}
        self.locked: set[int] = set()
        self.url = ""

    def set_status(self, number: int, word: str) -> None:
        self.states[number], self.rows[number] = [Moment(0.0, word, word)], [(0.0, word)]

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api/orders", self._orders)
        app.router.add_get("/api/order-status-history", self._history)
        app.router.add_post("/api/order-status", self._action)
        app.router.add_post("/api/order-lock", self._lock)
        for path in ("/api/blibs", "/api/templates"):
            app.router.add_get(path, self._nothing)
        app.router.add_get("/api/template-config", self._nothing)
        return app

    def _reply(self, request: web.Request, data: Any, status: int = 200) -> web.Response:
        body, how = json.dumps(data).encode(), self.behaviour
        headers = {"Content-Type": "application/json", **({"Server": how.server} if how.server else {})}
        if how.etag and request.path == "/api/orders":
            headers["ETag"] = f'"{hashlib.md5(body).hexdigest()}"'
            if how.honours_etag and request.headers.get("If-None-Match") == headers["ETag"]:
                return web.Response(status=304, headers=headers)
        reply = web.Response(body=body, status=status, headers=headers)
        if how.gzip:
            reply.enable_compression(web.ContentCoding.gzip)
        return reply

    def _shown(self, number: int) -> Moment:
        when = self.clock() - self.pace * self.behaviour.lag
        return [state for state in self.states[number] if state.after <= when or state.after == 0.0][-1]

    async def _orders(self, request: web.Request) -> web.Response:
        how = self.behaviour
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            status, data = how.no_key
            if isinstance(data, str):
                return web.Response(status=status, text=data)
            return self._reply(request, data, status)
        rows = []
        for number in self.states:
            state = self._shown(number)
            row: dict[str, Any] = {"order_id": number, "serverId": 1000 + number, how.current_name: state.current}
            row |= {} if how.desired == "absent" else {how.desired_name: state.desired}
            values = (
                "my-secret-title",
                "host-of-mine",
                "ai99_mine",
                "203.0.113.77",
                22001,
                0.123,
                "2031-01-02T00:00:00Z",
                2,
            )
            for name, value in zip(FIELDS, values, strict=True):
                kind = how.kinds[name]
                if kind != "missing":
                    row[name] = None if kind == "null" else str(value) if kind == "text" else value
            rows.append({**row, "is_locked": number in self.locked, **how.new})
        return self._reply(request, rows)

    async def _history(self, request: web.Request) -> web.Response:
        number = int(request.query["order_id"])
        if number not in self.rows:
            status, error = self.behaviour.unknown
            return self._reply(request, {"error": error}, status)
        when = self.clock() - self.pace * self.behaviour.lag
        rows = [
            {
                "id": 500 + (place if self.behaviour.rising else -place),
                "status_user": word,
                "status_txt": "my-secret-title changed",
                "status_since": f"2031-01-02T00:{place:02}:00Z",
            }
            for place, (after, word) in enumerate(self.rows[number])
            if after <= when or after == 0.0
        ]
        return self._reply(request, {"success": True, "history": rows[:-6:-1]})

    async def _action(self, request: web.Request) -> web.Response:
        body = await request.json()
        number, now = body["serverId"] - 1000, self.clock()
        if number in self.locked:
            status, error = self.behaviour.locked
            return self._reply(request, {"success": False, "error": error}, status)
        steps, rows, said = self.behaviour.courses[body["action"]]
        before = self.states[number][-1]
        self.states[number] += [
            Moment(now + self.pace * step.after, step.current or before.current, step.desired or before.desired)
            for step in steps
        ]
        self.rows[number] += [(now + self.pace * after, word) for after, word in rows]
        return self._reply(request, {"success": True, **({"status": said} if said else {})})

    async def _lock(self, request: web.Request) -> web.Response:
        body = await request.json()
        (self.locked.add if body["is_locked"] else self.locked.discard)(body["serverId"] - 1000)
        return self._reply(request, {"success": True, "updated": 1})

    async def _nothing(self, request: web.Request) -> web.Response:
        return self._reply(request, [])


class Clock:
    """A time that a test advances."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


class OverHttp:
    """The requests of a recording, to any server, in the time of a clock."""

    def __init__(self, url: str, key: str, session: aiohttp.ClientSession, clock: Clock) -> None:
        self.url, self.session, self._clock = url, session, clock
        self._key = {"Authorization": f"Bearer {key}"}

    async def get(
        self, path: str, query: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        sent = {**self._key, **(headers or {})}
        async with self.session.get(self.url + path, params=query, headers=sent) as response:
            return Reply(response.status, response.headers, await response.read())

    async def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        async with self.session.post(self.url + path, json=body, headers=self._key) as response:
            return Reply(response.status, response.headers, await response.read())

    def now(self) -> float:
        return self._clock()

    async def sleep(self, seconds: float) -> None:
        self._clock.time += seconds
