"""What tests need to know about the orders of a fake server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trooper_async import Order
from trooper_async.testing import FakeTrooper


def order_of(fake: FakeTrooper, server_id: int) -> int:
    """The id of the order that a `serverId` belongs to."""
    return fake._world.by_server_id[server_id].order_id


def sent_of(fake: FakeTrooper) -> list[tuple[int, str]]:
    """The actions that were sent and accepted, in order: the order's id, and the API's word for the action."""
    sent = [one for one in fake.requests if one.path == "/api/order-status" and (one.status or 200) < 400]
    return [(order_of(fake, one.json["serverId"]), one.json["action"]) for one in sent]


def status_of(fake: FakeTrooper, order: Order | int) -> str:
    """An order's current status, without a request."""
    order_id = order if isinstance(order, int) else order.order_id
    return fake._world.order(order_id, fake._now())[1].current


@contextmanager
def outage(fake: FakeTrooper, *paths: str) -> Iterator[None]:
    """Every request to these paths fails with a 503, until the block ends."""
    for path in paths:
        fake.fail_next(path, status=503, times=100_000)
    try:
        yield
    finally:
        for path in paths:
            fake._pending_faults[path].clear()


def polls_since(fake: FakeTrooper, path: str) -> int:
    """How often the orders were listed since the last request to that path; 0 if there was none."""
    paths = [request.path for request in list(fake.requests)][::-1]
    return paths[: paths.index(path)].count("/api/orders") if path in paths else 0
