"""A stand-in of the API in a separate process, which responds with prepared bytes.

    python -m tests.tools.benchmarks.server

What it serves stands in front of the path, so that it keeps no settings: `/10000/0.01/plain/api/orders` is an account
of 10,000 orders, of which 1 % is another at every GET. With `etag` for `plain` its responses have an ETag, and obey
`If-None-Match`. `/v1/actions/ID` is Hetzner's, of an action that never ends.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cache
from itertools import count

from tests.tools.benchmarks.body import body, encode

_REQUEST = re.compile(rb"[A-Z]+ (\S+) HTTP/1\.1\r\n")
_TAG = re.compile(rb'(?i)\r\nif-none-match: *("[^"\r]*")')
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


def plain(orders: int, changed: float) -> str:
    """The path prefix of an account whose responses carry no ETag."""
    return f"/{orders}/{changed}/plain"


def tagged(orders: int) -> str:
    """The path prefix of an account in which nothing changes, and whose responses carry an ETag."""
    return f"/{orders}/0/etag"


class Account:
    """An account that alternates between two states."""

    def __init__(self, orders: int, changed: float, tag: bytes) -> None:
        self._tag = tag
        self._answers = [_answer(body(orders, share), tag) for share in sorted({0.0, changed})]
        self._gets = count()

    def answer(self, head: bytes) -> bytes:
        sent = _TAG.search(head)
        if self._tag and sent is not None and sent[1] == self._tag:
            return b"HTTP/1.1 304 Not Modified\r\nETag: " + self._tag + b"\r\n\r\n"
        return self._answers[next(self._gets) % len(self._answers)]


@cache
def _account(orders: str, changed: str, mode: str) -> Account:
    return Account(int(orders), float(changed), b'"1"' if mode == "etag" else b"")


def _answer(data: bytes, tag: bytes = b"") -> bytes:
    etag = b"ETag: " + tag + b"\r\n" if tag else b""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n"
    return head % (etag, len(data)) + data


def _respond(path: str, head: bytes) -> bytes:
    match path.split("?")[0].split("/"):
        case ["", orders, changed, mode, "api", "orders"]:
            return _account(orders, changed, mode).answer(head)
        case ["", "v1", "actions", number]:
            return _answer(encode({"action": _action(int(number))}))
    return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def _action(number: int) -> dict[str, object]:
    """As documented at https://docs.hetzner.cloud."""
    return {
        "id": number,
        "command": "stop_server",
        "status": "running",
        "started": "2026-01-30T23:55:00Z",
        "finished": None,
        "progress": 50,
        "resources": [{"id": number, "type": "server"}],
        "error": None,
    }


class _Connection(asyncio.Protocol):
    """Responds to successive requests, whatever their body is."""

    def __init__(self) -> None:
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end]
            length = _LENGTH.search(head)
            after = end + 4 + (int(length[1]) if length else 0)
            if len(self._received) < after:
                return
            self._received = self._received[after:]
            request = _REQUEST.match(head)
            assert request is not None
            assert self._transport is not None
            self._transport.write(_respond(request[1].decode(), head))


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0, backlog=1_000)
    async with server:
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


@asynccontextmanager
async def in_a_process(*command: str) -> AsyncGenerator[str]:
    """The URL of a server that runs as `python -m command…` during the block: the first line that it prints."""
    server = await asyncio.create_subprocess_exec(sys.executable, "-m", *command, stdout=asyncio.subprocess.PIPE)
    assert server.stdout is not None
    try:
        yield (await server.stdout.readline()).decode().strip()
    finally:
        server.kill()
        await server.communicate()


if __name__ == "__main__":
    asyncio.run(_serve())
