"""`trooper purchases --database`: what is in doubt in the database of a durable application, from any process."""

from __future__ import annotations

from shlex import quote
from urllib.parse import urlsplit

from trooper_async.cli._context import Cli
from trooper_async.cli._errors import FAILED, FailedError
from trooper_async.cli._tables import plain_table
from trooper_async.cli._text import euros, moment, printable
from trooper_async.durable import resolve, undecided
from trooper_async.durable._purchases import connected


async def show(cli: Cli, database: str) -> None:
    """List what is in doubt, of all accounts of the application."""
    with connected(database) as client:
        found = await undecided(client)
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
    cli.result(found, *([table, *map(printable, hints)] if found else ["nothing is in doubt"]))


async def decide(cli: Cli, database: str, purchase: str, order_id: int | None) -> None:
    """Say what became of one of them; its workflow goes on as soon as a worker runs."""
    with connected(database) as client:
        found = [one for one in await undecided(client) if one.workflow_id.startswith(purchase)]
        exact = [one for one in found if one.workflow_id == purchase]
        if len(exact or found) != 1:
            problem = "no purchase in doubt has" if not found else "several purchases in doubt have"
            raise FailedError(FAILED, f"{problem} an id that begins so", "`trooper purchases --database URL`")
        (one,) = exact or found
        await resolve(client, one, order_id)
    decided = "not made" if order_id is None else f"order {order_id}"
    cli.result(one, f"purchase {printable(one.workflow_id)}: decided as {decided}; its workflow goes on in a worker")
