"""`trooper config` and `completion`: accounts and other settings, and the line that the shell needs."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trooper_async.cli._completion import replace_file
from trooper_async.cli._context import Cli
from trooper_async.cli._errors import FAILED, FailedError
from trooper_async.cli._options import command, group

if TYPE_CHECKING:
    pass

_SCRIPTS = {
    "bash": 'eval "$(_TROOPER_COMPLETE=bash_source trooper)"',
    "zsh": 'eval "$(_TROOPER_COMPLETE=zsh_source trooper)"',
    "fish": "_TROOPER_COMPLETE=fish_source trooper | source",
}
_SETTABLE = ("api_key", "base_url", "ledger", "proxy", "ca_file")


@command()
def path(cli: Cli) -> None:
    """Show where the config file is, or would be."""
    from trooper_async.cli._settings import config_path

    cli.result({"path": str(config_path())}, str(config_path()))


@command()
def show(cli: Cli) -> None:
    """Show the current settings, and where the key comes from. The key itself is never shown."""
    from trooper_async.cli._settings import config_path
    from trooper_async.cli._tables import plain_table
    from trooper_async.cli._text import cell

    settings = cli.settings
    facts: dict[str, object] = {
        "config file": str(config_path()) + ("" if config_path().exists() else " (does not exist)"),
        "profile": settings.profile or "default",
        "profiles": ", ".join(settings.profiles) or None,
        "API key": "none" if settings.api_key is None else f"from {settings.key_source}",
        "base URL": settings.base_url or "https://james.trooper.ai",
        "proxy": "set" if settings.options.get("proxy") else None,  # it may hold a password
        "ledger": str(settings.ledger),
        "account": settings.account,
    }
    table = plain_table("setting", "value", rows=[(name, cell(value)) for name, value in facts.items()])
    cli.result({name.replace(" ", "_").lower(): value for name, value in facts.items()}, table.with_header(False))


@command("set")
@click.argument("name", type=click.Choice(_SETTABLE))
@click.argument("value", required=False)
@click.option("--keyring", is_flag=True, help="Keep the key in the system's key store (needs the package keyring).")
def set_(cli: Cli, name: str, value: str | None, keyring: bool) -> None:
    """Write a setting to the config file: for the account of --profile NAME, or else the default account.

    The API key is prompted for, or read from stdin. As an argument, it would appear in the process list and in the
    shell's history.
    """
    from trooper_async.cli._settings import config_path, store_key

    is_key = name == "api_key"
    if is_key and value is not None:
        raise click.UsageError("leave VALUE out: the key is read from a prompt", click.get_current_context())
    if keyring and not is_key:
        raise click.UsageError("--keyring is only for api_key", click.get_current_context())
    if not is_key and value is None:
        raise click.UsageError(f"{name} needs a VALUE", click.get_current_context())
    if is_key:
        value = _typed_secret(cli, "API key: ")
    assert value is not None  # noqa: S101 - of api_key it was typed, of others it is checked above
    profile = cli.profile or os.environ.get("TROOPER_PROFILE") or None
    entries: dict[str, str | bool | None] = {name: value}
    if is_key:
        entries = {"api_key": None, "keyring": True} if keyring else {"api_key": value, "keyring": None}
    if keyring:
        store_key(profile, value)
    write_entries(config_path(), profile, entries)
    where = "the system's key store" if keyring else str(config_path())
    cli.result({"set": name, "profile": profile or "default"}, f"{name} of {profile or 'the default account'}: {where}")


@command()
@click.argument("name", type=click.Choice(_SETTABLE))
def unset(cli: Cli, name: str) -> None:
    """Remove a setting from the config file."""
    from trooper_async.cli._settings import config_path

    profile = cli.profile or os.environ.get("TROOPER_PROFILE") or None
    gone: dict[str, str | bool | None] = {name: None}
    if name == "api_key":
        gone["keyring"] = None
    write_entries(config_path(), profile, gone)
    cli.result({"unset": name, "profile": profile or "default"}, f"{name} of {profile or 'the default account'}: unset")


config = group(
    "config", "API keys, accounts and other settings, in a file that only you can read.", path, show, set_, unset
)


def _typed_secret(cli: Cli, prompt: str) -> str:
    if sys.stdin.isatty():
        import getpass

        try:
            value = getpass.getpass(prompt, stream=sys.stderr)
        except (EOFError, KeyboardInterrupt):
            raise click.Abort from None
    else:
        value = sys.stdin.readline()
    value = value.strip()
    if not value or not all("!" <= c <= "~" for c in value):
        raise FailedError(FAILED, "an API key is printable ASCII without spaces: nothing was written")
    return value


def write_entries(file: Path, profile: str | None, entries: dict[str, str | bool | None]) -> None:
    """Set entries of the config file, or remove those that are None. Comments and everything else stay as they are."""
    from trooper_async.cli._settings import read

    read(file)  # raises now if the file is invalid, or readable by others
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    header = None if profile is None else f"[profile.{_toml(profile)}]"
    begin, end = _section(lines, profile)
    if header is not None and begin is None:
        lines += ([""] if lines else []) + [header]
        begin = end = len(lines)
    assert begin is not None  # noqa: S101 - the top of the file is always there
    section = [line for line in lines[begin:end] if line.partition("=")[0].strip() not in entries]
    while section and not section[-1].strip():
        section.pop()
    section += [f"{name} = {_toml(value)}" for name, value in entries.items() if value is not None]
    after = [""] if section and lines[end:] else []
    text = "\n".join([*lines[:begin], *section, *after, *lines[end:]]) + "\n"
    _check_written(text, profile, entries)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(file, text)


def _section(lines: list[str], profile: str | None) -> tuple[int | None, int]:
    """Where the entries of an account begin and end."""
    starts = [number for number, line in enumerate(lines) if line.lstrip().startswith("[")]
    if profile is None:
        return 0, starts[0] if starts else len(lines)
    for position, number in enumerate(starts):
        try:
            found = tomllib.loads(lines[number]).get("profile", {})
        except tomllib.TOMLDecodeError:  # a line of a multi-line value
            continue
        if found == {profile: {}}:
            return number + 1, starts[position + 1] if position + 1 < len(starts) else len(lines)
    return None, len(lines)


def _toml(value: str | bool) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _check_written(text: str, profile: str | None, entries: dict[str, str | bool | None]) -> None:
    """Make sure that what will be written is read back with the same values."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        data = {}
    there = data if profile is None else data.get("profile", {}).get(profile, {})
    if any(there.get(name) != value for name, value in entries.items()):
        raise FailedError(FAILED, "this file can't be changed by a command: edit it by hand (`trooper config path`)")


# Completion -----------------------------------------------------------------------------------------------------------


@command()
@click.argument("shell", type=click.Choice(tuple(_SCRIPTS)))
def completion(cli: Cli, shell: str) -> None:
    """Print the line for your shell's startup file that enables completion of commands, options, ids and titles.

    \b
    bash:  trooper completion bash >> ~/.bashrc
    zsh:   trooper completion zsh >> ~/.zshrc
    fish:  trooper completion fish >> ~/.config/fish/config.fish
    """
    cli.result({"shell": shell, "line": _SCRIPTS[shell]}, _SCRIPTS[shell])
