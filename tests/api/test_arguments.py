"""Arguments are checked before anything is sent; each error names the mistake and what to pass instead."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from tests.helpers.texts import case_id
from trooper_async._api import arguments
from trooper_async.errors import ConfigurationError
from trooper_async.models import Blib, MigrationQuote, Order, Template, TemplateInstall, Transition


class Whole:
    """A whole number as numpy has them: not an int, but usable as one through `__index__`."""

    def __index__(self) -> int:
        return 7


class Seven(enum.IntEnum):
    seven = 7


ORDER, BLIB, TEMPLATE, INSTALL = Order(7, "running"), Blib(7), Template(7), TemplateInstall(7)
STOP = Transition(7, "stop", "stopped")
QUOTE = MigrationQuote(7, 7, Decimal(1))
IDS: dict[str, tuple[Callable[..., int], Any]] = {
    "an order": (arguments.order_id, ORDER),
    "an offer": (arguments.blib_id, BLIB),
    "a template": (arguments.template_id, TEMPLATE),
    "a template install": (arguments.install_id, INSTALL),
}
every_id = pytest.mark.parametrize("what", IDS)


def _refused(check: Callable[..., object], *given: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check(*given)
    assert caught.value.operation == "group.verb"
    return str(caught.value)


@every_id
@pytest.mark.parametrize("number", [7, Whole(), Seven.seven])
def test_an_id_is_a_whole_number_or_its_model(what: str, number: Any) -> None:
    """An id may be any whole number, including numpy's, or the model that has it."""
    read, model = IDS[what]
    assert read(number, "group.verb") == read(model, "group.verb") == 7


@every_id
@pytest.mark.parametrize(
    "wrong",
    [0, -1, True, False, None, "7", "", 7.0, math.nan, Decimal(7), b"7", object(), [ORDER], QUOTE],
    ids=lambda wrong: case_id(f"{wrong!r:.12}"),
)
def test_an_invalid_id_is_refused(what: str, wrong: Any) -> None:
    """Anything else is refused; the error says what is needed and what was passed."""
    text = _refused(IDS[what][0], wrong, "group.verb")
    assert text.startswith(f"group.verb: {what}, or its id (a whole number above 0), is needed, not ")
    assert text.endswith(": nothing was sent")


@every_id
@pytest.mark.parametrize("other", [ORDER, BLIB, TEMPLATE, INSTALL, STOP], ids=lambda other: type(other).__name__)
def test_an_id_of_another_model_is_refused(what: str, other: Any) -> None:
    """The id of one kind of object is not accepted for another."""
    read, model = IDS[what]
    if other is not model:
        assert f"is needed, not {type(other).__name__}" in _refused(read, other, "group.verb")


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        (STOP, "not Transition (pass its order_id, or wait for it with orders.wait)"),
        ([ORDER], "not list (client.fleet takes several)"),
        ({ORDER}, "not set (client.fleet takes several)"),
        ("7", "not '7': nothing"),
        ("x" * 100, f"not '{'x' * 39}: nothing"),
    ],
)
def test_a_common_mistake_with_an_order_gets_its_own_advice(wrong: Any, advice: str) -> None:
    """The usual mistakes get advice of their own; a long value is shortened in the message."""
    assert advice in _refused(arguments.order_id, wrong, "group.verb")


@pytest.mark.parametrize("amount", ["0.85", 0.85, Decimal("0.85"), 1, 0, "1e2"])
def test_an_amount_is_a_number_or_text(amount: Any) -> None:
    """An amount is a number or its text, with exactly the digits that it shows."""
    assert arguments.money(amount, "price_h", "group.verb") == Decimal(str(amount))


@pytest.mark.parametrize(
    "amount", [-1, "-0.01", math.nan, math.inf, "NaN", "x", "", None, True, [1], b"1", datetime(2026, 1, 1, tzinfo=UTC)]
)
def test_an_invalid_amount_is_refused(amount: Any) -> None:
    """An invalid or negative amount is refused; the error names the argument."""
    assert "price_h must be an amount of EUR of at least 0" in _refused(
        arguments.money, amount, "price_h", "group.verb"
    )


def test_an_amount_with_too_many_digits_is_compared_but_not_sent() -> None:
    """An amount with more digits than JSON readers keep can be compared, but not sent."""
    amount = Decimal("0.1000000000000000055511151231257827")
    assert arguments.money(amount, "max_price_h", "group.verb", sent=False) == amount
    text = _refused(arguments.money, amount, "price_h", "group.verb")
    assert "price_h must be an amount that a JSON number can hold" in text


@pytest.mark.parametrize("seconds", [None, 1, 0.001, 1e9, math.inf, Fraction(1, 2)])
def test_seconds_are_a_number_above_zero_or_none(seconds: Any) -> None:
    """Any real number above 0 is a number of seconds; None means no limit."""
    arguments.check_seconds(seconds)


@pytest.mark.parametrize(
    ("seconds", "given"),
    [
        (0, "not 0"),
        (-1.5, "not -1.5"),
        (math.nan, "not nan"),
        (True, "not True"),
        ("30", "not '30'"),
        ([], "not list"),
        (1j, "not complex"),
        (Decimal(1), "not Decimal"),
        (10**400, "(it is too large)"),
        (10**5000, "not int (it is too large)"),
        (timedelta(seconds=5), "not timedelta (pass its total_seconds())"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_invalid_seconds_are_refused(seconds: Any, given: str) -> None:
    """Anything that is not a number of seconds above 0, or is too large, is refused."""
    text = _refused(arguments.check_seconds, seconds, "timeout", "group.verb")
    assert "timeout must be a number of seconds above 0, or None, not" in text
    assert f"{given}: nothing was sent" in text


def test_a_timeout_may_be_default_where_the_action_has_one() -> None:
    """The word "default" is accepted only where an action has a default timeout."""
    arguments.check_timeout("default", "group.verb")
    assert "timeout must be" in _refused(arguments.check_timeout, "later", "group.verb")


@pytest.mark.parametrize("value", [0, 20, 100])
def test_a_percentage_is_a_whole_number_from_0_to_100(value: Any) -> None:
    """A percentage is a whole number from 0 to 100."""
    arguments.check_percentage(value, "second_partition_percentage", "group.verb")


@pytest.mark.parametrize("value", [-1, 101, 150, True, 20.0, "20", Decimal(20), None])
def test_an_invalid_percentage_is_refused(value: Any) -> None:
    """Anything else is refused; the error names the argument."""
    text = _refused(arguments.check_percentage, value, "second_partition_percentage", "group.verb")
    assert "second_partition_percentage must be a whole number of percent from 0 to 100, not" in text


@pytest.mark.parametrize("value", [0, 1, "no", "True", None])
def test_text_and_numbers_are_no_booleans(value: Any) -> None:
    """Text or a number is no boolean, and only True accepts the terms."""
    assert "keep_data must be True or False" in _refused(arguments.check_bool, value, "keep_data", "group.verb")
    assert "terms_accepted must be True" in _refused(arguments.check_terms, value, "group.verb")
    assert "terms_accepted must be True" in _refused(arguments.check_terms, False, "group.verb")
