"""Purchases: sent once, followed to their end, and recorded. None is ever sent twice."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from copy import copy
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

from trooper_async._api.endpoints import Call
from trooper_async._buying.journal import Journal, Record
from trooper_async._buying.ledger import Entry
from trooper_async._http.transport import Transport
from trooper_async._waiting.wait import OnChange
from trooper_async._waiting.waits import Waits
from trooper_async.errors import (
    ClientClosedError,
    OutcomeUnknownError,
    PurchaseNotReadyError,
    PurchaseUnknownError,
    TrooperError,
    WaitError,
)
from trooper_async.models import Blib, Order, OrderStatus, Purchase, Transition

LOG = logging.getLogger("trooper_async.purchases")

_RE_READS = 3

Prepare = Callable[[Callable[[], None]], Awaitable[tuple[Call[int], Blib]]]
"""Checks the price right before a purchase; the call to send, which calls the argument as it leaves, and the offer."""


class Purchases:
    """Makes the purchases of one client, one at a time."""

    def __init__(self, transport: Transport, journal: Journal, waits: Waits) -> None:
        self._transport = transport
        self._waits = waits
        self._turn = asyncio.Lock()
        self.journal = journal

    async def buy(
        self,
        operation: str,
        kind: Literal["create", "migrate"],
        blib_id: int,
        prepare: Prepare,
        *,
        price_h: Decimal | None,
        reference: str | None,
        migrated_order_id: int | None = None,
    ) -> tuple[Purchase, Transition]:
        """Send one purchase, once. It still has to be delivered.

        Raises:
            UnresolvedPurchaseError: an earlier one is unresolved. Nothing was sent.
            PurchaseUnknownError: it was sent, and whether it was made is unknown.
            TrooperError: it was not made, for certain.
        """
        known = self.journal.by_reference(reference, kind, blib_id, migrated_order_id)
        if known is None:
            async with self._turn:
                await self._on_the_wire()
                known = self.journal.by_reference(reference, kind, blib_id, migrated_order_id)
                if known is None:
                    self.journal.refuse_while_unresolved(operation, reference)
                    at = datetime.now(UTC)
                    purchase = Purchase(
                        uuid.uuid4().hex, kind, blib_id, "open", at, reference, price_h, None, migrated_order_id
                    )
                    return await self._begin(purchase, operation, prepare)
        return await self._again(known)

    async def wait(
        self,
        purchase: Purchase,
        transition: Transition,
        *,
        operation: str,
        timeout: float | None,
        on_change: OnChange | None,
    ) -> Order:
        """Wait until what was bought runs. A caller that is cancelled meanwhile has not got its purchase."""
        with self.journal.awaited(purchase):
            try:
                return await self._waits.transition(
                    transition, operation=operation, timeout=timeout, on_change=on_change
                )
            except Exception as error:
                waited = error if isinstance(error, WaitError) else None
                failure = error if isinstance(error, TrooperError) else None
                raise PurchaseNotReadyError(
                    f"bought as order {transition.order_id}, but not running yet: {error}",
                    purchase=purchase,
                    operation=operation,
                    subject=f"order {transition.order_id}",
                    transition=transition,
                    target=transition.target,
                    order=waited.order if waited else None,
                    polls=waited.polls if waited else 0,
                    last_error=waited.last_error if waited else failure,
                    seconds=failure.seconds if failure else 0.0,
                ) from error

    async def close(self) -> None:
        """Wait for what is on the wire (the transport has been stopped); what is not sent yet is not sent."""
        for record in self.journal.records.values():
            if record.follower is not None and not record.sent and record.purchase.state == "open":
                record.follower.cancel()
        await self._on_the_wire()
        await self.journal.close()

    async def _on_the_wire(self) -> None:
        """Wait for purchases whose callers have gone."""
        followers = [record.follower for record in self.journal.records.values() if record.follower is not None]
        if any(not follower.done() for follower in followers):
            await asyncio.wait(followers)

    async def _begin(self, purchase: Purchase, operation: str, prepare: Prepare) -> tuple[Purchase, Transition]:
        def sending() -> None:
            record.sent = True

        order, blib = await prepare(sending)
        snapshot = await self._waits.orders.store.read(operation, "the orders present before")
        before = frozenset(snapshot.rows)
        record = Record(Entry(purchase, operation, blib, before))
        self.journal.add(record)
        record.follower = asyncio.create_task(self._follow(record, order), name="trooper purchase")
        return await self._outcome(record)

    async def _outcome(self, record: Record) -> tuple[Purchase, Transition]:
        """What the follower comes to. Callers that are cancelled leave it at work once it has been sent."""
        assert record.follower is not None  # noqa: S101 - set by _begin
        record.callers += 1
        try:
            await asyncio.wait([record.follower])
        except asyncio.CancelledError:
            if record.callers == 1 and not record.sent:
                record.follower.cancel()
            raise
        finally:
            record.callers -= 1
        if record.follower.cancelled():
            if record.sent:
                raise self._unknown(record, None)
            if record.purchase.state == "open":  # it was cancelled before it began
                await self.journal.settle(record, "refused")
            raise ClientClosedError("the client was closed before it was sent", operation=record.entry.operation)
        outcome = record.follower.result()
        if isinstance(outcome, TrooperError):
            raise copy(outcome)
        return record.purchase, outcome

    async def _follow(self, record: Record, order: Call[int]) -> Transition | TrooperError:
        """Send it and see it to its end, in a task of the client's: once sent, no caller's cancellation reaches it."""

        def unsent() -> None:
            record.sent = False

        try:
            await self.journal.intend(record)
            order_id = await self._transport.request(order, unsent=unsent)
        except OutcomeUnknownError as error:
            LOG.warning("%s: whether it was made is unknown", record.entry.operation)
            await self.journal.settle(record, "unknown")
            record.candidates = await self._look_for_candidates(record, _RE_READS)
            return self._unknown(record, error)
        except TrooperError as error:
            if record.purchase.id in self.journal.records:  # an intent that could not be written is none
                await self.journal.settle(record, "refused")
            return error
        except BaseException:
            await self.journal.settle(record, "unknown" if record.sent else "refused")
            raise
        await self.journal.settle(record, "bought", order_id)
        return Transition(order_id, record.purchase.kind, OrderStatus.running)

    def _unknown(self, record: Record, cause: OutcomeUnknownError | None) -> PurchaseUnknownError:
        found = ", ".join(f"order {order.order_id}" for order in record.candidates)
        what = cause.message if cause else "sent earlier, and its outcome is unknown"
        return PurchaseUnknownError(
            f"{what}; candidates: {found or 'none found, which proves nothing'}",
            purchase=record.purchase,
            candidates=record.candidates,
            operation=record.entry.operation,
            subject=f"blib {record.purchase.blib_id}",
            attempts=cause.attempts if cause else 0,
            seconds=cause.seconds if cause else 0.0,
        )

    async def _look_for_candidates(self, record: Record, reads: int) -> tuple[Order, ...]:
        """The orders that were not there before, once there are any; the list is read a few times over the cap."""
        for read in range(reads):
            if read:
                await self._transport.pause(self._waits.schedule.cap / (reads - 1))
            if self._transport.closed:
                break
            try:
                snapshot = await self._waits.orders.store.read(record.entry.operation, "candidates")
            except TrooperError as error:
                LOG.warning("looking for what was bought: %s", error)
                continue
            taken = {purchase.order_id for purchase in self.journal.all} | record.entry.before
            new = [order for order in snapshot.readable() if order.order_id not in taken]
            if new:
                return tuple(sorted(new, key=lambda order: _likeness(order, record.entry), reverse=True))
        return ()

    async def _again(self, record: Record) -> tuple[Purchase, Transition]:
        """A repeat under the same reference: nothing is bought."""
        if record.purchase.state == "open":
            return await self._outcome(record)
        if record.transition is None:
            record.candidates = await self._look_for_candidates(record, 1)
            raise self._unknown(record, None)
        return record.purchase, record.transition


def _likeness(order: Order, entry: Entry) -> int:
    """How much an order looks like what was to be bought."""
    blib, score = entry.blib, 0
    if entry.purchase.price_h is not None and order.price_h == entry.purchase.price_h:
        score += 1
    if blib is not None:
        score += 2 * (order.blib_name == blib.name) + (order.blib_gpu_type == blib.gpu_type)
        score += order.blib_gpu_num == blib.gpu_num
    return score
