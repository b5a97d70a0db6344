"""Checks of what callers pass, before anything is sent."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from numbers import Real
from operator import index
from typing import Literal, cast

from trooper_async._base.json_text import json_number
from trooper_async.errors import ConfigurationError
from trooper_async.models import JSON, Action, Blib, Order, Template, TemplateInstall, Transition

Timeout = float | None | Literal["default"]
"""Seconds; None waits for ever; "default" is a generous limit for the action."""

DEFAULT_TIMEOUTS: dict[Action, float] = {
    "start": 900.0,
    "stop": 900.0,
    "restart": 900.0,
    "freeze": 3600.0,
    "create": 1800.0,
    "migrate": 7200.0,
}


def order_id(order: Order | int, operation: str) -> int:
    """The id of an order; an error names the `operation`."""
    return order.order_id if isinstance(order, Order) else _id(order, "an order", operation)


def blib_id(blib: Blib | int, operation: str) -> int:
    """The id of an offer."""
    return blib.id if isinstance(blib, Blib) else _id(blib, "an offer", operation)


def template_id(template: Template | int, operation: str) -> int:
    """The id of a template."""
    return template.id if isinstance(template, Template) else _id(template, "a template", operation)


def install_id(install: TemplateInstall | int, operation: str) -> int:
    """The id of a template install."""
    if isinstance(install, TemplateInstall):
        return install.install_id
    return _id(install, "a template install", operation)


def _id(value: object, what: str, operation: str) -> int:
    with suppress(TypeError):  # it is not a whole number; numpy's integers are
        number = 0 if isinstance(value, bool) else index(value)  # type: ignore[arg-type]  # it raises that TypeError
        if number > 0:
            return number
    advice = ""
    if what == "an order" and isinstance(value, Transition):
        advice = " (pass its order_id, or wait for it with orders.wait)"
    elif what == "an order" and isinstance(value, list | tuple | set | frozenset | dict):
        advice = " (client.fleet takes several)"
    raise wrong(f"{what}, or its id (a whole number above 0), is needed", value, operation, advice)


def wrong(needed: str, value: object, operation: str, advice: str = "") -> ConfigurationError:
    """The error for a wrong argument: what is needed, and what was given (only its type if that is long)."""
    given = type(value).__name__
    if value is None or isinstance(value, bool | int | float | str):
        with suppress(ValueError):  # a number with more digits than Python converts to text
            given = f"{value!r:.40}"
    return ConfigurationError(f"{needed}, not {given}{advice}: nothing was sent", operation=operation)


def template_config(config: object, operation: str) -> dict[str, JSON]:
    """A template's options by name. Errors name no value, since it may be a password."""
    if config is None:
        return {}
    if not isinstance(config, Mapping) or not all(isinstance(name, str) for name in config):
        text = "config must be a mapping of the template's option names to values, such as {'python_version': '3.12'}"
        raise ConfigurationError(f"{text}: nothing was sent", operation=operation)
    return cast("dict[str, JSON]", dict(config))  # a value that is not JSON is refused when the request is encoded


def money(value: Decimal | float | str, name: str, operation: str, *, sent: bool = True) -> Decimal:
    """An amount in EUR that can be compared; with `sent`, also one that a JSON number can represent exactly."""
    try:
        amount = Decimal(str(value))
    except ArithmeticError:
        amount = Decimal("NaN")
    if isinstance(value, bool) or not amount.is_finite() or amount < 0:
        raise wrong(f"{name} must be an amount of EUR of at least 0", value, operation)
    if sent:
        try:
            json_number(amount)
        except ConfigurationError:
            raise wrong(f"{name} must be an amount that a JSON number can hold", value, operation) from None
    return amount


def check_seconds(seconds: object, name: str = "timeout", operation: str = "") -> None:
    """Refuse anything but a number of seconds above 0 that fits into a float; None is no limit."""
    if seconds is None:
        return
    advice = " (pass its total_seconds())" if isinstance(seconds, timedelta) else ""
    if not isinstance(seconds, bool) and isinstance(seconds, Real):
        try:
            if float(seconds) > 0:  # also refuses NaN
                return
        except OverflowError:
            advice = " (it is too large)"
    raise wrong(f"{name} must be a number of seconds above 0, or None", seconds, operation, advice)


def check_timeout(timeout: Timeout, operation: str) -> None:
    """As `check_seconds`, for a timeout that may also be "default"."""
    if timeout != "default":
        check_seconds(timeout, operation=operation)


def check_text(value: str, name: str, operation: str) -> None:
    """Refuse anything but text."""
    if not isinstance(value, str):
        raise wrong(f"{name} must be text", value, operation)


def check_bool(value: bool, name: str, operation: str) -> None:
    """Refuse anything but True and False: a text like "no" would count as true."""
    if type(value) is not bool:
        raise wrong(f"{name} must be True or False", value, operation)


def check_percentage(value: int, name: str, operation: str) -> None:
    """Refuse anything but a whole number from 0 to 100."""
    if type(value) is not int or not 0 <= value <= 100:
        raise wrong(f"{name} must be a whole number of percent from 0 to 100", value, operation)


def check_terms(accepted: bool, operation: str) -> None:
    """Refuse an order whose terms are not accepted, as the API does."""
    if accepted is not True:
        raise wrong("terms_accepted must be True, which accepts the terms of Trooper.AI", accepted, operation)


def seconds_of(timeout: Timeout, action: Action, migration_allowed: bool) -> float | None:
    """The timeout in seconds; the usual one of the action for "default"."""
    if timeout != "default":
        return timeout
    return DEFAULT_TIMEOUTS["migrate" if migration_allowed else action]


def deadline(began: float, seconds: float | None) -> float:
    """When a timeout of so many seconds ends, on the clock that `began` was read from."""
    return math.inf if seconds is None else began + seconds


def check_function(function: object, name: str, taken: str, operation: str) -> None:
    """Refuse, before anything is sent, what cannot be called with one argument; None means no function."""
    if function is None:
        return
    fits = callable(function)
    if callable(function):
        with suppress(ValueError):  # some built-in functions have no signature
            try:
                inspect.signature(function).bind(None)
            except TypeError:
                fits = False
    if not fits:
        raise wrong(f"{name} must be a function that takes {taken}", function, operation)


def check_on_change(on_change: object, operation: str) -> None:
    """Refuse, before anything is sent, an `on_change` that a wait could not call."""
    check_function(on_change, "on_change", "an Order", operation)
    if callable(on_change) and any(inspect.iscoroutinefunction(one) for one in (on_change, type(on_change).__call__)):
        text = "on_change must be a plain function, not an async one"
        raise ConfigurationError(f"{text}: nothing was sent", operation=operation)
