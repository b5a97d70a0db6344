"""How a command is made of a coroutine function, and the options that several commands have."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypedDict, TypeVar

import click

from trooper_async.cli._cli import Cli

F = TypeVar("F", bound="Callable[..., object]")


def _set(name: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        cli = context.find_object(Cli)
        if cli is not None and value:
            setattr(cli, name, True)

    return callback


def _common_options() -> list[click.Parameter]:
    """What each command has."""
    return [
        click.Option([name], is_flag=True, is_eager=True, expose_value=False, callback=_set(field), help=text)
        for name, field, text in (
            ("--json", "as_json", "The result as JSON on stdout."),
            ("--debug", "debug", "Log every request, and show an error's traceback."),
        )
    ]


class Commands(click.Group):
    """Commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _callback(function: Callable[..., object]) -> Callable[..., None]:
    @functools.wraps(function)
    def run(**given: object) -> None:
        cli = click.get_current_context().find_object(Cli)
        assert cli is not None  # noqa: S101 - `_main.run` passes one
        ended = function(cli, **given)
        if inspect.iscoroutine(ended):
            cli.run(ended)

    return run


def command(name: str | None = None) -> Callable[[Callable[..., object]], click.Command]:
    """A command of a function, or coroutine function, that takes the `Cli` and what click gives it."""

    def decorate(function: Callable[..., object]) -> click.Command:
        made = click.command(name or function.__name__)(_callback(function))
        made.params.extend(_common_options())
        return made

    return decorate


def alone_or(*commands: click.Command) -> Callable[[Callable[..., object]], click.Group]:
    """A command that has others below it."""

    def decorate(function: Callable[..., object]) -> click.Group:
        made = click.command(function.__name__, cls=Commands, invoke_without_command=True)(_callback(function))
        made.params.extend(_common_options())
        for one in commands:
            made.add_command(one)
        return made

    return decorate


class Euros(click.ParamType[Decimal]):
    """An amount of EUR, exact."""

    name = "eur"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        try:
            amount = Decimal(str(value))
        except ArithmeticError:
            amount = Decimal("NaN")
        if not amount.is_finite() or amount < 0:
            self.fail(f"{value!r:.40} is no amount of EUR", param, ctx)
        return amount


EUROS = Euros()
SECONDS = click.FloatRange(min=0, min_open=True)
ID = click.IntRange(min=1)


class Filters(TypedDict):
    """The arguments of `trooper_async._groups.selection.select`."""

    title: str | None
    gpu_type: str | None
    country_code: str | None
    status: str | None
    max_price_h: Decimal | None


_FILTERS = (
    click.option("--title", metavar="GLOB", help="Title; *, ? and […] as in file names, in any case of letters."),
    click.option("--gpu-type", metavar="GLOB", help="GPU type."),
    click.option("--country-code", metavar="GLOB", help="Country."),
    click.option("--status", metavar="GLOB", help="Current status."),
    click.option("--max-price-h", type=EUROS, help="EUR per hour at the most."),
)


def filter_options(function: F) -> F:
    """The options that choose servers."""
    for option in reversed(_FILTERS):
        function = option(function)
    return function


def selection_options(function: F) -> F:
    """IDs, or `--all` with filters."""
    function = filter_options(function)
    function = click.option("--all", "every", is_flag=True, help="All servers that fit the filters.")(function)
    return click.argument("ids", nargs=-1, type=ID, metavar="[ID]...")(function)


order_id = click.argument("order", type=ID, metavar="ID")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
no_wait_option = click.option("--no-wait", is_flag=True, help="Return once the API has accepted.")
timeout_option = click.option(
    "--timeout", type=SECONDS, metavar="SECONDS", help="For each; by default what its action usually needs, generously."
)
reference_option = click.option(
    "--reference", help="Your own name for this purchase: a repeat under the same name buys nothing more."
)
