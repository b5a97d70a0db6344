"""An HTTP server in its own thread, with SSH ports beside it. It knows nothing of the API.

The thread has its own event loop, so the server works for any caller: blocking code, asyncio, uvloop, trio.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import AsyncExitStack, suppress
from typing import Any, NamedTuple, TypeAlias, cast

from aiohttp import web

from trooper_async.testing._world import LOOPBACK

Handler: TypeAlias = Callable[[web.BaseRequest], Coroutine[Any, Any, web.StreamResponse]]


class Ports(NamedTuple):
    """Where the thread listens."""

    http: int
    ssh: tuple[int, ...]


class ServerThread:
    """Serves from its construction until `stop`.

    Args:
        find_handler: Returns the function that handles a request, or None once that is gone: the thread must not keep
            it alive.
        host: The address to listen on.
        port: The port to listen on; 0 picks a free one.

    Raises:
        OSError: It cannot listen there.
    """

    def __init__(self, find_handler: Callable[[], Handler | None], host: str, port: int) -> None:
        self._find_handler, self._host, self._port = find_handler, host, port
        self._started: Future[tuple[Ports, asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._run, name="FakeTrooper", daemon=True)
        self._thread.start()
        try:
            self.ports, self._loop, self._stopping = self._started.result()
        except BaseException:
            self._thread.join()
            raise

    def stop(self) -> None:
        """Close all connections and end the thread. Calling it again does nothing."""
        with suppress(RuntimeError):  # the loop is already closed
            self._loop.call_soon_threadsafe(self._stopping.set)
        if threading.current_thread() is not self._thread:  # the garbage collector can run in any thread
            self._thread.join()

    def _run(self) -> None:
        try:
            # Not a loop of the program's policy, which may be meant for one thread only.
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        async with AsyncExitStack() as stack:
            listeners = []
            # an order has one of the SSH ports before a migration, and the other one after it
            for factory, host, port in (
                (_Greeter, LOOPBACK, 0),
                (_Greeter, LOOPBACK, 0),
                (server, self._host, self._port),
            ):
                listeners.append(await loop.create_server(factory, host, port))
                stack.callback(listeners[-1].close)
            *ssh_ports, port = [listener.sockets[0].getsockname()[1] for listener in listeners]
            stopping = asyncio.Event()
            self._started.set_result((Ports(port, tuple(ssh_ports)), loop, stopping))
            await stopping.wait()
            for listener in listeners:  # closing a listener loses connections that it is just accepting
                for listening in listener.sockets:
                    loop.remove_reader(listening)
            await _run_ready()
            for connection in server.connections:  # a client that has stopped reading must not delay the end
                if connection.transport is not None:
                    connection.transport.abort()
            await _run_ready()
            await server.shutdown(0.01)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        handler = self._find_handler()
        return web.Response(status=503) if handler is None else await handler(request)


async def _run_ready() -> None:
    """Let the loop finish what it has begun with its connections."""
    for _ in range(5):
        await asyncio.sleep(0)


class _Greeter(asyncio.Protocol):
    """Sends the greeting of an SSH server, and disconnects."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(b"SSH-2.0-FakeTrooper\r\n")
        transport.close()  # only once that has left
