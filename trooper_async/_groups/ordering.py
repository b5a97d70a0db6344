"""Prepares an order: checks its arguments, and its price once more right before it is sent."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from trooper_async._api import arguments
from trooper_async._api.endpoints import ORDER, Call
from trooper_async._buying.purchases import Prepare
from trooper_async._buying.record import Record, new_record
from trooper_async.errors import ConfigurationError, PriceError
from trooper_async.models import JSON, Blib, Template

_HOURS = {"HOUR": 1, "DAY": 24, "WEEK": 7 * 24, "MONTH": 30 * 24, "YEAR": 365 * 24}


def wanted_order(
    operation: str,
    blib: Blib,
    *,
    contract_interval: str,
    terms_accepted: bool,
    price_h: Decimal | float | None,
    total_price: Decimal | float | None,
    second_partition_percentage: int | None,
    templates: Iterable[Template | int],
    max_price_h: Decimal | float | None,
    reference: str | None,
) -> tuple[Record, Prepare]:
    """The record of an order that is to be made, and the function that checks its price right before it is sent.

    Raises:
        ConfigurationError: an argument is invalid. Nothing was sent.
    """
    if not isinstance(blib, Blib):
        raise arguments.wrong("an offer from blibs.list() is needed", blib, operation)
    subject = f"blib {blib.id}"
    asked = blib.price_h if price_h is None else price_h
    if asked is None:
        raise ConfigurationError("the offer has no price: pass price_h; nothing was sent", operation=operation)
    price = arguments.money(asked, "price_h", operation)
    if not isinstance(contract_interval, str) or not contract_interval:
        raise arguments.wrong("contract_interval must be a text such as 'HOUR'", contract_interval, operation)
    interval = contract_interval.upper() if contract_interval.upper() in _HOURS else contract_interval
    if total_price is None and interval != "HOUR":
        text = f"total_price must be given for {interval}: how the API calculates it is not documented"
        raise ConfigurationError(f"{text}; nothing was sent", operation=operation, subject=subject)
    total = price if total_price is None else arguments.money(total_price, "total_price", operation)
    limit = None if max_price_h is None else arguments.money(max_price_h, "max_price_h", operation, sent=False)
    if limit is not None and interval not in _HOURS:
        text = f"max_price_h can't be compared with the price of an interval {interval!r}: leave it out"
        raise ConfigurationError(f"{text}; nothing was sent", operation=operation, subject=subject)
    arguments.check_terms(terms_accepted, operation)
    if second_partition_percentage is not None:
        arguments.check_percentage(second_partition_percentage, "second_partition_percentage", operation)
    if isinstance(templates, str | int | Template) or not isinstance(templates, Iterable):
        raise arguments.wrong("templates must be a list of templates or their ids", templates, operation)
    installs: list[dict[str, JSON]] = [
        {"id": one.id, "name": one.name} if isinstance(one, Template) else {"id": arguments.template_id(one, operation)}
        for one in templates
    ]
    sent: dict[str, JSON] = {
        "blib_id": blib.id,
        "price_h": price,
        "total_price": total,
        "terms_accepted": terms_accepted,
        "contract_interval": interval,
        "templates": [*installs],
    }
    if second_partition_percentage is not None:
        sent["second_partition_percentage"] = second_partition_percentage
    terms: dict[str, JSON] = {
        "blib_id": blib.id,
        "contract_interval": interval,
        "templates": [*sorted(str(install["id"]) for install in installs)],
        "second_partition_percentage": second_partition_percentage,
    }

    async def prepare() -> tuple[Call[int], Blib]:
        # checked here because a reference that has already bought something buys nothing more, whatever the price is
        # now
        if blib.price_h is not None and price != blib.price_h:
            text = f"the offer costs {blib.price_h} EUR per hour, not {price}"
            raise PriceError(text, operation=operation, subject=subject)
        if limit is not None and price > limit:
            text = f"it costs {price} EUR per hour, and at most {limit} are allowed"
            raise PriceError(text, operation=operation, subject=subject)
        if limit is not None and total > limit * _HOURS[interval]:
            text = f"a {interval} would cost {total} EUR, and at most {limit} per hour are allowed"
            raise PriceError(text, operation=operation, subject=subject)
        return Call(ORDER, operation, subject, sent), blib

    return new_record(operation, "create", blib.id, terms, price_h=price, reference=reference), prepare
