"""Tables: their columns, and how they are fitted to a narrow screen, a pipe, or the user's options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, Generic, TypeVar

from attrs import evolve, field, frozen
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from trooper_async.cli._text import NO_VALUE, cell, euros, moment, status, until
from trooper_async.models import Blib, Order

T = TypeVar("T")

_GAP = 2
_SHORTEST = 6
"""Least width of the widest column if even that one has to be cut."""


@frozen
class Column(Generic[T]):
    """A column of a table."""

    name: str
    show: Callable[[T], Text | str]
    value: Callable[[T], Any] | None = None  # anything that can be compared
    """The sort key; by default what is shown."""
    number: bool = False
    """Numbers are aligned on the right."""
    leaves: int = 0
    """On a narrow screen, the column with the highest number is dropped first; 0 always stays."""
    extra: bool = False
    """Shown only on request."""
    whole: bool = False
    """Never cut; nor are numbers."""


@frozen
class Listing:
    """How the user wants a list: `--columns`, `--sort`, `--no-header`, `--ids`."""

    columns: tuple[str, ...] = ()
    sort: str | None = None
    no_header: bool = False
    ids: bool = False


@frozen
class Table:
    """Rows under columns."""

    columns: tuple[Column[Any], ...]
    items: list[Any]
    header: bool = True
    whole: bool = field(default=False, kw_only=True)
    """Whether no column may be dropped, since the user has named them."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.lines(options.max_width)

    def with_header(self, header: bool) -> Table:
        return evolve(self, header=header)

    def ids(self) -> list[str]:
        """Only the first column."""
        return [str(self.columns[0].show(item)) for item in self.items]

    def lines(self, width: int | None) -> list[Text]:
        """The lines for a screen of this width; None for no screen, where nothing is cut."""
        shown = {one.name: [_text(one.show(item)) for item in self.items] for one in self.columns}
        columns = list(self.columns)
        widths = {
            one.name: max([len(one.name) if self.header else 0, *(text.cell_len for text in shown[one.name])])
            for one in columns
        }

        def needed() -> int:
            return sum(widths[one.name] for one in columns) + _GAP * (len(columns) - 1)

        while width is not None and needed() > width and not self.whole:
            least = max(columns, key=lambda one: one.leaves)
            if not least.leaves:
                break
            columns.remove(least)
        if width is not None and needed() > width:
            cut = [one for one in columns if not one.number and not one.whole]
            if widest := max(cut, key=lambda one: widths[one.name], default=None):
                widths[widest.name] = max(_SHORTEST, widths[widest.name] - (needed() - width))
        lines = []
        if self.header:
            names = [Text(one.name.upper() if width is None else one.name, "bold") for one in columns]
            lines.append(_row(columns, names, widths))
            if width is not None:
                lines.append(Text("─" * min(width, needed()), "dim"))
        return lines + [
            _row(columns, [shown[one.name][index] for one in columns], widths) for index in range(len(self.items))
        ]


def _text(shown: Text | str) -> Text:
    return Text(shown) if isinstance(shown, str) else shown


def _row(columns: Sequence[Column[Any]], cells: Sequence[Text], widths: dict[str, int]) -> Text:
    row = Text(end="")
    for number, (column, shown) in enumerate(zip(columns, cells, strict=True)):
        part = shown.copy()
        part.truncate(widths[column.name], overflow="ellipsis")
        part.align("right" if column.number else "left", widths[column.name])
        row.append(" " * _GAP if number else "").append_text(part)
    row.rstrip()
    row.end = "\n"
    return row


def table_of(columns: Sequence[Column[T]], items: Iterable[T], listing: Listing = Listing()) -> Table:
    """A table of items, in the order and with the columns that the user wants."""
    rows = list(items)
    named = {one.name: one for one in columns}
    if listing.sort is not None:
        by = named[listing.sort.removeprefix("-")]
        value: Callable[[T], Any] = by.value or (lambda item: str(by.show(item)).casefold())
        there = [row for row in rows if value(row) is not None]
        there.sort(key=value, reverse=listing.sort.startswith("-"))
        rows = there + [row for row in rows if value(row) is None]
    if listing.columns:
        return Table(tuple(named[name] for name in listing.columns), rows, whole=True)
    return Table(tuple(one for one in columns if not one.extra), rows)


def plain_table(
    *names: str, rows: Iterable[Sequence[Text | str]], numbers: Iterable[str] = (), leaving: Sequence[str] = ()
) -> Table:
    """A table of plain texts; `leaving` names the columns that are dropped on a narrow screen, in that order."""

    right, left = set(numbers), {name: place for place, name in enumerate(leaving)}

    def cell_of(index: int) -> Callable[[Sequence[Text | str]], Text | str]:
        return lambda row: row[index]

    return Table(
        tuple(
            Column(name, cell_of(index), number=name in right, leaves=len(leaving) - left.get(name, len(leaving)))
            for index, name in enumerate(names)
        ),
        list(rows),
    )


def gpus_of(number: int | None, gpu_type: str | None) -> Text:
    return cell(gpu_type if number is None else f"{number} x {gpu_type or NO_VALUE}")


def address(order: Order) -> Text:
    if not order.ip:
        return cell(None)
    return cell(order.ip if order.ssh_port is None else f"{order.ip}:{order.ssh_port}")


def _title(order: Order) -> Text:
    title = cell(order.title)
    if order.is_locked:
        title.append(" (locked)", "dim")
    return title


ORDERS: tuple[Column[Order], ...] = (
    Column("id", lambda order: str(order.order_id), lambda order: order.order_id, number=True),
    Column("title", _title, lambda order: None if order.title is None else order.title.casefold()),
    Column(
        "gpu",
        lambda order: gpus_of(order.blib_gpu_num, order.blib_gpu_type),
        lambda order: (order.blib_gpu_type or "", order.blib_gpu_num or 0),
        leaves=2,
    ),
    Column("status", status, lambda order: order.current_status.casefold(), whole=True),
    Column("address", address, leaves=4),
    Column("eur/h", lambda order: euros(order.price_h), lambda order: order.price_h, number=True, leaves=1),
    Column("paid-until", lambda order: until(order.paid_until), lambda order: order.paid_until, leaves=3),
    Column("country", lambda order: cell(order.country_code), extra=True),
    Column("interval", lambda order: cell(order.contract_interval), extra=True),
    Column("offer", lambda order: cell(order.blib_name), extra=True),
    Column("locked", lambda order: "yes" if order.is_locked else "no", extra=True),
    Column("paid-until-time", lambda order: moment(order.paid_until), lambda order: order.paid_until, extra=True),
)
"""The columns of a list of servers."""


def _free(blib: Blib) -> str:
    if blib.is_available and blib.max_possible_instances is not None:
        return str(blib.max_possible_instances)
    return {True: "yes", False: "no", None: NO_VALUE}[blib.is_available]


def _gpu_with_ram(blib: Blib) -> Text:
    gpu = gpus_of(blib.gpu_num, blib.gpu_type)
    return gpu if blib.gpu_ram is None else gpu.append(f" {blib.gpu_ram} GB")


def _per_gpu(blib: Blib) -> Decimal | None:
    return round(blib.price_h / blib.gpu_num, 4) if blib.price_h is not None and blib.gpu_num else None


def _sizes(blib: Blib) -> str:
    sizes = ((blib.cpu_cores, "cores"), (blib.cpu_ram, "GB"), (blib.hdd, "GB"))
    return ", ".join(NO_VALUE if number is None else f"{number} {unit}" for number, unit in sizes)


OFFERS: tuple[Column[Blib], ...] = (
    Column("id", lambda blib: str(blib.id), lambda blib: blib.id, number=True),
    Column("name", lambda blib: cell(blib.name), leaves=2),
    Column("gpu", _gpu_with_ram, lambda blib: (blib.gpu_type or "", blib.gpu_num or 0)),
    Column("cpu-ram-disk", _sizes, lambda blib: blib.cpu_cores, leaves=4),
    Column("country", lambda blib: cell(blib.country_code), leaves=1),
    Column("eur/h", lambda blib: euros(blib.price_h), lambda blib: blib.price_h, number=True),
    Column("per-gpu", lambda blib: euros(_per_gpu(blib)), _per_gpu, number=True, leaves=3),
    Column("free", _free, leaves=1),
)
"""The columns of a list of offers."""
