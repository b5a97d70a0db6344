"""The gate that every request except the poll's passes: it limits how many are in flight, and slows them after a 429.

A 429 closes the gate until its pause is over. Then one request passes at a time, and the limit rises by one for every
ten that succeed, until it is at its maximum again. (If the gate opened wide at once, the waiting requests would only
meet the next 429.) After a 429 there is also a gap between two requests. Each further 429 widens it and successes
narrow it, so that with an API that allows a steady rate it settles where few requests meet a 429.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict

_SUCCESSES_PER_PLACE = 10
_FIRST_GAP, _WIDER, _NARROWER, _LONGEST_GAP = 0.05, 1.25, 0.96, 10.0
"""Seconds and factors of the gap between two requests: it settles where few requests meet a 429."""


class Gate:
    """First come, first served, except that calls that met a 429 go first. No call holds a place while it waits.

    The clock is read once for each decision: two readings may differ by as little as the clock's resolution, and a
    decision that used both could find the gate closed by the one and open by the other.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._allowed = places
        self._inside = 0
        self._successes = 0
        self._succeeded_at = -math.inf
        self.opens_at = 0.0
        """When the pause of the last 429 is over, by the loop's clock."""
        self.refusals = 0
        """How many 429s came in a row; those of requests that were in flight together count once."""
        self._gap = 0.0
        self._next_at = 0.0
        self._returned: OrderedDict[asyncio.Future[bool], None] = OrderedDict()
        self._waiting: OrderedDict[asyncio.Future[bool], None] = OrderedDict()
        self._opening: asyncio.TimerHandle | None = None

    def is_rate_limited(self, now: float) -> bool:
        """Whether requests are still slowed by a 429."""
        return self._allowed < self._places or self.opens_at > now

    async def enter(self, patience: float, *, until: float = math.inf, again: bool = False) -> bool:
        """Take a place, to be given back with `leave`.

        Waiting for other calls to finish has no limit but `until`.

        Args:
            patience: seconds that the pause after a 429 may last. At a rate limited gate, the call also gives up when
                no request has got through for twice as long.
            until: when to give up in any case, by the loop's clock.
            again: whether this is not the call's first attempt; then it goes first.

        Returns:
            True for a place. False if the patience or the time is over, or if the gate opens too late for them.
        """
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        if arrived < until and not self._waiting and not self._returned and self._has_place(arrived):
            self._let_one_in(arrived)
            return True
        opens_at = max(arrived, self.opens_at)
        if opens_at >= until or (self.is_rate_limited(arrived) and opens_at >= arrived + patience):
            return False
        place: asyncio.Future[bool] = loop.create_future()
        queue = self._returned if again else self._waiting
        queue[place] = None
        now = arrived
        self._let_in(now)
        try:
            while not place.done() and now < (gives_up_at := self._gives_up_at(arrived, patience, until, now)):
                await asyncio.wait([place], timeout=None if gives_up_at == math.inf else gives_up_at - now)
                now = loop.time()
            return place.done() and place.result()
        except asyncio.CancelledError:
            if place.done() and place.result():
                self.leave()  # it was let in and cancelled at the same moment
            raise
        finally:
            queue.pop(place, None)
            if not self._waiting and not self._returned and self._opening is not None:
                self._opening.cancel()
                self._opening = None

    def leave(self) -> None:
        """Give the place back."""
        self._inside -= 1
        if self._waiting or self._returned:
            self._let_in(asyncio.get_running_loop().time())

    def got_through(self) -> None:
        """A request got a response other than a 429."""
        now = asyncio.get_running_loop().time()
        self._succeeded_at = now
        self.refusals = 0
        if self._allowed < self._places or self._gap:
            self._successes += 1
            self._allowed = min(self._places, 1 + self._successes // _SUCCESSES_PER_PLACE)
            self._gap *= _NARROWER
            if self._allowed == self._places and (self._places > 1 or self._gap < _FIRST_GAP):
                self._gap = 0.0
            self._let_in(now)

    def close(self, seconds: float) -> None:
        """After a 429: let no call in for so many seconds, then one at a time."""
        now = asyncio.get_running_loop().time()
        if now >= self.opens_at:
            self.refusals += 1
            self._gap = min(_LONGEST_GAP, max(_FIRST_GAP, self._gap * _WIDER))
        self._allowed = 1
        self._successes = 0
        self.opens_at = max(self.opens_at, now + seconds)

    def turn_away(self) -> None:
        """End all waiting: every `enter` in progress returns False."""
        for queue in (self._returned, self._waiting):
            while queue:
                place, _ = queue.popitem(last=False)
                if not place.done():
                    place.set_result(False)

    def _gives_up_at(self, arrived: float, patience: float, until: float, now: float) -> float:
        """When a waiting call gives up or looks again. Calls lose patience only at a rate limited gate."""
        if self.is_rate_limited(now):
            return min(until, max(arrived, self._succeeded_at) + 2 * patience)
        return min(until, now + max(patience, 1.0))

    def _has_place(self, now: float) -> bool:
        return self._inside < self._allowed and now >= max(self.opens_at, self._next_at)

    def _let_one_in(self, now: float) -> None:
        self._inside += 1
        self._next_at = now + self._gap

    def _let_in(self, now: float) -> None:
        """Let in as many as there are places for, and schedule the opening for the next one."""
        while (self._returned or self._waiting) and self._has_place(now):
            place, _ = (self._returned or self._waiting).popitem(last=False)
            if not place.done():
                self._let_one_in(now)
                place.set_result(True)
        opens = max(self.opens_at, self._next_at)
        if (self._returned or self._waiting) and self._opening is None and opens > now:
            self._opening = asyncio.get_running_loop().call_at(opens, self._open)

    def _open(self) -> None:
        self._opening = None
        self._let_in(asyncio.get_running_loop().time())
