"""The answer of `GET /api/orders` → the orders, what changed in them, and what is gone.

Read tolerantly: a row that can't be read costs only itself. What did not change is not decoded again.
"""

from __future__ import annotations

from typing import Self

from attrs import evolve, field, frozen

from trooper_async._convergence import Blank, Sighting
from trooper_async._converter import ids_of, loads, structure
from trooper_async.errors import ResponseFormatError
from trooper_async.models import JSON, Order


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
    """The ids whose row is new or another than in the snapshot before."""
    gone: frozenset[int] = frozenset()
    """The ids that were in the snapshot before."""
    _rows: dict[int, JSON] = field(factory=dict, repr=False, alias="rows")
    _body: bytes | None = field(default=None, repr=False, alias="body")

    @classmethod
    def of(cls, data: JSON) -> Self:
        """The snapshot of an answer's JSON."""
        return cls()._next(data, None)

    def next(self, body: bytes) -> Self:
        """The snapshot of the answer that came after this one's.

        Raises:
            ResponseFormatError: the answer is no list.
        """
        return self.unchanged() if body == self._body else self._next(loads(body), body)

    def sighting(self, order_id: int) -> Sighting:
        """What this snapshot shows of an order."""
        order = self.orders.get(order_id)
        if order is not None:
            return order
        return Blank.ABSENT if self.complete and order_id not in self.unreadable else Blank.UNREADABLE

    def unchanged(self) -> Self:
        """The snapshot of an answer that says nothing has changed (304)."""
        return evolve(self, changed=frozenset(), gone=frozenset())

    def _next(self, data: JSON, body: bytes | None) -> Self:
        if not isinstance(data, list):
            raise ResponseFormatError("$", "a list")
        orders: dict[int, Order] = {}
        unreadable: dict[int, ResponseFormatError] = {}
        rows: dict[int, JSON] = {}
        server_ids: dict[int, int] = {}
        changed: set[int] = set()
        complete = True
        for index, row in enumerate(data):
            ids = ids_of(row)
            if ids is None:
                complete = False
                continue
            order_id, server_id = ids
            if order_id in rows:
                if rows[order_id] != row:  # two rows that contradict each other: believe neither
                    orders.pop(order_id, None)
                    server_ids.pop(order_id, None)
                    unreadable[order_id] = ResponseFormatError(f"$[{index}].order_id", "there once")
                    changed.add(order_id)
                    rows[order_id] = None  # nothing to compare the next answer's row with
                continue
            rows[order_id] = row
            if server_id is not None:
                server_ids[order_id] = server_id
            if self._rows.get(order_id) == row:
                if order_id in self.orders:
                    orders[order_id] = self.orders[order_id]
                else:
                    error = self.unreadable[order_id]
                    path = f"$[{index}]{error.path.partition(']')[2]}"  # it may have moved
                    unreadable[order_id] = ResponseFormatError(path, error.expected)
                continue
            changed.add(order_id)
            try:
                orders[order_id] = structure(row, Order)
            except ResponseFormatError as error:
                unreadable[order_id] = ResponseFormatError(f"$[{index}]{error.path[1:]}", error.expected)
        gone = frozenset(self._rows.keys() - rows.keys())
        return type(self)(orders, unreadable, server_ids, complete, frozenset(changed), gone, rows=rows, body=body)
