"""From nothing to a shell: order a GPU server, install a template, wait until its SSH server responds.

    python examples/order_and_connect.py --template "PyTorch Environment"

It talks to the embedded fake server: no key, no network, no money. With `--live --max-price-h 0.50` it orders the
cheapest offer for the account behind TROOPER_API_KEY, by the hour, and leaves it running: that costs money until you
freeze it. It ends with the `ssh` command; the password stays in the account and is never printed.

A name buys one server. `purchases.jsonl` in the working directory remembers it, so the same command again continues
with the same server, after a crash or Ctrl-C too: it starts a server that was frozen, and waits for an install that has
begun. To get another server, give another `--name`. If the response to the order was lost, look at the account, then
say what became of it: `--live --resolve 123`, or `--live --resolve none` if nothing was ordered.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal

from trooper_async import (
    Blib,
    Order,
    OrderNotFoundError,
    Purchase,
    PurchaseUnknownError,
    Template,
    TemplateFailedError,
    TrooperClient,
    TrooperError,
)
from trooper_async.testing import FakeTrooper

LEDGER = "purchases.jsonl"


class NotThereError(Exception):
    """The template or the server does not exist. Nothing was bought."""


class GoneError(NotThereError):
    """What was ordered was terminated."""


async def order_and_connect(client: TrooperClient, name: str, template: str, max_price_h: Decimal | None) -> str:
    """Order the cheapest offer, or continue with what was ordered under this name; return the command that logs in.

    Args:
        client: with a ledger, a repeat under the same name continues with the same server.
        name: the server's title, and the reference of its purchase.
        template: the name of what to install on it.
        max_price_h: the most that it may cost, EUR per hour.

    Raises:
        NotThereError: no such template, or no server. Nothing was bought.
        TrooperError: as the calls in it say.
    """
    wanted = await find_template(client, template)  # before the purchase: a typo must not cost anything
    offer = await offer_for(client, name)
    # bought once, started if it was frozen or stopped since, and left running
    async with client.orders.rented(
        offer,
        contract_interval="HOUR",
        terms_accepted=True,
        max_price_h=max_price_h,
        reference=name,
        then="leave",
        on_change=show,
    ) as order:
        if order.title != name:
            await client.orders.rename(order, name)
        await install(client, order, wanted)
        login = await client.orders.wait_until_reachable(order)
    return shlex.join(["ssh", "-p", str(login.ssh_port), f"{login.username}@{login.ip}"])


async def find_template(client: TrooperClient, name: str) -> Template:
    templates = await client.templates.list()
    for template in templates:
        if (template.name or "").casefold() == name.casefold():
            return template
    raise NotThereError(f"no template is called {name!r}; there are {', '.join(t.name or '' for t in templates)}")


async def offer_for(client: TrooperClient, name: str) -> Blib:
    """What was or may have been ordered under this name, else the cheapest offer that can be ordered now."""
    for purchase in reversed(client.orders.purchases):
        if purchase.reference == name and (purchase.order_id is not None or purchase.state == "unknown"):
            for order in await client.orders.find():
                if order.order_id == purchase.order_id and order.current_status == "terminated":
                    raise GoneError(f"order {order.order_id} was terminated")
            return Blib(purchase.blib_id, price_h=purchase.price_h)
    offers = [blib for blib in await client.blibs.list() if blib.is_available and blib.price_h is not None]
    if not offers:
        raise NotThereError("no server is on offer at the moment")
    offer = min(offers, key=lambda blib: blib.price_h or 0)
    print(f"the cheapest offer: {offer.name}, {offer.price_h} EUR per hour", flush=True)
    return offer


async def install(client: TrooperClient, order: Order, template: Template) -> None:
    """Install a template, or wait for its install if an earlier run has begun it."""
    begun = [one for one in await client.templates.installs(order) if one.template_id == template.id]
    print(f"{'waiting for' if begun else 'installing'} {template.name}", flush=True)
    if begun:
        done = await client.templates.wait(order, begun[-1])
    else:
        done = await client.templates.install_and_wait(order, template)
    print(f"{done.template_name}: {done.status_readable}", flush=True)


def show(order: Order) -> None:
    print(f"order {order.order_id} is {order.current_status}", flush=True)


async def resolve(client: TrooperClient, name: str, order_id: int | None) -> str:
    """Record what became of an order whose response was lost. Nothing is bought."""
    for purchase in await client.orders.unresolved():
        if purchase.reference in (name, None):  # one without a name blocks all others
            if order_id is not None and order_id not in {order.order_id for order in await client.orders.list()}:
                raise NotThereError(f"there is no order {order_id} in this account: nothing was recorded")
            await client.orders.resolve(purchase, order_id)
            what = "nothing was ordered" if order_id is None else f"it is order {order_id}"
            return f"recorded: {what}. The same command without --resolve continues from there"
    raise NotThereError(f"nothing is unresolved under the name {name!r}")


async def live(options: argparse.Namespace) -> int:
    """Work with the real API. Whatever ends it, it says what was ordered and how to continue."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # on Windows
            loop.add_signal_handler(number, task.cancel)  # however often: an order in flight is followed to its end
    client = TrooperClient(ledger=LEDGER)
    try:
        async with client:
            if options.resolve is not None:
                print(await resolve(client, options.name, options.resolve or None))
            else:
                print(await order_and_connect(client, options.name, options.template, options.max_price_h))
    except (TrooperError, NotThereError, asyncio.CancelledError) as error:
        interrupted = isinstance(error, asyncio.CancelledError)
        lines = ["interrupted" if interrupted else error, *ways_on(error, client.orders.purchases, options.name)]
        print(*lines, sep="\n", file=sys.stderr)
        return 130 if interrupted else 1
    return 0


def ways_on(error: BaseException, purchases: tuple[Purchase, ...], name: str) -> Iterator[str]:
    """What was ordered under this name, what it costs, and how to continue after an error."""
    if isinstance(error, OrderNotFoundError | GoneError):
        yield f"what was ordered under the name {name!r} is gone: give another --name to order another server"
        return
    if isinstance(error, TemplateFailedError):
        yield f"`trooper templates retry {error.install.install_id}` tries to install it again"
    if isinstance(error, PurchaseUnknownError):
        for order in error.candidates:
            yield f"it may be order {order.order_id}: {order.blib_name}, {order.price_h} EUR per hour"
    for purchase in purchases:
        number = purchase.order_id
        if purchase.state in ("open", "unknown") and purchase.reference in (name, None):
            yield f"whether a server for {purchase.price_h} EUR per hour was ordered is unknown: look at the account,"
            yield "then say which order it is (--live --resolve ID), or that there is none (--live --resolve none)"
        elif number is not None and purchase.reference == name:
            yield f"order {number} costs {purchase.price_h} EUR per hour while it runs: `trooper freeze {number}`"
            yield "freezes it, and the same command continues with it"


async def on_the_fake(options: argparse.Namespace) -> int:
    async with FakeTrooper() as fake, fake.client() as client:
        try:
            print(await order_and_connect(client, options.name, options.template, options.max_price_h))
        except (TrooperError, NotThereError) as error:
            print(error, file=sys.stderr)
            return 1
    return 0


def euros(text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of EUR") from None


def number_or_none(text: str) -> int:
    """0 stands for none."""
    if text.isascii() and text.isdigit() and int(text):
        return int(text)
    if text != "none":
        raise argparse.ArgumentTypeError(f"{text!r} is neither the number of an order nor none")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Order a GPU server, and log in to it.")
    parser.add_argument("--template", default="PyTorch Environment", help="what to install (%(default)s)")
    parser.add_argument("--name", default="order-and-connect", help="the server's name: one name, one server")
    parser.add_argument("--live", action="store_true", help="use the real API and TROOPER_API_KEY: this costs money")
    parser.add_argument("--max-price-h", type=euros, help="the most that it may cost, EUR per hour; --live needs it")
    help_of_resolve = "with --live: record what became of an order whose response was lost, and do nothing else"
    parser.add_argument("--resolve", type=number_or_none, metavar="ID|none", help=help_of_resolve)
    options = parser.parse_args()
    if options.live and options.max_price_h is None and options.resolve is None:
        parser.error("--live needs --max-price-h")
    if options.resolve is not None and not options.live:
        parser.error("--resolve needs --live")
    try:
        return asyncio.run(live(options) if options.live else on_the_fake(options))
    except TrooperError as error:  # the ledger can't be used, or the settings
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
