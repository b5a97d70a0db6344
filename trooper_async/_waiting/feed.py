"""What a reader of `orders.watch()` has got, and what it has still to get."""

from __future__ import annotations

from collections import OrderedDict

from trooper_async._waiting.judges import Steady
from trooper_async._waiting.store import Snapshot, detached
from trooper_async._waiting.subscription import Subscription
from trooper_async.models import Order, OrderChange


class Feed:
    """One reader's feed. A slow reader gets the latest state of each order: it is bounded by the number of orders."""

    def __init__(self, cap: float, interval: float) -> None:
        self.ticket = Subscription(self._observe, None, every=interval)
        self._cap = cap
        self._orders: dict[int, Order] = {}
        self._yielded: dict[int, Order] = {}
        self._pending: OrderedDict[int, None] = OrderedDict()
        self._absent: dict[int, Steady] = {}
        self._vanished: set[int] = set()
        self._begun = False

    def _observe(self, snapshot: Snapshot, at: float, answered: float) -> bool:
        changed = snapshot.changed if self._begun else snapshot.orders.keys()
        self._begun = True
        self._orders = snapshot.orders
        for order_id in changed:
            self._absent.pop(order_id, None)
            self._vanished.discard(order_id)
            self._pending[order_id] = None
        for order_id in snapshot.gone:
            self._absent[order_id] = Steady(self._cap)
        for order_id, absent in list(self._absent.items()):
            if not snapshot.complete:
                absent.reset()
            elif absent.seen(at):
                del self._absent[order_id]
                self._vanished.add(order_id)
                self._pending[order_id] = None
        if self._pending:
            self.ticket.tell()
        return False

    def take(self) -> OrderChange | None:
        """The next change, or None where there is none."""
        while self._pending:
            order_id, _ = self._pending.popitem(last=False)
            previous = self._yielded.get(order_id)
            order = self._orders.get(order_id)
            if order_id in self._vanished:
                self._vanished.discard(order_id)
                if previous is not None:
                    del self._yielded[order_id]
                    return OrderChange(previous, previous, order_id, "vanished")
            elif order is not None and order != previous:
                self._yielded[order_id] = order = detached(order)
                return OrderChange(order, previous, order_id, "changed" if previous else "appeared")
        return None
