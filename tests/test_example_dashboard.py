"""examples/dashboard.py: in headless Chromium, over bare HTTP, and run as a user runs it; always on the fake server.

Without a Chromium the tests that need one are skipped; with TROOPER_REQUIRE_BROWSER=1 they fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import unused_port
from playwright.async_api import Error, Locator, Page, async_playwright, expect

from examples import dashboard
from trooper_async import AuthenticationError
from trooper_async.testing import FakeTrooper

SCRIPT = Path(dashboard.__file__)
FOUND = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
# as root there is no sandbox to be had, and nothing is asked of the network
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SWITCHES += ["--disable-component-update", "--disable-sync"]
EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """A page of a headless Chromium, which says yes to every question; an error of the page's script fails the test."""
    if not FOUND:
        assert os.environ.get("TROOPER_REQUIRE_BROWSER") != "1", "no Chromium: apt-get install chromium"
        pytest.skip("needs a Chromium: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=FOUND[0], args=SWITCHES)
        page = await browser.new_page()
        page.on("dialog", lambda dialog: dialog.accept())
        errors: list[Error] = []
        page.on("pageerror", lambda error: errors.append(error))  # a bound method it does not take
        yield page
        await browser.close()
        assert errors == []


@contextlib.asynccontextmanager
async def serving(fake: FakeTrooper) -> AsyncIterator[str]:
    """The dashboard of a fake, in this process; its URL."""
    port = unused_port()
    task = asyncio.create_task(dashboard.serve(fake.client(), port, interval=0.02))
    try:
        while not task.done():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        task.cancel()
        async with asyncio.timeout(10):  # an open stream would hold it up for 60 s
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def url(fake_trooper: FakeTrooper) -> AsyncIterator[str]:
    async with serving(fake_trooper) as url:
        yield url


def row(page: Page, order_id: int) -> Locator:
    return page.locator(f"li[data-order='{order_id}']")


async def bars(row: Locator) -> list[str]:
    return [await bar.get_attribute("data-status") or "" for bar in await row.locator(".bars i").all()]


async def states(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The server-sent events of a stream, decoded."""
    received = b""
    async for chunk in response.content.iter_any():
        *events, received = (received + chunk).split(b"\n\n")
        for event in events:
            yield json.loads(event.removeprefix(b"data: "))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


# --- in the browser ---------------------------------------------------------------------------------------------------


async def test_a_click_stops_a_server_and_its_bar_changes(page: Page, url: str, fake_trooper: FakeTrooper) -> None:
    """The button sends one stop; status, bar, cost and buttons follow what the API then says."""
    fake_trooper.durations["stop"] = 0.5
    order = fake_trooper.add_order(title="mine")
    other = fake_trooper.add_order(status="frozen")
    await page.goto(url)
    mine = row(page, order.order_id)
    await expect(mine.locator(".title")).to_have_text("mine")
    await expect(page.locator("#total")).to_have_text("€0.85")

    await mine.get_by_role("button", name="Stop").click()

    await expect(mine.locator(".status")).to_have_text("stopping stopped")
    await expect(mine.locator(".status")).to_have_text("stopped")
    await expect(mine.locator(".cost")).to_have_text("€0.297 of €0.85")
    await expect(page.locator("#total")).to_have_text("€0.297")
    await expect(mine.get_by_role("button", name="Stop")).to_be_disabled()
    await expect(mine.get_by_role("button", name="Start", exact=True)).to_be_enabled()
    assert await bars(mine) == ["running", "stopping", "stopped"]
    assert await bars(row(page, other.order_id)) == ["frozen"]
    assert fake_trooper.sent("/api/order-status") == [{"serverId": order.server_id, "action": "stopped"}]


async def test_every_button_sends_its_action_once(page: Page, url: str, fake_trooper: FakeTrooper) -> None:
    """Start is sent at once; what interrupts a server asks first, and is not sent on a no; a locked one has none."""
    actions = {"Stop": "stopped", "Freeze": "frozen", "Restart": "restarted", "Start": "running"}
    orders = {name: fake_trooper.add_order(status="stopped" if name == "Start" else "running") for name in actions}
    locked = fake_trooper.add_order(is_locked=True)
    await page.goto(url)
    await page.evaluate("window.yes = window.confirm; window.confirm = () => false")
    for name in ("Stop", "Freeze", "Restart"):
        await row(page, orders[name].order_id).get_by_role("button", name=name, exact=True).click()
    await page.evaluate("window.confirm = window.yes")
    for name, order in orders.items():
        await row(page, order.order_id).get_by_role("button", name=name, exact=True).click()
    for button in await row(page, locked.order_id).get_by_role("button").all():
        await expect(button).to_be_disabled()

    await until(lambda: len(fake_trooper.sent("/api/order-status")) >= len(actions))
    sent = {body["serverId"]: body["action"] for body in fake_trooper.sent("/api/order-status")}
    assert sent == {order.server_id: actions[name] for name, order in orders.items()}
    assert len(fake_trooper.sent("/api/order-status")) == len(actions)


async def test_text_of_the_api_is_only_text(page: Page, url: str, fake_trooper: FakeTrooper) -> None:
    """HTML in a title, a status, a name or an error is shown as it is written; and the policy would not let it in."""
    order = fake_trooper.add_order(title=EVIL, status=EVIL, blib_gpu_type=EVIL, country_code=EVIL)
    fake_trooper.fail_next("/api/order-status", status=400, body={"error": EVIL})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    await page.goto(url)
    mine = row(page, order.order_id)
    await expect(mine.locator(".title")).to_have_text(EVIL)
    await expect(mine.locator(".current")).to_have_text(EVIL)
    await expect(mine.locator(".about")).to_contain_text(EVIL)
    assert await bars(mine) == [EVIL]

    await mine.get_by_role("button", name="Start", exact=True).click()

    await expect(page.get_by_role("alert")).to_contain_text(EVIL)
    assert await page.locator("img").count() == 0
    assert await page.locator("script").count() == 1
    assert await page.evaluate("window.hacked") is None
    assert [text for text in said if "502 (Bad Gateway)" not in text] == []  # nothing was tried and blocked either
    with pytest.raises(Error, match="TrustedHTML"):
        await page.evaluate("document.body.innerHTML = '<b>x</b>'")
    with pytest.raises(Error, match="TrustedScript"):
        await page.evaluate("document.createElement('script').textContent = 'window.hacked = 1'")


async def test_another_sites_page_can_do_nothing(page: Page, url: str, fake_trooper: FakeTrooper) -> None:
    """A page of another origin reaches neither the buttons, whatever it tries, nor the stream."""
    fake_trooper.add_order()
    await page.goto(f"{fake_trooper.url}/api/test")
    answer = await page.evaluate(
        """async (url) => {
            const post = { method: "POST", mode: "no-cors", credentials: "include" };
            await fetch(`${url}/orders/123/stop`, post);
            const opened = await new Promise((resolve) => {
                const stream = new EventSource(`${url}/events`);
                stream.onopen = () => resolve(true);
                stream.onerror = () => resolve(false);
            });
            return opened;
        }""",
        url,
    )
    assert answer is False
    assert fake_trooper.sent("/api/order-status") == []


async def test_the_stream_survives_faults_of_the_api(page: Page, url: str, fake_trooper: FakeTrooper) -> None:
    """A failing, silent and nonsensical API is ridden out, and what changed meanwhile is shown."""
    order = fake_trooper.add_order()
    await page.goto(url)
    await expect(row(page, order.order_id).locator(".status")).to_have_text("running")
    fake_trooper.fail_next("/api/orders", status=503, times=2)
    fake_trooper.drop_next("/api/orders", times=2)
    fake_trooper.fail_next("/api/orders", status=200, body="<html>")
    fake_trooper.set_status(order, "frozen")
    added = fake_trooper.add_order(title="new")
    await expect(row(page, order.order_id).locator(".status")).to_have_text("frozen")
    await expect(row(page, added.order_id).locator(".title")).to_have_text("new")
    fake_trooper.remove_order(order)
    await expect(row(page, order.order_id)).to_have_count(0)
    await expect(page.locator("#link")).to_have_text("live")


async def test_a_hidden_page_hangs_up_and_comes_back(page: Page, url: str, fake_trooper: FakeTrooper) -> None:
    """A hidden tab has no stream, so that six tabs do not block the seventh; shown again it is up to date."""
    order = fake_trooper.add_order()
    await page.goto(url)
    await expect(row(page, order.order_id)).to_be_visible()
    hide = "Object.defineProperty(document, 'hidden', { value: %s, configurable: true });"
    await page.evaluate(hide % "true" + "document.dispatchEvent(new Event('visibilitychange'))")
    fake_trooper.set_status(order, "stopped")
    async with aiohttp.ClientSession() as session, session.get(f"{url}/events") as response:
        async for state in states(response):
            if state["orders"] and state["orders"][0]["current_status"] == "stopped":
                break
    await page.wait_for_timeout(200)  # were there a stream, it would have brought the news
    await expect(row(page, order.order_id).locator(".status")).to_have_text("running")
    await page.evaluate(hide % "false" + "document.dispatchEvent(new Event('visibilitychange'))")
    await expect(row(page, order.order_id).locator(".status")).to_have_text("stopped")


async def test_a_sparse_api_is_shown_too(page: Page) -> None:
    """Null and missing fields, numbers as text, no desired status: all is shown, and nothing as undefined or NaN."""
    async with FakeTrooper(loose_types=True, desired="absent", dialect="current_status") as fake, serving(fake) as url:
        fake.add_order(title="", status="Running")
        await page.goto(url)
        await expect(page.locator("#running")).to_have_text("1 of 1")
        await expect(page.locator("#total")).to_have_text("€0.85")
        text = await page.inner_text("body")
        assert not [word for word in ("undefined", "NaN", "null") if word in text]


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "{url}"}, 204),
        ({}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
    ],
)
async def test_only_the_own_page_switches(
    url: str, fake_trooper: FakeTrooper, headers: dict[str, str], status: int
) -> None:
    """A POST needs the origin of the page itself, under a name of the loopback: else nothing is sent to the API."""
    order = fake_trooper.add_order()
    headers = {name: value.format(url=url) for name, value in headers.items()}
    stop = f"{url}/orders/{order.order_id}/stop"
    async with aiohttp.ClientSession(headers=headers) as session, session.post(stop) as response:
        assert response.status == status
    assert len(fake_trooper.sent("/api/order-status")) == (status == 204)


@pytest.mark.parametrize("path", ["/", "/events"])
async def test_other_sites_read_nothing(url: str, path: str) -> None:
    """Another origin, or a foreign name that points at this machine (DNS rebinding), gets neither page nor stream."""
    names = ("evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example")
    async with aiohttp.ClientSession() as session:
        for headers in ({"Origin": "https://evil.example"}, *({"Host": name} for name in names)):
            async with session.get(f"{url}{path}", headers=headers) as response:
                assert (response.status, await response.read()) == (403, b"")


async def test_the_policy_names_a_nonce_of_its_own_each_time(url: str) -> None:
    """Only the page's own script and style run, by a nonce that nobody can know; nobody can frame the page."""
    nonces = []
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.get(url) as response:
                policy, text = response.headers["Content-Security-Policy"], await response.text()
            nonces.append(policy.partition("script-src 'nonce-")[2].partition("'")[0])
            assert text.count(f'nonce="{nonces[-1]}"') == text.count("<script") + text.count("<style") == 2
            assert policy.startswith("default-src 'none'; ")
            assert "frame-ancestors 'none'" in policy
    assert len(set(nonces)) == 2


async def test_an_error_of_the_client_is_told(url: str) -> None:
    """A switch that could not be sent is a 502 with the error's text."""
    async with aiohttp.ClientSession(headers={"Origin": url}) as session:
        async with session.post(f"{url}/orders/99/stop") as response:
            assert response.status == 502
            assert "not in the list of orders" in await response.text()
        async with session.post(f"{url}/orders/99/explode") as response:
            assert response.status == 404


async def test_browsers_share_one_watch_and_leave_nothing_behind(url: str, fake_trooper: FakeTrooper) -> None:
    """Each of many streams gets every state; one that is closed takes its task along, and the others go on."""
    order = fake_trooper.add_order()
    tasks = asyncio.all_tasks()
    async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as stack:
        responses = [await stack.enter_async_context(session.get(f"{url}/events")) for _ in range(10)]
        feeds = [states(response) for response in responses]
        for feed in feeds:
            async for state in feed:
                if state["orders"]:
                    break
        for response in responses[1:]:
            response.close()
        await until(lambda: len(asyncio.all_tasks() - tasks) <= 2)  # of the one stream: its connection and its handler
        fake_trooper.set_status(order, "stopped")
        async for state in feeds[0]:
            if [row["current_status"] for row in state["orders"]] == ["stopped"]:
                assert [status for _, status in state["orders"][0]["bars"]] == ["running", "stopped"]
                break
    await until(lambda: asyncio.all_tasks() <= tasks)


async def test_a_slow_browser_gets_the_latest_state(url: str, fake_trooper: FakeTrooper) -> None:
    """Who does not read for a while misses states in between, not the last one, and holds up nobody."""
    order, *_ = [fake_trooper.add_order(title="x" * 200_000) for _ in range(10)]  # 2 MB that are sent each time
    words = [f"word {number}" for number in range(20)]
    events = f"{url}/events"
    async with aiohttp.ClientSession() as session, session.get(events) as slow, session.get(events) as quick:
        feed = states(quick)
        for word in words:
            fake_trooper.set_status(order, word)
            async for state in feed:
                if word in [row["current_status"] for row in state["orders"]]:
                    break
        seen = []
        async for state in states(slow):
            seen += [row["current_status"] for row in state["orders"] if row["order_id"] == order.order_id]
            if seen[-1:] == words[-1:]:
                break
        assert len(set(seen)) < len(words)


# --- as a user runs it ------------------------------------------------------------------------------------------------


async def started(*arguments: str, **environment: str) -> tuple[asyncio.subprocess.Process, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", str(SCRIPT), "--port", "0", *arguments),
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()


async def test_run_on_the_embedded_fake_until_ctrl_c() -> None:
    """It prints its URL, streams a lively fleet, and Ctrl-C ends it at once, with 130 and open streams cut."""
    process, url = await started(TROOPER_API_KEY="never-used", TROOPER_BASE_URL="https://127.0.0.1:1")
    async with aiohttp.ClientSession() as session, session.get(f"{url}/events") as response:
        async for state in states(response):
            if len(state["orders"]) == 6:
                break
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), 20)
        assert (process.returncode, out, err) == (130, b"", b"")
        with contextlib.suppress(aiohttp.ClientError):
            await response.read()


async def test_a_refused_key_ends_it(fake_trooper: FakeTrooper) -> None:
    """The server does not go on with what it can't know any more: the error comes out, and the port is free again."""
    port = unused_port()
    with pytest.raises(AuthenticationError):
        await dashboard.serve(fake_trooper.client(api_key="wrong-key"), port, interval=0.02)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))


async def test_a_port_that_is_taken_is_told() -> None:
    """One line on stderr and exit code 1, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process, _ = await started("--port", str(taken.getsockname()[1]))
        _, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert err.count(b"\n") == 1
    assert b"in use" in err
