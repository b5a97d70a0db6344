"""`trooper gpus`, `order` and `migrate`: what can be rented, renting it, and migrating a server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, TypeVar

import click
from attrs import evolve, frozen

from trooper_async.cli._context import Cli
from trooper_async.cli._errors import FAILED, FailedError
from trooper_async.cli._jobs import run_job
from trooper_async.cli._options import (
    EUROS,
    ID,
    command,
    group,
    listing_options,
    no_wait_option,
    order_id,
    reference_option,
    timeout_option,
    yes_option,
)
from trooper_async.cli._purchases import bought, buy, says_what_was_bought
from trooper_async.cli._tables import OFFERS, Listing, Table, gpus_of, plain_table, table_of
from trooper_async.cli._templates import named
from trooper_async.cli._text import NO_VALUE, cell, count, euros, moment, printable, same_text
from trooper_async.models import Blib, MigrationQuote, Order, Template, Transition

if TYPE_CHECKING:
    from trooper_async import TrooperClient

F = TypeVar("F", bound="Callable[..., object]")

HOURS = {"HOUR": 1, "DAY": 24, "WEEK": 168, "MONTH": 720, "YEAR": 8760}
"""Hours of the contract intervals, for limits; a month counts as 30 days."""


@frozen
class Wanted:
    """What an offer must match."""

    gpu_type: str | None = None
    country_code: str | None = None
    max_price_h: Decimal | None = None
    min_gpus: int | None = None
    min_gpu_ram: int | None = None

    @property
    def says_something(self) -> bool:
        """Whether it selects offers; a price alone is only a limit."""
        return any(one is not None for one in (self.gpu_type, self.country_code, self.min_gpus, self.min_gpu_ram))

    def matching(self, offers: Iterable[Blib]) -> list[Blib]:
        """The offers that fit, the cheapest first."""
        found = [blib for blib in offers if self._fits(blib)]
        return sorted(found, key=lambda blib: (blib.price_h is None, blib.price_h, blib.id))

    def _fits(self, blib: Blib) -> bool:
        return (
            (self.gpu_type is None or same_text(self.gpu_type, blib.gpu_type))
            and (self.country_code is None or same_text(self.country_code, blib.country_code))
            and (self.max_price_h is None or (blib.price_h is not None and blib.price_h <= self.max_price_h))
            and (blib.gpu_num or 0) >= (self.min_gpus or 0)
            and (blib.gpu_ram or 0) >= (self.min_gpu_ram or 0)
        )


_wanted_options = (
    click.option("--gpu", "--gpu-type", "gpu_type", metavar="GLOB", help="GPU type, in any case of letters."),
    click.option("--country-code", metavar="GLOB", help="Country."),
    click.option("--min-gpus", type=click.IntRange(min=1), help="GPUs at least."),
    click.option("--min-gpu-ram", type=click.IntRange(min=1), help="GB of RAM of each GPU at least."),
)


def _options_of_wanted(function: F) -> F:
    for option in reversed(_wanted_options):
        function = option(function)
    return function


@command()
@_options_of_wanted
@click.option("--max-price-h", type=EUROS, help="EUR per hour at most.")
@click.option("--all", "every", is_flag=True, help="Also what can't be ordered now.")
@listing_options(OFFERS)
async def gpus(
    cli: Cli,
    gpu_type: str | None,
    country_code: str | None,
    max_price_h: Decimal | None,
    min_gpus: int | None,
    min_gpu_ram: int | None,
    every: bool,
    listing: Listing,
) -> None:
    """List what can be rented now, the cheapest first. With a key, your private offers are included."""
    async with cli.client(needs_key=False) as client:
        blibs = await client.blibs.list()
    wanted = Wanted(gpu_type, country_code, max_price_h, min_gpus, min_gpu_ram)
    found = wanted.matching(blib for blib in blibs if every or blib.is_available is not False)
    cli.listed(table_of(OFFERS, found, listing), listing)


@command()
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[BLIB] [-- COMMAND...]")
@_options_of_wanted
@click.option("--wait-for-offer", is_flag=True, help="Wait until there is an offer that fits.")
@click.option("--for-job", is_flag=True, help="Run COMMAND on the server by ssh, and release the server at the end.")
@click.option(
    "--then",
    type=click.Choice(["freeze", "stop"]),
    default="freeze",
    show_default=True,
    help="Where --for-job puts it.",
)
@click.option("--interval", default="HOUR", show_default=True, help="Contract interval; it is prepaid, not refunded.")
@click.option("--total-price", type=EUROS, help="EUR for the interval; needed for all but HOUR.")
@click.option("--max-price-h", type=EUROS, help="EUR per hour at most; times the interval's hours for its price, too.")
@click.option("--max-total", type=EUROS, help="EUR for the interval at most.")
@click.option("--accept-terms", is_flag=True, help="You accept Trooper.AI's terms and conditions.")
@click.option("--template", "templates", multiple=True, metavar="ID|NAME", help="Install it; can be repeated.")
@click.option("--second-partition-percentage", type=click.IntRange(0, 100), help="Share of a second partition.")
@reference_option
@yes_option
@no_wait_option
@timeout_option
async def order(
    cli: Cli,
    words: Sequence[str],
    gpu_type: str | None,
    country_code: str | None,
    min_gpus: int | None,
    min_gpu_ram: int | None,
    wait_for_offer: bool,
    for_job: bool,
    then: str,
    interval: str,
    total_price: Decimal | None,
    max_price_h: Decimal | None,
    max_total: Decimal | None,
    accept_terms: bool,
    templates: Sequence[str],
    second_partition_percentage: int | None,
    reference: str | None,
    yes: bool,
    no_wait: bool,
    timeout: float | None,
) -> None:
    """Rent the offer BLIB of `trooper gpus`, or the cheapest that fits (`--gpu "RTX 4090"`), and wait until it runs.

    It shows the price and asks for confirmation. The order is sent once and never repeated. --yes skips the question;
    it needs --max-price-h and --accept-terms.

    With --for-job -- COMMAND it then waits for SSH, runs COMMAND there, and freezes the server at the end, however that
    ends. Its exit status is that of COMMAND.
    """
    interval = interval.upper()
    wanted_offer = Wanted(gpu_type, country_code, max_price_h, min_gpus, min_gpu_ram)
    blib, job = _offer_and_job(words, wanted_offer, for_job, no_wait)
    is_limited = max_price_h is not None or (max_total is not None and total_price is not None)
    if yes and not (is_limited and accept_terms):
        text = "--yes needs --max-price-h (or --max-total with --total-price) and --accept-terms"
        raise click.UsageError(text, click.get_current_context())
    if total_price is None and interval != "HOUR":
        raise click.UsageError(f"--interval {printable(interval)} needs --total-price", click.get_current_context())
    _check_total(interval, total_price, max_price_h, max_total)
    with says_what_was_bought(cli):
        async with cli.client() as client:
            offer = await _offer(cli, client, blib, wanted_offer, wait_for_offer)
            wanted = await named(client, templates)
            cli.say(table_of(OFFERS, [offer]))
            if not yes and not cli.ask(_question(offer, interval, total_price, wanted)):
                raise FailedError(FAILED, "not confirmed: nothing was sent")
            if not accept_terms and not cli.ask("Do you accept the terms and conditions of Trooper.AI?"):
                raise FailedError(FAILED, "the terms are not accepted: nothing was sent", "--accept-terms accepts them")

            def send(buying: TrooperClient) -> Awaitable[Transition]:
                return buying.orders.create(
                    offer,
                    contract_interval=interval,
                    terms_accepted=True,
                    total_price=total_price,
                    second_partition_percentage=second_partition_percentage,
                    templates=wanted,
                    max_price_h=max_price_h,
                    reference=reference,
                )

            if for_job:
                await run_job(cli, client, send, job, then=then, timeout=timeout)
            else:
                purchase, transition = await buy(cli, send)
                await bought(cli, client, purchase, transition, no_wait=no_wait, timeout=timeout)


def _offer_and_job(
    words: Sequence[str], wanted: Wanted, for_job: bool, no_wait: bool
) -> tuple[int | None, Sequence[str]]:
    """The id of the offer, if one is named, and the command to run on the server."""
    context = click.get_current_context()
    names = words if wanted.says_something or not words else words[1:]
    blib: int | None = None
    if not wanted.says_something:
        if not words:
            raise click.UsageError("name an offer from `trooper gpus`, or pass requirements such as --gpu", context)
        blib = int(ID.convert(words[0], None, context))  # type: ignore[arg-type, unused-ignore]  # it reads texts
    if for_job and (no_wait or not names):
        what = "--for-job waits: leave --no-wait out" if no_wait else "--for-job needs a COMMAND after --"
        raise click.UsageError(what, context)
    if names and not for_job:
        what = "a COMMAND is for --for-job" if blib else "name an offer or pass requirements, not both"
        raise click.UsageError(what, context)
    return blib, names


def _check_total(
    interval: str, total_price: Decimal | None, max_price_h: Decimal | None, max_total: Decimal | None
) -> None:
    """Check the limit against what is paid: the price of the whole interval."""
    if total_price is None:
        if max_total is not None and max_price_h is None:
            raise click.UsageError("for HOUR the limit is --max-price-h", click.get_current_context())
        return
    limits = [] if max_total is None else [max_total]
    if max_price_h is not None:
        if interval not in HOURS:
            text = f"how many hours {printable(interval)} has is not known: give --max-total, not --max-price-h"
            raise click.UsageError(text, click.get_current_context())
        limits.append(max_price_h * HOURS[interval])
    limit = min(limits, default=total_price)
    if total_price > limit:
        text = (
            f"--total-price {euros(total_price)} is more than {euros(limit)} EUR, the limit for {printable(interval)}"
        )
        raise click.UsageError(f"{text}: nothing was sent", click.get_current_context())


async def _offer(cli: Cli, client: TrooperClient, blib: int | None, wanted: Wanted, waits: bool) -> Blib:
    """The named offer, or else the cheapest that fits; with `waits`, wait until there is one."""
    offers = await client.blibs.list()
    if blib is not None:
        fitting = [offer for offer in offers if offer.id == blib]
        if not fitting:
            raise FailedError(FAILED, f"there is no offer {blib}: nothing was sent", "`trooper gpus`")
    else:
        fitting = evolve(wanted, max_price_h=None).matching(offers)
        if not fitting:
            raise FailedError(FAILED, "no offer fits, whatever its price: nothing was sent", "`trooper gpus --all`")
    if blib is not None and not waits:  # availability and price are checked when it is bought
        return fitting[0]
    if ready := wanted.matching(offer for offer in fitting if offer.is_available is not False):
        return ready[0]
    limit = wanted.max_price_h
    if not waits:
        text = f"none of the {count(len(fitting), 'offer')} that fit can be rented now"
        text += "" if limit is None else f" for at most {euros(limit)} EUR per hour"
        raise FailedError(FAILED, f"{text}: nothing was sent", "--wait-for-offer waits for one")
    with cli.waiting(f"waiting until one of {count(len(fitting), 'offer')} can be rented"):
        return await client.blibs.wait_until_available(*fitting, max_price_h=limit)


def _question(offer: Blib, interval: str, total_price: Decimal | None, templates: Sequence[Template]) -> str:
    price = offer.price_h if total_price is None else total_price
    text = f"Rent offer {offer.id} ({printable(offer.name)}, {offer.gpu_num} x {printable(offer.gpu_type)}) for "
    text += f"{euros(price)} EUR for each {printable(interval)}, prepaid and not refunded"
    if templates:
        text += ", with " + ", ".join(printable(template.name) for template in templates)
    return f"{text}?"


# migrate --------------------------------------------------------------------------------------------------------------

blib_id = click.argument("blib", type=ID)


@command()
@order_id
async def options(cli: Cli, order: int) -> None:
    """List what a server can be migrated to."""
    async with cli.client() as client:
        found = await client.migrations.options(order)
    rows = []
    for blib in found.available_blibs:
        free = {True: "yes", False: "no", None: NO_VALUE}[blib.is_available]
        gpus, more = gpus_of(blib.gpu_num, blib.gpu_type), euros(blib.additional_cost_per_cycle)
        rows.append((str(blib.id), cell(blib.name), gpus, euros(blib.price_h), more, free))
    names = ("id", "name", "gpu", "eur/h", "more per interval", "free")
    cli.result(found, plain_table(*names, rows=rows, numbers=["id", "eur/h", "more per interval"]))


@command()
@order_id
@blib_id
async def quote(cli: Cli, order: int, blib: int) -> None:
    """Show what migrating a server to BLIB costs. Nothing is bought."""
    async with cli.client() as client:
        found = await client.migrations.quote(order, blib)
    cli.result(found, _quote(found))


@command()
@order_id
@blib_id
@click.option("--keep-data/--lose-data", default=None, help="Whether the server's data moves along; one is required.")
@click.option("--max-total-due", type=EUROS, help="EUR due now at most.")
@reference_option
@yes_option
@no_wait_option
@timeout_option
async def buy_(
    cli: Cli,
    order: int,
    blib: int,
    keep_data: bool | None,
    max_total_due: Decimal | None,
    reference: str | None,
    yes: bool,
    no_wait: bool,
    timeout: float | None,
) -> None:
    """Migrate a server to BLIB, and wait until the new order runs. It takes 10 to 90 minutes.

    It shows the price and asks for confirmation. The migration is sent once and never repeated. --yes skips the
    question; it needs --max-total-due.
    """
    if keep_data is None:  # from 8.4 on, click itself allows a required flag to be missing
        raise click.UsageError("pass --keep-data or --lose-data", click.get_current_context())
    if yes and max_total_due is None:
        raise click.UsageError("--yes needs --max-total-due", click.get_current_context())
    with says_what_was_bought(cli):
        async with cli.client() as client:
            now = await client.orders.get(order)
            choices = await client.migrations.options(order)
            price = await client.migrations.quote(order, blib)
            cli.say(_quote(price))
            target = next((one for one in choices.available_blibs if one.id == blib), None)
            if not yes and not cli.ask(_migration_question(now, target, price, keep_data)):
                raise FailedError(FAILED, "not confirmed: nothing was sent")
            purchase, transition = await buy(
                cli,
                lambda buying: buying.migrations.buy(
                    price, keep_data=keep_data, max_total_due=max_total_due, reference=reference
                ),
            )
            await bought(cli, client, purchase, transition, no_wait=no_wait, timeout=timeout)


migrate = group("migrate", "Move a server to another configuration. It becomes a new order.", options, quote, buy_)


def _migration_question(order: Order, target: Blib | None, quote: MigrationQuote, keep_data: bool) -> str:
    then = target or Blib(quote.target_blib_id)
    gpus = f"{gpus_of(order.blib_gpu_num, order.blib_gpu_type)} → {gpus_of(then.gpu_num, then.gpu_type)}"
    prices = f"{euros(order.price_h)} → {euros(then.price_h)} EUR per hour"
    server = f"order {order.order_id} ({printable(order.title)}, {printable(order.current_status)})"
    data = "its data moves along" if keep_data else "ITS DATA IS LOST"
    what = f"Migrate {server} to offer {then.id} ({printable(then.name)}): {gpus}, {prices}; {data}."
    return f"{what} Pay {euros(quote.total_due)} EUR now?"


def _quote(found: MigrationQuote) -> Table:
    names = ("due now", "upgrade", "remaining value", "more per interval", "rate", "new rate", "next billing")
    rates = [NO_VALUE if rate is None else cell(rate.display) for rate in (found.current_rate, found.new_rate)]
    amounts = (found.total_due, found.upgrade_cost, found.remaining_value, found.additional_cost_per_cycle)
    row = [*(euros(amount) for amount in amounts), *rates, moment(found.next_billing_date)]
    return plain_table(*names, rows=[row], numbers=names[:4])
