"""What an error means to who typed the command: an exit status, one line, and a hint."""

from __future__ import annotations

import click

from trooper_async import errors
from trooper_async.cli._cli import FailedError
from trooper_async.cli._text import count, printable
from trooper_async.errors import TrooperError

FAILED, USAGE, REFUSED_KEY, UNKNOWN, INTERRUPTED = 1, 2, 3, 4, 130

# Where the package's own hints are for programs.
_HINTS: dict[type[TrooperError], str] = {
    errors.AuthenticationError: "check the API key: TROOPER_API_KEY, or the file that `trooper --help` names",
    errors.ServerLockedError: "unlock it first: trooper unlock ID",
    errors.RateLimitError: "nothing was changed: try again later, or with a lower --concurrency",
    errors.OrderNotFoundError: "`trooper ps` shows the servers of this API key",
    errors.PurchaseUnknownError: "do not order again yet: look at `trooper ps` and `trooper purchases`, "
    "then say what it was: trooper purchases resolve ID --order N, or --not-made",
    errors.UnresolvedPurchaseError: "find out what became of it (`trooper purchases`, `trooper ps`), "
    "then say so: trooper purchases resolve ID --order N, or --not-made",
    errors.OutcomeUnknownError: "do not send it again blindly: look at `trooper ps` first",
    errors.WaitTimeoutError: "it may still get there: `trooper wait ID` goes on waiting",
    errors.SupersededError: "somebody else, or the end of a paid period, switched it: trooper history ID",
    errors.OrderVanishedError: "it may have been terminated or replaced: look at `trooper ps`",
    errors.TemplateFailedError: "trooper templates retry INSTALL, or remove it",
    errors.PurchaseNotReadyError: "it is bought: do not order again; `trooper wait ID --until running` goes on waiting",
}


def exit_status(error: BaseException) -> int:
    """The exit status that an error of the API's leads to."""
    if isinstance(error, errors.AuthenticationError):
        return REFUSED_KEY
    if isinstance(error, errors.ConfigurationError):
        return USAGE
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, errors.OutcomeUnknownError):
            return UNKNOWN
        cause = cause.__cause__
    return FAILED


def line(error: TrooperError) -> str:
    """What happened to what, in one line of printable characters."""
    return f"{error.subject}: {reason(error)}" if error.subject else reason(error)


def reason(error: TrooperError) -> str:
    """The same without what it happened to."""
    text = str(error).removesuffix(f". {error.hint}")
    for name in (f"{error.operation} of ", f"{error.operation}: ", f"{error.subject}: "):
        text = text.removeprefix(name)
    return printable(text, 1000)


def hint(error: TrooperError) -> str:
    """What to do next, in terms of this command."""
    text = next((_HINTS[kind] for kind in type(error).__mro__ if kind in _HINTS), "")
    if isinstance(error, errors.PurchaseUnknownError | errors.UnresolvedPurchaseError):
        text = text.replace("resolve ID", f"resolve {error.purchase.id[:8]}")
    return text or error.hint[:1].lower() + error.hint[1:]


def explained(error: TrooperError) -> FailedError:
    """An error of the package as the end of a command."""
    return FailedError(exit_status(error), line(error), hint(error))


def partly(failures: list[TrooperError], total: int, what: str = "server") -> FailedError:
    """The end of a command that some of many failed in; what is unknown is the worst, then a refused key."""
    statuses = {exit_status(error) for error in failures}
    worst = next((status for status in (UNKNOWN, REFUSED_KEY) if status in statuses), None)
    status = worst or (statuses.pop() if len(statuses) == 1 else FAILED)
    if total == 1:
        return FailedError(status, line(failures[0]), hint(failures[0]))
    kinds = {type(error) for error in failures}
    return FailedError(
        status,
        f"{len(failures)} of {count(total, what)} failed" + (f", all alike: {reason(failures[0])}" * (len(kinds) == 1)),
        hint(failures[0]) if len(kinds) == 1 else "the table, or --json, says why of each",
    )


def usage(error: click.ClickException) -> FailedError:
    """A command line that can't be right."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    where = context.command_path if context is not None else "trooper"
    return FailedError(error.exit_code, printable(error.format_message(), 1000), f"{where} --help")
