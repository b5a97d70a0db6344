"""The aiohttp sessions, yours or ours, and what they tell of a request in flight."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import aiohttp

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


class Sending:
    """What is known of a request while it is being sent."""

    __slots__ = ("may_have_left", "on_reused_connection")

    def __init__(self) -> None:
        self.may_have_left: bool = False
        """Whether it may have been sent. It is set between the connection and the first byte, and taken back after an
        attempt that certainly came to nothing: while it is False, to cancel the request is to send nothing."""
        self.on_reused_connection: bool = False
        """Whether its connection was used before: a cut says little about the API then."""


class Sessions:
    """Yours for everything, never closed here; else two of ours, made when first needed."""

    def __init__(self, yours: aiohttp.ClientSession | None) -> None:
        self._yours = yours
        self._ours: dict[bool, aiohttp.ClientSession] = {}
        self._warned = False

    @property
    def are_ours(self) -> bool:
        return self._yours is None

    @property
    def yours_is_closed(self) -> bool:
        return self._yours is not None and self._yours.closed

    @property
    def any_open(self) -> bool:
        """Whether there is something of ours to close."""
        return bool(self._ours)

    def get(self, *, once: bool) -> aiohttp.ClientSession:
        """The session to send with; `once` for what must not be sent twice."""
        if self._yours is not None:
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
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trace_configs=[_trace_config()]
            )
        return self._ours[once]

    async def close(self) -> None:
        """Close what is ours."""
        while self._ours:
            _, session = self._ours.popitem()
            await session.close()


def _trace_config() -> aiohttp.TraceConfig:
    """Keeps a request's `Sending`, which is its `trace_request_ctx`."""
    config = aiohttp.TraceConfig()

    async def connected(session: object, context: SimpleNamespace, params: object) -> None:
        context.trace_request_ctx.may_have_left = True

    async def reused(session: object, context: SimpleNamespace, params: object) -> None:
        context.trace_request_ctx.may_have_left = context.trace_request_ctx.on_reused_connection = True

    config.on_connection_create_end.append(connected)
    config.on_connection_reuseconn.append(reused)
    return config
