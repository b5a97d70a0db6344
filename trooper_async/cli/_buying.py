"""A client that may buy: what it bought, or does not know whether it bought, is said however the command ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import click

from trooper_async import Purchase, TrooperClient
from trooper_async.cli._cli import Cli


@asynccontextmanager
async def buyer(cli: Cli) -> AsyncIterator[TrooperClient]:
    """A client with the ledger; after Ctrl-C it tells what is known of the purchases of this run."""
    client = cli.client(buys=True)
    began = datetime.now(UTC)

    def ours() -> list[Purchase]:
        return [purchase for purchase in client.orders.purchases if purchase.at >= began]

    try:
        try:
            yield client
        except asyncio.CancelledError:
            if any(purchase.state == "open" for purchase in ours()):
                cli.say("interrupted: waiting for the answer to what was sent (Ctrl-C again does not wait)")
            raise
        finally:
            await _close(client)
    except (asyncio.CancelledError, click.Abort):
        if not ours():
            cli.say("nothing was bought")
        for purchase in ours():
            cli.say(known(purchase))
        raise


async def _close(client: TrooperClient) -> None:
    """Close it, which waits for the answer to a purchase; cancelled, it hangs up: then its outcome is unknown."""
    try:
        await client.close()
    except asyncio.CancelledError:
        await client._transport.close()
        await client.close()
        raise


def known(purchase: Purchase) -> str:
    """What is known of a purchase, in a sentence."""
    match purchase.state:
        case "bought":
            text = (
                f"bought as order {purchase.order_id}: it is being paid for; `trooper wait {purchase.order_id}` waits"
            )
        case "refused":
            text = "not bought"
        case "resolved":
            text = "resolved as " + (f"order {purchase.order_id}" if purchase.order_id else "not made")
        case _:
            what_next = f"look at `trooper ps`, then trooper purchases resolve {purchase.id[:8]}"
            text = f"whether it was bought is unknown: {what_next}"
    return f"purchase {purchase.id[:8]}: {text}"
