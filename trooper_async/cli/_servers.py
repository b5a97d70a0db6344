"""`trooper ps`, `show`, `history`, `cost`, `rename`, `lock` and `unlock`: your servers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypeVar, Unpack

import click
from attrs import frozen
from rich.text import Text

from trooper_async import cost_h, select
from trooper_async.cli._completion import remember
from trooper_async.cli._context import Cli
from trooper_async.cli._errors import reason
from trooper_async.cli._options import Filters, command, filter_options, listing_options, order_id
from trooper_async.cli._tables import ORDERS, Listing, Table, address, gpus_of, plain_table, table_of
from trooper_async.cli._templates import installs_table
from trooper_async.cli._text import (
    NO_VALUE,
    cell,
    count,
    euros,
    moment,
    printable,
    rounded,
    span,
    status,
    status_style,
    until,
)
from trooper_async.errors import TrooperError
from trooper_async.models import Credentials, Order, StatusChange

T = TypeVar("T")

_WIDTH = 32


@command()
@filter_options
@listing_options(ORDERS)
async def ps(cli: Cli, listing: Listing, **filters: Unpack[Filters]) -> None:
    """List your servers: current and desired status, address, price. --json has all fields."""
    async with cli.client() as client:
        everything = await client.orders.list()
    remember(cli.settings, everything)
    orders = select(everything, **filters)
    cli.listed(table_of(ORDERS, orders, listing), listing, "", totals(orders))


@command()
@order_id
async def show(cli: Cli, order: int) -> None:
    """Show one server: status, price, where to log in, its last status changes, and what is installed on it."""
    async with cli.client() as client:
        found = await client.orders.get(order)
        credentials, changes, installs = await asyncio.gather(
            _or_error(client.orders.credentials(found)),
            _or_error(client.orders.history(found)),
            _or_error(client.templates.installs(found)),
        )
    cli.result(
        {
            "order": found,
            "cost_h": cost_h(found),
            "credentials": credentials,
            "history": changes,
            "installs": installs,
        },
        _facts(found, credentials),
        *_part("Status changes", changes if isinstance(changes, TrooperError) else _history_table(changes)),
        *_part("Installed", installs if isinstance(installs, TrooperError) else installs_table(installs)),
    )


async def _or_error(reading: Awaitable[T]) -> T | TrooperError:
    """The result, or the error: a part that cannot be read does not keep the rest from being shown."""
    try:
        return await reading
    except TrooperError as error:
        return error


def _part(name: str, part: Table | TrooperError) -> list[Text | str | Table]:
    if isinstance(part, TrooperError):
        return ["", Text(f"{name}: ", "bold").append(f"could not be read: {reason(part)}", "not bold")]
    return ["", Text(name, "bold"), part if part.items else "none"]


def _facts(order: Order, credentials: Credentials | TrooperError) -> Table:
    cost = cost_h(order)
    now = "what it costs now is not documented" if cost is None else f"{euros(cost)} now"
    login: Text | str = address(order)
    if isinstance(credentials, Credentials):
        port = "" if credentials.ssh_port is None else f" -p {credentials.ssh_port}"
        login = cell(f"ssh{port} {credentials.username or 'root'}@{credentials.ip or NO_VALUE}")
    rows: list[tuple[str, Text | str]] = [
        ("id", str(order.order_id)),
        ("server id", str(order.server_id)),
        ("title", cell(order.title)),
        ("status", status(order)),
        ("locked", "yes" if order.is_locked else "no"),
        ("offer", cell(order.blib_name)),
        ("gpu", gpus_of(order.blib_gpu_num, order.blib_gpu_type)),
        ("country", cell(order.country_code)),
        ("eur/h", f"{euros(order.price_h)}, {now}"),
        ("interval", cell(order.contract_interval)),
        ("paid until", f"{moment(order.paid_until)} ({until(order.paid_until)})" if order.paid_until else NO_VALUE),
        ("log in", login),
    ]
    return plain_table("", " ", rows=rows).with_header(False)


@command()
@order_id
async def history(cli: Cli, order: int) -> None:
    """Show the last five status changes of a server, the latest first, and how long each status lasted."""
    async with cli.client() as client:
        changes = _by_time(await client.orders.history(order))
    cli.result(changes, _history_table(changes) if changes else f"the API knows of no status change of order {order}")


def _by_time(changes: list[StatusChange]) -> list[StatusChange]:
    """The latest first. Their ids do not follow the time."""
    return sorted(changes, key=lambda one: one.status_since or datetime.min.replace(tzinfo=UTC), reverse=True)


def _history_table(changes: list[StatusChange]) -> Table:
    changes = _by_time(changes)
    rows: list[list[Text | str]] = []
    for change, (seconds, bar) in zip(changes, timeline(changes, datetime.now(UTC)), strict=True):
        style = status_style(change.status_user)
        lasted = NO_VALUE if seconds is None else span(seconds)
        since = moment(change.status_since)
        rows.append([since, cell(change.status_user, style), lasted, Text(bar, style), cell(change.status_txt)])
    names = ("since", "status", "for", "timeline", "what the API says")
    return plain_table(*names, rows=rows, numbers=["for"], leaving=[names[4], names[3]])


def timeline(changes: list[StatusChange], now: datetime, width: int = _WIDTH) -> list[tuple[float | None, str]]:
    """For each change, the latest first: the seconds until the next one, and a bar on a time line."""
    times = [change.status_since for change in changes if change.status_since is not None]
    begin = min(times, default=now)
    end = max(now, *times) if times else now
    whole = max((end - begin).total_seconds(), 1e-9)
    drawn: list[tuple[float | None, str]] = []
    until = end
    for change in changes:
        since = change.status_since
        if since is None:
            drawn.append((None, ""))
            continue
        left = min(int((since - begin).total_seconds() / whole * width), width - 1)
        right = max(left + 1, round((until - begin).total_seconds() / whole * width))
        drawn.append(((until - since).total_seconds(), "·" * left + "█" * (right - left) + "·" * (width - right)))
        until = since
    return drawn


@command()
@order_id
@click.argument("title")
async def rename(cli: Cli, order: int, title: str) -> None:
    """Give a server another title."""
    async with cli.client() as client:
        await client.orders.rename(order, title)
    cli.result({"order_id": order, "title": title}, f"order {order} is called {printable(title)}")


@command()
@order_id
async def lock(cli: Cli, order: int) -> None:
    """Lock a server against status changes."""
    async with cli.client() as client:
        await client.orders.lock(order)
    cli.result({"order_id": order, "is_locked": True}, f"order {order} is locked")


@command()
@order_id
async def unlock(cli: Cli, order: int) -> None:
    """Allow a locked server's status changes again."""
    async with cli.client() as client:
        await client.orders.unlock(order)
    cli.result({"order_id": order, "is_locked": False}, f"order {order} is no longer locked")


# What they cost ---------------------------------------------------------------------------------------------------

HOURS_A_DAY, HOURS_A_MONTH = 24, 720
"""A month counts as 30 days."""


@frozen
class StatusCost:
    """The servers of one status."""

    status: str
    order_ids: tuple[int, ...]
    price_h: Decimal
    """The sum of their prices, EUR per hour."""
    cost_h: Decimal | None
    """What they cost in that status, EUR per hour; None if that is not documented."""


@frozen
class Ending:
    """A paid period, and when it ends."""

    order_id: int
    title: str | None
    contract_interval: str | None
    paid_until: datetime


@frozen
class FleetCost:
    """What a fleet costs now, in EUR."""

    per_hour: Decimal
    per_day: Decimal
    per_month: Decimal
    by_status: tuple[StatusCost, ...]
    ends: tuple[Ending, ...]
    unpriced: tuple[int, ...]
    """Orders without a price; no sum includes them."""


def fleet_cost(orders: Iterable[Order]) -> FleetCost:
    """The cost of these orders."""
    orders = list(orders)
    groups: dict[str, list[Order]] = {}
    for order in orders:
        if order.price_h is not None:
            groups.setdefault(order.current_status.casefold(), []).append(order)
    by_status = []
    for word, group in groups.items():
        price = sum((order.price_h or Decimal(0) for order in group), Decimal(0))
        costs = [cost for order in group if (cost := cost_h(order)) is not None]
        ids = tuple(order.order_id for order in group)
        by_status.append(StatusCost(word, ids, price, sum(costs, Decimal(0)) if costs else None))
    by_status.sort(key=lambda one: one.price_h, reverse=True)
    per_hour = sum((one.cost_h for one in by_status if one.cost_h is not None), Decimal(0))
    ends = [
        Ending(order.order_id, order.title, order.contract_interval, order.paid_until)
        for order in orders
        if order.paid_until is not None
    ]
    return FleetCost(
        per_hour=per_hour,
        per_day=per_hour * HOURS_A_DAY,
        per_month=per_hour * HOURS_A_MONTH,
        by_status=tuple(by_status),
        ends=tuple(sorted(ends, key=lambda end: end.paid_until)),
        unpriced=tuple(order.order_id for order in orders if order.price_h is None),
    )


def totals(orders: Sequence[Order]) -> Text:
    """How many servers there are, and what they cost per hour now."""
    costs = [cost_h(order) for order in orders]
    total = sum((cost for cost in costs if cost is not None), Decimal(0))
    text = f"{count(len(orders), 'server')}, {rounded(total)} EUR per hour as they are"
    notes = []
    if any(order.current_status == "stopped" for order in orders):
        notes.append("stopped ones at 35%")
    if unknown := costs.count(None):
        notes.append(f"{count(unknown, 'server')} not counted: `trooper cost` says why")
    return Text(text + (f" ({'; '.join(notes)})" if notes else ""), "bold")


@command()
@filter_options
async def cost(cli: Cli, **filters: Unpack[Filters]) -> None:
    """Show what the servers cost now, per hour, day and month, and when their paid periods end.

    A stopped server costs 35 % of its price; one that is changing counts in full. What a frozen server costs is not
    documented, so no sum includes it. A month counts as 30 days. Periods are paid in advance and not refunded: at the
    end of a period the next one is paid, or the server is frozen if auto-renewal is off (which the API does not show).
    """
    async with cli.client() as client:
        costs = fleet_cost(select(await client.orders.list(), **filters))
    rows: list[list[Text | str]] = []
    for one in costs.by_status:
        sums = [NO_VALUE] * 3
        if one.cost_h is not None:
            sums = [euros(one.cost_h), rounded(one.cost_h * HOURS_A_DAY), rounded(one.cost_h * HOURS_A_MONTH)]
        counts = "not documented" if one.cost_h is None else f"{one.cost_h / (one.price_h or 1):.0%}"
        name = cell(one.status, status_style(one.status))
        rows.append([name, str(len(one.order_ids)), euros(one.price_h), counts, *sums])
    number = str(sum(len(one.order_ids) for one in costs.by_status))
    rows.append(["total", number, "", "", euros(costs.per_hour), rounded(costs.per_day), rounded(costs.per_month)])
    names = ("status", "servers", "price", "counts", "eur/h", "eur/day", "eur/month")
    by_status = plain_table(*names, rows=rows, numbers=("servers", "price", *names[4:]))
    rows = []
    for end in costs.ends:
        interval = cell(end.contract_interval)
        rows.append([moment(end.paid_until), until(end.paid_until), str(end.order_id), cell(end.title), interval])
    ends = plain_table("paid-until", "in", "id", "title", "interval", rows=rows, numbers=["id"])
    shown: list[str | Table] = [by_status, *_notes(costs)]
    cli.result(costs, *shown, *(("", ends) if costs.ends else ()))


def _notes(costs: FleetCost) -> list[str]:
    notes = []
    stopped = next((one for one in costs.by_status if one.status == "stopped"), None)
    if stopped is not None and stopped.cost_h:
        month = rounded(stopped.cost_h * HOURS_A_MONTH)
        notes.append(f"Stopped servers still cost 35%: {month} EUR per month. Freezing releases their hardware.")
    if costs.unpriced:
        notes.append(f"{count(len(costs.unpriced), 'order')} without a price, in no sum: {costs.unpriced}")
    return ["", *notes] if notes else []
