"""The outcomes of a fleet's run: plain data that can be stored, and continued by `client.fleet.resume`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from attrs import evolve, field, frozen

from trooper_async import errors
from trooper_async._base import stored
from trooper_async._base.converter import REQUIRED, Money, add_hook, from_data, model_data
from trooper_async._base.values import Unexpected
from trooper_async.errors import (
    APIStatusError,
    AuthenticationError,
    ConfigurationError,
    OrderVanishedError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    ServerLockedError,
    SupersededError,
    TrooperError,
)
from trooper_async.models import JSON, Action, Order, Transition

_MARK = "trooper_fleet_report"


@frozen
class FleetOutcome:
    """The outcome of one order. With neither `order` nor `error`, it has not finished."""

    order_id: int
    """The order's id."""
    action: Action
    """What was requested for it."""
    order: Order | None = field(default=None, metadata=REQUIRED)
    """The order in the requested status, if it reached it."""
    error: TrooperError | None = field(default=None, eq=repr, metadata=REQUIRED)
    """Why it did not reach it, if it failed."""
    seconds: float = 0.0
    """Seconds from the moment its action was due until it finished."""
    transition: Transition | None = field(default=None, metadata=REQUIRED)
    """The action that was, or may have been, sent."""
    sent: bool | None = field(default=False, metadata=REQUIRED)
    """Whether its action was sent and accepted; None if it may have been. False together with an `order` means that the
    server was left alone.
    """
    sent_at: datetime | None = None
    """When its action was accepted, or may have been sent, by this machine's clock."""

    def to_dict(self, *, money: Literal["text", "number"] = "text") -> dict[str, JSON]:
        """Return this outcome as a dict of JSON types, for `json.dumps`, a web framework or a data frame.

        Args:
            money: "text" keeps every digit of an amount (`"15.50"`); "number" gives an int or float (`15.5`).

        Returns:
            A dict by field names. The settings of an order's templates, and its `extra`, are left out, since they may
            be secret.
        """
        data = model_data(evolve(self, order=None, error=None))
        data["order"] = _order_data(self.order, money) if self.order else None
        data["error"] = _error_data(self.error, money) if self.error else None
        return data

    @property
    def ended(self) -> bool:
        """Whether it has finished, successfully or not."""
        return self.order is not None or self.error is not None

    @property
    def resumable(self) -> bool:
        """Whether `fleet.resume` continues it: it has not finished, or failed for a reason that may pass."""
        if self.order is not None:
            return False
        error = self.error
        if isinstance(error, APIStatusError) and not self.sent and error.attempts:  # else it is another's refusal
            # a 403 may come from a firewall, but not if it says that the server is locked
            may_pass = AuthenticationError | PermissionDeniedError | RateLimitError | ServerError
            return isinstance(error, may_pass) and not isinstance(error, ServerLockedError)
        return not isinstance(error, SupersededError | OrderVanishedError | ConfigurationError)


@frozen
class FleetReport:
    """The outcome of each order of a run, in the sequence in which the orders were passed."""

    outcomes: tuple[FleetOutcome, ...]
    """One outcome for each order."""
    elapsed: float = 0.0
    """Seconds that the run took, including those before a `resume`."""
    migration_allowed: bool = False
    """Whether starts may move servers to other hardware; `fleet.resume` uses the same setting."""

    @property
    def succeeded(self) -> tuple[FleetOutcome, ...]:
        """The orders that reached the requested status."""
        return tuple(outcome for outcome in self.outcomes if outcome.order is not None)

    @property
    def failed(self) -> tuple[FleetOutcome, ...]:
        """The orders that failed."""
        return tuple(outcome for outcome in self.outcomes if outcome.error is not None)

    @property
    def pending(self) -> tuple[FleetOutcome, ...]:
        """The orders that had not finished when the report was made: not sent yet, or still awaited."""
        return tuple(outcome for outcome in self.outcomes if not outcome.ended)

    @property
    def left_alone(self) -> tuple[FleetOutcome, ...]:
        """The orders for which nothing was sent, since they were already in the requested status or changing to it."""
        return tuple(outcome for outcome in self.succeeded if outcome.sent is False)

    def raise_for_failures(self) -> None:
        """Raise the errors of the orders that failed, if any did.

        Raises:
            ExceptionGroup: of `TrooperError`s, each of which names its order.
        """
        failures = [outcome.error for outcome in self.outcomes if outcome.error is not None]
        if failures:
            raise ExceptionGroup(f"{len(failures)} of {len(self.outcomes)} orders failed", failures)

    def to_dict(self, *, money: Literal["text", "number"] = "text") -> dict[str, JSON]:
        """Return this report as a dict of JSON types, for `json.dumps` or a web framework.

        Args:
            money: "text" keeps every digit of an amount (`"15.50"`); "number" gives an int or float (`15.5`).

        Returns:
            A dict by field names. The settings of an order's templates, and its `extra`, are left out, since they may
            be secret.
        """
        return {
            "elapsed": self.elapsed,
            "migration_allowed": self.migration_allowed,
            "outcomes": [outcome.to_dict(money=money) for outcome in self.outcomes],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> FleetReport:
        """Read the report that `to_dict` returned, with either form of money.

        Args:
            data: what `to_dict` returned.

        Returns:
            The report.

        Raises:
            ConfigurationError: a field is missing or of the wrong kind, or the report contradicts itself.
        """
        return _consistent(from_data(data, cls), "this is not FleetReport data")

    def to_json(self) -> str:
        """Return this report as text, to be stored.

        Returns:
            JSON text for `from_json`, in another process or a later release too.
        """
        return json.dumps({_MARK: 1, **self.to_dict()})

    @classmethod
    def from_json(cls, text: str) -> FleetReport:
        """Read the report that `to_json` wrote, or that a `ReportFile` holds.

        Args:
            text: the stored text. Of several lines, the last one of each order counts. An incomplete last line is
                ignored: the process was killed while writing it, and its action was not sent yet.

        Returns:
            The report.

        Raises:
            ConfigurationError: the text is not a stored report, contradicts itself, or is one of a later release.
        """
        *lines, last = text.split("\n")
        damaged = "this stored FleetReport is damaged"
        reports = [_consistent(stored.read(line, _MARK, cls), damaged) for line in lines or [last]]
        outcomes = {outcome.order_id: outcome for report in reports for outcome in report.outcomes}
        elapsed = max(report.elapsed for report in reports)
        return cls(tuple(outcomes.values()), elapsed, reports[0].migration_allowed)


@frozen
class FleetProgress:
    """The progress of a run."""

    done: int
    """Orders that have finished (or, with `wait=False`, been accepted), including those that failed."""
    failed: int
    """Orders that failed."""
    total: int
    """All orders of the run."""
    latest: FleetOutcome
    """The order that this call is about: it has finished, or (with neither `order` nor `error`) is about to be sent."""
    _report: Callable[[], FleetReport] = field(repr=False, eq=False)

    def report(self) -> FleetReport:
        """The report as it is now, for storing.

        Returns:
            The report. It includes everything that was sent, even after the run was cancelled.
        """
        return self._report()


def _order_data(order: Order, money: Money) -> dict[str, JSON]:
    # a template's settings may hold a password, and so may unknown fields
    installs = order.template_installs and tuple(
        evolve(install, config=None, extra={}) for install in order.template_installs
    )
    return evolve(order, template_installs=installs, extra={}).to_dict(money=money)


def _error_data(error: TrooperError, money: Money) -> dict[str, JSON]:
    data: dict[str, JSON] = {"type": type(error).__name__}
    for name, value in (*vars(error).items(), ("cause", error.__cause__)):
        if value is None or isinstance(value, str | bool | int | float):
            data[name] = value
        elif isinstance(value, Order):
            data[name] = _order_data(value, money)
        elif isinstance(value, TrooperError):
            data[name] = _error_data(value, money)
        elif isinstance(value, Transition):
            data[name] = value.to_dict()
    return data


def _consistent(report: FleetReport, problem: str) -> FleetReport:
    """Return the report; refuse one that contradicts itself: resuming it could send a restart again."""
    if not all(map(_is_consistent, report.outcomes)):
        raise ConfigurationError(problem)
    return report


def _is_consistent(outcome: FleetOutcome) -> bool:
    transition, order = outcome.transition, outcome.order
    if outcome.order_id < 1 or (
        order is not None and (outcome.error is not None or order.order_id != outcome.order_id)
    ):
        return False
    if transition is None:
        return outcome.sent is False or outcome.ended
    return (transition.order_id, transition.action) == (outcome.order_id, outcome.action)


def _error(data: Any, _: type) -> TrooperError:
    with suppress(TypeError, ValueError, KeyError, AttributeError):
        if not isinstance(data["message"], str):
            raise TypeError
        kind = getattr(errors, data["type"], None)
        if not (isinstance(kind, type) and issubclass(kind, TrooperError)):
            kind = TrooperError  # an error class of a later release
        error: TrooperError = kind.__new__(kind)  # as unpickling does: each __init__ is different
        error.args = (data["message"],)
        for name, value in data.items():
            if name in _MODELS and value is not None:
                value = from_data(value, _MODELS[name])
            elif isinstance(value, Decimal):
                value = float(value)
            elif isinstance(value, list | dict):
                raise TypeError
            if name != "type":
                setattr(error, "__cause__" if name == "cause" else name, value)
        str(error)  # a value of the wrong type would make this fail: better now than later
        return error
    raise Unexpected("an error")


_MODELS: dict[str, type] = {"order": Order, "transition": Transition, "last_error": TrooperError, "cause": TrooperError}
"""What the attributes of an error are that are no plain values."""

add_hook(TrooperError, _error)
