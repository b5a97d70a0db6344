"""What is to go wrong with the next requests, in the order in which it was asked for. Knows the paths of `_routes`."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, NamedTuple

from trooper_async.testing._routes import ROUTES


class Answer(NamedTuple):
    """An answer, ready to be sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request; as it stands, nothing out of the ordinary."""

    works: bool = True
    """Whether what was asked for is done."""
    instead: Answer | None = None
    """Sent in place of the true answer."""
    cuts: bool = False
    """Whether the line is cut, with no answer."""
    holds: float = 0.0
    """Seconds by which the answer is held back."""


def check_path(path: str) -> None:
    """Refuse a path that the API does not have."""
    if path not in ROUTES:
        known = get_close_matches(path, ROUTES, 3, 0.5) or ROUTES
        raise ValueError(f"the API has no endpoint {path!r}: there is {', '.join(known)}")


class Faults:
    """The part of `FakeTrooper` by which a test asks for faults."""

    def __init__(self) -> None:
        self._coming: defaultdict[str, deque[Fault]] = defaultdict(deque)

    def fail_next(
        self,
        path: str,
        *,
        status: int = 500,
        times: int = 1,
        retry_after: float | str | None = None,
        headers: Mapping[str, str] | None = None,
        body: object = None,
    ) -> None:
        """Answer the next requests to a path like this, and do nothing of what they ask for.

        Args:
            path: The endpoint, such as `/api/orders`. What is asked for one path happens in the order of the calls.
            status: The status of the answer.
            times: How many requests it happens to.
            retry_after: The `Retry-After` header: seconds, or text as it is.
            headers: More headers.
            body: The answer: text or bytes as they are, anything else as JSON; an `error` where None.
        """
        if not isinstance(status, int) or not 200 <= status <= 599:
            raise ValueError(f"status is that of an answer, 200 to 599, not {status!r}")
        sent = {"Content-Type": "text/html" if isinstance(body, str | bytes) else "application/json"}
        if retry_after is not None:
            sent["Retry-After"] = str(retry_after)
        if body is None:
            body = {"error": f"a {status} of fail_next"}
        content = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        answer = Answer(status, {**sent, **(headers or {})}, content)
        self._fault(path, Fault(works=False, instead=answer), times)

    def drop_next(self, path: str, *, when: Literal["before", "after"] = "before", times: int = 1) -> None:
        """Cut the line of the next requests to a path, with no answer.

        Args:
            path: The endpoint.
            when: Before what they ask for is done (so it never is), or after it was.
            times: How many requests it happens to.
        """
        if when not in ("before", "after"):
            raise ValueError(f"when is `before` or `after`, not {when!r}")
        self._fault(path, Fault(works=when == "after", cuts=True), times)

    def delay_next(self, path: str, seconds: float, *, times: int = 1) -> None:
        """Hold back the answer to the next requests to a path; what they ask for is done when they arrive.

        Args:
            path: The endpoint.
            seconds: How long the answer, which is that of the moment of arrival, is held back.
            times: How many requests it happens to.
        """
        if not seconds >= 0:
            raise ValueError(f"an answer is held back by at least 0 seconds, not {seconds!r}")
        self._fault(path, Fault(holds=seconds), times)

    def _fault(self, path: str, fault: Fault, times: int) -> None:
        check_path(path)
        if times < 1:  # it would never happen, and the test would prove nothing
            raise ValueError(f"times is how many requests it happens to, at least 1, not {times!r}")
        self._coming[path].extend([fault] * times)

    def _take(self, path: str) -> Fault:
        """The fault of a request that has just arrived."""
        coming = self._coming.get(path)
        return coming.popleft() if coming else Fault()
