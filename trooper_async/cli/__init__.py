"""`trooper`: the command for people and scripts (extra `cli`). Only `main` is meant to be called."""

from __future__ import annotations

import io
import os
import sys


def main() -> None:
    """Run the command line and exit with its status; 2 if the extra is not installed."""
    _prepare_streams()
    try:
        from trooper_async.cli._app import run

        status = run(sys.argv[1:])
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in ("click", "rich"):
            raise
        sys.exit(_without_extra())
    sys.exit(status)


def _prepare_streams() -> None:
    """Replace closed streams (`2>&-`) by null devices, and write `?` for characters that an encoding lacks."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - open until the process ends
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _without_extra() -> int:
    sys.stderr.write("trooper: its packages are missing: pip install 'trooper-async[cli]'\n")
    return 2
