"""`trooper purchases`, and what every command that buys has in common: what it bought, or does not know whether it
bought, is said however it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
from attrs import evolve

from trooper_async._buying.ledger import read_ledger
from trooper_async._buying.record import not_ready
from trooper_async.cli._context import Cli
from trooper_async.cli._errors import FAILED, USAGE, FailedError, explained
from trooper_async.cli._options import ID, alone_or, command
from trooper_async.cli._tables import ORDERS, plain_table, table_of
from trooper_async.cli._text import cell, euros, moment, printable
from trooper_async.errors import ConfigurationError, TrooperError
from trooper_async.models import Purchase, Transition

if TYPE_CHECKING:
    from trooper_async import TrooperClient


_PATIENCE = 300.0
"""Seconds that a purchase of another process is waited for: it ends in less."""


@contextmanager
def says_what_was_bought(cli: Cli) -> Iterator[None]:
    """If the command is interrupted, it says what it has bought, or that it has bought nothing."""
    try:
        yield
    except (asyncio.CancelledError, click.Abort):
        for purchase in cli.purchases:
            cli.say(known(purchase))
        if not cli.purchases:
            cli.say("nothing was bought")
        raise


async def buy(cli: Cli, send: Callable[[TrooperClient], Awaitable[Transition]]) -> tuple[Purchase, Transition]:
    """Make a purchase with a client that holds the ledger only for that time, so that other processes can buy, too."""
    client = await _with_ledger(cli)
    began = datetime.now(UTC)

    def ours() -> list[Purchase]:
        return [purchase for purchase in client.orders.purchases if purchase.at >= began]

    try:
        async with client:
            try:
                transition = await send(client)
            except asyncio.CancelledError:
                if any(purchase.state == "open" for purchase in ours()):
                    cli.say("interrupted: waiting for the response to what was sent (Ctrl-C again does not wait)")
                    cli.leave_at_once = lambda: "\n".join(map(known, ours()))
                raise
    finally:
        cli.leave_at_once = None
        cli.purchases = ours()
    purchase = next(one for one in client.orders.purchases if one.order_id == transition.order_id)
    cli.purchases = [purchase]
    return purchase, transition


async def _with_ledger(cli: Cli) -> TrooperClient:
    """A client with the ledger, once no other process holds it."""
    ends = time.monotonic() + _PATIENCE
    waits = False
    while True:
        if not _is_locked(cli.settings.ledger):
            try:
                return cli.client(buys=True)
            except ConfigurationError:
                if not _is_locked(cli.settings.ledger):
                    raise
        if time.monotonic() > ends:
            raise FailedError(FAILED, "another process still holds the ledger: nothing was sent", "`trooper purchases`")
        if not waits:
            waits = True
            cli.say("another process is buying with this ledger: waiting for it …")
        await asyncio.sleep(0.2)


def _is_locked(ledger: Path) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        with ledger.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # it does not exist yet, or cannot be used, which the client reports
        return False
    return False


async def bought(
    cli: Cli,
    client: TrooperClient,
    purchase: Purchase,
    transition: Transition,
    *,
    no_wait: bool,
    timeout: float | None,
) -> None:
    """Wait until the bought server runs, unless there is nothing to wait for."""
    order_id = transition.order_id
    if no_wait:
        cli.result(transition, f"bought as order {order_id}; `trooper wait {order_id} --until running` waits for it")
        return
    try:
        with cli.waiting(f"order {order_id} is bought; waiting until it runs") as show:
            order = await client.orders.wait(transition, timeout=timeout or "default", on_change=show)
    except TrooperError as error:
        failure = not_ready(error, purchase, transition, error.operation)
        failure.__cause__ = error
        raise explained(failure) from None
    cli.result(order, table_of(ORDERS, [order]))


def known(purchase: Purchase) -> str:
    """What is known of a purchase, in one sentence."""
    number = purchase.id[:8]
    match purchase.state:
        case "bought":
            order_id = purchase.order_id
            text = (
                f"bought as order {order_id}, which is billed; `trooper wait {order_id} --until running` waits for it"
            )
        case "refused":
            text = "not bought"
        case "resolved":
            text = "resolved as " + (f"order {purchase.order_id}" if purchase.order_id else "not made")
        case _:
            text = f"whether it was bought is unknown: look at `trooper ps`, then `trooper purchases resolve {number}"
            text += " --order ID` or `--not-made`"
    return f"purchase {number}: {text}"


@contextmanager
def _needing_dbos() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise FailedError(USAGE, str(error)) from None


_DATABASE = click.option(
    "--database",
    metavar="URL",
    help="Undecided ones in the DBOS database of a durable application; PGPASSWORD keeps its password out of the URL.",
)


@command()
@click.argument("purchase")
@_DATABASE
@click.option("--order", type=ID, help="The order that it is.")
@click.option("--not-made", is_flag=True, help="It was not made.")
async def resolve(cli: Cli, purchase: str, database: str | None, order: int | None, not_made: bool) -> None:
    """Decide what became of a purchase of unknown outcome, so that others can be made.

    PURCHASE is its id, or the beginning of it. Look at the account first: another buyer may share it.
    """
    if (order is None) is not not_made:
        raise click.UsageError("pass --order N or --not-made", click.get_current_context())
    if database is not None:
        await _decide_durable(cli, database, purchase, order)
        return
    if not cli.settings.ledger.exists():
        raise FailedError(FAILED, "no purchase of this account is recorded here")
    async with cli.client(buys=True, needs_key=False) as client:
        found = [one for one in client.orders.purchases if one.id.startswith(purchase)]
        if len(found) != 1:
            problem = "no purchase has" if not found else "several purchases have"
            raise FailedError(FAILED, f"{problem} an id that begins with {purchase!r:.40}", "`trooper purchases`")
        await client.orders.resolve(found[0], order)
        now = next(one for one in client.orders.purchases if one.id == found[0].id)
    cli.result(now, known(now))


@alone_or(resolve)
@_DATABASE
async def purchases(cli: Cli, database: str | None) -> None:
    """Show what this account bought from this machine, and which outcomes are unknown. It sends no request."""
    if click.get_current_context().invoked_subcommand is not None:
        return
    if database is None:
        _list(cli)
    else:
        await _list_durable(cli, database)


def _list(cli: Cli) -> None:
    """Reads the ledger without locking it, even while another process is buying."""
    ledger = cli.settings.ledger
    recorded = read_ledger(ledger)
    in_flight = _is_locked(ledger)  # otherwise its process is gone, and its outcome is unknown
    found = tuple(evolve(one, state="unknown") if one.state == "open" and not in_flight else one for one in recorded)
    rows = []
    for one in found:
        what = f"offer {one.blib_id}"
        if one.migrated_order_id is not None:
            what = f"order {one.migrated_order_id} → {what}"
        outcome = cell(one.state, {"bought": "green", "unknown": "bold red"}.get(one.state, ""))
        rows.append(
            (one.id[:8], moment(one.at), what, outcome, cell(one.order_id), euros(one.price_h), cell(one.reference))
        )
    names = ("purchase", "when", "what", "outcome", "order", "eur/h", "reference")
    unknown = [known(one) for one in found if one.state == "unknown"]
    table = plain_table(*names, rows=rows, numbers=["order", "eur/h"])
    cli.result(found, *([table, *unknown] if found else ["nothing was bought from here"]))


async def _list_durable(cli: Cli, database: str) -> None:
    """List the undecided purchases of all accounts of the application."""
    with _needing_dbos():
        from trooper_async import durable
        from trooper_async.durable._purchases import connected

    with connected(database) as client:
        found = await durable.undecided(client)
    place = "URL" if urlsplit(database).password else quote(database)
    rows, hints = [], []
    for one in found:
        what = f"offer {one.blib_id}" if one.migrated is None else f"order {one.migrated} → offer {one.blib_id}"
        rows.append((one.workflow_id, moment(one.at), one.account, what, one.name or "", euros(one.price)))
        hints.append(
            f"whether {one.workflow_id} was bought is unknown: look at the account {one.account}, then "
            f"`trooper purchases resolve --database {place} {quote(one.workflow_id)} --order ID` or `--not-made`"
        )
    table = plain_table("purchase", "when", "account", "what", "name", "eur/h", rows=rows, numbers=["eur/h"])
    cli.result(found, *([table, *map(printable, hints)] if found else ["no purchase is undecided"]))


async def _decide_durable(cli: Cli, database: str, purchase: str, order_id: int | None) -> None:
    """Decide what became of one of them. Its workflow continues as soon as a worker runs."""
    with _needing_dbos():
        from trooper_async import durable
        from trooper_async.durable._purchases import connected

    with connected(database) as client:
        found = [one for one in await durable.undecided(client) if one.workflow_id.startswith(purchase)]
        exact = [one for one in found if one.workflow_id == purchase]
        if len(exact or found) != 1:
            problem = "no undecided purchase has" if not found else "several undecided purchases have"
            text = f"{problem} an id that begins with {purchase!r:.40}"
            raise FailedError(FAILED, text, "`trooper purchases --database URL`")
        (one,) = exact or found
        await durable.resolve(client, one, order_id)
    decided = "not made" if order_id is None else f"order {order_id}"
    text = f"decided as {decided}, unless it was decided before; a worker continues it"
    cli.result(one, f"purchase {printable(one.workflow_id)}: {text}")
