"""`client.call`: an endpoint that the package does not know, with the key and the same errors as all others."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.raw_server import CUT, FAST, KEY, RawServer, http
from tests.helpers.texts import exactly
from trooper_async import (
    APIConnectionError,
    BadRequestError,
    ConfigurationError,
    OutcomeUnknownError,
    RefusedError,
    ResponseFormatError,
)


async def test_a_get_returns_the_json() -> None:
    """The path is sent unchanged, with its query, and with the key."""
    async with RawServer(http(b'{"a": [1, null]}'), http(b'[{"b": 1}, {"b": 2}]')) as server, server.client() as client:
        assert await client.call("GET", "/api/news?since=1") == {"a": [1, None]}
        assert await client.call("GET", "/api/list") == [{"b": 1}, {"b": 2}]
    assert [request.head.splitlines()[0] for request in server.requests] == [
        "GET /api/news?since=1 HTTP/1.1",
        "GET /api/list HTTP/1.1",
    ]
    assert server.requests[0].header("Authorization") == [f"Bearer {KEY}"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_other_methods_send_json(method: str) -> None:
    """The fields are its body."""
    async with RawServer(http(b'{"success": true, "id": 5}')) as server, server.client() as client:
        assert await client.call(method, "/api/new", json={"n": 1}) == {"success": True, "id": 5}
    assert server.requests[0].body == b'{"n": 1}'
    assert server.requests[0].header("Content-Type") == ["application/json"]


async def test_a_call_is_sent_once() -> None:
    """A lost response is an unknown outcome, for a GET a connection error; a 5xx is not retried either."""
    async with RawServer(CUT) as server, server.client(retry=FAST) as client:
        with pytest.raises(OutcomeUnknownError):
            await client.call("POST", "/api/new")
        with pytest.raises(APIConnectionError):
            await client.call("GET", "/api/new")
        server.answers = [server.answers[0]._replace(data=http(b"{}", status="500 No"), then="next")]
        with pytest.raises(OutcomeUnknownError, match="500"):
            await client.call("POST", "/api/new")
    assert len(server.requests) == 3


async def test_a_429_is_waited_out() -> None:
    """It has changed nothing: the request is sent again when the API allows."""
    slow = http(b"{}", "Retry-After: 0", status="429 Slow down")
    async with RawServer(slow, slow, http(b"{}")) as server, server.client(retry=FAST) as client:
        assert await client.call("POST", "/api/new") == {}
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (http(b'{"error": "no such field"}', status="400 Bad"), BadRequestError),
        (http(b'{"success": false, "error": "no"}'), RefusedError),
        (http(b"<html>"), OutcomeUnknownError),
    ],
)
async def test_the_errors_are_those_of_all_calls(answer: bytes, kind: type[Exception]) -> None:
    """They name the method and the path."""
    async with RawServer(answer) as server, server.client() as client:
        with pytest.raises(kind, match="call POST /api/new"):
            await client.call("POST", "/api/new")
        if kind is OutcomeUnknownError:
            with pytest.raises(ResponseFormatError):
                await client.call("GET", "/api/new")


@pytest.mark.parametrize(
    "path",
    [
        "api/x",
        "https://evil.example/api/x",
        "/api/../x",
        "/api/./x",
        "/api/x#y",
        "/api/a b",
        "/api/x\r\nX-Injected: yes",
        "/api/ü",
        "/api\\x",
        5,
    ],
)
async def test_an_invalid_path_is_refused(path: Any) -> None:
    """Neither another host nor another header can be reached through a path."""
    problem = "the path must begin with / and be printable ASCII, without spaces, backslashes, `#`, `.` and `..`"
    async with RawServer() as server, server.client() as client:
        with pytest.raises(ConfigurationError, match=exactly(f"call: {problem}: nothing was sent")):
            await client.call("GET", path)
    assert server.requests == []


@pytest.mark.parametrize(
    ("method", "json", "problem"),
    [
        ("FETCH", None, "call: the method must be one of GET, POST, PUT, PATCH, DELETE, not 'FETCH'"),
        ("get", None, "call: the method must be one of GET, POST, PUT, PATCH, DELETE, not 'get'"),
        ("GET", {"a": 1}, "call: a GET has no JSON: write a query in its path"),
        ("POST", [1], "call: json must be a mapping"),
        ("POST", {"a": float("nan")}, "call POST /api/x: an argument can't be sent as JSON"),
    ],
)
async def test_an_invalid_call_is_refused(method: str, json: Any, problem: str) -> None:
    """Another method, a GET with a body, or what is not JSON: a ConfigurationError, and nothing was sent."""
    async with RawServer() as server, server.client() as client:
        with pytest.raises(ConfigurationError, match=exactly(f"{problem}: nothing was sent")):
            await client.call(method, "/api/x", json=json)
    assert server.requests == []


async def test_a_call_needs_a_key() -> None:
    """Whether an unknown endpoint is public is not known."""
    async with RawServer() as server, server.client(api_key=None) as client:
        with pytest.raises(ConfigurationError, match="no API key"):
            await client.call("GET", "/api/x")
    assert server.requests == []
