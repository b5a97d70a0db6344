"""Makes commands from coroutine functions, and has the options that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import click

from trooper_async.cli._context import Cli
from trooper_async.cli._errors import USAGE

F = TypeVar("F", bound="Callable[..., object]")

if TYPE_CHECKING:
    _AmountType = click.ParamType[Decimal]
else:  # it cannot be subscripted before click 8.4
    _AmountType = click.ParamType


def _set(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        cli = context.find_object(Cli)
        if cli is not None and value:
            setattr(cli, name, value)

    return callback


def common_options() -> list[click.Parameter]:
    """The options that every command has."""
    options: list[click.Parameter] = [
        click.Option([name], is_flag=True, is_eager=True, expose_value=False, callback=_set(field), help=text)
        for name, field, text in (
            ("--json", "as_json", "The result as JSON on stdout."),
            ("--debug", "debug", "Log every request, and show the traceback of an error."),
        )
    ]
    profile = click.Option(
        ["--profile"],
        metavar="NAME",
        is_eager=True,
        expose_value=False,
        callback=_set("profile"),
        help="The account: a [profile.NAME] of the config file.  [default: $TROOPER_PROFILE]",
    )
    return [*options, profile]


class Commands(click.Group):
    """Commands in the order in which they were added. Without a command, the help is shown and the exit status is an
    error.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and self.no_args_is_help and not ctx.resilient_parsing:  # click's own way differs
            click.echo(ctx.get_help(), err=True)
            ctx.exit(USAGE)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def group(name: str, text: str, *commands: click.Command) -> Commands:
    """A command that only has subcommands."""
    made = Commands(name, help=text)
    for one in commands:
        made.add_command(one)
    return made


def _callback(function: Callable[..., object]) -> Callable[..., None]:
    @functools.wraps(function)
    def run(**given: object) -> None:
        cli = click.get_current_context().find_object(Cli)
        assert cli is not None  # noqa: S101 - `_app.run` passes one
        ended = function(cli, **given)
        if inspect.iscoroutine(ended):
            cli.run(ended)

    return run


def command(name: str | None = None) -> Callable[[Callable[..., object]], click.Command]:
    """Make a command from a function or coroutine function that takes the `Cli` and click's arguments."""

    def decorate(function: Callable[..., object]) -> click.Command:
        made = click.command(name or function.__name__.rstrip("_").replace("_", "-"))(_callback(function))
        made.params.extend(common_options())
        return made

    return decorate


def alone_or(*commands: click.Command) -> Callable[[Callable[..., object]], click.Group]:
    """A command that can run alone or with subcommands."""

    def decorate(function: Callable[..., object]) -> click.Group:
        made = click.command(function.__name__, cls=Commands, invoke_without_command=True)(_callback(function))
        made.params.extend(common_options())
        for one in commands:
            made.add_command(one)
        return made

    return decorate


class Euros(_AmountType):
    """An exact amount of EUR."""

    name = "eur"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        try:
            amount = Decimal(str(value))
        except ArithmeticError:
            amount = Decimal("NaN")
        if not amount.is_finite() or amount < 0:
            self.fail(f"{value!r:.40} is not an amount of EUR", param, ctx)
        return amount


EUROS = Euros()
SECONDS = click.FloatRange(min=0, min_open=True)
ID = click.IntRange(min=1)


class Filters(TypedDict):
    """The arguments of `trooper_async.select`."""

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
    click.option("--max-price-h", type=EUROS, help="EUR per hour at most."),
)


def filter_options(function: F) -> F:
    """The options that choose servers."""
    for option in reversed(_FILTERS):
        function = option(function)
    return function


def selection_options(function: F) -> F:
    """IDs, or `--all` with filters."""
    function = filter_options(function)
    function = click.option("--all", "every", is_flag=True, help="All servers that match the filters.")(function)
    return click.argument("ids", nargs=-1, type=ID, metavar="[ID]...", shell_complete=_servers)(function)


def _servers(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    from trooper_async.cli._completion import completed_ids

    return completed_ids(context, incomplete)


order_id = click.argument("order", type=ID, metavar="ID", shell_complete=_servers)
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
no_wait_option = click.option("--no-wait", is_flag=True, help="Return once the API has accepted.")
timeout_option = click.option(
    "--timeout", type=SECONDS, metavar="SECONDS", help="For each server; by default ample time for the action."
)
reference_option = click.option(
    "--reference", help="Your own name for this purchase: a repeat under the same name buys nothing more."
)


def listing_options(columns: tuple[Any, ...]) -> Callable[[F], F]:
    """`--columns`, `--sort`, `--no-header` and `--ids`, together the argument `listing`."""
    names = [column.name for column in columns]

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def with_listing(*arguments: Any, **given: Any) -> object:
            from trooper_async.cli._tables import Listing

            chosen = Listing(
                tuple(given.pop("columns") or ()), given.pop("sort"), given.pop("no_header"), given.pop("only_ids")
            )
            return function(*arguments, **given, listing=chosen)

        options = (
            click.option(
                "--columns",
                callback=_names(names),
                metavar="NAME,...",
                help=f"Which columns, in this order: {', '.join(names)}.",
            ),
            click.option(
                "--sort", callback=_name(names), metavar="[-]NAME", help="Sort by a column; - for the largest first."
            ),
            click.option("--no-header", is_flag=True, help="Only the rows."),
            click.option("--ids", "only_ids", is_flag=True, help="Only the ids, one a line."),
        )
        decorated: Any = with_listing
        for option in reversed(options):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return]  # it takes what `function` takes, but for `listing`

    return decorate


def _names(names: list[str]) -> Callable[[click.Context, click.Parameter, str | None], list[str] | None]:
    def check(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | None:
        if value is None:
            return None
        wanted = [name.strip().casefold() for name in value.split(",")]
        for name in wanted:
            _check_name(name, names)
        return list(dict.fromkeys(wanted))

    return check


def _name(names: list[str]) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    def check(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
        if value is not None:
            value = value.casefold()
            _check_name(value.removeprefix("-"), names)
        return value

    return check


def _check_name(name: str, names: list[str]) -> None:
    if name not in names:
        raise click.BadParameter(f"there is no column {name!r:.40}: there are {', '.join(names)}")
