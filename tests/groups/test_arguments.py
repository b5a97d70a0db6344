"""Invalid arguments of every kind, for every method: refused before anything is sent, with an error that says what is
needed.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from trooper_async import (
    Blib,
    ConfigurationError,
    MigrationQuote,
    Order,
    OrderStatus,
    Purchase,
    Template,
    TemplateInstall,
    Transition,
    TrooperClient,
)
from trooper_async.testing import FakeTrooper

Method = Callable[[TrooperClient, Any], Awaitable[object] | object]

OFFER = Blib(1, price_h=Decimal("0.85"))
ORDER = Order(123, "running")
QUOTE = MigrationQuote(123, 2, Decimal(1))
STOP = Transition(123, "stop", OrderStatus.stopped)
PURCHASE = Purchase("1", "create", 1, "unknown", datetime.now(UTC))


async def coroutine_function(_: Order) -> None:
    """Its coroutine would never be awaited."""


NO_ID: list[object] = [0, -1, True, "123", 1.5, None, b"1", [1], (ORDER,), {1}, STOP, object()]
NO_ORDER = [*NO_ID, OFFER, Template(1), TemplateInstall(1)]
NO_OFFER = [*NO_ID, ORDER, Template(1)]
NO_TEMPLATE = [*NO_ID, ORDER, OFFER, TemplateInstall(1)]
NO_INSTALL = [*NO_ID, ORDER, OFFER, Template(1)]
NO_SECONDS: list[object] = [0, -1, math.nan, True, "5", [5], 10**400]
NO_FUNCTION: list[object] = ["x", 5]
ASYNC: list[object] = [coroutine_function]
NO_MONEY: list[object] = ["cheap", -1, math.nan, True, [1]]
NO_BOOL: list[object] = ["yes", 1, None]
NO_CONFIG: list[object] = ["{}", [], 5, {1: 2}]
NO_JSON: list[object] = [{"a": object()}, {"a": b"secret"}, {"a": {1, 2}}, {"a": math.nan}]

# What the errors ask for, as far as many methods ask for it.
AN_ORDER, AN_OFFER, A_TEMPLATE, AN_INSTALL = (
    f"{what}, or its id (a whole number above 0), is needed"
    for what in ("an order", "an offer", "a template", "a template install")
)
SECONDS = " must be a number of seconds above 0, or None"
MONEY = " must be an amount of EUR of at least 0"
BOOL = " must be True or False"
ON_CHANGE = "on_change must be a function that takes an Order"
NOT_ASYNC = "on_change must be a plain function, not an async one"
CONFIG = "config must be a mapping of the template's option names to values, such as {'python_version': '3.12'}"
ADVICE = (
    "",
    " (pass its order_id, or wait for it with orders.wait)",
    " (client.fleet takes several)",
    " (it is too large)",
)


def create(trooper: TrooperClient, **changed: Any) -> Awaitable[object]:
    given: dict[str, Any] = {"blib": OFFER, "contract_interval": "HOUR", "terms_accepted": True} | changed
    return trooper.orders.create(given.pop("blib"), **given)


def create_and_wait(trooper: TrooperClient, **changed: Any) -> Awaitable[object]:
    given: dict[str, Any] = {"contract_interval": "HOUR", "terms_accepted": True} | changed
    return trooper.orders.create_and_wait(OFFER, **given)


def job(name: str, option: str) -> Method:
    """The method of a server for a job, with one option."""
    if name == "running":
        return lambda trooper, value: trooper.orders.running(ORDER, **{option: value})
    given: dict[str, Any] = {"contract_interval": "HOUR", "terms_accepted": True}
    return lambda trooper, value: trooper.orders.rented(OFFER, **given, **{option: value})


def table(operation: str, wrong: list[object], method: Method, needed: str) -> Any:
    return pytest.param(operation, method, wrong, needed, id=f"{operation} {needed}")


ORDER_METHODS = (
    "get",
    "history",
    "running_since",
    "stopped_since",
    "credentials",
    "start",
    "stop",
    "restart",
    "freeze",
    "lock",
    "unlock",
)
WITH_ORDER = [
    *(f"orders.{name}" for name in ORDER_METHODS),
    *(f"orders.{action}_and_wait" for action in ("start", "stop", "restart", "freeze")),
    "orders.wait_until_converged",
    "orders.wait_until_reachable",
    "migrations.options",
    "templates.installs",
]


def called(operation: str, option: str = "") -> Method:
    """A method, called with the value as its first argument, or for order 1 as an option."""
    group, name = operation.split(".")
    if option:
        return lambda trooper, value: getattr(getattr(trooper, group), name)(1, **{option: value})
    return lambda trooper, value: getattr(getattr(trooper, group), name)(value)


WITH_TIMEOUT = [
    *(f"orders.{action}_and_wait" for action in ("start", "stop", "restart", "freeze")),
    "orders.wait_until_converged",
    "orders.wait_until_reachable",
    "blibs.wait_until_available",
]


CASES = [
    *(table(name, NO_ORDER, called(name), AN_ORDER) for name in WITH_ORDER),
    table("orders.rename", NO_ORDER, lambda t, o: t.orders.rename(o, "a"), AN_ORDER),
    table("orders.wait_until", NO_ORDER, lambda t, o: t.orders.wait_until(o, "running"), AN_ORDER),
    table("migrations.quote", NO_ORDER, lambda t, o: t.migrations.quote(o, 1), AN_ORDER),
    table("templates.install", NO_ORDER, lambda t, o: t.templates.install(o, 1), AN_ORDER),
    table("templates.install_and_wait", NO_ORDER, lambda t, o: t.templates.install_and_wait(o, 1), AN_ORDER),
    table("templates.wait", NO_ORDER, lambda t, o: t.templates.wait(o, 1), AN_ORDER),
    table("migrations.quote", NO_OFFER, lambda t, b: t.migrations.quote(1, b), AN_OFFER),
    table("blibs.wait_until_available", NO_OFFER, lambda t, b: t.blibs.wait_until_available(b), AN_OFFER),
    table(
        "blibs.wait_until_available",
        NO_MONEY,
        called("blibs.wait_until_available", "max_price_h"),
        f"max_price_h{MONEY}",
    ),
    table("templates.install", NO_TEMPLATE, lambda t, x: t.templates.install(1, x), A_TEMPLATE),
    table("templates.install_and_wait", NO_TEMPLATE, lambda t, x: t.templates.install_and_wait(1, x), A_TEMPLATE),
    table("templates.wait", NO_INSTALL, lambda t, x: t.templates.wait(1, x), AN_INSTALL),
    table("templates.remove", NO_INSTALL, lambda t, x: t.templates.remove(x), AN_INSTALL),
    table("templates.retry", NO_INSTALL, lambda t, x: t.templates.retry(x), AN_INSTALL),
    table("templates.install", NO_CONFIG, lambda t, x: t.templates.install(1, 1, x), CONFIG),
    table("templates.install_and_wait", NO_CONFIG, lambda t, x: t.templates.install_and_wait(1, 1, x), CONFIG),
    table(
        "orders.wait",
        [1, ORDER, None, "stop", STOP.to_json()],
        lambda t, x: t.orders.wait(x),
        "a Transition is needed (for an order, use wait_until)",
    ),
    table(
        "orders.wait_until",
        [5, None, ["running"]],
        lambda t, x: t.orders.wait_until(1, x),
        "a status or a function is needed",
    ),
    table("orders.rename", [5, None, b"a"], lambda t, x: t.orders.rename(1, x), "title must be text"),
    table("orders.find", [5, b"a", ["a"]], lambda t, x: t.orders.find(title=x), "title must be text"),
    table("orders.watch", NO_SECONDS, lambda t, x: anext(t.orders.watch(interval=x)), f"interval{SECONDS}"),
    *(
        table(name, NO_BOOL, called(name, "migration_allowed"), f"migration_allowed{BOOL}")
        for name in ("orders.start", "orders.start_and_wait")
    ),
    *(table(name, NO_SECONDS, called(name, "timeout"), f"timeout{SECONDS}") for name in WITH_TIMEOUT),
    table("orders.wait", NO_SECONDS, lambda t, x: t.orders.wait(STOP, timeout=x), f"timeout{SECONDS}"),
    table(
        "orders.wait_until", NO_SECONDS, lambda t, x: t.orders.wait_until(1, "running", timeout=x), f"timeout{SECONDS}"
    ),
    table("templates.wait", NO_SECONDS, lambda t, x: t.templates.wait(1, 1, timeout=x), f"timeout{SECONDS}"),
    table(
        "templates.install_and_wait",
        NO_SECONDS,
        lambda t, x: t.templates.install_and_wait(1, 1, timeout=x),
        f"timeout{SECONDS}",
    ),
    table("orders.stop_and_wait", NO_FUNCTION, called("orders.stop_and_wait", "on_change"), ON_CHANGE),
    table("orders.stop_and_wait", ASYNC, called("orders.stop_and_wait", "on_change"), NOT_ASYNC),
    table("orders.wait", NO_FUNCTION, lambda t, x: t.orders.wait(STOP, on_change=x), ON_CHANGE),
    table("orders.wait", ASYNC, lambda t, x: t.orders.wait(STOP, on_change=x), NOT_ASYNC),
    *(
        table(f"orders.{name}", wrong, job(name, option), needed)
        for name in ("rented", "running")
        for option, wrong, needed in (
            ("then", ["wait", 5, None], 'then must be "freeze", "stop" or "leave"'),
            ("then_timeout", NO_SECONDS, f"then_timeout{SECONDS}"),
            ("timeout", NO_SECONDS, f"timeout{SECONDS}"),
            ("on_change", NO_FUNCTION, ON_CHANGE),
            ("on_change", ASYNC, NOT_ASYNC),
        )
    ),
    table("orders.running", NO_BOOL, job("running", "migration_allowed"), f"migration_allowed{BOOL}"),
    table("orders.create", NO_OFFER, lambda t, x: create(t, blib=x), "an offer from blibs.list() is needed"),
    table("orders.create", NO_MONEY, lambda t, x: create(t, price_h=x), f"price_h{MONEY}"),
    table("orders.create", NO_MONEY, lambda t, x: create(t, total_price=x), f"total_price{MONEY}"),
    table("orders.create", NO_MONEY, lambda t, x: create(t, max_price_h=x), f"max_price_h{MONEY}"),
    table(
        "orders.create",
        NO_BOOL,
        lambda t, x: create(t, terms_accepted=x),
        "terms_accepted must be True, which accepts the terms of Trooper.AI",
    ),
    table(
        "orders.create",
        ["", 5, None],
        lambda t, x: create(t, contract_interval=x),
        "contract_interval must be a text such as 'HOUR'",
    ),
    table(
        "orders.create",
        [150, -1, "20", True],
        lambda t, x: create(t, second_partition_percentage=x),
        "second_partition_percentage must be a whole number of percent from 0 to 100",
    ),
    table(
        "orders.create",
        [Template(1), 1, "1", None],
        lambda t, x: create(t, templates=x),
        "templates must be a list of templates or their ids",
    ),
    table("orders.create", NO_TEMPLATE, lambda t, x: create(t, templates=[x]), A_TEMPLATE),
    table(
        "orders.create",
        [5, "", b"job"],
        lambda t, x: create(t, reference=x),
        "a reference must be a text that is not empty",
    ),
    table("orders.create_and_wait", NO_SECONDS, lambda t, x: create_and_wait(t, timeout=x), f"timeout{SECONDS}"),
    table("orders.create_and_wait", NO_FUNCTION, lambda t, x: create_and_wait(t, on_change=x), ON_CHANGE),
    table("orders.create_and_wait", ASYNC, lambda t, x: create_and_wait(t, on_change=x), NOT_ASYNC),
    table(
        "migrations.buy",
        [1, ORDER, None],
        lambda t, x: t.migrations.buy(x, keep_data=True),
        "a quote from migrations.quote() is needed",
    ),
    table(
        "migrations.buy_and_wait",
        NO_SECONDS,
        lambda t, x: t.migrations.buy_and_wait(QUOTE, keep_data=True, timeout=x),
        f"timeout{SECONDS}",
    ),
    table("migrations.buy", NO_BOOL, lambda t, x: t.migrations.buy(QUOTE, keep_data=x), f"keep_data{BOOL}"),
    table(
        "migrations.buy",
        NO_MONEY,
        lambda t, x: t.migrations.buy(QUOTE, keep_data=True, max_total_due=x),
        f"max_total_due{MONEY}",
    ),
    table("orders.resolve", NO_ORDER[:5], lambda t, x: t.orders.resolve(PURCHASE, x), AN_ORDER),
]


@pytest.mark.parametrize(("operation", "method", "wrong", "needed"), CASES)
async def test_an_invalid_argument_is_refused_before_anything_is_sent(
    fake_trooper: FakeTrooper, trooper: TrooperClient, operation: str, method: Method, wrong: list[object], needed: str
) -> None:
    """A ConfigurationError that names the operation, what is needed, and what was passed instead."""

    async def use(value: object) -> None:
        result = method(trooper, value)
        if isinstance(result, Awaitable):
            await result

    for value in wrong:
        with pytest.raises(ConfigurationError) as caught:
            await use(value)
        assert (value, caught.value.operation) == (value, operation)
        given = f"{value!r:.40}" if value is None or isinstance(value, int | float | str) else type(value).__name__
        expected = f"{operation}: {needed}" if needed in (CONFIG, NOT_ASYNC) else f"{operation}: {needed}, not {given}"
        assert str(caught.value) in [f"{expected}{advice}: nothing was sent" for advice in ADVICE]
        assert fake_trooper.requests == []


@pytest.mark.parametrize("config", NO_JSON)
@pytest.mark.parametrize("method", ["install", "install_and_wait"])
async def test_a_template_option_that_is_not_json_is_refused(
    fake_trooper: FakeTrooper, trooper: TrooperClient, method: str, config: Any
) -> None:
    """The error does not contain its value, which may be a password."""
    with pytest.raises(ConfigurationError) as caught:
        await getattr(trooper.templates, method)(1, 1, config)
    assert str(caught.value) == (
        f"templates.{method} of template 1 on order 1: an argument can't be sent as JSON: nothing was sent"
    )
    assert fake_trooper.requests == []


class WholeNumber:
    """Like numpy's: not an int, but usable as one."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number


async def test_whole_numbers_of_other_libraries_are_ids(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """An object with `__index__`, like numpy's numbers, is accepted as an id."""
    order = fake_trooper.add_order()
    number: Any = WholeNumber(order.order_id)
    assert (await trooper.orders.get(number)).order_id == order.order_id
    assert (await trooper.orders.stop_and_wait(number)).current_status == "stopped"
