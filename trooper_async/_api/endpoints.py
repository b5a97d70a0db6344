"""Every endpoint of the API in one table: how it is called, what calling it twice does, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from functools import cached_property
from typing import Generic, Never, TypeVar

from attrs import Factory, field, frozen

from trooper_async._api.rows import Rows
from trooper_async._base.converter import structure
from trooper_async._base.json_text import dumps
from trooper_async._base.slices import SlicedWork
from trooper_async.errors import ResponseFormatError
from trooper_async.models import (
    JSON,
    Blib,
    Credentials,
    MigrationOptions,
    MigrationQuote,
    Order,
    StatusChange,
    Template,
    TemplateInstall,
    Transition,
)

T = TypeVar("T")
Sent = Mapping[str, JSON]


class Repeatability(Enum):
    """What sending a request twice does."""

    READ = "read"
    """Nothing."""
    SETTING = "setting"
    """Nothing more than once: it sets a state (stop, lock, title)."""
    ONCE = "once-only"
    """It happens twice (restart, template install)."""
    PURCHASE = "purchase"
    """It is billed twice."""


@frozen
class Endpoint(Generic[T]):
    """One endpoint: how it is called, what calling it twice does, and what it returns."""

    method: str
    path: str
    kind: Repeatability
    read: Callable[[JSON, Sent], T] = field(repr=False)
    """(the response's JSON, what was sent) → the result; raises ResponseFormatError."""
    public: bool = False
    """Whether it can be called without a key."""
    read_rows: Callable[[Rows], SlicedWork[T]] | None = field(default=None, repr=False)
    """As `read`, for a list that is read row by row."""


@frozen
class Call(Generic[T]):
    """One call of an endpoint."""

    endpoint: Endpoint[T]
    operation: str
    """What is attempted, for people: `orders.stop`."""
    subject: str = ""
    """On what, for people: `order 123`."""
    sent: Sent = field(factory=dict, repr=False)
    """The fields of the request."""
    kind: Repeatability = field(default=Factory(lambda call: call.endpoint.kind, takes_self=True), kw_only=True)
    """What sending it twice does, if that differs from the endpoint's own."""
    transition: Transition | None = field(default=None, kw_only=True)
    """What can be waited for if the response is lost."""
    decode: Callable[[Rows], SlicedWork[T]] | None = field(default=None, repr=False, kw_only=True)
    """Reads the rows of a list, in place of the endpoint's own `read_rows`."""
    fresh: bool = field(default=False, kw_only=True)
    """Whether a response from a cache is refused."""

    @cached_property
    def body(self) -> bytes | None:
        """The request's JSON body; a GET sends the same fields as its query."""
        return None if self.endpoint.method == "GET" else dumps(dict(self.sent))

    @property
    def query(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.sent.items()} if self.endpoint.method == "GET" else {}


# What each endpoint returns -----------------------------------------------------------------------------------------


def list_of(read_row: Callable[[JSON], T]) -> Callable[[Rows], SlicedWork[list[T]]]:
    """Read a list row by row."""

    def read(rows: Rows) -> SlicedWork[list[T]]:
        items: list[T] = []
        while not rows.ended:
            row = rows.read()
            try:
                items.append(read_row(row))
            except ResponseFormatError as error:
                fault = error.inside(f"$[{len(items)}]")
                break
            yield
        else:
            return items
        raise fault

    return read


def _list_of(model: type[T]) -> Callable[[Rows], SlicedWork[list[T]]]:
    return list_of(lambda row: structure(row, model))


def _no_list(data: JSON, sent: Sent) -> Never:
    raise ResponseFormatError("$", "a list")


def _field(name: str, kind: type[T]) -> Callable[[JSON, Sent], T]:
    def read(data: JSON, sent: Sent) -> T:
        value = _envelope(data).get(name)
        if value is None:
            raise ResponseFormatError(f"$.{name}", "there")
        try:
            return structure(value, kind)
        except ResponseFormatError as error:
            fault = error.inside(f"$.{name}")
        raise fault

    return read


def _whole(model: type[T]) -> Callable[[JSON, Sent], T]:
    return lambda data, sent: structure(_envelope(data), model)


def accepted(data: JSON, sent: Sent) -> None:
    """Nothing is read: a 2xx without `success: false` means that the request was accepted."""


def _quote(data: JSON, sent: Sent) -> MigrationQuote:
    # the response does not say which order and offer it is for
    return structure({**_envelope(data), **sent}, MigrationQuote)


def _envelope(data: JSON) -> dict[str, JSON]:
    """The fields of an object, without `success`."""
    if not isinstance(data, dict):
        raise ResponseFormatError("$", "an object")
    return {name: value for name, value in data.items() if name != "success"}


TEST = Endpoint("GET", "/api/test", Repeatability.READ, _field("test", str), public=True)
BLIBS = Endpoint("GET", "/api/blibs", Repeatability.READ, _no_list, public=True, read_rows=_list_of(Blib))
BLIBS_PRIVATE = Endpoint("GET", "/api/blibs-private", Repeatability.READ, _no_list, read_rows=_list_of(Blib))
ORDER = Endpoint("POST", "/api/order", Repeatability.PURCHASE, _field("orderId", int))
ORDERS = Endpoint("GET", "/api/orders", Repeatability.READ, _no_list, read_rows=_list_of(Order))
# a restart, and a start that may migrate, are Repeatability.ONCE: orders says so when it calls
ORDER_STATUS = Endpoint("POST", "/api/order-status", Repeatability.SETTING, accepted)
ORDER_TITLE = Endpoint("POST", "/api/order-title", Repeatability.SETTING, accepted)
ORDER_LOCK = Endpoint("POST", "/api/order-lock", Repeatability.SETTING, accepted)
CREDENTIALS = Endpoint("POST", "/api/credentials", Repeatability.READ, _whole(Credentials))
STATUS_HISTORY = Endpoint("GET", "/api/order-status-history", Repeatability.READ, _field("history", list[StatusChange]))
MIGRATION_OPTIONS = Endpoint("GET", "/api/migration-options", Repeatability.READ, _whole(MigrationOptions))
MIGRATION_COST = Endpoint("POST", "/api/migration-cost", Repeatability.READ, _quote)
BUY_MIGRATION = Endpoint("POST", "/api/buy-migration", Repeatability.PURCHASE, _field("new_order_id", int))
TEMPLATES = Endpoint("GET", "/api/templates", Repeatability.READ, _no_list, public=True, read_rows=_list_of(Template))
TEMPLATE_CONFIG = Endpoint(
    "GET", "/api/template-config", Repeatability.READ, _field("templates", list[TemplateInstall])
)
INSTALL_ADD = Endpoint("POST", "/api/template-install-add", Repeatability.ONCE, _field("install_id", int))
INSTALL_DELETE = Endpoint("POST", "/api/template-install-delete", Repeatability.SETTING, accepted)
INSTALL_RETRY = Endpoint("POST", "/api/template-install-retry", Repeatability.ONCE, accepted)
