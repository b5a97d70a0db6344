"""examples/quickstart.py, run as a user runs it."""

from __future__ import annotations

import re
import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from examples import quickstart
from tests.helpers import processes
from trooper_async.testing import FakeTrooper

NOT_USED = {"TROOPER_API_KEY": "never-used", "TROOPER_BASE_URL": "https://127.0.0.1:1"}


async def test_quickstart_runs_all_actions_on_several_servers() -> None:
    """It exits with 0, prints a line for each status, and ignores TROOPER_* unless it is told to go live."""
    async with processes.python(quickstart.__file__, env=NOT_USED) as child:
        assert (await child.ends(), child.err) == (0, "")
    for status in ("starting", "running", "stopping", "stopped", "freezing", "frozen", "migrating", "restarting"):
        assert child.out.count(f" is {status}") >= 3
    assert "all 3 done" in child.out


async def test_quickstart_ends_cleanly_on_ctrl_c() -> None:
    """Ctrl-C in the middle freezes what was ordered, and ends it with 130 and without a traceback."""
    async with processes.python(quickstart.__file__) as child:
        await child.says("is starting")
        child.send(signal.SIGINT)
        assert (await child.ends(), child.err) == (130, "")
    assert child.out.endswith("freezing what was ordered, which can take a minute\ninterrupted\n")


def live(fake: FakeTrooper) -> AbstractAsyncContextManager[processes.Child]:
    """quickstart --live, with the fake as its API."""
    environment = {"TROOPER_API_KEY": fake.api_key, "TROOPER_BASE_URL": fake.url}
    return processes.python(quickstart.__file__, "--live", "--max-price-h", "0.2", env=environment)


def frozen(fake: FakeTrooper) -> int:
    return sum(body["action"] == "frozen" for body in fake.sent("/api/order-status"))


@pytest.mark.parametrize("ends", [[signal.SIGINT], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM]])
async def test_quickstart_freezes_a_server_whose_order_was_in_flight(
    ends: list[signal.Signals], fake_trooper: FakeTrooper
) -> None:
    """One or two signals while the order is in flight: it is frozen, and its id and price are printed."""
    async with live(fake_trooper) as child:
        with fake_trooper.hold_next("/api/order") as hold:
            await hold.arrived()
            for end in ends:
                child.send(end)
                await child.says("freezing what was ordered")
        assert await child.ends() == 130
    assert frozen(fake_trooper) == 1
    assert "order 123 is fr" in child.out
    assert "running, it costs 0.195 EUR per hour: `trooper freeze 123` freezes it" in child.out


async def test_quickstart_says_that_an_order_may_have_been_made(fake_trooper: FakeTrooper) -> None:
    """The response to the order is lost and Ctrl-C comes: it prints the cost and the possible order."""
    fake_trooper.add_order()
    async with live(fake_trooper) as child:
        with fake_trooper.hold_next("/api/orders") as before:
            await before.arrived()
            fake_trooper.drop_next("/api/order", when="after")
            looking = fake_trooper.hold_next("/api/orders")
        await looking.arrived()
        child.send(signal.SIGINT)
        await child.says("freezing what was ordered")
        looking.release()
        assert await child.ends() == 130
    assert "whether a server was ordered is unknown; running, it costs 0.195 EUR per hour" in child.out
    assert "candidates: order 124" in child.err


async def test_quickstart_freezes_after_an_error(fake_trooper: FakeTrooper) -> None:
    """Whatever fails once the server is bought, it is frozen, and its status is printed."""
    fake_trooper.fail_next("/api/order-title", status=400)
    async with live(fake_trooper) as child:
        assert await child.ends() == 1
    assert (frozen(fake_trooper), "orders.rename" in child.err) == (1, True)
    assert "`trooper freeze 123` freezes it" in child.out


async def test_quickstart_without_an_offer_says_so(fake_trooper: FakeTrooper) -> None:
    """Nothing is bought, and it exits with 1."""
    for blib in fake_trooper.blibs.values():
        blib.is_available = False
    async with live(fake_trooper) as child:
        assert (await child.ends(), child.err) == (1, "nothing is on offer now\n")


@pytest.mark.parametrize("arguments", [["--live"], ["--max-price-h", "cheap"]])
async def test_quickstart_needs_a_price_limit_to_go_live(arguments: list[str]) -> None:
    """Without a limit, nothing is sent and it exits with 2."""
    async with processes.python(quickstart.__file__, *arguments, env=NOT_USED) as child:
        assert await child.ends() == 2
    assert "max-price-h" in child.err


EXAMPLES = Path(quickstart.__file__).parent


def test_the_page_lists_each_example_once() -> None:
    """Each has a row, and each row is an example."""
    rows = re.findall(r"^\| \[(\w+\.py)\]\((\w+\.py)\) \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == [(path.name, path.name) for path in sorted(EXAMPLES.glob("*.py"))]


async def test_an_example_runs_on_the_fake_as_the_page_says(tmp_path: Path) -> None:
    """Its key and variables are those of a fake in another process."""
    found = re.search(r"TROOPER_API_KEY=(\S+)\n", (EXAMPLES / "README.md").read_text())
    assert found is not None
    async with processes.python("-m", "trooper_async.testing", "--port", "0", "--seconds", "0") as fake:
        url = (await fake.says(found[1])).split()[0]
        variables = {"TROOPER_BASE_URL": url, "TROOPER_API_KEY": found[1]}
        command = (EXAMPLES / "order_and_connect.py", "--live", "--max-price-h", "1")
        async with processes.python(*command, cwd=tmp_path, env=variables) as child:
            assert await child.ends() == 0


def test_examples_use_public_names_only() -> None:
    """They are copied, and private names may change in any release."""
    private = r"(?:from|import) trooper_async\.(?:\w+\.)*_|from trooper_async\S* import .*\b_"
    assert [path.name for path in EXAMPLES.glob("*.py") if re.search(private, path.read_text())] == []
