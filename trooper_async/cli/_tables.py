"""Tables of the models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal

from rich import box
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from trooper_async.cli._costs import STOPPED_SHARE, costs_now
from trooper_async.cli._text import NOTHING, cell, count, euros, rounded, status, until
from trooper_async.models import Blib, Order

_NUMBERS = {"id", "EUR/h", "per GPU", "EUR/day", "EUR/month", "took", "for", "servers", "order", "price", "install"}
_WHOLE = {"address", "since", "timeline", "purchase"}


def table(*columns: str) -> Table:
    """An empty table. What is a number stands at the right, and is not broken over lines."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    for column in columns:
        justify: JustifyMethod = "right" if column in _NUMBERS else "left"
        if column in _NUMBERS | _WHOLE:
            made.add_column(column, justify=justify, no_wrap=True, overflow="ellipsis")
        else:
            made.add_column(column, justify=justify, overflow="fold")
    return made


def gpus_of(number: int | None, gpu_type: str | None) -> Text:
    return cell(gpu_type if number is None else f"{number} x {gpu_type or NOTHING}")


def address(order: Order) -> Text:
    if not order.ip:
        return cell(None)
    return cell(order.ip if order.ssh_port is None else f"{order.ip}:{order.ssh_port}")


def orders_table(orders: Iterable[Order], since: dict[int, str] | None = None) -> Table:
    """Servers; `since` is what to say of when each has changed."""
    made = table(
        "id", "title", "GPU", "status", "address", "EUR/h", "paid until", *(["changed"] if since is not None else [])
    )
    for order in orders:
        title = cell(order.title)
        if order.is_locked:
            title.append(" (locked)", "dim")
        made.add_row(
            str(order.order_id),
            title,
            gpus_of(order.blib_gpu_num, order.blib_gpu_type),
            status(order),
            address(order),
            euros(order.price_h),
            until(order.paid_until),
            *([since.get(order.order_id, "")] if since is not None else []),
        )
    return made


def totals(orders: Sequence[Order]) -> Text:
    """How many servers there are, and what they cost per hour as they are."""
    costs = [costs_now(order) for order in orders]
    total = sum((cost for cost in costs if cost is not None), Decimal(0))
    text = f"{count(len(orders), 'server')}, {rounded(total)} EUR per hour as they are"
    notes = []
    if any(order.current_status == "stopped" for order in orders):
        notes.append(f"stopped ones at {STOPPED_SHARE:.0%}")
    if unknown := costs.count(None):
        notes.append(f"{count(unknown, 'server')} not counted: `trooper cost` says why")
    return Text(text + (f" ({'; '.join(notes)})" if notes else ""), "bold")


def blibs_table(blibs: Iterable[Blib]) -> Table:
    """Offers."""
    made = table("id", "name", "GPU", "CPU, RAM, disk", "country", "EUR/h", "per GPU", "free")
    for blib in blibs:
        each = blib.price_h / blib.gpu_num if blib.price_h is not None and blib.gpu_num else None
        free = {True: "yes", False: "no", None: NOTHING}[blib.is_available]
        if blib.is_available and blib.max_possible_instances is not None:
            free = str(blib.max_possible_instances)
        gpu = gpus_of(blib.gpu_num, blib.gpu_type)
        if blib.gpu_ram is not None:
            gpu.append(f" {blib.gpu_ram} GB")
        sizes = ((blib.cpu_cores, "cores"), (blib.cpu_ram, "GB"), (blib.hdd, "GB"))
        made.add_row(
            str(blib.id),
            cell(blib.name),
            gpu,
            ", ".join(NOTHING if number is None else f"{number} {unit}" for number, unit in sizes),
            cell(blib.country_code),
            euros(blib.price_h),
            NOTHING if each is None else euros(round(each, 4)),
            free,
        )
    return made
