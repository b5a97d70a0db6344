"""The `trooper` command as a whole: its commands, its help, and the one place where errors are shown.

Every import here delays `--help`, `--version` and completion, so a command's file is imported only when it runs.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from trooper_async._base.version import __version__
from trooper_async.cli import _errors
from trooper_async.cli._context import Cli
from trooper_async.cli._errors import FAILED, INTERRUPTED, FailedError, explained, usage
from trooper_async.cli._options import Commands, common_options

if TYPE_CHECKING:
    from trooper_async.cli._settings import Settings

_HELP = """GPU servers of Trooper.AI: rent them, start and stop them, and wait until it is done.

The API key comes from TROOPER_API_KEY or from the config file (`trooper config path`), which can hold several accounts.
No key? `trooper demo` is all of this on a fake fleet.
"""

_EPILOG = """\b
Results go to stdout, as a table or with --json as JSON; progress, questions and errors go
to stderr. No colour where that is no terminal, or NO_COLOR is set.

\b
Exit status:
  0    done
  1    failed, or partly failed
  2    the command line or the settings are invalid: nothing was sent
  3    the API key is refused
  4    sent, but the response was lost: the outcome is unknown
  130  ended by Ctrl-C or SIGTERM

\b
Purchases are recorded in ~/.local/state/trooper (or $XDG_STATE_HOME): none is ever sent twice.
Completion of commands, ids and titles: `trooper completion --help`.
"""

# Name, file and help text, so that `trooper --help` need not import the files.
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Servers": {
        "ps": ("_servers", "List your servers: status, address, price."),
        "show": ("_servers", "Show everything about one server."),
        "watch": ("_live", "Show your servers as they change, until Ctrl-C."),
        "history": ("_servers", "Show the last five status changes of a server."),
        "cost": ("_servers", "Show what servers cost, and when paid periods end."),
        "rename": ("_servers", "Give a server another title."),
        "lock": ("_servers", "Lock a server against status changes."),
        "unlock": ("_servers", "Allow a locked server's status changes again."),
    },
    "Actions": {
        "start": ("_actions", "Start servers, and wait until they run."),
        "stop": ("_actions", "Stop servers, and wait until they have stopped."),
        "freeze": ("_actions", "Freeze servers: archive them, release the hardware."),
        "restart": ("_actions", "Restart servers, and wait until that is confirmed."),
        "resume": ("_actions", "Continue a run from the FILE of its --report."),
        "wait": ("_actions", "Wait until servers reach their desired status."),
    },
    "Renting": {
        "gpus": ("_renting", "List what can be rented now, the cheapest first."),
        "order": ("_renting", "Rent a server, and wait until it runs."),
        "migrate": ("_renting", "Move a server to another configuration."),
        "purchases": ("_purchases", "Show what was bought from this machine."),
        "templates": ("_templates", "List and install software on servers."),
    },
    "Logging in": {
        "ssh": ("_login", "Wait until a server is reachable, and log in."),
        "ssh-config": ("_login", "Write entries for your running servers."),
        "credentials": ("_login", "Show how to log in to a server."),
    },
    "This command": {
        "config": ("_config", "Set API keys, accounts and other settings."),
        "completion": ("_config", "Enable completion in your shell."),
        "doctor": ("_doctor", "Check the key, and how the API behaves."),
        "ping": ("_doctor", "Check whether the API responds, and how fast."),
        "demo": ("_demo", "Try every command on a fake fleet."),
    },
}
_FILES = {name: file for section in COMMANDS.values() for name, (file, _) in section.items()}


class App(Commands):
    """The command. Its subcommands are imported when they run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_FILES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _FILES:
            return None
        made: click.Command = getattr(
            import_module(f"trooper_async.cli.{_FILES[cmd_name]}"), cmd_name.replace("-", "_")
        )
        return made

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in section.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        if incomplete[:1] == "-":
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=text)
            for section in COMMANDS.values()
            for name, (_, text) in section.items()
            if name.startswith(incomplete)
        ]


app = App("trooper", help=_HELP, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
app.params.extend(common_options())
app = click.version_option(__version__, prog_name="trooper")(app)


def run(
    arguments: Sequence[str], settings: Settings | None = None, *, as_json: bool = False, debug: bool = False
) -> int:
    """Run a command line, and return its exit status.

    Args:
        arguments: without the program's name.
        settings: used instead of those of the environment and the file.
        as_json, debug: as `--json` and `--debug` do.
    """
    cli = Cli(settings, as_json=as_json, debug=debug)
    try:
        with _log(cli):
            status = app.main(list(arguments), prog_name="trooper", standalone_mode=False, obj=cli)
        return status if isinstance(status, int) else 0
    except SystemExit:  # raised by click after a completion, or if the reader has gone (`trooper ps | head -1`)
        raise
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "rich":
            raise  # the extra is not installed completely
        if cli.debug and not isinstance(error, FailedError | click.ClickException | click.Abort):
            import traceback

            traceback.print_exception(error)
        failed = _end_of(error)
    cli.as_json = cli.as_json or "--json" in itertools.takewhile(lambda word: word != "--", arguments)
    return _report(cli, failed)


def _report(cli: Cli, failed: FailedError) -> int:
    from rich.text import Text

    if failed.status == INTERRUPTED:
        cli.say(failed.message)
    else:
        cli.say(Text("error: ", "bold red").append(failed.message, "not bold default"))
    if failed.hint:
        cli.say(Text("hint:  ", "bold").append(failed.hint, "not bold"))
    if cli.as_json and not cli.has_result:
        cli.result(_errors.as_json(failed, cli.purchases))
    return failed.status


def _end_of(error: BaseException) -> FailedError:
    if isinstance(error, FailedError):
        return error
    if isinstance(error, click.ClickException):
        return usage(error)
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return FailedError(INTERRUPTED, "interrupted")

    from trooper_async.cli._text import printable
    from trooper_async.errors import TrooperError

    if isinstance(error, TrooperError):
        return explained(error)
    if isinstance(error, OSError):
        return FailedError(FAILED, ": ".join(printable(part) for part in (error.strerror, error.filename) if part))
    # a bug: only its type is shown, since its text may hold anything
    return FailedError(
        FAILED, f"trooper itself failed ({type(error).__name__})", "please report it, with what --debug shows"
    )


class _LogHandler(logging.Handler):
    """Writes log lines through the console that shows progress, so that neither disturbs the other."""

    def __init__(self, cli: Cli) -> None:
        super().__init__()
        self._cli = cli
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        if self._cli.debug or record.levelno >= logging.ERROR:
            from trooper_async.cli._text import printable

            self._cli.say(printable(self.format(record)))


@contextmanager
def _log(cli: Cli) -> Iterator[None]:
    """Set up the package's log: everything with --debug, otherwise only errors."""
    logger, handler = logging.getLogger("trooper_async"), _LogHandler(cli)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
