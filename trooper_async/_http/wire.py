"""One request and its whole response. Nothing is retried here.

aiohttp's exceptions hold the request's headers, and so the key. Therefore a failure leaves the frames that hold headers
and bodies as a value (`FailedAttempt`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping
from functools import cache
from io import BytesIO
from typing import Any, NoReturn, TypeVar

import aiohttp
from aiohttp import hdrs
from aiohttp.http import HttpProcessingError

from trooper_async._api.endpoints import Call, Repeatability
from trooper_async._api.responses import FailedAttempt, Failure, Response
from trooper_async._base.slices import TimeSlice
from trooper_async._base.timeouts import timeout
from trooper_async._http.keys import Keys, KeyState
from trooper_async._http.sessions import NEVER_SENT, CutError, Sending, Sessions
from trooper_async.errors import APIConnectionError, APITimeoutError, ClientClosedError

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

LOG = logging.getLogger("trooper_async.transport")

CONNECT = 10.0
"""Seconds for a connection, unless `timeout` is shorter."""
_ONCE_RESPONSE = 180.0
"""Seconds for the response to a request that must not be sent twice: giving up early would make its outcome unknown."""


class Wire:
    """Sends requests to one base URL, with one key."""

    def __init__(
        self,
        *,
        base_url: str,
        keys: Keys,
        session: aiohttp.ClientSession | None,
        timeout: float,
        max_body_bytes: int,
        proxy: Callable[[], str | None],
        user_agent: str,
    ) -> None:
        self._base_url = base_url
        self.keys: Keys = keys
        self.sessions: Sessions = Sessions(session)
        self._timeout = timeout
        self._max_body_bytes = max_body_bytes
        self._proxy = proxy
        self._headers: dict[str, str] = {
            hdrs.USER_AGENT: user_agent,
            hdrs.ACCEPT: "application/json",
            hdrs.CACHE_CONTROL: "no-cache",
        }

    def send(
        self,
        call: Call[T],
        *,
        sending: Sending | None = None,
        limit: float = math.inf,
        headers: Mapping[str, str] | None = None,
    ) -> Coroutine[Any, Any, Response | FailedAttempt]:
        """Send `call` and read its response. After a 401, send it again if the key's function returns a new key.

        Args:
            call: what to send.
            sending: shows its progress, if the caller wants to see it.
            limit: seconds after which it is cut in any case.
            headers: additional headers.

        Raises:
            ClientClosedError: the session that was given to the client is closed.
            Exception: an unexpected one, from this package or from code that your session calls. Its traceback, which
                holds the headers, is removed; a note says where it was raised.
        """
        sending = sending or Sending()
        if self.keys.renew is None:
            return self._attempt(call, sending, limit=limit, headers=headers)
        return self._send_with_a_fresh_key(call, sending, limit=limit, headers=headers)

    async def _send_with_a_fresh_key(
        self, call: Call[T], sending: Sending, *, limit: float, headers: Mapping[str, str] | None
    ) -> Response | FailedAttempt:
        state = await self._renewed_key(None)
        while not isinstance(state, FailedAttempt):
            outcome = await self._attempt(call, sending, limit=limit, headers=headers)
            if not isinstance(outcome, Response) or outcome.status != 401:
                return outcome
            before, state = state, await self._renewed_key(state)
            if isinstance(state, KeyState) and state.key == before.key:
                return outcome
        return state

    async def _renewed_key(self, since: KeyState | None) -> KeyState | FailedAttempt:
        """Call the key's function, unless that was done since."""
        assert self.keys.renew is not None  # noqa: S101 - else nobody asks
        try:
            async with timeout(self._timeout):
                return await self.keys.renew(since)
        except Exception as error:  # noqa: BLE001 - whatever the caller's function raises: nothing was sent, and it is tried again
            failed = APIConnectionError(self.keys.redact(f"the api_key function failed ({_what(error)})"))
            failed.hint = "Nothing was sent: check what the api_key function does"
            return FailedAttempt(Failure.NEVER_SENT, failed)

    async def _attempt(
        self, call: Call[T], sending: Sending, *, limit: float, headers: Mapping[str, str] | None
    ) -> Response | FailedAttempt:
        """One request, and its whole response within `timeout`."""
        if self.sessions.yours_is_closed:
            raise ClientClosedError("the session that was given to this client is closed")
        once = call.kind in (Repeatability.ONCE, Repeatability.PURCHASE)
        connect = min(CONNECT, self._timeout)
        limit = min(connect + (max(_ONCE_RESPONSE, self._timeout) if once else self._timeout), limit)
        sending.may_have_left = sending.on_reused_connection = False
        started = time.perf_counter()
        raised: BaseException | None = None
        outcome: Response | FailedAttempt | None = None
        try:
            async with timeout(limit):
                outcome = await self._exchange(call, sending, once=once, connect=connect, headers=headers)
        except asyncio.CancelledError as error:
            raised = error
        except NEVER_SENT as error:
            # the others' texts contain the proxy's URL, which may hold a password
            is_told = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
            reason = self.keys.redact(_what(error) if is_told else type(error).__name__)
            never = APIConnectionError(f"no connection to {self._base_url} ({reason})")
            outcome = FailedAttempt(Failure.NEVER_SENT, never)
        except TimeoutError:
            pass
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            # no whole response came; the request may have been sent
            what = self.keys.redact(_what((error.__cause__ if isinstance(error, CutError) else None) or error))
            lost = APIConnectionError(f"the response was lost or cut ({what})")
            outcome = FailedAttempt(Failure.LOST, lost, reused_connection=sending.on_reused_connection)
        except Exception as error:  # noqa: BLE001 - a mistake in somebody's code
            raised = error
        if raised is not None:
            raise stripped(raised)
        if outcome is None:
            failure, missing = (
                (Failure.LOST, "whole response") if sending.may_have_left else (Failure.NEVER_SENT, "connection")
            )
            outcome = FailedAttempt(failure, APITimeoutError(f"no {missing} within {limit:.1f} s"))
        if LOG.isEnabledFor(logging.DEBUG):
            result = (
                f"{outcome.failure.value} ({outcome.error.message})"
                if isinstance(outcome, FailedAttempt)
                else outcome.status
            )
            ms = 1000 * (time.perf_counter() - started)
            LOG.debug("%s %s %s %.0f ms", call.endpoint.method, call.endpoint.path, result, ms)
        return outcome

    async def _exchange(
        self, call: Call[T], sending: Sending, *, once: bool, connect: float, headers: Mapping[str, str] | None
    ) -> Response:
        """Send it and read the response, in a frame that no traceback holds."""
        request_headers = self._headers
        if headers or call.body is not None:
            request_headers = {**request_headers, **(headers or {})}
            if call.body is not None:
                request_headers[hdrs.CONTENT_TYPE] = "application/json"
            if hdrs.IF_NONE_MATCH in request_headers:
                # with no-cache Express never returns 304; caches must revalidate for this one too (RFC 9111 5.2.1)
                request_headers[hdrs.CACHE_CONTROL] = "max-age=0"
        sessions = self.sessions
        if not sessions.are_ours:
            sending.may_have_left = True  # your own session is not traced: from here on the request may have been sent
        async with sessions.get(once=once).request(
            call.endpoint.method,
            self._base_url + call.endpoint.path,
            params=call.query or None,
            data=call.body,
            headers=request_headers,
            allow_redirects=False,
            raise_for_status=False,
            auto_decompress=True,
            timeout=_connect_within(connect),
            proxy=self._proxy(),
            middlewares=(self.keys.authorize,),
            trace_request_ctx=sending if sessions.are_ours else None,
        ) as response:
            return Response(response.status, response.headers, await self._body(response))

    async def _body(self, response: aiohttp.ClientResponse) -> bytes | None:
        """The whole body, or None if it is larger than allowed, compressed or uncompressed."""
        if response.content.at_eof():  # it is empty, or a trace of your session has read it, and aiohttp has kept it
            read_body = await response.read()
            return read_body if len(read_body) <= self._max_body_bytes else None
        body, turns = BytesIO(), TimeSlice()  # joining a list of chunks would hold the body twice
        try:
            while chunk := await response.content.readany():
                body.write(chunk)
                if max(body.tell(), response.content.total_raw_bytes) > self._max_body_bytes:
                    response.close()
                    return None
                await turns.yield_if_due()  # a compression bomb grows as fast as it is read
            return body.getvalue()
        finally:
            body.close()  # if the body was cut, a reference cycle of aiohttp's exceptions keeps this frame alive

    def __reduce__(self) -> NoReturn:
        raise TypeError("a TrooperClient holds an API key, and can't be pickled or copied")


@cache
def _connect_within(seconds: float) -> aiohttp.ClientTimeout:
    """A limit for connecting alone."""
    return aiohttp.ClientTimeout(total=None, connect=seconds)


def _what(error: BaseException) -> str:
    """The type and the text of an exception."""
    text = "".join(c if c.isprintable() else " " for c in str(error)[:300]).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def stripped(error: E) -> E:
    """The exception without its traceback and chained exceptions, which hold headers and bodies.

    Whoever catches it might print them. A note says where an unexpected exception was raised.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if frames and isinstance(error, Exception) and not hasattr(error, "__notes__"):
        at = frames[-1]
        error.add_note(f"raised in {at.name} ({at.filename}, line {at.lineno}) while a request was made")
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
