"""`trooper demo`: every command on the embedded fake server. No key, no network, no money."""

from __future__ import annotations

import shlex
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import click
from rich.text import Text

from trooper_async import PollSchedule
from trooper_async.cli._app import run
from trooper_async.cli._context import Cli
from trooper_async.cli._errors import FAILED, FailedError
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
"""Title, status, blib, country, contract interval. One more server is starting."""
TOUR = (
    "ps",
    "ps --columns id,title,status,country --sort -eur/h",
    "show 128",
    "gpus",
    "cost",
    "stop --all --title 'training*' --status running --yes",
    "history 123",
    "order --gpu 'RTX 4090' --max-price-h 0.90 --yes --accept-terms --reference demo",
    "purchases",
    "order 3 --max-price-h 0.20 --yes --accept-terms --for-job -- nvidia-smi",
    "wait 130",
    "credentials 131",
    "ssh-config --file -",
    "doctor",
)
_GREETING = (
    "A fake fleet, for as long as this runs: no key, no network, no money. Ctrl-D leaves.",
    "Type `tour` to see all of it run by itself, or a command: ps, show 123, watch, stop --all, cost, --help",
    "Rent something: gpus, then order 3, or order --gpu 'RTX 4090' --max-price-h 0.90; then purchases, ssh 131",
)


@command()
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def demo(cli: Cli, arguments: Sequence[str]) -> None:
    """Try every command on a fake fleet: no key, no network, no money.

    Without arguments, it reads commands from a prompt or from stdin, and all of them use one fleet; without any input,
    it runs a tour. With a command (`trooper demo -- ps`), it runs only that one.
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
    """The command lines that are typed or read, until the end of input; those of the tour if there is no input."""
    is_prompted = sys.stdin.isatty()
    if is_prompted:
        import_readline()
        cli.say(Text(_GREETING[0], "bold"), *_GREETING[1:])
    number = 0
    while True:
        try:
            line = cli.err.input(Text("trooper> ", "bold green") if is_prompted else "")
            number += 1
            words = shlex.split(line, comments=True)
        except EOFError:
            if not is_prompted and number == 0:
                yield from _tour(cli)
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
                yield from _tour(cli)
            case ["demo"]:
                cli.say("you are in it")
            case _:
                yield words[1:] if words[0] == "trooper" else words


def _tour(cli: Cli) -> Iterator[Sequence[str]]:
    for one in TOUR:
        cli.say(Text("\ntrooper> ", "bold green").append(one, "bold"))
        yield shlex.split(one)


def import_readline() -> None:
    """Editing and history at the prompt, if Python has them."""
    try:
        import readline  # noqa: F401 - it works by being imported
    except ImportError:  # Windows
        return


@contextmanager
def fake_fleet(durations: Mapping[str, float]) -> Iterator[FakeTrooper]:
    """Start a fake with a fleet."""
    fake = FakeTrooper(durations=durations)
    try:
        fake.start()
    except OSError as error:
        raise FailedError(FAILED, f"the fake can't listen on the loopback ({error.strerror})") from None
    with closing(fake):
        for title, status, blib_id, country, interval in FLEET:
            fake.add_order(
                title=title, status=status, blib_id=blib_id, country_code=country, contract_interval=interval
            )
        on_its_way = fake.add_order(title="benchmark", status="starting", desired_status="running")

        def arrive() -> None:
            changed = {body["serverId"] for body in fake.sent("/api/order-status")}
            if on_its_way.server_id not in changed:  # otherwise it goes to its target
                fake.set_status(on_its_way, "running")

        arrival = threading.Timer(4 * fake.durations["start"], arrive)
        arrival.daemon = True
        arrival.start()
        try:
            yield fake
        finally:
            arrival.cancel()
            arrival.join()
