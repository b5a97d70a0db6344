"""The outcomes of a fleet's run: plain data that can be stored, and continued by `client.fleet.resume`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeVar, get_args

from attrs import evolve, field, fields, frozen

from trooper_async import errors
from trooper_async._base.converter import Money
from trooper_async._base.json_text import loads
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

T = TypeVar("T")


@frozen
class FleetOutcome:
    """The outcome of one order. With neither `order` nor `error`, it has not finished."""

    order_id: int
    """The order's id."""
    action: Action
    """What was requested for it."""
    order: Order | None = None
    """The order in the requested status, if it reached it."""
    error: TrooperError | None = field(default=None, eq=repr)
    """Why it did not reach it, if it failed."""
    seconds: float = 0.0
    """Seconds from the moment its action was due until it finished."""
    transition: Transition | None = None
    """The action that was, or may have been, sent."""
    sent: bool | None = False
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
        return {
            "order_id": self.order_id,
            "action": self.action,
            "order": _order_data(self.order, money) if self.order else None,
            "error": _error_data(self.error, money) if self.error else None,
            "seconds": self.seconds,
            "transition": self.transition.to_dict() if self.transition else None,
            "sent": self.sent,
            "sent_at": self.sent_at.isoformat() if self.sent_at else None,
        }

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
        # raised outside `suppress`: the exceptions in it hold the data, and would be the context of ours
        with suppress(*_NOT_A_REPORT):
            return _report(data)
        raise ConfigurationError("this is not the data of a FleetReport")

    def to_json(self) -> str:
        """Return this report as text, to be stored.

        Returns:
            JSON text for `from_json`, in another process or a later release too.
        """
        return json.dumps({"trooper_fleet_report": 1, **self.to_dict()})

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
        reports = [_from_line(line) for line in lines or [last]]
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


_NOT_A_REPORT = (ValueError, TypeError, KeyError, AttributeError, RecursionError, TrooperError)
"""The exceptions that reading a damaged report raises."""


def _from_line(text: str) -> FleetReport:
    problem = "not a stored FleetReport (FleetReport.to_json writes one)"
    # raised outside `suppress`: the exceptions in it hold the text, and would be the context of ours
    with suppress(*_NOT_A_REPORT):
        data = loads(text.encode())
        if not isinstance(data, dict):
            raise TypeError
        if data["trooper_fleet_report"] != 1:
            problem = "this FleetReport was stored by a later release: update trooper-async"
            raise ValueError
        problem = "this stored FleetReport is damaged"
        return _report(data)
    raise ConfigurationError(problem)


def _report(data: Mapping[str, object]) -> FleetReport:
    outcomes, elapsed, migration_allowed = data["outcomes"], data["elapsed"], data["migration_allowed"]
    if not isinstance(outcomes, list) or not isinstance(migration_allowed, bool):
        raise TypeError
    return FleetReport(tuple(map(_outcome, outcomes)), _seconds(elapsed), migration_allowed)


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


def _outcome(data: JSON) -> FleetOutcome:
    if not isinstance(data, dict):
        raise TypeError
    order_id, sent = data["order_id"], data["sent"]
    action: Action = data["action"]  # type: ignore[assignment]  # checked in the next line
    if type(order_id) is not int or action not in get_args(Action) or not isinstance(sent, bool | None):
        raise ValueError
    outcome = FleetOutcome(
        order_id=order_id,
        action=action,
        order=_optional(data["order"], _order),
        error=_optional(data["error"], _error),
        seconds=_seconds(data["seconds"]),
        transition=_optional(data["transition"], _transition),
        sent=sent,
        sent_at=_optional(data.get("sent_at"), _time),
    )
    if not _is_consistent(outcome):
        raise ValueError
    return outcome


def _is_consistent(outcome: FleetOutcome) -> bool:
    """Whether an outcome is consistent: resuming an inconsistent one could send a restart again."""
    transition, order = outcome.transition, outcome.order
    if outcome.order_id < 1 or (
        order is not None and (outcome.error is not None or order.order_id != outcome.order_id)
    ):
        return False
    if transition is None:
        return outcome.sent is False or outcome.ended
    return (transition.order_id, transition.action) == (outcome.order_id, outcome.action)


def _error(data: JSON) -> TrooperError:
    if not isinstance(data, dict) or not isinstance(data["message"], str):
        raise TypeError
    kind = getattr(errors, str(data["type"]), None)
    if not (isinstance(kind, type) and issubclass(kind, TrooperError)):
        kind = TrooperError  # an error class of a later release
    error: TrooperError = kind.__new__(kind, data["message"])  # as unpickling does: each __init__ is different
    error.args = (data["message"],)
    objects: dict[str, Callable[[JSON], object]] = {
        "order": _order,
        "last_error": _error,
        "transition": _transition,
        "cause": _error,
    }
    for name, value in data.items():
        if name == "type":
            continue
        setattr(error, "__cause__" if name == "cause" else name, _optional(value, objects.get(name, _scalar)))
    str(error)  # a value of the wrong type would make this fail: better now than later
    return error


def _optional(data: JSON, read: Callable[[JSON], T]) -> T | None:
    return None if data is None else read(data)


def _order(data: JSON) -> Order:
    if not isinstance(data, dict):
        raise TypeError
    return Order.from_dict(data)


def _transition(data: JSON) -> Transition:
    if not isinstance(data, dict) or not data.keys() >= {one.name for one in fields(Transition)}:
        raise TypeError  # every field is written, so a missing one was lost
    return Transition.from_dict(data)


def _seconds(data: object) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float | Decimal):
        raise TypeError
    return float(data)


def _time(data: JSON) -> datetime:
    if not isinstance(data, str) or (time := datetime.fromisoformat(data)).tzinfo is None:
        raise TypeError
    return time


def _scalar(data: JSON) -> object:
    if isinstance(data, list | dict):
        raise TypeError
    return float(data) if isinstance(data, Decimal) else data
