"""The environment of the tests, whoever starts them: variables, time zone and signals."""

from __future__ import annotations

import os
import signal
import time

# The variables that locate things, and those that configure the tests and their tools.
_KEPT = ("HOME", "PATH", "TMPDIR")
_KEPT_PREFIXES = ("COV_", "COVERAGE_", "HYPOTHESIS_", "PYTEST_", "TROOPER_REQUIRE_")
_SET = {"LANG": "C.UTF-8", "TERM": "xterm-256color", "TZ": "UTC"}


def isolate() -> None:
    """Remove the variables of whoever runs the tests, and handle signals as a program in the foreground does."""
    for name in list(os.environ):
        if name not in _KEPT and not name.startswith(_KEPT_PREFIXES):
            del os.environ[name]
    os.environ.update(_SET)
    time.tzset()
    # In the background SIGINT is inherited as ignored, and children would inherit it again.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
