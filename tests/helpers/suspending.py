"""Cancelling a coroutine at any of its awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any


class Suspending:
    """Awaits a coroutine, and cancels its own task at the `nth` suspension."""

    def __init__(self, awaitable: Awaitable[Any], nth: int) -> None:
        self._awaitable = awaitable
        self._nth = nth
        self.suspensions = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._awaitable.__await__()
        task = asyncio.current_task()
        assert task is not None
        sent: BaseException | None = None
        while True:
            try:
                waited_for = next(steps) if sent is None else steps.throw(sent)
            except StopIteration as stop:
                return stop.value
            self.suspensions += 1
            if self.suspensions == self._nth:
                asyncio.get_running_loop().call_soon(task.cancel)
            sent = None
            try:
                yield waited_for
            except BaseException as error:  # noqa: BLE001 - handed on to the coroutine
                sent = error
