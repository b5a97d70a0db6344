"""`trooper ssh`, `ssh-config` and `credentials`: how to log in. Only `credentials --show` shows a password."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from trooper_async.cli._completion import replace_file
from trooper_async.cli._context import Cli
from trooper_async.cli._errors import FAILED, FailedError
from trooper_async.cli._options import command, order_id, timeout_option
from trooper_async.cli._tables import plain_table
from trooper_async.cli._text import NO_VALUE, cell, count, printable, status_style
from trooper_async.models import Credentials, Order, same_word

_HOST = re.compile(r"[0-9A-Za-z:][0-9A-Za-z.:-]*")
_USER = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]*")


@command()
@order_id
@click.option("--show", is_flag=True, help="Show the password, too.")
async def credentials(cli: Cli, order: int, show: bool) -> None:
    """Show how to log in to a server."""
    async with cli.client() as client:
        found = await client.orders.credentials(order)
    password = cell(found.password) if show else NO_VALUE if found.password is None else "(--show)"
    facts = [
        ("ip", cell(found.ip)),
        ("port", cell(found.ssh_port)),
        ("user", cell(found.username)),
        ("password", password),
        ("status", cell(found.status, status_style(found.status or ""))),
    ]
    table = plain_table("", " ", rows=facts).with_header(False)
    if show and cli.out.is_terminal:  # a password may be copied from the screen, so it is never cut
        cli.result(found, *table.lines(None), secrets=True)
    else:
        cli.result(found, table, secrets=show)


@command()
@order_id
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENT...]")
@click.option("--start", "starts", is_flag=True, help="Start the server first where it is stopped or frozen.")
@timeout_option
def ssh(cli: Cli, order: int, arguments: Sequence[str], starts: bool, timeout: float | None) -> None:
    """Wait until a server runs and its SSH server responds, then log in.

    Arguments after -- go to ssh: a command, or options (`trooper ssh 123 -- -L 8888:localhost:8888`). With --json it
    only waits, and prints where to log in.
    """
    found = cli.run(_reachable(cli, order, starts, timeout))
    if cli.as_json:
        cli.result(found)
        return
    words = ssh_words(found, arguments)
    if cli.settings.is_demo:
        cli.result(found, f"(a fake server has no shell; this would run: {' '.join(map(printable, words))})")
        return
    environment = environment_for_others()
    try:
        if os.name == "posix":
            os.execvpe("ssh", words, environment)  # noqa: S606, S607 - the user's own ssh
        sys.exit(subprocess.run(words, env=environment, check=False).returncode)  # noqa: S603 - checked in ssh_words
    except FileNotFoundError:
        raise FailedError(FAILED, "ssh is not installed", "install an OpenSSH client") from None


def environment_for_others() -> dict[str, str]:
    """The environment for programs that this command starts, without the key."""
    return {name: value for name, value in os.environ.items() if name != "TROOPER_API_KEY"}


async def _reachable(cli: Cli, order: int, starts: bool, timeout: float | None) -> Credentials:
    async with cli.client() as client:
        found = await client.orders.get(order)  # an unknown id fails here, at once
        if not _will_run(found):
            if not starts:
                text = f"order {order} is {printable(found.current_status)}"
                raise FailedError(FAILED, text, f"`trooper ssh {order} --start` starts it and logs in")
            with cli.waiting(f"starting order {order}") as show:
                await client.orders.start_and_wait(order, on_change=show)
        with cli.waiting(f"waiting until order {order} can be reached"):
            return await client.orders.wait_until_reachable(order, timeout=timeout or 900.0)


def _will_run(order: Order) -> bool:
    desired = order.desired_status
    if desired is not None:
        return any(same_word(desired, word) for word in ("running", "restarted", "restarting"))
    return not any(same_word(order.current_status, word) for word in ("stopped", "frozen", "stopping", "freezing"))


def ssh_words(found: Credentials, arguments: Sequence[str]) -> list[str]:
    """The command line. Address and user come from the API, and must not be read as options."""
    host, user, port = _checked(found)
    return ["ssh", "-p", str(port), "-l", user, host, *arguments]


def _checked(found: Credentials) -> tuple[str, str, int]:
    host, user, port = found.ip or "", found.username or "root", found.ssh_port or 22
    if not _HOST.fullmatch(host) or not _USER.fullmatch(user) or not 0 < port < 65536:
        raise FailedError(FAILED, "the API returned an address or a user name that ssh would misread")
    return host, user, port


@command("ssh-config")
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    help="Where to write; - is stdout.  [default: ~/.ssh/trooper.conf]",
)
async def ssh_config(cli: Cli, file: Path | None) -> None:
    """Write an entry for each running server to a file that ~/.ssh/config can include.

    Then `ssh trooper-123` or, where only one server is called so, `ssh its-title` logs in. The whole file is written
    anew each time: include it with the line `Include trooper.conf` at the top of ~/.ssh/config.
    """
    async with cli.client() as client:
        running = [order for order in await client.orders.list() if same_word(order.current_status, "running")]
        found = await asyncio.gather(*(client.orders.credentials(order) for order in running))
    text = ssh_entries(list(zip(running, found, strict=True)))
    if file is not None and str(file) == "-":
        cli.result({"file": None, "servers": len(running), "text": text}, text.rstrip("\n"))
        return
    file = Path.home() / ".ssh" / "trooper.conf" if file is None else file
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(file, text)
    cli.result({"file": str(file), "servers": len(running)}, f"{count(len(running), 'server')} in {file}")


def ssh_entries(servers: Sequence[tuple[Order, Credentials]]) -> str:
    """The file for `Include`. A title is used as a host name if no other server has the same."""
    names = [re.sub(r"[^0-9a-z]+", "-", (order.title or "").casefold()).strip("-") for order, _ in servers]
    lines = ["# Written by `trooper ssh-config`: changes to this file are lost."]
    for (order, found), name in zip(servers, names, strict=True):
        try:
            host, user, port = _checked(found)
        except FailedError:
            lines += ["", f"# trooper-{order.order_id}: its address or user can't be used"]
            continue
        own = f"trooper-{order.order_id}"
        is_own_name = name and names.count(name) == 1 and not name.startswith("trooper-")
        lines += ["", f"Host {own} {name}" if is_own_name else f"Host {own}"]
        # addresses and ports are reused by other servers, so the host key is stored under the order's name
        lines += [f"    HostName {host}", f"    Port {port}", f"    User {user}", f"    HostKeyAlias {own}"]
    return "\n".join(lines) + "\n"
