"""The error of an answer whose status, or whose `success`, says that it is none, and the pause that it asks for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus

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


def status_error(
    status: int, data: Mapping[str, JSON], redact: Callable[[str], str], pause: float | None
) -> APIStatusError:
    """The error of an answer of that status; its text is the API's where there is one.

    Args:
        status: of the answer, a 2xx too.
        data: what was in it.
        redact: blanks the API key in a text of the API's.
        pause: seconds that the API asked to wait.
    """
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
