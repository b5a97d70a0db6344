"""Purchases: sent once, followed to their end, and recorded.

A purchase is never sent twice. It is *unresolved* while its outcome is unknown, and also when it is known but never
reached its caller (who was cancelled, or whose `asyncio.timeout` ended the call): then nobody knows of the server that
is being paid for, and the next purchase says so instead of buying another one.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

from attrs import define, evolve, field

from trooper_async._protocol import ORDERS_TOLERANT, Call, call
from trooper_async._snapshot import Snapshot
from trooper_async._transport import Transport
from trooper_async.errors import (
    ClientClosedError,
    ConfigurationError,
    OutcomeUnknownError,
    PurchaseUnknownError,
    TrooperError,
    UnresolvedPurchaseError,
)
from trooper_async.models import Blib, Order, OrderStatus, Purchase
from trooper_async.transition import Transition

LOG = logging.getLogger("trooper_async.purchases")

_RE_READS = 3

Prepare = Callable[[Callable[[], None]], Awaitable[Call[int]]]
"""Checks the price right before a purchase and gives the call to send, which calls the argument as it leaves."""


@define(eq=False)
class _Record:
    """A purchase and what only its own client needs to know of it."""

    purchase: Purchase
    operation: str
    blib: Blib | None
    before: frozenset[int] = frozenset()
    sent: bool = False
    delivered: bool = False
    candidates: tuple[Order, ...] = ()
    callers: int = 0
    follower: asyncio.Task[Transition | TrooperError] | None = field(default=None, repr=False)

    @property
    def unresolved(self) -> bool:
        state = self.purchase.state
        return state in ("open", "unknown") or (state == "bought" and not self.delivered and not self.callers)

    @property
    def transition(self) -> Transition | None:
        if self.purchase.order_id is None:
            return None
        return Transition(self.purchase.order_id, self.purchase.kind, OrderStatus.running)


class Purchases:
    """The purchases of one client, one at a time."""

    def __init__(self, transport: Transport, *, cap: float) -> None:
        self._transport = transport
        self._cap = cap
        self._records: dict[str, _Record] = {}
        self._turn = asyncio.Lock()

    @property
    def all(self) -> tuple[Purchase, ...]:
        """What was bought, or may have been, the oldest first."""
        return tuple(record.purchase for record in self._records.values())

    async def buy(
        self,
        operation: str,
        kind: Literal["create", "migrate"],
        blib_id: int,
        prepare: Prepare,
        *,
        blib: Blib | None,
        price_h: Decimal | None,
        reference: str | None,
        migrated_order_id: int | None = None,
    ) -> tuple[Purchase, Transition]:
        """Send one purchase, once. It still has to be `delivered`.

        Raises:
            UnresolvedPurchaseError: an earlier one is unresolved. Nothing was sent.
            PurchaseUnknownError: it was sent, and whether it was made is unknown.
            TrooperError: it was not made, for certain.
        """
        known = self._by_reference(reference, kind, blib_id)
        if known is None:
            async with self._turn:
                await self._on_the_wire()
                known = self._by_reference(reference, kind, blib_id)
                if known is None:
                    self._refuse_while_unresolved(operation, reference)
                    at = datetime.now(UTC)
                    purchase = Purchase(
                        uuid.uuid4().hex, kind, blib_id, "open", at, reference, price_h, None, migrated_order_id
                    )
                    known = _Record(purchase, operation, blib)
                    return await self._begin(known, prepare)
        return await self._again(known)

    def deliver(self, purchase: Purchase) -> None:
        """Its caller knows of it now."""
        self._records[purchase.id].delivered = True

    @contextmanager
    def awaited(self, purchase: Purchase) -> Iterator[None]:
        """Its caller is there, and will know of it when this ends, however it does; unless it is cancelled."""
        record = self._records[purchase.id]
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

    async def resolve(self, what: Purchase | TrooperError, order_id: int | None) -> None:
        """The caller says what became of an unresolved purchase."""
        purchase = what if isinstance(what, Purchase) else getattr(what, "purchase", None)
        record = self._records.get(purchase.id) if isinstance(purchase, Purchase) else None
        if record is None:
            raise ConfigurationError("no purchase of this client", operation="orders.resolve")
        if record.purchase.state == "open":
            raise ConfigurationError("it is on the wire still: await it first", operation="orders.resolve")
        if record.purchase.state == "unknown":
            record.purchase = evolve(record.purchase, state="resolved", order_id=order_id)
        record.delivered = True

    async def close(self) -> None:
        """Wait for what is on the wire (the transport has been stopped); what is not sent yet is not sent."""
        for record in self._records.values():
            if record.follower is not None and not record.sent:
                record.follower.cancel()
        await self._on_the_wire()

    async def _on_the_wire(self) -> None:
        """Wait for purchases whose callers have gone."""
        followers = [record.follower for record in self._records.values() if record.follower is not None]
        if any(not follower.done() for follower in followers):
            await asyncio.wait(followers)

    def _by_reference(self, reference: str | None, kind: str, blib_id: int) -> _Record | None:
        """The latest purchase of that reference, unless it was certainly not made."""
        if reference is None:
            return None
        if not isinstance(reference, str) or not reference:
            raise ConfigurationError("a reference must be a text that is not empty: nothing was sent")
        for record in reversed(self._records.values()):
            if record.purchase.reference == reference:
                if record.purchase.order_id is None and record.purchase.state not in ("open", "unknown"):
                    return None
                if (record.purchase.kind, record.purchase.blib_id) != (kind, blib_id):
                    text = f"the reference {reference!r} is that of another purchase ({record.operation})"
                    raise ConfigurationError(f"{text}: nothing was sent")
                return record
        return None

    def _refuse_while_unresolved(self, operation: str, reference: str | None) -> None:
        for record in self._records.values():
            both_named = reference is not None and record.purchase.reference is not None
            if record.unresolved and not both_named:
                purchase = record.purchase
                what = (
                    f"order {purchase.order_id} was bought, but its caller never got it"
                    if purchase.order_id is not None
                    else "whether it was made is unknown"
                )
                raise UnresolvedPurchaseError(
                    f"an earlier purchase ({record.operation}) is unresolved: {what}; nothing was sent",
                    purchase=purchase,
                    operation=operation,
                )

    async def _begin(self, record: _Record, prepare: Prepare) -> tuple[Purchase, Transition]:
        def sending() -> None:
            record.sent = True

        order = await prepare(sending)
        before = await self._transport.request(call(ORDERS_TOLERANT, record.operation, "the orders present before"))
        record.before = frozenset(before.orders) | frozenset(before.unreadable)
        self._records[record.purchase.id] = record
        record.follower = asyncio.create_task(self._follow(record, order), name="trooper purchase")
        return await self._outcome(record)

    async def _outcome(self, record: _Record) -> tuple[Purchase, Transition]:
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
            record.purchase = evolve(record.purchase, state="refused")  # for one that was cancelled before it began
            raise ClientClosedError("the client was closed before it was sent", operation=record.operation)
        outcome = record.follower.result()
        if isinstance(outcome, TrooperError):
            raise copy(outcome)
        return record.purchase, outcome

    async def _follow(self, record: _Record, order: Call[int]) -> Transition | TrooperError:
        """Send it and see it to its end, in a task of the client's: once sent, no caller's cancellation reaches it."""

        def unsent() -> None:
            record.sent = False

        try:
            order_id = await self._transport.request(order, unsent=unsent)
        except OutcomeUnknownError as error:
            record.purchase = evolve(record.purchase, state="unknown")
            LOG.warning("%s: whether it was made is unknown", record.operation)
            record.candidates = await self._look_for_candidates(record)
            return self._unknown(record, error)
        except TrooperError as error:
            record.purchase = evolve(record.purchase, state="refused")
            return error
        except BaseException:
            record.purchase = evolve(record.purchase, state="unknown" if record.sent else "refused")
            raise
        record.purchase = evolve(record.purchase, state="bought", order_id=order_id)
        return Transition(order_id, record.purchase.kind, OrderStatus.running)

    def _unknown(self, record: _Record, cause: OutcomeUnknownError | None) -> PurchaseUnknownError:
        found = (
            ", ".join(f"order {order.order_id}" for order in record.candidates) or "none found, which proves nothing"
        )
        what = cause.message if cause else "sent earlier, and its outcome is unknown"
        return PurchaseUnknownError(
            f"{what}; candidates: {found}",
            purchase=record.purchase,
            candidates=record.candidates,
            operation=record.operation,
            subject=f"blib {record.purchase.blib_id}",
            attempts=cause.attempts if cause else 0,
            seconds=cause.seconds if cause else 0.0,
        )

    async def _look_for_candidates(self, record: _Record) -> tuple[Order, ...]:
        """The orders that were not there before, once there are any; the list is read a few times over the cap."""
        look = call(ORDERS_TOLERANT, record.operation, "candidates")
        for read in range(_RE_READS):
            if read:
                await self._transport.pause(self._cap / (_RE_READS - 1))
            if self._transport.closed:
                break
            try:
                snapshot: Snapshot = await self._transport.request(look)
            except TrooperError as error:
                LOG.warning("looking for what was bought: %s", error)
                continue
            new = [order for order_id, order in snapshot.orders.items() if order_id not in record.before]
            if new:
                return tuple(sorted(new, key=lambda order: _likeness(order, record), reverse=True))
        return ()

    async def _again(self, record: _Record) -> tuple[Purchase, Transition]:
        """A repeat under the same reference: nothing is sent."""
        if record.purchase.state == "open":
            return await self._outcome(record)
        if record.transition is None:
            raise self._unknown(record, None)
        return record.purchase, record.transition


def _likeness(order: Order, record: _Record) -> int:
    """How much an order looks like what was to be bought."""
    blib, score = record.blib, 0
    if record.purchase.price_h is not None and order.price_h == record.purchase.price_h:
        score += 1
    if blib is not None:
        score += 2 * (order.blib_name == blib.name) + (order.blib_gpu_type == blib.gpu_type)
        score += order.blib_gpu_num == blib.gpu_num
    return score
