"""A check of the caller's, made right before each attempt of a request that must not be sent twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Check = Callable[[], Awaitable[object]]

_check: ContextVar[Check | None] = ContextVar("trooper_async.check_before_sending", default=None)


@contextmanager
def check_before_sending(check: Callable[[], Awaitable[object]]) -> Iterator[None]:
    """Await `check` right before each attempt of a call that must not be sent twice.

    These calls are purchases, restarts, starts with `migration_allowed`, and installs of templates. A rate limit or a
    failing connection may delay an attempt for minutes. `check` runs after that, so it can still find out that a lock
    was lost or that the process is being stopped. It applies to the calls inside the `with` block, and to tasks that
    are started there.

    Args:
        check: a coroutine function without arguments. If it raises, that attempt is not sent, and its exception is
            raised by the call.

    Returns:
        A context manager.
    """
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


async def make_check() -> None:
    """Await the caller's check, if there is one."""
    if (check := _check.get()) is not None:
        await check()
