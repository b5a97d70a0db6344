"""`trooper doctor`: how the API behaves where its document leaves it open. It only reads."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from attrs import field, frozen
from rich.text import Text

from trooper_async import Blib, Order, StatusChange, Template, TemplateInstall, TrooperClient, __version__
from trooper_async._api.endpoints import (
    BLIBS,
    BLIBS_PRIVATE,
    ORDERS,
    STATUS_HISTORY,
    TEMPLATE_CONFIG,
    TEMPLATES,
    TEST,
    Endpoint,
    call,
)
from trooper_async._api.responses import Response
from trooper_async.cli import _findings as findings
from trooper_async.cli._cli import Cli, FailedError
from trooper_async.cli._command import command
from trooper_async.cli._errors import FAILED, REFUSED_KEY
from trooper_async.cli._findings import Finding, rows_of
from trooper_async.cli._tables import table
from trooper_async.cli._text import cell
from trooper_async.models import JSON

T = TypeVar("T")

_ORDERS_LOOKED_AT = 5
_PINGS = 3
_TELLING_HEADERS = ("etag", "age", "content-encoding", "cache-control", "retry-after", "vary")
_MARKS = {"ok": ("✓", "green"), "note": ("!", "yellow"), "bad": ("✗", "red")}


@frozen
class _Raw:
    """A raw answer; without one, `status` is 0."""

    status: int
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    data: JSON = field(default=None, repr=False)
    seconds: float = 0.0


class _Reader:
    """Raw reads through the client's own transport: the key stays where it is."""

    def __init__(self, client: TrooperClient) -> None:
        self._transport = client._transport

    async def get(
        self, endpoint: Endpoint[T], order_id: int | None = None, headers: Mapping[str, str] | None = None
    ) -> _Raw:
        sent: dict[str, JSON] = {} if order_id is None else {"order_id": order_id}
        reading = call(endpoint, "doctor", sent=sent)
        self._transport.check(reading)
        began = time.perf_counter()
        reply = await self._transport.fetch(reading, headers=headers)
        seconds = time.perf_counter() - began
        if not isinstance(reply, Response):
            return _Raw(0, seconds=seconds)
        try:
            data = json.loads(reply.body or b"null")
        except (ValueError, RecursionError):
            data = None
        return _Raw(reply.status, reply.headers, data, seconds)


@command()
async def doctor(cli: Cli) -> None:
    """Is the key good, and how does the API behave where its document leaves it open? Reads only.

    Nothing secret is in what it prints (no key, id, title, address or price): paste it into a report.
    """
    async with cli.client(needs_key=False) as client:
        reader = _Reader(client)
        found = [_versions(), *await _connection(reader)]
        status = FAILED if found[-1].verdict == "bad" else 0
        if not status:
            about_key, raw = await _key(reader, has_key=cli.settings.api_key is not None)
            found.append(about_key)
            if about_key.verdict == "bad":
                status = REFUSED_KEY if raw.status in (401, 403) else FAILED
            found += await _offers(reader)
            if about_key.verdict == "ok":
                found += await _orders(reader, raw)
        if not status and any(one.verdict == "bad" for one in found):
            status = FAILED
    made = table("", "question", "answer")
    for one in found:
        mark, style = _MARKS[one.verdict]
        made.add_row(Text(mark, style), one.question, cell(one.answer))
    cli.result(found, made)
    if status:
        bad = next(one for one in found if one.verdict == "bad")
        raise FailedError(status, f"{bad.question}: {bad.answer}")


def _versions() -> Finding:
    python = f"Python {platform.python_version()} on {platform.system()}"
    return Finding("versions", "ok", f"trooper-async {__version__}, {python}")


async def _connection(reader: _Reader) -> list[Finding]:
    first = await reader.get(TEST)
    if first.status != 200:
        answer = f"answered {first.status}" if first.status else "no answer"
        return [Finding("the API", "bad", f"GET /api/test: {answer}")]
    again = [await reader.get(TEST) for _ in range(_PINGS)]
    milliseconds = 1000 * statistics.median(raw.seconds for raw in again)
    answer = f"first answer after {1000 * first.seconds:.0f} ms, then {milliseconds:.0f} ms (median of {_PINGS})"
    return [Finding("latency", "ok", answer), _clock(again[-1]), Finding("the API", "ok", "answers")]


def _clock(raw: _Raw) -> Finding:
    try:
        then = parsedate_to_datetime(raw.headers.get("Date", ""))
        # a Date is cut to the second, and was half the way ago
        skew = datetime.now(UTC).timestamp() - raw.seconds / 2 - then.timestamp() - 0.5
    except (ValueError, TypeError):
        return Finding("clock", "note", "the answer has no Date")
    answer = f"this machine is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'} (± 1 s)"
    return Finding("clock", "ok" if abs(skew) < 5 else "note", answer)


async def _key(reader: _Reader, *, has_key: bool) -> tuple[Finding, _Raw]:
    if not has_key:
        return Finding("the key", "note", "there is none: only public endpoints were asked"), _Raw(0)
    raw = await reader.get(ORDERS)
    if raw.status == 200:
        return Finding("the key", "ok", "is accepted"), raw
    refused = raw.status in (401, 403)
    answer = "is refused" if refused else "GET /api/orders failed"
    return Finding("the key", "bad", f"{answer} ({raw.status or 'no answer'})"), raw


async def _offers(reader: _Reader) -> list[Finding]:
    return [
        *_fields(Blib, [await reader.get(BLIBS)], BLIBS.path),
        *_fields(Template, [await reader.get(TEMPLATES)], TEMPLATES.path),
    ]


async def _orders(reader: _Reader, raw: _Raw) -> list[Finding]:
    orders = rows_of(raw.data)
    texts = [str(row.get("order_id")) for row in orders[:_ORDERS_LOOKED_AT]]  # it may be a number, or a text
    ids = [int(text) for text in texts if text.isdecimal() and len(text) < 20]
    histories = [await reader.get(STATUS_HISTORY, order_id) for order_id in ids]
    installs = [await reader.get(TEMPLATE_CONFIG, order_id) for order_id in ids]
    changes = [rows_of(history.data, "history") for history in histories]
    return [
        Finding("orders", "ok" if isinstance(raw.data, list) else "bad", f"{len(orders)}, read in {raw.seconds:.2f} s"),
        findings.dialect(orders),
        findings.both_statuses(orders),
        findings.unknown_words(orders, [row for rows in changes for row in rows]),
        findings.same_ids(orders),
        findings.history_ids(changes),
        findings.template_states([row for install in installs for row in rows_of(install.data, "templates")]),
        await _etag(reader, raw),
        _headers(raw),
        *_fields(Order, [raw], ORDERS.path),
        *_fields(StatusChange, histories, STATUS_HISTORY.path, "history"),
        *_fields(TemplateInstall, installs, TEMPLATE_CONFIG.path, "templates"),
        *_fields(Blib, [await reader.get(BLIBS_PRIVATE)], BLIBS_PRIVATE.path),
    ]


def _fields(model: type, answers: list[_Raw], where: str, inside: str | None = None) -> list[Finding]:
    rows = [row for raw in answers for row in rows_of(raw.data, inside)]
    if not rows:
        statuses = ", ".join(sorted({str(raw.status or "no answer") for raw in answers})) or "not asked"
        return [Finding(f"fields of {where}", "note", f"none to see ({statuses})")]
    return [findings.unknown_fields(model, rows, where), findings.loose_kinds(model, rows, where)]


async def _etag(reader: _Reader, raw: _Raw) -> Finding:
    etag = raw.headers.get("ETag")
    if etag is None:
        return Finding("ETag of the orders", "ok", "none")
    again = await reader.get(ORDERS, headers={"If-None-Match": etag})
    if again.status == 304:
        return Finding("ETag of the orders", "ok", "answered with 304")
    changed = again.headers.get("ETag") != etag
    answer = "another one at the next read" if changed else f"not obeyed: answered with {again.status}"
    return Finding("ETag of the orders", "note", answer)


def _headers(raw: _Raw) -> Finding:
    names = [name.lower() for name in raw.headers]
    telling = [name for name in names if name in _TELLING_HEADERS or "ratelimit" in name.replace("-", "")]
    return Finding("telling headers of the orders", "ok", ", ".join(sorted(set(telling))) or "none")
