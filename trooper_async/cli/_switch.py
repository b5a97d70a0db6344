"""`trooper start`, `stop`, `freeze`, `restart`, and `resume`: one action for one server or many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar, Unpack

import click

from trooper_async import Action, Order, TrooperClient
from trooper_async._api.arguments import Timeout
from trooper_async._fleet.report import FleetProgress, FleetReport
from trooper_async.cli._cli import Cli
from trooper_async.cli._command import Filters, command, no_wait_option, selection_options, timeout_option, yes_option
from trooper_async.cli._progress import progress
from trooper_async.cli._report import Keeper, check_free, read_report, show_report
from trooper_async.cli._select import check, chosen
from trooper_async.cli._text import count

F = TypeVar("F", bound="Callable[..., object]")
Run = Callable[..., Awaitable[FleetReport]]
"""Takes `on_progress`."""

_concurrency = click.option(
    "--concurrency", type=click.IntRange(min=1), default=16, show_default=True, help="Requests at once."
)
_report = click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep what becomes of each in this file, also when interrupted: `trooper resume FILE` goes on. "
    "No other file is written over, nor the report of a run that has servers left to send.",
)


def _switch_options(function: F) -> F:
    for option in (_report, _concurrency, timeout_option, no_wait_option, yes_option):
        function = option(function)
    return selection_options(function)


class _Given(Filters):
    ids: Sequence[int]
    every: bool
    yes: bool
    no_wait: bool
    timeout: float | None
    concurrency: int
    report: Path | None


@command()
@_switch_options
@click.option(
    "--migration-allowed",
    is_flag=True,
    help="Frozen servers may move to other hardware: 10 to 90 minutes, with other ports and perhaps another CPU.",
)
async def start(cli: Cli, migration_allowed: bool, **given: Unpack[_Given]) -> None:
    """Start servers, and wait until they run."""
    await _switch(cli, "start", "starting", migration_allowed=migration_allowed, **given)


@command()
@_switch_options
async def stop(cli: Cli, **given: Unpack[_Given]) -> None:
    """Stop servers, and wait until they have. A stopped server still costs 35 % of its price."""
    await _switch(cli, "stop", "stopping", **given)


@command()
@_switch_options
async def freeze(cli: Cli, **given: Unpack[_Given]) -> None:
    """Freeze servers: archived, their resources released. Address and ports may be others afterwards."""
    await _switch(cli, "freeze", "freezing", **given)


@command()
@_switch_options
async def restart(cli: Cli, **given: Unpack[_Given]) -> None:
    """Restart servers (a forced power reset), each once only, and wait until that is proven."""
    await _switch(cli, "restart", "restarting", **given)


@command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_concurrency
@timeout_option
async def resume(cli: Cli, file: Path, concurrency: int, timeout: float | None) -> None:
    """Go on with a run that was interrupted, from the FILE of its --report.

    What was accepted is waited for and not sent again; what was not sent is sent now, if it is still needed.
    """
    report = read_report(file)
    order_ids = [outcome.order_id for outcome in report.outcomes if outcome.resumable]
    async with cli.client() as client:
        run = partial(client.fleet.resume, report, concurrency=concurrency, timeout=timeout or "default")
        await _carry_out(cli, client, run, "going on with", order_ids, (), file, report)


async def _switch(
    cli: Cli,
    action: Action,
    doing: str,
    *,
    ids: Sequence[int],
    every: bool,
    yes: bool,
    no_wait: bool,
    timeout: float | None,
    concurrency: int,
    report: Path | None,
    migration_allowed: bool = False,
    **filters: Unpack[Filters],
) -> None:
    check(ids, every, filters)
    check_free(report)
    async with cli.client() as client:
        orders = await chosen(cli, client, ids, every, filters, None if yes else f"{action.capitalize()} {{}}?")
        order_ids = [order.order_id if isinstance(order, Order) else order for order in orders]
        fleet = client.fleet
        usual: Timeout = timeout or "default"
        if action == "start":
            run: Run = partial(fleet.start, orders, migration_allowed=migration_allowed)
        else:
            verbs = {"stop": fleet.stop, "freeze": fleet.freeze, "restart": fleet.restart}
            run = partial(verbs[action], orders)
        run = partial(run, timeout=usual, wait=not no_wait, concurrency=concurrency)
        seen = [order for order in orders if isinstance(order, Order)]
        await _carry_out(cli, client, run, doing, order_ids, seen, report)


async def _carry_out(
    cli: Cli,
    client: TrooperClient,
    run: Run,
    doing: str,
    order_ids: Sequence[int],
    seen: Sequence[Order],
    file: Path | None,
    before: FleetReport | None = None,
) -> None:
    keeper = Keeper(cli, file, before)
    async with progress(cli, client, f"{doing} {count(len(order_ids), 'server')}", order_ids) as shown:
        for order in seen:
            shown.see(order)

        def show(now: FleetProgress) -> None:
            keeper.see(now)
            latest = now.latest
            if latest.ended or latest.sent:
                shown.end(latest.order_id, latest.order or latest.error, latest.seconds)

        with keeper:
            keeper.keep(await run(on_progress=show))
    show_report(cli, keeper.report)
