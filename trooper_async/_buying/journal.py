"""What is known of the purchases of one client, in memory and, where it has a ledger, on disk; it sends nothing.

A purchase is *unresolved* while its outcome is unknown, and also when it is known but never reached its caller (who was
cancelled, or whose `asyncio.timeout` ended the call): then nobody knows of the server that is being paid for, and the
next purchase says so instead of buying another one.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal

from attrs import define, evolve, field

from trooper_async._buying.ledger import Entry, Ledger
from trooper_async.errors import ConfigurationError, TrooperError, UnresolvedPurchaseError
from trooper_async.models import Order, OrderStatus, Purchase, Transition

LOG = logging.getLogger("trooper_async.purchases")


@define(eq=False)
class Record:
    """A purchase and what only its own client needs to know of it."""

    entry: Entry
    sent: bool = False
    delivered: bool = False
    candidates: tuple[Order, ...] = ()
    callers: int = 0
    """Who waits for it, or for what it bought."""
    follower: asyncio.Task[Transition | TrooperError] | None = field(default=None, repr=False)

    @property
    def purchase(self) -> Purchase:
        return self.entry.purchase

    @property
    def unresolved(self) -> bool:
        state = self.purchase.state
        return state in ("open", "unknown") or (state == "bought" and not self.delivered and not self.callers)

    @property
    def transition(self) -> Transition | None:
        if self.purchase.order_id is None:
            return None
        return Transition(self.purchase.order_id, self.purchase.kind, OrderStatus.running)


class Journal:
    """The purchases of one client, the oldest first."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._ledger = None if path is None else Ledger(path)
        # A thread of its own: lines keep their order, and the loop's default pool may be waiting for this purchase.
        self._thread = None if path is None else ThreadPoolExecutor(1, "trooper ledger")
        self._writing: set[asyncio.Future[None]] = set()
        self.records: dict[str, Record] = {}
        if self._ledger is None:
            return
        for purchase_id, entry in self._ledger.entries.items():
            if entry.purchase.state == "open":  # its process ended before its outcome was known, or written
                LOG.warning("the ledger has an open purchase (%s): whether it was made is unknown", entry.operation)
                entry = evolve(entry, purchase=evolve(entry.purchase, state="unknown"))
            self.records[purchase_id] = Record(entry, delivered=True)

    @property
    def all(self) -> tuple[Purchase, ...]:
        return tuple(record.purchase for record in self.records.values())

    def add(self, record: Record) -> None:
        """A purchase that is about to be made."""
        self.records[record.purchase.id] = record

    async def intend(self, record: Record) -> None:
        """Note the intent. It is durable when this returns.

        Raises:
            ConfigurationError: it can't be written, and so must not be sent.
        """
        try:
            await self._write(record.entry)
        except ConfigurationError:
            del self.records[record.purchase.id]
            raise

    async def settle(
        self, record: Record, state: Literal["bought", "refused", "unknown"], order_id: int | None = None
    ) -> None:
        """Note what became of it. What can't be written stays open on disk, and so is unknown to the next process."""
        record.entry = evolve(record.entry, purchase=evolve(record.purchase, state=state, order_id=order_id))
        try:
            await self._write(record.entry)
        except ConfigurationError as error:
            LOG.error(
                "%s: its outcome (%s, order %s) could not be written: %s",
                record.entry.operation,
                state,
                order_id,
                error,
            )

    async def resolve(self, what: Purchase | TrooperError, order_id: int | None) -> None:
        """The caller says what became of an unresolved purchase."""
        purchase = what if isinstance(what, Purchase) else getattr(what, "purchase", None)
        record = self.records.get(purchase.id) if isinstance(purchase, Purchase) else None
        if record is None:
            raise ConfigurationError("no purchase of this client or its ledger", operation="orders.resolve")
        if record.purchase.state == "open":
            raise ConfigurationError("it is on the wire still: await it first", operation="orders.resolve")
        if record.purchase.state == "unknown":
            entry = evolve(record.entry, purchase=evolve(record.purchase, state="resolved", order_id=order_id))
            await self._write(entry)
            record.entry = entry
        record.delivered = True

    def by_reference(
        self, reference: str | None, kind: str, blib_id: int, migrated_order_id: int | None
    ) -> Record | None:
        """The latest purchase of that reference, unless it was certainly not made."""
        if reference is None:
            return None
        if not isinstance(reference, str) or not reference:
            raise ConfigurationError("a reference must be a text that is not empty: nothing was sent")
        for record in reversed(self.records.values()):
            if record.purchase.reference == reference:
                if record.purchase.order_id is None and record.purchase.state not in ("open", "unknown"):
                    return None
                known = record.purchase
                if (known.kind, known.blib_id, known.migrated_order_id) != (kind, blib_id, migrated_order_id):
                    text = f"the reference {reference!r} is that of another purchase ({record.entry.operation})"
                    raise ConfigurationError(f"{text}: nothing was sent")
                return record
        return None

    def refuse_while_unresolved(self, operation: str, reference: str | None) -> None:
        """Two purchases that each have a reference of their own do not block each other."""
        for record in self.records.values():
            both_named = reference is not None and record.purchase.reference is not None
            if record.unresolved and not both_named:
                purchase = record.purchase
                what = (
                    f"order {purchase.order_id} was bought, but its caller never got it"
                    if purchase.order_id is not None
                    else "whether it was made is unknown"
                )
                raise UnresolvedPurchaseError(
                    f"an earlier purchase ({record.entry.operation}) is unresolved: {what}; nothing was sent",
                    purchase=purchase,
                    operation=operation,
                )

    def deliver(self, purchase: Purchase) -> None:
        """Its caller knows of it now."""
        self.records[purchase.id].delivered = True

    @contextmanager
    def awaited(self, purchase: Purchase) -> Iterator[None]:
        """Its caller is there, and will know of it when this ends, however it does; unless it is cancelled."""
        record = self.records[purchase.id]
        record.callers += 1
        try:
            yield
        except Exception:
            record.delivered = True
            raise
        else:
            record.delivered = True
        finally:
            record.callers -= 1

    async def close(self) -> None:
        """Give the ledger free for others, once what is being written is written."""
        if self._writing:
            await asyncio.wait(self._writing)
        if self._ledger is not None and self._thread is not None:
            self._thread.shutdown(wait=False)
            self._ledger.close()

    async def _write(self, entry: Entry) -> None:
        """Off the loop, and to its end: who is cancelled meanwhile is so afterwards."""
        if self._ledger is None:
            return
        try:
            writing = asyncio.get_running_loop().run_in_executor(self._thread, self._ledger.append, entry)
        except RuntimeError:  # of a thread that was shut down
            raise ConfigurationError("the ledger is closed: nothing was sent") from None
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        cancelled: asyncio.CancelledError | None = None
        while not writing.done():
            try:
                await asyncio.wait([writing])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        writing.result()
