"""`FakeTrooper`: a real HTTP server, in its own thread, in front of the world and its routes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from yarl import URL

from trooper_async import PollSchedule, RetryPolicy, TrooperClient
from trooper_async.testing._call import Call, RefusalError
from trooper_async.testing._controls import Controls, RecordedRequest
from trooper_async.testing._durations import Durations
from trooper_async.testing._faults import Response
from trooper_async.testing._profile import Profile
from trooper_async.testing._remote import PREFIX, RemoteControls
from trooper_async.testing._routes import ROUTES, refusal
from trooper_async.testing._rows import encode
from trooper_async.testing._shape import shaped
from trooper_async.testing._thread import ServerThread
from trooper_async.testing._world import LOOPBACK, World

API_KEY = "fake-key-for-tests-only"


class FakeTrooper(Controls):
    """A real HTTP server with the API's behaviour and its faults, for tests: `with FakeTrooper() as fake:`.

    It runs in its own thread, so it works in blocking code, with any event loop, and for other processes; `async with`
    does the same. Every method can be called from any thread and takes effect from the next request on.

    Args:
        api_key: The key that requests must have.
        host: The address to listen on.
        port: The port to listen on; 0 picks a free one.
        profile: How it behaves where the API's document leaves that open: a `Profile`, the path of one, or the name of
            one in `PROFILES`.
        scale: Times in the profile are multiplied by this: 0.001 for a profile that was recorded, in a test.
        durations: Seconds that each transition takes, where not as in the profile: start, stop, freeze, restart,
            create, migrate, thaw (from frozen to running, without a migration) and install (of a template). A number
            is for all.
    """

    def __init__(
        self,
        *,
        api_key: str = API_KEY,
        host: str = LOOPBACK,
        port: int = 0,
        profile: Profile | Path | str = "document",
        scale: float = 1.0,
        durations: Mapping[str, float] | float | None = None,
    ) -> None:
        behaviour = (profile if isinstance(profile, Profile) else Profile.load(profile)).scaled(scale)

        def make_world() -> World:
            return World(profile=behaviour, durations=Durations(behaviour, durations))

        super().__init__(make_world)
        self._profile = behaviour
        self._headers = {"Content-Type": "application/json; charset=utf-8", **behaviour.headers}
        self.api_key = api_key
        """The key that requests must have."""
        self._host, self._port = host, port
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
        """Start the server. `with` and `async with` do this; without them, call `close()` at the end.

        Raises:
            OSError: It cannot listen at its host and port.
        """
        if self._close is not None and self._close.alive:
            raise RuntimeError("this FakeTrooper is running already")
        server = ServerThread(weakref.WeakMethod(self._serve), self._host, self._port)
        self._url = str(URL.build(scheme="http", host=self._host, port=server.ports.http))
        self._begin(server.ports.ssh)
        self._close = weakref.finalize(self, _warn_not_closed, server, self._url)

    def close(self) -> None:
        """Stop the server immediately: connections are closed and held responses are dropped. It can be called
        repeatedly.
        """
        if self._close is not None and (detached := self._close.detach()):
            _, _, (server, _), _ = detached
            server.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self.__enter__()  # this blocks for a millisecond or two, and works in any event loop

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def client(self, **options: Any) -> TrooperClient:
        """A client for this server with short poll and retry intervals. Close it, or use it with `async with`.

        Args:
            options: Arguments of `TrooperClient`, which override the ones set here.
        """
        fast = {"poll": PollSchedule(floor=0.02, cap=0.1, share=0.1), "retry": RetryPolicy(max_delay=0.05)}
        return TrooperClient(**{"api_key": self.api_key, "base_url": self.url, **fast, **options})

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Handle one request in the server's thread.

        Nothing is awaited between reading the body and finishing the work, so a client that disconnects can only cancel
        it before or after.
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
        fault = self._next_fault(request.path)
        response = (self._limited() or self._respond(request, body)) if fault.works else fault.instead
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
        reply = web.Response(status=response.status, headers=response.headers, body=response.body)
        if response.body and self._profile.gzip and "gzip" in request.headers.get("Accept-Encoding", ""):
            reply.enable_compression(web.ContentCoding.gzip)
        return reply

    def _limited(self) -> Response | None:
        """The 429 for a request over the limit."""
        limit = self._profile.rate_limit
        if limit is None:
            return None
        now, passed = self._now(), self._world.passed
        while passed and passed[0] <= now - limit.seconds:
            passed.popleft()
        if len(passed) < limit.requests:
            passed.append(now)
            return None
        pause = {} if limit.retry_after is None else {"Retry-After": str(limit.retry_after)}
        return Response(429, {**self._headers, **pause}, encode({"error": "Too many requests"}))

    def _respond(self, request: web.BaseRequest, body: object) -> Response:
        headers = dict(self._headers)
        try:
            with self._lock:
                status, content = 200, self._work(request, self._now(), body)
        except RefusalError as refusal:
            status, content = refusal.status, refusal.body
        if isinstance(content, str):
            return Response(status, {**headers, "Content-Type": "text/plain; charset=utf-8"}, content.encode())
        text = encode(shaped(content, self._profile, request.path))
        if self._profile.etag != "none" and status == 200 and request.path == "/api/orders":
            headers["ETag"] = f'"{hashlib.sha256(text).hexdigest()}"'
            if self._profile.etag == "honoured" and request.headers.get("If-None-Match") == headers["ETag"]:
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
            form = self._profile.refusals.key
            more = {"next": form.next} if form.next is not None and request.path == "/api/orders" else {}
            raise refusal(form, **more)
        return route.respond(self._world, Call(now, request.query, body, has_key))


def _warn_not_closed(server: ServerThread, url: str) -> None:
    """Stop a fake that was never closed, with a warning."""
    server.stop()
    warnings.warn(f"FakeTrooper at {url} was never closed: use `with FakeTrooper() as fake:`", RuntimeWarning, 1)
