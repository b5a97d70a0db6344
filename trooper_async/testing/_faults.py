"""Faults of the next requests, in the order in which the test added them."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from types import TracebackType
from typing import Literal, NamedTuple, Self

from trooper_async.testing._routes import ROUTES


class Response(NamedTuple):
    """A response that is ready to be sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Hold:
    """A request whose response is held back until `release()`, or the end of the `with` block: see `hold_next`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._arrival: Future[None] = Future()
        self._release: Future[None] = Future()

    def __repr__(self) -> str:
        state = "released" if self._release.done() else "held" if self._arrival.done() else "to come"
        return f"<Hold {self._path} {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    async def arrived(self, timeout: float | None = 60.0) -> None:
        """Wait, in asyncio, until the request has arrived and its work is done.

        Args:
            timeout: Seconds to wait at most; None is no limit.

        Raises:
            TimeoutError: No such request has arrived by then.
        """
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(asyncio.wrap_future(self._arrival))
        except TimeoutError:
            raise TimeoutError(self._missing(timeout)) from None

    def wait_arrived(self, timeout: float | None = 60.0) -> None:
        """Block until the request has arrived and its work is done: `arrived` for code without an event loop.

        Args:
            timeout: Seconds to wait at most; None is no limit.

        Raises:
            TimeoutError: No such request has arrived by then.
        """
        try:
            self._arrival.result(timeout)
        except TimeoutError:
            raise TimeoutError(self._missing(timeout)) from None

    def release(self) -> None:
        """Send the response. If the request has not arrived yet, its response will not be held at all."""
        with suppress(InvalidStateError):  # released before, or its client has disconnected
            self._release.set_result(None)

    def _missing(self, timeout: float | None) -> str:
        return f"no request to {self._path} arrived within {timeout} s"

    async def _until_released(self) -> None:
        self._arrival.set_result(None)
        await asyncio.wrap_future(self._release)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request; by default, nothing unusual."""

    works: bool = True
    """Whether the request takes effect."""
    instead: Response | None = None
    """Sent instead of the real response."""
    cuts: bool = False
    """Whether the connection is cut without a response."""
    delay: float = 0.0
    """Seconds by which the response is delayed."""
    hold: Hold | None = None
    """Holds the response until it is released."""


def check_path(path: str) -> None:
    """Refuse a path that the API does not have."""
    if path not in ROUTES:
        known = get_close_matches(path, ROUTES, 3, 0.5) or ROUTES
        raise ValueError(f"the API has no endpoint {path!r}: there is {', '.join(known)}")


class Faults:
    """The part of `FakeTrooper` with which a test asks for faults, from any thread."""

    def __init__(self) -> None:
        self._pending_faults: defaultdict[str, deque[Fault]] = defaultdict(deque)

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
        """Answer the next requests to a path with an error, and do not carry them out.

        Args:
            path: The endpoint, such as `/api/orders`. Faults of one path happen in the order of the calls.
            status: The status of the response.
            times: How many requests it happens to.
            retry_after: The `Retry-After` header: seconds, or text as it is.
            headers: More headers.
            body: The response's body: text or bytes as they are, anything else as JSON; an `error` where None.
        """
        if not isinstance(status, int) or not 200 <= status <= 599:
            raise ValueError(f"status is that of a response, 200 to 599, not {status!r}")
        sent = {"Content-Type": "text/html" if isinstance(body, str | bytes) else "application/json"}
        if retry_after is not None:
            sent["Retry-After"] = str(retry_after)
        if body is None:
            body = {"error": f"a {status} of fail_next"}
        content = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        response = Response(status, {**sent, **(headers or {})}, content)
        self._fault(path, Fault(works=False, instead=response), times)

    def drop_next(self, path: str, *, when: Literal["before", "after"] = "before", times: int = 1) -> None:
        """Cut the connection of the next requests to a path, without a response.

        Args:
            path: The endpoint.
            when: Before they take effect (so they never do), or after it.
            times: How many requests it happens to.
        """
        if when not in ("before", "after"):
            raise ValueError(f"when is `before` or `after`, not {when!r}")
        self._fault(path, Fault(works=when == "after", cuts=True), times)

    def delay_next(self, path: str, seconds: float, *, times: int = 1) -> None:
        """Delay the response to the next requests to a path. They take effect when they arrive.

        Args:
            path: The endpoint.
            seconds: The delay. The response shows the state at the arrival.
            times: How many requests it happens to.
        """
        if not seconds >= 0:
            raise ValueError(f"a response is delayed by at least 0 seconds, not {seconds!r}")
        self._fault(path, Fault(delay=seconds), times)

    def hold_next(self, path: str) -> Hold:
        """Hold the response to the next request to a path until it is released: a delay without a clock.

            with fake.hold_next("/api/orders") as hold:
                reading = asyncio.create_task(client.orders.list())
                await hold.arrived()
                ...  # the list was read, and its response is not sent yet
            orders = await reading

        Args:
            path: The endpoint. The request takes effect when it arrives, and the response shows the state at that time.

        Returns:
            What tells of the arrival (`await hold.arrived()`, or `hold.wait_arrived()` in blocking code), and
            releases the response (`hold.release()`, or the end of its `with` block).
        """
        hold = Hold(path)
        self._fault(path, Fault(hold=hold), 1)
        return hold

    def _fault(self, path: str, fault: Fault, times: int) -> None:
        check_path(path)
        if times < 1:  # it would never happen, so the test would prove nothing
            raise ValueError(f"times is how many requests it happens to, at least 1, not {times!r}")
        self._pending_faults[path].extend([fault] * times)

    def _next_fault(self, path: str) -> Fault:
        """The fault for a request that has just arrived."""
        pending = self._pending_faults.get(path)
        return pending.popleft() if pending else Fault()
