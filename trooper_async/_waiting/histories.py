"""Reads the status histories that prove restarts: a few at a time, and none for a wait that has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from trooper_async._api.endpoints import STATUS_HISTORY, Call
from trooper_async._http.retry import ONE_ATTEMPT
from trooper_async._http.transport import Transport
from trooper_async.errors import APIConnectionError, APIStatusError, ResponseFormatError, TrooperError
from trooper_async.models import StatusChange

_AT_ONCE = 4

OnRead: TypeAlias = Callable[[list[StatusChange] | TrooperError, float], None]
"""Takes a history, or why it cannot be read, and the time of the response by the loop's clock."""


class Histories:
    """The history reads of one client."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._reading: dict[OnRead, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def ask(self, order_id: int, on_read: OnRead) -> None:
        """Read an order's history when its turn comes, unless that was requested for `on_read` already."""
        if on_read not in self._reading:
            self._reading[on_read] = asyncio.create_task(self._read(order_id, on_read), name="trooper history")

    def forget(self, on_read: OnRead) -> None:
        """Nobody needs it any more: cut the request."""
        task = self._reading.pop(on_read, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def settle(self) -> None:
        """Wait for the requests that were cut."""
        if self._ending:
            await asyncio.wait(self._ending)

    async def _read(self, order_id: int, on_read: OnRead) -> None:
        history = Call(STATUS_HISTORY, "orders.history", f"order {order_id}", {"order_id": order_id})
        read: list[StatusChange] | TrooperError
        async with self._places:
            try:
                read = await self._transport.request(history, retry=ONE_ATTEMPT)
            except (APIConnectionError, APIStatusError, ResponseFormatError) as error:
                read = error
        if self._reading.pop(on_read, None) is not None:  # it was not forgotten meanwhile
            on_read(read, asyncio.get_running_loop().time())
