"""`python -m trooper_async.testing`: the fake API as a server for any program, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import cycle, islice

from trooper_async.testing._fake import API_KEY, FakeTrooper
from trooper_async.testing._remote import HELP
from trooper_async.testing._world import LOOPBACK


def serve(fake: FakeTrooper, orders: int) -> None:
    """Run the fake until a signal comes.

    Args:
        fake: The fake to run.
        orders: How many orders it starts with; every third one is stopped, and every third one frozen.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), fake:
        for status in islice(cycle(("running", "stopped", "frozen")), orders):
            fake.add_order(status=status)
        print(f"{fake.url}\n{fake.api_key}", flush=True)  # noqa: T201 - a command talks on stdout
        threading.Event().wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve as the command line says.

    Args:
        arguments: Used instead of the command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m trooper_async.testing",
        description=__doc__,
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on, 0 for a free one (%(default)s)")
    parser.add_argument("--orders", type=int, default=5, help="orders to begin with (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each transition takes (%(default)s)")
    parser.add_argument("--key", default=API_KEY, help="the required API key (%(default)s)")
    given = parser.parse_args(arguments)
    try:
        fake = FakeTrooper(api_key=given.key, host=given.host, port=given.port, durations=given.seconds)
        serve(fake, given.orders)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
