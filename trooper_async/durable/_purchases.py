"""Purchases of unknown outcome, which any process can decide."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal

from attrs import frozen
from dbos import DBOSClient
from dbos import error as dbos_errors
from sqlalchemy.engine import create_engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from trooper_async import ConfigurationError, Order, TrooperError
from trooper_async.durable._embedded import Connection

PURCHASES = "trooper-purchases"
"""How the name of an application's queue of purchases begins. Each account makes one purchase at a time."""
PURCHASE, UNDECIDED, DECISION = "purchase", "undecided", "decision"


class NotBoughtError(TrooperError):
    """A purchase of unknown outcome was resolved as not made."""

    hint = "Nothing was bought; start another workflow, or rewind this one, to buy"


@frozen
class UndecidedPurchase:
    """A purchase that may have been made. Its account buys nothing else until it is decided."""

    workflow_id: str
    """The id of the workflow that waits for the decision."""
    account: str
    """The account that pays."""
    migrated: int | None
    """The order that a migration replaces."""
    blib_id: int
    """The offer."""
    name: str | None
    """The offer's name, if known."""
    price: Decimal | None
    """EUR per hour, if known."""
    at: datetime
    """When it was sent."""
    known: frozenset[int]
    """The ids of the orders that existed before."""
    run: str
    """Which attempt of the workflow sent it."""

    def candidates(self, orders: Iterable[Order]) -> list[Order]:
        """Return the orders that may be this purchase, the most similar first.

        Somebody else may share the account, so none of them is proven to be it, and for some minutes after the purchase
        an empty list proves nothing.
        """
        new = [order for order in orders if order.order_id not in self.known]
        return sorted(new, key=lambda order: (order.blib_name != self.name, order.price_h != self.price))


async def undecided(client: DBOSClient) -> list[UndecidedPurchase]:
    """Return the purchases of all accounts that wait for a decision.

    Args:
        client: a client of the application's database: `DBOSClient(system_database_url=…)`, in any process.
    """
    rows = await client.list_workflows_async(
        name="trooper.purchase", status=["PENDING", "ENQUEUED"], load_input=False, load_output=False
    )
    found = [await _question(client, row.workflow_id) for row in rows]
    return [question for question in found if question is not None]


async def resolve(client: DBOSClient, what: UndecidedPurchase | str, order: Order | int | None) -> None:
    """Decide a purchase of unknown outcome. The first decision counts, later ones have no effect.

    Its workflow continues as soon as a worker runs. A request can take three minutes and still succeed, so look at the
    account after that time before you decide that nothing was bought.

    Args:
        client: as for `undecided`.
        what: the purchase, or its workflow's id.
        order: the order that was bought, or its id; None if nothing was bought.

    Raises:
        ConfigurationError: the order existed before, or no such purchase waits for a decision.
    """
    workflow_id = what if isinstance(what, str) else what.workflow_id
    order_id = order.order_id if isinstance(order, Order) else order
    question = await _question(client, workflow_id)
    if question is None:
        raise ConfigurationError(f"no purchase of workflow {workflow_id} waits for a decision", operation="resolve")
    if order_id is not None and (type(order_id) is not int or order_id in question.known):
        text = f"order {order_id!r:.40} is not what purchase {workflow_id} bought: it was there before"
        raise ConfigurationError(text, operation="durable.resolve")
    # of several messages with one key, DBOS delivers the first
    await client.send_async(workflow_id, (order_id,), DECISION, idempotency_key=question.run)


async def _question(client: DBOSClient, workflow_id: str) -> UndecidedPurchase | None:
    asked = await client.get_event_async(workflow_id, UNDECIDED, 0)
    if asked is None:
        return None
    known, at = frozenset(asked.pop("known")), datetime.fromtimestamp(asked.pop("at"), UTC)
    return UndecidedPurchase(workflow_id=workflow_id, known=known, at=at, **asked)


@contextmanager
def connected(database_url: str) -> Iterator[DBOSClient]:
    """A client of an application's database, for scripts and operators; it never creates a database.

    Args:
        database_url: the URL of the system database.

    Raises:
        ConfigurationError: it does not exist, or can't be used, now or later.
    """
    try:
        url, engine = make_url(database_url), None
        if url.get_backend_name() == "sqlite":
            if not os.path.isfile(url.database or ""):
                raise ConfigurationError(f"there is no database {url.database}")
            as_of_dbos = {"factory": Connection, "isolation_level": "IMMEDIATE", "timeout": 30}
            engine = create_engine(url, connect_args=as_of_dbos)
        client = DBOSClient(
            system_database_url=database_url, system_database_engine=engine, lazy=True, retry_connection_errors=False
        )
        try:
            yield client
        finally:
            client.destroy()
            if engine is not None:
                engine.dispose()
    except ConfigurationError:
        raise
    except (SQLAlchemyError, dbos_errors.DBOSException, ValueError, AssertionError) as error:
        text = str(getattr(error, "orig", None) or error).partition("\n")[0]
        raise ConfigurationError(f"the database can't be used: {text}") from None
