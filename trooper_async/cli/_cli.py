"""What every command gets: the settings, a client, and where to write: JSON to stdout, all else to stderr."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import click
from attrs import define, field
from rich.console import Console, RenderableType
from rich.text import Text

from trooper_async import Order, TrooperClient, __version__
from trooper_async.cli._json import to_json
from trooper_async.cli._settings import Settings, config_path, load
from trooper_async.cli._text import cell, status

T = TypeVar("T")


class FailedError(Exception):
    """A command's end that is no error of the API's: its exit status, a line, and what to do next."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.hint = hint


def _console() -> Console:
    is_terminal = sys.stderr.isatty()
    return Console(
        stderr=True,
        force_terminal=is_terminal,  # whatever FORCE_COLOR says
        color_system="auto" if is_terminal and not os.environ.get("NO_COLOR") else None,
        width=None if is_terminal else 1000,  # nobody's window: nothing is cut or wrapped
        highlight=False,
        emoji=False,
    )


@define
class Cli:
    """One run of the command."""

    _settings: Settings | None = None
    as_json: bool = False
    debug: bool = False
    console: Console = field(factory=_console)

    @property
    def settings(self) -> Settings:
        if self._settings is None:
            self._settings = load()
        return self._settings

    def client(self, *, buys: bool = False, needs_key: bool = True) -> TrooperClient:
        """A client; `buys` opens the ledger, which is locked as long as the client is open."""
        settings = self.settings
        if needs_key and settings.api_key is None:
            raise FailedError(
                2, "there is no API key", f'set TROOPER_API_KEY, or write api_key = "…" to {config_path()} (mode 600)'
            )
        if buys:
            settings.ledger.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return TrooperClient(
            settings.api_key,
            base_url=settings.base_url,
            poll=settings.poll,
            retry=settings.retry,
            ledger=settings.ledger if buys else None,
            app=f"trooper/{__version__}",
        )

    def run(self, coroutine: Coroutine[object, object, T]) -> T:
        """Run it to its end, or until Ctrl-C or SIGTERM cancels it."""

        async def interruptible() -> T:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - this runs in one
            loop, numbers = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)
            with suppress(NotImplementedError, RuntimeError):  # Windows; not the main thread
                for number in numbers:  # a KeyboardInterrupt might come anywhere
                    loop.add_signal_handler(number, task.cancel)
            try:
                return await coroutine
            finally:
                with suppress(NotImplementedError):
                    for number in numbers:  # before the loop closes what they write to
                        loop.remove_signal_handler(number)

        try:
            return asyncio.run(interruptible())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    def say(self, *shown: RenderableType) -> None:
        """Write for people, to stderr; a `str` is written as it is, without markup."""
        for one in shown:
            self.console.print(Text(one) if isinstance(one, str) else one, soft_wrap=isinstance(one, str | Text))

    def result(self, value: object, *shown: RenderableType, passwords: bool = False) -> None:
        """The result of a command: as JSON to stdout where that is asked for, else for people."""
        if self.as_json:
            click.echo(to_json(value, passwords=passwords))
        else:
            self.say(*shown)

    def ask(self, question: str) -> bool:
        """Ask on stderr; an end of input is a no. Ctrl-C works, although the event loop has taken its signal over."""
        try:
            with _ctrl_c() as pressed:
                self.console.print(Text(f"{question} [y/N] "), end="")
                if pressed is not None and sys.stdin.isatty() and os.name != "nt":
                    # a signal right before `input` begins to read would be noticed at the next key only
                    select.select([sys.stdin, pressed], [], [])
                answer = input()
        except EOFError:
            answer = ""
        except KeyboardInterrupt:
            raise click.Abort from None  # through the loop as an error like others
        if not sys.stdin.isatty():
            self.say(answer)  # nobody's Enter has ended the line
        return answer.strip().casefold() in ("y", "yes")

    @contextmanager
    def waiting(self, what: str) -> Iterator[Callable[[Order], None]]:
        """Shows that something is waited for, and a line for each status that an order goes through."""

        def show(order: Order) -> None:
            self.say(Text("order ").append_text(cell(order.order_id)).append(": ").append_text(status(order)))

        if not self.console.is_terminal:
            self.say(f"{what} …")
            yield show
            return
        with self.console.status(Text(f"{what} … (Ctrl-C leaves it going on at the API)")):
            yield show


@contextmanager
def _ctrl_c() -> Iterator[socket.socket | None]:
    """Ctrl-C and SIGTERM are a KeyboardInterrupt meanwhile, and make this socket readable (None: they never come)."""
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    pressed, written = socket.socketpair()
    written.setblocking(False)
    loops = signal.set_wakeup_fd(written.fileno())
    try:
        yield pressed
    finally:
        signal.set_wakeup_fd(loops)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        pressed.close()
        written.close()
