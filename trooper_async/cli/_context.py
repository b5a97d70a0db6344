"""What every command gets: the settings, a client, and the output. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click

from trooper_async.cli._errors import INTERRUPTED, USAGE, FailedError

if TYPE_CHECKING:
    import socket
    from typing import TextIO

    from rich.console import Console, RenderableType

    from trooper_async import Order, Purchase, TrooperClient
    from trooper_async.cli._settings import Settings
    from trooper_async.cli._tables import Listing, Table

T = TypeVar("T")


class Cli:
    """One run of the command."""

    def __init__(self, settings: Settings | None = None, *, as_json: bool = False, debug: bool = False) -> None:
        self._settings = settings
        self.profile: str | None = None
        self.as_json = as_json
        self.debug = debug
        self.has_result = False
        """Whether the command's result is already on stdout: with --json it is one value, never two."""
        self.purchases: list[Purchase] = []
        """What to say of an interrupted run: what it has bought, or may have bought."""
        self.leave_at_once: Callable[[], str] | None = None
        """Set while a first Ctrl-C lets a clean-up finish: what a second Ctrl-C prints before it exits."""

    @property
    def settings(self) -> Settings:
        if self._settings is None:
            from trooper_async.cli._settings import load

            self._settings = load(self.profile)
        return self._settings

    @cached_property
    def out(self) -> Console:
        """The console for results."""
        return console(sys.stdout)

    @cached_property
    def err(self) -> Console:
        """The console for progress, questions and errors."""
        return console(sys.stderr)

    @property
    def is_live(self) -> bool:
        """Whether output on stderr can be redrawn."""
        return self.err.is_terminal and not self.err.is_dumb_terminal

    def client(self, *, buys: bool = False, needs_key: bool = True, key: str | None = None) -> TrooperClient:
        """Make a client. With `buys`, it opens the ledger. `key` is one that is not the settings'."""
        from trooper_async import TrooperClient, __version__

        settings = self.settings
        if needs_key and settings.api_key is None:
            raise FailedError(USAGE, "there is no API key", "set TROOPER_API_KEY, or type `trooper config set api_key`")
        if buys:
            settings.ledger.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return TrooperClient(
            key or settings.api_key,
            base_url=settings.base_url,
            **settings.options,
            ledger=settings.ledger if buys else None,
            app=f"trooper/{__version__}",
        )

    def run(self, coroutine: Coroutine[object, object, T]) -> T:
        """Run a coroutine to its end, or until Ctrl-C or SIGTERM cancels it."""
        import asyncio

        async def interruptible() -> T:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - this runs in one

            def interrupt() -> None:
                if self.leave_at_once is not None and task.cancelling():
                    self._leave()
                task.cancel()

            loop, numbers = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)
            with suppress(NotImplementedError, RuntimeError):  # on Windows, or not in the main thread
                for number in numbers:  # a KeyboardInterrupt could be raised anywhere
                    loop.add_signal_handler(number, interrupt)
            try:
                return await coroutine
            finally:
                with suppress(NotImplementedError):
                    for number in numbers:  # before the loop closes what their handlers write to
                        loop.remove_signal_handler(number)

        try:
            return asyncio.run(interruptible())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    def _leave(self) -> NoReturn:
        """Exit at once, in the middle of a clean-up. What is known is in the ledger."""
        assert self.leave_at_once is not None  # noqa: S101 - checked by the caller
        self.err.show_cursor()
        self.say(self.leave_at_once(), "interrupted")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)

    def say(self, *shown: RenderableType) -> None:
        """Write a message to stderr; a `str` is written as it is, without markup."""
        _print(self.err, shown)

    def result(self, value: object, *shown: RenderableType | Table, secrets: bool = False) -> None:
        """Write the result of a command to stdout: as JSON with --json, otherwise as text."""
        self.has_result = True
        if self.as_json:
            from trooper_async.cli._text import to_json

            click.echo(to_json(value, secrets=secrets))
        else:
            _print(self.out, shown)

    def listed(self, table: Table, listing: Listing, *notes: RenderableType) -> None:
        """Write a list as the command's result, as the user wants it. `notes` appear below a table on a terminal."""
        if self.as_json:
            self.result(table.items)
        elif listing.ids:
            self.result(None, "\n".join(table.ids())) if table.items else None
        else:
            with _paged(self.out, len(table.items) + 4):
                self.result(None, table.with_header(not listing.no_header))
                if not listing.no_header:  # a pipe gets only the rows
                    _print(self.out if self.out.is_terminal else self.err, notes)

    def ask(self, question: str) -> bool:
        """Ask a question on stderr; an end of input means no. Ctrl-C works, although the event loop handles its
        signal.
        """
        is_terminal = sys.stdin.isatty()
        try:
            with _ctrl_c() as pressed:
                if is_terminal:
                    _discard_input(sys.stdin)
                self.err.print(f"{question} [y/N] ", end="", markup=False, soft_wrap=True)
                if pressed is not None and is_terminal and os.name != "nt":
                    import select

                    # a signal right before `input` begins to read would be noticed only at the next key
                    select.select([sys.stdin, pressed], [], [])
                answer = input()
        except EOFError:
            answer = ""
        except KeyboardInterrupt:
            raise click.Abort from None  # raised through the loop as any other error
        if not is_terminal:
            self.say(answer)  # no Enter has ended the line
        return answer.strip().casefold() in ("y", "yes")

    @contextmanager
    def waiting(self, what: str) -> Iterator[Callable[[Order], None]]:
        """Show that the command is waiting, and a line for each status of an order."""
        from rich.text import Text

        from trooper_async.cli._text import status

        def show(order: Order) -> None:
            self.say(Text(f"order {order.order_id}: ").append_text(status(order)))

        if not self.is_live:
            self.say(f"{what} …")
            yield show
            return
        with stoppable(self.err), self.err.status(Text(f"{what} … (Ctrl-C stops waiting, not the server)")):
            yield show


def console(file: TextIO) -> Console:
    """A console: coloured on a terminal; otherwise plain, and as wide as necessary."""
    from rich.console import Console

    is_terminal = file.isatty()
    return Console(
        file=file,
        force_terminal=is_terminal,  # also if FORCE_COLOR is set
        color_system="auto" if is_terminal and not os.environ.get("NO_COLOR") else None,
        width=None if is_terminal else 10_000,  # not a terminal: nothing is cut or wrapped
        highlight=False,
        emoji=False,
    )


def _print(where: Console, shown: tuple[RenderableType | Table, ...]) -> None:
    from rich.text import Text

    from trooper_async.cli._tables import Table

    for one in shown:
        if isinstance(one, Table):
            for line in one.lines(where.width if where.is_terminal else None):
                where.print(line, soft_wrap=True)
        else:
            where.print(Text(one) if isinstance(one, str) else one, soft_wrap=isinstance(one, str | Text))


@contextmanager
def _paged(where: Console, lines: int) -> Iterator[None]:
    """Use $PAGER (or `less`) for output that is longer than the terminal."""
    if not where.is_terminal or where.is_dumb_terminal or lines <= where.height or os.environ.get("PAGER") == "":
        yield
        return
    os.environ.setdefault("LESS", "-FRX")
    with where.pager(styles=where.color_system is not None):
        yield


@contextmanager
def stoppable(where: Console) -> Iterator[None]:
    """Show the cursor before Ctrl-Z suspends the command, and hide it again after `fg`."""
    number = getattr(signal, "SIGTSTP", None)
    if number is None or not _is_main_thread():
        yield
        return

    def stop(*_: object) -> None:
        where.show_cursor()
        where.file.flush()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # suspended here, until `fg`
        signal.signal(number, stop)
        where.show_cursor(False)

    before = signal.signal(number, stop)
    try:
        yield
    finally:
        signal.signal(number, before)


def _discard_input(terminal: TextIO) -> None:
    """Discard what was typed before a question: it cannot be an answer to it."""
    try:
        import termios
    except ImportError:  # Windows
        import msvcrt

        while msvcrt.kbhit():  # type: ignore[attr-defined, unused-ignore]  # there only
            msvcrt.getwch()  # type: ignore[attr-defined, unused-ignore]  # there only
    else:
        termios.tcflush(terminal, termios.TCIFLUSH)


def _is_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()


@contextmanager
def _ctrl_c() -> Iterator[socket.socket | None]:
    """Meanwhile Ctrl-C and SIGTERM raise KeyboardInterrupt and make the yielded socket readable (None: they never
    come).
    """
    import socket

    if not _is_main_thread():
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
