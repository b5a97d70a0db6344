"""A dashboard in the browser: each server's status, since when, what it costs, and buttons to start, stop, freeze it.

    python examples/dashboard.py

It shows the embedded fake server, where servers are started and stopped all the time: no key, no network, no money.
With `--live` it shows the account behind TROOPER_API_KEY. All browsers share one `orders.watch()`. While the API does
not respond, the page says since when, and shows nothing that is unknown. It listens on loopback only, and no page but
its own can use the buttons; any user of this machine can.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from attrs import asdict

from trooper_async import (
    Order,
    Outage,
    OutcomeUnknownError,
    ServerError,
    TrooperClient,
    TrooperError,
    cost_h,
)
from trooper_async.testing import FakeTrooper

PAGE = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
POLICY = (  # nothing from elsewhere, no script but the page's own, no HTML made of text, no frame around the buttons
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types"
)
LIFE = "stopping stopped stopped starting running running freezing frozen frozen starting running running"
AIMS = {"stopping": "stopped", "starting": "running", "freezing": "frozen"}


class Dashboard:
    """The state that all browsers share, and their requests."""

    def __init__(self, client: TrooperClient) -> None:
        self.client = client
        self.rows: dict[int, dict[str, Any]] = {}
        self.known = False  # whether the list of servers has been read
        self.outage: dict[str, str] | None = outage_since(datetime.now(UTC), "connecting")
        self.news = asyncio.Event()  # of the next change

    async def follow(self, interval: float) -> None:
        """Read the current state, then each change."""
        looking = asyncio.create_task(self.look_whether_empty(interval))
        try:
            async with self.client.orders.watch(interval=interval, outages=True) as events:
                async for event in events:
                    if isinstance(event, Outage):
                        self.see_outage(event)
                    elif event.kind == "vanished":
                        del self.rows[event.order_id]
                    else:
                        self.see(event.order)
                    self.tell()
        finally:
            looking.cancel()
            await asyncio.wait([looking])

    async def look_whether_empty(self, interval: float) -> None:
        """The watch reports servers and outages, but not that there are no servers."""
        while not self.known:
            with suppress(TrooperError):
                if not await self.client.orders.list() and not self.known:
                    self.known, self.outage = True, None
                    self.tell()
            await asyncio.sleep(interval)

    def see(self, order: Order) -> None:
        if not self.known:
            self.known, self.outage = True, None
        bars = self.rows.get(order.order_id, {"bars": []})["bars"][-99:]
        if not bars or bars[-1][1] != order.current_status:
            bars = [*bars, (asyncio.get_running_loop().time(), order.current_status)]
        self.rows[order.order_id] = {**asdict(order), "cost_h": cost_h(order), "bars": bars}

    def see_outage(self, outage: Outage) -> None:
        """Each bar ends when the outage began, and continues when it is over."""
        time = asyncio.get_running_loop().time()
        if outage.error is not None:
            time -= (datetime.now(UTC) - outage.since).total_seconds()
            self.outage = outage_since(outage.since, outage.error.message)
        elif self.known:
            self.outage = None
        for row in self.rows.values():
            row["bars"].append((time, row["current_status"] if outage.over else None))

    def tell(self) -> None:
        self.news.set()
        self.news = asyncio.Event()

    async def events(self, request: web.Request) -> web.StreamResponse:
        """The state, and again after each change, until either side disconnects; a slow browser gets the latest one."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            news, now = self.news, asyncio.get_running_loop().time()
            state = {"now": now, "known": self.known, "outage": self.outage, "orders": list(self.rows.values())}
            await response.write(f"data: {json.dumps(state, default=str)}\n\n".encode())
            await news.wait()

    async def act(self, request: web.Request) -> web.Response:
        """Sends an action without waiting: the watch shows its effect. 504 means that its outcome is unknown."""
        try:
            await getattr(self.client.orders, request.match_info["verb"])(int(request.match_info["order_id"]))
        except (OutcomeUnknownError, ServerError) as error:
            return web.Response(status=504, text=str(error))
        except TrooperError as error:
            return web.Response(status=502, text=str(error))
        return web.Response(status=204)


def outage_since(since: datetime, reason: str) -> dict[str, str]:
    return {"since": since.isoformat(timespec="milliseconds"), "reason": reason}


async def page(request: web.Request) -> web.Response:
    nonce = secrets.token_urlsafe()
    headers = {"Content-Security-Policy": POLICY.format(nonce), "Cache-Control": "no-store"}
    return web.Response(text=PAGE.replace("{nonce}", nonce), content_type="text/html", headers=headers)


@web.middleware
async def only_its_own_page(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses other sites' pages, and those whose name was pointed at this machine (DNS rebinding)."""
    host, own = request.host.partition(":")[0], f"http://{request.host}"
    origin = request.headers.get("Origin", own if request.method == "GET" else None)
    return await handler(request) if origin == own and host in ("127.0.0.1", "localhost") else web.Response(status=403)


async def serve(client: TrooperClient, port: int, interval: float) -> None:
    dashboard, app = Dashboard(client), web.Application(middlewares=[only_its_own_page])
    action = r"/orders/{order_id:\d{1,18}}/{verb:start|stop|freeze|restart}"
    app.add_routes([web.get("/", page), web.get("/events", dashboard.events), web.post(action, dashboard.act)])
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        async with client:
            await dashboard.follow(interval)
    finally:
        await runner.cleanup()


async def demo(port: int) -> None:
    async with FakeTrooper(durations=5.0) as fake:
        for nth, title in enumerate(("llm-inference", "training 7B", "comfy-ui", "whisper", "yours", "yours, too")):
            order = fake.add_order(title=title, blib_id=nth % 3 + 1)
            for step, word in enumerate(LIFE.split() * 60 if nth < 4 else (), 1):  # an hour of use
                asyncio.get_running_loop().call_later((6 + nth) * step, fake.set_status, order, word, AIMS.get(word))
        await serve(fake.client(), port, interval=0.5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Show GPU servers in the browser, with buttons to start and stop them."
    )
    parser.add_argument(
        "--live", action="store_true", help="use the real API and TROOPER_API_KEY: the buttons are real"
    )
    parser.add_argument("--port", type=int, default=8080, help="port on 127.0.0.1, 0 for a free one (%(default)s)")
    given = parser.parse_args()
    try:
        asyncio.run(serve(TrooperClient(), given.port, 5.0) if given.live else demo(given.port))
    except (KeyboardInterrupt, TrooperError, OSError) as error:
        sys.exit(str(error) or 130)
