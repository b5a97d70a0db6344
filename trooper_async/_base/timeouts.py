"""`asyncio.timeout` and `asyncio.timeout_at`, for Python releases in which they are broken, too.

Python 3.11.0 to 3.11.2 (Debian 12 has 3.11.2) raise CancelledError instead of TimeoutError in a task that was cancelled
before and continued, for example to clean up (https://github.com/python/cpython/issues/102780).
"""

from __future__ import annotations

import asyncio
import sys
from types import TracebackType
from typing import Self

BROKEN = sys.version_info < (3, 11, 3)


class Timeout:
    """Python's own timeout, except that it counts only the cancellations of the task since it began."""

    def __init__(self, when: float | None) -> None:
        self._timeout = asyncio.timeout_at(when)

    def expired(self) -> bool:
        """Whether the deadline passed while the block ran."""
        return self._timeout.expired()

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._cancellations_before = cancellations()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._timeout.__aexit__(kind, error, traceback)
        if self.expired() and kind is asyncio.CancelledError and cancellations() <= self._cancellations_before:
            raise TimeoutError from error


def timeout(delay: float | None) -> Timeout | asyncio.Timeout:
    """Raise TimeoutError in a block after `delay` seconds; None is no limit."""
    return timeout_at(None if delay is None else asyncio.get_running_loop().time() + delay)


def timeout_at(when: float | None) -> Timeout | asyncio.Timeout:
    """Raise TimeoutError in a block at a time of the loop's clock; None is no limit."""
    return Timeout(when) if BROKEN else asyncio.timeout_at(when)


def cancellations() -> int:
    """How many cancellations of the current task were requested and not withdrawn."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
