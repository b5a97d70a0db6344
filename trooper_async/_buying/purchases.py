"""Makes the purchases of one client: each is sent once, and followed until its outcome is known."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Unpack

from attrs import define, evolve, field

from trooper_async._api.arguments import check_on_change, check_seconds, deadline
from trooper_async._api.endpoints import Call
from trooper_async._base.timeouts import timeout_at
from trooper_async._buying.journal import Journal
from trooper_async._buying.record import Record, candidates, fits, not_ready
from trooper_async._http.sessions import Sending
from trooper_async._http.transport import Transport
from trooper_async._waiting.wait import OnChange, WaitOptions
from trooper_async._waiting.waits import Waits
from trooper_async.errors import (
    APITimeoutError,
    ClientClosedError,
    OutcomeUnknownError,
    PurchaseUnknownError,
    ResponseFormatError,
    TrooperError,
    UnresolvedPurchaseError,
)
from trooper_async.models import Blib, Order, Purchase

LOG = logging.getLogger("trooper_async.purchases")

Prepare = Callable[[], Awaitable[tuple[Call[int], Blib]]]
"""Checks the price right before a purchase; returns the call to send, and the offer."""


@define(eq=False)
class _Turn:
    """A queued purchase: it starts when the earlier ones that it must not overtake have ended."""

    wanted: Record
    over: asyncio.Event = field(factory=asyncio.Event)
    follower: asyncio.Task[Record | TrooperError] | None = None
    """The client's own task that makes the purchase: once it is sent, no caller can cancel it."""
    sending: Sending = field(factory=Sending)

    def waits_for(self, other: _Turn) -> bool:
        """Only purchases that each have their own reference are made concurrently."""
        reference, other_reference = self.wanted.purchase.reference, other.wanted.purchase.reference
        return reference is None or other_reference is None or reference == other_reference


class Purchases:
    """Makes the purchases of one client."""

    def __init__(self, transport: Transport, journal: Journal, waits: Waits) -> None:
        self._transport = transport
        self._waits = waits
        self._orders = waits.orders.store
        self._line: list[_Turn] = []
        self.journal = journal

    @asynccontextmanager
    async def made(self, wanted: Record, prepare: Prepare, *, until: float = math.inf) -> AsyncIterator[Record]:
        """Make a purchase, or find it under its reference; its order is known. It is delivered once the block ends.

        If the block is cancelled, the purchase stays unresolved. At `until`, by the event loop's clock, a purchase that
        has not been sent is abandoned, and one in flight continues in its own task.

        Raises:
            APITimeoutError: `until` has passed, and nothing was sent.
            ConfigurationError: it cannot be recorded, or its reference belongs to another purchase. Nothing was sent.
            UnresolvedPurchaseError: an earlier one is unresolved. Nothing was sent.
            PurchaseUnknownError: it was sent, and whether it was made is unknown.
            TrooperError: it was not made, for certain.
        """
        self._orders.check(wanted.operation)
        limit = timeout_at(until)
        try:
            async with limit:
                record = await self._make_in_turn(wanted, prepare)
        except TimeoutError:
            if not limit.expired():  # its TimeoutError is the API's
                raise
            record = self._made_at_its_deadline(wanted)
        async with self.journal.delivering(record):
            yield record

    async def make_and_wait(
        self, wanted: Record, prepare: Prepare, *, timeout: float | None, on_change: OnChange | None
    ) -> Order:
        """Make a purchase, and wait until what was bought runs: see `made` and `wait`. The timeout is for both."""
        check_seconds(timeout, operation=wanted.operation)
        check_on_change(on_change, wanted.operation)
        began = asyncio.get_running_loop().time()
        async with self.made(wanted, prepare, until=deadline(began, timeout)) as bought:
            return await self.wait(
                bought, operation=wanted.operation, timeout=timeout, on_change=on_change, began=began
            )

    async def wait(self, bought: Record, **options: Unpack[WaitOptions]) -> Order:
        """Wait until what was bought runs.

        Raises:
            PurchaseNotReadyError: the wait failed; its cause says how.
        """
        try:
            return await self._waits.transition(bought.transition, **options)
        except Exception as error:
            raise not_ready(error, bought.purchase, bought.transition, options["operation"]) from error

    async def settled(self, wanted: Record) -> Record | TrooperError | None:
        """The outcome of a purchase whose caller has gone, once it is no longer in flight; None if it was never
        made.
        """
        for turn in self._line.copy():
            if turn.wanted is wanted and turn.follower is not None:
                await asyncio.wait([turn.follower])
                if not turn.follower.cancelled():
                    return turn.follower.result()
        return self.journal.records.get(wanted.purchase.id)

    async def unresolved(self) -> tuple[Purchase, ...]:
        """Return the unresolved purchases, once none is in flight."""
        await self._until_none_is_in_flight()
        return tuple(record.purchase for record in self.journal.unresolved)

    async def close(self) -> None:
        """Wait for what is in flight. The transport has been stopped, so nothing more is sent."""
        for turn in self._line:
            if turn.follower is not None and not turn.sending.may_have_left:
                turn.follower.cancel()
        await self._until_none_is_in_flight()
        for record in self.journal.lost_here:
            LOG.warning("%s: %s", record.operation, _what_is_known(record.purchase))
        await self.journal.close()

    async def _until_none_is_in_flight(self) -> None:
        followers = [turn.follower for turn in self._line if turn.follower is not None]
        if followers:
            await asyncio.wait(followers)

    def _made_at_its_deadline(self, wanted: Record) -> Record:
        """The purchase, if it was made just at its deadline.

        Raises:
            APITimeoutError, PurchaseUnknownError: it was not sent; it is still in flight, or its outcome is unknown.
        """
        record = self.journal.records.get(wanted.purchase.id)
        if record is not None and record.purchase.order_id is not None:
            return record
        in_flight = any(turn.wanted is wanted and turn.sending.may_have_left for turn in self._line)
        if record is not None and (in_flight or record.purchase.state == "unknown"):
            raise _unknown_error(record, cause=OutcomeUnknownError("the deadline passed before its outcome was known"))
        text = "the deadline passed before it was sent: nothing was bought"
        raise APITimeoutError(text, operation=wanted.operation, subject=f"blib {wanted.purchase.blib_id}")

    # One purchase ---------------------------------------------------------------------------------------------------

    async def _make_in_turn(self, wanted: Record, prepare: Prepare) -> Record:
        turn = _Turn(wanted)
        earlier = [other for other in self._line if turn.waits_for(other)]
        self._line.append(turn)
        try:
            for other in earlier:
                await other.over.wait()
            self._orders.check(wanted.operation)  # the client may have been closed meanwhile
            if (known := self.journal.known(wanted)) is not None:  # a repeated call buys nothing
                if known.purchase.order_id is not None:
                    return known
                found, failure = await self._read_candidates(known)
                raise _unknown_error(known, found, failure=failure)
            if (blocking := self.journal.blocking(wanted)) is not None:
                raise await self._unresolved(blocking, wanted.operation)
            turn.follower = asyncio.create_task(self._follow(turn, prepare), name="trooper purchase")
            return await self._outcome(turn, turn.follower)
        finally:
            if turn.follower is None or turn.follower.done():
                self._end_turn(turn)
            else:
                turn.follower.add_done_callback(lambda _: self._end_turn(turn))

    def _end_turn(self, turn: _Turn) -> None:
        if turn.follower is not None and not turn.follower.cancelled():
            turn.follower.exception()  # retrieved even if its caller has gone
        self._line.remove(turn)
        turn.over.set()

    async def _outcome(self, turn: _Turn, follower: asyncio.Task[Record | TrooperError]) -> Record:
        """The outcome of the purchase's task. If the caller is cancelled once the request was sent, the task
        continues.
        """
        try:
            await asyncio.wait([follower])
        except asyncio.CancelledError:
            if not turn.sending.may_have_left:
                follower.cancel()
            raise
        wanted = turn.wanted
        if follower.cancelled():
            if turn.sending.may_have_left:
                raise _unknown_error(self.journal.records[wanted.purchase.id])
            raise ClientClosedError("the client was closed before it was sent", operation=wanted.operation)
        outcome = follower.result()
        if isinstance(outcome, TrooperError):
            raise outcome
        return outcome

    async def _follow(self, turn: _Turn, prepare: Prepare) -> Record | TrooperError:
        """Send the purchase, and follow it until its outcome is known."""
        try:
            order, blib = await prepare()
            before = await self._present_orders(turn.wanted.operation)
            offer = Blib(blib.id, blib.name, blib.gpu_type, blib.gpu_num)
            record = evolve(turn.wanted, blib=offer, before=before)
            await self.journal.intend(record)
        except TrooperError as error:
            return error
        except BaseException:
            if (intended := self.journal.records.get(turn.wanted.purchase.id)) is not None:
                await self.journal.settle(intended, "refused")
            raise
        try:
            order_id = await self._transport.request(order, sending=turn.sending)
            if order_id <= 0 or order_id in self.journal.taken(record):
                raise OutcomeUnknownError(f"the response names order {order_id}, which cannot be the new one")
        except OutcomeUnknownError as error:
            record = await self.journal.settle(record, "unknown")
            return _unknown_error(record, await self._search_candidates(record), cause=error)
        except TrooperError as error:
            await self.journal.settle(record, "refused")
            return error
        except BaseException:
            await self.journal.settle(record, "unknown" if turn.sending.may_have_left else "refused")
            raise
        return await self.journal.settle(record, "bought", order_id)

    async def _unresolved(self, record: Record, operation: str) -> UnresolvedPurchaseError:
        found: tuple[Order, ...] = ()
        what = _what_is_known(record.purchase)
        if record.purchase.order_id is None:
            found, failure = await self._read_candidates(record)
            what += f"; {_candidates_text(found, failure)}"
        return UnresolvedPurchaseError(
            f"an earlier purchase ({record.operation}) is unresolved: {what}; nothing was bought",
            purchase=record.purchase,
            candidates=found,
            operation=operation,
        )

    # The list of orders ---------------------------------------------------------------------------------------------

    async def _present_orders(self, operation: str) -> tuple[int, ...]:
        """The ids of all present orders.

        Raises:
            TrooperError: they cannot be read completely and freshly, so a new order could not be told apart.
        """
        what = "the orders present before"
        for _ in range(2):  # an empty list is read again: a replica may have nothing to show yet
            snapshot = await self._orders.read(operation, what, fresh=True)
            if not snapshot.complete:
                raise ResponseFormatError("$[*].order_id", "readable", operation=operation, subject=what)
            if snapshot.rows:
                return tuple(sorted(snapshot.rows))
        return ()

    async def _search_candidates(self, record: Record) -> tuple[Order, ...]:
        """The orders that may be the purchase. The list is read until one of them fits or `cap` seconds have passed."""
        loop = asyncio.get_running_loop()
        ends, pause = loop.time() + self._waits.schedule.cap, self._waits.schedule.floor
        found: tuple[Order, ...] = ()
        while not self._transport.closed():
            read, failure = await self._read_candidates(record)
            if failure is None:
                found = read
            else:
                LOG.warning("what was bought could not be looked for: %s", failure)
            left = ends - loop.time()
            if left <= 0 or any(fits(order, record.blib, record.purchase.price_h) for order in found):
                break
            await self._transport.pause(min(pause, left))
            pause *= 2
        return found

    async def _read_candidates(self, record: Record) -> tuple[tuple[Order, ...], TrooperError | None]:
        """The orders that may be the purchase as of now, the most similar first; or why they cannot be read."""
        try:
            snapshot = await self._orders.read(record.operation, "candidates")
        except TrooperError as error:
            return (), error
        known = self.journal.taken(record)
        return candidates(snapshot.readable(), known, record.blib, record.purchase.price_h), None


def _what_is_known(purchase: Purchase) -> str:
    """What is known of an unresolved purchase, in words."""
    if purchase.order_id is None:
        return "whether it was made is unknown"
    cost = "money" if purchase.price_h is None else f"{purchase.price_h} EUR per hour"
    return f"order {purchase.order_id} was bought, but not received by its caller: it costs {cost} until it is frozen"


def _candidates_text(found: tuple[Order, ...], failure: TrooperError | None) -> str:
    if failure is not None:
        return f"candidates could not be looked for ({failure.message})"
    return f"candidates: {', '.join(f'order {one.order_id}' for one in found) or 'none found, which proves nothing'}"


def _unknown_error(
    record: Record,
    found: tuple[Order, ...] | None = None,
    *,
    cause: OutcomeUnknownError | None = None,
    failure: TrooperError | None = None,
) -> PurchaseUnknownError:
    """The error of a purchase of unknown outcome, with the candidates if they were looked for."""
    what = cause.message if cause else "sent earlier, and its outcome is unknown"
    return PurchaseUnknownError(
        what if found is None else f"{what}; {_candidates_text(found, failure)}",
        purchase=record.purchase,
        candidates=found or (),
        operation=record.operation,
        subject=f"blib {record.purchase.blib_id}",
        attempts=cause.attempts if cause else 0,
        seconds=cause.seconds if cause else 0.0,
    )
