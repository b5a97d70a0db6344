"""examples/dashboard.py in headless Chromium, on the fake server.

Without a Chromium the tests are skipped; with TROOPER_REQUIRE_ALL=1 they fail.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
from attrs import evolve

pytest.importorskip("playwright", reason="needs playwright: pip install -e '.[examples]'")

from playwright.async_api import Browser, Error, Locator, Page, async_playwright, expect

from tests.examples.test_dashboard import serving, states
from tests.helpers.conditions import until
from tests.helpers.requirements import missing
from trooper_async.testing import FakeTrooper, Profile

pytestmark = pytest.mark.asyncio(loop_scope="module")  # they share one browser, which lives in one loop

FOUND = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
# as root there is no sandbox to be had, and nothing is asked of the network
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SWITCHES += ["--disable-component-update", "--disable-sync"]
EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """A headless Chromium."""
    if not FOUND:
        missing("a Chromium", "apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=FOUND[0], args=SWITCHES)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page in a profile of its own that says yes to every question; an error of its script fails the test."""
    async with await browser.new_context() as profile:
        page = await profile.new_page()
        page.on("dialog", lambda dialog: dialog.accept())
        errors: list[Error] = []
        page.on("pageerror", lambda error: errors.append(error))  # a bound method it does not take
        yield page
        assert errors == []


@pytest_asyncio.fixture(loop_scope="module")
async def fake_trooper() -> AsyncIterator[FakeTrooper]:
    async with FakeTrooper() as fake:
        yield fake


@pytest_asyncio.fixture(loop_scope="module")
async def url(fake_trooper: FakeTrooper) -> AsyncIterator[str]:
    async with serving(fake_trooper) as url:
        yield url


def row(page: Page, order_id: int) -> Locator:
    return page.locator(f"li[data-order='{order_id}']")


async def bars(row: Locator) -> list[str]:
    return [await bar.get_attribute("data-status") or "" for bar in await row.locator(".bars i").all()]


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
    async with (
        FakeTrooper(profile=evolve(Profile.load("loose"), current_field="current_status", desired_field=None)) as fake,
        serving(fake) as url,
    ):
        fake.add_order(title="", status="Running")
        await page.goto(url)
        await expect(page.locator("#running")).to_have_text("1 of 1")
        await expect(page.locator("#total")).to_have_text("€0.85")
        text = await page.inner_text("body")
        assert not [word for word in ("undefined", "NaN", "null") if word in text]
