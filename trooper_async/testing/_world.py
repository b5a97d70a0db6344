"""The fake's state: offers, orders, templates, and how they change with time.

It has no clock, no socket and no JSON. The time is an argument (`now`, in seconds of the fake's clock). No task changes
a server's status: it is looked up in the server's phases, so it is known for any time, past ones included.
"""

from __future__ import annotations

import itertools
import math
import secrets
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal, NamedTuple, TypedDict, Unpack

from trooper_async.testing._profile import Course, Profile
from trooper_async.testing._stock import TEMPLATES, FakeBlib, Template, blibs

LOOPBACK = "127.0.0.1"
SERVER_IDS = 100_000  # added to an order's id, so that a client that confuses the two ids fails
# Only HOUR is spelled in the document, the others are by analogy. What a MONTH or YEAR costs is not documented.
INTERVAL_HOURS = {"HOUR": 1, "DAY": 24, "WEEK": 168, "MONTH": 720, "YEAR": 8760}


class Action(NamedTuple):
    """An action of POST /api/order-status: its verb, the status at its end, the history's text."""

    verb: Literal["start", "stop", "restart", "freeze"]
    target: str
    note: str


ACTIONS = {
    "running": Action("start", "running", "Server started successfully"),
    "stopped": Action("stop", "stopped", "Server stopped by user"),
    "restarted": Action("restart", "running", "Server restarted successfully"),
    "frozen": Action("freeze", "frozen", "Server frozen by user"),
}


@dataclass(frozen=True, slots=True)
class Phase:
    """What an order shows from a certain time on."""

    since: float
    current: str
    desired: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """A row of the history."""

    since: float
    status: str
    note: str


@dataclass(slots=True)
class Install:
    """A template that is being installed, or is installed, on a server."""

    install_id: int
    template_id: int
    template_name: str
    config: dict[str, object]
    queued: float
    seconds: float
    fails: bool

    def at(self, when: float) -> tuple[int, str]:
        """The status code and its text. Only `1` / `Completed` is documented."""
        if when < self.queued + self.seconds / 4:
            return 0, "Queued"
        if when < self.queued + self.seconds:
            return 2, "Installing"
        return (3, "Failed") if self.fails else (1, "Completed")


class OrderFields(TypedDict, total=False):
    """The fields of an order that `add_order` sets. They mean what they mean in `trooper_async.Order`.

    Attributes:
        order_id: the order's id.
        server_id: the server's id.
        blib_id: the offer that was ordered; the fields of the server and the price come from it.
        title: the title.
        server_name: the server's name.
        machine_name: the name of the machine that it runs on.
        ip: its address.
        ssh_port: the port of its SSH server.
        price_h: EUR per hour.
        paid_until: the end of the prepaid period.
        contract_interval: what is prepaid at a time, such as `HOUR`.
        is_locked: whether it is locked.
        is_low_priority: whether it is a low-priority server.
        blib_name: the name of the offer.
        blib_gpu_type: the GPU model.
        blib_gpu_num: how many GPUs it has.
        country_code: where it is.
    """

    order_id: int
    server_id: int
    blib_id: int
    title: str
    server_name: str
    machine_name: str
    ip: str
    ssh_port: int
    price_h: Decimal
    paid_until: datetime
    contract_interval: str
    is_locked: bool
    is_low_priority: bool
    blib_name: str
    blib_gpu_type: str
    blib_gpu_num: int
    country_code: str


@dataclass(slots=True, kw_only=True)
class Server:
    """An order: a rented server."""

    phases: list[Phase]
    changes: list[Change]
    order_id: int
    server_id: int
    blib_id: int
    title: str
    server_name: str
    machine_name: str
    ip: str
    ssh_port: int
    price_h: Decimal
    paid_until: datetime
    contract_interval: str = "HOUR"
    is_locked: bool = False
    is_low_priority: bool = False
    blib_name: str
    blib_gpu_type: str
    blib_gpu_num: int
    country_code: str
    gone: float = math.inf
    installs: list[Install] = field(default_factory=list)
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12), repr=False)

    @property
    def is_leaving(self) -> bool:
        """Whether it vanishes at the end of a migration."""
        return self.gone < math.inf

    def at(self, when: float) -> Phase | None:
        """The phase at a time; None before the order exists and once it is gone."""
        if when >= self.gone:
            return None
        return next((phase for phase in reversed(self.phases) if phase.since <= when), None)

    def enter(self, now: float, phases: list[Phase], changes: list[Change]) -> None:
        """Replace the phases that are still to come by these."""
        self.phases = [phase for phase in self.phases if phase.since <= now] + phases
        self.changes = [change for change in self.changes if change.since <= now] + changes

    def history(self, when: float) -> list[tuple[int, Change]]:
        """The last five changes, numbered, newest first."""
        return list(enumerate(change for change in self.changes if change.since <= when))[:-6:-1]


def switched(since: float, current: str, desired: str | None) -> tuple[list[Phase], list[Change]]:
    """What an order shows after somebody else has changed it, and the history row if it is in its desired status."""
    wanted = current if desired is None else desired
    changes = [Change(since, current, f"Server {current}")] if wanted == current else []
    return [Phase(since, current, wanted)], changes


@dataclass(slots=True, kw_only=True)
class World:
    """All state of the fake, and the rules by which it changes."""

    epoch: datetime = datetime(2025, 9, 25, tzinfo=UTC)
    """The wall-clock time at which `now` was 0."""
    profile: Profile
    durations: dict[str, float]
    ssh_ports: tuple[int, ...] = (22001, 22002)
    budget: Decimal | None = None
    failing_templates: set[int] = field(default_factory=set)
    blibs: dict[int, FakeBlib] = field(default_factory=blibs)
    templates: dict[int, Template] = field(default_factory=lambda: dict(enumerate(TEMPLATES, start=1)))
    servers: dict[int, Server] = field(default_factory=dict)
    """By order id."""
    by_server_id: dict[int, Server] = field(default_factory=dict)
    passed: deque[float] = field(default_factory=deque)
    """Arrival times of the requests that count for the rate limit."""
    next_id: int = 123  # the document's
    install_ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def present(self, when: float) -> list[tuple[Server, Phase]]:
        """The orders that exist at a time, with their phases."""
        return [(server, phase) for server in self.servers.values() if (phase := server.at(when))]

    def offers(self) -> list[FakeBlib]:
        """The offers. This is a new list, since a test may change the dict meanwhile."""
        return list(self.blibs.values())

    def order(self, order_id: int, when: float) -> tuple[Server, Phase]:
        """The order of that id and its phase, or LookupError."""
        server = self.servers.get(order_id)
        phase = server and server.at(when)
        if not server or not phase:
            raise LookupError(f"the fake has no order {order_id}")
        return server, phase

    def server(self, server_id: int, when: float) -> tuple[Server, Phase]:
        """The order of that server id and its phase, or LookupError."""
        server = self.by_server_id.get(server_id)
        phase = server and server.at(when)
        if not server or not phase:
            raise LookupError(f"the fake has no server {server_id}")
        return server, phase

    def add(self, phases: list[Phase], changes: list[Change], now: float, **fields: Unpack[OrderFields]) -> Server:
        """Add an order; fields that are not given are derived from its id and its blib."""
        order_id = fields.get("order_id", self.next_id)
        self.next_id = max(self.next_id, order_id + 1)
        blib_id = fields.get("blib_id", min(self.blibs))
        if blib_id not in self.blibs:
            raise ValueError(f"the fake has no offer {blib_id!r}: there are {', '.join(map(str, self.blibs))}")
        blib = self.blibs[blib_id]
        hours = INTERVAL_HOURS.get(fields.get("contract_interval", "HOUR"), 1)
        said: OrderFields = {
            "order_id": order_id,
            "server_id": SERVER_IDS + order_id,
            "blib_id": blib.id,
            "title": f"Server {order_id}",
            "server_name": f"gpu-server-{order_id}",
            "machine_name": f"ai99_trooperai_{order_id:06}",
            "ip": LOOPBACK,
            "ssh_port": self.ssh_ports[0],
            "price_h": blib.price_h,
            "paid_until": self.moment(now).replace(microsecond=0) + timedelta(hours=hours),
            "blib_name": blib.name,
            "blib_gpu_type": blib.gpu_type,
            "blib_gpu_num": blib.gpu_num,
            "country_code": blib.country_code,
            **fields,
        }
        server = Server(phases=phases, changes=changes, **said)
        self.servers[order_id] = self.by_server_id[server.server_id] = server
        return server

    def moment(self, when: float) -> datetime:
        """A time of the fake's clock as wall-clock time."""
        return self.epoch + timedelta(seconds=when)

    def journey(self, action: str, now: float, before: Phase | None, note: str) -> tuple[list[Phase], list[Change]]:
        """The phases of an order from now on, scaled to the action's duration; `before` is what it showed."""
        course, duration = self.course(action), self.durations[action]

        def moment(after: float) -> float:
            return now + (after * duration / course.seconds if course.seconds else after + duration)

        phases = [
            Phase(
                moment(step.after),
                step.current or (before.current if before else "unknown"),
                step.desired or (before.desired if before else None),
            )
            for step in course.steps
        ]
        return phases, [Change(moment(row.after), row.status, note) for row in course.history]

    def course(self, action: str) -> Course:
        """How an action proceeds."""
        course: Course = getattr(self.profile.actions, action)
        return course

    def switch(self, server: Server, now: float, action: Action, migration_allowed: bool) -> Course | None:
        """Carry out POST /api/order-status; nothing happens if the server already has the status or is in transition to
        it.
        """
        last, (_, phase) = server.phases[-1], self.order(server.order_id, now)
        if action.verb != "restart" and last.current == action.target and last.desired in (action.target, None):
            return None
        name = str(action.verb)
        if action.verb == "start" and phase.current == "frozen":
            name = "thaw"
            if migration_allowed:
                name = "migrate"
                server.ip, server.ssh_port = LOOPBACK, self.other_port(server)
        server.enter(now, *self.journey(name, now, phase, action.note))
        return self.course(name)

    def set_status(self, server: Server, now: float, current: str, desired: str | None) -> None:
        """Change the status as somebody else would; without a desired status, it has converged."""
        server.enter(now, *switched(now, current, desired))
        server.gone = math.inf

    def create(self, blib: FakeBlib, now: float, contract_interval: str, template_ids: list[int]) -> Server:
        """Carry out POST /api/order. The templates are installed once the server runs."""
        phases, changes = self.journey("create", now, None, "Server started successfully")
        server = self.add(phases, changes, now, blib_id=blib.id, contract_interval=contract_interval)
        for template_id in template_ids:
            self.install(server, now + self.durations["create"], template_id, {})
        return server

    def migrate(self, old: Server, now: float, blib: FakeBlib, keep_data: bool) -> Server:
        """Replace an order by one of another blib: both exist during the migration, and the old one vanishes at its
        end.
        """
        _, phase = self.order(old.order_id, now)
        phases, changes = self.journey("migrate", now, None, "Server migrated successfully")
        old.enter(now, [Phase(now, phases[0].current, phase.desired)], [])
        old.gone = now + self.durations["migrate"]
        new = self.add(
            phases,
            changes,
            now,
            blib_id=blib.id,
            title=old.title,
            ssh_port=self.other_port(old),
            contract_interval=old.contract_interval,
            paid_until=old.paid_until,
        )
        new.installs = list(old.installs) if keep_data else []
        return new

    def other_port(self, server: Server) -> int:
        """A port that the server did not have before its migration."""
        return next(port for port in self.ssh_ports if port != server.ssh_port)

    def install(self, server: Server, now: float, template_id: int, config: dict[str, object]) -> Install:
        """Carry out POST /api/template-install-add."""
        name = self.templates[template_id].name
        install = Install(next(self.install_ids), template_id, name, config, now, 0.0, False)
        self.run(install, now)
        server.installs.append(install)
        return install

    def run(self, install: Install, now: float) -> None:
        """Start an installation, or start it again."""
        install.queued, install.seconds = now, self.durations["install"]
        install.fails = install.template_id in self.failing_templates

    def find_install(self, install_id: int, now: float) -> tuple[Server, Install]:
        """The installation of that id and the order that it is on, or LookupError."""
        for server, _ in self.present(now):
            for install in server.installs:
                if install.install_id == install_id:
                    return server, install
        raise LookupError(f"the fake has no template installation {install_id}")
