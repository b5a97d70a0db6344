"""Reads the status histories that prove restarts: a few at a time, and none for a wait that has ended."""

from __future__ import annotations

import asyncio
from typing import Protocol

from trooper_async._api.endpoints import STATUS_HISTORY, Call
from trooper_async._http.retry import ONE_ATTEMPT
from trooper_async._http.transport import Transport
from trooper_async.errors import APIConnectionError, APIStatusError, ResponseFormatError, TrooperError
from trooper_async.models import StatusChange

_AT_ONCE = 4


class Reader(Protocol):
    """A wait for a restart."""

    other_error: TrooperError | None

    @property
    def order_id(self) -> int: ...

    def take_history(self, rows: list[StatusChange] | None, at: float) -> None: ...


class Histories:
    """The history reads of one client."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._waiting: dict[Reader, None] = {}
        self._reading: dict[Reader, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def ask(self, wait: Reader) -> None:
        """Read the history of the wait's order when its turn comes."""
        if wait not in self._reading:
            self._waiting[wait] = None
            self._next()

    def forget(self, wait: Reader) -> None:
        """The wait has ended: cut its request."""
        self._waiting.pop(wait, None)
        task = self._reading.pop(wait, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            self._next()

    async def settle(self) -> None:
        """Wait for the requests that were cut."""
        if self._ending:
            await asyncio.wait(self._ending)

    def _next(self) -> None:
        while self._waiting and len(self._reading) < _AT_ONCE:
            wait = next(iter(self._waiting))
            del self._waiting[wait]
            self._reading[wait] = asyncio.create_task(self._read(wait), name="trooper history")

    async def _read(self, wait: Reader) -> None:
        history = Call(STATUS_HISTORY, "orders.history", f"order {wait.order_id}", {"order_id": wait.order_id})
        rows = None
        try:
            rows = await self._transport.request(history, retry=ONE_ATTEMPT)
        except (APIConnectionError, APIStatusError, ResponseFormatError) as error:
            wait.other_error = error
        if self._reading.pop(wait, None) is not None:  # it was not forgotten meanwhile
            wait.take_history(rows, asyncio.get_running_loop().time())
            self._next()
