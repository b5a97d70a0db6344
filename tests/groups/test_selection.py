"""Selecting orders from a list."""

from __future__ import annotations

import logging
from decimal import Decimal

import pytest

from tests.helpers.texts import exactly
from trooper_async import ConfigurationError, Order, OrderStatus, select
from trooper_async.testing import FakeTrooper

ORDERS = [
    Order(1, "running", title="job-1", blib_gpu_type="RTX 4090", country_code="DE", price_h=Decimal("0.85")),
    Order(2, "stopped", title="JOB-2", blib_gpu_type="RTX 4090", country_code="DE", price_h=Decimal("1.65")),
    Order(3, "running", title="web", blib_gpu_type="A100", country_code="FI", price_h=Decimal("2.5")),
    Order(4, "[odd]"),
]


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ({}, [1, 2, 3, 4]),
        ({"title": "job-*"}, [1, 2]),
        ({"title": "Job-2"}, [2]),
        ({"title": "job"}, []),
        ({"gpu_type": "*4090"}, [1, 2]),
        ({"country_code": "fi"}, [3]),
        ({"status": "Running"}, [1, 3]),
        ({"max_price_h": 1.65}, [1, 2]),
        ({"max_price_h": Decimal("0.84")}, []),
        ({"title": "job-*", "status": "stopped", "max_price_h": 2}, [2]),
        ({"status": "[odd]"}, [4]),
    ],
)
def test_select_combines_all_filters(wanted: dict[str, str], ids: list[int]) -> None:
    """An order has to match every filter; a missing field matches none."""
    assert [order.order_id for order in select(iter(ORDERS), **wanted)] == ids  # type: ignore[arg-type]  # a table


TITLES = ["[prod] trainer", "p trainer", "what?", "whats", "Job-1", "job-1", "job-12"]


@pytest.mark.parametrize(
    ("title", "found"),
    [
        ("[prod] trainer", ["[prod] trainer"]),
        ("[PROD] trainer", ["[prod] trainer"]),
        ("[dev] trainer", []),
        ("what?", ["what?"]),
        ("what*", ["what?", "whats"]),
        ("whats", ["whats"]),
        ("job-1", ["Job-1", "job-1"]),
        ("JOB-*", ["Job-1", "job-1", "job-12"]),
        ("job-1?", ["job-12"]),
        ("", []),
        (None, TITLES),
    ],
)
async def test_find_and_select_match_alike(title: str | None, found: list[str]) -> None:
    """`orders.find` and `select` ignore case, and a title that is equal is the only match."""
    async with FakeTrooper() as fake, fake.client() as trooper:
        for name in TITLES:
            fake.add_order(title=name)
        orders = await trooper.orders.list()
        assert [order.title for order in select(orders, title=title)] == found
        assert [order.title for order in await trooper.orders.find(title=title)] == found


def test_an_equal_title_wins_over_the_pattern() -> None:
    """If the order with exactly that title fails another filter, no other is chosen instead."""
    orders = [Order(1, "stopped", title="[prod] trainer"), Order(2, "running", title="p trainer")]
    assert select(orders, title="[prod] trainer", status="running") == []


KNOWN = f"Known are: {', '.join(OrderStatus)}"


@pytest.mark.parametrize(
    ("status", "logged"),
    [("runing", True), ("runn?", True), ("frozen", False), ("*ing", False), ("Running", False), ("[odd]", False)],
)
def test_an_unknown_status_is_logged(status: str, logged: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A word that is no known status, and that no order has, is logged at WARNING, and matches nothing."""
    found = select(ORDERS, status=status)
    select(ORDERS, status=status, title="no such title")
    assert bool(caplog.records) is logged
    if logged:
        assert found == []
        assert caplog.records[0].levelno == logging.WARNING
        assert caplog.messages[0] == f"select: '{status}' is not a known status, and may be misspelled. {KNOWN}"


async def test_waiting_for_an_unknown_status_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """`wait_until(order, "runing")` waits, since the API may have that word, and logs that it is unknown."""
    async with FakeTrooper() as fake, fake.client() as trooper:
        order = fake.add_order(status="runing")
        await trooper.orders.wait_until(order, "runing", timeout=60)
        await trooper.orders.wait_until(fake.add_order(status="stopped"), "Stopped", timeout=60)
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    text = f"orders.wait_until: 'runing' is not a known status, and may be misspelled. {KNOWN}"
    assert record.getMessage() == text


@pytest.mark.parametrize(
    ("orders", "wanted", "problem"),
    [
        ([1], {}, "orders, such as orders.list() returns, are needed, not 1"),
        (["order"], {}, "orders, such as orders.list() returns, are needed, not 'order'"),
        (ORDERS, {"title": 5}, "title must be text or a pattern, not 5"),
        (ORDERS, {"status": 5}, "status must be text or a pattern, not 5"),
        (ORDERS, {"gpu_type": b"RTX"}, "gpu_type must be text or a pattern, not bytes"),
        (ORDERS, {"country_code": ["DE"]}, "country_code must be text or a pattern, not list"),
        (ORDERS, {"max_price_h": "cheap"}, "max_price_h must be an amount of EUR of at least 0, not 'cheap'"),
        (ORDERS, {"max_price_h": -1}, "max_price_h must be an amount of EUR of at least 0, not -1"),
    ],
)
def test_an_invalid_filter_is_refused(orders: list[Order], wanted: dict[str, object], problem: str) -> None:
    """An invalid order, text or price is a ConfigurationError that names the argument."""
    with pytest.raises(ConfigurationError, match=exactly(f"select: {problem}: nothing was sent")):
        select(orders, **wanted)  # type: ignore[arg-type]  # what is not typed can pass it


async def test_find_logs_the_orders_that_it_leaves_out(caplog: pytest.LogCaptureFixture) -> None:
    """Orders that cannot be read, or whose id cannot, are not found: a WARNING says so."""
    listed = {"order_id": 1, "serverId": 1, "status": "running"}
    broken = [{**listed, "order_id": number, "status": None} for number in (2, 3)]
    async with FakeTrooper() as fake, fake.client() as trooper:
        fake.fail_next("/api/orders", status=200, body=[listed, *broken, {**listed, "order_id": None}])
        assert [order.order_id for order in await trooper.orders.find()] == [1]
    assert caplog.messages == [
        "orders.find: 2 cannot be read and are left out: order 2, order 3",
        "orders.find: orders whose id cannot be read are left out",
    ]
