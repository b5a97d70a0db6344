"""What a response means: a pure function of the call, the status, the headers and the body.

A response becomes data, or a `FailedAttempt`: a value that holds the error, so that nothing is raised in a frame that
holds a body or a header.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from http import HTTPStatus
from typing import TypeVar

from attrs import field, frozen

from trooper_async._api.endpoints import Call, Repeatability
from trooper_async._api.rows import LARGEST, rows_of
from trooper_async._api.status_errors import retry_after, status_error
from trooper_async._base.json_text import loads
from trooper_async._base.slices import SlicedWork
from trooper_async.errors import ResponseFormatError, TrooperError
from trooper_async.models import JSON

T = TypeVar("T")


class Failure(Enum):
    """What became of one attempt that did not succeed."""

    NEVER_SENT = "never sent"
    LOST = "lost"
    """Sent, and no whole answer: reset, cut within the body, not in time."""
    RATE_LIMITED = "429"
    SERVER_ERROR = "5xx or 408"
    """Whatever the body says: a catch-all handler can answer "false" after the work was done."""
    REFUSED = "refused"
    """Another 4xx, or success: false under a 2xx."""
    UNREADABLE = "2xx that can't be read"
    REDIRECTED = "3xx"


@frozen
class Response:
    """A whole answer. `body` is None where it was larger than allowed."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)


@frozen
class FailedAttempt:
    """An attempt that did not succeed: what happened, and the error it is if it is the last."""

    failure: Failure
    error: TrooperError
    retry_after: float | None = None
    reused_connection: bool = False
    """Whether it went out on a connection that had been used before (of ours): then a cut says little about the API."""


def interpret(
    call: Call[T], reply: Response, *, redact: Callable[[str], str], now: float
) -> SlicedWork[T | FailedAttempt]:
    """What the answer to `call` means.

    Args:
        call: what was called.
        reply: the whole answer.
        redact: blanks the API key in a text of the API's.
        now: seconds since the epoch, for a Retry-After that is a date and an answer that has none.
    """
    if 200 <= reply.status < 300:
        if call.fresh and (cached := out_of_cache(reply)) is not None:
            return cached
        try:
            return (yield from _read(call, reply, redact))
        except ResponseFormatError as error:
            fault = error
        # the same error without the frames that it came through: they hold the body
        return FailedAttempt(Failure.UNREADABLE, fault.with_traceback(None))
    if reply.status < 400:
        failure = Failure.REDIRECTED
    elif reply.status == HTTPStatus.TOO_MANY_REQUESTS:
        failure = Failure.RATE_LIMITED
    elif reply.status >= 500 or reply.status == HTTPStatus.REQUEST_TIMEOUT:
        failure = Failure.SERVER_ERROR
    else:
        failure = Failure.REFUSED
    data = _object(reply.body)
    if failure is Failure.REFUSED and _contradicts(call, data):
        failure = Failure.UNREADABLE
    pause = retry_after(reply.headers, now)
    return FailedAttempt(failure, status_error(reply.status, data, redact, pause), pause)


def _read(call: Call[T], reply: Response, redact: Callable[[str], str]) -> SlicedWork[T | FailedAttempt]:
    if reply.body is None:
        raise ResponseFormatError("$", "smaller than max_body_bytes")
    decode = call.decode or call.endpoint.read_rows
    if decode is not None and (rows := rows_of(reply.body)) is not None:
        return (yield from decode(rows))
    if len(reply.body) > LARGEST:
        raise ResponseFormatError("$", "at most 256 KiB")
    data = loads(reply.body)
    if isinstance(data, dict):
        success = data.get("success")
        if success is not None and _is_false(success):
            failure = Failure.UNREADABLE if _contradicts(call, data) else Failure.REFUSED
            return FailedAttempt(failure, status_error(reply.status, data, redact, None))
        if success is None and data.get("error"):
            raise ResponseFormatError("$.success", "there")
    return call.endpoint.read(data, call.sent)


def out_of_cache(reply: Response) -> FailedAttempt | None:
    """Why a response proves nothing, where it comes out of a cache."""
    if reply.headers.get("Age", "0").strip() == "0":
        return None
    return FailedAttempt(Failure.UNREADABLE, ResponseFormatError("Age", "0: a response out of a cache proves nothing"))


def _contradicts(call: Call[T], data: dict[str, JSON]) -> bool:
    """Whether a purchase is refused, and the order that it bought named all the same."""
    if call.kind is not Repeatability.PURCHASE:
        return False
    try:
        order_id = call.endpoint.read(data, call.sent)
    except ResponseFormatError:
        return False
    return isinstance(order_id, int) and order_id > 0


def _is_false(value: JSON) -> bool:
    return value in (False, "0") or (isinstance(value, str) and value.casefold() == "false")


def _object(body: bytes | None) -> dict[str, JSON]:
    """The error body's fields; none where it is no JSON object (an HTML page, say), or a very large one."""
    try:
        data = loads(body if body is not None and len(body) <= LARGEST else b"")
    except ResponseFormatError:
        return {}
    return data if isinstance(data, dict) else {}
