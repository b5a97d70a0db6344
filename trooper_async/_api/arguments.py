"""What callers pass, checked before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Literal, cast

from trooper_async._base.converter import json_number
from trooper_async.errors import ConfigurationError
from trooper_async.models import JSON, Action, Blib, Order, Template, TemplateInstall, Transition

Timeout = float | None | Literal["default"]
"""Seconds; None waits for ever; "default" is what the action usually needs, generously."""

DEFAULT_TIMEOUTS: dict[Action, float] = {
    "start": 900.0,
    "stop": 900.0,
    "restart": 900.0,
    "freeze": 3600.0,
    "create": 1800.0,
    "migrate": 7200.0,
}


def order_id(order: Order | int) -> int:
    return order.order_id if isinstance(order, Order) else _id(order, "an order")


def blib_id(blib: Blib | int) -> int:
    return blib.id if isinstance(blib, Blib) else _id(blib, "a blib")


def template_id(template: Template | int) -> int:
    return template.id if isinstance(template, Template) else _id(template, "a template")


def install_id(install: TemplateInstall | int) -> int:
    return install.install_id if isinstance(install, TemplateInstall) else _id(install, "a template install")


def _id(value: object, whose: str) -> int:
    if type(value) is int and value > 0:
        return value
    raise ConfigurationError(f"the id of {whose} must be a whole number above 0, not {value!r:.40}: nothing was sent")


def template_config(config: object, operation: str) -> dict[str, JSON]:
    """A template's options by name. An error tells no value, since it may be a password."""
    if config is None:
        return {}
    if not isinstance(config, Mapping) or not all(isinstance(name, str) for name in config):
        text = "config must be a mapping of the template's option names to values, such as {'python_version': '3.12'}"
        raise ConfigurationError(f"{text}: nothing was sent", operation=operation)
    return cast("dict[str, JSON]", dict(config))  # a value that is no JSON is refused when the request is encoded


def money(value: Decimal | float | str, name: str, *, sent: bool = True) -> Decimal:
    """An amount in EUR that can be compared and sent (`sent`: one that no JSON number holds is refused too)."""
    try:
        amount = Decimal(str(value))
    except ArithmeticError:
        amount = Decimal("NaN")
    if isinstance(value, bool) or not amount.is_finite() or amount < 0:
        raise ConfigurationError(f"{name} must be an amount of EUR of at least 0, not {value!s:.40}: nothing was sent")
    if sent:
        json_number(amount)
    return amount


def check_seconds(seconds: float | None, name: str = "timeout") -> None:
    """Refuse what is no number of seconds above 0; None is no limit."""
    if seconds is None:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or math.isnan(seconds) or seconds <= 0:
        raise ConfigurationError(
            f"{name} must be a number of seconds above 0, or None for no limit, not {seconds!r:.40}"
        )


def seconds_of(timeout: Timeout, transition: Transition) -> float | None:
    """The timeout, where it is given; else what the action usually needs."""
    if timeout != "default":
        return timeout
    return DEFAULT_TIMEOUTS["migrate"] if transition.migration_allowed else DEFAULT_TIMEOUTS[transition.action]
