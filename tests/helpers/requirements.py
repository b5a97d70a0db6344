"""What some tests need and a machine may not have: they are skipped there, and CI does not let them."""

from __future__ import annotations

import importlib.util
import os
from typing import NoReturn

import pytest


def missing(what: str, remedy: str) -> NoReturn:
    """Skip the test or module, since it needs `what`; with TROOPER_REQUIRE_ALL=1 fail, as CI does."""
    if os.environ.get("TROOPER_REQUIRE_ALL") == "1":
        pytest.fail(f"needs {what}: {remedy}", pytrace=False)
    pytest.skip(f"needs {what}: {remedy}", allow_module_level=True)


def require_package(name: str, extra: str) -> None:
    """Skip a module whose tests need a package that is not installed; it is called before the import."""
    if importlib.util.find_spec(name) is None:
        missing(name, f"pip install -e '.[{extra}]'")
