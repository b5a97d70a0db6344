"""What a test can see and change while the fake runs. It knows the world, but neither sockets nor HTTP.

One lock guards the world, so that a test and the server's thread can use it at the same time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import RLock
from typing import Any, Unpack

from trooper_async.models import Order, status_word
from trooper_async.testing._faults import Faults, check_path
from trooper_async.testing._stock import FakeBlib
from trooper_async.testing._world import OrderFields, Server, World, switched


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request that the fake has received. Headers are not kept, and the repr shows neither query nor body."""

    method: str
    """`GET` or `POST`, as sent."""
    path: str
    """The path, without the query."""
    query: dict[str, str] = field(repr=False)
    """The parameters of the query."""
    json: Any = field(repr=False)
    """The decoded body; None if there is none or it cannot be decoded. (Any: whatever the tested program sends.)"""
    status: int | None
    """The status of the response; None if the connection was cut."""
    started: float
    """When it arrived, in seconds of `time.monotonic()`."""


class Controls(Faults):
    """The part of `FakeTrooper` with which a test inspects and changes the world, from any thread.

    Args:
        make_world: Makes the world, now and at each `reset`.
    """

    def __init__(self, make_world: Callable[[], World]) -> None:
        super().__init__()
        self.requests: list[RecordedRequest] = []
        """The requests received so far, in order."""
        self._make_world, self._world = make_world, make_world()
        self._lock = RLock()
        self._clock = time.monotonic
        self._advanced = 0.0  # seconds by which `advance` has moved the clock forward
        self._is_running = False

    @property
    def durations(self) -> dict[str, float]:
        """Seconds that each transition takes: `fake.durations["stop"] = 60` applies from the next transition on."""
        return self._world.durations

    @property
    def blibs(self) -> dict[int, FakeBlib]:
        """The offers, by id. Prices and availability can be changed: `fake.blibs[2].is_available = False`."""
        return self._world.blibs

    @property
    def budget(self) -> Decimal | None:
        """EUR left for migrations; None is no limit."""
        return self._world.budget

    @budget.setter
    def budget(self, budget: Decimal | None) -> None:
        self._world.budget = budget

    @property
    def failing_templates(self) -> set[int]:
        """Ids of templates whose installations fail from now on, also when they are retried."""
        return self._world.failing_templates

    def sent(self, path: str) -> list[Any]:
        """The JSON bodies of all requests to a path so far, in order: `assert fake.sent("/api/order") == []`.

        For the rest of a request, or requests without a body, see `requests`.

        Args:
            path: The endpoint. One that the API does not have raises a ValueError, since the assertion would prove
                nothing.
        """
        check_path(path)
        return [request.json for request in self.requests if request.path == path]

    def add_order(
        self, *, status: str = "running", desired_status: str | None = None, **fields: Unpack[OrderFields]
    ) -> Order:
        """Add an order that has existed for an hour.

        Args:
            status: Its current status; any word.
            desired_status: Its desired status, if that is a different one.
            fields: The other fields of an `Order` by their names and types (`price_h=Decimal("0.9")`), or `blib_id`:
                what it is an instance of. The order is at 127.0.0.1, and behind its default `ssh_port` there is a
                greeting as of an SSH server.

        Returns:
            The order as `orders.get` would return it.
        """
        if not isinstance(fields.get("price_h", Decimal()), Decimal):
            raise TypeError("price_h must be a Decimal, as it is in an Order")
        with self._lock:
            now = self._now()
            taken = self._world.servers.get(fields.get("order_id", 0))
            if taken and taken.at(now):
                raise ValueError(f"the fake has an order {taken.order_id} already")
            phases, changes = switched(now - 3600, status, desired_status)
            server = self._world.add(phases, changes, now, **fields)
        wanted = None if self._world.profile.desired_field is None else phases[0].desired
        facts = {name: getattr(server, name) for name in OrderFields.__annotations__ if name != "blib_id"}
        return Order(
            current_status=status_word(status),
            desired_status=None if wanted is None else status_word(wanted),
            template_installs=(),
            **facts,
        )

    def set_status(self, order: Order | int, current: str, desired: str | None = None) -> None:
        """Change an order's status as somebody else would. A transition in progress is abandoned.

        Args:
            order: The order, or its id.
            current: Its current status from now on.
            desired: Its desired status; None for the same.
        """
        with self._lock:
            self._world.set_status(self._server(order), self._now(), current, desired)

    def remove_order(self, order: Order | int) -> None:
        """Remove an order, as if it were terminated.

        Args:
            order: The order, or its id.
        """
        with self._lock:
            self._server(order).gone = self._now()

    def advance(self, seconds: float) -> None:
        """Move the fake's clock forward, so that transitions finish sooner and no test has to sleep.

        Args:
            seconds: How far. Delays of `delay_next` are real time and are not shortened.
        """
        if not seconds >= 0:
            raise ValueError(f"the clock goes forward, by at least 0 seconds, not {seconds!r}")
        with self._lock:
            self._advanced += seconds

    def reset(self) -> None:
        """Return to the initial state, for a fake that several tests share.

        Orders, offers, durations, requests and faults are reset. Held responses are not released.
        """
        with self._lock:
            self._pending_faults.clear()
            self.requests.clear()
            self._advanced = 0.0
            world = self._make_world()
            world.ssh_ports, world.epoch = self._world.ssh_ports, self._world.epoch
            self._world = world

    def _begin(self, ssh_ports: tuple[int, ...]) -> None:
        self._world.ssh_ports = ssh_ports
        self._world.epoch = datetime.now(UTC) - timedelta(seconds=self._clock())
        self._is_running = True

    def _now(self) -> float:
        if not self._is_running:
            raise RuntimeError("this FakeTrooper is not running: use `with FakeTrooper() as fake:`")
        return self._clock() + self._advanced

    def _server(self, order: Order | int) -> Server:
        return self._world.order(order if isinstance(order, int) else order.order_id, self._now())[0]
