"""Picking orders out of a list."""

from __future__ import annotations

from decimal import Decimal

import pytest

from trooper_async import Order, select

ORDERS = [
    Order(1, "running", title="job-1", blib_gpu_type="RTX 4090", country_code="DE", price_h=Decimal("0.85")),
    Order(2, "stopped", title="JOB-2", blib_gpu_type="RTX 4090", country_code="DE", price_h=Decimal("1.65")),
    Order(3, "running", title="web", blib_gpu_type="A100", country_code="FI", price_h=Decimal("2.5")),
    Order(4, "odd"),
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
        ({"status": "odd"}, [4]),
    ],
)
def test_select(wanted: dict[str, str], ids: list[int]) -> None:
    """An order has to fit everything that is given; what it does not have fits nothing."""
    assert [order.order_id for order in select(iter(ORDERS), **wanted)] == ids  # type: ignore[arg-type]  # a table of them
