"""Decides when a shared list is polled, and notifies the subscriptions of what changed in it.

The first subscription starts the poll, and the last one ends it. No subscription owns it: one that leaves never cuts
the request that the others wait for. A subscription trusts only polls that began after it joined. Numbers decide which
came first, never a clock.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
import random
from collections.abc import Iterator
from contextvars import Context, copy_context
from copy import copy
from typing import Generic, TypeVar

from attrs import Factory, define

from trooper_async._api.responses import FailedAttempt, Failure
from trooper_async._base.slices import SlicedWork
from trooper_async._base.timeouts import timeout_at
from trooper_async._http.retry import MAX_RETRY_AFTER, RetryPolicy
from trooper_async._waiting.schedule import PollSchedule
from trooper_async._waiting.store import Snapshot, Store
from trooper_async.errors import (
    AuthenticationError,
    ClientClosedError,
    PermissionDeniedError,
    TrooperError,
)

LOG = logging.getLogger("trooper_async.waiters")

M = TypeVar("M")

_NOTIFIED_IN_A_ROW = 64
"""Subscriptions that are notified before the event loop gets a turn, in which those that are done can run."""
_LOGGED = 100
"""Most unreadable rows of one poll that the log names."""
_OUTAGE_FAILURES = 3
"""Failed polls in a row that count as an outage; failures for longer than the schedule's cap do, too."""


@define(eq=False, kw_only=True)
class Subscription(Generic[M]):
    """One subscriber of a poll."""

    item_id: int | None = None
    """The item whose changes it is notified of; None for every successful poll."""
    deadline: float = math.inf
    """When it ends, by the event loop's clock. A last poll is made in time for it."""
    every: float | None = None
    """Seconds between the polls that it wants; None to go by its age."""
    number: int = 0
    joined: float = 0.0
    first_poll: int = 0
    """How many polls had succeeded when it joined."""

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        raise NotImplementedError

    def observe(self, snapshot: Snapshot[M], began: float, received: float) -> bool:
        """Take note of `snapshot`, from a poll that was sent and received at these times.

        Returns:
            Whether the next poll matters even if its item is the same in it.
        """
        raise NotImplementedError

    def fail(self, error: BaseException) -> None:
        """End: the poll failed, or `observe` raised this error."""
        raise NotImplementedError

    def expire(self) -> None:
        """End: the deadline has passed."""
        raise NotImplementedError

    def outage(self, since: float | None, error: TrooperError | None) -> None:
        """Polls have failed since this time; None: they succeed again."""


@define(eq=False)
class Poller(Generic[M]):
    """The poll of one list of a client."""

    store: Store[M]
    _schedule: PollSchedule
    refusals: tuple[type[TrooperError], ...] = (AuthenticationError, PermissionDeniedError)
    """The errors that mean a refused key if two polls in a row fail with one of them."""
    last_error: TrooperError | None = None
    """The error of the last poll, if it failed."""
    # Subscriptions are notified in the context of the client's construction, not with the first one's trace ids.
    _context: Context = Factory(copy_context)
    _subscriptions: dict[int, Subscription[M]] = Factory(dict)  # by number, the youngest last
    _by_item: dict[int | None, list[Subscription[M]]] = Factory(dict)
    _every_poll: dict[int, Subscription[M]] = Factory(dict)  # notified of the next poll whatever it shows
    _deadlines: list[tuple[float, int]] = Factory(list)  # a heap; who has left stays in it until it is tidied
    _timer: asyncio.TimerHandle | None = None  # for the first of them
    _numbers: Iterator[int] = Factory(lambda: itertools.count(1))
    _task: asyncio.Task[None] | None = None
    _ending: set[asyncio.Task[None]] = Factory(set)  # cancelled, and not ended yet
    _wake: asyncio.Event = Factory(asyncio.Event)
    _notified: Snapshot[M] = Factory(lambda poller: poller.store.latest, takes_self=True)
    _began: float = -math.inf
    _youngest: int = 0  # the last subscription that had joined when the last poll began
    _took: float = 0.0
    _jitter: float = 0.5
    _not_before: float = -math.inf
    _good_polls: int = 0
    _failures: int = 0
    _refused: bool = False
    _failing_since: float | None = None
    _rate_limited: bool = False
    _polled_during_pause: bool = False
    _outage: bool = False
    _unreadable: frozenset[int | None] = frozenset()  # of the last poll, to be logged once

    def __attrs_post_init__(self) -> None:
        self.store.on_read = self._read_elsewhere

    def join(self, subscription: Subscription[M], operation: str, subject: str = "") -> None:
        """Add a subscription, until it ends or leaves. Errors name the operation and the subject."""
        self.store.check(operation, subject)
        loop = asyncio.get_running_loop()
        subscription.number = next(self._numbers)
        subscription.joined = loop.time()
        subscription.first_poll = self._good_polls
        self._subscriptions[subscription.number] = subscription
        self._by_item.setdefault(subscription.item_id, []).append(subscription)
        self._every_poll[subscription.number] = subscription  # its first sighting counts, whatever has changed
        if subscription.deadline < math.inf:
            self._remember_deadline(subscription.deadline, subscription.number)
        self._wake.set()
        if self._task is None or self._task.done():
            self.last_error = self._failing_since = None  # failures before this wait do not concern it
            self._notified = self.store.latest
            self._task = loop.create_task(self._run(), name=self.store.operation, context=self._context)

    async def leave(self, subscription: Subscription[M]) -> None:
        """Remove a subscription. The last one to leave ends the poll."""
        self.drop(subscription)
        await self.settle()

    def drop(self, subscription: Subscription[M]) -> None:
        """Remove a subscription; after the last one the poll ends by itself."""
        number = subscription.number
        if self._subscriptions.pop(number, None) is None:
            return
        self._every_poll.pop(number, None)
        peers = self._by_item[subscription.item_id]
        peers.remove(subscription)
        if not peers:
            del self._by_item[subscription.item_id]
        if len(self._deadlines) > 64 + 2 * len(self._subscriptions):
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self._subscriptions]
            heapq.heapify(self._deadlines)
        if not self._subscriptions:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._task is not None and self._task is not asyncio.current_task():
                self._stop()

    async def close(self) -> None:
        """End every subscription with ClientClosedError, and the poll."""
        failing = self._fail_all(ClientClosedError("the client was closed while waiting"))
        try:
            for _ in failing:
                await asyncio.sleep(0)
            await self._end()
        finally:
            for _ in failing:  # even if this was cancelled: no wait hangs
                pass

    async def settle(self) -> None:
        """If there are no subscriptions left, wait for the end of the poll."""
        if not self._subscriptions:
            await self._end()

    def good_polls(self, subscription: Subscription[M]) -> int:
        """How many polls have succeeded since it joined."""
        return self._good_polls - subscription.first_poll

    def failing(self) -> str:
        """What the text of a wait's error says about failing polls; empty if the last one succeeded."""
        if self.last_error is None or self._failing_since is None:
            return ""
        seconds = asyncio.get_running_loop().time() - self._failing_since
        return f"; no poll has succeeded for {seconds:.0f} s: {self.last_error.message}"

    def _stop(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            self._ending.add(self._task)
            self._task.add_done_callback(self._ending.discard)
        self._task = None

    async def _end(self) -> None:
        self._stop()
        if self._ending:
            await asyncio.wait(self._ending)

    async def _run(self) -> None:
        try:
            if self._ending:
                await asyncio.wait(self._ending)
            while self._subscriptions:
                await self._sleep()
                await self._poll()
        except BaseException as error:
            if self._task is asyncio.current_task() and self._subscriptions:  # it was not stopped by us
                cancelled = isinstance(error, asyncio.CancelledError)
                reason = ClientClosedError("the poll was cancelled from outside") if cancelled else error
                for _ in self._fail_all(reason):
                    pass
            if not isinstance(error, Exception):
                raise
            if not isinstance(error, TrooperError):  # the waits raise that one
                LOG.exception("%s broke", self.store.operation)

    async def _sleep(self) -> None:
        loop = asyncio.get_running_loop()
        while (due := self._due()) > loop.time():
            self._wake.clear()
            try:
                async with timeout_at(due):
                    await self._wake.wait()
            except TimeoutError:
                break

    def _read_elsewhere(self) -> None:
        """The API responds again, so the pause after the last failure is over."""
        if self._not_before > -math.inf:
            self._not_before = -math.inf
            self._wake.set()

    # when ----------------------------------------------------------------------------------------------------------

    def _due(self) -> float:
        """When the next poll should begin: at the earliest time that a subscription wants, but not too close to the
        last one.
        """
        due = math.inf
        youngest = next((one for one in reversed(self._subscriptions.values()) if one.every is None), None)
        if youngest is not None:  # of those that go by age, the youngest wants a poll first
            age = max(0.0, self._began - youngest.joined)
            due = self._began + self._schedule.interval(age, lambda: self._jitter)
        for one in self._by_item.get(None, ()):
            if one.every is not None:  # one that no poll has reached yet does not wait
                due = min(due, self._began + (one.every if one.number <= self._youngest else 0.0))
        floor = self._began + self._schedule.floor
        due = max(due, floor, self._not_before)
        final_poll = max(floor, self._final_poll_at())
        if self._polled_during_pause:  # only one request is made during the pause of a rate limit
            final_poll = max(final_poll, self._not_before)
        # a poll right before the final one would leave no room for it
        return final_poll if final_poll - self._schedule.floor < due else due

    def _final_poll_at(self) -> float:
        """When the last poll before the next deadline should begin, so that it ends in time."""
        lead = 2 * self._took + self._schedule.floor / 10
        while self._deadlines:
            deadline, number = self._deadlines[0]
            if number in self._subscriptions:
                return deadline - lead if self._began < deadline - lead else math.inf
            heapq.heappop(self._deadlines)
        return math.inf

    def _remember_deadline(self, deadline: float, number: int) -> None:
        heapq.heappush(self._deadlines, (deadline, number))
        if self._timer is not None and deadline < self._timer.when():
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._expire, context=self._context)

    def _expire(self) -> None:
        """End the subscriptions whose deadline has passed, even while a request hangs."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._timer = None
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][1] not in self._subscriptions):
            deadline, number = heapq.heappop(self._deadlines)
            one = self._subscriptions.get(number)
            if one is None:
                continue
            if now - deadline > self._schedule.floor and self._began < deadline:
                # the process was suspended past the deadline, so it gets one more poll
                one.deadline = now + self._schedule.floor + 2 * min(self._took, self._schedule.cap)
                heapq.heappush(self._deadlines, (one.deadline, number))
                self._not_before = -math.inf
                continue
            one.expire()
            self.drop(one)
        if self._deadlines:
            self._timer = loop.call_at(self._deadlines[0][0], self._expire, context=self._context)
            self._wake.set()  # the next deadline has its own final poll

    # what ----------------------------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        loop = asyncio.get_running_loop()
        # subscriptions that join from now on do not trust this poll (two clock readings could be equal, numbers cannot)
        youngest = self._youngest = next(reversed(self._subscriptions), 0)
        self._began = began = loop.time()
        self._polled_during_pause = self._rate_limited and began < self._not_before
        self._jitter = random.random()  # noqa: S311 - no secret
        outcome = await self.store.poll()
        received = loop.time()
        self._took = received - began
        if isinstance(outcome, FailedAttempt):
            work = self._failed(outcome, youngest, received)
        else:
            self._succeeded(outcome, received)
            work = self._notify(outcome, youngest, began, received)
        for _ in work:
            await asyncio.sleep(0)
        if self._subscriptions:
            await asyncio.sleep(0)  # its caller may wait again before the next poll is scheduled

    def _succeeded(self, snapshot: Snapshot[M], now: float) -> None:
        self._good_polls += 1
        self._failures, self.last_error, self._not_before = 0, None, -math.inf
        self._refused = self._rate_limited = False
        if self._outage and self._failing_since is not None:
            LOG.warning("%s succeeds again after %.0f s", self.store.operation, now - self._failing_since)
            self._notify_of_outage(None, None)
        self._outage, self._failing_since = False, None
        noun = snapshot.items.model.__name__.lower()
        new = snapshot.unreadable.keys() - self._unreadable
        for item_id in itertools.islice(sorted(new, key=lambda one: (one is None, one)), _LOGGED):
            text = snapshot.unreadable[item_id].message
            if item_id is None:
                LOG.warning(
                    "a row of %s has no readable id: until it has, nothing counts as absent (%s)", self.store.name, text
                )
            else:
                LOG.warning("%s %d can't be read, and its waits are undecided: %s", noun, item_id, text)
        if len(new) > _LOGGED:
            LOG.warning("%d more rows of %s can't be read", len(new) - _LOGGED, self.store.name)
        self._unreadable = frozenset(snapshot.unreadable)

    def _notify(self, snapshot: Snapshot[M], youngest: int, began: float, received: float) -> SlicedWork[None]:
        audience = {**self._every_poll, **{one.number: one for one in self._by_item.get(None, ())}}
        for item_id in self._by_item.keys() & snapshot.changed_since(self._notified):
            audience |= {one.number: one for one in self._by_item[item_id]}
        self._notified = snapshot
        for count, one in enumerate(self._present(audience, youngest), 1):
            self._every_poll.pop(one.number, None)
            try:
                wants_next = one.observe(snapshot, began, received)
            except BaseException as error:  # noqa: BLE001 - of the caller's function: its own wait fails, no other
                one.fail(error)
                wants_next = False
            if one.ended:
                self.drop(one)
            elif wants_next:
                self._every_poll[one.number] = one
            if count % _NOTIFIED_IN_A_ROW == 0:
                yield

    def _failed(self, attempt: FailedAttempt, youngest: int, now: float) -> SlicedWork[None]:
        error = attempt.error
        error.operation, error.attempts, error.seconds = self.store.operation, 1, self._took
        self.last_error = error
        self._failures += 1
        if self._failing_since is None:
            self._failing_since = self._began
        pause = RetryPolicy(max_delay=self._schedule.cap).backoff(self._failures)
        limit = self._schedule.cap
        if attempt.failure is Failure.RATE_LIMITED:
            limit = MAX_RETRY_AFTER
            self._rate_limited = True
            self.store.transport.rate_limited(attempt.retry_after)
        if attempt.retry_after is not None:
            pause = max(pause, min(attempt.retry_after, limit))
        self._not_before = max(self._not_before, now + pause)
        LOG.info("%s; the next one is due in %.1f s", error, self._not_before - now)
        lasted = now - self._failing_since
        if not self._outage and (self._failures >= _OUTAGE_FAILURES or lasted >= self._schedule.cap):
            self._outage = True
            LOG.warning("%s has failed for %.0f s: %s", self.store.operation, lasted, error.message)
            self._notify_of_outage(self._failing_since, error)
        refused = isinstance(error, self.refusals)
        if refused and self._refused:
            yield from self._fail_all(error, youngest)
            refused = False
        self._refused = refused

    def _notify_of_outage(self, since: float | None, error: TrooperError | None) -> None:
        for one in self._by_item.get(None, ()):
            one.outage(since, error)

    def _fail_all(self, error: BaseException, youngest: float = math.inf) -> SlicedWork[None]:
        for count, one in enumerate(self._present(self._subscriptions.copy(), youngest), 1):
            one.fail(copy(error))
            self.drop(one)
            if count % _NOTIFIED_IN_A_ROW == 0:
                yield

    def _present(self, audience: dict[int, Subscription[M]], youngest: float) -> Iterator[Subscription[M]]:
        """Those of `audience` that had joined in time and still exist."""
        return (one for number, one in audience.items() if number <= youngest and number in self._subscriptions)
