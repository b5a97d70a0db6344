"""Calls of endpoints that are not in the table."""

from __future__ import annotations

import re
from collections.abc import Mapping

from trooper_async._api.endpoints import Call, Endpoint, Repeatability, Sent, list_of
from trooper_async.errors import ConfigurationError
from trooper_async.models import JSON

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def call_of(method: str, path: str, sent: Sent | None) -> Call[JSON]:
    """Make a call of an endpoint that is not in the table; it returns the response's JSON.

    Raises:
        ConfigurationError: it can't be one.
    """
    operation = f"call {method} {path}"[:100]
    problem = None
    if method not in _METHODS:
        problem = f"the method must be one of {', '.join(_METHODS)}, not {method!r:.40}"
    elif not isinstance(path, str) or not re.fullmatch(r"/[!-~]*", path) or re.search(r"[#\\]|/\.\.?(?=[/?]|$)", path):
        problem = "the path must begin with / and be printable ASCII, without spaces, backslashes, `#`, `.` and `..`"
    elif sent is not None and (method == "GET" or not isinstance(sent, Mapping)):
        problem = "a GET has no JSON: write a query in its path" if method == "GET" else "json must be a mapping"
    if problem is not None:
        raise ConfigurationError(f"{problem}: nothing was sent", operation="call")
    kind = Repeatability.READ if method == "GET" else Repeatability.ONCE
    endpoint = Endpoint(method, path, kind, lambda data, _: data, read_rows=list_of(lambda row: row))
    return Call(endpoint, operation, sent=sent or {})
