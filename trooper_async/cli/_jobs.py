"""`trooper order --for-job`: a server for the duration of one command, released at the end, however that ends.

`orders.rented` does the same in one block, but holds the ledger for the whole job. Here jobs can run side by side: the
ledger is held only during the purchase.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from trooper_async._base.cancellation import finished
from trooper_async.cli._context import Cli
from trooper_async.cli._errors import FAILED, FailedError, line, reason
from trooper_async.cli._login import environment_for_others, ssh_words
from trooper_async.cli._purchases import buy
from trooper_async.cli._text import printable
from trooper_async.errors import AuthenticationError, ServerLockedError, StillRunningError, TrooperError
from trooper_async.models import Purchase, Transition

if TYPE_CHECKING:
    from trooper_async import TrooperClient

_PATIENCE = 900.0
"""Seconds for which a freeze or stop at the end of a job is retried."""
_PAUSE = 2.0
_GRACE = 10.0
"""Seconds that an interrupted command has to exit on its own."""


async def run_job(
    cli: Cli,
    client: TrooperClient,
    send: Callable[[TrooperClient], Awaitable[Transition]],
    command: Sequence[str],
    *,
    then: str,
    timeout: float | None,
) -> None:
    """Buy a server, run a command on it by ssh, and put the server away: `then` is freeze or stop.

    Raises:
        click.exceptions.Exit: the command ended with another exit status than 0.
    """
    try:
        status = await _work(cli, client, send, command, timeout=timeout)
    except BaseException:
        # it may have been bought although the purchase was interrupted
        for purchase in cli.purchases:
            if purchase.order_id is not None:
                failure = await finished(asyncio.ensure_future(_release(cli, client, purchase, then)))
                if failure is not None:
                    cli.say(line(failure))
        raise
    (purchase,) = cli.purchases
    failure = await finished(asyncio.ensure_future(_release(cli, client, purchase, then)))
    if failure is not None:
        raise failure
    cli.result({"order_id": purchase.order_id, "exit_status": status})
    if status:
        raise click.exceptions.Exit(status)


async def _work(
    cli: Cli,
    client: TrooperClient,
    send: Callable[[TrooperClient], Awaitable[Transition]],
    command: Sequence[str],
    *,
    timeout: float | None,
) -> int:
    """Buy the server, and run the command once it can be reached. Returns the command's exit status."""
    _, transition = await buy(cli, send)
    order_id = transition.order_id
    cli.say(f"order {order_id} is bought, and is released when the job ends")
    with cli.waiting(f"waiting until order {order_id} runs and can be reached") as show:
        await client.orders.wait(transition, timeout=timeout or "default", on_change=show)
        found = await client.orders.wait_until_reachable(order_id, timeout=timeout or 900.0)
    # accept a new server's key, and store it under the order's name, since addresses are reused
    options = ["-o", f"HostKeyAlias=trooper-{order_id}", "-o", "StrictHostKeyChecking=accept-new"]
    program, *arguments = ssh_words(found, command)
    if cli.settings.is_demo:
        cli.say(f"(a fake server has no shell; this would run: {' '.join(map(printable, [program, *arguments]))})")
        return 0
    return await _run(cli, [program, *options, *arguments])


async def _run(cli: Cli, words: Sequence[str]) -> int:
    """Run ssh. If it is interrupted, it has some time to exit on its own. With --json, its output goes to stderr."""
    try:
        process = await asyncio.create_subprocess_exec(
            *words, env=environment_for_others(), stdout=2 if cli.as_json else None
        )
    except FileNotFoundError:
        raise FailedError(FAILED, "ssh is not installed", "install an OpenSSH client") from None
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            await finished(asyncio.ensure_future(_terminated(process)))


async def _terminated(process: asyncio.subprocess.Process) -> None:
    try:
        await asyncio.wait_for(process.wait(), _GRACE)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _release(cli: Cli, client: TrooperClient, purchase: Purchase, then: str) -> StillRunningError | None:
    """Freeze or stop what was bought, with retries. Returns the error if the server is still billed."""
    order_id = purchase.order_id
    assert order_id is not None  # noqa: S101 - the caller has one that was made
    verb = client.orders.stop if then == "stop" else client.orders.freeze
    ends = time.monotonic() + _PATIENCE
    while True:
        try:
            await verb(order_id)
        except TrooperError as error:
            if isinstance(error, AuthenticationError | ServerLockedError) or time.monotonic() > ends:
                return StillRunningError(
                    f"the {then} at the end of the job failed ({reason(error)}): it is still billed",
                    order_id=order_id,
                    price_h=purchase.price_h,
                    operation="order",
                    subject=f"order {order_id}",
                )
            await asyncio.sleep(_PAUSE)
        else:
            cli.say(f"order {order_id} is being {'stopped' if then == 'stop' else 'frozen'}")
            return None
