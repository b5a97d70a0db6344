"""A server that writes given bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from trooper_async import RetryPolicy, TrooperClient

KEY = "tk-0123456789-the-key-of-these-tests"
FAST = RetryPolicy(max_delay=0.0)
TEXT = b'{"test": "hello"}'


class Answer(NamedTuple):
    """The bytes of a response, and what happens after them."""

    data: bytes
    then: Literal["next", "hang up", "nothing"] = "next"


SILENCE = Answer(b"", "nothing")
CUT = Answer(b"", "hang up")


def http(body: bytes = TEXT, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """An HTTP response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Request(NamedTuple):
    """A request that was received on a connection."""

    head: str
    body: bytes
    connection: int

    def header(self, name: str) -> list[str]:
        """All values of a header."""
        pairs = [line.partition(": ") for line in self.head.split("\r\n")[1:]]
        return [value for key, _, value in pairs if key.casefold() == name.casefold()]


class RawServer:
    """A server whose responses are given as bytes, in order, the last one for all further requests."""

    def __init__(self, *answers: bytes | Answer, port: int = 0) -> None:
        self.answers = [answer if isinstance(answer, Answer) else Answer(answer) for answer in answers or (http(),)]
        self.requests: list[Request] = []
        self.connections = 0
        self.port = port
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> TrooperClient:
        return TrooperClient(**{"api_key": KEY, "base_url": self.url, "retry": FAST, **options})

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop_listening(self) -> None:
        """Refuse new connections; existing ones go on."""
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):  # of __aexit__
                await self._converse(reader, writer, self.connections)
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        then = "next"
        while then == "next":
            head = (await reader.readuntil(b"\r\n\r\n")).decode().removesuffix("\r\n\r\n")
            request = Request(head, b"", connection)
            length = int((request.header("Content-Length") or ["0"])[0])
            self.requests.append(request._replace(body=await reader.readexactly(length)))
            data, then = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            writer.write(data)
            await writer.drain()
            if then == "nothing":
                await reader.read()


@asynccontextmanager
async def serving(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A server whose connections are served by a function; its URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):  # of the end below
                await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)
