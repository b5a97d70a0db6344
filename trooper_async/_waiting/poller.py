"""The one poll of `GET /api/orders` that all waits of a client share: when it runs, and who is told.

Started by the first ticket, gone after the last. No ticket owns it: each waits on its own, and one that leaves never
cuts the request that the others await.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
import random
from collections.abc import Set
from contextvars import copy_context
from copy import copy

from trooper_async._api.endpoints import ORDERS, call
from trooper_async._api.responses import FailedAttempt, Failure, Response
from trooper_async._base.slices import SlicedWork, at_once
from trooper_async._http.retry import RetryPolicy
from trooper_async._http.transport import Transport
from trooper_async._waiting.schedule import PollSchedule
from trooper_async._waiting.store import Snapshot, orders_after
from trooper_async._waiting.subscription import Subscription
from trooper_async.errors import (
    AuthenticationError,
    ClientClosedError,
    PermissionDeniedError,
    ResponseFormatError,
    TrooperError,
)

LOG = logging.getLogger("trooper_async._waiting.waits")

_OPERATION = "the poll of the orders"
_TOLD_AT_ONCE = 64
"""Waiters after which the event loop has its turn: those that are done run before the next are told."""
_LOGGED = 100
"""Unreadable orders that are named in the log, of one poll."""
_LONGEST_PAUSE = 3600.0
"""Seconds; a Retry-After beyond it is not believed."""


class Poller:
    """The poll of one client."""

    def __init__(self, transport: Transport, schedule: PollSchedule) -> None:
        self._transport = transport
        self._schedule = schedule
        # Told without the first waiter's trace ids and the like: in the context that the client was made in.
        self._context = copy_context()
        self._tickets: dict[int, Subscription] = {}  # by number, the youngest last
        self._by_order: dict[int | None, dict[int, Subscription]] = {}
        self._restless: dict[int, Subscription] = {}
        self._deadlines: list[tuple[float, int]] = []  # a heap; entries of tickets that left stay until it is tidied
        self._numbers = itertools.count(1)
        self._task: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._snapshot = Snapshot()
        self._etag: str | None = None
        self._began = -math.inf
        self._youngest = 0  # the last ticket that had joined by then
        self._took = 0.0
        self._jitter = 0.5
        self._failures = 0
        self._refused = False
        self._not_before = -math.inf
        self._fresh = 0
        self.last_error: TrooperError | None = None
        """Of the last poll, if it failed."""
        self.latest = self._snapshot
        """The last list that was read, here or by `orders` and `fleet`."""
        self._unreadable: Set[int] = frozenset()  # of the last poll, to be logged once
        self._complete = True
        self._list = call(ORDERS, _OPERATION, decode=orders_after(lambda: self._snapshot))

    def join(self, ticket: Subscription) -> None:
        """Take part in the poll, until `leave`."""
        self._transport.check(self._list)
        loop = asyncio.get_running_loop()
        ticket.number = next(self._numbers)
        ticket.joined = loop.time()
        ticket.fresh = self._fresh
        self._tickets[ticket.number] = ticket
        self._by_order.setdefault(ticket.order_id, {})[ticket.number] = ticket
        self._restless[ticket.number] = ticket  # its first sighting matters, whatever changed
        if ticket.deadline < math.inf:
            heapq.heappush(self._deadlines, (ticket.deadline, ticket.number))
        self._wake.set()
        if self._task is None or self._task.done():
            self.last_error = None  # that of earlier waits says nothing of this one
            self._begin_with_latest()
            self._task = loop.create_task(self._run(self._ending), name="trooper poll", context=self._context)

    async def leave(self, ticket: Subscription) -> None:
        """Take no part any more. The last one ends the poll."""
        del self._tickets[ticket.number]
        self._restless.pop(ticket.number, None)
        peers = self._by_order[ticket.order_id]
        del peers[ticket.number]
        if not peers:
            del self._by_order[ticket.order_id]
        if len(self._deadlines) > 64 + 2 * len(self._tickets):
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self._tickets]
            heapq.heapify(self._deadlines)
        if not self._tickets:
            await self._end()

    async def close(self) -> None:
        """End every wait with ClientClosedError, and the poll."""
        failing = self._fail(ClientClosedError("the client was closed while waiting"))
        try:
            await self._end()
            for _ in failing:
                await asyncio.sleep(0)
        finally:
            at_once(failing)  # if this was cancelled: nobody hangs

    def read_elsewhere(self, snapshot: Snapshot) -> None:
        """Take in a list that was not polled: the next poll has to decode only what has changed since."""
        self.latest = snapshot
        if not self._tickets:  # nobody has to be told of a change: two lists are one too many
            self._begin_with_latest()

    def _begin_with_latest(self) -> None:
        if self._snapshot is not self.latest:
            self._snapshot, self._etag = self.latest, None

    def polls(self, ticket: Subscription) -> int:
        """How many fresh polls there have been since the ticket joined."""
        return self._fresh - ticket.fresh

    async def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._ending, self._task = self._task, None
        if self._ending is not None:
            await asyncio.wait([self._ending])
            self._ending = None

    async def _run(self, previous: asyncio.Task[None] | None) -> None:
        try:
            if previous is not None:
                await asyncio.wait([previous])
            while True:
                await self._sleep()
                await self._poll()
        except asyncio.CancelledError:
            if self._task is asyncio.current_task():  # somebody cancelled it who is no ticket: let nobody hang
                at_once(self._fail(ClientClosedError("the poll was cancelled from outside")))
            raise
        except Exception as error:
            LOG.exception("the poll broke")
            at_once(self._fail(error))

    async def _sleep(self) -> None:
        loop = asyncio.get_running_loop()
        while (due := self._due()) > loop.time():
            self._wake.clear()
            try:
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
            except TimeoutError:
                break

    def _due(self) -> float:
        """When the next poll should begin: the earliest that any ticket wants, but never too close to the last one."""
        due = math.inf
        youngest = next((ticket for ticket in reversed(self._tickets.values()) if ticket.every is None), None)
        if youngest is not None:  # of those that go by their age, it wants a poll first
            age = max(0.0, self._began - youngest.joined)
            due = self._began + self._schedule.interval(age, lambda: self._jitter)
        for ticket in self._by_order.get(None, {}).values():
            if ticket.every is not None:  # one that has not been told of any poll yet does not wait for its turn
                due = min(due, self._began + (ticket.every if ticket.number <= self._youngest else 0.0))
        lead = 2 * self._took + self._schedule.floor / 10
        while self._deadlines:
            deadline, number = self._deadlines[0]
            if number in self._tickets and self._began < deadline - lead:
                due = min(due, deadline - lead)  # the last poll that can end in time for it
                break
            heapq.heappop(self._deadlines)
        return max(due, self._began + self._schedule.floor, self._not_before)

    async def _poll(self) -> None:
        loop = asyncio.get_running_loop()
        # who joins from now on does not believe this one (by number: two clock readings may be the same)
        youngest = self._youngest = next(reversed(self._tickets), 0)
        self._began = loop.time()
        self._jitter = random.random()  # noqa: S311 - no secret
        headers = {} if self._etag is None else {"If-None-Match": self._etag}
        reply = await self._transport.fetch(self._list, headers=headers)
        fault = await self._take(reply)
        self._took = loop.time() - self._began
        if fault is None:
            self._failures, self._refused, self.last_error = 0, False, None
            for _ in self._deliver(youngest):
                await asyncio.sleep(0)
            await asyncio.sleep(0)  # who is done leaves before the next poll is reckoned
        else:
            for _ in self._failed(fault, youngest):
                await asyncio.sleep(0)

    async def _take(self, reply: Response | FailedAttempt) -> FailedAttempt | None:
        """Make the answer the snapshot, or say why it is none."""
        if isinstance(reply, FailedAttempt):
            return reply
        age = reply.headers.get("Age", "0").strip()
        if age != "0" and reply.status in (200, 304):
            return FailedAttempt(
                Failure.UNREADABLE, ResponseFormatError("Age", "0: answers out of a cache prove nothing")
            )
        if reply.status == 304 and self._etag is not None:
            self._snapshot = self.latest = self._snapshot.unchanged()
            return None
        outcome = await self._transport.interpret(self._list, reply)
        if isinstance(outcome, FailedAttempt):
            return outcome
        self._snapshot = self.latest = outcome
        self._etag = reply.headers.get("ETag")
        self._log_unreadable()
        return None

    def _log_unreadable(self) -> None:
        now = self._snapshot
        new = [item for item in now.unreadable.items() if item[0] not in self._unreadable]
        for order_id, error in new[:_LOGGED]:
            LOG.warning("order %d can't be read, and its waits are undecided: %s", order_id, error.message)
        if len(new) > _LOGGED:
            LOG.warning("%d more orders can't be read", len(new) - _LOGGED)
        if self._complete and not now.complete:
            LOG.warning("a row of the orders has no readable order_id: until it has, no order counts as absent")
        self._unreadable, self._complete = frozenset(now.unreadable), now.complete

    def _deliver(self, youngest: int) -> SlicedWork[None]:
        self._fresh += 1
        told = {**self._restless, **self._by_order.get(None, {})}
        for order_id in self._snapshot.changed | self._snapshot.gone:
            told.update(self._by_order.get(order_id, {}))
        for count, (number, ticket) in enumerate(told.items(), 1):
            if count % _TOLD_AT_ONCE == 0:
                yield
            if number > youngest or number not in self._tickets:  # it may have left since the last pause
                continue
            self._restless.pop(number, None)
            try:
                restless = ticket.observe(self._snapshot, self._began, self._began + self._took)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the caller's function: its wait fails, no other
                ticket.fail(error)
            else:
                if restless:
                    self._restless[number] = ticket

    def _failed(self, fault: FailedAttempt, youngest: int) -> SlicedWork[None]:
        error = fault.error
        error.operation, error.attempts, error.seconds = _OPERATION, 1, self._took
        self.last_error = error
        self._failures += 1
        pause = RetryPolicy(max_delay=self._schedule.cap).backoff(self._failures)
        if fault.failure is Failure.RATE_LIMITED:
            self._transport.paced(fault.retry_after)
        if fault.retry_after is not None:
            pause = max(pause, min(fault.retry_after, _LONGEST_PAUSE))
        self._not_before = asyncio.get_running_loop().time() + pause
        LOG.info("%s; asking again in %.1f s", error, pause)
        refused = isinstance(error, AuthenticationError | PermissionDeniedError)
        if refused and self._refused:
            yield from self._fail(error, youngest)
            refused = False
        self._refused = refused

    def _fail(self, error: Exception, youngest: float = math.inf) -> SlicedWork[None]:
        for count, (number, ticket) in enumerate(list(self._tickets.items()), 1):
            if count % _TOLD_AT_ONCE == 0:
                yield
            if number <= youngest:
                ticket.fail(copy(error))
