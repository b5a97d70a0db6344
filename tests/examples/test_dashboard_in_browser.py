"""examples/dashboard.py in headless Chromium, on the fake server.

Without a Chromium, or axe-core, the tests that need it are skipped; with TROOPER_REQUIRE_ALL=1 they fail.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from attrs import evolve

pytest.importorskip("playwright", reason="needs playwright: pip install -e '.[examples]'")

from playwright.async_api import Browser, Error, Locator, Page, async_playwright, expect

from tests.examples.test_dashboard import serving, states
from tests.helpers.conditions import LIMIT, until
from tests.helpers.requirements import missing
from trooper_async.testing import FakeTrooper, Profile

pytestmark = pytest.mark.asyncio(loop_scope="module")  # they share one browser, which lives in one loop

expect.set_options(timeout=LIMIT * 1000)
FOUND = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
# root has no sandbox, and nothing is requested from the network
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SWITCHES += ["--disable-component-update", "--disable-sync"]
WIDTHS = (320, 390, 600, 650, 800, 1000, 1400)
LONG = "a title of forty characters, and of more"
UNBROKEN = "training-7b-with-a-title-without-any-space-in-it"
WCAG_AA = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
SINCE = re.compile(r"^the API has not responded since \d+:\d\d:\d\d [AP]M \(.+\)")
EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    """A headless Chromium, with its own folder for the temporary files that it makes at any time."""
    if not FOUND:
        missing("a Chromium", "apt-get install chromium")
    async with async_playwright() as playwright:
        env = {**os.environ, "TMPDIR": str(tmp_path_factory.mktemp("chromium"))}
        browser = await playwright.chromium.launch(executable_path=FOUND[0], args=SWITCHES, env=dict(env))
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page in its own profile that says yes to every question; an error of its script fails the test."""
    async with await browser.new_context() as profile:
        page = await profile.new_page()
        page.on("dialog", lambda dialog: dialog.accept())
        errors: list[Error] = []
        page.on("pageerror", lambda error: errors.append(error))  # it accepts no bound method
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


def button(page: Page, order_id: int, name: str) -> Locator:
    """The button of a row with that text."""
    return row(page, order_id).get_by_text(name, exact=True)


async def bars(row: Locator) -> list[str]:
    return [await bar.get_attribute("data-status") or "" for bar in await row.locator(".bars i").all()]


async def test_a_click_stops_a_server_and_its_bar_changes(page: Page, url: str, fake_trooper: FakeTrooper) -> None:
    """The button sends one stop; status, bar, cost and buttons follow what the API then returns."""
    fake_trooper.durations["stop"] = 600
    order = fake_trooper.add_order(title="mine")
    other = fake_trooper.add_order(status="frozen")
    await page.goto(url)
    mine = row(page, order.order_id)
    await expect(mine.locator(".title")).to_have_text("mine")
    await expect(page.locator("#total")).to_have_text("€0.85")

    await mine.get_by_role("button", name="Stop mine").click()

    await expect(mine.locator(".status")).to_have_text("stopping stopped")
    fake_trooper.advance(600)
    await expect(mine.locator(".status")).to_have_text("stopped")
    await expect(mine.locator(".cost")).to_have_text("€0.297 of €0.85")
    await expect(page.locator("#total")).to_have_text("€0.297")
    await expect(mine.get_by_role("button", name="Stop mine")).to_be_disabled()
    await expect(mine.get_by_role("button", name="Start mine", exact=True)).to_be_enabled()
    assert await bars(mine) == ["running", "stopping", "stopped"]
    assert await bars(row(page, other.order_id)) == ["frozen"]
    assert fake_trooper.sent("/api/order-status") == [{"serverId": order.server_id, "action": "stopped"}]


async def test_every_button_sends_its_action_once(page: Page, url: str, fake_trooper: FakeTrooper) -> None:
    """Start is sent at once; an interruption asks first, and is not sent on a no; a locked server has no buttons."""
    actions = {"Stop": "stopped", "Freeze": "frozen", "Restart": "restarted", "Start": "running"}
    orders = {name: fake_trooper.add_order(status="stopped" if name == "Start" else "running") for name in actions}
    locked = fake_trooper.add_order(is_locked=True)
    await page.goto(url)
    await page.evaluate("window.yes = window.confirm; window.confirm = () => false")
    for name in ("Stop", "Freeze", "Restart"):
        await button(page, orders[name].order_id, name).click()
    await page.evaluate("window.confirm = window.yes")
    for name, order in orders.items():
        await button(page, order.order_id, name).click()
    for its in await row(page, locked.order_id).get_by_role("button").all():
        await expect(its).to_be_disabled()
        await its.click(force=True)

    await until(lambda: len(fake_trooper.sent("/api/order-status")) >= len(actions))
    sent = {body["serverId"]: body["action"] for body in fake_trooper.sent("/api/order-status")}
    assert sent == {order.server_id: actions[name] for name, order in orders.items()}
    assert len(fake_trooper.sent("/api/order-status")) == len(actions)


async def test_text_of_the_api_is_only_text(page: Page, url: str, fake_trooper: FakeTrooper) -> None:
    """HTML in a title, a status, a name or an error is shown as text; and the policy would block it."""
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

    await button(page, order.order_id, "Start").click()

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
    """A page of another origin reaches neither the buttons nor the stream, whatever it tries."""
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
    """A failing, silent or nonsensical API is tolerated, and changes made meanwhile are shown."""
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


async def test_a_hidden_page_closes_its_stream_and_reopens_it(page: Page, url: str, fake_trooper: FakeTrooper) -> None:
    """A hidden tab has no stream, so that six tabs do not block a seventh; shown again it is up to date."""
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
    await page.wait_for_timeout(200)  # with a stream, the change would have been shown
    await expect(row(page, order.order_id).locator(".status")).to_have_text("running")
    await page.evaluate(hide % "false" + "document.dispatchEvent(new Event('visibilitychange'))")
    await expect(row(page, order.order_id).locator(".status")).to_have_text("stopped")


async def test_a_sparse_api_is_shown(page: Page) -> None:
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


# --- while the API does not respond -----------------------------------------------------------------------------------


async def test_before_the_first_response_nothing_is_claimed(page: Page, fake_trooper: FakeTrooper) -> None:
    """It says at once since when it has been waiting, and shows no number of servers, cost or empty account."""
    fake_trooper.add_order()
    holds = [fake_trooper.hold_next("/api/orders") for _ in range(2)]
    async with serving(fake_trooper) as url:
        await page.goto(url)
        await expect(page.locator("#link")).to_have_text(SINCE)
        for hold in holds:
            await hold.arrived()
        for number in ("running", "moving", "total"):
            await expect(page.locator(f"#{number}")).to_have_text("\N{EN DASH}")
        await expect(page.get_by_text("No servers yet")).to_be_hidden()
        for hold in holds:
            hold.release()
        await expect(page.locator("#link")).to_have_text("live")
        await expect(page.locator("#running")).to_have_text("1 of 1")


async def test_an_api_that_fails_from_the_start_is_reported(page: Page, fake_trooper: FakeTrooper) -> None:
    """With its error; the first success ends it, for an account without servers too."""
    fake_trooper.fail_next("/api/orders", status=503, times=30)
    holds = [fake_trooper.hold_next("/api/orders") for _ in range(2)]
    async with serving(fake_trooper) as url:
        await page.goto(url)
        await expect(page.locator("#link")).to_contain_text("a 503 of fail_next")
        await expect(page.locator("#link")).to_have_text(SINCE)
        for hold in holds:
            hold.release()
        await expect(page.locator("#link")).to_have_text("live")
        await expect(page.get_by_text("No servers yet")).to_be_visible()
        await expect(page.locator("#total")).to_have_text("€0.00")


async def test_bars_end_where_an_outage_begins(page: Page, url: str, fake_trooper: FakeTrooper) -> None:
    """Until it ends, nothing more is drawn, and the page says that it shows an old state."""
    order = fake_trooper.add_order()
    await page.goto(url)
    mine = row(page, order.order_id)
    await expect(page.locator("#link")).to_have_text("live")
    assert await bars(mine) == ["running"]

    fake_trooper.fail_next("/api/orders", status=503, times=3)
    hold = fake_trooper.hold_next("/api/orders")
    await expect(page.locator("#link")).to_have_text(SINCE)
    await expect(page.locator("#link")).to_contain_text("the servers are shown as they were then")
    await expect(mine.locator(".bars i")).to_have_count(2)
    assert await bars(mine) == ["running", ""]
    assert await mine.locator(".bars i").last.get_attribute("title") != ""
    await expect(mine.locator(".bars")).to_have_attribute("aria-label", re.compile("running .*, not known "))
    ends = await right_end(mine.locator(".bars i").first)
    await until_drawn(page)
    assert await right_end(mine.locator(".bars i").first) < ends, "the past moves to the left"

    fake_trooper.set_status(order, "frozen")
    hold.release()
    await expect(page.locator("#link")).to_have_text("live")
    await expect(mine.locator(".status")).to_have_text("frozen")
    await until_drawn(page)
    assert (await bars(mine))[-1] == "frozen"
    assert (await bars(mine))[:2] == ["running", ""]


async def right_end(bar: Locator) -> float:
    box = await bar.bounding_box()
    assert box is not None
    return box["x"] + box["width"]


async def until_drawn(page: Page) -> None:
    """Wait until the bars have been drawn once more."""
    await page.evaluate("new Promise((resolve) => setTimeout(() => { draw(); resolve(); }, 600))")


@pytest.mark.parametrize("lost", [True, False])
async def test_an_unknown_outcome_is_not_called_undone(
    page: Page, url: str, fake_trooper: FakeTrooper, lost: bool
) -> None:
    """A lost response is one thing, a refusal another."""
    order = fake_trooper.add_order(title="mine")
    await page.goto(url)
    if lost:
        fake_trooper.drop_next("/api/order-status", when="after")
    else:
        fake_trooper.fail_next("/api/order-status", status=400, body={"error": "not today"})
    await button(page, order.order_id, "Restart").click()
    said = "Restart mine: it is not known whether it was done." if lost else "Restart mine: it was not done."
    await expect(page.get_by_role("alert")).to_contain_text(said)


async def test_without_the_dashboard_an_outcome_is_unknown(page: Page, url: str, fake_trooper: FakeTrooper) -> None:
    """The dashboard process is gone: it may have sent the action."""
    order = fake_trooper.add_order(title="mine")
    await page.goto(url)
    await page.route("**/orders/**", lambda route: route.abort())
    await button(page, order.order_id, "Stop").click()
    await expect(page.get_by_role("alert")).to_contain_text("Stop mine: it is not known whether it was done.")


# --- accessibility ----------------------------------------------------------------------------------------------------


def motley(fake: FakeTrooper) -> None:
    """A server of each kind, with long titles and words."""
    words = ("running", "stopped", "frozen", "terminated", "starting", "an-unheard-of-status-of-the-api")
    for nth, word in enumerate(words):
        fake.add_order(title=(LONG, UNBROKEN, "a", "", EVIL)[nth % 5], status=word, is_locked=nth == 2)
    fake.set_status(fake.add_order(title=UNBROKEN * 2), "stopping", "stopped")


async def with_trouble(page: Page, fake: FakeTrooper, url: str) -> None:
    """The page with everything that it can show: each kind of server, a failed action, and an outage."""
    await page.goto(url)
    await expect(page.locator("li")).to_have_count(7)
    fake.fail_next("/api/order-status", status=400, body={"error": UNBROKEN * 3})
    await page.locator("li").first.get_by_text("Stop", exact=True).click()
    await expect(page.get_by_role("alert")).to_be_visible()
    fake.fail_next("/api/orders", status=503, times=3, body={"error": UNBROKEN * 3})


@pytest.mark.parametrize("width", WIDTHS)
async def test_nothing_scrolls_sideways(page: Page, url: str, fake_trooper: FakeTrooper, width: int) -> None:
    """From 320 px on, with long titles, words and errors; a common status stays on one line."""
    motley(fake_trooper)
    await page.set_viewport_size({"width": width, "height": 800})
    hold = None
    try:
        await with_trouble(page, fake_trooper, url)
        hold = fake_trooper.hold_next("/api/orders")
        await expect(page.locator("#link")).to_contain_text(UNBROKEN)
        beyond = await page.evaluate(
            """() => [...document.querySelectorAll("body *")].filter((one) => {
                const box = one.getBoundingClientRect();
                return box.width && !one.matches(".unseen, .bars i") && (box.right > innerWidth + 0.5 || box.left < 0);
            }).map((one) => one.outerHTML.slice(0, 80))"""
        )
        assert beyond == []
        assert await page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        box = await page.locator(".current", has_text="running").first.bounding_box()
        assert box is not None
        assert box["height"] < 30
    finally:
        if hold is not None:
            hold.release()


@pytest.mark.parametrize("width", [320, 1200])
@pytest.mark.parametrize("colours", ["light", "dark", "forced"])
async def test_axe_finds_no_violation_of_wcag_aa(
    browser: Browser, url: str, fake_trooper: FakeTrooper, colours: str, width: int
) -> None:
    """axe-core finds no violation of WCAG 2.2 A and AA, whatever the page shows."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        missing("axe-core", "pip install axe-playwright-python")
    axe = Path(found.origin).with_name("axe.min.js").read_text(encoding="utf-8")
    motley(fake_trooper)
    settings: dict[str, Any] = {"forced_colors": "active"} if colours == "forced" else {"color_scheme": colours}
    async with await browser.new_context(
        bypass_csp=True, viewport={"width": width, "height": 800}, **settings
    ) as profile:
        page = await profile.new_page()
        page.on("dialog", lambda dialog: dialog.accept())
        await with_trouble(page, fake_trooper, url)
        with fake_trooper.hold_next("/api/orders"):
            await expect(page.locator("#link")).to_contain_text(UNBROKEN)
            await page.evaluate(axe)
            result = await page.evaluate("(tags) => axe.run({ runOnly: tags })", WCAG_AA)
    found_faults = [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in result["violations"]]
    assert found_faults == []
    assert {"color-contrast", "button-name", "target-size"} <= {rule["id"] for rule in result["passes"]}


async def test_bars_and_dots_are_visible_in_forced_colours(
    browser: Browser, url: str, fake_trooper: FakeTrooper
) -> None:
    """They are information: the browser does not paint them over."""
    fake_trooper.add_order()
    async with await browser.new_context(forced_colors="active") as profile:
        page = await profile.new_page()
        await page.goto(url)
        await expect(page.locator(".bars i")).to_have_count(1)
        colours = await page.evaluate(
            """() => [[".bars i", ""], [".current", "::before"], ["#link", "::before"], ["body", ""]].map(
                ([name, part]) => getComputedStyle(document.querySelector(name), part || null).backgroundColor)"""
        )
    assert colours[3] not in colours[:3]


async def test_each_button_names_its_server(page: Page, url: str, fake_trooper: FakeTrooper) -> None:
    """A screen reader announces which server it stops, and the question names it as well."""
    for title in ("one", "two"):
        fake_trooper.add_order(title=title)
    await page.goto(url)
    asked: list[str] = []
    page.on("dialog", lambda dialog: asked.append(dialog.message))
    for verb in ("Start", "Stop", "Freeze", "Restart"):
        for title in ("one", "two"):
            await expect(page.get_by_role("button", name=f"{verb} {title}", exact=True)).to_have_count(1)
    await page.get_by_role("button", name="Stop two").click()
    await until(lambda: fake_trooper.sent("/api/order-status"))
    assert asked == ["Stop two?"]


async def test_everything_works_with_the_keyboard(page: Page, url: str, fake_trooper: FakeTrooper) -> None:
    """Tab reaches each button; the focus stays on the pressed one, and returns to it after a message."""
    order = fake_trooper.add_order(title="mine")
    await page.goto(url)
    await expect(row(page, order.order_id)).to_be_visible()
    focused = page.locator(":focus")
    for name in ("Start mine", "Stop mine"):
        await page.keyboard.press("Tab")
        await expect(focused).to_have_attribute("aria-label", name)
    await page.keyboard.press("Enter")
    await expect(row(page, order.order_id).locator(".status")).to_have_text("stopped")
    await expect(focused).to_have_attribute("aria-label", "Stop mine")
    await page.keyboard.press("Enter")  # it is stopped: nothing more is sent

    fake_trooper.fail_next("/api/order-status", status=400)
    await page.keyboard.press("Shift+Tab")
    await page.keyboard.press("Space")
    await expect(page.get_by_role("alert")).to_be_visible()
    await expect(focused).to_have_attribute("aria-label", "Start mine")
    for _ in range(4):
        await page.keyboard.press("Tab")
    await expect(focused).to_have_text("Dismiss")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_be_hidden()
    await expect(focused).to_have_attribute("aria-label", "Start mine")
    assert [body["action"] for body in fake_trooper.sent("/api/order-status")] == ["stopped", "running"]

    fake_trooper.remove_order(order)
    await expect(row(page, order.order_id)).to_have_count(0)
    await expect(focused).to_have_text("Servers")


async def test_changes_are_announced(page: Page, url: str, fake_trooper: FakeTrooper) -> None:
    """In a polite live region, with the server's name: nothing at the start, and many changes as a summary."""
    order = fake_trooper.add_order(title="mine")
    await page.goto(url)
    await expect(row(page, order.order_id)).to_be_visible()
    await page.reload()  # now the dashboard knows the server, so it is there from the start
    await expect(row(page, order.order_id)).to_be_visible()
    said = page.locator("#said")
    await expect(said).to_have_attribute("role", "status")
    await expect(said).to_have_text("")
    fake_trooper.set_status(order, "stopping", "stopped")
    await expect(said).to_have_text("mine is stopping, to be stopped")
    fake_trooper.set_status(order, "stopped")
    await expect(said).to_have_text("mine is stopped")
    fake_trooper.remove_order(order)
    await expect(said).to_have_text("mine is gone")
    many = await page.evaluate(
        """() => {
            const one = (id) => ({ order_id: id, title: `s${id}`, current_status: "running", desired_status: null });
            announce([], [1, 2, 3, 4, 5, 6, 7].map(one));
            return document.getElementById("said").textContent;
        }"""
    )
    assert many.endswith("s5 is running. 2 more")
