"""Workflows that survive their process, for your own DBOS application. See `README.md` in this folder.

It needs the extra `durable` (`pip install 'trooper-async[durable]'`).
"""

from __future__ import annotations

try:
    import dbos as dbos
except ImportError:
    raise ImportError("trooper_async.durable needs DBOS: pip install 'trooper-async[durable]'") from None

from trooper_async.durable._accounts import Accounts
from trooper_async.durable._embedded import embedded
from trooper_async.durable._purchases import NotBoughtError, UndecidedPurchase, resolve, undecided
from trooper_async.durable._takeover import takeover
from trooper_async.durable._workflows import converge, install, migrate, order, switch

__all__ = [
    "Accounts",
    "NotBoughtError",
    "UndecidedPurchase",
    "converge",
    "embedded",
    "install",
    "migrate",
    "order",
    "resolve",
    "switch",
    "takeover",
    "undecided",
]
