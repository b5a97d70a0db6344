"""Offers: the GPU server configurations that can be ordered."""

from __future__ import annotations

import builtins
from decimal import Decimal

from trooper_async._api import arguments
from trooper_async._api.endpoints import BLIBS, BLIBS_PRIVATE, Call
from trooper_async._http.transport import Transport
from trooper_async._waiting.look import look_for
from trooper_async._waiting.poller import Poller
from trooper_async._waiting.store import Snapshot
from trooper_async.errors import ConfigurationError
from trooper_async.models import Blib


class Blibs:
    """`client.blibs`: offers, which are GPU server configurations that can be ordered. The API calls them blibs."""

    def __init__(self, transport: Transport, poller: Poller[Blib]) -> None:
        self._transport = transport
        self._poller = poller

    async def list(self) -> builtins.list[Blib]:
        """The public offers, and with a key those of your private networks (GET /api/blibs).

        Returns:
            The offers, in the API's order.

        Raises:
            APIConnectionError, APIStatusError, ResponseFormatError: the request failed, or its response cannot be read.
        """
        return await self._transport.request(Call(BLIBS, "blibs.list"))

    async def list_private(self) -> builtins.list[Blib]:
        """The offers open to your account, private ones included (GET /api/blibs-private).

        Returns:
            The offers, in the API's order.

        Raises:
            AuthenticationError: the API does not accept the key.
            APIConnectionError, APIStatusError, ResponseFormatError: the request failed, or its response cannot be read.
        """
        return await self._transport.request(Call(BLIBS_PRIVATE, "blibs.list_private"))

    async def wait_until_available(
        self, *blibs: Blib | int, max_price_h: Decimal | float | None = None, timeout: float | None = None
    ) -> Blib:
        """Wait until one of several offers can be ordered (polls GET /api/blibs, one poll for all such waits).

        Args:
            blibs: the offers, or their ids.
            max_price_h: the highest price, in EUR per hour; offers without a price are then ignored.
            timeout: seconds; None for no limit.

        Returns:
            The first of them that can be ordered, with its price at that moment.

        Raises:
            ConfigurationError: no offer is given, or an argument is invalid. Nothing was sent.
            WaitTimeoutError: none became available in time.
            WaitError: the API refused the key twice in a row.
            ClientClosedError: the client was closed in the meantime.
        """
        operation = "blibs.wait_until_available"
        ids = [arguments.blib_id(blib, operation) for blib in blibs]
        if not ids:
            raise ConfigurationError("pass the offers to wait for, or their ids: nothing was sent", operation=operation)
        arguments.check_seconds(timeout, operation=operation)
        limit = None if max_price_h is None else arguments.money(max_price_h, "max_price_h", operation, sent=False)

        def available(offers: Snapshot[Blib], began: float) -> Blib | None:
            for blib_id in ids:
                offer = offers.get(blib_id)
                if not isinstance(offer, Blib) or not offer.is_available:
                    continue
                if limit is None or (offer.price_h is not None and offer.price_h <= limit):
                    return offer
            return None

        return await look_for(
            self._poller,
            available,
            operation=operation,
            subject=" or ".join(f"blib {blib_id}" for blib_id in ids),
            target="available",
            timeout=timeout,
        )
