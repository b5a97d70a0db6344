"""Migrations: moving an order to another GPU server configuration."""

from __future__ import annotations

from decimal import Decimal

from trooper_async._api import arguments
from trooper_async._api.endpoints import BUY_MIGRATION, MIGRATION_COST, MIGRATION_OPTIONS, Call
from trooper_async._buying.purchases import Prepare, Purchases
from trooper_async._buying.record import Record, new_record
from trooper_async._http.transport import Transport
from trooper_async._waiting.wait import OnChange
from trooper_async.errors import PriceError
from trooper_async.models import JSON, Blib, MigrationOptions, MigrationQuote, Order, Transition


class Migrations:
    """`client.migrations`: moving an order to another GPU server configuration."""

    def __init__(self, transport: Transport, purchases: Purchases) -> None:
        self._transport = transport
        self._purchases = purchases

    async def options(self, order: Order | int) -> MigrationOptions:
        """What an order can be migrated to (GET /api/migration-options).

        Args:
            order: the order, or its id.

        Returns:
            The order, its present offer, and the offers that it can be migrated to.

        Raises:
            ConfigurationError: the order is neither an `Order` nor an id. Nothing was sent.
            PermissionDeniedError: the order does not exist, or is not yours.
            APIConnectionError, APIStatusError, ResponseFormatError: the request failed, or its response cannot be read.
        """
        order_id = arguments.order_id(order, "migrations.options")
        return await self._transport.request(
            Call(MIGRATION_OPTIONS, "migrations.options", f"order {order_id}", {"order_id": order_id})
        )

    async def quote(self, order: Order | int, blib: Blib | int) -> MigrationQuote:
        """What the migration of an order to another offer costs (POST /api/migration-cost). Nothing is bought.

        Args:
            order: the order, or its id.
            blib: the offer to migrate to, or its id.

        Returns:
            The quote, in EUR. Pass it to `buy`.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
            PermissionDeniedError: the order does not exist, or is not yours.
            APIConnectionError, APIStatusError, ResponseFormatError: the request failed, or its response cannot be read.
        """
        operation = "migrations.quote"
        order_id, blib_id = arguments.order_id(order, operation), arguments.blib_id(blib, operation)
        return await self._transport.request(
            Call(MIGRATION_COST, operation, f"order {order_id}", {"order_id": order_id, "target_blib_id": blib_id})
        )

    async def buy(
        self,
        quote: MigrationQuote,
        *,
        keep_data: bool,
        max_total_due: Decimal | float | None = None,
        reference: str | None = None,
    ) -> Transition:
        """Buy a migration (POST /api/buy-migration). Sent once, never repeated.

        The options and a new quote are read right before the purchase, so it never costs more than the quote.

        Args:
            quote: what `quote()` returned.
            keep_data: whether the server's data is moved too.
            max_total_due: the most that may be due now, in EUR; by default the quote's `total_due`.
            reference: your own name for this purchase. Called again with the same reference, it buys nothing more and
                returns the same transition.

        Returns:
            The transition of the new order, which replaces the old one. Pass it to `orders.wait`, now or in another
            process.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
            PriceError: it is no longer offered, or costs more than the quote or `max_total_due`. Nothing was sent.
            UnresolvedPurchaseError: the outcome of an earlier purchase is not known; see `orders.resolve`. Nothing was
                sent.
            PurchaseUnknownError: the request was sent, but its response was lost. `error.candidates` are the orders it
                may have created; see `orders.resolve`.
            BadRequestError: the API refused it, for instance with `Insufficient budget for migration`.
            APIConnectionError, APIStatusError: the migration was not bought.
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
        """Buy a migration, and wait until the new order runs (POST /api/buy-migration, once; polls GET /api/orders).

        The options and a new quote are read right before the purchase, so it never costs more than the quote.

        Args:
            quote: what `quote()` returned.
            keep_data: whether the server's data is moved too.
            max_total_due: the most that may be due now, in EUR; by default the quote's `total_due`.
            reference: your own name for this purchase. Called again with the same reference, it buys nothing more and
                waits for the same order.
            timeout: seconds for the purchase and the wait; None for no limit. A purchase that is still in flight then
                raises `PurchaseUnknownError`, and the client follows it.
            on_change: a plain function, called with the order at each new status. An exception from it ends the wait
                and is raised here.

        Returns:
            The new order, running.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
            PriceError: it is no longer offered, or costs more than the quote or `max_total_due`. Nothing was sent.
            UnresolvedPurchaseError: the outcome of an earlier purchase is not known; see `orders.resolve`. Nothing was
                sent.
            PurchaseUnknownError: the request was sent, but its response was lost. `error.candidates` are the orders it
                may have created; see `orders.resolve`.
            PurchaseNotReadyError: the migration is bought, but the wait failed; the error's cause says how.
            BadRequestError: the API refused it, for instance with `Insufficient budget for migration`.
            APIConnectionError, APIStatusError: the migration was not bought.
        """
        wanted, prepare = self._wanted("migrations.buy_and_wait", quote, keep_data, max_total_due, reference)
        return await self._purchases.make_and_wait(wanted, prepare, timeout=timeout, on_change=on_change)

    def _wanted(
        self,
        operation: str,
        quote: MigrationQuote,
        keep_data: bool,
        max_total_due: Decimal | float | None,
        reference: str | None,
    ) -> tuple[Record, Prepare]:
        if not isinstance(quote, MigrationQuote):
            raise arguments.wrong("a quote from migrations.quote() is needed", quote, operation)
        subject = f"order {quote.order_id}"
        limit = quote.total_due
        if max_total_due is not None:
            limit = min(limit, arguments.money(max_total_due, "max_total_due", operation, sent=False))
        arguments.check_bool(keep_data, "keep_data", operation)
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
            return Call(BUY_MIGRATION, operation, subject, terms), offer

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
