"""`trooper`: the command for people and scripts (extra `cli`). Only `main` is meant to be called."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and leave with its exit status; 2 where the extra is not installed."""
    try:
        from trooper_async.cli._main import run
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in ("click", "rich"):
            raise
        sys.exit(_without_extra())
    sys.exit(run(sys.argv[1:]))


def _without_extra() -> int:
    sys.stderr.write("trooper: its packages are missing: pip install 'trooper-async[cli]'\n")
    return 2
