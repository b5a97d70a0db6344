"""JSON and the models: the document's samples, loose types, invalid responses, and the list of orders between polls."""

from __future__ import annotations

import copy
import json
import pickle
import re
import traceback
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from unittest import mock

import attrs
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from tests.helpers.responses import interpreted
from tests.helpers.texts import case_id, exactly
from tests.tools.api_document import SAMPLES
from trooper_async._api.endpoints import CREDENTIALS, MIGRATION_COST, ORDERS, STATUS_HISTORY, Call, Endpoint
from trooper_async._api.responses import FailedAttempt, Response
from trooper_async._base import converter
from trooper_async._base.converter import ids_of, structure
from trooper_async._base.json_text import dumps, json_number, loads
from trooper_async.errors import ConfigurationError, ResponseFormatError
from trooper_async.models import (
    Blib,
    Credentials,
    CurrentOrder,
    MigrationOptions,
    MigrationQuote,
    Order,
    OrderStatus,
    Rate,
    StatusChange,
    Template,
    TemplateInstall,
    TemplateOption,
)

NOON = datetime(2025, 9, 26, 14, 30, tzinfo=UTC)

LEAST: dict[str, Any] = {"order_id": 1, "status": "running"}
"""The row of an order with nothing but what is required."""


def _sample(path: str) -> Any:
    """The JSON of a sample response, read as the package reads it."""
    return loads(SAMPLES[path].response_text.encode())


def _refusal(data: Any, kind: Any) -> tuple[str, str]:
    with pytest.raises(ResponseFormatError) as caught:
        structure(data, kind)
    return caught.value.path, caught.value.expected


# The document's samples ---------------------------------------------------------------------------------------------

QUOTE = MigrationQuote(
    order_id=123,
    target_blib_id=2,
    total_due=Decimal("3.20"),
    upgrade_cost=Decimal("15.50"),
    remaining_value=Decimal("12.30"),
    additional_cost_per_cycle=Decimal("0.80"),
    next_billing_date=NOON,
    current_rate=Rate(Decimal("0.85"), "€0.85/hour"),
    new_rate=Rate(Decimal("1.65"), "€1.65/hour"),
)

READ_SAMPLES: list[tuple[str, Callable[[Any], Any], Any, Any]] = [
    (
        "/api/blibs",
        lambda answer: answer,
        list[Blib],
        [
            Blib(
                id=1,
                name="powerai.example",
                gpu_type="RTX 4090",
                gpu_num=1,
                gpu_ram=24,
                cpu_cores=8,
                cpu_ram=32,
                hdd=500,
                price_h=Decimal("0.85"),
                is_public=True,
                country_code="DE",
                is_available=True,
                available_hosts=("ai18", "ai89"),
                fit_count=2,
                max_possible_instances=5,
                additional_cost_per_cycle=None,
            )
        ],
    ),
    (
        "/api/blibs-private",
        lambda answer: answer,
        list[Blib],
        [
            Blib(
                id=2,
                name="RTX 4090 Dual Private",
                gpu_type="RTX 4090",
                gpu_num=2,
                gpu_ram=24,
                cpu_cores=16,
                cpu_ram=64,
                hdd=1000,
                price_h=Decimal("1.65"),
                is_public=True,
                country_code="DE",
            )
        ],
    ),
    (
        "/api/orders",
        lambda answer: answer,
        list[Order],
        [
            Order(
                order_id=123,
                current_status=OrderStatus.running,
                desired_status=OrderStatus.running,
                server_id=123,
                title="My PyTorch Server",
                server_name="gpu-server-01",
                machine_name="ai99_trooperai_000123",
                ip="192.168.1.100",
                ssh_port=22001,
                price_h=Decimal("0.85"),
                paid_until=NOON,
                contract_interval="HOUR",
                is_locked=False,
                is_low_priority=False,
                blib_name="RTX 4090 Single",
                blib_gpu_type="RTX 4090",
                blib_gpu_num=1,
                country_code="DE",
                template_installs=(TemplateInstall(1, None, "PyTorch Environment", 1, "Completed", None),),
            )
        ],
    ),
    (
        "/api/credentials",
        lambda answer: answer,
        Credentials,
        Credentials("192.168.1.100", 22001, "root", "generated-password", OrderStatus.running),
    ),
    (
        "/api/order-status-history",
        lambda answer: answer["history"],
        list[StatusChange],
        [
            StatusChange(
                OrderStatus.running, datetime(2025, 9, 25, 10, 30, tzinfo=UTC), "Server started successfully", 1
            ),
            StatusChange(OrderStatus.stopped, datetime(2025, 9, 25, 8, 15, tzinfo=UTC), "Server stopped by user", 2),
        ],
    ),
    (
        "/api/migration-options",
        lambda answer: answer,
        MigrationOptions,
        MigrationOptions(
            available_blibs=(
                Blib(
                    id=2,
                    name="RTX 4090 Dual",
                    gpu_type="RTX 4090",
                    gpu_num=2,
                    price_h=Decimal("1.65"),
                    is_available=True,
                    additional_cost_per_cycle=Decimal("0.80"),
                ),
            ),
            current_order=CurrentOrder(123, "My Server", OrderStatus.running, "HOUR", NOON),
            current_blib=Blib(id=1, name="RTX 4090 Single", gpu_type="RTX 4090", gpu_num=1, price_h=Decimal("0.85")),
        ),
    ),
    (
        "/api/migration-cost",
        lambda answer: {**answer, **SAMPLES["/api/migration-cost"].request},
        MigrationQuote,
        QUOTE,
    ),
    (
        "/api/templates",
        lambda answer: answer,
        list[Template],
        [
            Template(
                id=1,
                name="PyTorch Environment",
                description="Pre-configured PyTorch environment with CUDA support",
                category="Machine Learning",
                is_public=True,
                options=(TemplateOption(1, "Python Version", "select", "3.9", "3.8,3.9,3.10"),),
            )
        ],
    ),
    (
        "/api/template-config",
        lambda answer: answer["templates"],
        list[TemplateInstall],
        [TemplateInstall(1, 1, "PyTorch Environment", 1, "Completed", {"python_version": "3.9"})],
    ),
]

every_sample = pytest.mark.parametrize(
    ("path", "part", "kind", "expected"), READ_SAMPLES, ids=[path for path, *_ in READ_SAMPLES]
)


@every_sample
def test_a_sample_response_becomes_its_model(path: str, part: Callable[[Any], Any], kind: Any, expected: Any) -> None:
    """Every sample response of the document becomes its model, with every field as documented."""
    assert structure(part(_sample(path)), kind) == expected


@every_sample
def test_unknown_fields_are_kept_in_extra(path: str, part: Callable[[Any], Any], kind: Any, expected: Any) -> None:
    """Fields that the document does not have are in `extra` and change nothing else, at any place and of any kind."""

    def fuller(data: Any) -> Any:
        if isinstance(data, list):
            return [fuller(item) for item in data]
        if isinstance(data, dict):
            return {
                "new": {"a": [1]},
                **{name: value if name == "config" else fuller(value) for name, value in data.items()},
                "": None,
                "__class__": 1,
            }
        return data

    read = structure(fuller(part(_sample(path))), kind)
    assert read == expected
    for model in read if isinstance(read, list) else [read]:
        assert {name: model.extra[name] for name in ("new", "", "__class__")} == {
            "new": {"a": [1]},
            "": None,
            "__class__": 1,
        }


def test_an_amount_keeps_the_digits_of_its_text() -> None:
    """An amount is the Decimal of the number's own text: 15.50 stays 15.50, and is never a float."""
    quote = structure({**_sample("/api/migration-cost"), "order_id": 123, "target_blib_id": 2}, MigrationQuote)
    assert (str(quote.upgrade_cost), str(quote.total_due)) == ("15.50", "3.20")
    price = structure(loads(b'{"id": 1, "price_h": 0.1000000000000000055511151231257827}'), Blib).price_h
    assert str(price) == "0.1000000000000000055511151231257827"


# Loose types --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "current", "desired"),
    [
        # the document's sample
        ({"status": "running", "status_user": "stopped"}, OrderStatus.running, OrderStatus.stopped),
        ({"status": "running"}, OrderStatus.running, None),
        # the document's prose
        ({"current_status": "running", "desired_status": "stopped"}, OrderStatus.running, OrderStatus.stopped),
        ({"current_status": "running"}, OrderStatus.running, None),
        # both: the prose's names count
        (
            {"current_status": "running", "status": "stopped", "desired_status": "frozen", "status_user": "stopped"},
            OrderStatus.running,
            OrderStatus.frozen,
        ),
        # one of each
        ({"current_status": "running", "status_user": "stopped"}, OrderStatus.running, OrderStatus.stopped),
        ({"status": "running", "desired_status": "stopped"}, OrderStatus.running, OrderStatus.stopped),
        # null is as good as missing
        ({"current_status": None, "status": "running", "desired_status": None}, OrderStatus.running, None),
        (
            {"current_status": None, "status": "running", "desired_status": None, "status_user": "stopped"},
            OrderStatus.running,
            OrderStatus.stopped,
        ),
        ({"current_status": "running", "status": None, "status_user": None}, OrderStatus.running, None),
        # words
        ({"status": "RUNNING", "status_user": "Frozen"}, OrderStatus.running, OrderStatus.frozen),
        ({"status": "Rebooting", "status_user": "on fire"}, "Rebooting", "on fire"),
        # "" is not given
        ({"status": "running", "status_user": ""}, OrderStatus.running, None),
        ({"current_status": "", "status": "running", "desired_status": ""}, OrderStatus.running, None),
    ],
)
def test_either_naming_of_the_status_is_read(fields: dict[str, Any], current: str, desired: str | None) -> None:
    """An order's statuses are read under either pair of names; known ones become enum members, others stay text."""
    order = structure({"order_id": 1, **fields}, Order)
    assert (order.current_status, order.desired_status) == (current, desired)
    assert type(order.current_status) is type(current)
    assert type(order.desired_status) is type(desired)


@pytest.mark.parametrize(
    ("field", "value", "attribute", "expected"),
    [
        # ids and numbers as text, and as numbers with a point
        ("order_id", "123", "order_id", 123),
        ("order_id", Decimal("123.0"), "order_id", 123),
        ("order_id", Decimal("1.23E2"), "order_id", 123),
        ("serverId", "77", "server_id", 77),
        ("serverId", None, "server_id", 1),
        ("serverId", "", "server_id", 1),
        ("ssh_port", "22001", "ssh_port", 22001),
        ("ssh_port", "-1", "ssh_port", -1),
        ("ssh_port", "007", "ssh_port", 7),
        # booleans in all their forms
        *(("is_locked", value, "is_locked", False) for value in (False, 0, "0", "false")),
        *(("is_locked", value, "is_locked", True) for value in (True, 1, "1", "true")),
        # money as number and as text
        ("price_h", 1, "price_h", Decimal(1)),
        ("price_h", "0.850", "price_h", Decimal("0.850")),
        ("price_h", "-1e-7", "price_h", Decimal("-1E-7")),
        # times: aware, UTC where the text has no offset
        ("paid_until", "2025-09-26T14:30:00.000Z", "paid_until", NOON),
        ("paid_until", "2025-09-26T14:30:00", "paid_until", NOON),
        ("paid_until", "2025-09-26 14:30:00", "paid_until", NOON),
        ("paid_until", "2025-09-26T16:30:00+02:00", "paid_until", NOON),
        ("paid_until", "2025-09-26", "paid_until", datetime(2025, 9, 26, tzinfo=UTC)),
        # text is text, whatever is in it
        ("title", "", "title", ""),
        ("title", "123", "title", "123"),
        ("title", 2024, "title", "2024"),
        ("title", Decimal("3.10"), "title", "3.10"),
        ("title", "a\x00b\ud800 🚀", "title", "a\x00b\ud800 🚀"),
        # "" is not given
        *((name, "", name, None) for name in ("ssh_port", "price_h", "paid_until", "is_locked", "template_installs")),
        # lists may be empty; an install's id has two names
        ("template_installs", [], "template_installs", ()),
        ("template_installs", [{"install_id": "5", "id": 6}], "template_installs", (TemplateInstall(5),)),
        ("template_installs", [{"install_id": None, "id": 6}], "template_installs", (TemplateInstall(6),)),
        (
            "template_installs",
            [{"id": 6, "config": {"a": [1, {"b": None}]}}],
            "template_installs",
            (TemplateInstall(6, config={"a": [1, {"b": None}]}),),
        ),
    ],
    ids=case_id,
)
def test_loose_types_are_converted(field: str, value: Any, attribute: str, expected: Any) -> None:
    """Numbers as text, booleans as 0 and 1, times without an offset and the like are converted to what they mean."""
    read = getattr(structure({**LEAST, field: value}, Order), attribute)
    assert read == expected
    assert type(read) is type(expected)
    assert str(read) == str(expected) or attribute == "paid_until"


def test_a_password_of_digits_is_text() -> None:
    """A password that the API writes as a number becomes text."""
    assert structure({"password": 12345678901234567890}, Credentials).password == "12345678901234567890"


def test_a_time_is_aware_and_keeps_its_moment() -> None:
    """Every time is aware; it keeps the offset that the response gives."""
    order = structure({**LEAST, "paid_until": "2025-09-26T16:30:00+02:00"}, Order)
    assert order.paid_until is not None
    assert order.paid_until.utcoffset() == timedelta(hours=2)
    assert order.paid_until == datetime(2025, 9, 26, 16, 30, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize(
    ("kind", "least", "expected"),
    [
        (Order, LEAST, Order(1, OrderStatus.running)),
        (Blib, {"id": 1}, Blib(1)),
        (TemplateInstall, {"id": 1}, TemplateInstall(1)),
        (Template, {"id": 1}, Template(1)),
        (TemplateOption, {"id": 1}, TemplateOption(1)),
        (StatusChange, {"status_user": "running"}, StatusChange(OrderStatus.running)),
        (Credentials, {}, Credentials()),
        (CurrentOrder, {"id": 1}, CurrentOrder(1)),
        (Rate, {}, Rate()),
        (MigrationOptions, {"availableBlibs": []}, MigrationOptions(())),
        (
            MigrationQuote,
            {"order_id": 1, "target_blib_id": 2, "totalDue": 0},
            MigrationQuote(1, 2, Decimal(0)),
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_an_optional_field_may_be_missing_or_null(
    kind: type[attrs.AttrsInstance], least: dict[str, Any], expected: Any
) -> None:
    """Only ids and what waits decide by are required; everything else may be missing or null, and is then None."""
    assert structure(least, kind) == expected
    others = {name for field in attrs.fields(kind) for name in _names_of(field.name)} - set(least)
    assert structure({**dict.fromkeys(others), **least}, kind) == expected
    for required in least:
        for without in ({**least, required: None}, {name: least[name] for name in least if name != required}):
            assert _refusal(without, kind)[1] == "there"


def _names_of(attribute: str) -> set[str]:
    """The names that a field may have in a response: the model's own, in camelCase, or one of the API's exceptions."""
    head, *rest = attribute.split("_")
    odd = {"current_status": "status", "desired_status": "status_user", "server_id": "serverId"}
    return {attribute, head + "".join(part.title() for part in rest), odd.get(attribute, attribute)}


# What is not as documented ------------------------------------------------------------------------------------------


NONE: list[Any] = [None, ""]
NO_INTS: list[Any] = ["SECRET", "1.5", "1e3", " 1", "+1", "--1", "-", "٣", "9" * 20, Decimal("1.5"), True, [], {}]
NO_AMOUNTS: list[Any] = ["SECRET", "NaN", "sNaN", "Infinity", "€0.85", "1,5", True, [], {}]
NO_BOOLEANS: list[Any] = ["SECRET", "yes", 2, -1, Decimal("0.5"), [], {}]
NO_TIMES: list[Any] = [
    "SECRET",
    "0000-00-00",
    "tomorrow",
    "2025-13-01",
    "26.09.2025",
    "2025-\ud800",
    1758897000,
    True,
    [],
    {},
]
NO_TEXTS: list[Any] = [True, False, ["SECRET"], {}]
NO_WORDS: list[Any] = [5, True, ["SECRET"], {"SECRET": 1}]


@pytest.mark.parametrize(
    ("kind", "data", "path", "expected"),
    [
        # required, and not there
        (Order, {}, "$.order_id", "there"),
        (Order, {"status": "running"}, "$.order_id", "there"),
        *((Order, {"order_id": none, "status": "running"}, "$.order_id", "there") for none in NONE),
        (Order, {"order_id": 1}, "$.current_status", "there"),
        *(
            (Order, {"order_id": 1, "status": none, "current_status": none}, "$.current_status", "there")
            for none in NONE
        ),
        (list[Order], [LEAST, LEAST, {"order_id": 1}], "$[2].current_status", "there"),
        (list[Order], [{"status": "SECRET"}], "$[0].order_id", "there"),
        (Blib, {"name": "SECRET"}, "$.id", "there"),
        (StatusChange, {"status_txt": "SECRET"}, "$.status_user", "there"),
        (MigrationOptions, {}, "$.available_blibs", "there"),
        (MigrationQuote, {"order_id": 1, "target_blib_id": 2}, "$.total_due", "there"),
        # no list, no object
        (list[Order], {"0": LEAST}, "$", "a list"),
        (list[Order], "SECRET", "$", "a list"),
        (list[Order], None, "$", "a list"),
        (list[Order], [LEAST, "SECRET"], "$[1]", "an object"),
        (list[Order], [[LEAST]], "$[0]", "an object"),
        (list[Order], [None], "$[0]", "an object"),
        (Credentials, ["SECRET"], "$", "an object"),
        (Credentials, "SECRET", "$", "an object"),
        # ids, of which none is guessed from another
        *((Order, {**LEAST, "order_id": bad}, "$.order_id", "a whole number") for bad in NO_INTS),
        (Order, {**LEAST, "order_id": Decimal("1E+30")}, "$.order_id", "a whole number"),
        (Order, {**LEAST, "order_id": Decimal("1E+999999999")}, "$.order_id", "a whole number"),
        (Order, {**LEAST, "serverId": "SECRET"}, "$.server_id", "a whole number"),
        # status words
        *((Order, {**LEAST, "status": bad}, "$.current_status", "a status word") for bad in NO_WORDS),
        (Order, {**LEAST, "current_status": 5, "status": "running"}, "$.current_status", "a status word"),
        # nested in what is required
        (MigrationOptions, {"availableBlibs": [{"id": "SECRET"}]}, "$.available_blibs[0].id", "a whole number"),
        (MigrationQuote, {"order_id": 1, "target_blib_id": 2, "totalDue": "SECRET"}, "$.total_due", "a number"),
    ],
    ids=case_id,
)
def test_a_missing_required_field_is_named(kind: Any, data: Any, path: str, expected: str) -> None:
    """If something required is missing or of the wrong kind, the error names the place and what was expected."""
    with pytest.raises(ResponseFormatError) as caught:
        structure(data, kind)
    error = caught.value
    assert (error.path, error.expected) == (path, expected)
    assert "SECRET" not in str(error) + repr(error)
    assert error.__context__ is None
    assert error.__cause__ is None


ODD: list[tuple[Any, dict[str, Any], str, Any, str, str]] = [
    *((Order, LEAST, "ssh_port", bad, "$.ssh_port", "a whole number") for bad in (0.5, *NO_INTS)),
    *((Order, LEAST, "price_h", bad, "$.price_h", "a number") for bad in NO_AMOUNTS),
    *((Order, LEAST, "is_locked", bad, "$.is_locked", "true or false") for bad in NO_BOOLEANS),
    *((Order, LEAST, "paid_until", bad, "$.paid_until", "a time (ISO 8601)") for bad in NO_TIMES),
    *((Order, LEAST, "title", bad, "$.title", "text") for bad in NO_TEXTS),
    *((Order, LEAST, "status_user", bad, "$.desired_status", "a status word") for bad in NO_WORDS),
    (Order, LEAST, "template_installs", {}, "$.template_installs", "a list"),
    (Order, LEAST, "template_installs", "SECRET", "$.template_installs", "a list"),
    (Order, LEAST, "template_installs", ["SECRET"], "$.template_installs[0]", "an object"),
    (Order, LEAST, "template_installs", [{"id": 1}, {}], "$.template_installs[1].install_id", "there"),
    (Blib, {"id": 1}, "gpu_num", Decimal("0.5"), "$.gpu_num", "a whole number"),
    (Blib, {"id": 1}, "available_hosts", ["ai18", ["SECRET"]], "$.available_hosts[1]", "text"),
    (Blib, {"id": 1}, "fitCount", "SECRET", "$.fit_count", "a whole number"),
    (TemplateInstall, {"id": 1}, "config", ["SECRET"], "$.config", "an object"),
    (Template, {"id": 1}, "options", [{"id": 1}, {"id": "SECRET"}], "$.options[1].id", "a whole number"),
    (MigrationOptions, {"availableBlibs": []}, "currentBlib", "SECRET", "$.current_blib", "an object"),
    (
        MigrationOptions,
        {"availableBlibs": []},
        "currentOrder",
        {"id": "SECRET"},
        "$.current_order.id",
        "a whole number",
    ),
    (Credentials, {}, "password", {"is": "SECRET"}, "$.password", "text"),
    (StatusChange, {"status_user": "running"}, "status_since", "0000-00-00", "$.status_since", "a time (ISO 8601)"),
]


@pytest.mark.parametrize(("kind", "least", "name", "value", "path", "expected"), ODD, ids=case_id)
def test_an_unreadable_optional_field_is_none(
    kind: Any, least: dict[str, Any], name: str, value: Any, path: str, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An optional field that can't be read is None, its value is in `extra`, and its path is logged once."""
    with mock.patch.object(converter, "_logged", set()):
        rows: list[Any] = [{**least, name: value}] * 3
        models = structure(rows, list[kind])
    for model in models:
        assert model == structure(least, kind)
        assert model.extra == {name: value}
        assert "SECRET" not in repr(model)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("trooper_async.responses", "WARNING")
    (field, *_) = re.findall(r"\w+", path)
    text = f"{kind.__name__}.{field} is read as None, and `extra` has what the API sent: "
    assert record.getMessage() == f"{text}{path} should be {expected} (logged once)"


def test_an_unreadable_value_in_a_nested_model_stays_there() -> None:
    """A nested model keeps an unreadable value in its own `extra`; the rest is read as usual."""
    install: Any = {"id": 1, "status": "SECRET", "template_name": "PyTorch", "config": {"a": 1}, "new": [1]}
    read = structure({**LEAST, "template_installs": [install]}, Order)
    assert read.template_installs == (TemplateInstall(1, template_name="PyTorch", config={"a": 1}),)
    assert read.template_installs is not None
    assert read.template_installs[0].extra == {"status": "SECRET", "new": [1]}
    assert read.extra == {}


def test_extra_is_not_compared_but_copied() -> None:
    """`extra` does not count in comparisons, and is kept when an order is copied, pickled or evolved."""
    one, other = (structure({**LEAST, "uptime": number}, Order) for number in (1, 2))
    assert one == other
    assert hash(one) == hash(other)
    assert "uptime" not in repr(one)
    copies: list[Order] = [copy.deepcopy(one), pickle.loads(pickle.dumps(one)), attrs.evolve(one, title="x")]
    assert [copied.extra for copied in copies] == [{"uptime": 1}] * 3


@pytest.mark.parametrize(
    ("endpoint", "answer", "path"),
    [
        (ORDERS, [{**LEAST, "title": "SECRET", "serverId": "SECRET"}], "$[0].server_id"),
        (ORDERS, {"orders": "SECRET"}, "$"),
        (ORDERS, "SECRET", "$"),
        (CREDENTIALS, ["SECRET"], "$"),
        (
            STATUS_HISTORY,
            {"history": [{"status_user": 5, "status_txt": "SECRET"}]},
            "$.history[0].status_user",
        ),
        (MIGRATION_COST, {"totalDue": "SECRET"}, "$.total_due"),
        (ORDERS, b'[{"order_id": 1, "title": "SECRET"', "$"),
        (ORDERS, b"SECRET", "$"),
        (ORDERS, b"[" * 100_000 + b'"SECRET"', "$"),
    ],
    ids=case_id,
)
def test_no_value_leaks_with_an_error(endpoint: Endpoint[Any], answer: Any, path: str) -> None:
    """The error of an unreadable response has no frame, chained exception or text with a value of the response."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    reply = Response(200, {}, body)
    fault = interpreted(Call(endpoint, "x", "y", {"order_id": 1, "target_blib_id": 2}), reply, redact=str, now=0.0)
    assert isinstance(fault, FailedAttempt)
    assert isinstance(fault.error, ResponseFormatError)
    assert fault.error.path == path
    assert "SECRET" not in repr(fault)
    printed = traceback.TracebackException.from_exception(fault.error, capture_locals=True).format()
    assert "SECRET" not in "".join(printed)
    assert (fault.error.__traceback__, fault.error.__context__, fault.error.__cause__) == (None, None, None)


# JSON itself --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"NaN",
        b'{"a": [1, NaN]}',
        b"Infinity",
        b"-Infinity",
        b'[{"order_id": 1, "stat',
        b'{"a": 1}, {"b": 2}',
        b"[1] [2]",
        b"[1,]",
        b"{'a': 1}",
        b"<html><body>502 Bad Gateway</body></html>",
        b"\xff\xfe\xfd",
        "[1]".encode("utf-16"),
        b'"caf\xc3',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5000,
        b"[-" + b"9" * 5000 + b"]",
        b"1e99999999999999999999999",
        b"01",
        b"+1",
        b".5",
        b"1.",
        b"0x10",
        b'"a\x00b"',
        b"\x00",
        b"[1]\x00",
    ],
    ids=lambda body: case_id(body[:24]),
)
def test_invalid_json_is_a_response_format_error(body: bytes) -> None:
    """Anything that is not JSON, or exceeds a limit, is a ResponseFormatError at the root, and nothing else."""
    with pytest.raises(ResponseFormatError) as caught:
        loads(body)
    assert (caught.value.path, caught.value.expected) == ("$", "JSON")
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"null", None),
        (b" [] \n", []),
        (b"15.50", Decimal("15.50")),
        (b"1e2", Decimal("1E+2")),
        (b"1e400", Decimal("1E+400")),
        (b"-0", 0),
        (b"123", 123),
        (b"9" * 4000, 10**4000 - 1),
        (b'"a\\u0000b"', "a\x00b"),
        (b'"\\ud800"', "\ud800"),
        ('"€ 🚀"'.encode(), "€ 🚀"),
        (b"\xef\xbb\xbf[1]", [1]),  # with a byte order mark
        (b'"caf\xe9 \xe2\x82 \xed\xa0\x80"', "caf\ufffd \ufffd\ufffd \ufffd\ufffd\ufffd"),
    ],
    ids=lambda value: case_id(repr(value)[:24]),
)
def test_json_is_read_with_exact_numbers(body: bytes, expected: Any) -> None:
    """JSON is read to its values; numbers with a point or an exponent become Decimals of their own text."""
    data = loads(body)
    assert data == expected
    assert type(data) is type(expected)
    assert len(body) > 1000 or str(data) == str(expected)


@pytest.mark.parametrize(
    "body", [b'{"a": 1, "b": 2, "a": 3}', b'{"order_id": 1, "order_id": null}', b'[{"a": {"b": [{"c": 1, "c": 1}]}}]']
)
def test_a_duplicate_name_is_refused(body: bytes) -> None:
    """An object with a duplicate name is refused, since readers differ in which of the two counts."""
    with pytest.raises(ResponseFormatError) as caught:
        loads(body)
    assert (caught.value.path, caught.value.expected) == ("$", "JSON whose objects have each name once")
    assert caught.value.__context__ is None


@given(st.binary(max_size=50) | st.text(max_size=50).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_json_or_a_response_format_error(body: bytes) -> None:
    """Any bytes are JSON or a ResponseFormatError."""
    try:
        loads(body)
    except ResponseFormatError as error:
        assert error.path == "$"  # noqa: PT017 - both ways are right
    else:
        assert body.strip(b" \t\r\n")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (Decimal("0.85"), "0.85"),
        (Decimal("15.50"), "15.5"),
        (Decimal("3.20"), "3.2"),
        (Decimal("1.00"), "1"),
        (Decimal(2), "2"),
        (Decimal("1E+2"), "100"),
        (Decimal("-0.0"), "0"),
        (Decimal("1e-7"), "1e-07"),
        (Decimal("123456789.12"), "123456789.12"),
        (Decimal("9007199254740993"), "9007199254740993"),
        (Decimal("1E+22"), "1" + "0" * 22),
        (0.1, "0.1"),
        (7, "7"),
    ],
)
def test_a_number_is_sent_unchanged(number: Decimal | float, text: str) -> None:
    """A number is sent as the same number in JSON."""
    assert dumps({"price_h": number}) == f'{{"price_h": {text}}}'.encode()


@pytest.mark.parametrize(
    "number",
    [
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        Decimal("-Infinity"),
        Decimal("0.1000000000000000055511151231257827"),  # more digits than a float keeps
        Decimal("1234567890123456.789"),
        Decimal("1E+300"),
        Decimal("1E-400"),
        Decimal("1E+999999"),
    ],
)
def test_a_number_that_would_change_is_refused(number: Decimal) -> None:
    """A number that a JSON reader would not read back unchanged is refused before anything is sent."""
    for send in (lambda: json_number(number), lambda: dumps({"price_h": number}), lambda: dumps({"a": [[number]]})):
        with pytest.raises(ConfigurationError, match=exactly(f"a JSON number can't hold {number!s:.40}")):
            send()


def _nested(levels: int) -> Any:
    data: Any = []
    for _ in range(levels):
        data = [data]
    return data


def _ring() -> dict[str, Any]:
    ring: dict[str, Any] = {}
    ring["ring"] = [ring]
    return ring


@pytest.mark.parametrize(
    "data",
    [
        {"a": float("nan")},
        {"a": [float("inf")]},
        {"a": object()},
        {"a": b"bytes"},
        {"a": {1, 2}},
        {"a": datetime(2025, 9, 26)},
        {("a", "b"): 1},
        {"a": 10**5000},
        {"a": _nested(100_000)},
        _ring(),
    ],
    ids=lambda data: str(type(next(iter(data.values()))).__name__),
)
def test_an_argument_without_a_json_form_is_refused(data: Any) -> None:
    """An argument that JSON cannot express is a ConfigurationError, and nothing is sent."""
    with pytest.raises(ConfigurationError):
        dumps(data)


@given(st.decimals())
def test_any_decimal_is_sent_unchanged_or_refused(number: Decimal) -> None:
    """Any Decimal is sent as exactly the same number, or refused."""
    try:
        body = dumps({"n": number})
    except ConfigurationError:
        event("refused")
        return
    sent = json.loads(body, parse_float=Decimal)["n"]
    assert sent == number
    assert Decimal(repr(float(body[6:-1]))) == number or abs(number) >= 2**53  # what a reader with floats takes it for


@given(st.integers(-(10**15) + 1, 10**15 - 1), st.integers(-20, 20))
def test_any_amount_of_fifteen_digits_can_be_sent(digits: int, exponent: int) -> None:
    """Every number of up to fifteen digits can be sent, and comes back unchanged."""
    number = Decimal(digits).scaleb(exponent)
    assert structure(loads(dumps({"id": 1, "price_h": number})), Blib).price_h == number


@given(st.floats(min_value=-1e299, max_value=1e299).filter(lambda number: number == 0 or abs(number) > 1e-299))
def test_any_float_of_the_api_can_be_sent_back(number: float) -> None:
    """Every number that a JSON writer with floats writes is read, and sent back unchanged."""
    price = structure(loads(json.dumps({"id": 1, "price_h": number}).encode()), Blib).price_h
    assert price is not None
    assert json.loads(dumps({"n": price}), parse_int=float)["n"] == number


# Any JSON in any field ----------------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(
        ["0", "1", "true", "NaN", "-1", "1e5", "٣", "2025-09-26T14:30:00Z", "0001-01-01T00:00:00+23:59", "24:00", "-"]
    )
    | st.sampled_from([0, 1, -1, 2**63, 10**400, 1.0, 1.5, 1e300, -0.0])
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a document: its container, and its key there."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield node, key
        yield from _places(value)


def _damage(document: Any, data: st.DataObject) -> Any:
    """The document with something else, or nothing, in one or two places."""
    document = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 2), label="damages")):
        places = list(_places(document))
        if not places or data.draw(st.integers(0, 30), label="whole document if 0") == 0:
            return data.draw(json_values)
        holder, key = places[data.draw(st.integers(0, len(places) - 1), label="place")]
        if data.draw(st.booleans(), label="delete"):
            del holder[key]
        else:
            holder[key] = data.draw(json_values, label="value")
    return document


def _conforms(value: Any, hint: Any) -> bool:
    """Whether a value has the type that its annotation says."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_conforms(value, arg) for arg in args)
    if origin in (list, tuple):
        return type(value) is origin and all(_conforms(item, args[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict)
    if attrs.has(hint):
        return type(value) is hint and all(
            _conforms(getattr(value, name), inner) for name, inner in typing.get_type_hints(hint).items()
        )
    if hint is datetime:
        return isinstance(value, datetime) and value.utcoffset() is not None
    if hint is Decimal:
        return isinstance(value, Decimal) and value.is_finite()
    return type(value) is hint


@given(st.sampled_from(READ_SAMPLES), st.data())
def test_any_json_in_any_field_gives_a_valid_model_or_an_error(
    sample: tuple[str, Callable[[Any], Any], Any, Any], data: st.DataObject
) -> None:
    """Any JSON at any place of a response gives a model whose fields all have their types, or a ResponseFormatError."""
    path, part, kind, _ = sample
    document = _damage(part(SAMPLES[path].response), data)
    try:
        read = structure(loads(json.dumps(document).encode()), kind)
    except ResponseFormatError as error:
        event("refused")
        assert error.path.startswith("$") and error.expected  # noqa: PT017, PT018 - both ways are right
    else:
        event("read")
        assert _conforms(read, kind)
        assert read == read
        hash(tuple(read) if isinstance(read, list) else read)


@pytest.mark.parametrize(
    ("row", "ids"),
    [
        ({"order_id": 1, "serverId": 2}, (1, 2)),
        ({"order_id": "1", "serverId": "2"}, (1, 2)),
        ({"order_id": 1}, (1, 1)),
        ({"order_id": 1, "serverId": None}, (1, 1)),
        ({"serverId": 2}, None),
        ({"order_id": "x", "serverId": 2}, None),
        ({"order_id": True}, None),
        ([1, 2], None),
        (None, None),
    ],
)
def test_the_ids_of_an_unreadable_row_are_read(row: Any, ids: tuple[int, int] | None) -> None:
    """The ids of a row can be read even if the rest can't."""
    assert ids_of(row) == ids
