"""Reports of fleets: their content, and how they are stored."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.texts import exactly
from trooper_async import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    ConfigurationError,
    FleetOutcome,
    FleetReport,
    Order,
    OrderNotFoundError,
    OrderStatus,
    OrderVanishedError,
    OutcomeUnknownError,
    RateLimitError,
    ResponseFormatError,
    ServerLockedError,
    StatusChange,
    SupersededError,
    TemplateInstall,
    Transition,
    TrooperError,
    WaitTimeoutError,
)

ORDER = Order(
    order_id=1,
    current_status=OrderStatus.stopped,
    desired_status="Odd Word",
    server_id=7,
    title="nächtlich \u2028 ]}",
    ip="10.0.0.1",
    ssh_port=22,
    price_h=Decimal("0.8500001"),
    paid_until=datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC),
    is_locked=False,
    blib_gpu_num=2,
    template_installs=(TemplateInstall(3, template_name="x", status=1),),
)
RESTART = Transition(1, "restart", "running", (StatusChange("running", ORDER.paid_until, "text", 4),))


def caused(error: TrooperError, cause: TrooperError) -> TrooperError:
    error.__cause__ = cause
    return error


ERRORS = [
    APIConnectionError("no", operation="fleet.stop", subject="order 1", attempts=3, seconds=1.5),
    APITimeoutError("late"),
    AuthenticationError("key", status=401, next_step="login"),
    ServerLockedError("locked", status=403, attempts=1),
    RateLimitError("slow", status=429, retry_after=2.5),
    OrderNotFoundError("gone"),
    ResponseFormatError("$[3].price_h", "a number"),
    SupersededError("other", order=ORDER, target="stopped", polls=5),
    OrderVanishedError("gone", order=None, target="stopped", polls=9),
    caused(
        WaitTimeoutError("late", transition=RESTART, order=ORDER, last_error=APITimeoutError("slow"), polls=3),
        OutcomeUnknownError("lost", transition=RESTART),
    ),
]


def report_of(*outcomes: FleetOutcome) -> FleetReport:
    return FleetReport(outcomes, elapsed=12.5, migration_allowed=True)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_stored_error_keeps_its_text_and_data(error: TrooperError) -> None:
    """A stored error has the same text, data and cause when it is read."""
    report = report_of(FleetOutcome(1, "restart", error=error, seconds=3.25, transition=RESTART, sent=None))
    again = FleetReport.from_json(report.to_json())
    assert again == report
    back = again.outcomes[0].error
    assert back is not None
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert {**vars(back), "last_error": None} == {**vars(error), "last_error": None}
    assert str(getattr(back, "last_error", None)) == str(getattr(error, "last_error", None))
    assert str(back.__cause__) == str(error.__cause__)


def test_stored_orders_and_transitions_are_equal() -> None:
    """Stored objects are equal when read: money, times, unknown words, and unfinished ones."""
    report = report_of(
        FleetOutcome(1, "stop", order=ORDER, seconds=0.5, sent=True, sent_at=datetime(2026, 11, 24, 18, tzinfo=UTC)),
        FleetOutcome(2, "start", order=Order(2, "running", price_h=Decimal("1E+400"))),
        FleetOutcome(3, "freeze"),
        FleetOutcome(4, "restart", transition=evolve(RESTART, order_id=4), sent=None),
    )
    again = FleetReport.from_json(report.to_json())
    assert again == report
    assert again.to_json() == report.to_json()
    assert [len(part) for part in (again.succeeded, again.failed, again.pending, again.left_alone)] == [2, 0, 2, 1]


@pytest.mark.parametrize("money", ["text", "number"])
def test_a_report_round_trips_through_a_dict(money: Any) -> None:
    """A report, with errors in it, becomes JSON types for other programs, and is the same when read again."""
    report = report_of(
        FleetOutcome(1, "restart", error=ERRORS[-1], seconds=3.25, transition=RESTART, sent=None),
        FleetOutcome(1, "stop", order=ORDER, seconds=0.5, sent=True),
    )
    data = report.to_dict(money=money)
    failed, stopped = cast("Any", data["outcomes"])
    for order in failed["error"]["order"], stopped["order"]:
        assert order["price_h"] == ("0.8500001" if money == "text" else 0.8500001)
    assert FleetReport.from_dict(json.loads(json.dumps(data))) == report
    contradicting: dict[str, object] = {**data, "outcomes": [{**stopped, "order_id": 2}]}
    wrong: list[tuple[dict[str, object], str]] = [
        ({**data, "elapsed": "x"}, ": $.elapsed should be a number"),
        ({**data, "outcomes": [{}]}, ": $.outcomes[0].order_id should be there"),
        ({}, ": $.outcomes should be there"),
        (contradicting, ""),
    ]
    for damaged, problem in wrong:
        with pytest.raises(ConfigurationError, match=exactly(f"this is not FleetReport data{problem}")) as caught:
            FleetReport.from_dict(damaged)
        assert caught.value.__context__ is None


def test_no_settings_of_templates_are_stored() -> None:
    """A template's settings may hold a password: a report on disk has none."""
    order = evolve(
        ORDER, template_installs=(TemplateInstall(3, config={"password": "hunter2"}, extra={"key": "hunter2"}),)
    )
    text = report_of(
        FleetOutcome(1, "stop", order=order), FleetOutcome(2, "stop", error=SupersededError("x", order=order))
    ).to_json()
    assert "hunter2" not in text
    assert json.loads(text)["outcomes"][0]["order"]["template_installs"][0]["config"] is None


def test_failures_are_raised_as_a_group() -> None:
    """`raise_for_failures` raises every order's error, and nothing if none failed."""
    FleetReport(()).raise_for_failures()
    report_of(FleetOutcome(1, "stop", order=ORDER), FleetOutcome(2, "stop")).raise_for_failures()
    report = report_of(*(FleetOutcome(number, "stop", error=error) for number, error in enumerate(ERRORS)))
    with pytest.raises(ExceptionGroup, match="10 of 10 orders failed") as raised:
        report.raise_for_failures()
    assert list(raised.value.exceptions) == ERRORS


def test_an_error_of_a_later_release_is_kept() -> None:
    """An error class that this release does not know becomes the base class, with its text."""
    text = report_of(FleetOutcome(1, "stop", error=ERRORS[0])).to_json().replace("APIConnectionError", "LaterError")
    error = FleetReport.from_json(text).outcomes[0].error
    assert type(error) is TrooperError
    assert "no" in str(error)


STORED = json.loads(report_of(*(FleetOutcome(n, "stop", error=e) for n, e in enumerate(ERRORS, 1))).to_json())
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A stored report with a random value replaced or removed."""
    data = json.loads(json.dumps(STORED))
    place = data
    while True:
        key = draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
            place = place[key]
            continue
        if draw(st.booleans()):
            del place[key]
        else:
            place[key] = draw(SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=2), SCALARS))
        return json.dumps(data)


@given(damaged() | st.text() | st.integers(0, 2000).map(lambda length: json.dumps(STORED)[:length]))
def test_a_damaged_report_is_refused(text: str) -> None:
    """Any text is a usable report, or a ConfigurationError that does not contain the text."""
    try:
        report = FleetReport.from_json(text)
    except ConfigurationError as error:
        assert error.__context__ is None  # noqa: PT017 - both ends are right
    else:
        assert FleetReport.from_json(report.to_json()) == report
        assert str([outcome.error for outcome in report.outcomes])


@pytest.mark.parametrize(
    "wrong", [5, {}, {"seconds": "1.5"}, {"message": 5}, {"type": []}, {"hint": {}}, {"type": None, "message": None}]
)
def test_an_error_of_the_wrong_kind_is_refused(wrong: Any) -> None:
    """An error whose seconds are text, say, would otherwise fail only when it is printed."""
    data = json.loads(json.dumps(STORED))
    outcome = data["outcomes"][0]
    outcome["error"] = {**outcome["error"], **wrong} if isinstance(wrong, dict) and wrong else wrong
    with pytest.raises(ConfigurationError, match=exactly("this stored FleetReport is damaged")):
        FleetReport.from_json(json.dumps(data))


def test_causes_without_end_are_refused() -> None:
    """A chain of errors that is longer than Python's limit of recursion is damage."""
    error: dict[str, object] = {"type": "TrooperError", "message": "x"}
    for _ in range(10_000):
        error = {"type": "TrooperError", "message": "x", "cause": error}
    with pytest.raises(
        ConfigurationError, match=r"^this is not FleetReport data: \$\.outcomes\[0\]\.error should be an error$"
    ):
        FleetReport.from_dict({"outcomes": [{**cast("Any", STORED["outcomes"])[0], "error": error}]})


@pytest.mark.parametrize(
    "outcome",
    [
        FleetOutcome(4, "restart", sent=True),
        FleetOutcome(4, "restart", sent=None),
        FleetOutcome(0, "stop"),
        FleetOutcome(4, "stop", transition=RESTART, sent=True),
        FleetOutcome(2, "restart", transition=RESTART, sent=True),
        FleetOutcome(2, "stop", order=ORDER, sent=True),
        FleetOutcome(1, "stop", order=ORDER, error=TrooperError("no")),
    ],
    ids=[
        "sent without a transition",
        "unknown without a transition",
        "order 0",
        "another action",
        "another order",
        "not the order",
        "both",
    ],
)
def test_a_contradictory_report_is_refused(outcome: FleetOutcome) -> None:
    """Resuming it could send a restart a second time."""
    with pytest.raises(ConfigurationError, match=exactly("this stored FleetReport is damaged")):
        FleetReport.from_json(report_of(outcome).to_json())


def test_an_error_without_its_fields_is_refused() -> None:
    """It has a message, but nothing else that an error tells."""
    data = json.loads(report_of(FleetOutcome(1, "stop", error=TrooperError("it failed"))).to_json())
    data["outcomes"][0]["error"] = {"type": "TrooperError", "message": "it failed"}
    with pytest.raises(ConfigurationError, match="should be an error"):
        FleetReport.from_dict(data)


def test_a_later_format_is_refused() -> None:
    """A report of a later format says that an update is needed."""
    with pytest.raises(
        ConfigurationError, match=exactly("this FleetReport was stored by a later release: update trooper-async")
    ):
        FleetReport.from_json(json.dumps({**STORED, "trooper_fleet_report": 2}))


def test_a_report_of_an_earlier_release_is_read() -> None:
    """A field that was added later may be missing, but none that says what was sent or reached."""
    data = json.loads(report_of(FleetOutcome(1, "stop", order=ORDER, sent=True)).to_json())
    (outcome,) = data["outcomes"]
    del outcome["sent_at"], outcome["order"]["country_code"]
    assert FleetReport.from_json(json.dumps(data)).outcomes[0].order == ORDER
    for name in ("order", "error", "transition", "sent"):
        damaged = {**data, "outcomes": [{key: value for key, value in outcome.items() if key != name}]}
        with pytest.raises(ConfigurationError, match=exactly("this stored FleetReport is damaged")):
            FleetReport.from_json(json.dumps(damaged))
