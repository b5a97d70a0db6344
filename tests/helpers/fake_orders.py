"""What a test has to know of the orders of a fake server."""

from __future__ import annotations

from trooper_async.testing import FakeTrooper


def order_of(fake: FakeTrooper, server_id: int) -> int:
    """The id of the order that a `serverId` belongs to."""
    return fake._world.by_server_id[server_id].order_id
