"""Migrations: moving an order to another GPU server configuration."""

from __future__ import annotations

from decimal import Decimal

from trooper_async._api import arguments
from trooper_async._api.endpoints import BUY_MIGRATION, MIGRATION_COST, MIGRATION_OPTIONS, Call, call
from trooper_async._buying.purchases import Prepare, Purchases
from trooper_async._buying.record import Record, new_record
from trooper_async._http.transport import Transport
from trooper_async._waiting.wait import OnChange
from trooper_async.errors import ConfigurationError, PriceError
from trooper_async.models import JSON, Blib, MigrationOptions, MigrationQuote, Order, Transition


class Migrations:
    """`client.migrations`."""

    def __init__(self, transport: Transport, purchases: Purchases) -> None:
        self._transport = transport
        self._purchases = purchases

    async def options(self, order: Order | int) -> MigrationOptions:
        """What a server can be migrated to (GET /api/migration-options).

        Raises:
            PermissionDeniedError: no such order, or not yours.
            APIConnectionError, APIStatusError, ResponseFormatError: as every read does.
        """
        order_id = arguments.order_id(order)
        return await self._transport.request(
            call(MIGRATION_OPTIONS, "migrations.options", f"order {order_id}", {"order_id": order_id})
        )

    async def quote(self, order: Order | int, blib: Blib | int) -> MigrationQuote:
        """What migrating a server to `blib` costs (POST /api/migration-cost). Nothing is bought.

        Raises:
            PermissionDeniedError: no such order, or not yours.
            APIConnectionError, APIStatusError, ResponseFormatError: as every read does.
        """
        order_id, blib_id = arguments.order_id(order), arguments.blib_id(blib)
        return await self._transport.request(
            call(
                MIGRATION_COST,
                "migrations.quote",
                f"order {order_id}",
                {"order_id": order_id, "target_blib_id": blib_id},
            )
        )

    async def buy(
        self,
        quote: MigrationQuote,
        *,
        keep_data: bool,
        max_total_due: Decimal | float | None = None,
        reference: str | None = None,
    ) -> Transition:
        """Buy a migration (POST /api/buy-migration). Sent once, never again by itself.

        The options and a new quote are asked for right before it is sent: it is bought at no more than `quote` says.

        Args:
            quote: what `quote()` gave.
            keep_data: whether the server's data moves along.
            max_total_due: the most that may be due now, in EUR.
            reference: your own name for this purchase; a repeat under the same name buys nothing more.

        Returns:
            The transition of the new order, which takes the place of the old one.

        Raises:
            PriceError: not offered any more, or dearer than the quote or the limit. Nothing was sent.
            UnresolvedPurchaseError: an earlier purchase is unresolved. Nothing was sent.
            PurchaseUnknownError: it was sent and the answer lost; see `orders.resolve`.
            BadRequestError: the API refuses it (`Insufficient budget for migration`).
        """
        wanted, prepare = self._wanted("migrations.buy", quote, keep_data, max_total_due, reference)
        async with self._purchases.made(wanted, prepare) as bought:
            return bought.transition

    async def buy_and_wait(
        self,
        quote: MigrationQuote,
        *,
        keep_data: bool,
        max_total_due: Decimal | float | None = None,
        reference: str | None = None,
        timeout: float | None = 7200.0,
        on_change: OnChange | None = None,
    ) -> Order:
        """Buy a migration, and wait until the new order runs.

        Args:
            quote, keep_data, max_total_due, reference: as for `buy`.
            timeout: seconds from the accepted purchase; None waits for ever.
            on_change: called with the new order for each status seen on the way.

        Raises:
            PurchaseNotReadyError: it is bought, but the wait after it ended otherwise; its cause says how.
            PriceError, UnresolvedPurchaseError, PurchaseUnknownError, BadRequestError: as for `buy`.
        """
        arguments.check_seconds(timeout)
        arguments.check_on_change(on_change, "migrations.buy_and_wait")
        wanted, prepare = self._wanted("migrations.buy_and_wait", quote, keep_data, max_total_due, reference)
        async with self._purchases.made(wanted, prepare) as bought:
            return await self._purchases.wait(bought, operation=wanted.operation, timeout=timeout, on_change=on_change)

    def _wanted(
        self,
        operation: str,
        quote: MigrationQuote,
        keep_data: bool,
        max_total_due: Decimal | float | None,
        reference: str | None,
    ) -> tuple[Record, Prepare]:
        if not isinstance(quote, MigrationQuote):
            raise ConfigurationError(
                "a quote is needed, as migrations.quote() gives it: nothing was sent", operation=operation
            )
        subject = f"order {quote.order_id}"
        limit = quote.total_due
        if max_total_due is not None:
            limit = min(limit, arguments.money(max_total_due, "max_total_due", sent=False))

        if type(keep_data) is not bool:
            raise ConfigurationError("keep_data must be True or False: nothing was sent", operation=operation)

        terms: dict[str, JSON] = {
            "order_id": quote.order_id,
            "target_blib_id": quote.target_blib_id,
            "keep_data": keep_data,
        }

        async def prepare() -> tuple[Call[int], Blib]:
            options = await self.options(quote.order_id)
            offer = next((blib for blib in options.available_blibs if blib.id == quote.target_blib_id), None)
            if offer is None or offer.is_available is False:
                text = f"blib {quote.target_blib_id} is not offered for this migration any more"
                raise PriceError(text, operation=operation, subject=subject)
            due = (await self.quote(quote.order_id, quote.target_blib_id)).total_due
            if due > limit:
                text = f"{due} EUR would be due now, and at most {limit} EUR are allowed"
                raise PriceError(text, operation=operation, subject=subject)
            return call(BUY_MIGRATION, operation, subject, terms), offer

        wanted = new_record(
            operation,
            "migrate",
            quote.target_blib_id,
            terms,
            price_h=quote.new_rate.amount if quote.new_rate is not None else None,
            reference=reference,
            migrated_order_id=quote.order_id,
        )
        return wanted, prepare
