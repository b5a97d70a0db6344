"""The exceptions: their tree, their texts, and that they can be pickled and copied."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from attrs import evolve

import trooper_async
from trooper_async import errors
from trooper_async._base.errors import Context
from trooper_async.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    NotFoundError,
    OrderNotFoundError,
    OrderVanishedError,
    OutcomeUnknownError,
    PermissionDeniedError,
    PriceError,
    PurchaseNotReadyError,
    PurchaseUnknownError,
    RateLimitError,
    RefusedError,
    ResponseFormatError,
    ServerError,
    ServerLockedError,
    StillRunningError,
    SupersededError,
    TemplateFailedError,
    TrooperError,
    UnresolvedPurchaseError,
    WaitContext,
    WaitError,
    WaitTimeoutError,
)
from trooper_async.models import Order, OrderStatus, Purchase, StatusChange, TemplateInstall, Transition

# The tree at the beginning of errors.py: every class and its base classes.
TREE: dict[type[TrooperError], tuple[type[BaseException], ...]] = {
    TrooperError: (Exception,),
    ConfigurationError: (TrooperError, ValueError),
    ClientClosedError: (TrooperError,),
    APIConnectionError: (TrooperError,),
    APITimeoutError: (APIConnectionError, TimeoutError),
    APIStatusError: (TrooperError,),
    BadRequestError: (APIStatusError,),
    AuthenticationError: (APIStatusError,),
    NotFoundError: (APIStatusError,),
    ServerError: (APIStatusError,),
    PermissionDeniedError: (APIStatusError,),
    ServerLockedError: (PermissionDeniedError,),
    RateLimitError: (APIStatusError,),
    RefusedError: (APIStatusError,),
    OrderNotFoundError: (TrooperError,),
    ResponseFormatError: (TrooperError,),
    PriceError: (TrooperError,),
    OutcomeUnknownError: (TrooperError,),
    PurchaseUnknownError: (OutcomeUnknownError,),
    UnresolvedPurchaseError: (TrooperError,),
    StillRunningError: (TrooperError,),
    WaitError: (TrooperError,),
    WaitTimeoutError: (WaitError, TimeoutError),
    SupersededError: (WaitError,),
    OrderVanishedError: (WaitError,),
    TemplateFailedError: (WaitError,),
    PurchaseNotReadyError: (WaitError,),
}

CONTEXT = Context(operation="orders.stop", subject="order 123", attempts=3, seconds=4.25)
INSTALL = TemplateInstall(5, 1, "PyTorch Environment", 7, "Failed", {"python_version": "3.9", "extras": ["a", None]})
ORDER = Order(
    123, OrderStatus.stopped, "parking", price_h=Decimal("0.85"), template_installs=(INSTALL,), title="My server"
)
TRANSITION = Transition(
    123,
    "restart",
    OrderStatus.running,
    (StatusChange("stopped", datetime(2025, 9, 25, 8, 15, tzinfo=UTC), "by user", 2),),
)
PURCHASE = Purchase("p1", "create", 1, "unknown", datetime(2025, 9, 26, tzinfo=UTC), "my-ref", Decimal("0.85"), 124)
WAIT = WaitContext(
    **CONTEXT,
    order=ORDER,
    target="stopped",
    polls=17,
    last_error=ServerError("Error fetching Blibs", status=500, **CONTEXT),
    transition=TRANSITION,
)


def _plain(kind: type[TrooperError]) -> Callable[[], TrooperError]:
    return lambda: kind("it went wrong", **CONTEXT)


def _status(kind: type[APIStatusError], status: int) -> Callable[[], TrooperError]:
    return lambda: kind("it went wrong", status=status, next_step="login", retry_after=1.5, **CONTEXT)


def _wait(kind: type[WaitError]) -> Callable[[], TrooperError]:
    return lambda: kind("it went wrong", **WAIT)


# How each class is made, with every attribute that it can have.
BUILDERS: dict[type[TrooperError], Callable[[], TrooperError]] = {
    TrooperError: _plain(TrooperError),
    ConfigurationError: _plain(ConfigurationError),
    ClientClosedError: _plain(ClientClosedError),
    APIConnectionError: _plain(APIConnectionError),
    APITimeoutError: _plain(APITimeoutError),
    APIStatusError: _status(APIStatusError, 418),
    BadRequestError: _status(BadRequestError, 400),
    AuthenticationError: _status(AuthenticationError, 401),
    NotFoundError: _status(NotFoundError, 404),
    ServerError: _status(ServerError, 503),
    PermissionDeniedError: _status(PermissionDeniedError, 403),
    ServerLockedError: _status(ServerLockedError, 403),
    RateLimitError: _status(RateLimitError, 429),
    RefusedError: _status(RefusedError, 200),
    OrderNotFoundError: _plain(OrderNotFoundError),
    ResponseFormatError: lambda: ResponseFormatError("$[3].order_id", "a whole number", **CONTEXT),
    PriceError: _plain(PriceError),
    OutcomeUnknownError: lambda: OutcomeUnknownError("it went wrong", transition=TRANSITION, **CONTEXT),
    PurchaseUnknownError: lambda: PurchaseUnknownError(
        "it went wrong", purchase=PURCHASE, candidates=(ORDER,), transition=TRANSITION, **CONTEXT
    ),
    UnresolvedPurchaseError: lambda: UnresolvedPurchaseError(
        "it went wrong", purchase=PURCHASE, candidates=(ORDER,), **CONTEXT
    ),
    StillRunningError: lambda: StillRunningError("it went wrong", order_id=5, price_h=Decimal("0.85"), **CONTEXT),
    WaitError: _wait(WaitError),
    WaitTimeoutError: _wait(WaitTimeoutError),
    SupersededError: _wait(SupersededError),
    OrderVanishedError: _wait(OrderVanishedError),
    TemplateFailedError: lambda: TemplateFailedError("it went wrong", install=INSTALL, **WAIT),
    PurchaseNotReadyError: lambda: PurchaseNotReadyError("it went wrong", purchase=PURCHASE, **WAIT),
}

every_error = pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)


def _state(error: TrooperError) -> dict[str, object]:
    """The attributes of an error; errors in it by their own, since exceptions are equal only to themselves."""
    return {
        name: (type(value), value.args, _state(value)) if isinstance(value, TrooperError) else value
        for name, value in vars(error).items()
    }


def test_the_tree_is_complete() -> None:
    """Every exception of the module is in the tree, and nothing else is."""
    defined = {
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, BaseException) and issubclass(value, errors.TrooperError)
    }
    assert defined == set(TREE) == set(BUILDERS)


@every_error
def test_every_class_has_the_bases_of_the_tree(kind: type[TrooperError]) -> None:
    """Every exception has exactly the base classes that the tree shows."""
    assert kind.__bases__ == TREE[kind]


@every_error
def test_every_class_is_public_and_in_the_docstring(kind: type[TrooperError]) -> None:
    """Every exception can be imported from the package, and the module's docstring names it."""
    assert getattr(trooper_async, kind.__name__) is kind
    assert kind.__name__ in trooper_async.__all__
    assert kind.__name__ in (errors.__doc__ or "")


def test_only_two_classes_are_timeouts_and_one_a_value_error() -> None:
    """A generic `except TimeoutError` or `except ValueError` catches exactly what the tree says."""

    def caught(base: type[Exception]) -> set[str]:
        return {kind.__name__ for kind in TREE if issubclass(kind, base)}

    assert caught(TimeoutError) == caught(OSError) == {"APITimeoutError", "WaitTimeoutError"}
    assert caught(ValueError) == {"ConfigurationError"}
    assert caught(ConnectionError) == set()


@pytest.mark.parametrize(
    "kind",
    [OutcomeUnknownError, PurchaseUnknownError, UnresolvedPurchaseError, PurchaseNotReadyError, APIStatusError],
    ids=lambda kind: kind.__name__,
)
def test_an_unknown_outcome_is_no_connection_error(kind: type[TrooperError]) -> None:
    """Once something may have been sent, no exception is a timeout or connection error: nobody retries it."""
    error = BUILDERS[kind]()
    assert not isinstance(error, TimeoutError | OSError | asyncio.TimeoutError | ConnectionError)
    assert not isinstance(error, APIConnectionError)


@every_error
def test_an_error_survives_pickling(kind: type[TrooperError]) -> None:
    """Every error is the same after every pickle protocol, with all its attributes."""
    error = BUILDERS[kind]()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is kind
        assert (str(again), repr(again), again.args) == (str(error), repr(error), error.args)
        assert _state(again) == _state(error)


@every_error
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_an_error_survives_copying(kind: type[TrooperError], copied: Callable[[TrooperError], TrooperError]) -> None:
    """A copy of an error is another object with the same attributes."""
    error = BUILDERS[kind]()
    again = copied(error)
    assert again is not error
    assert type(again) is kind
    assert (str(again), again.args) == (str(error), error.args)
    assert _state(again) == _state(error)
    again.operation = "another"
    assert error.operation == "orders.stop"


@every_error
def test_an_error_with_required_arguments_only_survives_pickling(kind: type[TrooperError]) -> None:
    """An error with only its required arguments can be pickled too, and so can one with notes."""
    error = BUILDERS[kind]()
    for name in ("order", "transition", "last_error", "retry_after", "next_step"):
        if name in vars(error):
            setattr(error, name, None)
    error.operation, error.subject, error.attempts, error.seconds = "", "", 0, 0.0
    error.add_note("seen on the second run")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), _state(again)) == (kind, str(error), _state(error))
    assert again.__notes__ == ["seen on the second run"]


@every_error
def test_a_text_says_what_failed_and_what_to_do(kind: type[TrooperError]) -> None:
    """The text of every error has the operation, the order, the attempts or polls, and what to do."""
    error = BUILDERS[kind]()
    text = str(error)
    assert text.startswith("orders.stop of order 123: ")
    assert f"({'17 polls' if issubclass(kind, WaitError) else '3 attempts'}, 4.2 s)" in text
    assert text.endswith(error.hint)


@every_error
def test_every_class_has_a_hint(kind: type[TrooperError]) -> None:
    """Every class says what to do next unless its message does, without a full stop at the end."""
    if kind in (TrooperError, ConfigurationError, APIStatusError):  # the message itself says what to do
        assert kind.hint == ""
    else:
        assert "hint" in vars(kind)
        assert kind.hint
        assert not kind.hint.endswith(".")


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ({}, "boom"),
        ({"operation": "ping"}, "ping: boom"),
        ({"subject": "order 1"}, "order 1: boom"),
        ({"operation": "orders.stop", "subject": "order 1"}, "orders.stop of order 1: boom"),
        ({"operation": "ping", "attempts": 1, "seconds": 0.04}, "ping: boom (1 attempt, 0.0 s)"),
        ({"operation": "ping", "attempts": 2, "seconds": 61.66}, "ping: boom (2 attempts, 61.7 s)"),
        ({"operation": "ping", "attempts": 0, "seconds": 9.0}, "ping: boom"),
    ],
)
def test_a_text_omits_unknown_facts(context: Context, expected: str) -> None:
    """A missing attribute is not in the text, and one attempt is in the singular."""
    error = TrooperError("boom", **context)
    assert str(error) == expected
    unknown: Context = {"operation": "", "subject": "", "attempts": 0, "seconds": 0.0}
    for name, value in {**unknown, **context}.items():
        assert getattr(error, name) == value


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "You must accept the terms and conditions.",
            "the API returned 400: You must accept the terms and conditions. "
            "Nothing was changed: the message says what the API does not accept",
        ),
        (
            "Invalid or missing contract interval",
            "the API returned 400: Invalid or missing contract interval. "
            "Nothing was changed: the message says what the API does not accept",
        ),
    ],
)
def test_an_api_text_is_quoted_in_the_text(message: str, expected: str) -> None:
    """A response's error has the API's own text and status, with one full stop before the hint."""
    error = BadRequestError(message, status=400)
    assert str(error) == expected
    assert (error.message, error.status, error.next_step, error.retry_after) == (message, 400, None, None)


def test_the_hint_of_an_unknown_outcome_can_be_followed() -> None:
    """It says to wait for the transition if there is one, else to check: rename, lock and install have none."""
    assert "orders.wait(error.transition)" in str(OutcomeUnknownError("lost", transition=TRANSITION))
    without = OutcomeUnknownError("lost", operation="orders.rename", subject="order 123")
    assert "transition" not in str(without)
    assert str(without) == ("orders.rename of order 123: lost. It may have been done: check before you send it again")


def test_only_a_4xx_says_that_nothing_was_changed() -> None:
    """A 5xx does not prove that."""
    for kind in TREE:
        if issubclass(kind, APIStatusError) and kind is not APIStatusError:
            error = BUILDERS[kind]()
            assert ("Nothing was changed" in str(error)) is (kind not in (ServerError, AuthenticationError)), kind
    assert "does not say whether anything was done" in str(ServerError("boom", status=500))


@pytest.mark.parametrize(
    ("purchase", "described"),
    [
        (PURCHASE, "(the order, blib 1, 2025-09-26 00:00:00 UTC, reference 'my-ref')"),
        (
            Purchase("p2", "migrate", 3, "unknown", datetime(2025, 9, 26, 7, 8, 9, tzinfo=UTC), migrated_order_id=124),
            "(the migration of order 124, blib 3, 2025-09-26 07:08:09 UTC)",
        ),
    ],
)
def test_an_unresolved_purchase_is_named(purchase: Purchase, described: str) -> None:
    """The text names the purchase to resolve: its kind, blib, time and reference."""
    assert described in str(UnresolvedPurchaseError("an earlier purchase is unresolved", purchase=purchase))


def test_a_purchase_that_was_made_need_not_be_looked_for() -> None:
    """If only its delivery failed, the hint names the order; otherwise it says to find out."""
    lost = Purchase("p3", "create", 1, "unknown", datetime(2025, 9, 26, tzinfo=UTC))
    hints = [
        UnresolvedPurchaseError("an earlier purchase is unresolved", purchase=purchase).hint
        for purchase in (lost, evolve(lost, state="bought", order_id=123))
    ]
    assert hints == [
        "Find out whether it was made, then await client.orders.resolve(error, order_or_none)",
        "Use or freeze order 123, then await client.orders.resolve(error, 123)",
    ]


def test_a_format_error_names_the_place() -> None:
    """ResponseFormatError says where, and what was expected."""
    error = ResponseFormatError("$[3].order_id", "a whole number")
    assert (error.path, error.expected) == ("$[3].order_id", "a whole number")
    assert str(error) == (
        "the response is not as documented: $[3].order_id should be a whole number. "
        "The API may have changed: look for a newer release of trooper-async"
    )


def test_a_wait_error_has_defaults() -> None:
    """A wait error without details has None and zero, not missing attributes."""
    error = WaitTimeoutError("late")
    known = (error.order, error.target, error.polls, error.last_error, error.transition, error.attempts, error.seconds)
    assert known == (None, None, 0, None, None, 0, 0.0)
    assert (error.operation, error.subject, error.message) == ("", "", "late")


def test_the_errors_have_their_objects() -> None:
    """The objects that an error is about are its attributes, unchanged."""
    unknown = BUILDERS[PurchaseUnknownError]()
    assert isinstance(unknown, PurchaseUnknownError)
    assert (unknown.purchase, unknown.candidates, unknown.transition) == (PURCHASE, (ORDER,), TRANSITION)
    failed = BUILDERS[TemplateFailedError]()
    assert isinstance(failed, TemplateFailedError)
    assert (failed.install, failed.order, failed.target, failed.polls) == (INSTALL, ORDER, "stopped", 17)
    bought = BUILDERS[PurchaseNotReadyError]()
    assert isinstance(bought, PurchaseNotReadyError)
    assert (bought.purchase, bought.transition, bought.last_error) == (PURCHASE, TRANSITION, WAIT.get("last_error"))
