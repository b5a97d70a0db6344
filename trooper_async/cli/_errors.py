"""How an error is shown to the user of the command: an exit status, one line, a hint, and a JSON object."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import click

    from trooper_async.errors import TrooperError
    from trooper_async.models import Purchase

FAILED, USAGE, REFUSED_KEY, UNKNOWN, INTERRUPTED = 1, 2, 3, 4, 130

# Hints by the name of the error, since the package's own are for programs; {order} is the order of the error.
_HINTS = {
    "APIConnectionError": "nothing was changed: check the network and the base URL (`trooper doctor`), and try again",
    "APIStatusError": "`trooper doctor` shows how the API responds",
    "APITimeoutError": "nothing was changed: try again",
    "AuthenticationError": "check the API key: `trooper config show` says where it comes from",
    "BadRequestError": "nothing was changed: the message says what the API refuses",
    "ClientClosedError": "try again",
    "ConfigurationError": "",
    "NotFoundError": "check the id and the base URL: `trooper config show`",
    "OrderNotFoundError": "`trooper ps` lists the servers of this account",
    "OrderVanishedError": "it may have been terminated or replaced: `trooper ps`",
    "OutcomeUnknownError": "look at `trooper ps` before you send it again",
    "PermissionDeniedError": "the order is not there, or belongs to another account: `trooper ps`",
    "PriceError": "nothing was bought: look at the prices again (`trooper gpus`)",
    "PurchaseNotReadyError": "it is bought: do not order again; `trooper wait {order} --until running` waits for it",
    "PurchaseUnknownError": "do not order again yet: look at `trooper ps`, then say what became of it: "
    "`trooper purchases resolve {purchase} --order {candidate}` or `trooper purchases resolve {purchase} --not-made`",
    "RateLimitError": "nothing was changed: try again later",
    "RefusedError": "nothing was changed: the message says why",
    "ResponseFormatError": "`trooper doctor` shows how the API responds",
    "ServerError": "try again later; after a change, check first: `trooper ps`",
    "ServerLockedError": "unlock it first: `trooper unlock {order}`",
    "StillRunningError": "it is still billed: `trooper freeze {order}`",
    "SupersededError": "somebody else changed it, or its paid period has ended: `trooper history {order}`",
    "TemplateFailedError": "try it again: `trooper templates retry {install}`",
    "UnresolvedPurchaseError": "look at `trooper purchases` and `trooper ps`, then say what became of it: "
    "`trooper purchases resolve {purchase} --order {candidate}` or `trooper purchases resolve {purchase} --not-made`",
    "WaitError": "`trooper show {order}`",
    "WaitTimeoutError": "it may still get there: `trooper wait {order}` continues to wait",
}


class FailedError(Exception):
    """The failure of a command: its exit status, one line, what to do next, and additional data for JSON."""

    def __init__(self, status: int, message: str, hint: str = "", *, cause: TrooperError | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.hint = hint
        self.cause = cause


def exit_status(error: BaseException) -> int:
    """The exit status for one of the package's errors."""
    from trooper_async import errors

    if isinstance(error, errors.AuthenticationError) or isinstance(error.__cause__, errors.AuthenticationError):
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
    """What happened, and to what, in one line of printable characters."""
    return f"{error.subject}: {reason(error)}" if error.subject else reason(error)


def reason(error: TrooperError) -> str:
    """The same, without naming what it happened to."""
    from trooper_async.cli._text import printable

    text = str(error).removesuffix(f". {error.hint}")
    for name in (f"{error.operation} of ", f"{error.operation}: ", f"{error.subject}: "):
        text = text.removeprefix(name)
    return printable(text)


def hint(error: TrooperError) -> str:
    """What to do next, as commands that can be typed as they are."""
    refused = error.__cause__ if exit_status(error) == REFUSED_KEY and error.__cause__ is not None else error
    text = next((_HINTS[kind.__name__] for kind in type(refused).__mro__ if kind.__name__ in _HINTS), "")
    purchase = getattr(error, "purchase", None)
    candidates = [order.order_id for order in getattr(error, "candidates", ())]
    if purchase is not None and purchase.order_id is not None:
        candidates = [purchase.order_id]
    values = {
        "{order}": _order_id(error),
        "{install}": getattr(getattr(error, "install", None), "install_id", None),
        "{purchase}": None if purchase is None else purchase.id[:8],
        "{candidate}": candidates[0] if candidates else None,
    }
    if "{candidate}" in text and values["{candidate}"] is None:  # all that can be decided is that there is none
        text = text.replace("`trooper purchases resolve {purchase} --order {candidate}` or ", "")
    for name, value in values.items():
        if name in text:
            if value is None:
                return "`trooper ps`"
            text = text.replace(name, str(value))
    return text


def _order_id(error: TrooperError) -> int | None:
    own: int | None = getattr(error, "order_id", None)
    if own:
        return own
    for name in ("order", "transition", "purchase"):
        order_id: int | None = getattr(getattr(error, name, None), "order_id", None)
        if order_id is not None:
            return order_id
    word, _, number = error.subject.partition(" ")
    return int(number) if word == "order" and number.isdecimal() else None


def explained(error: TrooperError) -> FailedError:
    """One of the package's errors as the failure of a command."""
    return FailedError(exit_status(error), line(error), hint(error), cause=error)


def partly(failures: list[TrooperError], total: int, what: str = "server") -> FailedError:
    """The failure of a command for many servers, of which some failed. An unknown outcome is the worst, then a refused
    key.
    """
    from trooper_async.cli._text import count

    if total == 1:
        return explained(failures[0])
    statuses = {exit_status(error) for error in failures}
    worst = next((status for status in (UNKNOWN, REFUSED_KEY) if status in statuses), None)
    reasons = {reason(error) for error in failures}
    text = f"{len(failures)} of {count(total, what)} failed"
    if len(reasons) == 1:
        text += f", for the same reason: {reasons.pop()}"
    same_kind = {type(error) for error in failures} <= {type(failures[0])} and "{" not in _hint_text(failures[0])
    status = worst or (statuses.pop() if len(statuses) == 1 else FAILED)
    return FailedError(status, text, hint(failures[0]) if same_kind else "")


def _hint_text(error: TrooperError) -> str:
    return _HINTS.get(type(error).__name__, "")


def usage(error: click.ClickException) -> FailedError:
    """The failure of an invalid command line."""
    from trooper_async.cli._text import printable

    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "trooper"
    return FailedError(error.exit_code, printable(error.format_message()), f"`{where} --help`")


def as_json(failed: FailedError, purchases: Sequence[Purchase]) -> dict[str, object]:
    """The object that `--json` writes if a command fails without a result."""
    cause = failed.cause
    order_id = None if cause is None else _order_id(cause)
    if order_id is None and purchases:
        order_id = purchases[0].order_id
    kinds = {INTERRUPTED: "Interrupted", USAGE: "UsageError"}
    data: dict[str, object] = {
        "type": kinds.get(failed.status, "Failed") if cause is None else type(cause).__name__,
        "message": failed.message,
        "hint": failed.hint or None,
        "exit_status": failed.status,
        "order_id": order_id,
        "purchase": getattr(cause, "purchase", None) or (purchases[0] if purchases else None),
        "candidates": getattr(cause, "candidates", ()),
    }
    return {"error": data}
