"""`trooper purchases`, and what every command that buys has in common: what it bought, or does not know whether it
bought, is said however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from trooper_async._buying.record import not_ready
from trooper_async.cli._context import Cli
from trooper_async.cli._errors import FAILED, FailedError, explained
from trooper_async.cli._options import ID, alone_or, command
from trooper_async.cli._tables import ORDERS, plain_table, table_of
from trooper_async.cli._text import cell, euros, moment
from trooper_async.errors import TrooperError
from trooper_async.models import Purchase, Transition

if TYPE_CHECKING:
    from trooper_async import TrooperClient


@asynccontextmanager
async def buyer(cli: Cli) -> AsyncIterator[TrooperClient]:
    """A client with the ledger; after Ctrl-C it says what is known of the purchases of this run."""
    client = cli.client(buys=True)
    began = datetime.now(UTC)

    def ours() -> list[Purchase]:
        return [purchase for purchase in client.orders.purchases if purchase.at >= began]

    try:
        async with client:
            try:
                yield client
            except asyncio.CancelledError:
                if any(purchase.state == "open" for purchase in ours()):
                    cli.say("interrupted: waiting for the response to what was sent (Ctrl-C again does not wait)")
                    cli.leave_at_once = lambda: "\n".join(map(known, ours()))
                raise
    except (asyncio.CancelledError, click.Abort):
        cli.leave_at_once = None
        if not ours():
            cli.say("nothing was bought")
        for purchase in ours():
            cli.say(known(purchase))
        cli.purchases = ours()
        raise


async def bought(cli: Cli, purchase: Purchase, transition: Transition, *, no_wait: bool, timeout: float | None) -> None:
    """Wait until what was bought runs, with a client that does not hold the ledger: others can buy meanwhile."""
    order_id = transition.order_id
    if no_wait:
        cli.result(transition, f"bought as order {order_id}; `trooper wait {order_id} --until running` waits for it")
        return
    try:
        async with cli.client() as client:
            with cli.waiting(f"order {order_id} is bought; waiting until it runs") as show:
                order = await client.orders.wait(transition, timeout=timeout or "default", on_change=show)
    except asyncio.CancelledError:
        cli.say(known(purchase))
        cli.purchases = [purchase]
        raise
    except TrooperError as error:
        failure = not_ready(error, purchase, transition, error.operation)
        failure.__cause__ = error
        raise explained(failure) from None
    cli.result(order, table_of(ORDERS, [order]))


def known(purchase: Purchase) -> str:
    """What is known of a purchase, in a sentence."""
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


@command()
@click.argument("purchase")
@click.option("--order", type=ID, help="The order that it is.")
@click.option("--not-made", is_flag=True, help="It was not made.")
async def resolve(cli: Cli, purchase: str, order: int | None, not_made: bool) -> None:
    """Say what became of a purchase whose outcome is unknown, so that others can be made.

    PURCHASE is its id, or the beginning of it. Look at the account first: somebody else may share it.
    """
    if (order is None) is not not_made:
        raise click.UsageError("say --order N, or --not-made", click.get_current_context())
    if not cli.settings.ledger.exists():
        raise FailedError(FAILED, "no purchase of this account is recorded here")
    async with cli.client(buys=True, needs_key=False) as client:
        found = [one for one in client.orders.purchases if one.id.startswith(purchase)]
        if len(found) != 1:
            problem = "no purchase has" if not found else "several purchases have"
            raise FailedError(FAILED, f"{problem} an id that begins so", "`trooper purchases`")
        await client.orders.resolve(found[0], order)
        now = next(one for one in client.orders.purchases if one.id == found[0].id)
    cli.result(now, known(now))


@alone_or(resolve)
def purchases(cli: Cli) -> None:
    """What this account bought from this machine, and which outcomes are unknown. Sends no request."""
    if click.get_current_context().invoked_subcommand is None:
        cli.run(_list(cli))


async def _list(cli: Cli) -> None:
    found: tuple[Purchase, ...] = ()
    if cli.settings.ledger.exists():
        async with cli.client(buys=True, needs_key=False) as client:
            found = client.orders.purchases
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
