"""`TrooperClient`: configuration and wiring only."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from decimal import Decimal  # noqa: F401 - the annotation of JSON names it
from types import TracebackType
from typing import NoReturn, Self

import aiohttp
from yarl import URL

from trooper_async._api import arguments
from trooper_async._api.endpoints import TEST, Call, Endpoint, Repeatability
from trooper_async._api.responses import Response
from trooper_async._api.unlisted import call_of
from trooper_async._base import converter
from trooper_async._base.cancellation import finished
from trooper_async._base.version import __version__
from trooper_async._buying.journal import Journal
from trooper_async._buying.purchases import Purchases
from trooper_async._fleet.fleet import Fleet
from trooper_async._groups.actions import Actions
from trooper_async._groups.blibs import Blibs
from trooper_async._groups.lookup import Lookup
from trooper_async._groups.migrations import Migrations
from trooper_async._groups.orders import Orders
from trooper_async._groups.templates import Templates
from trooper_async._http.keys import ApiKey, keys_of, problem_of_key
from trooper_async._http.retry import ONE_ATTEMPT, RetryPolicy
from trooper_async._http.transport import Transport
from trooper_async._http.urls import problem_of_proxy, problem_of_url
from trooper_async._http.wire import Wire
from trooper_async._waiting.schedule import PollSchedule
from trooper_async._waiting.waits import Waits
from trooper_async.errors import ConfigurationError, TrooperError
from trooper_async.models import JSON

_BASE_URL = "https://james.trooper.ai"


class TrooperClient:
    """A client of the Trooper.AI API.

        async with TrooperClient() as trooper:
            order = await trooper.orders.start_and_wait(123)

    Use it with `async with`, on one event loop and in the process that made it. All its calls share one limit of
    concurrent requests, one rate limit and one poll. Nothing is logged until your application configures the logger
    `trooper_async`.

    Args:
        api_key: The API key, or a function without arguments that returns it, plain or `async`. The function is called
            for the first request, and again after a 401: if it returns a new key, the request is sent again. Default:
            `$TROOPER_API_KEY`. Without a key, only the public endpoints can be used.
        base_url: The URL of the API. Default: `$TROOPER_BASE_URL`, else https://james.trooper.ai. It must be https,
            except on this machine.
        session: Your own session. It is used for all requests and never closed. Its proxies, cookies, traces and TLS
            settings apply; its middlewares do not.
        timeout: Seconds to wait for the response to one request. Connecting may take up to 10 s more. For a request
            that must not be repeated, it is at least 180 s.
        retry: What is retried, how often and for how long.
        poll: How often waits poll.
        max_concurrency: Requests in flight at once; polls are not counted.
        max_body_bytes: The largest response that is accepted, compressed and uncompressed.
        proxy: The URL of an HTTP proxy. The proxies of the environment are not used.
        app: The name of your application, which is put in front of the User-Agent.
        ledger: A file that records purchases durably: each before it is sent, and its outcome. It is locked until
            `close`, which needs POSIX file locks; after a fork, create a client in each process. Without a ledger,
            purchases are recorded only in memory.

    Raises:
        ConfigurationError: An argument is invalid.
    """

    def __init__(
        self,
        api_key: ApiKey | None = None,
        *,
        base_url: str | URL | None = None,
        session: aiohttp.ClientSession | None = None,
        timeout: float = 30.0,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        poll: PollSchedule = PollSchedule(),  # noqa: B008 - frozen
        max_concurrency: int = 16,
        max_body_bytes: int = 64 * 2**20,
        proxy: str | None = None,
        app: str | None = None,
        ledger: str | os.PathLike[str] | None = None,
    ) -> None:
        api_key = (os.environ.get("TROOPER_API_KEY") or None) if api_key is None else api_key
        url = str(base_url) if isinstance(base_url, URL) else base_url
        url = url or os.environ.get("TROOPER_BASE_URL") or _BASE_URL
        of_key = None if api_key is None or callable(api_key) else problem_of_key(api_key)
        keys = keys_of(None if of_key else api_key)
        proxies, of_urls = _user_of(proxy), problem_of_url(url) or problem_of_proxy(proxy, url)
        with_proxy = proxy is not None
        # what is raised from here on may be printed with the locals of this frame
        del api_key, proxy
        if of_key is not None or of_urls is not None:
            del base_url, url
            raise ConfigurationError(of_key or of_urls or "")
        for name, given, kind in (("retry", retry, RetryPolicy), ("poll", poll, PollSchedule)):
            if not isinstance(given, kind):
                raise ConfigurationError(f"{name} must be a {kind.__name__}")
        if session is not None and not isinstance(session, aiohttp.ClientSession):
            raise ConfigurationError("session must be an aiohttp.ClientSession")
        arguments.check_seconds(timeout)
        if timeout is None or not math.isfinite(timeout):
            raise ConfigurationError(
                "timeout must be a number of seconds above 0: without one, a request could hang forever"
            )
        for name, value in (("max_concurrency", max_concurrency), ("max_body_bytes", max_body_bytes)):
            if type(value) is not int or value < 1:
                raise ConfigurationError(f"{name} must be a whole number above 0")
        if session is not None and session.auth is not None:
            raise ConfigurationError("a session with `auth` can't be used: its header would replace the API key")
        if session is not None and with_proxy:
            raise ConfigurationError("with your own session, set the proxy there")
        wire = Wire(
            base_url=url.rstrip("/"),
            keys=keys,
            session=session,
            timeout=timeout,
            max_body_bytes=max_body_bytes,
            proxy=proxies,
            user_agent=_user_agent(app),
        )
        converter.prepare()
        self._transport = Transport(wire, retry=retry, max_concurrency=max_concurrency)
        self._closing: asyncio.Task[None] | None = None
        self._waits = Waits(self._transport, poll)
        self._purchases = Purchases(self._transport, Journal(ledger), self._waits)
        lookup = Lookup(self._waits.orders.store)
        actions = Actions(self._transport, lookup, self._waits)
        self._blibs = Blibs(self._transport, self._waits.offers)
        self._orders = Orders(self._transport, lookup, actions, self._waits, self._purchases)
        self._fleet = Fleet(lookup, actions, self._waits)
        self._migrations = Migrations(self._transport, self._purchases)
        self._templates = Templates(self._transport, self._waits)

    @property
    def blibs(self) -> Blibs:
        """Offers: the GPU server configurations that can be ordered (the API calls them blibs)."""
        return self._blibs

    @property
    def orders(self) -> Orders:
        """Orders, which are your rented servers: list, create, start, stop, restart, freeze and wait for them."""
        return self._orders

    @property
    def fleet(self) -> Fleet:
        """Start, stop, restart or freeze many servers at once; each call returns a report of every order."""
        return self._fleet

    @property
    def migrations(self) -> Migrations:
        """Migrations of an order to another server configuration: options, quotes, purchases."""
        return self._migrations

    @property
    def templates(self) -> Templates:
        """Software templates, and their installation on servers."""
        return self._templates

    async def ping(self) -> str:
        """The text of the API's test endpoint (GET /api/test).

        Returns:
            The text.

        Raises:
            APIConnectionError, APIStatusError, ResponseFormatError: the request failed, or its response cannot be read.
        """
        return await self._transport.request(Call(TEST, "ping"))

    async def call(self, method: str, path: str, *, json: Mapping[str, JSON] | None = None) -> JSON:
        """Call an endpoint that this package does not know, with the same key, rate limit and errors as the others.

        It is sent once, since the package cannot know whether it is safe to repeat. After a 429 it is retried.

        Args:
            method: GET, POST, PUT, PATCH or DELETE.
            path: the path, with a query if there is one (`/api/orders?limit=5`).
            json: the fields of the body; a GET has none.

        Returns:
            The JSON of the response.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
            OutcomeUnknownError: the request was sent, but its response was lost (never for a GET).
            APIConnectionError, APIStatusError, ResponseFormatError: the request failed and changed nothing, or it was a
                GET.
        """
        request = call_of(method, path, json)
        return await self._transport.request(request, retry=ONE_ATTEMPT if method == "GET" else None)

    async def close(self) -> None:
        """End all waits with `ClientClosedError`, wait for purchases in flight, and close the client's own sessions.

        If the caller is cancelled meanwhile, even repeatedly, closing still runs to its end; then the cancellation is
        raised. Closing a client twice, or in a forked process, does nothing.
        """
        if self._transport.inherited:
            return
        self._transport.stop()
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="trooper close")
        await finished(self._closing)

    async def _close(self) -> None:
        async with AsyncExitStack() as stack:  # each of them, whatever comes of the one before
            stack.push_async_callback(self._transport.close)
            stack.push_async_callback(self._purchases.close)
            await self._waits.close()

    async def __aenter__(self) -> Self:
        self._transport.bind()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a TrooperClient holds an API key, and can't be pickled or copied")


async def raw_request(
    client: TrooperClient,
    method: str,
    path: str,
    sent: Mapping[str, JSON],
    *,
    headers: Mapping[str, str] | None = None,
) -> Response | TrooperError:
    """One response as it comes, whatever its status, or why none came: how `trooper doctor` sees the API.

    The request is sent once, passes no rate limit, and its response is not interpreted.
    """
    kind = Repeatability.READ if method == "GET" else Repeatability.ONCE
    endpoint = Endpoint(method, path, kind, lambda data, sent: data, public=True)
    reading = Call(endpoint, "doctor", sent=sent)
    transport = client._transport
    transport.check(reading)
    reply = await transport.wire.send(reading, headers=headers)
    return reply if isinstance(reply, Response) else reply.error


def _user_of(proxy: str | None) -> Callable[[], str | None]:
    """It may hold a password: in no attribute."""
    return lambda: proxy


def _user_agent(app: str | None) -> str:
    if app is not None and (not isinstance(app, str) or not app.isprintable() or not app.isascii()):
        raise ConfigurationError("app must be printable ASCII")
    ours = f"trooper-async/{__version__} aiohttp/{aiohttp.__version__}"
    return f"{app} {ours}" if app else ours
