"""`trooper demo`: every command on the embedded fake server. No key, no network, no money."""

from __future__ import annotations

import shlex
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
from rich.text import Text

from trooper_async import PollSchedule
from trooper_async.cli._app import run
from trooper_async.cli._context import Cli
from trooper_async.cli._errors import FailedError
from trooper_async.cli._options import command
from trooper_async.cli._settings import Settings
from trooper_async.testing import FakeTrooper

DURATIONS = {"start": 4.0, "stop": 3.0, "freeze": 5.0, "restart": 5.0, "create": 6.0, "thaw": 7.0, "migrate": 9.0}
FLEET: tuple[tuple[str, str, int, str, str], ...] = (
    ("training llama 1", "running", 2, "DE", "HOUR"),
    ("training llama 2", "running", 2, "DE", "HOUR"),
    ("training llama 3", "stopped", 2, "DE", "HOUR"),
    ("inference eu", "running", 1, "NL", "MONTH"),
    ("comfyui", "stopped", 1, "DE", "DAY"),
    ("notebooks", "running", 3, "DE", "WEEK"),
    ("archive 2025", "frozen", 5, "DE", "MONTH"),
)
"""Title, status, blib, country, contract interval. One more is on its way."""
TOUR = (
    "ps",
    "gpus",
    "cost",
    "stop --all --title 'training*' --status running --yes",
    "history 123",
    "order 3 --yes --max-price-h 0.20 --accept-terms --reference demo",
    "purchases",
    "doctor",
)


@command()
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def demo(cli: Cli, arguments: Sequence[str]) -> None:
    """Try all of this on a fake fleet: no key, no network, no money.

    Alone, it reads commands from a prompt (or from stdin), one fleet for all of them; `tour` runs a few. With a
    command (`trooper demo -- ps`) it runs that one.
    """
    with tempfile.TemporaryDirectory(prefix="trooper-demo-") as folder, fake_fleet(DURATIONS) as fake:
        settings = Settings(
            fake.api_key,
            fake.url,
            Path(folder, "purchases.jsonl"),
            {"poll": PollSchedule(floor=0.3, cap=2.0)},
            is_demo=True,
            key_source="the demo",
        )
        if arguments:
            if status := run(arguments, settings, as_json=cli.as_json, debug=cli.debug):
                raise click.exceptions.Exit(status)
            return
        for line in _lines(cli):
            run(line, settings, as_json=cli.as_json, debug=cli.debug)


def _lines(cli: Cli) -> Iterator[Sequence[str]]:
    """The command lines that are typed, or read, until the end of input."""
    is_prompted = sys.stdin.isatty()
    if is_prompted:
        import_readline()
        cli.say(
            Text(
                "A fake fleet, for as long as this runs: no key, no network, no money. `tour` shows it around.", "bold"
            ),
            "Try ps, gpus, cost, stop --all, watch, order 3, history 123, doctor or --help; Ctrl-D leaves.",
        )
    while True:
        try:
            line = cli.err.input(Text("trooper> ", "bold green") if is_prompted else "")
            words = shlex.split(line, comments=True)
        except EOFError:
            return
        except KeyboardInterrupt:
            cli.say("")
            continue
        except ValueError as error:
            cli.say(f"error: {error}")
            continue
        match words[:1]:
            case []:
                continue
            case ["exit" | "quit"]:
                return
            case ["tour"]:
                for one in TOUR:
                    cli.say(Text("\ntrooper> ", "bold green").append(one, "bold"))
                    yield shlex.split(one)
            case ["demo"]:
                cli.say("you are in it")
            case _:
                yield words[1:] if words[0] == "trooper" else words


def import_readline() -> None:
    """Editing and history at the prompt, where Python has it."""
    try:
        import readline  # noqa: F401 - it works by being imported
    except ImportError:  # Windows
        return


@contextmanager
def fake_fleet(durations: Mapping[str, float]) -> Iterator[FakeTrooper]:
    """A fake with a fleet, one server of which is on its way to running."""
    with ExitStack() as stack:
        try:
            fake = stack.enter_context(FakeTrooper(durations=durations))
        except OSError as error:
            raise FailedError(1, f"the fake can't listen on the loopback ({error.strerror})") from None
        for title, status, blib_id, country, interval in FLEET:
            fake.add_order(
                title=title, status=status, blib_id=blib_id, country_code=country, contract_interval=interval
            )
        on_its_way = fake.add_order(title="benchmark", status="starting", desired_status="running")

        def arrive() -> None:
            switched = {body["serverId"] for body in fake.sent("/api/order-status")}
            if on_its_way.server_id not in switched:  # else it goes where it was switched to
                fake.set_status(on_its_way, "running")

        arrival = threading.Timer(4 * fake.durations["start"], arrive)
        arrival.daemon = True
        arrival.start()
        stack.callback(arrival.cancel)
        yield fake
