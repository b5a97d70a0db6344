"""A server for the duration of a job: it runs during the job, and is frozen or stopped however the job ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Literal, TypeAlias, Unpack

from attrs import define

from trooper_async._api.arguments import deadline
from trooper_async._base.cancellation import finished
from trooper_async._buying.purchases import Prepare, Purchases
from trooper_async._buying.record import Record
from trooper_async._groups.actions import Actions
from trooper_async._groups.lookup import Lookup
from trooper_async._waiting.judges import PredicateJudge, StatusJudge
from trooper_async._waiting.wait import OnChange, WaitOptions
from trooper_async._waiting.waits import Waits
from trooper_async.errors import (
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    OrderNotFoundError,
    PurchaseUnknownError,
    ServerLockedError,
    StillRunningError,
    TrooperError,
)
from trooper_async.models import TARGETS, Order, OrderStatus, Purchase, meant

LOG = logging.getLogger("trooper_async.orders")

Then: TypeAlias = Literal["freeze", "stop", "leave"]
"""What happens to a server when its job is over."""

_GONE_CAPS = 4
"""Multiple of the schedule's cap for which an order has to be missing from the list to count as gone."""
_PERMANENT = (AuthenticationError, ClientClosedError, ConfigurationError, ServerLockedError)
"""Errors of a freeze or stop that a retry cannot fix."""
_RELEASED = {"stopped": 1, "frozen": 2}
"""The statuses in which a server counts as released; the higher the number, the cheaper."""


@define(eq=False)
class Job:
    """A job on its own server, which is released at the end: frozen, stopped, or left as it is."""

    _lookup: Lookup
    _actions: Actions
    _waits: Waits
    _purchases: Purchases
    operation: str
    then: Then
    then_timeout: float | None
    timeout: float | None
    on_change: OnChange | None
    order_id: int | None = None
    """None until it is known what was bought."""
    price_h: Decimal | None = None
    purchase: Purchase | None = None

    @asynccontextmanager
    async def rented(self, wanted: Record, prepare: Prepare) -> AsyncIterator[Order]:
        """Buy an order, or find the one bought under its reference; yield it when it runs; release it at the end."""
        began = asyncio.get_running_loop().time()
        options = WaitOptions(operation=self.operation, timeout=self.timeout, on_change=self.on_change, began=began)
        self.price_h = wanted.purchase.price_h
        async with self._releasing(lambda: self._release_purchase(wanted)):
            async with self._purchases.made(wanted, prepare, until=deadline(began, self.timeout)) as bought:
                self.purchase, self.order_id = bought.purchase, bought.transition.order_id  # to be released from now on
            if bought.purchase.id == wanted.purchase.id:
                order = await self._purchases.wait(bought, **options)
            else:  # bought earlier: it may have been released since, or not be in the list yet
                listed = PredicateJudge(predicate=lambda order: True, cap=self._waits.schedule.cap)
                now = await self._waits.order(
                    self.order_id, listed, operation=self.operation, timeout=self.timeout, began=began
                )
                order = await self._started(now, **options)
            yield order

    @asynccontextmanager
    async def running(self, order_id: int, *, migration_allowed: bool) -> AsyncIterator[Order]:
        """Start an order that does not run, yield it when it does, and release it at the end."""
        began = asyncio.get_running_loop().time()
        options = WaitOptions(operation=self.operation, timeout=self.timeout, on_change=self.on_change, began=began)
        found = await self._lookup.order(order_id, self.operation)
        self.order_id, self.price_h = order_id, found.price_h
        async with self._releasing(self._release):
            yield await self._started(found, migration_allowed=migration_allowed, **options)

    async def _started(self, now: Order, *, migration_allowed: bool = False, **options: Unpack[WaitOptions]) -> Order:
        """The order once it runs. It is started unless it runs or is starting."""
        status, desired = _statuses(now)
        if status == desired == "running":
            return now
        if status not in _RELEASED and desired == "running":
            judge = StatusJudge(target=OrderStatus.running, cap=self._waits.schedule.cap)
            return await self._waits.order(now.order_id, judge, **options)
        return await self._actions.act_and_wait(now, "start", migration_allowed=migration_allowed, **options)

    async def _release_purchase(self, wanted: Record) -> StillRunningError | None:
        """Release what was bought. If its caller was cancelled, its purchase may still be in flight."""
        if self.order_id is None:
            outcome = await self._purchases.settled(wanted)
            if isinstance(outcome, PurchaseUnknownError):
                LOG.error("%s", outcome)  # its cancelled caller learns of it nowhere else
            if not isinstance(outcome, Record) or outcome.purchase.order_id is None:
                return None
            self.purchase, self.order_id = outcome.purchase, outcome.purchase.order_id
        failure = await self._release()
        if failure is None and self.then != "leave" and self.purchase is not None:
            try:  # no decision is needed any more
                await self._purchases.journal.resolve(self.purchase, self.order_id)
            except ConfigurationError as error:
                LOG.error(
                    "%s: order %d was frozen or stopped, but that could not be recorded: %s",
                    self.operation,
                    self.order_id,
                    error,
                )
        return failure

    async def _release(self) -> StillRunningError | None:
        """Freeze or stop the server. Returns the error if that failed."""
        if self.then == "leave" or self.order_id is None:
            return None
        try:
            reason = await self._send(self.order_id, self.then)
        except asyncio.CancelledError:  # the event loop is about to be closed
            LOG.error("%s", self.failure("it was cancelled"))
            raise
        if reason is None:
            return None
        failure = self.failure(reason.message)
        failure.__cause__ = reason
        LOG.error("%s", failure)
        return failure

    async def _send(self, order_id: int, then: Literal["freeze", "stop"]) -> TrooperError | None:
        """Returns None once the API has accepted it, or if the order is already there or gone; otherwise the last
        error.
        """
        loop, operation = asyncio.get_running_loop(), self.operation
        schedule = self._waits.schedule
        missing_since, pause, until = None, schedule.floor, deadline(loop.time(), self.then_timeout)
        while True:
            now: Order | int = order_id
            last: TrooperError | None = None
            try:
                now = await self._lookup.order(order_id, operation)
                if _is_released(now, then):
                    return None
            except TrooperError as error:
                last = error
            else:
                missing_since = None
            if isinstance(last, OrderNotFoundError):
                missing_since = missing_since or loop.time()
                if loop.time() - missing_since >= _GONE_CAPS * schedule.cap:
                    LOG.warning(
                        "%s: order %d is not in the list any more, so no %s is sent",
                        operation,
                        order_id,
                        then,
                    )
                    return None
            else:  # even if the list cannot be read: the action is what matters
                try:
                    await self._actions.act(now, then, operation)
                except TrooperError as error:
                    last = error
                else:
                    return None
            if isinstance(last, _PERMANENT) or loop.time() + pause >= until:
                return last
            LOG.warning("%s; trying again in %.1f s", last, pause)
            await self._lookup.pause(pause)
            pause = min(2 * pause, schedule.cap)

    def failure(self, reason: str) -> StillRunningError:
        """The error of a server that could not be released."""
        cost = "money" if self.price_h is None else f"{self.price_h} EUR per hour"
        return StillRunningError(
            f"the {self.then} at its end failed ({reason}): order {self.order_id} still costs {cost}",
            order_id=self.order_id or 0,
            price_h=self.price_h,
            operation=self.operation,
            subject=f"order {self.order_id}",
        )

    @asynccontextmanager
    async def _releasing(self, end: Callable[[], Awaitable[StillRunningError | None]]) -> AsyncIterator[None]:
        """Run `end` after the block, however that ends and however often it is cancelled.

        An error that `end` returns is raised; if the block itself raised, its exception continues, with a note.
        """
        try:
            yield
        except GeneratorExit:  # the coroutine was closed or collected: nothing can be awaited
            if self.then != "leave" and self.order_id is not None:
                LOG.error("%s", self.failure("its task did not run to its end"))
            raise
        except BaseException as error:
            failure = await finished(asyncio.ensure_future(end()))
            if failure is not None:
                error.add_note(str(failure))
            raise
        failure = await finished(asyncio.ensure_future(end()))
        if failure is not None:
            raise failure


def _statuses(order: Order) -> tuple[str, str]:
    """Current and desired status, to be compared; if the API gives no desired status, the current one twice."""
    status = order.current_status.casefold()
    return status, status if order.desired_status is None else meant(order.desired_status).casefold()


def _is_released(order: Order, then: Literal["freeze", "stop"]) -> bool:
    """Whether it is in the status of `then`, or changing to a cheaper one: a stop would boot a frozen server."""
    status, desired = _statuses(order)
    target = TARGETS[then]
    return (status == desired == target) or _RELEASED.get(desired, 0) > _RELEASED[target]
