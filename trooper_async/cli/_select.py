"""Which servers a command is for: those named by their ids, or `--all` that fit its filters."""

from __future__ import annotations

from collections.abc import Sequence

import click

from trooper_async import Order, TrooperClient
from trooper_async._groups.selection import select
from trooper_async.cli._cli import Cli, FailedError
from trooper_async.cli._command import Filters
from trooper_async.cli._errors import FAILED
from trooper_async.cli._tables import orders_table, totals
from trooper_async.cli._text import count


def check(ids: Sequence[int], every: bool, filters: Filters) -> None:
    """Refuse a choice that is none, or two. Nothing has been sent."""
    filtered = any(value is not None for value in filters.values())
    if every and ids:
        raise click.UsageError("name ids, or --all, not both", click.get_current_context())
    if not every and filtered:
        raise click.UsageError("filters choose among --all: add it", click.get_current_context())
    if not every and not ids:
        raise click.UsageError("name the ids of servers, or --all", click.get_current_context())


async def chosen(
    cli: Cli, client: TrooperClient, ids: Sequence[int], every: bool, filters: Filters, question: str | None
) -> list[Order | int]:
    """The servers; of `--all`, those that the user has agreed to.

    Args:
        question: asked of `--all`, with `{}` where the number of servers goes; None does not ask.
    """
    if not every:
        return list(dict.fromkeys(ids))
    orders: list[Order | int] = []
    found = select(await client.orders.list(), **filters)
    orders.extend(found)
    if not found:
        cli.say("no server fits")
    elif question is not None:
        cli.say(orders_table(found), totals(found))
        if not cli.ask(question.format(count(len(found), "server"))):
            raise FailedError(FAILED, "not confirmed: nothing was sent", "--yes does not ask")
    return orders
