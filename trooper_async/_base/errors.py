"""The base of all errors, and the two that data and arguments raise. The whole tree is in `trooper_async.errors`."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Self, TypedDict, Unpack


class Context(TypedDict, total=False):
    """What every error can state besides its message."""

    operation: str
    subject: str
    attempts: int
    seconds: float


class TrooperError(Exception):
    """The base of everything that this package raises.

    Attributes:
        message: what happened.
        operation: what was attempted, such as `orders.stop`.
        subject: on what, such as `order 123`.
        attempts: how many requests were sent for it.
        seconds: how long it took.
        hint: what to do next.
    """

    hint: str = ""

    def __init__(self, message: str, **context: Unpack[Context]) -> None:
        super().__init__(message)
        self.message = message
        self.operation: str = context.get("operation", "")
        self.subject: str = context.get("subject", "")
        self.attempts: int = context.get("attempts", 0)
        self.seconds: float = context.get("seconds", 0.0)

    def about(self, operation: str, subject: str = "") -> Self:
        """A copy of this error that names another operation.

        Args:
            operation: what was attempted: `orders.stop`.
            subject: on what: `order 123`.

        Returns:
            The copy.
        """
        error = copy(self)
        error.operation, error.subject = operation, subject
        return error

    def _happened(self) -> str:
        return self.message

    def _effort(self) -> str:
        return f"{count(self.attempts, 'attempt')}, {self.seconds:.1f} s" if self.attempts else ""

    def __str__(self) -> str:
        where = " of ".join(part for part in (self.operation, self.subject) if part)
        text = f"{where}: {self._happened()}" if where else self._happened()
        text += f" ({effort})" if (effort := self._effort()) else ""
        return f"{text}. {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Callable[..., TrooperError], tuple[object, ...], dict[str, object]]:
        # Subclasses take different arguments, and OSError (a base of TimeoutError) rebuilds from its own: so rebuild
        # without calling any __init__, from the message and the attributes.
        return _revive, (type(self), self.args), self.__dict__


def count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _revive(cls: type[TrooperError], args: tuple[object, ...]) -> TrooperError:
    error = cls.__new__(cls, *args)
    error.args = args
    return error


class ConfigurationError(TrooperError, ValueError):
    """A key, URL or argument is invalid. Nothing was sent."""


class ResponseFormatError(TrooperError):
    """A response does not match the API's document.

    Attributes:
        path: where, such as `$[3].order_id`.
        expected: what should be there. The value itself is not kept.
    """

    hint = "The API may have changed: look for a newer release of trooper-async"

    def __init__(self, path: str, expected: str, **context: Unpack[Context]) -> None:
        super().__init__(f"the response is not as documented: {path} should be {expected}", **context)
        self.path = path
        self.expected = expected

    def inside(self, place: str) -> ResponseFormatError:
        """This error, raised for a part of a response, as an error of the whole response.

        Args:
            place: where the part stands: `$[3]`.

        Returns:
            An error whose path begins there.
        """
        return ResponseFormatError(place + self.path[1:], self.expected)
