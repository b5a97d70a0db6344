"""A raw server that writes hostile responses, and counts what it could send."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.tools.hostile.answers import Hostile, whole


class HostileServer:
    """Answers each request with the pieces of one hostile response, and closes the connection.

    `innocent` requests are answered as the API would, first.
    """

    def __init__(self, answer: Hostile, *, innocent: int = 0) -> None:
        self.answer = answer
        self.innocent = innocent
        self.requests = 0
        self.sent = 0
        """Bytes of hostile responses that the kernel has taken, all requests together."""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        listener = socket.create_server(("127.0.0.1", 0))
        # small and fixed, so that what was sent is close to what was read
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self._server = await asyncio.start_server(self._serve, sock=listener)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):  # of __aexit__
                await self._answer(reader, writer)
        finally:
            writer.transport.abort() if task.cancelling() else writer.close()
            self._tasks.discard(task)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        if self.requests <= self.innocent:
            writer.writelines(whole(b'[{"order_id": 1, "status": "running"}]', "Connection: close")())
            return
        writer.transport.set_write_buffer_limits(0)  # so that drain waits until the kernel has it
        for piece in self.answer.pieces():
            for start in range(0, len(piece), 65536):
                part = piece[start : start + 65536]
                writer.write(part)
                await writer.drain()
                self.sent += len(part)
                await asyncio.sleep(self.answer.pause)
                if reader.at_eof():  # a client that is gone gets nothing more
                    return
        if self.answer.stalls:
            await reader.read()
