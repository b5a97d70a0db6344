"""`FakeTrooper`: a real HTTP server, in a thread of its own, in front of the world and its routes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import warnings
import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web
from yarl import URL

from trooper_async.testing._call import Call, RefusalError
from trooper_async.testing._controls import Controls, RecordedRequest
from trooper_async.testing._durations import Durations
from trooper_async.testing._faults import Response
from trooper_async.testing._remote import PREFIX, RemoteControls
from trooper_async.testing._routes import NO_KEY, ROUTES
from trooper_async.testing._rows import encode
from trooper_async.testing._thread import ServerThread
from trooper_async.testing._world import LOOPBACK, Desired, Dialect, World

if TYPE_CHECKING:
    from trooper_async import TrooperClient

API_KEY = "fake-key-for-tests-only"


class FakeTrooper(Controls):
    """A real HTTP server with the API's behaviour and its faults, for tests: `with FakeTrooper() as fake:`.

    It serves from a thread of its own, so it works in blocking code, with any event loop, and for other processes;
    `async with` does the same. All that changes it can be called from any thread and holds for the next request.

    Args:
        api_key: The key that is asked for.
        host: The address to listen on.
        port: The port to listen on; 0 picks a free one.
        durations: Seconds that each transition takes, where not 0.05: start, stop, freeze, restart, create, migrate,
            thaw (from frozen to running, without a migration) and install (of a template). A number is for all.
        dialect: The names of an order's two statuses: `status` and `status_user` as in the API document's sample, or
            `current_status` and `desired_status` as in its prose.
        desired: What the second of them says: the wish, the last state that was reached, or nothing (it is absent).
        loose_types: Numbers come as text and booleans as 0 and 1, some fields are null or missing, unknown ones come
            along: what a client has to bear, since the document excludes none of it.
        etag: Responses of GET /api/orders carry an `ETag`, and `If-None-Match` is obeyed.
        read_lag: Seconds by which statuses, appearances and disappearances show late in GET /api/orders and in the
            history. Titles and locks show at once.
    """

    def __init__(
        self,
        *,
        api_key: str = API_KEY,
        host: str = LOOPBACK,
        port: int = 0,
        durations: Mapping[str, float] | float = 0.05,
        dialect: Dialect = "status",
        desired: Desired = "wish",
        loose_types: bool = False,
        etag: bool = False,
        read_lag: float = 0.0,
    ) -> None:
        def make_world() -> World:
            return World(dialect=dialect, desired=desired, read_lag=read_lag, durations=Durations(durations))

        super().__init__(make_world)
        self.api_key = api_key
        """The key that is asked for."""
        self._host, self._port = host, port
        self._loose_types, self._etag = loose_types, etag
        self._url: str | None = None
        self._close: weakref.finalize[..., FakeTrooper] | None = None
        self._remote = RemoteControls()

    def __repr__(self) -> str:
        return f"<FakeTrooper {self._url or 'not started'}>"

    @property
    def url(self) -> str:
        """Where it listens, as a `base_url`."""
        if self._url is None:
            raise RuntimeError("this FakeTrooper is not running: use `with FakeTrooper() as fake:`")
        return self._url

    def start(self) -> None:
        """Begin to serve. `with` and `async with` do it; where neither can be used, `close()` must be called.

        Raises:
            OSError: It can't listen at its host and port.
        """
        if self._close is not None and self._close.alive:
            raise RuntimeError("this FakeTrooper is running already")
        server = ServerThread(weakref.WeakMethod(self._serve), self._host, self._port)
        self._url = str(URL.build(scheme="http", host=self._host, port=server.ports.http))
        self._begin(server.ports.ssh)
        self._close = weakref.finalize(self, _forgotten, server, self._url)

    def close(self) -> None:
        """Stop serving, at once: connections are closed, what is held back is dropped. Can be called repeatedly."""
        if self._close is not None and (forgotten := self._close.detach()):
            _, _, (server, _), _ = forgotten
            server.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self.__enter__()  # it blocks for a millisecond or two, and works in any event loop

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def client(self, **options: Any) -> TrooperClient:
        """A client for this server that polls, and retries, fast. Close it, or use it with `async with`.

        Args:
            options: Arguments of `TrooperClient` that are passed on, and win over what is set here.
        """
        from trooper_async import PollSchedule, RetryPolicy, TrooperClient

        fast = {"poll": PollSchedule(floor=0.02, cap=0.1, share=0.1), "retry": RetryPolicy(max_delay=0.05)}
        return TrooperClient(**{"api_key": self.api_key, "base_url": self.url, **fast, **options})

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Handle one request, in the server's thread.

        It waits for nothing between the body and the end of the work, so a client that hangs up can only cancel it
        before or after.
        """
        with self._lock:
            started = self._now()
        sent = await request.read()
        try:
            body = json.loads(sent)
        except (ValueError, RecursionError):
            body = None
        if request.path.startswith(PREFIX):
            return await self._remote.serve(self, request, sent)
        fault = self._take(request.path)
        response = self._respond(request, body) if fault.works else fault.instead
        status = None if response is None or fault.cuts else response.status
        query = dict(request.query)
        self.requests.append(RecordedRequest(request.method, request.path, query, body, status, started))
        if fault.hold is not None:
            await fault.hold._until_released()
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if response is None or fault.cuts:
            if request.transport is not None:
                request.transport.close()
            return web.Response()  # which finds nobody there any more
        return web.Response(status=response.status, headers=response.headers, body=response.body)

    def _respond(self, request: web.BaseRequest, body: object) -> Response:
        headers = {"Content-Type": "application/json; charset=utf-8"}
        try:
            with self._lock:
                status, content = 200, self._work(request, self._now(), body)
        except RefusalError as refusal:
            status, content = refusal.status, refusal.body
        text = encode(content, loose=self._loose_types)
        if self._etag and status == 200 and request.path == "/api/orders":
            headers["ETag"] = f'"{hashlib.sha256(text).hexdigest()}"'
            if request.headers.get("If-None-Match") == headers["ETag"]:
                return Response(304, headers, b"")
        return Response(status, headers, text)

    def _work(self, request: web.BaseRequest, now: float, body: object) -> object:
        route = ROUTES.get(request.path)
        if route is None:
            raise RefusalError(404, "Not found")
        if request.method != route.method:
            raise RefusalError(405, "Method not allowed")
        given = request.headers.get("Authorization")
        has_key = given == f"Bearer {self.api_key}"
        if not has_key and (route.auth == "required" or (route.auth == "optional" and given is not None)):
            raise RefusalError(401, NO_KEY, **({"next": "login"} if request.path == "/api/orders" else {}))
        return route.answer(self._world, Call(now, request.query, body, has_key))


def _forgotten(server: ServerThread, url: str) -> None:
    """Stop a fake that nobody has closed, and tell."""
    server.stop()
    warnings.warn(f"FakeTrooper at {url} was never closed: use `with FakeTrooper() as fake:`", RuntimeWarning, 1)
