"""examples/order_and_connect.py: in this process on the fixtures, and run as a user runs it."""

from __future__ import annotations

import asyncio
import re
from decimal import Decimal
from pathlib import Path

import pytest

from examples.order_and_connect import NotOfferedError, order_and_connect
from tests.helpers import processes
from tests.helpers.conditions import until
from trooper_async import PriceError, TemplateFailedError, TrooperClient
from trooper_async.testing import FakeTrooper

PYTORCH = "PyTorch Environment"
SCRIPT = Path(__file__).parents[2] / "examples" / "order_and_connect.py"


async def script(folder: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the example, run in a folder of its own."""
    async with processes.python(SCRIPT, *arguments, cwd=folder, env=environment) as child:
        return await child.ends(), child.out, child.err


def bought(fake: FakeTrooper) -> int:
    return sum(request.path == "/api/order" for request in fake.requests)


async def test_it_ends_with_the_ssh_command_and_never_shows_the_password(
    trooper: TrooperClient, fake_trooper: FakeTrooper, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server runs under its name, the template is there, and what is printed holds no password."""
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


async def test_a_repeat_under_the_same_name_buys_and_installs_nothing_more(fake_trooper: FakeTrooper) -> None:
    """Cancelled in the middle and begun again, also once nothing is on offer any more: one server, one install."""
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


async def test_nothing_is_bought_for_a_template_that_is_not_there_or_above_the_limit(
    trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """What can be known to fail fails before the purchase."""
    with pytest.raises(NotOfferedError, match=f"'PyTroch'; there are {PYTORCH}"):
        await order_and_connect(trooper, "mine", "PyTroch", None)
    with pytest.raises(PriceError):
        await order_and_connect(trooper, "mine", PYTORCH, Decimal("0.19"))
    assert bought(fake_trooper) == 0


async def test_the_cheapest_offer_that_can_be_had_is_ordered(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """One that is sold out does not count, however cheap."""
    fake_trooper.blibs[3].is_available = False
    await order_and_connect(trooper, "mine", PYTORCH, None)
    assert [order.blib_name for order in await trooper.orders.list()] == ["RTX 4090 Single"]


async def test_a_failed_installation_is_told(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """The error of the client comes out as it is."""
    fake_trooper.failing_templates.add(1)
    with pytest.raises(TemplateFailedError):
        await order_and_connect(trooper, "mine", PYTORCH, None)


async def test_run_on_the_embedded_fake(tmp_path: Path) -> None:
    """It ends with 0, ignores TROOPER_* unless it is told to go live, and leaves no file."""
    status, out, err = await script(tmp_path, TROOPER_API_KEY="never-used", TROOPER_BASE_URL="https://127.0.0.1:1")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"ssh -p \d+ root@127.0.0.1", out.splitlines()[-1])
    assert not list(tmp_path.iterdir())


async def test_run_live_twice_buys_once(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """The ledger in the working directory makes two runs one purchase; another name is another one."""
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
    """Without one nothing is sent and it ends with 2."""
    status, _, err = await script(tmp_path, *arguments, TROOPER_BASE_URL="https://127.0.0.1:1")
    assert status == 2
    assert "max-price-h" in err
