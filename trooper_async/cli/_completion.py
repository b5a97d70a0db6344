"""Shell completion: the ids and titles of the servers in the list that was read last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trooper_async.cli._context import Cli

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

    from trooper_async.cli._settings import Settings
    from trooper_async.models import Order

_FRESH = 60.0
"""Seconds for which known ids are fresh; older ones are completed, too, and read again in the background."""
_PATIENCE = 1.0
"""Seconds that the shell waits if no ids are known."""


def _known_ids(settings: Settings) -> Path:
    from trooper_async.cli._settings import folder

    return folder("XDG_CACHE_HOME", ".cache") / f"servers-{settings.account}.json"


def remember(settings: Settings, orders: Iterable[Order]) -> None:
    """Store ids and titles for the completion. A failure is ignored."""
    if settings.is_demo:
        return
    file = _known_ids(settings)
    with suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(file, json.dumps({str(order.order_id): order.title or "" for order in orders}))


def completed_ids(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """The ids of the servers in the list that was read last, with their titles."""
    from click.shell_completion import CompletionItem

    from trooper_async.cli._text import printable
    from trooper_async.errors import ConfigurationError

    cli = context.find_object(Cli)
    if cli is None:
        return []
    try:
        settings = cli.settings
    except ConfigurationError:
        return []
    if settings.api_key is None:
        return []
    file = _known_ids(settings)
    known = _read_known(file)
    if known is None or time.time() - file.stat().st_mtime > _FRESH:
        reading = _read_again(cli.profile)
        if known is None:
            with suppress(subprocess.TimeoutExpired):
                reading.wait(_PATIENCE)
            known = _read_known(file) or {}
        reading.returncode = 0  # it outlives this process on purpose, so suppress the warning that it still runs
    return [
        CompletionItem(order_id, help=printable(title))
        for order_id, title in known.items()
        if order_id.startswith(incomplete) or (incomplete and incomplete.casefold() in title.casefold())
    ]


def _read_known(file: Path) -> dict[str, str] | None:
    try:
        data: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return {str(name): str(title) for name, title in data.items()} if isinstance(data, dict) else None


def _read_again(profile: str | None) -> subprocess.Popen[bytes]:
    """Read the list in another process, so that the shell does not wait for it."""
    words = [sys.executable, "-m", "trooper_async.cli", "ps", "--json"]
    environment = {name: value for name, value in os.environ.items() if name != "_TROOPER_COMPLETE"}
    nowhere = subprocess.DEVNULL
    return subprocess.Popen(  # noqa: S603 - this program itself
        [*words, *(["--profile", profile] if profile else [])],
        stdin=nowhere,
        stdout=nowhere,
        stderr=nowhere,
        env=environment,
        start_new_session=True,
    )


def replace_file(file: Path, text: str) -> None:
    """Write a file atomically, readable only by its owner."""
    file = file.resolve()
    new = file.with_name(f".{file.name}.{os.getpid()}")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as opened:
        opened.write(text)
    new.replace(file)
