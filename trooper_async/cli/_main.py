"""The `trooper` command as a whole: its commands, its help, and the one place where errors end."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
from rich.logging import RichHandler
from rich.text import Text

from trooper_async import __version__
from trooper_async.cli import (
    _cost,
    _credentials,
    _demo,
    _doctor,
    _history,
    _migrate,
    _offers,
    _purchases,
    _servers,
    _switch,
    _templates,
    _wait,
    _watch,
)
from trooper_async.cli._cli import Cli, FailedError
from trooper_async.cli._command import Commands
from trooper_async.cli._errors import FAILED, INTERRUPTED, explained, usage
from trooper_async.cli._settings import Settings
from trooper_async.cli._text import printable
from trooper_async.errors import TrooperError

_HELP = """GPU servers of Trooper.AI: rent them, switch them, and await them.

The key comes from TROOPER_API_KEY, or from ~/.config/trooper/config.toml (in $XDG_CONFIG_HOME where that is set), which
has to have mode 600 and may say api_key, base_url and ledger. No key? `trooper demo` is all of this on a fake.

Purchases are noted in ~/.local/state/trooper/purchases.jsonl (in $XDG_STATE_HOME): none is ever sent twice.
"""

_EPILOG = """\b
Every command takes --json: the result, and nothing else, goes to stdout. Tables, progress,
questions and errors go to stderr; no colour where that is no terminal, or NO_COLOR is set.

\b
Exit status:
  0    all done
  1    failed, or partly failed
  2    the command line or the settings can't be right: nothing was sent
  3    the API key is refused
  4    sent, and the answer lost: whether it was done is unknown
  130  ended by Ctrl-C or SIGTERM

\b
Completion, in the shell's start file:
  bash:  eval "$(_TROOPER_COMPLETE=bash_source trooper)"
  zsh:   eval "$(_TROOPER_COMPLETE=zsh_source trooper)"
  fish:  _TROOPER_COMPLETE=fish_source trooper | source
"""


app = Commands("trooper", help=_HELP, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
app = click.version_option(__version__, prog_name="trooper")(app)
for _command in (
    _servers.ps,
    _offers.gpus,
    _offers.order,
    _switch.start,
    _switch.stop,
    _switch.freeze,
    _switch.restart,
    _switch.resume,
    _wait.wait,
    _watch.watch,
    _credentials.ssh,
    _credentials.credentials,
    _history.history,
    _servers.rename,
    _servers.lock,
    _servers.unlock,
    _migrate.migrate,
    _templates.templates,
    _purchases.purchases,
    _cost.cost,
    _servers.ping,
    _doctor.doctor,
    _demo.demo,
):
    app.add_command(_command)


def run(
    arguments: Sequence[str], settings: Settings | None = None, *, as_json: bool = False, debug: bool = False
) -> int:
    """Run a command line; its exit status.

    Args:
        arguments: without the program's name.
        settings: in place of those of the environment and the file.
        as_json, debug: as `--json` and `--debug` do.
    """
    cli = Cli(settings, as_json, debug)
    try:
        with _log(cli):
            status = app.main(list(arguments), prog_name="trooper", standalone_mode=False, obj=cli)
        return status if isinstance(status, int) else 0
    except SystemExit:  # of click: after a completion, or where nobody reads on (`trooper ps --json | head -1`)
        raise
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except BaseException as error:  # noqa: BLE001 - here they end, each as an exit status and a line
        if cli.debug:
            traceback.print_exception(error)
        failed = _end_of(error)
    if failed.status == INTERRUPTED:
        cli.say(failed.message)
    else:
        cli.say(Text("error: ", "bold red").append(failed.message, "not bold default"))
    if failed.hint:
        cli.say(Text("hint:  ", "bold").append(failed.hint, "not bold"))
    return failed.status


def _end_of(error: BaseException) -> FailedError:
    match error:
        case FailedError():
            return error
        case TrooperError():
            return explained(error)
        case click.ClickException():
            return usage(error)
        case click.Abort() | KeyboardInterrupt():
            return FailedError(INTERRUPTED, "interrupted")
        case OSError():
            return FailedError(FAILED, ": ".join(printable(part) for part in (error.strerror, error.filename) if part))
    # a bug: told by its name alone, since its text may hold anything
    hint = "please report it, with what --debug says"
    return FailedError(FAILED, f"trooper itself failed ({type(error).__name__})", hint)


@contextmanager
def _log(cli: Cli) -> Iterator[None]:
    """The package's own log: with --debug all of it, else what is an error (an outcome that could not be written)."""
    logger = logging.getLogger("trooper_async")
    handler = RichHandler(console=cli.console, show_path=False, markup=False, rich_tracebacks=False)
    handler.addFilter(lambda record: cli.debug or record.levelno >= logging.ERROR)
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
