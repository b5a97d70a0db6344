"""The purchase journal's file: JSON lines, appended and made durable, locked while it is open.

A line is the whole record of a purchase as it stands; the last one of a purchase counts. What is no whole line (the
process was killed while it wrote) is passed over: an intent that was not written whole was never sent, and a purchase
whose outcome was not is open, so its outcome is unknown. No key and no password is ever in it.
"""

from __future__ import annotations

import io
import json
import logging
import os
from datetime import datetime
from decimal import Decimal
from typing import NoReturn

from attrs import frozen

from trooper_async.errors import ConfigurationError
from trooper_async.models import Blib, Purchase

LOG = logging.getLogger("trooper_async.purchases")

_VERSION = 1


@frozen
class Entry:
    """A purchase, and what is needed to look for it later."""

    purchase: Purchase
    operation: str
    blib: Blib | None = None
    before: frozenset[int] = frozenset()
    """The orders that were there before it was sent."""


class Ledger:
    """An open ledger file. Its methods block: they are for a thread.

    Raises:
        ConfigurationError: it can't be opened, somebody else has it open, or a later release wrote it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self.entries: dict[str, Entry] = {}
        """By purchase id, as they were when it was opened."""
        self._torn = False
        try:
            created = not os.path.exists(self._path)
            # a FileIO closes itself, and warns, when its client is forgotten
            self._file = io.FileIO(self._path, "a+", opener=lambda path, flags: os.open(path, flags, 0o600))
        except OSError as error:
            self._refuse(f"can't be opened ({error.strerror})")
        try:
            self._lock()
            os.fchmod(self._file.fileno(), 0o600)
            if created:
                _sync_folder(self._path)
            self._read()
        except OSError as error:
            self.close()
            self._refuse(f"can't be read ({error.strerror})")
        except ConfigurationError:
            self.close()
            raise

    def append(self, entry: Entry) -> None:
        """Write an entry, and return when it is on the disk."""
        if self._file.closed:
            self._refuse("is closed")
        line = json.dumps(_to_json(entry), separators=(",", ":")).encode() + b"\n"
        if self._torn:
            line = b"\n" + line  # so that what was left of a line harms no other
        try:
            self._torn = True
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
            os.fsync(self._file.fileno())
            self._torn = False
        except OSError as error:
            self._refuse(f"can't be written ({error.strerror})")

    def close(self) -> None:
        """Give it free for others."""
        self._file.close()

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:
            self._refuse("can't be locked: this platform has no advisory locks")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._refuse("is open in another client or process: one at a time")

    def _read(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        data = b""
        while len(data) < size and (part := os.pread(self._file.fileno(), size - len(data), len(data))):
            data += part
        self._torn = bool(data) and not data.endswith(b"\n")
        for number, line in enumerate(data.split(b"\n")[:-1], 1):
            if not line:
                continue
            try:
                text = json.loads(line)
                version = text["trooper_ledger"]
            except (ValueError, TypeError, KeyError, RecursionError):
                LOG.warning("the ledger %s: line %d is not whole, and is passed over", self._path, number)
                continue
            if version != _VERSION:
                self._refuse(f"was written by a later release (line {number}): update trooper-async")
            try:
                entry = _from_json(text)
            except (ValueError, TypeError, KeyError, ArithmeticError):
                self._refuse(f"is damaged (line {number})")
            known = self.entries.get(entry.purchase.id)
            if known is not None and not entry.before:  # only the first line of a purchase holds them
                entry = Entry(entry.purchase, entry.operation, known.blib, known.before)
            self.entries[entry.purchase.id] = entry

    def _refuse(self, what: str) -> NoReturn:
        raise ConfigurationError(f"the ledger {self._path} {what}; nothing was sent") from None


def _sync_folder(path: str) -> None:
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _to_json(entry: Entry) -> dict[str, object]:
    purchase, blib = entry.purchase, entry.blib
    line: dict[str, object] = {
        "trooper_ledger": _VERSION,
        "id": purchase.id,
        "kind": purchase.kind,
        "blib_id": purchase.blib_id,
        "state": purchase.state,
        "at": purchase.at.isoformat(),
        "reference": purchase.reference,
        "price_h": None if purchase.price_h is None else str(purchase.price_h),
        "order_id": purchase.order_id,
        "migrated_order_id": purchase.migrated_order_id,
        "operation": entry.operation,
    }
    if purchase.state == "open":
        line["before"] = sorted(entry.before)
        line["blib"] = None if blib is None else [blib.name, blib.gpu_type, blib.gpu_num]
    return line


def _from_json(line: dict[str, object]) -> Entry:
    def text(name: str) -> str:
        value = line[name]
        if not isinstance(value, str):
            raise TypeError
        return value

    def number(name: str) -> int | None:
        value = line[name]
        if value is not None and type(value) is not int:
            raise TypeError
        return value

    kind, state, blib_id = line["kind"], line["state"], number("blib_id")
    if kind not in ("create", "migrate") or blib_id is None:
        raise ValueError
    if state not in ("open", "bought", "refused", "unknown", "resolved"):
        raise ValueError
    purchase = Purchase(
        id=text("id"),
        kind=kind,
        blib_id=blib_id,
        state=state,
        at=datetime.fromisoformat(text("at")),
        reference=None if line["reference"] is None else text("reference"),
        price_h=None if line["price_h"] is None else Decimal(text("price_h")),
        order_id=number("order_id"),
        migrated_order_id=number("migrated_order_id"),
    )
    before, like = line.get("before") or [], line.get("blib")
    if not isinstance(before, list) or not all(type(order_id) is int for order_id in before):
        raise TypeError
    blib = None
    if isinstance(like, list):
        name, gpu_type, gpu_num = like
        blib = Blib(id=blib_id, name=name, gpu_type=gpu_type, gpu_num=gpu_num)
    return Entry(purchase, text("operation"), blib, frozenset(before))
