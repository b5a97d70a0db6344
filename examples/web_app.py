"""The client in a FastAPI service: one client for all requests, and progress as server-sent events.

    pip install fastapi uvicorn
    python examples/web_app.py
    curl localhost:8080/servers
    curl -X POST localhost:8080/servers/123/restart        # {"progress": "/progress?transition=…"}
    curl -N 'localhost:8080/progress?transition=…'         # each status as it is seen, then `done` or `failed`

It talks to the embedded fake server: no key, no network, no money. With `--live` it is the account behind
TROOPER_API_KEY. A POST returns once the API has accepted; it must not be repeated blindly: if its response is lost,
`/servers/123` shows what became of it. The GET of its progress may be repeated: after a lost connection, an outage that
was longer than the wait's timeout, or a restart of this service, it continues. All streams share one poll; a reader
that hangs up ends its own wait alone. Nothing is left running. It listens on loopback only and refuses browsers: it has
no login.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from math import ceil
from socket import socket
from typing import Annotated, Literal
from urllib.parse import urlencode

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

import trooper_async as trooper
from trooper_async.testing import FakeTrooper

STATUSES: dict[type[trooper.TrooperError], int] = {  # the first that fits
    trooper.ConfigurationError: 400,
    trooper.OrderNotFoundError: 404,
    trooper.ServerLockedError: 409,
    trooper.SupersededError: 409,
    trooper.OrderVanishedError: 410,
    trooper.RateLimitError: 429,
    trooper.ClientClosedError: 503,
    trooper.WaitTimeoutError: 504,
    trooper.TrooperError: 502,  # the API failed or refused our key, which is not the caller's fault
}
QUIET = 15.0
"""Seconds after which a comment is sent, so that no proxy closes a quiet stream."""


def client_of(request: Request) -> trooper.TrooperClient:
    client: trooper.TrooperClient = request.app.state.client
    return client


def no_browsers(request: Request) -> None:
    """Refuses requests of web pages."""
    if "Origin" in request.headers:
        raise HTTPException(403, "this service is not for web pages")


Client = Annotated[trooper.TrooperClient, Depends(client_of)]
OrderId = Annotated[int, Path(gt=0, lt=10**18)]
routes = APIRouter(dependencies=[Depends(no_browsers)])


@routes.get("/servers")
async def servers(client: Client) -> list[trooper.Order]:
    return await client.orders.list()


@routes.get("/servers/{order_id}")
async def server(client: Client, order_id: OrderId) -> trooper.Order:
    return await client.orders.get(order_id)


@routes.post("/servers/{order_id}/{action}", status_code=202)
async def act(
    client: Client, order_id: OrderId, action: Literal["start", "stop", "freeze", "restart"]
) -> dict[str, str]:
    """Start, stop, freeze or restart a server; returns where its progress is."""
    orders = client.orders
    send = {"start": orders.start, "stop": orders.stop, "freeze": orders.freeze, "restart": orders.restart}[action]
    return {"progress": progress_of(await send(order_id))}


@routes.get("/progress")
async def progress(
    client: Client, transition: str, timeout: Annotated[float | None, Query(gt=0, le=86400)] = None
) -> StreamingResponse:
    """Server-sent events: `status` for each status that is seen, then `done` or `failed`."""
    stream = events(client, trooper.Transition.from_json(transition), timeout)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def events(
    client: trooper.TrooperClient, transition: trooper.Transition, timeout: float | None
) -> AsyncIterator[str]:
    seen: asyncio.Queue[trooper.Order | None] = asyncio.Queue()

    def ended(wait: asyncio.Task[trooper.Order]) -> None:
        seen.put_nowait(None)
        if not wait.cancelled():
            wait.exception()  # retrieved, also when the reader has gone

    wait = asyncio.create_task(client.orders.wait(transition, timeout=timeout or "default", on_change=seen.put_nowait))
    wait.add_done_callback(ended)
    try:
        while True:
            try:
                order = await asyncio.wait_for(seen.get(), QUIET)
            except TimeoutError:
                yield ": waiting\n\n"
                continue
            if order is None:
                break
            yield event("status", order.to_dict())
        yield event("done", (await wait).to_dict())
    except trooper.TrooperError as error:
        yield event("failed", {"status": status_of(error), **body_of(error)})
    finally:
        wait.cancel()


def event(name: str, data: object) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def progress_of(transition: trooper.Transition) -> str:
    return "/progress?" + urlencode({"transition": transition.to_json()})


def status_of(error: trooper.TrooperError) -> int:
    return next(status for kind, status in STATUSES.items() if isinstance(error, kind))


def body_of(error: trooper.TrooperError) -> dict[str, object]:
    """Its text says what to do next, and holds no secret. After a lost response, the action can be waited for."""
    lost = isinstance(error, trooper.OutcomeUnknownError) and error.transition
    return {"error": str(error), **({"progress": progress_of(lost)} if lost else {})}


async def failed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, trooper.TrooperError)
    seconds = error.retry_after if isinstance(error, trooper.APIStatusError) else None
    headers = {} if seconds is None else {"Retry-After": str(ceil(seconds))}
    return JSONResponse(body_of(error), status_of(error), headers)


def application(opened: AbstractAsyncContextManager[trooper.TrooperClient]) -> FastAPI:
    """The service, around a client that it opens at its start and closes at its end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with opened as app.state.client:
            yield

    app = FastAPI(title="GPU servers", lifespan=lifespan, exception_handlers={trooper.TrooperError: failed})
    # else a web page whose name points to this machine could read and act (DNS rebinding)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    app.include_router(routes)
    return app


class Server(uvicorn.Server):
    """Closes the client first: open streams end with an event, instead of delaying the end of the service."""

    def __init__(self, app: FastAPI, port: int) -> None:
        super().__init__(uvicorn.Config(app, host="127.0.0.1", port=port, access_log=False))
        self._app = app

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        await self._app.state.client.close()
        await super().shutdown(sockets)


@asynccontextmanager
async def fake_servers() -> AsyncIterator[trooper.TrooperClient]:
    async with FakeTrooper(durations=3.0) as fake, fake.client() as client:
        for status in ("running", "stopped", "frozen"):
            fake.add_order(status=status)
        yield client


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Show, start and stop GPU servers over HTTP.")
    parser.add_argument("--live", action="store_true", help="use the real API and TROOPER_API_KEY")
    parser.add_argument("--port", type=int, default=8080, help="port on 127.0.0.1 (%(default)s)")
    given = parser.parse_args()
    service = application(trooper.TrooperClient() if given.live else fake_servers())
    with suppress(KeyboardInterrupt):
        Server(service, given.port).run()
