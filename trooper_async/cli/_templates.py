"""`trooper templates`: software for servers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trooper_async.cli._context import Cli
from trooper_async.cli._errors import FAILED, FailedError
from trooper_async.cli._options import (
    ID,
    command,
    group,
    listing_options,
    no_wait_option,
    order_id,
    timeout_option,
)
from trooper_async.cli._tables import Column, Listing, Table, plain_table, table_of
from trooper_async.cli._text import NO_VALUE, cell, printable
from trooper_async.models import JSON, Template, TemplateInstall

if TYPE_CHECKING:
    from trooper_async import TrooperClient

install_id = click.argument("install", type=ID, metavar="INSTALL")

TEMPLATES: tuple[Column[Template], ...] = (
    Column("id", lambda one: str(one.id), lambda one: one.id, number=True),
    Column("name", lambda one: cell(one.name)),
    Column("category", lambda one: cell(one.category), leaves=2),
    Column("description", lambda one: cell(one.description), leaves=3),
    Column(
        "options",
        lambda one: cell(", ".join(f"{option.name}={option.default_value}" for option in one.options or ())),
        leaves=1,
    ),
)


async def named(client: TrooperClient, wanted: Sequence[str]) -> list[Template]:
    """The templates with these ids or names, ignoring case."""
    if not wanted:
        return []
    there = await client.templates.list()
    found = []
    for one in wanted:
        fit = [template for template in there if one == str(template.id)]
        fit = fit or [template for template in there if one.casefold() == (template.name or "").casefold()]
        if len(fit) != 1:
            problem = "no template is" if not fit else "several templates are"
            text = f"{problem} called {printable(one)}: nothing was sent"
            raise FailedError(FAILED, text, "`trooper templates list`")
        found.append(fit[0])
    return found


@command("list")
@listing_options(TEMPLATES)
async def list_(cli: Cli, listing: Listing) -> None:
    """List the available templates. It needs no key."""
    async with cli.client(needs_key=False) as client:
        found = await client.templates.list()
    cli.listed(table_of(TEMPLATES, found, listing), listing)


@command()
@order_id
@click.option("--show", is_flag=True, help="Also the values of the options: they may be passwords.")
async def installs(cli: Cli, order: int, show: bool) -> None:
    """List what is installed, or being installed, on a server."""
    async with cli.client() as client:
        found = await client.templates.installs(order)
    cli.result(found, installs_table(found, values=show), secrets=show)


@command()
@order_id
@click.argument("template", metavar="TEMPLATE")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="An option of the template; repeatable. `--set -` reads such lines from stdin, for values that must not be in "
    "the process list or the shell's history.",
)
@click.option("--set-file", "files", multiple=True, metavar="NAME=FILE", help="The same, the value from a file.")
@no_wait_option
@timeout_option
async def install(
    cli: Cli,
    order: int,
    template: str,
    settings: Sequence[str],
    files: Sequence[str],
    no_wait: bool,
    timeout: float | None,
) -> None:
    """Install a template (by id or name) on a server, and wait until it is installed."""
    config = _config(settings, files)
    async with cli.client() as client:
        (wanted,) = await named(client, [template])
        if no_wait:
            number = await client.templates.install(order, wanted, config)
            cli.result({"install_id": number}, f"accepted as install {number}")
            return
        with cli.waiting(f"installing {printable(wanted.name)} on order {order}"):
            done = await client.templates.install_and_wait(order, wanted, config, timeout=timeout or 3600.0)
    cli.result(done, installs_table([done]))


def _config(settings: Sequence[str], files: Sequence[str]) -> dict[str, JSON]:
    config: dict[str, JSON] = {}
    lines = [line for one in settings if one == "-" for line in sys.stdin.read().splitlines() if line.strip()]
    for setting in [*(one for one in settings if one != "-"), *lines]:
        name, value = _split(setting, "--set", "VALUE")
        config[name] = value
    for setting in files:
        name, file = _split(setting, "--set-file", "FILE")
        text = Path(file).read_text(encoding="utf-8")
        config[name] = text.removesuffix("\n").removesuffix("\r")
    return config


def _split(setting: str, option: str, what: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not equals or not name:  # the message does not repeat what was given, since it may be a secret
        raise click.UsageError(f"{option} takes NAME={what}", click.get_current_context())
    return name, value


@command()
@install_id
async def remove(cli: Cli, install: int) -> None:
    """Remove an installed template."""
    async with cli.client() as client:
        await client.templates.remove(install)
    cli.result({"install_id": install}, f"install {install} is being removed")


@command()
@install_id
async def retry(cli: Cli, install: int) -> None:
    """Retry a failed installation."""
    async with cli.client() as client:
        await client.templates.retry(install)
    cli.result({"install_id": install}, f"install {install} is being tried again")


templates = group("templates", "Software for servers: list it, install it.", list_, installs, install, remove, retry)


def installs_table(found: Iterable[TemplateInstall], *, values: bool = False) -> Table:
    """A table of installs. Of their options it shows only the names, since a value may be a password."""

    def options(one: TemplateInstall) -> str:
        config = one.config or {}
        return ", ".join(f"{name}={value}" for name, value in config.items()) if values else ", ".join(config)

    def status(one: TemplateInstall) -> object:
        return one.status_readable if one.status_readable is not None else one.status

    rows = [
        (str(one.install_id), cell(one.template_name), cell(status(one)), cell(options(one) or NO_VALUE))
        for one in found
    ]
    return plain_table("install", "template", "status", "options set", rows=rows, numbers=["install"])
