"""`trooper gpus` and `order`: what can be rented, and renting it."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import click
from rich.text import Text

from trooper_async import Blib, Template, TrooperClient
from trooper_async._groups.selection import matcher
from trooper_async.cli._buying import buyer
from trooper_async.cli._cli import Cli, FailedError
from trooper_async.cli._command import EUROS, ID, command, no_wait_option, reference_option, timeout_option, yes_option
from trooper_async.cli._errors import FAILED
from trooper_async.cli._tables import blibs_table, orders_table
from trooper_async.cli._templates import named
from trooper_async.cli._text import cell, euros, printable


@command()
@click.option("--gpu-type", metavar="GLOB", help="GPU type, in any case of letters.")
@click.option("--country-code", metavar="GLOB", help="Country.")
@click.option("--max-price-h", type=EUROS, help="EUR per hour at the most.")
@click.option("--min-gpus", type=click.IntRange(min=1), default=1, help="GPUs at the least.")
@click.option("--min-gpu-ram", type=click.IntRange(min=1), default=1, help="GB of RAM of each GPU at the least.")
@click.option("--all", "every", is_flag=True, help="Also what can't be ordered now.")
async def gpus(
    cli: Cli,
    gpu_type: str | None,
    country_code: str | None,
    max_price_h: Decimal | None,
    min_gpus: int,
    min_gpu_ram: int,
    every: bool,
) -> None:
    """What can be rented now, the cheapest first. With a key your private offers are among it."""
    async with cli.client(needs_key=False) as client:
        blibs = await client.blibs.list()
    has_gpu = matcher("gpu_type", gpu_type, [blib.gpu_type for blib in blibs])
    is_there = matcher("country_code", country_code, [blib.country_code for blib in blibs])

    def fits(blib: Blib) -> bool:
        return (
            (every or blib.is_available is not False)
            and has_gpu(blib.gpu_type)
            and is_there(blib.country_code)
            and (max_price_h is None or (blib.price_h is not None and blib.price_h <= max_price_h))
            and (min_gpus == 1 or (blib.gpu_num or 0) >= min_gpus)
            and (min_gpu_ram == 1 or (blib.gpu_ram or 0) >= min_gpu_ram)
        )

    found = sorted(filter(fits, blibs), key=lambda blib: (blib.price_h is None, blib.price_h, blib.id))
    cli.result(found, blibs_table(found))


@command()
@click.argument("blib", type=ID)
@click.option("--interval", default="HOUR", show_default=True, help="Contract interval; it is prepaid, not refunded.")
@click.option("--total-price", type=EUROS, help="EUR for the interval; needed for all but HOUR.")
@click.option("--max-price-h", type=EUROS, help="EUR per hour at the most.")
@click.option("--accept-terms", is_flag=True, help="You accept Trooper.AI's terms and conditions.")
@click.option("--template", "templates", multiple=True, metavar="ID|NAME", help="Install it; can be repeated.")
@click.option("--second-partition-percentage", type=click.IntRange(0, 100), help="Share of a second partition.")
@reference_option
@yes_option
@no_wait_option
@timeout_option
async def order(
    cli: Cli,
    blib: int,
    interval: str,
    total_price: Decimal | None,
    max_price_h: Decimal | None,
    accept_terms: bool,
    templates: Sequence[str],
    second_partition_percentage: int | None,
    reference: str | None,
    yes: bool,
    no_wait: bool,
    timeout: float | None,
) -> None:
    """Rent the server BLIB of `trooper gpus`, and wait until it runs.

    It shows the price and asks. It is sent once, never again by itself. --yes does not ask: it needs --max-price-h and
    --accept-terms.
    """
    if yes and (max_price_h is None or not accept_terms):
        raise click.UsageError("--yes needs --max-price-h and --accept-terms", click.get_current_context())
    if total_price is None and interval != "HOUR":
        raise click.UsageError(f"--interval {printable(interval)} needs --total-price", click.get_current_context())
    async with buyer(cli) as client:
        offer = await _offer(client, blib)
        wanted = await named(client, templates)
        cli.say(blibs_table([offer]))
        if not yes:
            _agree(cli, offer, interval, total_price, wanted)
        if not accept_terms and not cli.ask("Do you accept the terms and conditions of Trooper.AI?"):
            raise FailedError(FAILED, "the terms are not accepted: nothing was sent", "--accept-terms accepts them")
        if no_wait:
            transition = await client.orders.create(
                offer,
                contract_interval=interval,
                terms_accepted=True,
                total_price=total_price,
                second_partition_percentage=second_partition_percentage,
                templates=wanted,
                max_price_h=max_price_h,
                reference=reference,
            )
            cli.result(transition, f"bought as order {transition.order_id}; `trooper wait {transition.order_id}` waits")
            return
        with cli.waiting("ordering, and waiting until it runs") as show:
            bought = await client.orders.create_and_wait(
                offer,
                contract_interval=interval,
                terms_accepted=True,
                total_price=total_price,
                second_partition_percentage=second_partition_percentage,
                templates=wanted,
                max_price_h=max_price_h,
                reference=reference,
                timeout=timeout or 1800.0,
                on_change=show,
            )
    cli.result(bought, orders_table([bought]))


async def _offer(client: TrooperClient, blib: int) -> Blib:
    offer = next((offer for offer in await client.blibs.list() if offer.id == blib), None)
    if offer is None:
        raise FailedError(FAILED, f"there is no offer {blib}: nothing was sent", "`trooper gpus` shows what there is")
    return offer


def _agree(
    cli: Cli,
    offer: Blib,
    interval: str,
    total_price: Decimal | None,
    templates: Sequence[Template],
) -> None:
    price = offer.price_h if total_price is None else total_price
    text = Text(f"{euros(price)} EUR for each {printable(interval)}, prepaid and not refunded", "bold")
    if templates:
        text.append(", with ").append(Text(", ").join(cell(template.name) for template in templates))
    cli.say(text)
    if not cli.ask("Rent it?"):
        raise FailedError(FAILED, "not confirmed: nothing was sent")
