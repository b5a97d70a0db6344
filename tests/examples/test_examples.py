"""examples/quickstart.py, run as a user runs it."""

from __future__ import annotations

import signal

import pytest

from examples import quickstart
from tests.helpers import processes

NOT_USED = {"TROOPER_API_KEY": "never-used", "TROOPER_BASE_URL": "https://127.0.0.1:1"}


async def test_quickstart_orders_awaits_and_switches_several_servers() -> None:
    """It ends with 0, prints a line for each status, and ignores TROOPER_* unless it is told to go live."""
    async with processes.python(quickstart.__file__, env=NOT_USED) as child:
        assert (await child.ends(), child.err) == (0, "")
    for status in ("starting", "running", "stopping", "stopped", "freezing", "frozen", "migrating", "restarting"):
        assert child.out.count(f" is {status}") >= 3
    assert "all 3 done" in child.out


async def test_quickstart_ends_cleanly_on_ctrl_c() -> None:
    """Ctrl-C in the middle ends it with 130 and without a traceback, and the log names what was bought."""
    async with processes.python(quickstart.__file__) as child:
        await child.says("is starting")
        child.send(signal.SIGINT)
        assert await child.ends() == 130
        assert "Traceback" not in child.err
        if child.out.count("is running") < 3:  # else a slow machine was past the purchases by then
            assert "was bought, but its caller never got it" in child.err, "what was bought is billed on"
    assert child.out.endswith("interrupted\n")


@pytest.mark.parametrize("arguments", [["--live"], ["--max-price-h", "cheap"]])
async def test_quickstart_spends_nothing_by_mistake(arguments: list[str]) -> None:
    """Going live needs a price limit: without, nothing is sent and it ends with 2."""
    async with processes.python(quickstart.__file__, *arguments, env=NOT_USED) as child:
        assert await child.ends() == 2
    assert "max-price-h" in child.err
