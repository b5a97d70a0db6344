"""`trooper doctor` and `ping`: whether the API responds, and how it behaves in what its document leaves open.

They only read. Of the API's data they show only field names, types, status words and counts, but no id, title, address
or price.
"""

from __future__ import annotations

import json
import platform
import re
import statistics
import time
import types
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Union, get_args, get_origin

import click
from attrs import field, fields, frozen, has, resolve_types
from rich.text import Text

from trooper_async import __version__
from trooper_async._base.converter import names_in_api
from trooper_async.cli._context import Cli
from trooper_async.cli._errors import FAILED, REFUSED_KEY, FailedError, reason
from trooper_async.cli._options import ID, SECONDS, command, yes_option
from trooper_async.cli._text import printable
from trooper_async.errors import TrooperError
from trooper_async.models import JSON, Blib, Order, OrderStatus, StatusChange, Template, TemplateInstall
from trooper_async.testing._profile import kind_of

if TYPE_CHECKING:
    from trooper_async import TrooperClient

_FILE = click.Path(dir_okay=False, path_type=Path)
_ORDERS_LOOKED_AT = 5
_PINGS = 3
_TELLING_HEADERS = ("etag", "age", "content-encoding", "cache-control", "retry-after", "vary")
_MARKS = {"ok": ("✓", "green"), "note": ("!", "yellow"), "bad": ("✗", "red")}


@command()
async def ping(cli: Cli) -> None:
    """Check whether the API responds, and how fast. It needs no key."""
    async with cli.client(needs_key=False) as client:
        began = time.perf_counter()
        text = await client.ping()
        seconds = time.perf_counter() - began
    cli.result({"test": text, "seconds": round(seconds, 4)}, f"{printable(text)} ({1000 * seconds:.0f} ms)")


@frozen
class Raw:
    """A raw response. If there is none, `status` is 0 and `problem` says why."""

    status: int
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    data: JSON = field(default=None, repr=False)
    seconds: float = 0.0
    problem: str = ""

    @property
    def is_json(self) -> bool:
        return not self.problem

    @property
    def what(self) -> str:
        """The status, or why there is no response."""
        return str(self.status) if self.status else self.problem


async def read(
    client: TrooperClient, path: str, order_id: int | None = None, headers: Mapping[str, str] | None = None
) -> Raw:
    """Send one GET through the client's own transport, so that the key never leaves it."""
    from trooper_async.client import raw_request

    began = time.perf_counter()
    response = await raw_request(
        client, "GET", path, {} if order_id is None else {"order_id": order_id}, headers=headers
    )
    seconds = time.perf_counter() - began
    if isinstance(response, TrooperError):
        return Raw(0, seconds=seconds, problem=reason(response))
    data, problem = None, ""
    try:
        data = json.loads(response.body or b"null")
    except (ValueError, RecursionError):
        problem = "it is not JSON"
    return Raw(response.status, response.headers, data, seconds, problem)


@command()
@click.option("--record", "recorded", type=_FILE, metavar="FILE", help="Record a profile of the API; reads only.")
@click.option("--exercise", type=ID, metavar="ID", help="With --record: take this server through all actions. Asks.")
@click.option("--seconds", type=SECONDS, default=60.0, show_default=True, help="With --record: how long to poll.")
@click.option("--replay", "replayed", type=_FILE, metavar="FILE", help="Run the waits against the fake of a profile.")
@yes_option
async def doctor(
    cli: Cli, recorded: Path | None, exercise: int | None, seconds: float, replayed: Path | None, yes: bool
) -> None:
    """Check the key, and how the API behaves in what its document leaves open. It only reads.

    Its output holds nothing secret (no key, id, title, address or price), so you can paste it into a bug report.

    A profile (--record) says how the API behaves, for `FakeTrooper(profile=...)` and --replay. It holds status words,
    field names, types, times and counts, and is shown before it is saved. One read is sent with a wrong key, to see how
    that is refused. Only --exercise changes anything: it stops, starts, restarts, freezes and thaws one server, and
    restores its status.
    """
    if exercise is not None and recorded is None:
        raise click.UsageError("--exercise needs --record", click.get_current_context())
    if recorded is not None or replayed is not None:
        from trooper_async.cli import _recording

        if recorded is not None:
            await _recording.record_to(cli, recorded, exercise, seconds, yes=yes)
        if replayed is not None:
            await _recording.replay_from(cli, replayed)
        return
    settings = cli.settings
    async with cli.client(needs_key=False) as client:
        found = [_versions(), _base_url(settings.base_url), *await _connection(client)]
        status = FAILED if found[-1].verdict == "bad" else 0
        if not status:
            source = None if settings.api_key is None else settings.key_source
            key_is, raw = await key_finding(client, source)
            found.append(key_is)
            if key_is.verdict == "bad":
                status = REFUSED_KEY if raw.status in (401, 403) else FAILED
            found += await offer_findings(client)
            if key_is.verdict == "ok":
                found += await order_findings(client, raw)
        if not status and any(one.verdict == "bad" for one in found):
            status = FAILED
    lines = []
    for one in found:
        mark, style = _MARKS[one.verdict]
        lines.append(
            Text(mark, style).append(f" {one.question}: ", "bold").append(printable(one.answer), "not bold default")
        )
    cli.result(found, *lines)
    if status:
        bad = next(one for one in found if one.verdict == "bad")
        raise FailedError(status, f"{bad.question}: {bad.answer}")


def _versions() -> Finding:
    python = f"Python {platform.python_version()} on {platform.system()}"
    return Finding("versions", "ok", f"trooper-async {__version__}, {python}")


def _base_url(base_url: str | None) -> Finding:
    return Finding("base URL", "ok", base_url or "the default, https://james.trooper.ai")


async def _connection(client: TrooperClient) -> list[Finding]:
    first = await read(client, "/api/test")
    if first.status != 200:
        return [Finding("the API", "bad", f"GET /api/test: {first.what}")]
    if not first.is_json:  # it may be a login page or a proxy, but it is not the API
        return [Finding("the API", "bad", "GET /api/test: 200, but it is not JSON: something else responds there")]
    again = [await read(client, "/api/test") for _ in range(_PINGS)]
    milliseconds = 1000 * statistics.median(raw.seconds for raw in again)
    answer = f"first response after {1000 * first.seconds:.0f} ms, then {milliseconds:.0f} ms (median of {_PINGS})"
    return [Finding("latency", "ok", answer), _clock(again[-1]), Finding("the API", "ok", "responds")]


def _clock(raw: Raw) -> Finding:
    try:
        then = parsedate_to_datetime(raw.headers.get("Date", ""))
        # a Date has no fractions of a second, and is as old as half the round trip
        skew = datetime.now(UTC).timestamp() - raw.seconds / 2 - then.timestamp() - 0.5
    except (ValueError, TypeError):
        return Finding("clock", "note", "the response has no Date")
    answer = f"this machine is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'} (± 1 s)"
    return Finding("clock", "ok" if abs(skew) < 5 else "note", answer)


async def key_finding(client: TrooperClient, source: str | None) -> tuple[Finding, Raw]:
    """Whether the key is accepted. `source` says where it comes from; None means that there is none."""
    if source is None:
        return Finding("the key", "note", "there is none: only public endpoints were checked"), Raw(0)
    raw = await read(client, "/api/orders")
    if raw.status == 200 and isinstance(raw.data, list):
        return Finding("the key", "ok", f"is accepted (from {source})"), raw
    if raw.status == 200:
        problem = raw.problem or "it is not a list"
        return Finding("the key", "bad", f"GET /api/orders: 200, but {problem}: something else responds there"), raw
    answer = "is refused" if raw.status in (401, 403) else "GET /api/orders failed"
    return Finding("the key", "bad", f"{answer} ({raw.what}; key from {source})"), raw


async def offer_findings(client: TrooperClient) -> list[Finding]:
    return [
        *_fields(Blib, [await read(client, "/api/blibs")], "/api/blibs"),
        *_fields(Template, [await read(client, "/api/templates")], "/api/templates"),
    ]


async def order_findings(client: TrooperClient, raw: Raw) -> list[Finding]:
    orders = rows_of(raw.data)
    texts = [str(row.get("order_id")) for row in orders[:_ORDERS_LOOKED_AT]]  # it may be a number or a text
    ids = [int(text) for text in texts if text.isdecimal() and len(text) < 20]
    histories = [await read(client, "/api/order-status-history", order_id) for order_id in ids]
    installs = [await read(client, "/api/template-config", order_id) for order_id in ids]
    changes = [rows_of(history.data, "history") for history in histories]
    private = [await read(client, "/api/blibs-private")]
    return [
        Finding("orders", "ok", f"{len(orders)}, read in {raw.seconds:.2f} s"),
        dialect(orders),
        both_statuses(orders),
        unknown_words(orders, [row for rows in changes for row in rows]),
        same_ids(orders),
        history_ids(changes),
        template_states([row for install in installs for row in rows_of(install.data, "templates")]),
        await _etag(client, raw),
        _headers(raw),
        *_fields(Order, [raw], "/api/orders"),
        *_fields(StatusChange, histories, "/api/order-status-history", "history"),
        *_fields(TemplateInstall, installs, "/api/template-config", "templates"),
        *_fields(Blib, private, "/api/blibs-private"),
    ]


def _fields(model: type, responses: list[Raw], where: str, inside: str | None = None) -> list[Finding]:
    rows = [row for raw in responses for row in rows_of(raw.data, inside)]
    if not rows:
        statuses = ", ".join(sorted({raw.what for raw in responses})) or "not checked"
        return [Finding(f"fields of {where}", "note", f"none to see ({statuses})")]
    return [unknown_fields(model, rows, where), loose_kinds(model, rows, where)]


async def _etag(client: TrooperClient, raw: Raw) -> Finding:
    etag = raw.headers.get("ETag")
    if etag is None:
        return Finding("ETag of the orders", "ok", "none")
    again = await read(client, "/api/orders", headers={"If-None-Match": etag})
    if again.status == 304:
        return Finding("ETag of the orders", "ok", "honoured with 304")
    changed = again.headers.get("ETag") != etag
    answer = "another one at the next read" if changed else f"not honoured: {again.what}"
    return Finding("ETag of the orders", "note", answer)


def _headers(raw: Raw) -> Finding:
    names = [name.lower() for name in raw.headers]
    telling = [name for name in names if name in _TELLING_HEADERS or "ratelimit" in name.replace("-", "")]
    return Finding("telling headers of the orders", "ok", ", ".join(sorted(set(telling))) or "none")


# What raw responses say: pure functions -----------------------------------------------------------------------------

Row = Mapping[str, JSON]

_DIALECTS = (("status", "status_user"), ("current_status", "desired_status"))
_KINDS: dict[object, set[str]] = {
    int: {"number"},
    Decimal: {"number"},
    bool: {"boolean"},
    str: {"text"},
    datetime: {"text"},
    OrderStatus: {"text"},
    tuple: {"list"},
    dict: {"object"},
}
_ALSO_DOCUMENTED = {"is_public: number"}  # a sample has 1 where another has true
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_ -]{0,39}")


@frozen
class Finding:
    """The answer to one question."""

    question: str
    verdict: Literal["ok", "note", "bad"]
    answer: str


def dialect(orders: Iterable[Row]) -> Finding:
    """Which of the two pairs of status field names the API uses."""
    found = Counter(
        " + ".join(name for pair in _DIALECTS for name in pair if name in row) or "no status at all" for row in orders
    )
    verdict: Literal["ok", "note", "bad"] = "ok"
    if not found:
        return Finding("status names", "note", "no orders to see them in")
    if len(found) > 1 or not set(found) <= {" + ".join(pair) for pair in _DIALECTS}:
        verdict = "bad" if "no status at all" in found else "note"
    return Finding("status names", verdict, _counted(found))


def both_statuses(orders: Iterable[Row]) -> Finding:
    """Pairs of current and desired status that differ: they show whether the second is the requested state or the last
    one reached.
    """
    pairs: Counter[str] = Counter()
    for row in orders:
        for current, desired in _DIALECTS:
            if current in row and desired in row and row[current] != row[desired]:
                pairs[f"{_word(row[current])} with {_word(row[desired])}"] += 1
    return Finding("current and desired status that differ", "note" if pairs else "ok", _counted(pairs) or "none")


def unknown_words(orders: Iterable[Row], histories: Iterable[Row]) -> Finding:
    """Status words that are not in `OrderStatus`."""
    names = {name for pair in _DIALECTS for name in pair}
    words = Counter(_word(row[name]) for row in [*orders, *histories] for name in names if row.get(name) is not None)
    known = {word.value for word in OrderStatus}
    new = Counter({word: number for word, number in words.items() if word.casefold() not in known})
    return Finding("status words not known", "note" if new else "ok", _counted(new) or f"none among {len(words)}")


def template_states(installs: Iterable[Row]) -> Finding:
    """Status codes and texts of template installations; only `1` / `Completed` is documented."""
    seen = Counter(f"{_word(row.get('status'))} / {_word(row.get('status_readable'))}" for row in installs)
    new = any(state != "1 / Completed" for state in seen)
    return Finding("template install states", "note" if new else "ok", _counted(seen) or "none to see")


def same_ids(orders: Iterable[Row]) -> Finding:
    """Whether `serverId` and `order_id` are equal."""
    differ = [row for row in orders if str(row.get("serverId")) != str(row.get("order_id"))]
    answer = "equal in every order" if not differ else f"differ, or are missing, in {len(differ)}"
    return Finding("serverId and order_id", "note" if differ else "ok", answer)


def history_ids(histories: Iterable[Iterable[Row]]) -> Finding:
    """Whether ids rise or fall with time; in the document's sample the newer row has the lower one."""
    ways: Counter[str] = Counter()
    for history in histories:
        rows = [row for row in history if isinstance(row.get("status_since"), str) and row.get("id") is not None]
        rows.sort(key=lambda row: str(row["status_since"]))
        numbers = [int(str(row["id"])) for row in rows if str(row["id"]).isdecimal()]
        if len(numbers) < 2:
            continue
        rises = [one < other for one, other in pairwise(numbers)]
        ways["rise with time" if all(rises) else "fall with time" if not any(rises) else "neither"] += 1
    verdict: Literal["ok", "note"] = "note" if ways["neither"] else "ok"
    return Finding("history ids", verdict, _counted(ways) or "no history of two rows to see")


def unknown_fields(model: type, rows: Iterable[Row], where: str) -> Finding:
    """Fields that are not in the model of these rows."""
    known = _api_names(model)
    seen = Counter(_name(name) for row in rows for name in row if name not in known)
    return Finding(f"fields not known in {where}", "note" if seen else "ok", ", ".join(sorted(seen)) or "none")


def loose_kinds(model: type, rows: Iterable[Row], where: str) -> Finding:
    """Values of another type than in the document: numbers as text, booleans as numbers, nulls."""
    seen: Counter[str] = Counter()
    resolve_types(model)
    names = names_in_api(model)
    for one in fields(model):
        expected = _kinds(one.type)
        for name in names.get(one.name, ()):
            for row in rows:
                if name in row and (kind := kind_of(row[name])) not in expected:
                    seen[f"{name}: {kind}"] += 1
    for documented in _ALSO_DOCUMENTED:
        seen.pop(documented, None)
    return Finding(f"kinds of values in {where}", "note" if seen else "ok", _counted(seen) or "as documented")


def rows_of(data: JSON, inside: str | None = None) -> list[Row]:
    """The objects of a list in a response; `inside` names the field that holds the list."""
    if inside is not None:
        data = data.get(inside) if isinstance(data, dict) else None
    return [row for row in data if isinstance(row, dict)] if isinstance(data, list) else []


def _api_names(model: type) -> set[str]:
    return {name for names in names_in_api(model).values() for name in names}


def _kinds(annotation: object) -> set[str]:
    if get_origin(annotation) in (Union, types.UnionType):
        return set().union(*(_kinds(part) for part in get_args(annotation)))
    if isinstance(annotation, type) and has(annotation):
        return {"object"}
    return _KINDS.get(get_origin(annotation) or annotation, set())


def _word(value: JSON) -> str:
    """A word of the API's; of what is not a word only the kind is shown."""
    text = str(value)
    is_word = isinstance(value, str | int) and (_NAME.fullmatch(text) or text.isdecimal())
    return text if is_word else f"({kind_of(value)})"


def _name(name: str) -> str:
    return name if _NAME.fullmatch(name) else "(an unusual name)"


def _counted(seen: Counter[str]) -> str:
    return ", ".join(f"{what} ({number})" for what, number in seen.most_common(20))
