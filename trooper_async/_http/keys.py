"""The API key: a function that puts it in requests, and one that removes it from texts. It is only in their closures;
`wire.stripped` keeps it out of tracebacks.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeAlias

import aiohttp
from aiohttp import hdrs

from trooper_async._base import timeouts
from trooper_async._http.sessions import NEVER_SENT, CutError
from trooper_async.errors import ConfigurationError

ApiKey: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""The key, or a function that returns it and is called again after a 401."""

_OLD_KEYS = 4
"""How many replaced keys are still removed from texts."""


class KeyState(NamedTuple):
    """How often the key's function was called, and the number of the key in use."""

    calls: int
    key: int


class Keys(NamedTuple):
    """The functions that use the key."""

    authorize: aiohttp.ClientMiddlewareType
    """Puts the key in a request; a middleware of aiohttp."""
    redact: Callable[[str], str]
    """Removes the key from a text."""
    has_key: bool
    renew: Callable[[KeyState | None], Awaitable[KeyState]] | None
    """Calls the key's function, if there is one, unless that was done since; with None, unless it was done at all."""


def keys_of(api_key: ApiKey | None) -> Keys:
    """Make the functions that use the key. It is in no attribute."""
    given = None if callable(api_key) else api_key
    known = deque([given] if given else [], _OLD_KEYS)  # the last one is used
    function = api_key if callable(api_key) else None
    state = KeyState(0, 0)
    lock = asyncio.Lock()

    async def authorize(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        # Runs for each request that is sent, also for those that aiohttp repeats on its own.
        if known:
            request.headers[hdrs.AUTHORIZATION] = f"Bearer {known[-1]}"
        cancellations_before = timeouts.cancellations() if timeouts.BROKEN else 0
        try:
            return await handler(request)
        except NEVER_SENT:
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            raise CutError from error
        except asyncio.CancelledError as error:
            # nobody cancelled it: this is aiohttp's own limit for connecting
            if timeouts.BROKEN and timeouts.cancellations() <= cancellations_before:
                raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {request.url}") from error
            raise

    def redact(text: str) -> str:
        for key in known:
            text = text.replace(key, "[api key]")
        return text

    async def renew(since: KeyState | None) -> KeyState:
        nonlocal state
        calls = 0 if since is None else since.calls
        if state.calls > calls:
            return state
        async with lock:
            if state.calls == calls:
                assert function is not None  # noqa: S101 - else this is not handed out
                key = function()
                key = await key if inspect.isawaitable(key) else key
                if (problem := problem_of_key(key)) is not None:
                    del key
                    raise ConfigurationError(problem)
                is_new = not known or known[-1] != key
                if is_new:
                    known.append(key)
                state = KeyState(calls + 1, state.key + is_new)
        return state

    return Keys(authorize, redact, api_key is not None, None if function is None else renew)


def problem_of_key(key: object) -> str | None:
    """What is wrong with an API key, without the key itself."""
    if isinstance(key, bytes | bytearray):
        return "the API key must be a str, not bytes: decode it"
    if hasattr(key, "get_secret_value"):
        return f"the API key must be a str, not {type(key).__name__}: pass its get_secret_value()"
    if not isinstance(key, str):
        return f"the API key must be a str, not {type(key).__name__}"
    if not key.strip():
        return "the API key is empty"
    if key[:7].casefold() == "bearer ":
        return "pass the API key alone, without `Bearer` in front of it"
    if not all("!" <= c <= "~" for c in key):
        return "the API key must be printable ASCII without spaces or line ends"
    return None
