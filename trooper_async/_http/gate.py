"""The gate that every request but the poll's passes: at most so many at once, and one pace for all after a 429.

Closed by a 429 until its pause is over; then one request at a time, one more at once for every ten successes, until all
may pass again. (Opened wide at once, the waiting requests only meet the next 429.) Between two requests there is a gap
that each 429 widens and successes narrow: under an API that allows a steady rate it settles where few meet a 429.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict

_SUCCESSES_PER_PLACE = 10
_FIRST_GAP, _WIDER, _NARROWER, _LONGEST_GAP = 0.05, 1.25, 0.96, 10.0
"""Seconds and factors of the gap between two requests: it settles where few requests meet a 429."""


class Gate:
    """First come, first served. Nobody holds a place while waiting."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._allowed = places
        self._inside = 0
        self._successes = 0
        self.opens_at = 0.0
        """When the pause of the last 429 is over, by the loop's clock."""
        self.refusals = 0
        """How many 429s there were in a row, those of requests that were under way together counted once."""
        self._gap = 0.0
        self._next_at = 0.0
        self._waiting: OrderedDict[asyncio.Future[bool], None] = OrderedDict()
        self._opening: asyncio.TimerHandle | None = None

    @property
    def paced(self) -> bool:
        """Whether a 429 still slows the requests."""
        return self._allowed < self._places or self.opens_at > asyncio.get_running_loop().time()

    async def enter(self, deadline: float) -> bool:
        """Take a place, to be given back with `leave`. False, and no place: `deadline` passed at a paced gate.

        Waiting for others to finish, without a 429 in play, has no deadline: that is only concurrency.
        """
        loop = asyncio.get_running_loop()
        if not self._waiting and self._has_place(loop.time()):
            self._let_one_in()
            return True
        if self.paced and max(loop.time(), self.opens_at) >= deadline:
            return False
        place: asyncio.Future[bool] = loop.create_future()
        self._waiting[place] = None
        self._let_in()
        expiry = None if deadline == math.inf else loop.call_at(deadline, self._expire, place)
        try:
            return await place
        except asyncio.CancelledError:
            if not place.cancelled() and place.result():
                self.leave()  # let in and cancelled in the same moment
            raise
        finally:
            if expiry is not None:
                expiry.cancel()
            self._waiting.pop(place, None)
            if not self._waiting and self._opening is not None:
                self._opening.cancel()
                self._opening = None

    def leave(self) -> None:
        """Give the place back."""
        self._inside -= 1
        self._let_in()

    def succeeded(self) -> None:
        """A call succeeded."""
        self.refusals = 0
        if self._allowed < self._places or self._gap:
            self._successes += 1
            self._allowed = min(self._places, 1 + self._successes // _SUCCESSES_PER_PLACE)
            self._gap *= _NARROWER
            if self._allowed == self._places and (self._places > 1 or self._gap < _FIRST_GAP):
                self._gap = 0.0
            self._let_in()

    def close(self, seconds: float) -> None:
        """A 429 came: let nobody in for so long, then one by one."""
        now = asyncio.get_running_loop().time()
        if now >= self.opens_at:
            self.refusals += 1
            self._gap = min(_LONGEST_GAP, max(_FIRST_GAP, self._gap * _WIDER))
        self._allowed = 1
        self._successes = 0
        self.opens_at = max(self.opens_at, now + seconds)

    def turn_away(self) -> None:
        """End all waiting: every `enter` under way returns False."""
        while self._waiting:
            place, _ = self._waiting.popitem(last=False)
            if not place.done():
                place.set_result(False)

    def _has_place(self, now: float) -> bool:
        return self._inside < self._allowed and now >= max(self.opens_at, self._next_at)

    def _let_one_in(self) -> None:
        self._inside += 1
        self._next_at = asyncio.get_running_loop().time() + self._gap

    def _let_in(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and self._has_place(loop.time()):
            place, _ = self._waiting.popitem(last=False)
            if not place.done():
                self._let_one_in()
                place.set_result(True)
        opens = max(self.opens_at, self._next_at)
        if self._waiting and self._opening is None and opens > loop.time():
            self._opening = loop.call_at(opens, self._open)

    def _open(self) -> None:
        self._opening = None
        self._let_in()

    def _expire(self, place: asyncio.Future[bool]) -> None:
        if self.paced and not place.done():
            place.set_result(False)
