"""examples/order_and_connect.py: in this process on the fixtures, and run as a user runs it."""

from __future__ import annotations

import asyncio
import functools
import re
import signal
from argparse import Namespace
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from pathlib import Path

import pytest

from examples import order_and_connect as example
from examples.order_and_connect import NotThereError, order_and_connect
from tests.helpers import processes
from tests.helpers.conditions import until
from trooper_async import PriceError, TemplateFailedError, TrooperClient
from trooper_async.testing import FakeTrooper

PYTORCH = "PyTorch Environment"
SCRIPT = Path(__file__).parents[2] / "examples" / "order_and_connect.py"


async def script(folder: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the example, run in its own folder."""
    async with processes.python(SCRIPT, *arguments, cwd=folder, env=environment) as child:
        return await child.ends(), child.out, child.err


def bought(fake: FakeTrooper) -> int:
    return sum(request.path == "/api/order" for request in fake.requests)


async def test_it_ends_with_the_ssh_command_and_never_shows_the_password(
    trooper: TrooperClient, fake_trooper: FakeTrooper, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server runs under its name, the template is installed, and the output has no password."""
    command = await order_and_connect(trooper, "mine", PYTORCH.lower(), Decimal("0.2"))

    (order,) = await trooper.orders.list()
    login = await trooper.orders.credentials(order)
    assert command == f"ssh -p {login.ssh_port} root@127.0.0.1"
    assert (order.title, order.current_status, order.price_h) == ("mine", "running", Decimal("0.195"))
    assert [install.template_name for install in order.template_installs or ()] == [PYTORCH]
    out, err = capsys.readouterr()
    assert f"{PYTORCH}: Completed" in out
    assert login.password
    assert login.password not in out + err + command


async def test_the_same_name_buys_and_installs_only_once(fake_trooper: FakeTrooper) -> None:
    """Cancelled in the middle and repeated, even when nothing is on offer any more: one server, one install."""
    fake_trooper.durations["create"] = 0.5
    async with fake_trooper.client() as client:
        task = asyncio.create_task(order_and_connect(client, "mine", PYTORCH, None))
        await until(lambda: bought(fake_trooper))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for blib in fake_trooper.blibs.values():
            blib.is_available = False
        first = await order_and_connect(client, "mine", PYTORCH, None)
        assert await order_and_connect(client, "mine", PYTORCH, None) == first
    assert bought(fake_trooper) == 1
    assert sum(request.path == "/api/template-install-add" for request in fake_trooper.requests) == 1


async def test_a_missing_template_or_a_price_above_the_limit_buys_nothing(
    trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """What is certain to fail fails before the purchase."""
    with pytest.raises(NotThereError, match=f"'PyTroch'; there are {PYTORCH}"):
        await order_and_connect(trooper, "mine", "PyTroch", None)
    with pytest.raises(PriceError):
        await order_and_connect(trooper, "mine", PYTORCH, Decimal("0.19"))
    assert bought(fake_trooper) == 0


async def test_the_cheapest_available_offer_is_ordered(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """A sold out offer does not count, however cheap."""
    fake_trooper.blibs[3].is_available = False
    await order_and_connect(trooper, "mine", PYTORCH, None)
    assert [order.blib_name for order in await trooper.orders.list()] == ["RTX 4090 Single"]


async def test_a_failed_installation_is_an_error(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """The client's error is raised unchanged; a repeat fails again instead of printing a login."""
    fake_trooper.failing_templates.add(1)
    for _ in range(2):
        with pytest.raises(TemplateFailedError):
            await order_and_connect(trooper, "mine", PYTORCH, None)
    assert len(fake_trooper.sent("/api/template-install-add")) == 1


async def test_without_an_available_offer_nothing_is_bought(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """It says so, instead of ordering a sold out one."""
    for blib in fake_trooper.blibs.values():
        blib.is_available = False
    with pytest.raises(NotThereError, match="no server is on offer"):
        await order_and_connect(trooper, "mine", PYTORCH, None)
    assert bought(fake_trooper) == 0


@pytest.mark.parametrize("status", ["frozen", "stopped"])
async def test_the_same_name_starts_a_frozen_server(
    status: str, trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """The server is started, even when another offer is now the cheapest; nothing is bought."""
    first = await order_and_connect(trooper, "mine", PYTORCH, None)
    fake_trooper.set_status(123, status)
    fake_trooper.blibs[3].is_available = False
    assert await order_and_connect(trooper, "mine", PYTORCH, None) == first
    assert (bought(fake_trooper), (await trooper.orders.get(123)).current_status) == (1, "running")


async def test_it_runs_on_the_embedded_fake(tmp_path: Path) -> None:
    """It exits with 0, ignores TROOPER_* unless it is told to go live, and leaves no file."""
    status, out, err = await script(tmp_path, TROOPER_API_KEY="never-used", TROOPER_BASE_URL="https://127.0.0.1:1")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"ssh -p \d+ root@127.0.0.1", out.splitlines()[-1])
    assert not list(tmp_path.iterdir())


async def test_two_live_runs_buy_once(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """The ledger in the working directory makes two runs one purchase; another name is another purchase."""
    live = {"TROOPER_API_KEY": fake_trooper.api_key, "TROOPER_BASE_URL": fake_trooper.url}
    command = ("--live", "--max-price-h", "0.2")
    first = await script(tmp_path, *command, **live)
    again = await script(tmp_path, *command, **live)
    assert (first[0], again[0], first[1].splitlines()[-1]) == (0, 0, again[1].splitlines()[-1])
    assert bought(fake_trooper) == 1
    status, _, err = await script(tmp_path, "--live", "--max-price-h", "0.1", "--name", "another", **live)
    assert (status, bought(fake_trooper)) == (1, 1)
    assert "at most 0.1 are allowed" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["--live"], ["--max-price-h", "cheap"]])
async def test_going_live_needs_a_price_limit(arguments: list[str], tmp_path: Path) -> None:
    """Without one nothing is sent and it exits with 2."""
    status, _, err = await script(tmp_path, *arguments, TROOPER_BASE_URL="https://127.0.0.1:1")
    assert status == 2
    assert "max-price-h" in err


LIVE = ("--live", "--max-price-h", "0.2")


def live(fake: FakeTrooper, folder: Path, *arguments: str) -> AbstractAsyncContextManager[processes.Child]:
    """The example as a process, with the fake as its API; its ledger is in `folder`."""
    environment = {"TROOPER_API_KEY": fake.api_key, "TROOPER_BASE_URL": fake.url}
    return processes.python(SCRIPT, *(arguments or LIVE), cwd=folder, env=environment)


@pytest.mark.parametrize("ends", [[signal.SIGINT], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM]])
async def test_interrupted_during_the_order_it_names_the_order(
    ends: list[signal.Signals], fake_trooper: FakeTrooper, tmp_path: Path
) -> None:
    """It follows the order to its end, and prints id, price and what to do; repeated it buys nothing."""
    async with live(fake_trooper, tmp_path) as child:
        with fake_trooper.hold_next("/api/order") as hold:
            await hold.arrived()
            for end in ends:
                child.send(end)
        assert await child.ends() == 130
    assert "order 123 costs 0.195 EUR per hour while it runs: `trooper freeze 123`" in child.err
    async with live(fake_trooper, tmp_path) as child:
        assert (await child.ends(), bought(fake_trooper)) == (0, 1)


async def test_interrupted_during_the_install_a_repeat_waits_for_it(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """Run again it waits for the pending install, and only then prints the login."""
    fake_trooper.durations["install"] = 3600
    async with live(fake_trooper, tmp_path) as child:
        await until(lambda: fake_trooper.sent("/api/template-install-add"))
        child.send(signal.SIGINT)
        assert await child.ends() == 130
    async with live(fake_trooper, tmp_path) as child:
        await child.says(f"waiting for {PYTORCH}")
        looks = len(fake_trooper.sent("/api/template-config"))
        await until(lambda: len(fake_trooper.sent("/api/template-config")) > looks + 1)
        assert "ssh" not in child.out
        fake_trooper.advance(3600)
        assert await child.ends() == 0
    assert f"{PYTORCH}: Completed" in child.out
    assert len(fake_trooper.sent("/api/template-install-add")) == 1


async def test_a_failed_install_fails_every_run(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """Each run exits with 1, without a login, and says how to try again, and what the server costs."""
    fake_trooper.failing_templates.add(1)
    for _ in range(2):
        async with live(fake_trooper, tmp_path) as child:
            assert await child.ends() == 1
        assert "ssh" not in child.out
        assert "`trooper templates retry 1` tries to install it again" in child.err
        assert "order 123 costs 0.195 EUR per hour" in child.err


async def test_a_vanished_server_is_reported(
    fake_trooper: FakeTrooper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Terminated, or missing on three polls: it says so, and does not wait; another name buys another."""
    fast = functools.partial(fake_trooper.client, ledger=tmp_path / "purchases.jsonl")
    monkeypatch.setattr(example, "TrooperClient", lambda ledger: fast())
    options = {"template": PYTORCH, "max_price_h": None, "resolve": None}
    assert await example.live(Namespace(name="mine", **options)) == 0
    for end in ("terminated", "missing"):
        fake_trooper.set_status(123, "terminated") if end == "terminated" else fake_trooper.remove_order(123)
        assert (await example.live(Namespace(name="mine", **options)), bought(fake_trooper)) == (1, 1)
        err = capsys.readouterr().err
        assert "ordered under the name 'mine' is gone: give another --name" in err
        assert "costs" not in err
    assert (await example.live(Namespace(name="other", **options)), bought(fake_trooper)) == (0, 2)


async def test_a_lost_response_can_be_resolved(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """It names the candidate and the next command; until that is run nothing is bought, then it continues."""
    fake_trooper.add_order()
    fake_trooper.drop_next("/api/order", when="after")
    for _ in range(2):
        async with live(fake_trooper, tmp_path) as child:
            assert (await child.ends(), bought(fake_trooper)) == (1, 1)
        assert "it may be order 124: V100 Single, 0.195 EUR per hour" in child.err
        assert "--live --resolve ID" in child.err
        fake_trooper.blibs[3].is_available = False  # another offer is the cheapest now
    async with live(fake_trooper, tmp_path, "--live", "--name", "other", "--resolve", "none") as child:
        assert (await child.ends(), "nothing is unresolved under the name 'other'" in child.err) == (1, True)
    for wrong, problem in (("99", "there is no order 99"), ("123", "existed before")):
        async with live(fake_trooper, tmp_path, "--live", "--resolve", wrong) as child:
            assert (await child.ends(), problem in child.err) == (1, True)
    async with live(fake_trooper, tmp_path, "--live", "--resolve", "124") as child:
        assert (await child.ends(), "recorded: it is order 124" in child.out) == (0, True)
    async with live(fake_trooper, tmp_path) as child:
        assert (await child.ends(), bought(fake_trooper)) == (0, 1)
    assert child.out.splitlines()[-1].startswith("ssh")


async def test_an_order_that_was_not_made_is_resolved_as_none(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """Only then it is sent again, and only by a command without --resolve, which itself never buys."""
    fake_trooper.fail_next("/api/order", status=500)
    async with live(fake_trooper, tmp_path) as child:
        await until(lambda: fake_trooper.sent("/api/order"))
        fake_trooper.add_order(blib_id=3)  # by somebody else who shares the account: it could be the purchase
        assert await child.ends() == 1
    for status in (0, 1):
        async with live(fake_trooper, tmp_path, "--live", "--resolve", "none") as child:
            assert (await child.ends(), bought(fake_trooper)) == (status, 1)
    assert "nothing is unresolved under the name" in child.err
    async with live(fake_trooper, tmp_path) as child:
        assert (await child.ends(), bought(fake_trooper)) == (0, 2)


@pytest.mark.parametrize("arguments", [["--resolve", "1"], ["--live", "--resolve", "x"], ["--live", "--resolve", "0"]])
async def test_an_invalid_resolve_is_refused(arguments: list[str], tmp_path: Path) -> None:
    """It exits with 2 before anything is sent or written."""
    status, _, err = await script(tmp_path, *arguments, TROOPER_BASE_URL="https://127.0.0.1:1")
    assert (status, "--resolve" in err, list(tmp_path.iterdir())) == (2, True, [])
