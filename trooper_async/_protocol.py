"""The API's protocol without I/O: every endpoint in one table, and what an answer to it means.

An answer becomes data, or a `Fault`: a value that holds the error, so that nothing is raised in a frame that holds a
body or a header.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from http import HTTPStatus
from typing import Generic, Never, TypeVar

from attrs import field, frozen

from trooper_async._converter import dumps, loads, structure
from trooper_async._retry import Happened, Kind
from trooper_async._rows import LARGEST, Rows, rows_of
from trooper_async._slices import Steps, at_once
from trooper_async._snapshot import Snapshot
from trooper_async._status_error import retry_after, status_error
from trooper_async.errors import ResponseFormatError, TrooperError
from trooper_async.models import (
    JSON,
    Blib,
    Credentials,
    MigrationOptions,
    MigrationQuote,
    Order,
    StatusChange,
    Template,
    TemplateInstall,
)
from trooper_async.transition import Transition

T = TypeVar("T")
Sent = Mapping[str, JSON]


@frozen
class Endpoint(Generic[T]):
    """A row of the API: how it is called, what calling it twice would do, and what it returns."""

    method: str
    path: str
    kind: Kind
    read: Callable[[JSON, Sent], T] = field(repr=False)
    """(the answer's JSON, what was sent) → what it returns; raises ResponseFormatError."""
    public: bool = False
    """Whether it answers without a key too."""
    read_rows: Callable[[Rows], Steps[T]] | None = field(default=None, repr=False)
    """The same for a list, which is read row by row."""


@frozen
class Call(Generic[T]):
    """One call of an endpoint. `operation` and `subject` are for people: `orders.stop`, `order 123`."""

    endpoint: Endpoint[T]
    operation: str
    kind: Kind
    subject: str = ""
    sent: Sent = field(factory=dict, repr=False)
    transition: Transition | None = None
    """What can be waited for if the answer is lost."""
    sending: Callable[[], None] | None = None
    """Called when it is about to leave: until then, cancelling it means that nothing was sent."""

    @cached_property
    def body(self) -> bytes | None:
        """What a POST carries; a GET carries the same as its query."""
        return dumps(dict(self.sent)) if self.endpoint.method == "POST" else None

    @property
    def query(self) -> dict[str, str]:
        return {} if self.endpoint.method == "POST" else {name: str(value) for name, value in self.sent.items()}


@frozen
class Reply:
    """A whole answer. `body` is None where it was larger than allowed."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)


@frozen
class Fault:
    """An attempt that did not succeed: what happened, and the error it is if it is the last."""

    happened: Happened
    error: TrooperError
    retry_after: float | None = None
    kept_connection: bool = False
    """Whether it went out on a connection that had been used before (of ours): then a cut says little about the API."""


def call(
    endpoint: Endpoint[T],
    operation: str,
    subject: str = "",
    sent: Sent | None = None,
    *,
    kind: Kind | None = None,
    transition: Transition | None = None,
    sending: Callable[[], None] | None = None,
) -> Call[T]:
    """A call of `endpoint`; `kind` where sending it twice does other things than its endpoint's row says."""
    return Call(endpoint, operation, kind or endpoint.kind, subject, sent or {}, transition, sending)


def interpret(call: Call[T], reply: Reply, *, redact: Callable[[str], str], now: float) -> T | Fault:
    """What the answer to `call` means, without a pause: see `interpret_in_steps`."""
    steps = interpret_in_steps(call, reply, redact=redact, now=now)
    return at_once(steps)


def interpret_in_steps(call: Call[T], reply: Reply, *, redact: Callable[[str], str], now: float) -> Steps[T | Fault]:
    """What the answer to `call` means.

    Args:
        call: what was called.
        reply: the whole answer.
        redact: blanks the API key in a text of the API's.
        now: seconds since the epoch, for a Retry-After that is a date and an answer that has none.
    """
    if 200 <= reply.status < 300:
        try:
            return (yield from _read(call, reply, redact))
        except ResponseFormatError as error:
            fault = error
        # the same error without the frames that it came through: they hold the body
        return Fault(Happened.UNREADABLE, fault.with_traceback(None))
    if reply.status < 400:
        happened = Happened.REDIRECTED
    elif reply.status == HTTPStatus.TOO_MANY_REQUESTS:
        happened = Happened.PACED
    elif reply.status >= 500 or reply.status == HTTPStatus.REQUEST_TIMEOUT:
        happened = Happened.FAILED
    else:
        happened = Happened.REFUSED
    data = _object(reply.body)
    pause = retry_after(reply.headers, now)
    return Fault(happened, status_error(reply.status, data, redact, pause), pause)


def _read(call: Call[T], reply: Reply, redact: Callable[[str], str]) -> Steps[T | Fault]:
    if reply.body is None:
        raise ResponseFormatError("$", "smaller than max_body_bytes")
    if call.endpoint.read_rows is not None and (rows := rows_of(reply.body)) is not None:
        return (yield from call.endpoint.read_rows(rows))
    if len(reply.body) > LARGEST:
        raise ResponseFormatError("$", "at most 256 KiB")
    data = loads(reply.body)
    if isinstance(data, dict):
        success = data.get("success")
        if success is not None and _is_false(success):
            return Fault(Happened.REFUSED, status_error(reply.status, data, redact, None))
        if success is None and data.get("error"):
            raise ResponseFormatError("$.success", "there")
    return call.endpoint.read(data, call.sent)


def _is_false(value: JSON) -> bool:
    return value in (False, "0") or (isinstance(value, str) and value.casefold() == "false")


def _object(body: bytes | None) -> dict[str, JSON]:
    """The error body's fields; none where it is no JSON object (an HTML page, say), or a very large one."""
    try:
        data = loads(body if body is not None and len(body) <= LARGEST else b"")
    except ResponseFormatError:
        return {}
    return data if isinstance(data, dict) else {}


# What each endpoint returns -----------------------------------------------------------------------------------------


def _list_of(model: type[T]) -> Callable[[Rows], Steps[list[T]]]:
    def read(rows: Rows) -> Steps[list[T]]:
        items: list[T] = []
        while not rows.ended:
            row = rows.read()
            try:
                items.append(structure(row, model))
            except ResponseFormatError as error:
                fault = ResponseFormatError(f"$[{len(items)}]{error.path[1:]}", error.expected)
                break
            yield
        else:
            return items
        raise fault

    return read


def _no_list(data: JSON, sent: Sent) -> Never:
    raise ResponseFormatError("$", "a list")


def orders_after(last: Callable[[], Snapshot]) -> Endpoint[Snapshot]:
    """The list of orders, read as what has changed since the last: a row that can't be read costs only itself.

    `last` is asked when the answer is there: a call, and an error that holds it, holds no list.
    """
    return _orders(lambda rows: last().next(rows))


def all_orders_after(last: Callable[[], Snapshot]) -> Endpoint[tuple[list[Order], Snapshot]]:
    """The same, and each row's order; a row that can't be read is an error."""

    def read(rows: Rows) -> Steps[tuple[list[Order], Snapshot]]:
        start = rows.at
        after = yield from last().next(rows)
        orders = after.listed()
        if orders is None:
            orders = yield from _list_of(Order)(Rows(rows.body, start))
        return orders, after

    return _orders(read)


def _orders(read: Callable[[Rows], Steps[T]]) -> Endpoint[T]:
    return Endpoint("GET", "/api/orders", Kind.READ, _no_list, read_rows=read)


def _field(name: str, kind: type[T]) -> Callable[[JSON, Sent], T]:
    def read(data: JSON, sent: Sent) -> T:
        value = _envelope(data).get(name)
        if value is None:
            raise ResponseFormatError(f"$.{name}", "there")
        try:
            return structure(value, kind)
        except ResponseFormatError as error:
            fault = ResponseFormatError(f"$.{name}{error.path[1:]}", error.expected)
        raise fault

    return read


def _whole(model: type[T]) -> Callable[[JSON, Sent], T]:
    return lambda data, sent: structure(data, model)


def _accepted(data: JSON, sent: Sent) -> None:
    _envelope(data)


def _quote(data: JSON, sent: Sent) -> MigrationQuote:
    # the answer does not say what it is the price of
    return structure({**_envelope(data), **sent}, MigrationQuote)


def _envelope(data: JSON) -> dict[str, JSON]:
    if not isinstance(data, dict):
        raise ResponseFormatError("$", "an object")
    return data


TEST = Endpoint("GET", "/api/test", Kind.READ, _field("test", str), public=True)
BLIBS = Endpoint("GET", "/api/blibs", Kind.READ, _no_list, public=True, read_rows=_list_of(Blib))
BLIBS_PRIVATE = Endpoint("GET", "/api/blibs-private", Kind.READ, _no_list, read_rows=_list_of(Blib))
ORDER = Endpoint("POST", "/api/order", Kind.PURCHASE, _field("orderId", int))
ORDERS = _orders(_list_of(Order))
ORDERS_TOLERANT = orders_after(Snapshot)
# a restart, and a start that may migrate, are Kind.ONCE: orders says so when it calls
ORDER_STATUS = Endpoint("POST", "/api/order-status", Kind.SETTING, _accepted)
ORDER_TITLE = Endpoint("POST", "/api/order-title", Kind.SETTING, _accepted)
ORDER_LOCK = Endpoint("POST", "/api/order-lock", Kind.SETTING, _accepted)
CREDENTIALS = Endpoint("POST", "/api/credentials", Kind.READ, _whole(Credentials))
STATUS_HISTORY = Endpoint("GET", "/api/order-status-history", Kind.READ, _field("history", list[StatusChange]))
MIGRATION_OPTIONS = Endpoint("GET", "/api/migration-options", Kind.READ, _whole(MigrationOptions))
MIGRATION_COST = Endpoint("POST", "/api/migration-cost", Kind.READ, _quote)
BUY_MIGRATION = Endpoint("POST", "/api/buy-migration", Kind.PURCHASE, _field("new_order_id", int))
TEMPLATES = Endpoint("GET", "/api/templates", Kind.READ, _no_list, public=True, read_rows=_list_of(Template))
TEMPLATE_CONFIG = Endpoint("GET", "/api/template-config", Kind.READ, _field("templates", list[TemplateInstall]))
INSTALL_ADD = Endpoint("POST", "/api/template-install-add", Kind.ONCE, _field("install_id", int))
INSTALL_DELETE = Endpoint("POST", "/api/template-install-delete", Kind.SETTING, _accepted)
INSTALL_RETRY = Endpoint("POST", "/api/template-install-retry", Kind.ONCE, _accepted)
