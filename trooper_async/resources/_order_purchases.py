"""Orders: buying them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal

from trooper_async import _arguments as arguments
from trooper_async._protocol import ORDER, Call, call
from trooper_async._wait import OnChange
from trooper_async.errors import (
    ConfigurationError,
    PriceError,
    PurchaseNotReadyError,
    PurchaseUnknownError,
    UnresolvedPurchaseError,
)
from trooper_async.models import JSON, Blib, Order, Purchase, Template
from trooper_async.resources._order_reads import OrderReads
from trooper_async.transition import Transition


class OrderPurchases(OrderReads):
    """The buying part of `client.orders`."""

    async def create(
        self,
        blib: Blib,
        *,
        contract_interval: str,
        terms_accepted: bool,
        price_h: Decimal | float | None = None,
        total_price: Decimal | float | None = None,
        second_partition_percentage: int | None = None,
        templates: Iterable[Template | int] = (),
        max_price_h: Decimal | float | None = None,
        reference: str | None = None,
    ) -> Transition:
        """Order a GPU server (POST /api/order). Sent once, never again by itself.

        Args:
            blib: the offer, as `blibs.list()` gave it.
            contract_interval: `HOUR` (the others are not spelled in the API document: `DAY`, `WEEK`, … by analogy).
            terms_accepted: whether you accept the vendor's terms; without, the API refuses.
            price_h: EUR per hour; the offer's by default. The API refuses what is not its current price.
            total_price: EUR for the whole interval; for `HOUR` it is `price_h`, for others it must be given.
            second_partition_percentage: share of the disk for a second partition.
            templates: what to install on it.
            max_price_h: the most that it may cost, in EUR per hour.
            reference: your own name for this purchase; a repeat under the same name buys nothing more.

        Returns:
            The transition of the new order.

        Raises:
            ConfigurationError: no price, or one that can't be sent. Nothing was sent.
            PriceError: dearer than `max_price_h`, or another price than the offer's. Nothing was sent.
            UnresolvedPurchaseError: an earlier purchase is unresolved. Nothing was sent.
            PurchaseUnknownError: it was sent and the answer lost: it may be bought. See `resolve`.
            BadRequestError: the API refuses it, also for a price that is no longer the current one.
        """
        purchase, transition = await self._buy(
            "orders.create",
            blib,
            reference,
            max_price_h,
            contract_interval=contract_interval,
            terms_accepted=terms_accepted,
            price_h=price_h,
            total_price=total_price,
            second_partition_percentage=second_partition_percentage,
            templates=templates,
        )
        self._purchases.journal.deliver(purchase)
        return transition

    async def create_and_wait(
        self,
        blib: Blib,
        *,
        contract_interval: str,
        terms_accepted: bool,
        price_h: Decimal | float | None = None,
        total_price: Decimal | float | None = None,
        second_partition_percentage: int | None = None,
        templates: Iterable[Template | int] = (),
        max_price_h: Decimal | float | None = None,
        reference: str | None = None,
        timeout: float | None = 1800.0,
        on_change: OnChange | None = None,
    ) -> Order:
        """Order a GPU server, and wait until it runs.

        Args:
            blib … reference: as for `create`.
            timeout: seconds from the accepted order; None waits for ever.
            on_change: called with the new order for each status seen on the way.

        Raises:
            PurchaseNotReadyError: it is bought, but the wait after it ended otherwise; its cause says how.
            ConfigurationError, PriceError, UnresolvedPurchaseError, PurchaseUnknownError, …: as for `create`.
        """
        arguments.check_seconds(timeout)
        operation = "orders.create_and_wait"
        bought = await self._buy(
            operation,
            blib,
            reference,
            max_price_h,
            contract_interval=contract_interval,
            terms_accepted=terms_accepted,
            price_h=price_h,
            total_price=total_price,
            second_partition_percentage=second_partition_percentage,
            templates=templates,
        )
        return await self._waiters.bought(
            *bought, self._purchases.journal, operation=operation, timeout=timeout, on_change=on_change
        )

    @property
    def purchases(self) -> tuple[Purchase, ...]:
        """What this client bought, tried to buy, or does not know whether it bought, the oldest first."""
        return self._purchases.journal.all

    async def resolve(
        self,
        purchase_or_error: Purchase | PurchaseUnknownError | UnresolvedPurchaseError | PurchaseNotReadyError,
        order: Order | int | None,
    ) -> None:
        """Say what became of a purchase that is unresolved, so that others can be made.

        Args:
            purchase_or_error: the purchase, or the error that names it.
            order: the order that it is; None if it was not made.

        Raises:
            ConfigurationError: no purchase of this client, or one that is on the wire still.
        """
        await self._purchases.journal.resolve(purchase_or_error, None if order is None else arguments.order_id(order))

    async def _buy(
        self,
        operation: str,
        blib: Blib,
        reference: str | None,
        max_price_h: Decimal | float | None,
        *,
        contract_interval: str,
        terms_accepted: bool,
        price_h: Decimal | float | None,
        total_price: Decimal | float | None,
        second_partition_percentage: int | None,
        templates: Iterable[Template | int],
    ) -> tuple[Purchase, Transition]:
        if not isinstance(blib, Blib):
            raise ConfigurationError(
                "an offer is needed, as blibs.list() gives it: nothing was sent", operation=operation
            )
        subject = f"blib {blib.id}"
        asked = blib.price_h if price_h is None else price_h
        if asked is None:
            raise ConfigurationError("the offer has no price: pass price_h; nothing was sent", operation=operation)
        price = arguments.money(asked, "price_h")
        if total_price is None and contract_interval != "HOUR":
            text = f"total_price must be given for {contract_interval}: how the API reckons it is not documented"
            raise ConfigurationError(f"{text}; nothing was sent", operation=operation, subject=subject)
        total = price if total_price is None else arguments.money(total_price, "total_price")
        limit = None if max_price_h is None else arguments.money(max_price_h, "max_price_h", sent=False)
        if type(terms_accepted) is not bool:
            raise ConfigurationError("terms_accepted must be True or False: nothing was sent", operation=operation)
        wanted: list[JSON] = [
            {"id": one.id, "name": one.name} if isinstance(one, Template) else {"id": arguments.template_id(one)}
            for one in templates
        ]
        sent: dict[str, JSON] = {
            "blib_id": blib.id,
            "price_h": price,
            "total_price": total,
            "terms_accepted": terms_accepted,
            "contract_interval": contract_interval,
            "templates": wanted,
        }
        if second_partition_percentage is not None:
            sent["second_partition_percentage"] = second_partition_percentage

        async def prepare(sending: Callable[[], None]) -> tuple[Call[int], Blib]:
            # here, since what its reference says is bought already is not bought again, whatever it would cost now
            if blib.price_h is not None and price != blib.price_h:
                text = f"the offer costs {blib.price_h} EUR per hour, not {price}"
                raise PriceError(text, operation=operation, subject=subject)
            if limit is not None and price > limit:
                text = f"it costs {price} EUR per hour, and at most {limit} are allowed"
                raise PriceError(text, operation=operation, subject=subject)
            return call(ORDER, operation, subject, sent, sending=sending), blib

        return await self._purchases.buy(operation, "create", blib.id, prepare, price_h=price, reference=reference)
