"""The models: stored transitions, secrets that stay secret, status words, and checked settings."""

from __future__ import annotations

import copy
import enum
import inspect
import json
import pickle
import pprint
import pydoc
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, get_args
from unittest import mock

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trooper_async
from tests.helpers.texts import case_id, exactly
from trooper_async import models
from trooper_async._base.docs import field_docs
from trooper_async._base.model import Model
from trooper_async._http.retry import RetryPolicy
from trooper_async._waiting.schedule import PollSchedule
from trooper_async.errors import ConfigurationError
from trooper_async.models import (
    TARGETS,
    Action,
    Credentials,
    Order,
    OrderStatus,
    StatusChange,
    TemplateInstall,
    Transition,
    same_word,
    status_word,
)

# What this release writes; it must stay readable.
STORED = {
    "trooper_transition": 1,
    "order_id": 123,
    "action": "restart",
    "target": "running",
    "history_before": [
        {
            "status_user": "running",
            "status_since": "2025-09-25T10:30:00+00:00",
            "status_txt": "Server started successfully",
            "id": 1,
        },
        {"status_user": "Rebooting", "status_since": None, "status_txt": None, "id": None},
    ],
    "migration_allowed": False,
    "departed": False,
}

MODELS: list[type[Model]] = [
    kind for kind in vars(models).values() if isinstance(kind, type) and issubclass(kind, Model) and kind is not Model
]
every_model = pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)

words = st.sampled_from(OrderStatus) | st.text(max_size=20).map(status_word)
offsets = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(timezones=offsets | st.just(UTC))
rows = st.builds(
    StatusChange,
    status_user=words,
    status_since=st.none() | times,
    status_txt=st.none() | st.text(),
    id=st.none() | st.integers(),
)
transitions = st.builds(
    lambda action, **fields: Transition(action=action, target=TARGETS[action], **fields),
    action=st.sampled_from(get_args(Action)),
    order_id=st.integers(min_value=1),
    history_before=st.none() | st.lists(rows, max_size=5).map(tuple),
    migration_allowed=st.booleans(),
    departed=st.booleans(),
)


def _credentials() -> Credentials:
    return Credentials("192.168.1.100", 22001, "root", "hunter2-secret", OrderStatus.running)


# Stored transitions -------------------------------------------------------------------------------------------------


@given(transitions)
def test_a_transition_round_trips(transition: Transition) -> None:
    """A stored transition is read back unchanged, whatever its history holds, with known words as statuses."""
    again = Transition.from_json(transition.to_json())
    assert again == transition
    assert type(again.target) is type(transition.target)
    rows = transition.history_before or ()
    assert [type(row.status_user) for row in again.history_before or ()] == [type(row.status_user) for row in rows]
    assert all(row.status_since is None or row.status_since.tzinfo is not None for row in again.history_before or ())


def test_the_stored_form_is_fixed() -> None:
    """The text that an earlier release wrote can be read, and this release writes the same."""
    transition = Transition.from_json(json.dumps(STORED))
    assert transition == Transition(
        order_id=123,
        action="restart",
        target=OrderStatus.running,
        history_before=(
            StatusChange(
                OrderStatus.running, datetime(2025, 9, 25, 10, 30, tzinfo=UTC), "Server started successfully", 1
            ),
            StatusChange("Rebooting"),
        ),
        migration_allowed=False,
    )
    assert json.loads(transition.to_json()) == STORED


def _refusal(text: Any) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        Transition.from_json(text)
    return caught.value


def _damaged(**fields: object) -> str:
    return json.dumps({**STORED, **fields})


def _damaged_row(**fields: object) -> str:
    return _damaged(history_before=[{"status_user": "running", "id": 1, **fields}])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SECRET-TEXT",
        '{"trooper_transition": 1, SECRET-TEXT',
        "null",
        "5",
        '"SECRET-TEXT"',
        "[]",
        '[{"trooper_transition": 1}]',
        "{}",
        '{"order_id": 1, "action": "stop", "target": "SECRET-TEXT"}',
        "[" * 100_000,
        "9" * 5000,
        "\ud800",
        b"\xff\xfe\xff",
        None,
        123,
        object(),
    ],
    ids=lambda text: case_id(f"{text!r:.12}"),
)
def test_a_text_that_to_json_did_not_write_is_refused(text: Any) -> None:
    """The error says what the text should be."""
    assert str(_refusal(text)) == "not a stored Transition (Transition.to_json writes one)"


@pytest.mark.parametrize("version", [2, 99, "2"])
def test_a_transition_of_a_later_release_is_refused(version: object) -> None:
    """The error says to update."""
    text = json.dumps({**STORED, "trooper_transition": version})
    assert str(_refusal(text)) == "this Transition was stored by a later release: update trooper-async"


@pytest.mark.parametrize(
    "text",
    [
        *(json.dumps({name: value for name, value in STORED.items() if name != gone}) for gone in list(STORED)[1:]),
        _damaged(order_id="123"),
        _damaged(order_id=123.0),
        _damaged(order_id=True),
        _damaged(order_id=None),
        _damaged(order_id=0),
        _damaged(order_id=-123),
        _damaged(action="stop"),
        _damaged(target="stopped"),
        _damaged(target="Rebooting"),
        _damaged(action="explode"),
        _damaged(action=None),
        _damaged(action=["stop"]),
        _damaged(target=None),
        _damaged(target=5),
        _damaged(target=["running"]),
        _damaged(history_before="SECRET-TEXT"),
        _damaged(history_before=""),
        _damaged(history_before={}),
        _damaged(history_before=False),
        _damaged(history_before=7),
        _damaged(history_before=[None]),
        _damaged(history_before=["SECRET-TEXT"]),
        _damaged(history_before=[{}]),
        _damaged(history_before=[[]]),
        _damaged(migration_allowed=None),
        _damaged(migration_allowed="yes"),
        _damaged(migration_allowed=1),
        _damaged_row(status_user=None),
        _damaged_row(status_user=5),
        _damaged_row(status_since="SECRET-TEXT"),
        _damaged_row(status_since=5),
        _damaged_row(status_since=False),
        _damaged_row(status_txt=5),
        _damaged_row(id="1"),
        _damaged_row(id=1.5),
    ],
)
def test_a_damaged_transition_is_refused(text: str) -> None:
    """A stored transition that lacks a field, has one of a wrong kind, or contradicts itself is refused as damaged."""
    assert str(_refusal(text)) == "this stored Transition is damaged"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"order_id": 0}, "order_id of a Transition must be a whole number above 0"),
        ({"order_id": "123"}, "order_id of a Transition must be a whole number above 0"),
        ({"action": "explode"}, "cannot explode towards stopped"),
        ({"target": "running"}, "cannot stop towards running"),
    ],
)
def test_a_contradictory_transition_is_refused(fields: dict[str, Any], problem: str) -> None:
    """A transition whose action does not lead to its target, or without an order, can't be made."""
    with pytest.raises(ConfigurationError, match=problem):
        Transition(**{"order_id": 123, "action": "stop", "target": "stopped", **fields})


@pytest.mark.parametrize(
    "text", ["SECRET-TEXT", _damaged(target=["SECRET-TEXT"]), _damaged_row(status_since="SECRET-TEXT"), "[" * 100_000]
)
def test_a_refusal_does_not_contain_the_text(text: str) -> None:
    """The error has no chained exception: the JSON reader's holds the whole text."""
    error = _refusal(text)
    assert error.__context__ is None
    assert error.__cause__ is None
    assert "SECRET-TEXT" not in str(error) + repr(error)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
        max_leaves=5,
    ),
    st.sampled_from(list(STORED)),
    st.none() | st.sampled_from(["status_user", "status_since", "status_txt", "id"]),
)
def test_any_json_in_a_stored_transition_is_valid_or_refused(value: object, field: str, row_field: str | None) -> None:
    """Any value in a field of a stored transition gives a transition, or a ConfigurationError."""
    text = _damaged_row(**{row_field: value}) if row_field else _damaged(**{field: value})
    try:
        transition = Transition.from_json(text)
    except ConfigurationError:
        return
    assert type(transition.order_id) is int
    assert transition.action in get_args(Action)
    assert isinstance(transition.target, str)
    assert type(transition.migration_allowed) is bool
    assert all(isinstance(row.status_user, str) for row in transition.history_before or ())


# Credentials --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        ascii,
        format,
        pprint.pformat,
        lambda it: f"{it} {it!r} {it!s} {[it]}",
        lambda it: "%s %r" % (it, it),  # noqa: UP031 - a log line is made so
        lambda it: repr([{"credentials": (it,)}]),
    ],
)
def test_the_password_is_not_shown(show: Callable[[Credentials], str]) -> None:
    """No way of printing credentials shows the password; the rest is shown."""
    text = show(_credentials())
    assert "hunter2-secret" not in text
    assert "192.168.1.100" in text


def test_the_password_is_not_in_a_traceback() -> None:
    """A traceback that prints local variables does not show the password of credentials in them."""

    def fail(mine: Credentials) -> None:
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError) as caught:
        fail(_credentials())
    text = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "mine = Credentials(" in text
    assert "hunter2-secret" not in text


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("wrapped", [lambda it: it, lambda it: {"it": [it]}], ids=["credentials", "within a dict"])
def test_credentials_are_not_pickled(protocol: int, wrapped: Callable[[Credentials], object]) -> None:
    """Credentials refuse every pickle protocol, also within other objects, without naming the password."""
    with pytest.raises(TypeError, match=exactly("Credentials hold a password, and can't be pickled or copied")):
        pickle.dumps(wrapped(_credentials()), protocol)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda it: it.__getstate__()])
def test_credentials_are_not_copied(copied: Callable[[Credentials], object]) -> None:
    """Credentials refuse to be copied, since a copy is made like a pickle."""
    with pytest.raises(TypeError, match=exactly("Credentials hold a password, and can't be pickled or copied")):
        copied(_credentials())


def test_the_password_can_be_read() -> None:
    """The attribute has the password; credentials compare by all their fields."""
    assert _credentials().password == "hunter2-secret"
    assert _credentials() == _credentials()
    assert _credentials() != attrs.evolve(_credentials(), password="another")


# Orders and words ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("current", "desired", "converged"),
    [
        ("running", "running", True),
        ("running", "Running", True),
        ("RUNNING", OrderStatus.running, True),
        (OrderStatus.stopped, OrderStatus.stopped, True),
        ("rebooting", "Rebooting", True),
        ("running", "stopped", False),
        ("restarting", "restarted", False),
        ("running", None, False),
        ("running", "", False),
        ("STRASSE", "straße", True),
    ],
)
def test_an_order_is_converged_if_both_statuses_agree(current: str, desired: str | None, converged: bool) -> None:
    """Both words must be the same, ignoring case; without a desired status it never is."""
    assert Order(1, current, desired).is_converged is converged


def test_the_server_id_is_the_order_id_by_default() -> None:
    """An order without a server id uses its own."""
    assert Order(7, "running").server_id == 7
    assert Order(7, "running", server_id=8).server_id == 8


def test_orders_are_hashable() -> None:
    """Orders can be in sets and be keys, even with a dict in an install's config; equal ones count once."""

    def order(config: dict[str, models.JSON]) -> Order:
        install = TemplateInstall(1, 1, "PyTorch Environment", 1, "Completed", config)
        return Order(123, OrderStatus.running, price_h=Decimal("0.85"), template_installs=(install,))

    one, same, other = order({"a": ["b"]}), order({"a": ["b"]}), order({"a": ["c"]})
    assert hash(one) == hash(same)
    assert len({one, same}) == 1
    assert len({one, other}) == 2
    assert {one: "here"}[same] == "here"


def test_models_are_frozen() -> None:
    """No model of the package can be changed in place."""
    kinds = [kind for name in trooper_async.__all__ if attrs.has(kind := getattr(trooper_async, name))]
    assert {Order, Credentials, Transition} < set(kinds)
    for kind in kinds:
        bare = kind.__new__(kind)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(bare, attrs.fields(kind)[0].name, 1)


def test_order_status_is_a_str_enum() -> None:
    """A known status is text: equal to its word, and printed and written to JSON as it."""
    assert issubclass(OrderStatus, enum.StrEnum)
    assert OrderStatus.running == "running"
    assert f"{OrderStatus.running}" == str(OrderStatus.running) == "running"
    assert json.dumps({"status": OrderStatus.frozen}) == '{"status": "frozen"}'
    assert all(word.name == word.value == word.value.casefold() for word in OrderStatus)


@pytest.mark.parametrize("word", list(OrderStatus))
@pytest.mark.parametrize("cased", [str.lower, str.upper, str.title, str.swapcase])
def test_a_known_word_is_a_status(word: OrderStatus, cased: Callable[[str], str]) -> None:
    """A known word is its status, ignoring case."""
    assert status_word(cased(str(word))) is word


@pytest.mark.parametrize("word", ["Rebooting", "", " running", "running ", "läuft", "運行中"])
def test_an_unknown_word_stays_text(word: str) -> None:
    """A word that is not known stays unchanged text."""
    assert status_word(word) == word
    assert type(status_word(word)) is str


@given(st.text(), st.text())
def test_words_are_compared_ignoring_case(one: str, other: str) -> None:
    """Words are compared casefolded, known or not."""
    assert same_word(one, other) == (one.casefold() == other.casefold())
    assert same_word(one, one.swapcase()) == (one.casefold() == one.swapcase().casefold())
    assert same_word(status_word(one), one)


# Docstrings of fields -----------------------------------------------------------------------------------------------


@every_model
def test_every_field_has_a_docstring(kind: type[Model]) -> None:
    """Each field of each model is described, in the source for editors, and in `help()`."""
    docs = field_docs(kind)
    assert {one.name for one in attrs.fields(kind)} <= {name for name, text in docs.items() if text}
    shown = pydoc.plain(pydoc.render_doc(kind))
    for name, text in docs.items():
        assert f"{name}: {' '.join(text.split())}" in shown


def test_help_works_without_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the source (a zipped or compiled package), `help()` shows the class's own docstring."""

    class Sample(Model):
        """Something."""

        size: int
        """In GB."""

    monkeypatch.setattr(inspect, "getsource", mock.Mock(side_effect=OSError))
    assert Sample.__doc__ == "Something."


# Settings -----------------------------------------------------------------------------------------------------------

NO_NUMBERS: list[Any] = [float("nan"), float("inf"), float("-inf"), True, False, "1", Decimal(1), [], 1j]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("attempts", value) for value in (0, -1, 1.0, 2.5, *NO_NUMBERS)),
        *(("max_delay", value) for value in (-0.001, -5, None, *NO_NUMBERS)),
        *(("deadline", value) for value in (-0.001, -5, *NO_NUMBERS)),
        *(("budget", value) for value in (-1, 0.5, 10.0, *NO_NUMBERS)),
    ],
)
def test_an_invalid_retry_policy_is_refused(name: str, value: Any) -> None:
    """An invalid retry policy is refused at once; the error names the setting."""
    with pytest.raises(ConfigurationError, match=f"RetryPolicy.{name} must be"):
        RetryPolicy(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in ("floor", "cap", "share") for value in (0, 0.0, -1, None, *NO_NUMBERS)],
)
def test_an_invalid_poll_schedule_is_refused(name: str, value: Any) -> None:
    """An invalid poll schedule is refused at once; the error names the setting."""
    with pytest.raises(ConfigurationError, match=f"PollSchedule.{name} must be"):
        PollSchedule(**{name: value})


def test_a_floor_above_the_cap_is_refused() -> None:
    """The floor may equal the cap, but not exceed it."""
    assert PollSchedule(floor=5, cap=5).floor == 5
    with pytest.raises(ConfigurationError, match="must not be above"):
        PollSchedule(floor=5.001, cap=5)


def test_the_defaults_are_as_documented() -> None:
    """The defaults are as documented, the minimum values are accepted, and settings are frozen."""
    assert PollSchedule() == PollSchedule(floor=1.0, cap=30.0, share=0.1)
    assert RetryPolicy() == RetryPolicy(attempts=4, max_delay=20.0, deadline=60.0, budget=10)
    least = RetryPolicy(attempts=1, max_delay=0, deadline=0, budget=0)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        least.attempts = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("age", "draw", "expected"),
    [
        (0.0, 0.5, 1.0),  # never below the floor
        (9.0, 0.5, 1.0),
        (100.0, 0.5, 10.0),  # a tenth of the age
        (100.0, 0.0, 9.0),  # ± 10 %
        (100.0, 1.0, 11.0),
        (3600.0, 0.5, 30.0),  # never above the cap
        (3600.0, 0.0, 30.0),
    ],
)
def test_the_poll_interval_is_a_tenth_of_the_wait(age: float, draw: float, expected: float) -> None:
    """A waiter is polled every tenth of its age, plus or minus a tenth of that, between floor and cap."""
    assert PollSchedule().interval(age, lambda: draw) == pytest.approx(expected)


@given(st.floats(0.001, 100), st.floats(0.001, 100), st.floats(0.001, 10), st.floats(0, 1e6), st.floats(0, 1))
def test_the_poll_interval_keeps_its_limits(one: float, other: float, share: float, age: float, draw: float) -> None:
    """Whatever the settings, the interval is between floor and cap, and otherwise within 10 % of the share."""
    floor, cap = sorted((one, other))
    pause = PollSchedule(floor, cap, share).interval(age, lambda: draw)
    assert floor <= pause <= cap
    assert pause in (floor, cap) or 0.899 * share * age <= pause <= 1.101 * share * age
