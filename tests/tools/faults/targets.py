"""The API's 18 endpoints as public calls, and the effect of repeating each, written down by hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from trooper_async import Blib, MigrationQuote, TrooperClient

Kind = Literal["read", "setting", "once", "purchase"]

ORDER_ID, NEW_ORDER_ID = 123, 124
BLIB = Blib(1, name="one", price_h=Decimal("0.85"))
QUOTE = MigrationQuote(ORDER_ID, 2, Decimal("3.20"))

HELPERS = {
    "/api/test": b'{"test":"x"}',
    "/api/order-status-history": b'{"history":[{"status_user":"running"}]}',
    "/api/migration-options": b'{"availableBlibs":[{"id":2}]}',
    "/api/migration-cost": b'{"totalDue":3.20}',
}
"""The API's responses to the requests before the one under test; it knows `/api/orders` itself."""


@dataclass(frozen=True)
class Target:
    """A public call, the request it is about, and the responses to it."""

    name: str
    kind: Kind
    path: str
    run: Callable[[TrooperClient], Awaitable[object]]
    good: bytes
    wrong: bytes
    """JSON that has another type where the document has one."""
    helpers: tuple[str, ...] = ()
    """The paths that are asked first, in this order."""
    action: str | None = None
    """That of the transition which an unknown outcome comes with."""

    @property
    def needs_nothing(self) -> bool:
        """Whether the response only says that the request was accepted."""
        return self.good == DONE

    def __str__(self) -> str:
        return self.name


DONE = b'{"success":true}'
NOT_DONE = b"[1]"
LOOK_UP = ("/api/orders",)
STATUS, LOCK = "/api/order-status", "/api/order-lock"

TARGETS = [
    Target("ping", "read", "/api/test", lambda c: c.ping(), b'{"test":"x"}', b'{"test":[5]}'),
    Target("blibs.list", "read", "/api/blibs", lambda c: c.blibs.list(), b'[{"id":1}]', b'[{"id":"one"}]'),
    Target(
        "blibs.list_private", "read", "/api/blibs-private", lambda c: c.blibs.list_private(), b"[]", b'[{"id":null}]'
    ),
    Target(
        "orders.list",
        "read",
        "/api/orders",
        lambda c: c.orders.list(),
        b'[{"order_id":123,"status":"running"}]',
        b'{"orders":[]}',
    ),
    Target(
        "orders.credentials",
        "read",
        "/api/credentials",
        lambda c: c.orders.credentials(ORDER_ID),
        b'{"success":true,"ip":"::1","password":"secret"}',
        b'["success"]',
        LOOK_UP,
    ),
    Target(
        "orders.history",
        "read",
        "/api/order-status-history",
        lambda c: c.orders.history(ORDER_ID),
        b'{"history":[{"status_user":"running"}]}',
        b'{"history":[{"status_user":5}]}',
    ),
    Target(
        "migrations.options",
        "read",
        "/api/migration-options",
        lambda c: c.migrations.options(ORDER_ID),
        b'{"availableBlibs":[{"id":2}]}',
        b'{"availableBlibs":5}',
    ),
    Target(
        "migrations.quote",
        "read",
        "/api/migration-cost",
        lambda c: c.migrations.quote(ORDER_ID, 2),
        b'{"totalDue":3.20}',
        b'{"totalDue":[]}',
    ),
    Target("templates.list", "read", "/api/templates", lambda c: c.templates.list(), b'[{"id":1}]', b'[{"id":{}}]'),
    Target(
        "templates.installs",
        "read",
        "/api/template-config",
        lambda c: c.templates.installs(ORDER_ID),
        b'{"templates":[{"install_id":1}]}',
        b'{"templates":[{"install_id":1.5}]}',
    ),
    Target("orders.start", "setting", STATUS, lambda c: c.orders.start(ORDER_ID), DONE, NOT_DONE, LOOK_UP, "start"),
    Target("orders.stop", "setting", STATUS, lambda c: c.orders.stop(ORDER_ID), DONE, NOT_DONE, LOOK_UP, "stop"),
    Target("orders.freeze", "setting", STATUS, lambda c: c.orders.freeze(ORDER_ID), DONE, NOT_DONE, LOOK_UP, "freeze"),
    Target(
        "orders.rename",
        "setting",
        "/api/order-title",
        lambda c: c.orders.rename(ORDER_ID, "mine"),
        DONE,
        NOT_DONE,
        LOOK_UP,
    ),
    Target("orders.lock", "setting", LOCK, lambda c: c.orders.lock(ORDER_ID), DONE, NOT_DONE, LOOK_UP),
    Target("orders.unlock", "setting", LOCK, lambda c: c.orders.unlock(ORDER_ID), DONE, NOT_DONE, LOOK_UP),
    Target(
        "templates.remove",
        "setting",
        "/api/template-install-delete",
        lambda c: c.templates.remove(5),
        DONE,
        NOT_DONE,
    ),
    Target(
        "orders.start, migration",
        "once",
        STATUS,
        lambda c: c.orders.start(ORDER_ID, migration_allowed=True),
        DONE,
        NOT_DONE,
        LOOK_UP,
        "start",
    ),
    Target(
        "orders.restart",
        "once",
        STATUS,
        lambda c: c.orders.restart(ORDER_ID),
        DONE,
        NOT_DONE,
        (*LOOK_UP, "/api/order-status-history"),
        "restart",
    ),
    Target(
        "templates.install",
        "once",
        "/api/template-install-add",
        lambda c: c.templates.install(ORDER_ID, 1),
        b'{"success":true,"install_id":5}',
        b'{"success":true,"install_id":"five"}',
    ),
    Target("templates.retry", "once", "/api/template-install-retry", lambda c: c.templates.retry(5), DONE, NOT_DONE),
    Target(
        "orders.create",
        "purchase",
        "/api/order",
        lambda c: c.orders.create(BLIB, contract_interval="HOUR", terms_accepted=True),
        b'{"success":true,"orderId":124}',
        b'{"success":true,"orderId":"new"}',
        ("/api/orders",),
    ),
    Target(
        "migrations.buy",
        "purchase",
        "/api/buy-migration",
        lambda c: c.migrations.buy(QUOTE, keep_data=True),
        b'{"success":true,"new_order_id":124}',
        b'{"success":true,"new_order_id":null}',
        ("/api/migration-options", "/api/migration-cost", "/api/orders"),
    ),
]
