"""The answer of `GET /api/orders` → the orders, what changed in them, and what is gone.

Read tolerantly: a row that can't be read costs only itself. Rows that stand in the bytes of the answer before are not
decoded again: a JSON object ends where it ends, so bytes that were a whole row are that row wherever a row must begin.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from copy import deepcopy
from itertools import accumulate
from typing import TypeVar

from attrs import Factory, define, evolve, field, frozen

from trooper_async._api.endpoints import ORDERS
from trooper_async._api.rows import Rows
from trooper_async._base.converter import ids_of, structure
from trooper_async._base.slices import SlicedWork
from trooper_async._waiting.judges import Blank, Sighting
from trooper_async.errors import ResponseFormatError
from trooper_async.models import JSON, Order

T = TypeVar("T")

_MOST_ODD = 10_000
"""Rows that can't be read: where there are more, it is no list of orders."""


@frozen
class _Layout:
    """Where the rows stand in an answer's body."""

    body: bytes | None = None
    start: int = 0
    """Where the first row begins."""
    ids: list[int | None] = field(factory=list)
    """The order of each row; None where it can't be read."""
    sizes: list[int] = field(factory=list)
    """Of each row but the last: its bytes, with the comma and the white space up to the next."""
    odd: list[int] = field(factory=list)
    """Rows that are decoded each time: the last one, unreadable ones, and those of an order that has several."""


@frozen
class Snapshot:
    """The account's orders as one answer showed them."""

    orders: dict[int, Order] = field(factory=dict)
    unreadable: dict[int, ResponseFormatError] = field(factory=dict)
    """Rows of which only the id can be read."""
    server_ids: dict[int, int] = field(factory=dict)
    """The servers' ids by order, where they can be read: of rows that can't be read otherwise too."""
    complete: bool = True
    """Whether an id that is not here is not there: every row's id could be read."""
    changed: frozenset[int] = frozenset()
    """The ids whose order is new, or another than in the snapshot before, or readable in one of the two only."""
    gone: frozenset[int] = frozenset()
    """The ids that were in the snapshot before."""
    layout: _Layout = field(factory=_Layout, repr=False, eq=False)

    def next(self, rows: Rows) -> SlicedWork[Snapshot]:
        """The snapshot of the answer that came after this one's.

        Raises:
            ResponseFormatError: it is no JSON, or too few of its rows can be read.
        """
        if rows.body == self.layout.body:
            return self.unchanged()
        start = rows.at
        reading = _Reading(self, self.layout, rows)
        yield from reading.read()
        if not reading.is_certain:
            reading = _Reading(self, _Layout(), Rows(rows.body, start))
            yield from reading.read()
        return reading.snapshot(start)

    def sighting(self, order_id: int) -> Sighting:
        """What this snapshot shows of an order."""
        order = self.orders.get(order_id)
        if order is not None:
            return detached(order)
        return Blank.ABSENT if self.complete and order_id not in self.unreadable else Blank.UNREADABLE

    def unchanged(self) -> Snapshot:
        """The snapshot of an answer that says nothing has changed (304)."""
        return evolve(self, changed=frozenset(), gone=frozenset()) if self.changed or self.gone else self

    def found(self) -> list[Order]:
        """The orders that can be read, in the answer's order."""
        ids = dict.fromkeys(self.layout.ids)
        return [detached(self.orders[order_id]) for order_id in ids if order_id in self.orders]

    def listed(self) -> list[Order] | None:
        """The order of each row; None where one of them can't be read."""
        if self.unreadable or not self.complete:
            return None
        return [detached(self.orders[order_id]) for order_id in self.layout.ids if order_id is not None]


@define
class _Reading:
    """An answer on the way to a snapshot: rows that stand in the last answer are taken, the others are decoded."""

    last: Snapshot
    layout: _Layout
    """The last answer's; an empty one where nothing is to be taken from it."""
    rows: Rows
    orders: dict[int, Order] = Factory(lambda self: self.last.orders.copy(), takes_self=True)
    unreadable: dict[int, ResponseFormatError] = Factory(lambda self: self.last.unreadable.copy(), takes_self=True)
    server_ids: dict[int, int] = Factory(lambda self: self.last.server_ids.copy(), takes_self=True)
    changed: set[int] = Factory(set)
    gone: set[int] = Factory(set)
    decoded: dict[int, int] = Factory(dict)
    """The orders of the rows that were decoded, and the first row of each."""
    complete: bool = True
    ids: list[int | None] = Factory(list)
    sizes: list[int] = Factory(list)
    odd: set[int] = Factory(set)
    expected: int = 0
    """The row of the last answer that comes next if nothing changed."""
    taken: list[tuple[int, int]] = Factory(list)
    """Runs of the last answer's rows: the first, and the one after the last."""
    offsets: list[int] = Factory(
        lambda self: list(accumulate(self.layout.sizes, initial=self.layout.start)), takes_self=True
    )
    """Where the last answer's rows begin."""
    places: dict[int | None, int] = Factory(dict)
    """The last answer's rows by order, once that is needed."""

    def read(self) -> SlicedWork[None]:
        while not self.rows.ended:
            if not self._take():
                self._decode()
            yield
        self._end()

    def _take(self) -> bool:
        """Take all rows that stand here as in the last answer; whether there are any."""
        if self.layout.body is None or self.expected >= len(self.layout.ids):
            return False
        first = row = self.expected
        limit = self.layout.odd[bisect_left(self.layout.odd, row)]
        body, at, last, offsets = self.rows.body, self.rows.at, memoryview(self.layout.body), self.offsets
        step, growing = 1, True
        while step:  # 1, 2, 4, … rows at a time as long as they are the same, then half as many each time
            after = row + step
            if after <= limit and body.startswith(last[offsets[row] : offsets[after]], at):
                at += offsets[after] - offsets[row]
                row = after
            else:
                growing = False
            step = 2 * step if growing else step // 2
        if row == first:
            return False
        self.rows.skip(row - first, at - self.rows.at)
        self.expected = row
        self.taken.append((first, row))
        self.ids += self.layout.ids[first:row]
        self.sizes += self.layout.sizes[first:row]
        return True

    def _decode(self) -> None:
        index, at = self.rows.count, self.rows.at
        row = self.rows.read()
        if self.rows.ended:
            self.odd.add(index)
        else:
            self.sizes.append(self.rows.at - at)
        order_id, server_id = ids_of(row) or (None, None)
        self.ids.append(order_id)
        if order_id is None:
            self.complete = False
            self._mark_odd(index)
        else:
            self._put(index, order_id, server_id, row)
        self._follow(order_id)

    def _put(self, index: int, order_id: int, server_id: int | None, row: JSON) -> None:
        order: Order | None = None
        fault: ResponseFormatError | None = None
        try:
            order = structure(row, Order)
        except ResponseFormatError as error:
            fault = ResponseFormatError(f"$[{index}]{error.path[1:]}", error.expected)
        if fault is not None:
            self._mark_odd(index)
        first = self.decoded.setdefault(order_id, index)
        if first != index:
            self._mark_odd(first)
            self._mark_odd(index)
            if (self.orders.get(order_id), self.server_ids.get(order_id)) == (order, server_id):
                return
            # two rows that contradict each other: believe neither
            order, server_id, fault = None, None, ResponseFormatError(f"$[{index}].order_id", "there once")
        before = self.last.orders.get(order_id)
        if order == before and (order is not None or order_id in self.last.unreadable):
            self.changed.discard(order_id)
        else:
            self.changed.add(order_id)
        _set(self.orders, order_id, order)
        _set(self.unreadable, order_id, fault)
        _set(self.server_ids, order_id, server_id)

    def _mark_odd(self, index: int) -> None:
        self.odd.add(index)
        if len(self.odd) > _MOST_ODD:
            raise ResponseFormatError("$", "a list of orders")

    def _follow(self, order_id: int | None) -> None:
        """What is expected after a row of this order. One that is new stands between two others."""
        ids = self.layout.ids
        if self.expected < len(ids) and ids[self.expected] == order_id:
            self.expected += 1
        elif order_id is not None:
            if not self.places:
                self.places = {order_id: row for row, order_id in enumerate(ids)}
            self.expected = self.places.get(order_id, self.expected - 1) + 1

    def _end(self) -> None:
        """Take away the orders of which no row stands here any more."""
        end = 0
        for first, after in [*sorted(self.taken), (len(self.last.layout.ids), 0)]:
            self.gone.update(order_id for order_id in self.last.layout.ids[end:first] if order_id is not None)
            end = max(end, after)
        self.gone -= self.decoded.keys()
        for order_id in self.gone:
            for by_order in (self.orders, self.unreadable, self.server_ids):
                by_order.pop(order_id, None)

    @property
    def is_certain(self) -> bool:
        """Whether no row was taken twice, nor one of an order of which another was decoded: then two are one here."""
        rows = len(self.decoded) + sum(after - first for first, after in self.taken)
        return rows == len(self.orders) + len(self.unreadable)

    def snapshot(self, start: int) -> Snapshot:
        layout = _Layout(self.rows.body, start, self.ids, self.sizes, sorted(self.odd))
        return Snapshot(
            self.orders,
            self.unreadable,
            self.server_ids,
            self.complete,
            frozenset(self.changed),
            frozenset(self.gone),
            layout,
        )


def orders_after(last: Callable[[], Snapshot]) -> Callable[[Rows], SlicedWork[Snapshot]]:
    """Reads the list of orders as what has changed since the last: a row that can't be read costs only itself.

    `last` is asked when the response is there: a call, and an error that holds it, holds no list.
    """
    return lambda rows: last().next(rows)


def all_orders_after(last: Callable[[], Snapshot]) -> Callable[[Rows], SlicedWork[tuple[list[Order], Snapshot]]]:
    """The same, and each row's order; a row that can't be read is an error."""

    def read(rows: Rows) -> SlicedWork[tuple[list[Order], Snapshot]]:
        start = rows.at
        after = yield from last().next(rows)
        orders = after.listed()
        if orders is None:
            assert ORDERS.read_rows is not None  # noqa: S101 - of a list
            orders = yield from ORDERS.read_rows(Rows(rows.body, start))
        return orders, after

    return read


def detached(order: Order) -> Order:
    """An order for somebody to keep: what can be changed in it, an install's settings, is a copy."""
    if not any(install.config for install in order.template_installs or ()):
        return order
    return evolve(order, template_installs=deepcopy(order.template_installs))


def _set(by_order: dict[int, T], order_id: int, value: T | None) -> None:
    if value is None:
        by_order.pop(order_id, None)
    else:
        by_order[order_id] = value
