"""`trooper templates`: software for servers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click
from rich.table import Table

from trooper_async import Template, TemplateInstall, TrooperClient
from trooper_async.cli._cli import Cli, FailedError
from trooper_async.cli._command import ID, Commands, command, no_wait_option, order_id, timeout_option
from trooper_async.cli._errors import FAILED
from trooper_async.cli._tables import table
from trooper_async.cli._text import cell, printable
from trooper_async.models import JSON

install_id = click.argument("install", type=ID, metavar="INSTALL")


async def named(client: TrooperClient, wanted: Sequence[str]) -> list[Template]:
    """The templates of these ids or names (in any case of letters)."""
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
            raise FailedError(FAILED, text, "`trooper templates list` shows them")
        found.append(fit[0])
    return found


@command("list")
async def list_(cli: Cli) -> None:
    """The templates that there are. Needs no key."""
    async with cli.client(needs_key=False) as client:
        found = await client.templates.list()
    made = table("id", "name", "category", "description", "options")
    for one in found:
        options = ", ".join(f"{option.name}={option.default_value}" for option in one.options or ())
        made.add_row(str(one.id), cell(one.name), cell(one.category), cell(one.description), cell(options))
    cli.result(found, made)


@command()
@order_id
async def installs(cli: Cli, order: int) -> None:
    """What is installed, or being installed, on a server."""
    async with cli.client() as client:
        found = await client.templates.installs(order)
    cli.result(found, _installs(found))


@command()
@order_id
@click.argument("template", metavar="TEMPLATE")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="An option of the template; repeatable.")
@no_wait_option
@timeout_option
async def install(
    cli: Cli, order: int, template: str, settings: Sequence[str], no_wait: bool, timeout: float | None
) -> None:
    """Install a template (its id or name) on a server, and wait until it is there."""
    config: dict[str, JSON] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise click.UsageError("--set takes NAME=VALUE", click.get_current_context())
        config[name] = value
    async with cli.client() as client:
        (wanted,) = await named(client, [template])
        if no_wait:
            number = await client.templates.install(order, wanted, config)
            cli.result({"install_id": number}, f"accepted as install {number}")
            return
        with cli.waiting(f"installing {printable(wanted.name)} on order {order}"):
            done = await client.templates.install_and_wait(order, wanted, config, timeout=timeout or 3600.0)
    cli.result(done, _installs([done]))


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
    """Try a failed installation again."""
    async with cli.client() as client:
        await client.templates.retry(install)
    cli.result({"install_id": install}, f"install {install} is being tried again")


templates = Commands("templates", help="Software for servers: what there is, and installing it.")
for _command in (list_, installs, install, remove, retry):
    templates.add_command(_command)


def _installs(found: Iterable[TemplateInstall]) -> Table:
    made = table("install", "template", "status", "options set")
    for one in found:
        status = one.status_readable if one.status_readable is not None else one.status
        names = ", ".join(one.config or ())  # names alone: a value may be a password
        made.add_row(str(one.install_id), cell(one.template_name), cell(status), cell(names))
    return made
