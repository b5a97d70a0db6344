"""`trooper purchases`: what this machine's ledger knows, and saying what became of what it does not know."""

from __future__ import annotations

import click

from trooper_async import Purchase
from trooper_async.cli._buying import known
from trooper_async.cli._cli import Cli, FailedError
from trooper_async.cli._command import ID, alone_or, command
from trooper_async.cli._errors import FAILED
from trooper_async.cli._tables import table
from trooper_async.cli._text import cell, euros, moment


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
        raise FailedError(FAILED, "there are no purchases in the ledger")
    async with cli.client(buys=True, needs_key=False) as client:
        found = [one for one in client.orders.purchases if one.id.startswith(purchase)]
        if len(found) != 1:
            problem = "no purchase has" if not found else "several purchases have"
            raise FailedError(FAILED, f"{problem} an id that begins so", "`trooper purchases` shows them")
        await client.orders.resolve(found[0], order)
        now = next(one for one in client.orders.purchases if one.id == found[0].id)
    cli.result(now, known(now))


@alone_or(resolve)
def purchases(cli: Cli) -> None:
    """What was bought from this machine, and what of it is open. Asks the API nothing."""
    if click.get_current_context().invoked_subcommand is None:
        cli.run(_list(cli))


async def _list(cli: Cli) -> None:
    found: tuple[Purchase, ...] = ()
    if cli.settings.ledger.exists():
        async with cli.client(buys=True, needs_key=False) as client:
            found = client.orders.purchases
    made = table("purchase", "when", "what", "outcome", "order", "EUR/h", "reference")
    for one in found:
        what = f"blib {one.blib_id}"
        if one.migrated_order_id is not None:
            what = f"order {one.migrated_order_id} → {what}"
        outcome = cell(one.state, {"bought": "green", "unknown": "bold red"}.get(one.state, ""))
        row = (one.id[:8], moment(one.at), what, outcome, cell(one.order_id), euros(one.price_h), cell(one.reference))
        made.add_row(*row)
    unknown = [known(one) for one in found if one.state == "unknown"]
    cli.result(found, *([made, *unknown] if found else ["nothing was bought from here"]))
