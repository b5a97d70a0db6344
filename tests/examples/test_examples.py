"""The examples, run as a user runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def start(name: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    )


def test_quickstart_orders_awaits_and_switches_several_servers() -> None:
    """It ends with 0, prints a line for each status, and ignores TROOPER_* unless it is told to go live."""
    process = start("quickstart.py", TROOPER_API_KEY="never-used", TROOPER_BASE_URL="https://127.0.0.1:1")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    for status in ("starting", "running", "stopping", "stopped", "freezing", "frozen", "migrating", "restarting"):
        assert out.count(f" is {status}") >= 3
    assert "all 3 done" in out


def test_quickstart_ends_cleanly_on_ctrl_c() -> None:
    """Ctrl-C in the middle ends it with 130 and without a traceback."""
    process = start("quickstart.py")
    assert process.stdout is not None
    while "is starting" not in (line := process.stdout.readline()):
        assert line, "it has ended before"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")
    assert out.endswith("interrupted\n")


@pytest.mark.parametrize("arguments", [["--live"], ["--max-price-h", "cheap"]])
def test_quickstart_spends_nothing_by_mistake(arguments: list[str]) -> None:
    """Going live needs a price limit: without, nothing is sent and it ends with 2."""
    process = start("quickstart.py", *arguments, TROOPER_API_KEY="never-used", TROOPER_BASE_URL="https://127.0.0.1:1")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "max-price-h" in err
