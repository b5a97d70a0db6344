"""The records of one client's purchases, in memory and, if it has a ledger, on disk. It sends nothing."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Literal

from attrs import evolve

from trooper_async._base.cancellation import finished
from trooper_async._buying.ledger import Ledger
from trooper_async._buying.record import Record
from trooper_async.errors import ConfigurationError, TrooperError
from trooper_async.models import Purchase

LOG = logging.getLogger("trooper_async.purchases")


class Journal:
    """The purchases of one client, the oldest first."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._ledger = None if path is None else Ledger(path)
        # A dedicated thread keeps the lines in order, and the loop's default pool may be busy waiting for this
        # purchase.
        self._thread = None if path is None else ThreadPoolExecutor(1, "trooper ledger")
        self._writing: set[asyncio.Future[None]] = set()
        self._deciding = asyncio.Lock()
        self._callers: Counter[str] = Counter()  # by purchase: how many callers await it
        self.records: dict[str, Record] = {}
        for record in self._ledger.records.values() if self._ledger is not None else ():
            if record.purchase.state == "open":  # its process ended before the outcome was recorded
                LOG.warning("the ledger has an open purchase (%s): whether it was made is unknown", record.operation)
                record = evolve(record, purchase=evolve(record.purchase, state="unknown"))
            self.records[record.purchase.id] = record
        self._of_others = frozenset(self.records)

    @property
    def all(self) -> tuple[Purchase, ...]:
        return tuple(record.purchase for record in self.records.values())

    @property
    def unresolved(self) -> tuple[Record, ...]:
        """The purchases whose outcome is unknown, or whose caller never received the result."""
        return tuple(record for record in self.records.values() if self._is_unresolved(record.purchase))

    @property
    def lost_here(self) -> tuple[Record, ...]:
        """The unresolved ones that this client made itself."""
        return tuple(record for record in self.unresolved if record.purchase.id not in self._of_others)

    def _is_unresolved(self, purchase: Purchase) -> bool:
        if purchase.state == "bought":
            return not purchase.delivered and not self._callers[purchase.id]
        return purchase.state in ("open", "unknown")

    def known(self, wanted: Record) -> Record | None:
        """The latest purchase under the same reference, unless it was certainly not made.

        Raises:
            ConfigurationError: the reference belongs to a different purchase.
        """
        reference = wanted.purchase.reference
        for record in reversed(self.records.values()):
            if reference is None or record.purchase.reference != reference:
                continue
            if record.purchase.order_id is None and record.purchase.state not in ("open", "unknown"):
                return None
            other = sorted(
                name for name in record.terms.keys() | wanted.terms if record.terms.get(name) != wanted.terms.get(name)
            )
            if other or record.purchase.kind != wanted.purchase.kind:
                text = f"the reference {reference!r} belongs to another purchase ({record.operation}"
                text += f", with another {', '.join(other)})" if other else ")"
                raise ConfigurationError(f"{text}: nothing was sent", operation=wanted.operation)
            return record
        return None

    def blocking(self, wanted: Record) -> Record | None:
        """An unresolved purchase that must be resolved before this one may be made.

        Two purchases that each have their own reference do not block each other.
        """
        named = wanted.purchase.reference is not None
        return next((one for one in self.unresolved if not named or one.purchase.reference is None), None)

    def taken(self, record: Record) -> set[int]:
        """The orders that this purchase cannot have bought: those from before it, and those of other purchases."""
        others = {one.order_id for one in self.all if one.order_id is not None}
        migrated = record.purchase.migrated_order_id
        return others.union(record.before) if migrated is None else others.union(record.before, [migrated])

    async def intend(self, record: Record) -> None:
        """Record a purchase that is about to be made. The record is durable when this returns.

        Raises:
            ConfigurationError: it cannot be written, so the purchase must not be sent.
        """
        try:
            await self._write(record)
        except ConfigurationError as error:
            raise ConfigurationError(f"{error.message}; nothing was sent", operation=record.operation) from None

    async def settle(
        self, record: Record, state: Literal["bought", "refused", "unknown"], order_id: int | None = None
    ) -> Record:
        """Record the outcome. If it cannot be written, the purchase stays open on disk: unknown to the next process."""
        record = evolve(record, purchase=evolve(record.purchase, state=state, order_id=order_id))
        self.records[record.purchase.id] = record
        try:
            await self._write(record)
        except ConfigurationError as error:
            text = "%s: its outcome (%s, order %s) could not be written: %s"
            LOG.error(text, record.operation, state, order_id, error)
        return record

    @asynccontextmanager
    async def delivering(self, record: Record) -> AsyncIterator[None]:
        """A purchase counts as delivered once the caller's block has ended, by a return or an exception but not a
        cancellation.
        """
        purchase_id = record.purchase.id
        self._callers[purchase_id] += 1
        try:
            yield
        except Exception:
            await self._deliver(purchase_id)
            raise
        else:
            await self._deliver(purchase_id)
        finally:
            self._callers[purchase_id] -= 1

    async def _deliver(self, purchase_id: str) -> None:
        record = self.records[purchase_id]
        if record.purchase.state != "bought" or record.purchase.delivered:
            return
        delivered = evolve(record, purchase=evolve(record.purchase, delivered=True))
        try:
            await self._write(delivered)
        except ConfigurationError as error:
            self.records[purchase_id] = delivered
            LOG.error("%s: its delivery could not be recorded: %s", record.operation, error)
        except asyncio.CancelledError:  # at the last moment: the caller does not receive it after all
            with suppress(ConfigurationError):
                await self._write(record)
            raise

    async def resolve(self, what: Purchase | TrooperError, order_id: int | None) -> None:
        """Record the caller's decision about an unresolved purchase. The first decision is final.

        Raises:
            ConfigurationError: it contradicts what is known, or cannot be written.
        """
        purchase = what if isinstance(what, Purchase) else getattr(what, "purchase", None)
        async with self._deciding:
            record = self.records.get(purchase.id) if isinstance(purchase, Purchase) else None
            if (problem := self._problem(record, order_id)) is not None:
                raise ConfigurationError(f"{problem}: nothing was resolved", operation="orders.resolve")
            assert record is not None  # noqa: S101 - that is an objection
            known = record.purchase
            if known.state == "unknown":
                await self._write(evolve(record, purchase=evolve(known, state="resolved", order_id=order_id)))
            elif known.state == "bought" and not known.delivered:
                await self._write(evolve(record, purchase=evolve(known, delivered=True)))

    def _problem(self, record: Record | None, order_id: int | None) -> str | None:
        if record is None:
            return "no purchase of this client or its ledger"
        known = record.purchase
        if known.state == "open":
            return "it is in flight: await it first"
        if known.state != "unknown":
            if known.order_id == order_id:
                return None
            found = "it was not made" if known.order_id is None else f"it is order {known.order_id}"
            return f"it is known that {found}" if known.state != "resolved" else f"it is resolved already: {found}"
        if order_id is None or order_id not in self.taken(record):
            return None
        if any(one.order_id == order_id for one in self.all):
            return f"order {order_id} belongs to another purchase"
        return f"order {order_id} existed before it was sent"

    async def close(self) -> None:
        """Close and unlock the ledger, once pending lines are written."""
        if self._writing:
            await asyncio.wait(self._writing)
        if self._ledger is not None and self._thread is not None:
            self._thread.shutdown(wait=False)
            self._ledger.close()

    async def _write(self, record: Record) -> None:
        """Write it durably in the thread, then publish it in `records`. A cancellation is raised after that."""
        if self._ledger is None:
            self.records[record.purchase.id] = record
            return
        try:
            writing = asyncio.get_running_loop().run_in_executor(self._thread, self._ledger.append, record)
        except RuntimeError:  # the thread was shut down
            raise ConfigurationError("the ledger is closed") from None
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        try:
            await finished(writing)
        finally:
            if writing.done() and not writing.cancelled() and writing.exception() is None:
                self.records[record.purchase.id] = record
