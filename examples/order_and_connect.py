"""From nothing to a shell: order a GPU server, install a template, wait until its SSH server answers.

    python examples/order_and_connect.py --template "PyTorch Environment"

It talks to the embedded fake server: no key, no network, no money. With `--live --max-price-h 0.50` it orders the
cheapest offer for the account behind TROOPER_API_KEY, by the hour, and leaves it running: that costs money until you
freeze it. It ends with the `ssh` command; the password stays in the account and is never printed.

A name buys one server. `purchases.jsonl` in the working directory remembers it, so the same command again, after a
crash or Ctrl-C too, goes on with the same server. To get another one, give another `--name`.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
from decimal import Decimal

from trooper_async import Blib, Order, Template, TrooperClient, TrooperError
from trooper_async.testing import FakeTrooper

LEDGER = "purchases.jsonl"


class NotOfferedError(Exception):
    """There is nothing of the kind that was asked for. Nothing was bought."""


async def order_and_connect(client: TrooperClient, name: str, template: str, max_price_h: Decimal | None) -> str:
    """Order the cheapest offer, and return the command that logs in to it.

    Args:
        client: with a ledger, a repeat under the same name goes on with the same server.
        name: the server's title, and the reference of its purchase.
        template: the name of what to install on it.
        max_price_h: the most that it may cost, EUR per hour.

    Raises:
        NotOfferedError: no such template, or no server. Nothing was bought.
        TrooperError: as the calls in it say.
    """
    wanted = await find_template(client, template)  # before the purchase: a slip of the pen must not cost anything
    blib = await cheapest(client)
    print(f"the cheapest offer: {blib.name}, {blib.price_h} EUR per hour", flush=True)
    order = await client.orders.create_and_wait(
        blib, contract_interval="HOUR", terms_accepted=True, max_price_h=max_price_h, reference=name, on_change=show
    )
    await client.orders.rename(order, name)
    if all(install.template_id != wanted.id for install in await client.templates.installs(order)):
        print(f"installing {wanted.name}", flush=True)
        await client.templates.install_and_wait(order, wanted)
    for install in await client.templates.installs(order):
        print(f"{install.template_name}: {install.status_readable}")
    login = await client.orders.wait_until_reachable(order)
    return shlex.join(["ssh", "-p", str(login.ssh_port), f"{login.username}@{login.ip}"])


async def find_template(client: TrooperClient, name: str) -> Template:
    templates = await client.templates.list()
    for template in templates:
        if (template.name or "").casefold() == name.casefold():
            return template
    raise NotOfferedError(f"no template is called {name!r}; there are {', '.join(t.name or '' for t in templates)}")


async def cheapest(client: TrooperClient) -> Blib:
    """The cheapest available offer; where there is none, one that the API will refuse, unless it is ours already."""
    offers = [blib for blib in await client.blibs.list() if blib.price_h is not None]
    if not offers:
        raise NotOfferedError("no server is on offer at the moment")
    return min(offers, key=lambda offer: (not offer.is_available, offer.price_h))


def show(order: Order) -> None:
    print(f"order {order.order_id} is {order.current_status}", flush=True)


async def run(options: argparse.Namespace) -> str:
    if options.live:
        async with TrooperClient(ledger=LEDGER) as client:
            return await order_and_connect(client, options.name, options.template, options.max_price_h)
    async with FakeTrooper() as fake, fake.client() as client:
        return await order_and_connect(client, options.name, options.template, options.max_price_h)


def euros(text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of EUR") from None


def main() -> int:
    parser = argparse.ArgumentParser(description="Order a GPU server, and log in to it.")
    parser.add_argument("--template", default="PyTorch Environment", help="what to install (%(default)s)")
    parser.add_argument("--name", default="order-and-connect", help="the server's name: one name, one server")
    parser.add_argument("--live", action="store_true", help="use the real API and TROOPER_API_KEY: this costs money")
    parser.add_argument("--max-price-h", type=euros, help="the most that it may cost, EUR per hour; --live needs it")
    options = parser.parse_args()
    if options.live and options.max_price_h is None:
        parser.error("--live needs --max-price-h")
    try:
        print(asyncio.run(run(options)))
    except (TrooperError, NotOfferedError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: what was ordered goes on running; the same command goes on with it", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
