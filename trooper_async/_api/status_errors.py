"""The error for a response's status or `success: false`, and the pause that the response asks for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import responses
from itertools import islice
from urllib.parse import urlsplit

from trooper_async import errors
from trooper_async.errors import APIStatusError
from trooper_async.models import JSON

_STATUS_ERRORS = {
    400: errors.BadRequestError,
    401: errors.AuthenticationError,
    403: errors.PermissionDeniedError,
    404: errors.NotFoundError,
    429: errors.RateLimitError,
}
_MESSAGES = ("error", "message", "errors", "detail", "details", "title", "description", "reason")
"""The fields of an error body that may hold its text; the API's own comes first."""
_DEEPEST = 5
_MOST_TEXTS = 5


def status_error(
    status: int, data: JSON, redact: Callable[[str], str], *, pause: float | None = None, location: str | None = None
) -> APIStatusError:
    """The error for a response with that status, with the API's text if there is one.

    Args:
        status: of the response; it may be a 2xx with `success: false`.
        data: its body, as JSON or as text.
        redact: removes the API key from a text.
        pause: seconds that the API asked to wait.
        location: where a redirect leads.
    """
    message = error_text(data, redact) or ("no reason given" if status < 300 else responses.get(status, "no text"))
    hint = None
    if status < 300:
        kind: type[APIStatusError] = errors.RefusedError
    elif status == HTTPStatus.FORBIDDEN and re.search(r"\blocked\b", message, re.IGNORECASE):
        kind = errors.ServerLockedError  # "Server is locked and cannot be modified"; not "blocked"
    elif status >= 500:
        kind = errors.ServerError
    else:
        kind = _STATUS_ERRORS.get(status, APIStatusError)
    if 300 <= status < 400:
        hint = "Redirects are not followed: check the base URL"
        if where := _clean(_without_query(location), redact):
            message += f", to {where}"
    elif status < 500 and re.search(r"\bbudget\b", message, re.IGNORECASE):
        hint = "Nothing was bought: top up the account, then try again"
    next_step = data.get("next") if isinstance(data, dict) else None
    next_step = _clean(next_step, redact) if isinstance(next_step, str) else None
    error = kind(message, status=status, next_step=next_step, retry_after=pause)
    error.hint = hint or error.hint
    return error


def error_text(data: JSON, redact: Callable[[str], str]) -> str | None:
    """The text of an error body of any shape, safe for a terminal; None if it has none."""
    return _clean("; ".join(islice(_texts(data), _MOST_TEXTS)), redact)


def _texts(data: JSON, depth: int = 0) -> Iterator[str]:
    """The texts in an error body: the usual fields of an object, or else all of its fields with their names; the items
    of a list.
    """
    if isinstance(data, str) and data.strip():
        yield data
    elif isinstance(data, list) and depth < _DEEPEST:
        for item in data[:_MOST_TEXTS]:
            yield from _texts(item, depth + 1)
    elif isinstance(data, dict) and depth < _DEEPEST:
        for name in _MESSAGES:
            texts = list(islice(_texts(data.get(name), depth + 1), _MOST_TEXTS))
            if texts:
                yield from texts
                return
        if depth:  # an object with a text for each field
            for name, value in islice(data.items(), _MOST_TEXTS):
                yield from (f"{name}: {text}" for text in _texts(value, depth + 1))


def _clean(text: str | None, redact: Callable[[str], str]) -> str | None:
    """A text of the API, safe for a terminal and a log: one line of printable characters of limited length."""
    if text is None:
        return None
    return "".join(c if c.isprintable() else " " for c in redact(text[:100_000]))[:500].strip() or None


def _without_query(location: str | None) -> str | None:
    """Where a redirect leads, without the parts that may hold a secret."""
    try:
        parts = urlsplit(location or "")
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    except ValueError:
        return None


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds of a Retry-After (RFC 9110 10.2.3: seconds, or a date); None if it is invalid."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        return float(text)
    then = _date(text)
    if then is None:
        return None
    server_now = _date(headers.get("Date", ""))  # the server's own clock, if it sends it
    return max(0.0, then - (now if server_now is None else server_now))


def _date(text: str) -> float | None:
    try:
        time = parsedate_to_datetime(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
