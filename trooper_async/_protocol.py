"""The API's protocol without I/O: every endpoint in one table, and what an answer to it means.

An answer becomes data, or a `Fault`: a value that holds the error, so that nothing is raised in a frame that holds a
body or a header.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Generic, TypeVar

from attrs import field, frozen

from trooper_async import errors
from trooper_async._converter import dumps, loads, structure
from trooper_async._retry import Happened, Kind
from trooper_async._snapshot import Snapshot
from trooper_async.errors import APIStatusError, ResponseFormatError, TrooperError
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

    @property
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
    """Whether it went out on a connection that had been used before: then a cut says little about the API."""


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
    """What the answer to `call` means.

    Args:
        call: what was called.
        reply: the whole answer.
        redact: blanks the API key in a text of the API's.
        now: seconds since the epoch, for a Retry-After that is a date and an answer that has none.
    """
    if 200 <= reply.status < 300:
        try:
            return _read(call, reply, redact)
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
    return Fault(happened, _status_error(reply.status, data, redact, pause), pause)


def _read(call: Call[T], reply: Reply, redact: Callable[[str], str]) -> T | Fault:
    if reply.body is None:
        raise ResponseFormatError("$", "smaller than max_body_bytes")
    data = loads(reply.body)
    if isinstance(data, dict):
        success = data.get("success")
        if success is not None and _is_false(success):
            return Fault(Happened.REFUSED, _status_error(reply.status, data, redact, None))
        if success is None and data.get("error"):
            raise ResponseFormatError("$.success", "there")
    return call.endpoint.read(data, call.sent)


def _is_false(value: JSON) -> bool:
    return value in (False, "0") or (isinstance(value, str) and value.casefold() == "false")


def _object(body: bytes | None) -> dict[str, JSON]:
    """The error body's fields; none where it is no JSON object (an HTML page, say)."""
    try:
        data = loads(body or b"")
    except ResponseFormatError:
        return {}
    return data if isinstance(data, dict) else {}


_STATUS_ERRORS = {
    400: errors.BadRequestError,
    401: errors.AuthenticationError,
    403: errors.PermissionDeniedError,
    404: errors.NotFoundError,
    429: errors.RateLimitError,
}


def _status_error(
    status: int, data: Mapping[str, JSON], redact: Callable[[str], str], pause: float | None
) -> APIStatusError:
    message = _text(data.get("error"), redact) or _text(data.get("message"), redact) or _phrase(status)
    if 200 <= status < 300:
        kind: type[APIStatusError] = errors.RefusedError
    elif status == HTTPStatus.FORBIDDEN and re.search(r"\blocked\b", message, re.IGNORECASE):
        kind = errors.ServerLockedError  # "Server is locked and cannot be modified"; not "blocked"
    elif status >= 500:
        kind = errors.ServerError
    else:
        kind = _STATUS_ERRORS.get(status, APIStatusError)
    return kind(message, status=status, next_step=_text(data.get("next"), redact), retry_after=pause)


def _text(value: JSON, redact: Callable[[str], str]) -> str | None:
    """A text of the API's, fit for a terminal and a log: one line of printable characters, not endless."""
    if not isinstance(value, str):
        return None
    return "".join(c if c.isprintable() else " " for c in redact(value[:100_000]))[:500].strip() or None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no text"


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds of a Retry-After (RFC 9110 10.2.3: seconds, or a date); nonsense is None."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        return float(text)
    then = _date(text)
    if then is None:
        return None
    server_now = _date(headers.get("Date", ""))  # the server's own clock, where it tells it
    return max(0.0, then - (now if server_now is None else server_now))


def _date(text: str) -> float | None:
    try:
        time = parsedate_to_datetime(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


# What each endpoint returns -----------------------------------------------------------------------------------------


def _list_of(model: type[T]) -> Callable[[JSON, Sent], list[T]]:
    return lambda data, sent: structure(data, list[model])  # type: ignore[valid-type]  # a type made at run time


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
BLIBS = Endpoint("GET", "/api/blibs", Kind.READ, _list_of(Blib), public=True)
BLIBS_PRIVATE = Endpoint("GET", "/api/blibs-private", Kind.READ, _list_of(Blib))
ORDER = Endpoint("POST", "/api/order", Kind.PURCHASE, _field("orderId", int))
ORDERS = Endpoint("GET", "/api/orders", Kind.READ, _list_of(Order))
# the same, where a row that can't be read must cost only itself
ORDERS_TOLERANT = Endpoint("GET", "/api/orders", Kind.READ, lambda data, sent: Snapshot.of(data))
# a restart, and a start that may migrate, are Kind.ONCE: orders says so when it calls
ORDER_STATUS = Endpoint("POST", "/api/order-status", Kind.SETTING, _accepted)
ORDER_TITLE = Endpoint("POST", "/api/order-title", Kind.SETTING, _accepted)
ORDER_LOCK = Endpoint("POST", "/api/order-lock", Kind.SETTING, _accepted)
CREDENTIALS = Endpoint("POST", "/api/credentials", Kind.READ, _whole(Credentials))
STATUS_HISTORY = Endpoint("GET", "/api/order-status-history", Kind.READ, _field("history", list[StatusChange]))
MIGRATION_OPTIONS = Endpoint("GET", "/api/migration-options", Kind.READ, _whole(MigrationOptions))
MIGRATION_COST = Endpoint("POST", "/api/migration-cost", Kind.READ, _quote)
BUY_MIGRATION = Endpoint("POST", "/api/buy-migration", Kind.PURCHASE, _field("new_order_id", int))
TEMPLATES = Endpoint("GET", "/api/templates", Kind.READ, _list_of(Template), public=True)
TEMPLATE_CONFIG = Endpoint("GET", "/api/template-config", Kind.READ, _field("templates", list[TemplateInstall]))
INSTALL_ADD = Endpoint("POST", "/api/template-install-add", Kind.ONCE, _field("install_id", int))
INSTALL_DELETE = Endpoint("POST", "/api/template-install-delete", Kind.SETTING, _accepted)
INSTALL_RETRY = Endpoint("POST", "/api/template-install-retry", Kind.ONCE, _accepted)
