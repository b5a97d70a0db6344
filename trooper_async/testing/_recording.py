"""Recording a profile of a real API: what its reads show, and how one server goes through its actions.

Of what is read only status words, names of fields, kinds, times and counts are kept.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from attrs import evolve

from trooper_async.client import TrooperClient, raw_request
from trooper_async.errors import TrooperError
from trooper_async.testing._call import Call
from trooper_async.testing._durations import Durations
from trooper_async.testing._profile import (
    WORD,
    Actions,
    Course,
    Kind,
    Profile,
    RateLimit,
    Refusal,
    Refusals,
    Row,
    Step,
    kind_of,
)
from trooper_async.testing._routes import ROUTES
from trooper_async.testing._world import World, switched

LISTS: Mapping[str, str | None] = {
    "/api/orders": None,
    "/api/blibs": None,
    "/api/templates": None,
    "/api/order-status-history": "history",
    "/api/template-config": "templates",
}
"""The endpoints whose rows are recorded, and where the rows are in the response."""
TARGETS = {"start": "running", "thaw": "running", "restart": "running", "stop": "stopped", "freeze": "frozen"}
WALKS = {
    "running": ("stop", "start", "restart", "freeze", "thaw"),
    "stopped": ("start", "restart", "freeze", "thaw", "stop"),
    "frozen": ("thaw", "restart", "stop", "start", "freeze"),
}
"""The actions that an exercise takes a server through, by its status before, and after."""
_WORDS_OF_API = {"start": "running", "thaw": "running", "restart": "restarted", "stop": "stopped", "freeze": "frozen"}
_QUIET_POLLS = 15
"""An action has ended if nothing has changed for so many polls, where it ought to be."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
_HEADERS = {
    "Server": re.compile(r"[A-Za-z-]{1,20}(/\d{1,3}(\.\d{1,3}){0,2})?"),
    "Cache-Control": re.compile(r"[a-z-]{1,20}(=\d{1,9})?(, [a-z-]{1,20}(=\d{1,9})?){0,5}"),
    "Vary": re.compile(r"[A-Za-z-]{1,20}(, [A-Za-z-]{1,20}){0,5}"),
    "Age": re.compile(r"\d{1,6}"),
}
"""The headers that are kept, where their text names no host."""
_MESSAGES = ("error", "message", "detail")
"""The fields of a refusal in which its text is looked for first."""
_ORDERS = 5
_TRIES = 10
_LIMIT_SECONDS = 60.0


class Reply(NamedTuple):
    """A response, whatever its status."""

    status: int
    """The HTTP status."""
    headers: Mapping[str, str]
    """The headers."""
    body: bytes
    """The body, undecoded."""

    @property
    def data(self) -> Any:  # whatever the API sends
        """The decoded body; None where there is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


class Api(Protocol):
    """What a recording asks, and its clock."""

    async def get(
        self, path: str, query: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send a GET; status 0 where no response came."""
        ...

    async def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        """Send a POST, once; status 0 where no response came."""
        ...

    def now(self) -> float:
        """Seconds of a monotonic clock."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class ClientApi:
    """An API as a recording sees it through a client, whose key, proxy and TLS it uses."""

    def __init__(self, client: TrooperClient) -> None:
        self._client = client

    async def get(
        self, path: str, query: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send a GET once; status 0 where no response came."""
        return await self._send("GET", path, query or {}, headers)

    async def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        """Send a POST once; status 0 where no response came."""
        return await self._send("POST", path, body, None)

    async def _send(self, method: str, path: str, sent: Mapping[str, Any], headers: Mapping[str, str] | None) -> Reply:
        response = await raw_request(self._client, method, path, sent, headers=headers)
        if isinstance(response, TrooperError):
            return Reply(0, {}, b"")
        return Reply(response.status, response.headers, response.body or b"")

    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class RecordingError(Exception):
    """Nothing can be recorded, or an exercised server did not go where it was sent. The text says why."""


async def record(
    api: Api,
    *,
    seconds: float = 60.0,
    interval: float = 1.0,
    exercise: int | None = None,
    wrong_key: Api | None = None,
    patience: float = 3600.0,
    tell: Callable[[str], None] = lambda said: None,
) -> Profile:
    """Record a profile.

    Args:
        api: What is asked.
        seconds: How long the list is polled, besides an exercise.
        interval: Seconds between two polls.
        exercise: The id of an order whose server is stopped, started, restarted, frozen and put back; it costs what
            these actions cost. None: reads only.
        wrong_key: The same API with a key that it does not know, for one GET. None: how a key is refused is not
            recorded.
        patience: Seconds that one action may take at most.
        tell: Told what is being done, a line at a time.

    Raises:
        RecordingError: The API can't be read, or the server did not go where it was sent.
    """
    recorder = _Recorder(api, interval, patience)
    profile = await recorder.look(seconds, wrong_key, tell)
    if exercise is not None:
        actions, refusals = await recorder.exercise(exercise, profile, tell)
        profile = evolve(profile, actions=actions, refusals=refusals)
    return evolve(
        profile,
        history_ids=_history_ids(recorder.histories),
        words=tuple(sorted(recorder.words)),
        rate_limit=recorder.limit,
    )


class _Recorder:
    def __init__(self, api: Api, interval: float, patience: float) -> None:
        self._api, self._interval, self._patience = api, interval, patience
        self.words: set[str] = set()
        self.histories: list[list[dict[str, Any]]] = []
        self.limit: RateLimit | None = None
        self._response_times: list[float] = []

    async def _get(
        self, path: str, query: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """A GET that waits out a rate limit, and notes it; while nothing better comes, it is tried again."""
        failed = 0
        while True:
            reply = await self._api.get(path, query, headers)
            if reply.status == 0 or reply.status >= 500:
                failed += 1
                if failed > _TRIES:
                    raise RecordingError(f"GET {path}: {reply.status or 'no response'}: nothing more is recorded")
                await self._api.sleep(self._interval)
                continue
            if reply.status != 429:
                self._response_times.append(self._api.now())
                return reply
            text = reply.headers.get("Retry-After", "")
            pause = int(text) if text.isdecimal() and len(text) < 5 else None
            span = float(pause or _LIMIT_SECONDS)
            since = self._api.now() - span
            self.limit = RateLimit(max(1, sum(one > since for one in self._response_times)), span, pause)
            await self._api.sleep(span)

    # what the reads show

    async def look(self, seconds: float, wrong_key: Api | None, tell: Callable[[str], None]) -> Profile:
        """What reads alone show."""
        refusals = Refusals()
        tell("reading orders, offers, templates and histories")
        first = await self._get("/api/orders")
        if first.status != 200 or not isinstance(first.data, list):
            raise RecordingError(f"GET /api/orders: {first.status}, or not a list: nothing can be recorded")
        orders = list(_rows(first.data))
        replies = {"/api/orders": [first]}
        ids = [one for row in orders[:_ORDERS] if (one := _id(row.get("order_id"))) is not None]
        for path in LISTS:
            if path != "/api/orders":
                queries: list[dict[str, Any] | None] = [None]
                if path in ("/api/order-status-history", "/api/template-config"):
                    queries = [{"order_id": order_id} for order_id in ids]
                replies[path] = [await self._get(path, query) for query in queries]
        unknown = await self._api.get("/api/order-status-history", {"order_id": 0})
        refusals = evolve(refusals, unknown=_refusal(unknown, refusals.unknown))
        if wrong_key is not None:
            tell("reading orders with a wrong key")
            refusals = evolve(refusals, key=_refusal(await wrong_key.get("/api/orders"), refusals.key))
        etag = first.headers.get("ETag")
        again = await self._get("/api/orders", None, {"If-None-Match": etag}) if etag else None
        tell(f"polling the list for {seconds:.0f} s")
        ends = self._api.now() + seconds
        while self._api.now() < ends:
            self._note(_rows((await self._get("/api/orders")).data))
            await self._api.sleep(self._interval)
        self.histories += [list(_rows(reply.data, "history")) for reply in replies["/api/order-status-history"]]
        dialect = _dialect(orders)
        self._note(orders)
        return Profile(
            about="Recorded from an API.",
            **dialect,
            fields=_fields(replies),
            headers=_headers(first),
            etag="none" if again is None else "honoured" if again.status == 304 else "ignored",
            gzip=first.headers.get("Content-Encoding", "") == "gzip",
            refusals=refusals,
        )

    def _note(self, rows: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> None:
        names = ("status", "status_user", "current_status", "desired_status")
        self.words |= {row[name] for row in rows for name in names if _is_word(row.get(name))}

    # how a server goes through its actions

    async def exercise(self, order_id: int, profile: Profile, tell: Callable[[str], None]) -> tuple[Actions, Refusals]:
        """What each action shows, and how it is refused under a lock. The server is where it was at the end."""
        seen = _Seen(profile, await self._row(order_id), [])
        if seen.current not in WALKS:
            raise RecordingError(f"the server is {seen.current!r}: an exercise begins at {', '.join(WALKS)}")
        if str(seen.row.get("is_locked")) not in ("False", "0", "None"):
            raise RecordingError("the server is locked: unlock it first")
        server_id = _id(seen.row.get("serverId")) or order_id
        refused = await self._locked(server_id, seen.current)
        named = {text for text in seen.row.values() if isinstance(text, str) and text not in self.words}
        refusals = evolve(profile.refusals, locked=_refusal(refused, profile.refusals.locked, named))
        courses: dict[str, Course] = {}
        for action in WALKS[seen.current]:
            tell(f"{action}: waiting for {TARGETS[action]}")
            courses[action] = await self._course(action, order_id, server_id, profile)
            tell(f"{action}: took {courses[action].seconds:.1f} s")
        # what an exercise leaves alone, since it would cost a purchase, takes as long as what resembles it
        for action, like in (("create", "start"), ("migrate", "thaw")):
            course: Course = getattr(Actions(), action)
            courses[action] = course.scaled(max(courses[like].seconds, 0.05) / course.seconds)
        return Actions(**courses), refusals

    async def _locked(self, server_id: int, current: str) -> Reply:
        """How the action that a server is at the end of already is refused under a lock: it changes nothing."""
        try:
            await self._api.post("/api/order-lock", {"serverId": server_id, "is_locked": True})
            return await self._api.post("/api/order-status", {"serverId": server_id, "action": current})
        finally:
            await self._api.post("/api/order-lock", {"serverId": server_id, "is_locked": False})

    async def _course(self, action: str, order_id: int, server_id: int, profile: Profile) -> Course:
        before = await self._seen(order_id, profile)
        body = {"serverId": server_id, "action": _WORDS_OF_API[action]}
        reply = await self._api.post("/api/order-status", body)
        accepted = self._api.now()
        if reply.status != 200:
            what = f"refused with a {reply.status}" if reply.status else "sent, and its response lost"
            raise RecordingError(f"{action} was {what}: nothing more is sent")
        steps: list[Step] = []
        rows: list[Row] = []
        last, changed_at, known = before, accepted, before.history
        target, has_moved = TARGETS[action], False
        while True:
            now = self._api.now()
            seen = await self._seen(order_id, profile)
            fresh = [row for row in seen.history if row not in known]
            after = round(now - accepted, 2)
            rows += [Row(after, row[1]) for row in reversed(fresh)]
            known = [*known, *fresh]
            if not steps or (seen.current, seen.desired) != (last.current, last.desired):
                steps.append(_step(after, seen, before, has_moved))
                has_moved = has_moved or len(steps) > 1 or seen.current != before.current
                changed_at, last = now, seen
            elif fresh:
                changed_at = now
            quiet = now - changed_at >= _QUIET_POLLS * self._interval
            if quiet and seen.current == target and seen.desired in (None, target):
                break
            if now - accepted > self._patience:
                raise RecordingError(f"{action} did not end within {self._patience:.0f} s: nothing more is sent")
            await self._api.sleep(self._interval)
        steps[-1] = evolve(steps[-1], current=last.current)
        said = reply.data.get("status") if isinstance(reply.data, dict) else None
        is_news = _is_word(said) and said != (steps[0].current or before.current)
        return Course(tuple(steps), tuple(rows), said if is_news else None)

    async def _seen(self, order_id: int, profile: Profile) -> _Seen:
        row = await self._row(order_id)
        reply = await self._get("/api/order-status-history", {"order_id": order_id})
        rows = list(_rows(reply.data, "history"))
        self.histories.append(rows)
        return _Seen(profile, row, [(str(one.get("id")), _word(one.get("status_user"))) for one in rows])

    async def _row(self, order_id: int) -> dict[str, Any]:
        rows = list(_rows((await self._get("/api/orders")).data))
        self._note(rows)
        for row in rows:
            if _id(row.get("order_id")) == order_id:
                return row
        raise RecordingError(f"order {order_id} is not in the list")


class _Seen:
    """What a poll shows of the exercised order: its two statuses, and its history as ids and words."""

    def __init__(self, profile: Profile, row: dict[str, Any], history: list[tuple[str, str]]) -> None:
        self.row, self.history = row, history
        self.current = _word(row.get(profile.current_field))
        desired = None if profile.desired_field is None else row.get(profile.desired_field)
        self.desired: str | None = desired if _is_word(desired) else None


def _step(after: float, seen: _Seen, before: _Seen, has_moved: bool) -> Step:
    """A step, in which None is what was shown before the action."""
    current = None if not has_moved and seen.current == before.current else seen.current
    return Step(after, current, None if seen.desired == before.desired else seen.desired)


def _rows(data: Any, inside: str | None = None) -> Iterator[dict[str, Any]]:
    found = data.get(inside) if inside and isinstance(data, dict) else data
    return (row for row in found if isinstance(row, dict)) if isinstance(found, list) else iter(())


def _is_word(value: object) -> bool:
    return isinstance(value, str) and WORD.fullmatch(value) is not None


def _word(value: object) -> str:
    return value if isinstance(value, str) and _is_word(value) else "unknown"


def _id(value: object) -> int | None:
    text = str(value)
    return int(text) if text.isdecimal() and len(text) < 20 else None


def _dialect(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The names of the two statuses, of which the document has both."""
    names = Counter(name for row in rows for name in row)
    current = "current_status" if names["current_status"] else "status"
    desired = next((name for name in ("desired_status", "status_user") if names[name]), None)
    return {"current_field": current, "desired_field": desired if rows else "status_user"}


def _history_ids(histories: list[list[dict[str, Any]]]) -> Any:
    """Whether newer rows have higher ids, by the rows' own times."""
    rises = falls = 0
    for rows in histories:
        dated = [(str(row.get("status_since")), number) for row in rows if (number := _id(row.get("id"))) is not None]
        for (one_time, one), (other_time, other) in zip(sorted(dated), sorted(dated)[1:], strict=False):
            rises += one_time < other_time and one < other
            falls += one_time < other_time and one > other
    return "rising" if rises > falls else "falling"


def _refusal(reply: Reply, known: Refusal, named: Collection[str] = ()) -> Refusal:
    """The refusal as it was met; a text that may name something, as those of `named`, is replaced by the known one."""
    if not 400 <= reply.status < 500:
        return known
    data = reply.data
    if not isinstance(data, dict):
        text = reply.body.decode(errors="replace")
        return Refusal(reply.status, "" if "<" in text else _safe(text, named, known.error), None)  # no HTML page
    fields = [name for name in (*_MESSAGES, *data) if isinstance(data.get(name), str) and _NAME.fullmatch(name)]
    field = next((name for name in fields if name != "next"), "error")
    following = data.get("next") if _is_word(data.get("next")) else None
    return Refusal(reply.status, _safe(data.get(field, ""), named, known.error), field, following)


def _safe(text: str, named: Collection[str], instead: str) -> str:
    """The text if it is plain words that name nothing: no number, address or name with a dot or a hyphen in it."""
    is_plain = re.fullmatch(r"([A-Za-z']+[,.:;!?]?( |$))*", text) is not None
    return text if is_plain and len(text) <= 100 and not any(name in text for name in named) else instead


def _headers(reply: Reply) -> dict[str, str]:
    found = {name: reply.headers.get(name, "") for name in _HEADERS}
    return {name: text for name, text in found.items() if _HEADERS[name].fullmatch(text)}


def _fields(replies: Mapping[str, list[Reply]]) -> dict[str, dict[str, Kind]]:
    """The kinds of fields by endpoint, where they are not the document's."""
    found = {}
    for path, inside in LISTS.items():
        seen = [row for reply in replies[path] for row in _rows(reply.data, inside)]
        if seen:
            found[path] = dict(_differences(_documented(path), seen, f"{inside}." if inside else ""))
    return {path: kinds for path, kinds in found.items() if kinds}


def _differences(documented: dict[str, Any], seen: list[dict[str, Any]], at: str) -> Iterator[tuple[str, Kind]]:
    statuses = {"status", "status_user", "current_status", "desired_status"}
    for name in sorted({*documented, *(name for row in seen for name in row)}):
        if name in statuses and not at:
            continue  # the profile has them by their own names
        values = [row[name] for row in seen if name in row]
        if name not in documented:
            if _NAME.fullmatch(name):
                yield at + name, kind_of(values[0])
        elif not values:
            yield at + name, "missing"
        elif inner := [row for value in values for row in _rows(value)]:
            for row in _rows(documented[name]):
                yield from _differences(row, inner, f"{at}{name}.")
                break
        else:
            kinds: Counter[Kind] = Counter(kind_of(value) for value in values)
            (kind, count), *_ = kinds.most_common()
            if kind != kind_of(documented[name]) and (kind != "null" or count == len(values)):
                yield at + name, kind


def _documented(path: str) -> dict[str, Any]:
    """A row of an endpoint as the document has it: that of the fake without a profile."""
    profile = Profile()
    world = World(profile=profile, durations=Durations(profile))
    server = world.add(*switched(0.0, "running", None), 0.0)
    world.install(server, 0.0, 1, {})
    data = ROUTES[path].respond(world, Call(1.0, {"order_id": str(server.order_id)}, None, True))
    return next(_rows(data, LISTS[path]))
