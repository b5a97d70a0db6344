"""`FakeTrooper`: the world and its routes behind a real HTTP server, with faults on demand.

The only module here that touches sockets and the clock, and that hands out the client and its models.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

from aiohttp import web
from yarl import URL

from trooper_async.testing._call import Call, RefusalError
from trooper_async.testing._durations import Durations
from trooper_async.testing._faults import Answer, Faults, check_path
from trooper_async.testing._routes import NO_KEY, ROUTES
from trooper_async.testing._rows import encode
from trooper_async.testing._stock import Blib
from trooper_async.testing._world import LOOPBACK, Desired, Dialect, OrderFields, Server, World, switched

if TYPE_CHECKING:
    from trooper_async import TrooperClient
    from trooper_async.models import Order

API_KEY = "fake-key-for-tests-only"


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request that the fake has got. No headers are kept, and the repr shows nothing that was sent with it."""

    method: str
    path: str
    query: dict[str, str] = field(repr=False)
    json: Any = field(repr=False)
    """The decoded body, None where there is none that could be decoded. (Any: whatever the tested program sends.)"""
    status: int | None
    """The status of the answer; None where the line was cut."""
    started: float
    """The loop's time at its arrival."""


class FakeTrooper(Faults):
    """A real HTTP server with the API's behaviour and its faults, for tests: `async with FakeTrooper() as fake:`.

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
        etag: Answers of GET /api/orders carry an `ETag`, and `If-None-Match` is obeyed.
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
        super().__init__()
        self.api_key = api_key
        """The key that is asked for."""
        self.requests: list[RecordedRequest] = []
        """What has come in, in order."""
        self._world = World(dialect=dialect, desired=desired, read_lag=read_lag, durations=Durations(durations))
        self._host, self._port = host, port
        self._loose_types, self._etag = loose_types, etag
        self._loop: asyncio.AbstractEventLoop | None = None
        self._url: str | None = None
        self._running = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<FakeTrooper {self._url or 'not started'}>"

    @property
    def url(self) -> str:
        """Where it listens, as a `base_url`."""
        if self._url is None:
            raise RuntimeError("this FakeTrooper is not running yet: use `async with FakeTrooper() as fake:`")
        return self._url

    @property
    def durations(self) -> dict[str, float]:
        """Seconds that each transition takes: `fake.durations["stop"] = 60` counts from the next transition on."""
        return self._world.durations

    @property
    def blibs(self) -> dict[int, Blib]:
        """What is on offer, by id. Prices and availability can be changed: `fake.blibs[2].is_available = False`."""
        return self._world.blibs

    @property
    def budget(self) -> Decimal | None:
        """EUR that are left for migrations; None is no limit."""
        return self._world.budget

    @budget.setter
    def budget(self, budget: Decimal | None) -> None:
        self._world.budget = budget

    @property
    def failing_templates(self) -> set[int]:
        """Ids of the templates whose installations, begun or retried from now on, fail."""
        return self._world.failing_templates

    async def __aenter__(self) -> Self:
        self._loop = loop = asyncio.get_running_loop()
        self._world.epoch = datetime.now(UTC) - timedelta(seconds=loop.time())
        async with AsyncExitStack() as stack:
            ports = []
            for _ in range(2):  # the port before a migration, and the one after it
                listener = await loop.create_server(_Greeter, LOOPBACK, 0)
                stack.push_async_callback(listener.wait_closed)
                stack.callback(listener.close)
                ports.append(listener.sockets[0].getsockname()[1])
            self._world.ssh_ports = tuple(ports)
            # One handler for all paths, so that the unknown ones are recorded too. It waits for nothing between the
            # body and the end of the work, so a client that hangs up can only cancel it before or after. What is
            # still held back at the exit is not worth waiting for.
            server = web.Server(self._serve, handler_cancellation=True, access_log=None)
            runner = web.ServerRunner(server, shutdown_timeout=0.01)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, self._host, self._port).start()
            self._url = str(URL.build(scheme="http", host=self._host, port=runner.addresses[0][1]))
            self._running = stack.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._running.aclose()

    def sent(self, path: str) -> list[Any]:
        """The JSON bodies of all requests to a path so far, in order: `assert fake.sent("/api/order") == []`.

        For the rest of a request, or requests without a body, see `requests`.

        Args:
            path: The endpoint. One that the API does not have is a ValueError: it would be right for the wrong reason.
        """
        check_path(path)
        return [request.json for request in self.requests if request.path == path]

    def client(self, **options: Any) -> TrooperClient:
        """A client for this server that polls, and repeats what failed, fast. Close it, or use it with `async with`.

        Args:
            options: Arguments of `TrooperClient` that are passed on, and win over what is set here.
        """
        from trooper_async import PollSchedule, RetryPolicy, TrooperClient

        fast = {"poll": PollSchedule(floor=0.02, cap=0.1, share=0.1), "retry": RetryPolicy(max_delay=0.05)}
        return TrooperClient(**{"api_key": self.api_key, "base_url": self.url, **fast, **options})

    def add_order(
        self, *, status: str = "running", desired_status: str | None = None, **fields: Unpack[OrderFields]
    ) -> Order:
        """Add an order that has been there for an hour.

        Args:
            status: Its current status; any word.
            desired_status: Its desired status, where that is another one.
            fields: The other fields of an `Order` by their names, or `blib_id`: what it is an instance of. The order
                is at 127.0.0.1, and behind its default `ssh_port` there is a greeting as of an SSH server.
        """
        from trooper_async.models import Order, status_word

        now = self._now()
        if not isinstance(fields.get("price_h", Decimal()), Decimal):
            raise TypeError("price_h must be a Decimal, as it is in an Order")
        taken = self._world.servers.get(fields.get("order_id", 0))
        if taken and taken.at(now):
            raise ValueError(f"the fake has an order {taken.order_id} already")
        phase = switched(now - 3600, status, desired_status)
        server = self._world.add([phase], now, **fields)
        wanted = None if self._world.desired == "absent" else phase.desired
        facts = {name: getattr(server, name) for name in OrderFields.__annotations__ if name != "blib_id"}
        return Order(
            current_status=status_word(status),
            desired_status=None if wanted is None else status_word(wanted),
            template_installs=(),
            **facts,
        )

    def set_status(self, order: Order | int, current: str, desired: str | None = None) -> None:
        """Switch an order as somebody else would. What it was about to go through does not come any more.

        Args:
            order: The order, or its id.
            current: Its current status from now on.
            desired: Its desired status; the same where None.
        """
        now, server = self._now(), self._server(order)
        server.enter(now, switched(now, current, desired))
        server.gone = math.inf

    def remove_order(self, order: Order | int) -> None:
        """Let an order vanish, as one that was terminated.

        Args:
            order: The order, or its id.
        """
        self._server(order).gone = self._now()

    def _now(self) -> float:
        if self._loop is None:
            raise RuntimeError("this FakeTrooper is not running yet: use `async with FakeTrooper() as fake:`")
        return self._loop.time()

    def _server(self, order: Order | int) -> Server:
        return self._world.order(order if isinstance(order, int) else order.order_id, self._now())[0]

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        started = self._now()
        sent = await request.read()
        now = self._now()  # a slow body must not act in the past
        try:
            body = json.loads(sent)
        except (ValueError, RecursionError):
            body = None
        fault = self._take(request.path)
        answer = self._answer(request, now, body) if fault.works else fault.instead
        status = None if answer is None or fault.cuts else answer.status
        query = dict(request.query)
        self.requests.append(RecordedRequest(request.method, request.path, query, body, status, started))
        if fault.holds:
            await asyncio.sleep(fault.holds)
        if answer is None or fault.cuts:
            if request.transport is not None:
                request.transport.close()
            return web.Response()  # which finds nobody there any more
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    def _answer(self, request: web.BaseRequest, now: float, body: object) -> Answer:
        headers = {"Content-Type": "application/json; charset=utf-8"}
        try:
            status, content = 200, self._work(request, now, body)
        except RefusalError as refusal:
            status, content = refusal.status, refusal.body
        text = encode(content, loose=self._loose_types)
        if self._etag and status == 200 and request.path == "/api/orders":
            headers["ETag"] = f'"{hashlib.sha256(text).hexdigest()}"'
            if request.headers.get("If-None-Match") == headers["ETag"]:
                return Answer(304, headers, b"")
        return Answer(status, headers, text)

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


class _Greeter(asyncio.Protocol):
    """Greets as an SSH server does, and hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(b"SSH-2.0-FakeTrooper\r\n")
        transport.close()  # only once that has left
