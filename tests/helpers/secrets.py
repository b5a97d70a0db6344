"""The search for secrets: everything that can be reached from an exception or an object."""

from __future__ import annotations

import asyncio
import itertools
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress

from tests.helpers.raw_server import KEY
from trooper_async._waiting.store import Store


def chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and all those attached to it, including those that a traceback would not print."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            todo += [one.__cause__, one.__context__]
            if isinstance(one, BaseExceptionGroup):
                todo += one.exceptions


def told(error: BaseException) -> str:
    """Everything that a crash reporter could show of an exception: its texts, its attributes, and every
    frame's locals.
    """
    parts = []
    for one in chain(error):
        report = traceback.TracebackException.from_exception(one, capture_locals=True)
        parts += [*report.format(), str(one), repr(one), repr(one.args), repr(vars(one))]
        for frame, _ in traceback.walk_tb(one.__traceback__):
            if "/trooper_async/" in frame.f_code.co_filename or "/aiohttp/" in frame.f_code.co_filename:
                parts += [text for value in frame.f_locals.values() for text in texts(value)]
    return "\n".join(parts)


def texts(root: object) -> Iterator[str]:
    """Every text that can be reached from an object by its attributes and items, without the event loop."""
    seen: set[int] = set()
    kept: list[object] = []  # so that no id is reused
    todo = [root]
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        kept.append(one)
        if isinstance(one, str):
            yield one
        elif isinstance(one, bytes | bytearray):
            yield one.decode(errors="replace")
        elif isinstance(one, asyncio.AbstractEventLoop | type) or type(one).__name__ in ("module", "function"):
            continue  # the loop also runs the server that got the key; code holds no state
        elif isinstance(one, Store):
            continue  # it keeps the last list of the orders, to compare the next one with
        else:
            if isinstance(one, dict):
                todo += [*one.keys(), *one.values()]
            elif isinstance(one, list | tuple | set | frozenset):
                todo += one
            elif isinstance(one, Mapping):
                todo += [item for pair in one.items() for item in pair]
            todo += getattr(one, "__dict__", {}).values()
            slots = itertools.chain.from_iterable(
                (names,) if isinstance(names, str) else names
                for names in (vars(kind).get("__slots__", ()) for kind in type(one).__mro__)
            )
            for slot in slots:
                with suppress(AttributeError):
                    todo.append(getattr(one, slot))


def has_key(text: str) -> bool:
    return KEY in text
