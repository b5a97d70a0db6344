"""The faults, and the expected result for each kind of call: written down from the table, not computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tests.tools.faults.server import Place, Step, http
from tests.tools.faults.targets import Kind, Target
from trooper_async import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    PurchaseUnknownError,
    RateLimitError,
    RefusedError,
    ResponseFormatError,
    ServerError,
    ServerLockedError,
    TrooperError,
)

Record = Literal["bought", "refused", "unknown"]
Session = Literal["ours", "yours"]
ATTEMPTS = 3
"""Those of the retry policy that all cells have."""
MANY = None
"""Requests sent: some, as many as the error's attempts."""


class Expected(NamedTuple):
    """The result of a call; without an error, it succeeded."""

    wire: int | None
    error: type[TrooperError] | None
    record: Record | None = None
    """For purchases."""
    attempts: int | None = None
    """If they differ from the requests sent: failed connections count too."""


Row = Mapping[Kind, Expected]


def row(read: Expected, setting: Expected, once: Expected, purchase: Expected) -> Row:
    return {"read": read, "setting": setting, "once": once, "purchase": purchase}


def _lost(read: type[TrooperError], *, before: int = 0) -> Row:
    """Responses that are never complete, after so many 429s."""
    return row(
        Expected(before + ATTEMPTS, read),
        Expected(before + ATTEMPTS, OutcomeUnknownError),
        Expected(before + 1, OutcomeUnknownError),
        Expected(before + 1, PurchaseUnknownError, "unknown"),
    )


def _failed(error: type[TrooperError]) -> Row:
    """5xx and 408, each time."""
    return row(
        Expected(ATTEMPTS, error),
        Expected(ATTEMPTS, error),
        Expected(1, OutcomeUnknownError),
        Expected(1, PurchaseUnknownError, "unknown"),
    )


def _refused(error: type[TrooperError]) -> Row:
    """Other 4xx, or `success: false` under a 2xx."""
    return row(Expected(1, error), Expected(1, error), Expected(1, error), Expected(1, error, "refused"))


def _then(wire: int, read: type[TrooperError], setting: type[TrooperError]) -> Row:
    """A first response that proves nothing, and then others."""
    return row(
        Expected(wire, read),
        Expected(wire, setting),
        Expected(1, OutcomeUnknownError),
        Expected(1, PurchaseUnknownError, "unknown"),
    )


NEVER_SENT = row(
    Expected(0, APIConnectionError, attempts=ATTEMPTS),
    Expected(0, APIConnectionError, attempts=ATTEMPTS),
    Expected(0, APIConnectionError, attempts=ATTEMPTS),
    Expected(0, APIConnectionError, "refused", attempts=ATTEMPTS),
)
LOST = _lost(APIConnectionError)
UNREADABLE = row(
    Expected(2, ResponseFormatError),
    Expected(2, ResponseFormatError),
    Expected(1, OutcomeUnknownError),
    Expected(1, PurchaseUnknownError, "unknown"),
)
REDIRECTED = row(
    Expected(1, APIStatusError),
    Expected(1, APIStatusError),
    Expected(1, OutcomeUnknownError),
    Expected(1, PurchaseUnknownError, "unknown"),
)
RATE_LIMITED = _refused(RateLimitError)
RATE_LIMITED_LONG = row(
    Expected(MANY, RateLimitError),
    Expected(MANY, RateLimitError),
    Expected(MANY, RateLimitError),
    Expected(MANY, RateLimitError, "refused"),
)
PASSES = row(  # the second request gets a response
    Expected(2, None), Expected(2, None), Expected(1, OutcomeUnknownError), Expected(1, PurchaseUnknownError, "unknown")
)


def _rate_limited(wire: int) -> Row:
    return row(Expected(wire, None), Expected(wire, None), Expected(wire, None), Expected(wire, None, "bought"))


@dataclass(frozen=True)
class Fault:
    """What the server does with the requests under test, and the expected result."""

    name: str
    expected: Row
    steps: Callable[[Target], tuple[Step, ...]]
    place: Place = "here"
    sessions: tuple[Session, ...] = ("ours", "yours")
    timeout: float = 10.0
    """That of the request that matters."""
    deadline: float = 60.0
    accepts: bool = False
    """Whether it is a success for a call that needs nothing of the response."""
    warm: bool = False
    """Whether the client has been used before, so that connections that can be kept are there."""

    def __str__(self) -> str:
        return self.name


def _always(*steps: Step) -> Callable[[Target], tuple[Step, ...]]:
    return lambda target: steps


def _then_good(*steps: Step) -> Callable[[Target], tuple[Step, ...]]:
    return lambda target: (*steps, Step(http(target.good), works=True))


def _answer(status: str, body: bytes = b'{"error":"no"}', *headers: str, works: bool = False) -> Step:
    return Step(http(body, *headers, status=status), works=works)


NOTHING = _always(Step(then="nothing"))
HTML = b"<!DOCTYPE html><html><body>Bad Gateway</body></html>"
FALSE = b'{"success":false,"error":"it did not work, so it says"}'
LATE = 0.1
RESET, RESET_DONE = Step(then="reset"), Step(then="reset", works=True)
_429, _500 = _answer("429 Too Many Requests"), _answer("500 Internal Server Error")
_400 = _answer("400 Bad Request")


def _cut_short(step: Step) -> Step:
    return Step(step.data[:-2], "close", works=True)


def _status(status: str, expected: Row, *headers: str, body: bytes = b'{"error":"no"}', name: str = "") -> Fault:
    return Fault(name or status[:3], expected, _always(_answer(status, body, *headers)))


FAULTS = [
    # never sent
    Fault("refused", NEVER_SENT, NOTHING, "refused"),
    Fault("DNS failure", NEVER_SENT, NOTHING, "no such host"),
    Fault("TLS: untrusted certificate", NEVER_SENT, NOTHING, "untrusted"),
    Fault("TLS: no TLS spoken", NEVER_SENT, NOTHING, "no TLS"),
    Fault("TLS: hello unanswered", NEVER_SENT, NOTHING, "silent", timeout=LATE),
    Fault("pool timeout", NEVER_SENT, NOTHING, "busy pool", sessions=("yours",), timeout=LATE),
    # no complete response
    Fault("reset before sending", LOST, NOTHING, "reset on accept"),
    Fault("reset, not done", LOST, _always(RESET)),
    Fault("reset, done", LOST, _always(RESET_DONE)),
    Fault("reset on a kept connection", LOST, _always(RESET_DONE), warm=True),
    Fault("closed on a kept connection", LOST, _always(Step(then="close")), warm=True),
    Fault("no answer", _lost(APITimeoutError), _always(Step(then="nothing", works=True)), timeout=LATE),
    Fault("half an answer, then none", _lost(APITimeoutError), lambda target: (_half(target),), timeout=LATE),
    Fault("no HTTP", LOST, _always(Step(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "close", works=True))),
    Fault("400 cut in its body", LOST, _always(_cut_short(_400))),
    Fault("429 cut in its body", LOST, _always(_cut_short(_429))),
    Fault("500 cut in its body", LOST, _always(_cut_short(_500))),
    # statuses
    _status("302 Found", REDIRECTED, "Location: /api/elsewhere"),
    _status("307 Temporary Redirect", REDIRECTED, "Location: /api/elsewhere"),
    _status("400 Bad Request", _refused(BadRequestError)),
    _status("401 Unauthorized", _refused(AuthenticationError)),
    _status("403 Forbidden", _refused(PermissionDeniedError)),
    _status(
        "403 Forbidden", _refused(ServerLockedError), body=b'{"error":"Server is locked"}', name="403 that says locked"
    ),
    _status("404 Not Found", _refused(NotFoundError)),
    _status("409 Conflict", _refused(APIStatusError)),
    _status("418 I'm a Teapot", _refused(APIStatusError)),
    _status("408 Request Timeout", _failed(APIStatusError)),
    _status("500 Internal Server Error", _failed(ServerError)),
    Fault("500 false, done", _failed(ServerError), _always(_answer("500 Oh", FALSE, works=True))),
    _status("501 Not Implemented", _failed(ServerError)),
    _status("502 Bad Gateway", _failed(ServerError), "Content-Type: text/html", body=HTML, name="502 HTML"),
    _status("503 Service Unavailable", _failed(ServerError)),
    _status("504 Gateway Timeout", _failed(ServerError)),
    _status("520 Unknown Error", _failed(ServerError)),
    # rate limits: neither attempts nor budget
    Fault("429 once", _rate_limited(2), _then_good(_429)),
    Fault("429 five times", _rate_limited(6), _then_good(*[_429] * 5)),
    Fault("429, Retry-After 1", _rate_limited(2), _then_good(_answer("429 Slow", b"{}", "Retry-After: 1"))),
    _status("429 Slow", RATE_LIMITED, "Retry-After: 121", name="429, Retry-After 121"),
    Fault("429 for ever", RATE_LIMITED_LONG, _always(_429), deadline=0.4),
    # 2xx
    Fault("200 empty", UNREADABLE, _always(_answer("200 OK", b"", works=True)), accepts=True),
    Fault("204", UNREADABLE, _always(Step(b"HTTP/1.1 204 No Content\r\n\r\n", works=True)), accepts=True),
    Fault("200 HTML", UNREADABLE, _always(_answer("200 OK", HTML, "Content-Type: text/html", works=True))),
    Fault("200 false", _refused(RefusedError), _always(_answer("200 OK", FALSE))),
    Fault("200 error, no success", UNREADABLE, _always(_answer("200 OK", works=True))),
    Fault("200 null", UNREADABLE, _always(_answer("200 OK", b"null", works=True)), accepts=True),
    Fault("200 a text", UNREADABLE, _always(_answer("200 OK", b'"ok"', works=True)), accepts=True),
    Fault("200 wrong type", UNREADABLE, lambda target: (Step(http(target.wrong), works=True),), accepts=True),
    # one after another
    Fault("reset, then served", PASSES, _then_good(RESET)),
    Fault("500, then served", PASSES, _then_good(_500)),
    Fault("200 HTML, then served", PASSES, _then_good(_answer("200 OK", HTML))),
    Fault("429, then reset", _lost(APIConnectionError, before=1), _always(_429, RESET)),
    Fault("reset, then 500", _then(3, ServerError, OutcomeUnknownError), _always(RESET_DONE, _500)),
    Fault("reset, then 400", _then(2, BadRequestError, OutcomeUnknownError), _always(RESET_DONE, _400)),
    Fault("500, then 400", _then(2, BadRequestError, OutcomeUnknownError), _always(_500, _400)),
    Fault("500, then reset", _then(3, APIConnectionError, OutcomeUnknownError), _always(_500, RESET)),
    Fault(
        "reset, then refused",
        {
            **_then(1, APIConnectionError, OutcomeUnknownError),
            "read": Expected(1, APIConnectionError, attempts=ATTEMPTS),
            "setting": Expected(1, OutcomeUnknownError, attempts=ATTEMPTS),
        },
        _always(Step(then="reset", moves="refused")),
    ),
]


def _half(target: Target) -> Step:
    return Step(http(target.good)[:-1], "nothing", works=True)


# a response that is cut --------------------------------------------------------------------------------------------

Framing = Literal["length", "chunked", "until closed"]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def whole(target: Target, framing: Framing) -> bytes:
    """The complete response to it."""
    if framing == "length":
        return http(target.good, "Content-Type: application/json")
    if framing == "until closed":
        return HEAD + b"\r\n" + target.good
    half = len(target.good) // 2
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (target.good[:half], target.good[half:]))
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def cut(target: Target, framing: Framing, offset: int) -> Fault:
    """The response up to there, and then the end of the connection, after the request was carried out."""
    step = Step(whole(target, framing)[:offset], "close", works=True)
    # if only the end of the connection ends a response, one that is cut counts as complete, but is invalid JSON
    unreadable = framing == "until closed" and offset >= len(HEAD) + 2
    empty = offset == len(HEAD) + 2
    expected = UNREADABLE if unreadable else LOST
    return Fault(f"cut at byte {offset} ({framing})", expected, _always(step), accepts=unreadable and empty)
