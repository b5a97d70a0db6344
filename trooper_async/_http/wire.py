"""One request on the wire, and its whole answer. Nothing is sent again here.

aiohttp's exceptions hold the request's headers, and with them the key. So a failure travels as a value
(`_protocol.FailedAttempt`) out of the frames that hold headers and bodies.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import NoReturn, TypeVar

import aiohttp
from aiohttp import hdrs

from trooper_async._api.endpoints import Call, Repeatability
from trooper_async._api.responses import FailedAttempt, Failure, Response
from trooper_async._base.slices import TimeSlice
from trooper_async._base.timeouts import timeout
from trooper_async._http.sessions import NEVER_SENT, CutError, KeyUsers, Sessions
from trooper_async.errors import APIConnectionError, APITimeoutError

T = TypeVar("T")

LOG = logging.getLogger("trooper_async.transport")

_CONNECT = 10.0
"""Seconds for a connection, where `timeout` is not shorter."""
_ONCE_ANSWER = 180.0
"""Seconds for the answer to what must not be sent twice: giving up early would only make its outcome unknown."""


class Wire:
    """Where requests leave: one base URL, one key, and the sessions."""

    def __init__(
        self,
        *,
        base_url: str,
        key: KeyUsers,
        session: aiohttp.ClientSession | None,
        timeout: float,
        max_body_bytes: int,
        proxy: Callable[[], str | None],
        user_agent: str,
    ) -> None:
        self._base_url = base_url
        self._authorize, self.redact, self.has_key = key
        self.sessions = Sessions(session)
        self._timeout = timeout
        self._max_body_bytes = max_body_bytes
        self._proxy = proxy
        self._headers: dict[str, str] = {
            hdrs.USER_AGENT: user_agent,
            hdrs.ACCEPT: "application/json",
            hdrs.CACHE_CONTROL: "no-cache",
        }

    async def fetch(
        self, call: Call[T], *, left: float = math.inf, headers: Mapping[str, str] | None = None
    ) -> Response | FailedAttempt:
        """Send `call`, and read its answer within `timeout` and the `left` seconds of its deadline."""
        once = call.kind in (Repeatability.ONCE, Repeatability.PURCHASE)
        connect = min(_CONNECT, self._timeout)
        limit = connect + (max(_ONCE_ANSWER, self._timeout) if once else min(self._timeout, max(left, 0.0)))
        kept = not once and self.sessions.take_kept()
        started = time.perf_counter()
        cancelled: asyncio.CancelledError | None = None
        outcome: Response | FailedAttempt | None = None
        try:
            async with timeout(limit):
                outcome = await self._exchange(call, once=once, connect=connect, headers=headers)
        except asyncio.CancelledError as error:
            # the frames that it came through hold the headers, and whoever catches this may print them
            cancelled = error.with_traceback(None)
            cancelled.__cause__ = cancelled.__context__ = None
        except NEVER_SENT as error:
            # the text of the others has the proxy's URL, and with it a password
            told = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
            reason = self.redact(f"{type(error).__name__}: {error}" if told else type(error).__name__)
            outcome = FailedAttempt(
                Failure.NEVER_SENT, APIConnectionError(f"no connection to {self._base_url} ({reason})")
            )
        except TimeoutError:
            pass
        except Exception as error:  # noqa: BLE001 - whatever came instead of a whole answer: it may have been sent
            name = type((error.__cause__ if isinstance(error, CutError) else None) or error).__name__
            lost = APIConnectionError(f"the answer was lost or cut ({name})")
            outcome = FailedAttempt(Failure.LOST, lost, reused_connection=kept)
        if cancelled is not None:
            raise cancelled
        if outcome is None:
            outcome = FailedAttempt(Failure.LOST, APITimeoutError(f"no whole answer within {limit:.1f} s"))
        if LOG.isEnabledFor(logging.DEBUG):
            result = outcome.failure.value if isinstance(outcome, FailedAttempt) else outcome.status
            ms = 1000 * (time.perf_counter() - started)
            LOG.debug("%s %s %s %.0f ms", call.endpoint.method, call.endpoint.path, result, ms)
        return outcome

    async def _exchange(
        self, call: Call[T], *, once: bool, connect: float, headers: Mapping[str, str] | None
    ) -> Response:
        """Send it and read the answer, in a frame that is in no traceback."""
        own = {**self._headers, **(headers or {})}
        if call.body is not None:
            own[hdrs.CONTENT_TYPE] = "application/json"
        async with self.sessions.get(call.sending, once=once).request(
            call.endpoint.method,
            self._base_url + call.endpoint.path,
            params=call.query or None,
            data=call.body,
            headers=own,
            allow_redirects=False,
            raise_for_status=False,
            auto_decompress=True,
            timeout=aiohttp.ClientTimeout(total=None, connect=connect),
            proxy=self._proxy(),
            middlewares=(self._authorize,),
            trace_request_ctx=call.sending,
        ) as response:
            reply = Response(response.status, response.headers, await self._body(response))
            if reply.body is not None and not once:
                self.sessions.leave_kept(reply.headers)
            return reply

    async def _body(self, response: aiohttp.ClientResponse) -> bytes | None:
        """The whole body, or None where it is larger than allowed, on the wire or inflated."""
        body, turns = BytesIO(), TimeSlice()  # joining a list of chunks would hold all of it twice
        try:
            while chunk := await response.content.readany():
                body.write(chunk)
                if max(body.tell(), response.content.total_raw_bytes) > self._max_body_bytes:
                    response.close()
                    return None
                await turns.yield_if_due()  # a bomb inflates as fast as it is read
            return body.getvalue()
        finally:
            body.close()  # of a cut body, this frame lives on in a cycle of aiohttp's exceptions

    def __reduce__(self) -> NoReturn:
        raise TypeError("it holds an API key, and can't be pickled or copied")
