"""Models as dicts of JSON types and back."""

from __future__ import annotations

import json
from datetime import UTC
from decimal import Decimal
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.helpers.models import BLIB, INSTALL, NOON, ORDER
from tests.helpers.texts import case_id, exactly
from trooper_async._base.model import Model
from trooper_async.errors import ConfigurationError
from trooper_async.models import (
    Blib,
    Credentials,
    CurrentOrder,
    MigrationOptions,
    MigrationQuote,
    Order,
    OrderChange,
    OrderStatus,
    Purchase,
    Rate,
    StatusChange,
    Template,
    TemplateOption,
    Transition,
)

FULL: list[Model] = [
    ORDER,
    BLIB,
    INSTALL,
    StatusChange("Rebooting", NOON, "by user", 2),
    Transition(123, "restart", OrderStatus.running, (StatusChange(OrderStatus.stopped),), departed=True),
    Credentials("192.168.1.100", 22001, "root", "hunter2-secret", OrderStatus.running),
    CurrentOrder(123, "x", OrderStatus.running, "HOUR", NOON),
    MigrationOptions((BLIB,), CurrentOrder(123), BLIB),
    Rate(Decimal("0.85"), "€0.85/hour"),
    MigrationQuote(123, 2, Decimal("3.20"), next_billing_date=NOON, new_rate=Rate(Decimal("1.65"))),
    TemplateOption(1, "Python Version", "select", "3.9", "3.8,3.9"),
    Template(1, "PyTorch", options=(TemplateOption(1),)),
    OrderChange(ORDER, None, 123, "appeared"),
    Purchase("p1", "migrate", 3, "unknown", NOON, "my-ref", Decimal("1.65"), None, 123),
]
every_model = pytest.mark.parametrize("model", FULL, ids=lambda model: type(model).__name__)


def _json_types_only(value: object) -> bool:
    if isinstance(value, dict):
        return all(type(name) is str and _json_types_only(item) for name, item in value.items())
    if type(value) is list:
        return all(map(_json_types_only, value))
    return value is None or type(value) in (str, int, float, bool)


# To a dict, and back ------------------------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("money", ["text", "number"])
def test_each_model_round_trips_through_a_dict(model: Model, money: Any) -> None:
    """Each model becomes a dict of JSON types that `json` turns back into the same model, including its extra."""
    data = model.to_dict(money=money)
    assert _json_types_only(data)
    again = type(model).from_dict(json.loads(json.dumps(data)))
    assert again == model
    assert getattr(again, "extra", None) == getattr(model, "extra", None)
    assert repr(again) == repr(model) or money == "number"
    assert {one.name for one in attrs.fields(type(model))} - {"extra"} == set(data) - {"extra"}


def test_a_dict_has_field_names_iso_times_and_exact_money() -> None:
    """The names are those of the fields, times are ISO 8601, money is a number or text, an empty extra is left out."""
    data = ORDER.to_dict()
    assert (data["price_h"], ORDER.to_dict(money="number")["price_h"]) == ("0.850", 0.85)
    options = MigrationOptions((BLIB,))
    assert options.to_dict(money="number")["available_blibs"] == [BLIB.to_dict(money="number")]
    assert (data["paid_until"], data["current_status"]) == ("2025-09-26T16:30:01.000250+02:00", "running")
    assert data["extra"] == {"uptime": 5, "tags": ["a"]}
    assert "extra" not in BLIB.to_dict()
    assert type(data["current_status"]) is str
    assert Order.from_dict(data).current_status is OrderStatus.running


def test_an_amount_with_too_many_digits_is_stored_as_text() -> None:
    """An amount with more digits than a JSON reader keeps is stored as text, so that none is lost."""
    blib = Blib(1, price_h=Decimal("0.1000000000000000055511151231257827"))
    assert blib.to_dict(money="number")["price_h"] == "0.1000000000000000055511151231257827"
    assert Blib.from_dict(blib.to_dict(money="number")) == blib


def test_only_required_fields_must_be_in_a_dict() -> None:
    """A dict written by hand, or by a release with fewer fields, needs only what the model requires."""
    assert Order.from_dict({"order_id": 1, "current_status": "running"}) == Order(1, "running")


@pytest.mark.parametrize(
    ("kind", "data", "problem"),
    [
        (Order, {"current_status": "running"}, "$.order_id should be there"),
        (Order, {"order_id": "1", "current_status": "running"}, "$.order_id should be a whole number"),
        (Order, {"order_id": True, "current_status": "running"}, "$.order_id should be a whole number"),
        (Order, {"order_id": 1, "status": "running"}, "$.current_status should be there"),
        (Order, {"order_id": 1, "current_status": None}, "$.current_status should be a status word"),
        (Order, {"order_id": 1, "current_status": "x", "price_h": "SECRET"}, "$.price_h should be a number"),
        (Order, {"order_id": 1, "current_status": "x", "price_h": float("nan")}, "$.price_h should be a number"),
        (Order, {"order_id": 1, "current_status": "x", "is_locked": 1}, "$.is_locked should be true or false"),
        (
            Order,
            {"order_id": 1, "current_status": "x", "paid_until": "SECRET"},
            "$.paid_until should be a time (ISO 8601)",
        ),
        (Order, {"order_id": 1, "current_status": "x", "title": 5}, "$.title should be text"),
        (Order, {"order_id": 1, "current_status": "x", "extra": ["SECRET"]}, "$.extra should be an object"),
        (
            Order,
            {"order_id": 1, "current_status": "x", "template_installs": [{"install_id": 1}, {"install_id": "SECRET"}]},
            "$.template_installs[1].install_id should be a whole number",
        ),
        (Order, ["SECRET"], "$ should be an object"),
        (
            Purchase,
            {"id": "p", "kind": "create", "blib_id": 1, "state": "SECRET"},
            "$.state should be 'open' or 'bought' or 'refused' or 'unknown' or 'resolved'",
        ),
        (
            Transition,
            {"order_id": 0, "action": "stop", "target": "stopped"},
            "the order_id of a Transition must be a whole number above 0",
        ),
        (
            Transition,
            {"order_id": 1, "action": "stop", "target": "running"},
            "a Transition cannot stop towards running",
        ),
    ],
    ids=case_id,
)
def test_a_dict_that_to_dict_did_not_write_is_refused(kind: type[Model], data: Any, problem: str) -> None:
    """A dict that `to_dict` did not write is refused; the error has the place and what was expected, not the value."""
    with pytest.raises(ConfigurationError) as caught:
        kind.from_dict(data)
    assert str(caught.value) == f"this is not {kind.__name__} data: {problem}"
    assert caught.value.__context__ is None


def test_a_value_without_a_json_form_is_refused() -> None:
    """A model with such a value in a field cannot become JSON types; the error does not contain the value."""
    order = Order(1, "running", title=b"SECRET")  # type: ignore[arg-type]  # what is not typed can pass it
    with pytest.raises(ConfigurationError, match=exactly("bytes has no JSON form")):
        order.to_dict()


def test_a_dict_that_is_nested_too_deeply_is_refused() -> None:
    """Python's limit of recursion is not the caller's problem to catch."""
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(ConfigurationError, match=exactly("this is not Order data: it is nested too deeply")):
        Order.from_dict({"order_id": 1, "current_status": "x", "extra": deep})


@example(
    Order(1, "running", server_id=1, price_h=Decimal("0." + "1234567890" * 10)), "text"
)  # more digits than money has
@given(
    st.builds(
        Order,
        order_id=st.integers(),
        current_status=st.sampled_from(OrderStatus) | st.text(),
        server_id=st.integers(),
        title=st.none() | st.text(),
        price_h=st.none() | st.decimals(allow_nan=False, allow_infinity=False),
        paid_until=st.none() | st.datetimes(timezones=st.just(UTC)),
        is_locked=st.none() | st.booleans(),
    ),
    st.sampled_from(["text", "number"]),
)
def test_any_order_round_trips_through_a_dict(order: Order, money: Any) -> None:
    """Any order comes back unchanged, except that a known status word in any case of letters becomes its status."""
    again = Order.from_dict(json.loads(json.dumps(order.to_dict(money=money))))
    assert attrs.evolve(again, current_status=order.current_status) == order
    assert again.current_status.casefold() == order.current_status.casefold()
