"""A raw server that applies one fault to one path, responds to everything else as the API would, and counts
requests.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from tests.tools.faults.targets import HELPERS, NEW_ORDER_ID, ORDER_ID, Target

Place = Literal["here", "reset on accept", "refused", "no such host", "untrusted", "no TLS", "silent", "busy pool"]
"""Where the request under test goes; the ones before it go here, and get responses."""


@dataclass(frozen=True)
class Step:
    """What is done with one request: whether it is carried out, some bytes, and what follows."""

    data: bytes = b""
    then: Literal["next", "close", "reset", "nothing"] = "next"
    works: bool = False
    moves: Place = "here"
    """Where the requests after it go."""


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A complete response."""
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]).encode() + body


def reset(transport: asyncio.BaseTransport) -> None:
    """End the connection with a RST."""
    assert isinstance(transport, asyncio.Transport)
    linger = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


class Listener:
    """A server whose connections are made by `connection`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.connections: set[asyncio.Transport] = set()
        self._tls = tls

    def connection(self) -> asyncio.Protocol:
        raise NotImplementedError

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self.connection, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for transport in list(self.connections):
            transport.abort()
        while self.connections:  # noqa: ASYNC110 - they are lost in the loop's next rounds
            await asyncio.sleep(0)


class Api(Listener):
    """The API. It is armed after the preliminary requests: from then on it applies the steps, the last one for good."""

    def __init__(self, target: Target, steps: Sequence[Step], helpers: Sequence[str], place: Place) -> None:
        super().__init__()
        self.target = target
        self.prefix = f"/{secrets.token_hex(8)}"
        """Of all paths: what lacks it comes from a client of another test, whose server had this port before."""
        self.wire = 0
        """Requests that matter."""
        self.other: list[str] = []
        """Paths that came in and were not to come: helpers' in another order, and what came once armed."""
        self.on_kept = 0
        """How many of the requests that matter came on a connection that had brought others."""
        self.resets = 0
        """How many connections more are reset as they are made."""
        self._bought = False
        self._steps = steps
        self._helpers = list(helpers)
        self._place: Place = place
        self._move: Callable[[Place], None]

    def connection(self) -> asyncio.Protocol:
        return _Connection(self)

    @property
    def url(self) -> str:
        return f"http://{self.address}{self.prefix}"

    def begin(self, move: Callable[[Place], None]) -> None:
        """Be ready for the call. `move` is called with the URL where the client has to send from now on."""
        self._move = move
        if not self._helpers:
            self._arm()

    def _arm(self) -> None:
        if self._place == "reset on accept":
            # a once-only call is reset once: if it were repeated, that would be seen
            self.resets = 1 if self.target.kind in ("once", "purchase") else 1000
        self._move(self._place)

    def answer(self, path: str, *, kept: bool) -> Step:
        """What to do with a request."""
        if self._helpers:
            if path != self._helpers.pop(0):
                self.other.append(path)
            if not self._helpers:
                self._arm()
            # resetting connections needs at least one
            return Step(self._helpful(path), "close" if self.resets else "next")
        if path != self.target.path:
            self.other.append(path)
            return Step(self._helpful(path))
        step = self._steps[min(self.wire, len(self._steps) - 1)]
        self.wire += 1
        self.on_kept += kept
        self._bought = self._bought or step.works
        if step.moves != "here":
            self._move(step.moves)
        return step

    def _helpful(self, path: str) -> bytes:
        close = ["Connection: close"] if self.resets else []
        if path == "/api/orders":
            ids = [ORDER_ID, NEW_ORDER_ID] if self._bought and self.target.kind == "purchase" else [ORDER_ID]
            rows = ",".join(f'{{"order_id":{order_id},"status":"running"}}' for order_id in ids)
            return http(f"[{rows}]".encode(), *close)
        return http(HELPERS.get(path, b"{}"), *close)


class _Connection(asyncio.Protocol):
    def __init__(self, api: Api) -> None:
        self._api = api
        self._buffer = b""
        self._requests = 0

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport
        self._api.connections.add(transport)
        if self._api.resets:
            self._api.resets -= 1
            self._api.wire += 1
            reset(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._api.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
        if not end or len(rest) < int(length or 0):
            return
        self._buffer = rest[int(length or 0) :]
        self._requests += 1
        path = head.split()[1].decode().partition("?")[0]
        if not path.startswith(self._api.prefix):
            self._transport.close()
            return
        step = self._api.answer(path.removeprefix(self._api.prefix), kept=self._requests > 1)
        if step.data:
            self._transport.write(step.data)
        if step.then == "close":
            self._transport.close()
        elif step.then == "reset":
            reset(self._transport)


class Other(Listener):
    """Sends the same to every request, or nothing at all."""

    def __init__(self, says: bytes = b"", tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.says = says
        self.heard = asyncio.Event()

    def connection(self) -> asyncio.Protocol:
        return _Deaf(self)


class _Deaf(asyncio.Protocol):
    def __init__(self, other: Other) -> None:
        self._other = other

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport
        self._other.connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._other.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._other.heard.set()
        if self._other.says:
            self._transport.write(self._other.says)
            self._transport.close()
