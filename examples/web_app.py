"""The client in a web application (aiohttp.web): one client for all requests, and requests that wait for servers.

    python examples/web_app.py
    curl localhost:8080/servers
    curl -X POST 'localhost:8080/servers/123/stop?timeout=60'

It talks to the embedded fake server: no key, no network, no money. With `--live` it is the account behind
TROOPER_API_KEY. A POST answers once the server is there; all that wait share one poll. Who hangs up waits no more, and
what was sent goes on. It listens on loopback only, and not to browsers: it has no login.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from math import ceil

from aiohttp import web
from aiohttp.typedefs import Handler

import trooper_async as trooper
from trooper_async.testing import FakeTrooper

CLIENT = web.AppKey("client", trooper.TrooperClient)
STATUSES: dict[type[trooper.TrooperError], int] = {  # the first that fits
    trooper.ConfigurationError: 400,
    trooper.OrderNotFoundError: 404,
    trooper.ServerLockedError: 409,
    trooper.SupersededError: 409,
    trooper.OrderVanishedError: 410,
    trooper.RateLimitError: 429,
    trooper.ClientClosedError: 503,
    trooper.WaitTimeoutError: 504,
    trooper.TrooperError: 502,  # the API failed, or refused our key: no fault of the caller
}


def shown(order: trooper.Order) -> dict[str, object]:
    price = None if order.price_h is None else str(order.price_h)
    status = {"current_status": order.current_status, "desired_status": order.desired_status}
    return {"id": order.order_id, "title": order.title, **status, "price_h": price}


async def servers(request: web.Request) -> web.Response:
    """GET /servers"""
    return web.json_response([shown(order) for order in await request.app[CLIENT].orders.list()])


async def server(request: web.Request) -> web.Response:
    """GET /servers/123"""
    return web.json_response(shown(await request.app[CLIENT].orders.get(int(request.match_info["id"]))))


async def switch(request: web.Request) -> web.Response:
    """POST /servers/123/start?timeout=60: answers once it runs, or with a 504 after so many seconds (300)."""
    try:
        timeout = float(request.query.get("timeout", "300"))
    except ValueError:
        raise web.HTTPBadRequest(text="timeout must be a number of seconds") from None
    switch_and_wait = getattr(request.app[CLIENT].orders, f"{request.match_info['verb']}_and_wait")
    return web.json_response(shown(await switch_and_wait(int(request.match_info["id"]), timeout=timeout)))


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Each error of the client as a status; its text says what to do next, and holds no secret."""
    try:
        return await handler(request)
    except trooper.TrooperError as error:
        status = next(status for kind, status in STATUSES.items() if isinstance(error, kind))
        seconds = error.retry_after if isinstance(error, trooper.APIStatusError) else None
        headers = {} if seconds is None else {"Retry-After": str(ceil(seconds))}
        return web.json_response({"error": str(error)}, status=status, headers=headers)


@web.middleware
async def no_browsers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses what a web page sends (Origin), also one whose name was pointed at this machine (DNS rebinding)."""
    is_loopback = request.host.partition(":")[0] in ("127.0.0.1", "localhost")
    return await handler(request) if is_loopback and "Origin" not in request.headers else web.Response(status=403)


def application(opened: AbstractAsyncContextManager[trooper.TrooperClient]) -> web.Application:
    """The application, around a client that it opens at its start and closes at its end."""

    async def one_client(app: web.Application) -> AsyncIterator[None]:
        async with opened as app[CLIENT]:
            yield

    async def end_waits(app: web.Application) -> None:
        await app[CLIENT].close()  # open requests end with a 503 at once, instead of holding up the shutdown

    app = web.Application(middlewares=[no_browsers, errors])
    app.cleanup_ctx.append(one_client)
    app.on_shutdown.append(end_waits)
    app.router.add_get("/servers", servers)
    app.router.add_get(r"/servers/{id:\d{1,18}}", server)
    app.router.add_post(r"/servers/{id:\d{1,18}}/{verb:start|stop|freeze|restart}", switch)
    return app


@asynccontextmanager
async def fake_servers() -> AsyncIterator[trooper.TrooperClient]:
    async with FakeTrooper(durations=3.0) as fake, fake.client() as client:
        for status in ("running", "stopped", "frozen"):
            fake.add_order(status=status)
        yield client


def say_at_once(line: str) -> None:
    print(line, flush=True)  # to a log or a pipe too


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Show and switch GPU servers over HTTP.")
    parser.add_argument("--live", action="store_true", help="use the real API and TROOPER_API_KEY: switches are real")
    parser.add_argument("--port", type=int, default=8080, help="port on 127.0.0.1 (%(default)s)")
    given = parser.parse_args()
    app = application(trooper.TrooperClient() if given.live else fake_servers())
    # handler_cancellation: who hangs up cancels the wait, and disturbs nobody else
    web.run_app(app, host="127.0.0.1", port=given.port, handler_cancellation=True, access_log=None, print=say_at_once)
