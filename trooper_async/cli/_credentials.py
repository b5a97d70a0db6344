"""`trooper ssh` and `credentials`: how to log in. A password is shown by `credentials --show` alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence

import click

from trooper_async import Credentials
from trooper_async.cli._cli import Cli, FailedError
from trooper_async.cli._command import command, order_id, timeout_option
from trooper_async.cli._errors import FAILED
from trooper_async.cli._tables import table
from trooper_async.cli._text import NOTHING, cell, printable, status_style

_HOST = re.compile(r"[0-9A-Za-z:][0-9A-Za-z.:-]*")
_USER = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]*")


@command()
@order_id
@click.option("--show", is_flag=True, help="Show the password, too.")
async def credentials(cli: Cli, order: int, show: bool) -> None:
    """How to log in to a server."""
    async with cli.client() as client:
        found = await client.orders.credentials(order)
    made = table("ip", "port", "user", "password", "status")
    password = cell(found.password) if show else NOTHING if found.password is None else "(--show)"
    status = cell(found.status, status_style(found.status or ""))
    made.add_row(cell(found.ip), cell(found.ssh_port), cell(found.username), password, status)
    cli.result(found, made, passwords=show)


@command()
@order_id
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENT...]")
@timeout_option
def ssh(cli: Cli, order: int, arguments: Sequence[str], timeout: float | None) -> None:
    """Wait until a server runs and its SSH server answers, then log in.

    What follows -- goes to ssh: a command, or options (`trooper ssh 123 -- -L 8888:localhost:8888`). With --json it
    only waits, and says where to log in.
    """
    found = cli.run(_reachable(cli, order, timeout))
    if cli.as_json:
        cli.result(found)
        return
    words = _ssh(found, arguments)
    if cli.settings.is_demo:
        cli.say(f"(a fake server has no shell; this would run: {' '.join(map(printable, words))})")
        return
    # what it starts has no business with the key
    environment = {name: value for name, value in os.environ.items() if name != "TROOPER_API_KEY"}
    try:
        if os.name == "posix":
            os.execvpe("ssh", words, environment)  # noqa: S606, S607 - the user's own ssh
        sys.exit(subprocess.run(words, env=environment, check=False).returncode)  # noqa: S603 - checked in _ssh
    except FileNotFoundError:
        raise FailedError(FAILED, "there is no ssh here", "install an OpenSSH client") from None


async def _reachable(cli: Cli, order: int, timeout: float | None) -> Credentials:
    async with cli.client() as client:
        with cli.waiting(f"waiting until order {order} can be reached"):
            return await client.orders.wait_until_reachable(order, timeout=timeout or 900.0)


def _ssh(found: Credentials, arguments: Sequence[str]) -> list[str]:
    """The command line; address and user come from outside, and must not be options of it."""
    host, user, port = found.ip or "", found.username or "root", found.ssh_port or 22
    if not _HOST.fullmatch(host) or not _USER.fullmatch(user) or not 0 < port < 65536:
        raise FailedError(FAILED, "the API gives an address or a user that ssh can't be called with")
    return ["ssh", "-p", str(port), "-l", user, host, *arguments]
