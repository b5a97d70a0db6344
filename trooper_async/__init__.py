"""trooper_async: the asyncio client of the Trooper.AI GPU-server API.

    async with TrooperClient() as trooper:
        await trooper.orders.start_and_wait(123)

Every public name can be imported from here. Each is loaded on its first use (PEP 562), so that what only needs a part
of the package, such as its pytest plugin, does not load aiohttp.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trooper_async._api.arguments import Timeout
    from trooper_async._base.version import __version__
    from trooper_async._buying.ledger import read_ledger
    from trooper_async._fleet.fleet import Fleet
    from trooper_async._fleet.report import FleetOutcome, FleetProgress, FleetReport
    from trooper_async._fleet.report_file import ReportFile
    from trooper_async._fleet.run import OnProgress
    from trooper_async._groups.blibs import Blibs
    from trooper_async._groups.costs import cost_h, prepaid
    from trooper_async._groups.migrations import Migrations
    from trooper_async._groups.orders import Orders
    from trooper_async._groups.selection import select
    from trooper_async._groups.templates import Templates
    from trooper_async._http.before_sending import check_before_sending
    from trooper_async._http.retry import RetryPolicy
    from trooper_async._waiting.feed import Outage, Watch
    from trooper_async._waiting.schedule import PollSchedule
    from trooper_async._waiting.wait import OnChange
    from trooper_async.client import TrooperClient
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
        WaitError,
        WaitTimeoutError,
    )
    from trooper_async.models import (
        JSON,
        Action,
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
        TemplateInstall,
        TemplateOption,
        Transition,
    )

__all__ = [
    "JSON",
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "Action",
    "AuthenticationError",
    "BadRequestError",
    "Blib",
    "Blibs",
    "ClientClosedError",
    "ConfigurationError",
    "Credentials",
    "CurrentOrder",
    "Fleet",
    "FleetOutcome",
    "FleetProgress",
    "FleetReport",
    "MigrationOptions",
    "MigrationQuote",
    "Migrations",
    "NotFoundError",
    "OnChange",
    "OnProgress",
    "Order",
    "OrderChange",
    "OrderNotFoundError",
    "OrderStatus",
    "OrderVanishedError",
    "Orders",
    "Outage",
    "OutcomeUnknownError",
    "PermissionDeniedError",
    "PollSchedule",
    "PriceError",
    "Purchase",
    "PurchaseNotReadyError",
    "PurchaseUnknownError",
    "Rate",
    "RateLimitError",
    "RefusedError",
    "ReportFile",
    "ResponseFormatError",
    "RetryPolicy",
    "ServerError",
    "ServerLockedError",
    "StatusChange",
    "StillRunningError",
    "SupersededError",
    "Template",
    "TemplateFailedError",
    "TemplateInstall",
    "TemplateOption",
    "Templates",
    "Timeout",
    "Transition",
    "TrooperClient",
    "TrooperError",
    "UnresolvedPurchaseError",
    "WaitError",
    "WaitTimeoutError",
    "Watch",
    "__version__",
    "check_before_sending",
    "cost_h",
    "prepaid",
    "read_ledger",
    "select",
]

# Where each name is defined, for run time: the imports above tell type checkers. Every `…Error` is in `errors`, and
# every name that is not in this table is in `models`.
_MODULES = {
    "Blibs": "_groups.blibs",
    "Fleet": "_fleet.fleet",
    "FleetOutcome": "_fleet.report",
    "FleetProgress": "_fleet.report",
    "FleetReport": "_fleet.report",
    "Migrations": "_groups.migrations",
    "OnChange": "_waiting.wait",
    "OnProgress": "_fleet.run",
    "Orders": "_groups.orders",
    "Outage": "_waiting.feed",
    "PollSchedule": "_waiting.schedule",
    "ReportFile": "_fleet.report_file",
    "RetryPolicy": "_http.retry",
    "Templates": "_groups.templates",
    "Timeout": "_api.arguments",
    "TrooperClient": "client",
    "Watch": "_waiting.feed",
    "__version__": "_base.version",
    "check_before_sending": "_http.before_sending",
    "cost_h": "_groups.costs",
    "prepaid": "_groups.costs",
    "read_ledger": "_buying.ledger",
    "select": "_groups.selection",
}


def __getattr__(name: str) -> object:
    """Load a public name, or one of the three public modules, when it is first used."""
    if name in ("client", "errors", "models"):
        return importlib.import_module(f"{__name__}.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULES.get(name) or ("errors" if name.endswith("Error") else "models")
    value: object = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
