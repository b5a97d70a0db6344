"""Offers: the GPU server configurations that can be ordered."""

from __future__ import annotations

import builtins

from trooper_async._api import arguments
from trooper_async._api.endpoints import BLIBS, BLIBS_PRIVATE, call
from trooper_async._http.retry import ONE_ATTEMPT
from trooper_async._http.transport import Transport
from trooper_async._waiting.waits import Waiters
from trooper_async.models import Blib


class Blibs:
    """`client.blibs`."""

    def __init__(self, transport: Transport, waiters: Waiters) -> None:
        self._transport = transport
        self._waiters = waiters

    async def list(self) -> builtins.list[Blib]:
        """The offers open to everybody, and with a key those of your private networks too (GET /api/blibs).

        Raises:
            APIConnectionError, APIStatusError, ResponseFormatError: as every read does.
        """
        return await self._transport.request(call(BLIBS, "blibs.list"))

    async def list_private(self) -> builtins.list[Blib]:
        """The offers open to your account, private ones included (GET /api/blibs-private).

        Raises:
            APIConnectionError, APIStatusError, ResponseFormatError: as every read does.
        """
        return await self._transport.request(call(BLIBS_PRIVATE, "blibs.list_private"))

    async def wait_until_available(self, blib: Blib | int, *, timeout: float | None = None) -> Blib:
        """Wait until an offer can be ordered, and return it as it is then (GET /api/blibs).

        Args:
            blib: the offer, or its id.
            timeout: seconds; None waits for ever.

        Raises:
            WaitTimeoutError: it was not available in time.
            AuthenticationError, PermissionDeniedError: the key is refused, twice in a row.
        """
        blib_id = arguments.blib_id(blib)

        async def available() -> Blib | None:
            offers = await self._transport.request(call(BLIBS, "blibs.list"), retry=ONE_ATTEMPT)
            return next((offer for offer in offers if offer.id == blib_id and offer.is_available), None)

        return await self._waiters.unlisted(
            available,
            operation="blibs.wait_until_available",
            subject=f"blib {blib_id}",
            target="available",
            timeout=timeout,
        )
