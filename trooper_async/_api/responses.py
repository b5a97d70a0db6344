"""What a response means, as a pure function of the call, the status, the headers and the body.

A response becomes data, or a `FailedAttempt`: a value that holds the error. Nothing is raised in a frame that holds a
body or headers, since tracebacks would expose them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from http import HTTPStatus
from typing import TypeVar

from attrs import field, frozen

from trooper_async._api.endpoints import Call, Repeatability, accepted
from trooper_async._api.rows import LARGEST, rows_of
from trooper_async._api.status_errors import error_text, retry_after, status_error
from trooper_async._base.json_text import loads
from trooper_async._base.slices import SlicedWork
from trooper_async.errors import ResponseFormatError, TrooperError
from trooper_async.models import JSON

T = TypeVar("T")


class Failure(Enum):
    """How an attempt failed."""

    NEVER_SENT = "never sent"
    LOST = "lost"
    """Sent, but no whole response came: a reset, a body that was cut, or a timeout."""
    RATE_LIMITED = "429"
    SERVER_ERROR = "5xx or 408"
    """Whatever the body says: a catch-all handler can send `success: false` after the work is done."""
    REFUSED = "refused"
    """Another 4xx, or `success: false` under a 2xx."""
    UNREADABLE = "2xx that can't be read"
    REDIRECTED = "3xx"


@frozen
class Response:
    """A whole response. `body` is None if it was larger than allowed."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)


@frozen
class FailedAttempt:
    """A failed attempt: what happened, and the error to raise if it is the last one."""

    failure: Failure
    error: TrooperError
    retry_after: float | None = None
    reused_connection: bool = False
    """Whether its connection had been used before: if such a connection is cut, that says little about the API."""


def interpret(
    call: Call[T], response: Response, *, redact: Callable[[str], str], now: float
) -> SlicedWork[T | FailedAttempt]:
    """What the response to `call` means.

    Args:
        call: what was sent.
        response: the whole response.
        redact: removes the API key from a text.
        now: seconds since the epoch, for a Retry-After that is a date in a response without one.
    """
    if 200 <= response.status < 300:
        if call.fresh and (cached := out_of_cache(response)) is not None:
            return cached
        try:
            return (yield from _read(call, response, redact))
        except ResponseFormatError as error:
            fault = error
        # the same error without its traceback, whose frames hold the body
        return FailedAttempt(Failure.UNREADABLE, fault.with_traceback(None))
    if response.status < 400:
        failure = Failure.REDIRECTED
    elif response.status == HTTPStatus.TOO_MANY_REQUESTS:
        failure = Failure.RATE_LIMITED
    elif response.status >= 500 or response.status == HTTPStatus.REQUEST_TIMEOUT:
        failure = Failure.SERVER_ERROR
    else:
        failure = Failure.REFUSED
    body = _error_body(response.body)
    if failure is Failure.REFUSED and _contradicts(call, body):
        failure = Failure.UNREADABLE
    pause = retry_after(response.headers, now)
    location = response.headers.get("Location")
    return FailedAttempt(failure, status_error(response.status, body, redact, pause=pause, location=location), pause)


def _read(call: Call[T], response: Response, redact: Callable[[str], str]) -> SlicedWork[T | FailedAttempt]:
    body = response.body
    if body is None:
        raise ResponseFormatError("$", "smaller than max_body_bytes")
    decode = call.decode or call.endpoint.read_rows
    if decode is not None and (rows := rows_of(body)) is not None:
        return (yield from decode(rows))
    if len(body) > LARGEST:
        raise ResponseFormatError("$", "at most 256 KiB")
    if _is_page(body):
        raise _page()
    needs_nothing = call.endpoint.read is accepted
    data = _any_body(body) if needs_nothing and (call.kind is Repeatability.SETTING or not body) else loads(body)
    if isinstance(data, dict):
        success = data.get("success")
        if success is not None and _is_false(success):
            failure = Failure.UNREADABLE if _contradicts(call, data) else Failure.REFUSED
            return FailedAttempt(failure, status_error(response.status, data, redact))
        if success is None and data.get("error"):
            raise ResponseFormatError("$.success", f"there (the API sent an error: {error_text(data, redact)})")
    return call.endpoint.read(data, call.sent)


def out_of_cache(response: Response) -> FailedAttempt | None:
    """Why a response proves nothing, if it comes from a cache."""
    if response.headers.get("Age", "0").strip() == "0":
        return None
    return FailedAttempt(Failure.UNREADABLE, ResponseFormatError("Age", "0: a cached response proves nothing"))


def _contradicts(call: Call[T], data: JSON) -> bool:
    """Whether the response refuses a purchase, but names the order that it bought."""
    if call.kind is not Repeatability.PURCHASE:
        return False
    try:
        order_id = call.endpoint.read(data, call.sent)
    except ResponseFormatError:
        return False
    return isinstance(order_id, int) and order_id > 0


def _is_false(value: JSON) -> bool:
    return value in (False, "0") or (isinstance(value, str) and value.casefold() == "false")


def _is_page(body: bytes) -> bool:
    return body[:100].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _page() -> ResponseFormatError:
    error = ResponseFormatError("$", "JSON, and is an HTML page")
    error.hint = "Something other than the API responded (a proxy, or a login page of the network): check the base URL"
    return error


def _any_body(body: bytes) -> JSON:
    """The JSON of a body, which may also be empty or a word such as `OK`. A broken object is an error: it may be a
    refusal that was cut.
    """
    try:
        return loads(body)
    except ResponseFormatError:
        if body.lstrip()[:1] in (b"{", b"["):
            raise
        return None


def _error_body(body: bytes | None) -> JSON:
    """The content of an error body: its JSON, or else its text; None if it is an HTML page or too large."""
    if body is None or len(body) > LARGEST or _is_page(body):
        return None
    try:
        return loads(body)
    except ResponseFormatError:
        return body[:10_000].decode("utf-8", "replace")
