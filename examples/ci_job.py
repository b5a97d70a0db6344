"""A GPU server for one job of a CI pipeline: run a command on it over SSH, and freeze it whatever happens.

    pip install asyncssh
    TROOPER_API_KEY=… python examples/ci_job.py --name ci-gpu --max-price-h 0.50 -- nvidia-smi

The first job orders the cheapest offer by the hour, which costs money. Later jobs find that server by its title and
start it, since the API has no request that gives a server back. Jobs that run at the same time need different names: a
job that finds its server in use fails. Output and exit code are the command's; any other failure exits with 1.

The server is frozen at the end of the command, after an error, and on SIGINT or SIGTERM, however often they come; while
the API fails, the freeze is retried for a day. Everything else is retried for ten minutes, except the order itself: if
its outcome is unknown, the job fails and says so. Only kill -9 leaves the server running, or an API that refuses the
freeze, as for a locked server. The next job then fails and says so; but a server that was still starting has no title,
so the next job orders another one.

In a shell, `trooper order --for-job -- COMMAND` is shorter: it logs in with your SSH key, and orders a new server each
time. This logs in with the server's password, keeps one server, and is Python that you can extend.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from decimal import Decimal
from typing import BinaryIO

import asyncssh

from trooper_async import Credentials, Order, RetryPolicy, TrooperClient, TrooperError

DAY = 86400.0
"""Seconds."""


class NoServerError(Exception):
    """There is no server for the job. Nothing was bought or started."""


async def job(client: TrooperClient, name: str, max_price_h: Decimal, command: Sequence[str]) -> int:
    """Run a command on the server of this name, and freeze the server; returns the exit code of the command."""
    async with await server(client, name, max_price_h) as order:
        say(f"order {order.order_id} costs {order.price_h} EUR per hour, and is frozen at the end")
        if order.title != name:
            await client.orders.rename(order, name)
        code = await run(await client.orders.wait_until_reachable(order), command)
    say(f"order {order.order_id} is being frozen")
    return code


async def server(client: TrooperClient, name: str, max_price_h: Decimal) -> AbstractAsyncContextManager[Order]:
    """The server with this title, or a new one. It runs in the `async with`, and is frozen at its end."""
    for order in await client.orders.find():
        if order.title != name or order.current_status == "terminated":
            continue
        if (order.desired_status or order.current_status) != "frozen":
            text = f"order {order.order_id} is {order.current_status}: another job uses it, or one was killed"
            raise NoServerError(f"{text}. `trooper freeze {order.order_id}` makes it free again")
        if order.price_h is None or order.price_h > max_price_h:
            raise NoServerError(f"order {order.order_id} costs {order.price_h} EUR per hour")
        await client.orders.wait_until(order, "frozen", timeout=3600)
        return client.orders.running(order, then_timeout=DAY, timeout=1800, on_change=show)
    offers = [blib for blib in await client.blibs.list() if blib.is_available and blib.price_h is not None]
    if not offers:
        raise NoServerError("no server is on offer at the moment")
    offer = min(offers, key=lambda blib: blib.price_h or 0)
    return client.orders.rented(
        offer,
        contract_interval="HOUR",
        terms_accepted=True,
        max_price_h=max_price_h,
        then_timeout=DAY,
        on_change=show,
    )


async def run(login: Credentials, command: Sequence[str]) -> int:
    """Run a command over SSH; its output comes as it is written."""
    ssh = await asyncssh.connect(
        login.ip or "",
        login.ssh_port or 22,
        username=login.username,
        password=login.password,
        known_hosts=None,  # nobody knows the host key of a new server
        connect_timeout=30,
        keepalive_interval=15,  # else a server that dies would never end the job
    )
    try:
        process = await ssh.create_process(shlex.join(command), stdin=asyncssh.DEVNULL, encoding=None)
        await asyncio.gather(copy(process.stdout, sys.stdout.buffer), copy(process.stderr, sys.stderr.buffer))
        await process.wait_closed()
    finally:
        ssh.abort()  # at once: the server is to be frozen
    code = process.returncode
    if code is None:
        raise asyncssh.ConnectionLost("the connection was lost before the command had ended")
    return code if code >= 0 else 128 - code  # ended by a signal, as a shell says it


async def copy(source: asyncssh.SSHReader[bytes], target: BinaryIO) -> None:
    while chunk := await source.read(65536):
        target.write(chunk)
        target.flush()


def show(order: Order) -> None:
    say(f"order {order.order_id} is {order.current_status}")


def say(text: object) -> None:
    print(text, file=sys.stderr, flush=True)  # stdout is the command's


def euros(text: str) -> Decimal:
    with suppress(ArithmeticError):
        amount = Decimal(text)
        if amount.is_finite() and amount > 0:
            return amount
    raise argparse.ArgumentTypeError(f"{text!r} is no amount of EUR above 0")


async def main() -> int:
    parser = argparse.ArgumentParser(description="Run a command on a GPU server, which is frozen at the end.")
    parser.add_argument("--name", required=True, help="the title of the server: one name, one server")
    parser.add_argument("--max-price-h", type=euros, required=True, help="the most that it may cost, EUR per hour")
    parser.add_argument("command", nargs="+", help="the command and its arguments, after --")
    options = parser.parse_args()
    task, signals = asyncio.current_task(), list[int]()
    assert task is not None

    def interrupted(number: int) -> None:
        signals.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # on Windows
            asyncio.get_running_loop().add_signal_handler(number, interrupted, number)
    try:
        retry = RetryPolicy(attempts=None, deadline=600, budget=None)
        async with TrooperClient(app="ci_job", retry=retry) as client:
            return await job(client, options.name, options.max_price_h, options.command)
    except asyncio.CancelledError:
        say("interrupted")
        return 128 + signals[0]
    except (TrooperError, NoServerError) as error:
        say(error)
        return 1
    except (asyncssh.Error, OSError) as error:
        say(f"the command was not run to its end ({type(error).__name__}: {error})")
        return 1


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")  # to stderr
    logging.getLogger("trooper_async.transport").setLevel(logging.INFO)  # it tells of each retry
    raise SystemExit(asyncio.run(main()))
