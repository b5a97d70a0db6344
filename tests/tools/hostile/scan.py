"""A scan of all output for the key and the passwords of these tests, which counts what was scanned."""

from __future__ import annotations

import base64
import copy
import logging
import pickle
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from tests.helpers.raw_server import KEY
from tests.helpers.secrets import chain, texts
from trooper_async import TrooperError

PASSWORD = "pw-of-the-server-42"
PROXY_PASSWORD = "pw-of-the-proxy-43"
SECRETS = {
    form
    for secret in (KEY, PASSWORD, PROXY_PASSWORD)
    for form in (secret, base64.b64encode(secret.encode()).decode(), secret[::-1])
} | {base64.b64encode(f"me:{PROXY_PASSWORD}".encode()).decode()}
CREDENTIALS = {"ip": "203.0.113.1", "ssh_port": 22, "username": "root", "password": PASSWORD, "status": "running"}


class Scan:
    """What was scanned, and where a secret was in it."""

    def __init__(self) -> None:
        self.said: Counter[str] = Counter()
        self.hits: list[str] = []

    def text(self, kind: str, text: str | bytes) -> None:
        self.said[kind] += 1
        text = text if isinstance(text, str) else text.decode("latin-1")
        if any(secret in text for secret in SECRETS):
            self.hits.append(kind)

    def thing(self, name: str, thing: object, *, copied: bool = True) -> None:
        """All the ways to print an object, or to store it."""
        shown = (repr(thing), str(thing), format(thing), ascii(thing), f"{thing!r:>5}", f"{[thing]}")
        for text in shown:
            self.text(f"print {name}", text)
        with suppress(TypeError):
            self.text(f"vars {name}", repr(vars(thing)))
        stores: list[Callable[[object], object]] = [partial(pickle.dumps, protocol=number) for number in range(6)]
        stores += [copy.copy, copy.deepcopy] if copied else []
        for store in stores:
            try:
                stored = store(thing)
            except Exception as refused:  # noqa: BLE001 - what it says is what is looked at
                self.error(f"refused {name}", refused, inside=False)
            else:
                self.text(f"stored {name}", stored if isinstance(stored, bytes) else repr(stored))

    def walk(self, name: str, thing: object) -> None:
        """Every text in reach of an object."""
        for text in list(texts(thing)):
            self.text(f"reach of {name}", text)

    def error(self, name: str, error: BaseException, *, inside: bool = True) -> None:
        """Everything that a crash reporter shows of an exception, of those attached to it, and of the
        package's frames.
        """
        for one in chain(error):
            for shown in (
                str(one),
                repr(one),
                format(one),
                repr(one.args),
                repr(vars(one)),
                *getattr(one, "__notes__", ()),
            ):
                self.text(f"error {name}", shown)
            for line in traceback.TracebackException.from_exception(one, capture_locals=True).format():
                self.text(f"traceback {name}", line)
            for frame, _ in traceback.walk_tb(one.__traceback__) if inside else ():
                if "/trooper_async/" in frame.f_code.co_filename or "/aiohttp/" in frame.f_code.co_filename:
                    self.walk(f"frames of {name}", list(frame.f_locals.values()))
        record = logging.LogRecord(
            "x", logging.ERROR, "x", 1, "failed: %r", (error,), (type(error), error, error.__traceback__)
        )
        self.text(f"logged {name}", logging.Formatter().format(record))
        if isinstance(error, TrooperError):
            self.text(f"stored {name}", pickle.dumps(error))

    def clean(self, at_least: int) -> None:
        print(f"{self.said.total()} emissions scanned, {len(self.hits)} with a secret")
        assert self.hits == []
        assert self.said.total() >= at_least


class Lines(logging.Handler):
    def __init__(self, scan: Scan) -> None:
        super().__init__(logging.NOTSET)
        self.scan = scan
        self.loggers: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.loggers.add(record.name)
        self.scan.text("log line", self.format(record))
        if record.name.startswith("trooper_async"):  # asyncio's hold sockets, behind them the fake that got the key
            self.scan.walk("log record", vars(record))
