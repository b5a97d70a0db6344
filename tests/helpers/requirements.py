"""What some tests need and a machine may not have: there they are skipped, which CI does not allow."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

_NEEDS = "needs "


def missing(what: str, remedy: str) -> NoReturn:
    """Skip, since the machine does not have `what`."""
    pytest.skip(f"{_NEEDS}{what}: {remedy}")


def required(report: pytest.TestReport | pytest.CollectReport) -> None:
    """With TROOPER_REQUIRE_ALL=1 a test that was skipped because something is missing counts as failed."""
    if os.environ.get("TROOPER_REQUIRE_ALL") == "1" and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason.startswith(_NEEDS):
            report.outcome, report.longrepr = "failed", f"TROOPER_REQUIRE_ALL is set, and this test {reason}"
