"""`trooper migrate`: moving a server to another configuration."""

from __future__ import annotations

from decimal import Decimal

import click
from rich.table import Table

from trooper_async import MigrationQuote
from trooper_async.cli._buying import buyer
from trooper_async.cli._cli import Cli, FailedError
from trooper_async.cli._command import (
    EUROS,
    ID,
    Commands,
    command,
    no_wait_option,
    order_id,
    reference_option,
    timeout_option,
    yes_option,
)
from trooper_async.cli._errors import FAILED
from trooper_async.cli._tables import gpus_of, orders_table, table
from trooper_async.cli._text import NOTHING, cell, euros, moment

blib_id = click.argument("blib", type=ID)


@command()
@order_id
async def options(cli: Cli, order: int) -> None:
    """What a server can be migrated to."""
    async with cli.client() as client:
        found = await client.migrations.options(order)
    made = table("id", "name", "GPU", "EUR/h", "more per interval", "free")
    for blib in found.available_blibs:
        free = {True: "yes", False: "no", None: NOTHING}[blib.is_available]
        more = euros(blib.additional_cost_per_cycle)
        gpus = gpus_of(blib.gpu_num, blib.gpu_type)
        made.add_row(str(blib.id), cell(blib.name), gpus, euros(blib.price_h), more, free)
    cli.result(found, made)


@command()
@order_id
@blib_id
async def quote(cli: Cli, order: int, blib: int) -> None:
    """What migrating a server to BLIB costs. Nothing is bought."""
    async with cli.client() as client:
        found = await client.migrations.quote(order, blib)
    cli.result(found, _quote(found))


@command()
@order_id
@blib_id
@click.option("--keep-data/--lose-data", default=None, required=True, help="Whether the server's data moves along.")
@click.option("--max-total-due", type=EUROS, help="EUR that may be due now at the most.")
@reference_option
@yes_option
@no_wait_option
@timeout_option
async def buy(
    cli: Cli,
    order: int,
    blib: int,
    keep_data: bool,
    max_total_due: Decimal | None,
    reference: str | None,
    yes: bool,
    no_wait: bool,
    timeout: float | None,
) -> None:
    """Migrate a server to BLIB, and wait until the new order runs. It takes 10 to 90 minutes.

    It shows the price and asks. It is sent once, never again by itself. --yes does not ask: it needs --max-total-due.
    """
    if yes and max_total_due is None:
        raise click.UsageError("--yes needs --max-total-due", click.get_current_context())
    async with buyer(cli) as client:
        price = await client.migrations.quote(order, blib)
        cli.say(_quote(price))
        data = "its data moves along" if keep_data else "ITS DATA IS LOST"
        if not yes and not cli.ask(f"Pay {euros(price.total_due)} EUR now, and migrate? ({data})"):
            raise FailedError(FAILED, "not confirmed: nothing was sent")
        if no_wait:
            transition = await client.migrations.buy(
                price, keep_data=keep_data, max_total_due=max_total_due, reference=reference
            )
            cli.result(transition, f"bought as order {transition.order_id}; `trooper wait {transition.order_id}` waits")
            return
        with cli.waiting(f"migrating order {order}") as show:
            bought = await client.migrations.buy_and_wait(
                price,
                keep_data=keep_data,
                max_total_due=max_total_due,
                reference=reference,
                timeout=timeout or 7200.0,
                on_change=show,
            )
    cli.result(bought, orders_table([bought]))


migrate = Commands("migrate", help="Move a server to another configuration. It becomes a new order.")
for _command in (options, quote, buy):
    migrate.add_command(_command)


def _quote(found: MigrationQuote) -> Table:
    made = table("due now", "upgrade", "remaining value", "more per interval", "rate", "new rate", "next billing")
    rates = [NOTHING if rate is None else cell(rate.display) for rate in (found.current_rate, found.new_rate)]
    amounts = (found.total_due, found.upgrade_cost, found.remaining_value, found.additional_cost_per_cycle)
    made.add_row(*(euros(amount) for amount in amounts), *rates, moment(found.next_billing_date))
    return made
