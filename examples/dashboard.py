"""A dashboard in the browser: where each server is and where it goes, since when, what it costs, and its switches.

    python examples/dashboard.py

It shows the embedded fake server, where somebody switches servers all the time: no key, no network, no money. With
`--live` it is the account behind TROOPER_API_KEY. All browsers share one `orders.watch()`. It listens on loopback
only, and no page but its own can use the buttons; any user of this machine can.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from attrs import asdict

from trooper_async import TrooperClient, TrooperError
from trooper_async.testing import FakeTrooper

PAGE = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
POLICY = (  # nothing from elsewhere, no script but the page's own, no HTML made of text, no frame around the buttons
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types"
)
LIFE = "stopping stopped stopped starting running running freezing frozen frozen starting running running"
AIMS = {"stopping": "stopped", "starting": "running", "freezing": "frozen"}


class Dashboard:
    """What all browsers show and ask for."""

    def __init__(self, client: TrooperClient) -> None:
        self.client = client
        self.rows: dict[int, dict[str, Any]] = {}
        self.news = asyncio.Event()  # of the next change

    async def follow(self, interval: float) -> None:
        async with aclosing(self.client.orders.watch(interval=interval)) as changes:
            async for change in changes:
                bars = self.rows.pop(change.order_id, {"bars": []})["bars"][-99:]
                if change.kind != "vanished":
                    bars = [*bars, (asyncio.get_running_loop().time(), change.order.current_status)]
                    self.rows[change.order_id] = {**asdict(change.order), "bars": bars}
                self.news.set()
                self.news = asyncio.Event()

    async def events(self, request: web.Request) -> web.StreamResponse:
        """All rows, and again after each change, until either side goes; a slow browser gets the latest ones."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            news, state = self.news, {"now": asyncio.get_running_loop().time(), "orders": list(self.rows.values())}
            await response.write(f"data: {json.dumps(state, default=str)}\n\n".encode())
            await news.wait()

    async def switch(self, request: web.Request) -> web.Response:
        """Sent, and not waited for: the watch shows what becomes of it."""
        try:
            await getattr(self.client.orders, request.match_info["verb"])(int(request.match_info["order_id"]))
        except TrooperError as error:
            return web.Response(status=502, text=str(error))
        return web.Response(status=204)


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
    switch = r"/orders/{order_id:\d{1,18}}/{verb:start|stop|freeze|restart}"
    app.add_routes([web.get("/", page), web.get("/events", dashboard.events), web.post(switch, dashboard.switch)])
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
            for step, word in enumerate(LIFE.split() * 60 if nth < 4 else (), 1):  # somebody switches it, for an hour
                asyncio.get_running_loop().call_later((6 + nth) * step, fake.set_status, order, word, AIMS.get(word))
        await serve(fake.client(), port, interval=0.5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Show GPU servers in the browser, and switch them there.")
    parser.add_argument("--live", action="store_true", help="use the real API and TROOPER_API_KEY: switches are real")
    parser.add_argument("--port", type=int, default=8080, help="port on 127.0.0.1, 0 for a free one (%(default)s)")
    given = parser.parse_args()
    try:
        asyncio.run(serve(TrooperClient(), given.port, 5.0) if given.live else demo(given.port))
    except (KeyboardInterrupt, TrooperError, OSError) as error:
        sys.exit(str(error) or 130)
