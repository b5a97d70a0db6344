"""The aiohttp sessions, your own or ours, and what they reveal about a request in flight."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import aiohttp

LOG = logging.getLogger("trooper_async.transport")

_IDLE = 4.0
"""Seconds that a connection is kept: the API looks like Node.js, which closes idle ones after 5."""

# Everything else counts as sent.
NEVER_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.InvalidURL,
)


class CutError(aiohttp.ClientError):
    """A disconnect, as a class after which aiohttp does not repeat a GET on its own."""


class Sending:
    """What is known of a request while it is being sent."""

    __slots__ = ("may_have_left", "on_reused_connection")

    def __init__(self) -> None:
        self.may_have_left: bool = False
        """Whether it may have been sent. It is set between the connection and the first byte, and reset after an
        attempt that certainly changed nothing. While it is False, cancelling the request means that nothing was
        sent.
        """
        self.on_reused_connection: bool = False
        """Whether its connection had been used before: if such a connection is cut, that says little about the API."""


class Sessions:
    """Your own session for everything, which is never closed here; or else two of ours, made when they are first
    needed.
    """

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
        """Whether a session of ours is open."""
        return bool(self._ours)

    def get(self, *, once: bool) -> aiohttp.ClientSession:
        """The session to send with; `once` for what must not be sent twice."""
        if self._yours is not None:
            connector = self._yours.connector
            if once and not self._warned and connector is not None and not connector.force_close:
                self._warned = True
                LOG.warning(
                    "your session keeps connections, and a request on one that the server has just closed is lost: "
                    "if it sends purchases or restarts, give it TCPConnector(force_close=True)"
                )
            return self._yours
        if once not in self._ours:
            # The pool has no limit: the gate limits the calls, and the poll never queues for a connection.
            connector = aiohttp.TCPConnector(limit=0, force_close=once, keepalive_timeout=None if once else _IDLE)
            self._ours[once] = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trace_configs=[_trace_config()]
            )
        return self._ours[once]

    async def close(self) -> None:
        """Close our sessions."""
        while self._ours:
            _, session = self._ours.popitem()
            await session.close()


def _trace_config() -> aiohttp.TraceConfig:
    """Records the progress of a request in its `Sending`, which is its `trace_request_ctx`."""
    config = aiohttp.TraceConfig()

    async def connected(session: object, context: SimpleNamespace, params: object) -> None:
        context.trace_request_ctx.may_have_left = True

    async def reused(session: object, context: SimpleNamespace, params: object) -> None:
        context.trace_request_ctx.may_have_left = context.trace_request_ctx.on_reused_connection = True

    config.on_connection_create_end.append(connected)
    config.on_connection_reuseconn.append(reused)
    return config
