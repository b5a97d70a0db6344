"""The aiohttp sessions: yours, or ours; and the key, which only the requests themselves carry."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import NamedTuple

import aiohttp
from aiohttp import hdrs

from trooper_async._base import timeouts

LOG = logging.getLogger("trooper_async.transport")

_IDLE = 4.0
"""Seconds that a connection is kept: Node.js, which the API answers like, closes idle ones after 5."""

# All else counts as sent.
NEVER_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.InvalidURL,
)


class CutError(aiohttp.ClientError):
    """A disconnect, under a name that aiohttp does not answer by sending a GET again on its own."""


class Sessions:
    """Yours for everything, never closed here; else two of ours, made when first needed."""

    def __init__(self, yours: aiohttp.ClientSession | None) -> None:
        self._yours = yours
        self._ours: dict[bool, aiohttp.ClientSession] = {}
        self._warned = False
        self._left: deque[float] = deque()  # when connections were left open, and not taken since

    @property
    def yours_is_closed(self) -> bool:
        return self._yours is not None and self._yours.closed

    @property
    def any_open(self) -> bool:
        """Whether there is something of ours to close."""
        return bool(self._ours)

    def get(self, sending: Callable[[], None] | None, *, once: bool) -> aiohttp.ClientSession:
        """The session to send with; `once` for what must not be sent twice, of which `sending` is told in time."""
        if self._yours is not None:
            if sending is not None:
                sending()  # your session can't be traced: from here on it may have been sent
            connector = self._yours.connector
            if once and not self._warned and connector is not None and not connector.force_close:
                self._warned = True
                LOG.warning(
                    "your session keeps connections, and one that the server has just closed loses what is sent on it: "
                    "for what must not be sent twice, give the client a session with TCPConnector(force_close=True)"
                )
            return self._yours
        if once not in self._ours:
            # No limit of the pool's: the gate limits, and the poll never queues for a connection.
            connector = (
                aiohttp.TCPConnector(limit=0, force_close=True)
                if once
                else aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE)
            )
            self._ours[once] = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[_trace_config()] if once else None,
            )
        return self._ours[once]

    def take_kept(self) -> bool:
        """Whether what is sent next, not once only, goes out on a kept connection, as far as can be told."""
        while self._left:
            if self._left.popleft() > time.monotonic() - _IDLE:
                return True
        return False

    def leave_kept(self, headers: Mapping[str, str]) -> None:
        """A whole answer has come on a connection that is left for the next."""
        if self._yours is None and headers.get(hdrs.CONNECTION, "").lower() != "close":
            self._left.append(time.monotonic())

    async def close(self) -> None:
        """Close what is ours."""
        while self._ours:
            _, session = self._ours.popitem()
            await session.close()


def _trace_config() -> aiohttp.TraceConfig:
    """Calls a request's `trace_request_ctx` between its connection and its first byte."""
    config = aiohttp.TraceConfig()

    async def connected(session: object, context: SimpleNamespace, params: object) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx()

    config.on_connection_create_end.append(connected)
    return config


class KeyUsers(NamedTuple):
    """What needs the key: what puts it on the wire, and what blanks it in a text. It is in their closures alone."""

    authorize: aiohttp.ClientMiddlewareType
    redact: Callable[[str], str]
    has_key: bool


def key_users(api_key: str | None) -> KeyUsers:
    """What needs the key, which is in no attribute."""

    async def authorize(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        # Runs once for each attempt on the wire, those that aiohttp makes on its own too.
        if api_key is not None:
            request.headers[hdrs.AUTHORIZATION] = f"Bearer {api_key}"
        cancellations_before = timeouts.cancellations()
        try:
            return await handler(request)
        except asyncio.CancelledError as error:
            # nobody cancelled it: it is aiohttp's own limit for connecting
            if timeouts.BROKEN and timeouts.cancellations() <= cancellations_before:
                raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {request.url}") from error
            raise
        except NEVER_SENT:
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            raise CutError from error

    def redact(text: str) -> str:
        return text if api_key is None else text.replace(api_key, "[api key]")

    return KeyUsers(authorize, redact, api_key is not None)
