"""Every exception of trooper_async.

    TrooperError
    ├── ConfigurationError (also ValueError)      a key, URL or argument is invalid: nothing was sent
    ├── ClientClosedError                         the client is closed, or was closed during the call
    ├── APIConnectionError                        no usable response, and safe to repeat
    │   └── APITimeoutError (also TimeoutError)   no response to a read in time, or not sent by the deadline
    ├── APIStatusError                            the API returned an error: 3xx, other 4xx
    │   ├── BadRequestError 400 · AuthenticationError 401 · NotFoundError 404 · ServerError 5xx
    │   ├── PermissionDeniedError 403 ── ServerLockedError (its text says "locked")
    │   ├── RateLimitError 429
    │   └── RefusedError                          {"success": false} under a 2xx
    ├── OrderNotFoundError                        no such order in the list
    ├── ResponseFormatError                       a response is not what the API's document says
    ├── PriceError                                above the caller's limit, or changed: nothing was sent
    ├── OutcomeUnknownError                       sent, but its response was lost: it may have taken effect
    │   └── PurchaseUnknownError                  a purchase that may or may not have been made
    ├── UnresolvedPurchaseError                   an earlier purchase must be resolved first: nothing was sent
    ├── StillRunningError                         a job is over, and its server could not be frozen or stopped
    └── WaitError                                 a wait failed; what it waits for was accepted
        ├── WaitTimeoutError (also TimeoutError) · SupersededError · OrderVanishedError · TemplateFailedError
        └── PurchaseNotReadyError                 bought, but the wait after it failed

Once a purchase may have been sent, no exception is a connection error or a `TimeoutError`, so generic retry code cannot
buy twice. The text of an error says which operation failed, on what, what happened, and one next step.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Unpack

from trooper_async._base.errors import ConfigurationError, Context, ResponseFormatError, TrooperError, count
from trooper_async.models import Order, Purchase, TemplateInstall, Transition

__all__ = [
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "ClientClosedError",
    "ConfigurationError",
    "NotFoundError",
    "OrderNotFoundError",
    "OrderVanishedError",
    "OutcomeUnknownError",
    "PermissionDeniedError",
    "PriceError",
    "PurchaseNotReadyError",
    "PurchaseUnknownError",
    "RateLimitError",
    "RefusedError",
    "ResponseFormatError",
    "ServerError",
    "ServerLockedError",
    "StillRunningError",
    "SupersededError",
    "TemplateFailedError",
    "TrooperError",
    "UnresolvedPurchaseError",
    "WaitError",
    "WaitTimeoutError",
]


class ClientClosedError(TrooperError):
    """The client is closed, or was closed during the call.

    Attributes:
        transition: the action that the API had accepted, if any; another client can wait for it.
    """

    hint = "Open a new TrooperClient, or keep this one open for as long as it is needed"

    def __init__(self, message: str, *, transition: Transition | None = None, **context: Unpack[Context]) -> None:
        super().__init__(message, **context)
        self.transition = transition


class APIConnectionError(TrooperError):
    """There was no usable response, and the call is safe to repeat: nothing was sent, or the request only reads."""

    hint = "Nothing was changed: check the network and the base URL, and try again"


class APITimeoutError(APIConnectionError, TimeoutError):
    """No response came to a read in time, or the deadline passed before a request was sent. Nothing was changed."""

    hint = "Nothing was changed: try again, or allow a longer timeout"


class APIStatusError(TrooperError):
    """The API returned an error.

    A 4xx says that nothing was done. A 5xx does not say whether anything was.

    Attributes:
        status: the HTTP status.
        message: the API's own text, or the standard phrase for the status.
        next_step: what the API suggests, such as `login`.
        retry_after: seconds that the API asked to wait, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        next_step: str | None = None,
        retry_after: float | None = None,
        **context: Unpack[Context],
    ) -> None:
        super().__init__(message, **context)
        self.status = status
        self.next_step = next_step
        self.retry_after = retry_after

    def _happened(self) -> str:
        return f"the API returned {self.status}: {self.message.rstrip('.')}"


class BadRequestError(APIStatusError):
    """400: the API does not accept the request, or the account's budget is too small for it."""

    hint = "Nothing was changed: the message says what the API does not accept"


class AuthenticationError(APIStatusError):
    """401: the API key is missing or not accepted."""

    hint = "Check the API key (the api_key argument, or TROOPER_API_KEY)"


class PermissionDeniedError(APIStatusError):
    """403: it does not exist or is not yours. The API returns 403 for "not found" too."""

    hint = "Nothing was changed: check that the order exists and belongs to this API key"


class ServerLockedError(PermissionDeniedError):
    """403: the server is locked against changes."""

    hint = "Nothing was changed: unlock it first (await client.orders.unlock(order))"


class NotFoundError(APIStatusError):
    """404: the API does not have it."""

    hint = "Nothing was changed: check the base URL and the id"


class RateLimitError(APIStatusError):
    """429: the API asks to wait for longer than the call may take."""

    hint = "Nothing was changed: try again later (after error.retry_after seconds, where it is known)"


class ServerError(APIStatusError):
    """5xx: the API itself failed."""

    hint = "A 5xx does not say whether anything was done: try again later"


class RefusedError(APIStatusError):
    """`{"success": false}` under a 2xx: the API refused the request."""

    hint = "Nothing was changed: the message says why, where the API does"


class OrderNotFoundError(TrooperError):
    """The order is not in the account's list. Nothing was sent."""

    hint = "Check the id: await client.orders.list() returns the orders of this API key"


class PriceError(TrooperError):
    """The price is above the caller's limit, or has changed. Nothing was sent."""

    hint = "Nothing was bought: read the offers or the quote again"


class OutcomeUnknownError(TrooperError):
    """The request was sent, but its response was lost: it may or may not have taken effect.

    Attributes:
        transition: what `orders.wait` can wait for, or None. That wait returns if the request took effect.
    """

    hint: str = "It may have been done: check before you send it again"

    def __init__(self, message: str, *, transition: Transition | None = None, **context: Unpack[Context]) -> None:
        super().__init__(message, **context)
        self.transition = transition
        if transition is not None and type(self) is OutcomeUnknownError:
            self.hint = "It may have been done: await client.orders.wait(error.transition) before you send it again"


class PurchaseUnknownError(OutcomeUnknownError):
    """A purchase may or may not have been made. This package never sends it again.

    Another buyer may share the account, so no candidate is proven to be this purchase, and an empty list proves
    nothing.

    Attributes:
        purchase: its record.
        candidates: the orders that did not exist before it, the most similar first.
    """

    hint = (
        "Do not buy again yet: find out from error.candidates and the account whether it was made, "
        "then await client.orders.resolve(error, order_or_none)"
    )

    def __init__(
        self,
        message: str,
        *,
        purchase: Purchase,
        candidates: tuple[Order, ...] = (),
        transition: Transition | None = None,
        **context: Unpack[Context],
    ) -> None:
        super().__init__(message, transition=transition, **context)
        self.purchase = purchase
        self.candidates = candidates


class UnresolvedPurchaseError(TrooperError):
    """An earlier purchase has an unknown outcome, or never reached its caller. Nothing was sent.

    Attributes:
        purchase: that earlier purchase.
        candidates: if its outcome is unknown, the orders that it may have created, the most similar first.
    """

    hint: str = "Find out whether it was made, then await client.orders.resolve(error, order_or_none)"

    def __init__(
        self, message: str, *, purchase: Purchase, candidates: tuple[Order, ...] = (), **context: Unpack[Context]
    ) -> None:
        super().__init__(message, **context)
        self.purchase = purchase
        self.candidates = candidates
        if (order_id := purchase.order_id) is not None:
            self.hint = f"Use or freeze order {order_id}, then await client.orders.resolve(error, {order_id})"

    def _happened(self) -> str:
        purchase = self.purchase
        kind = "order" if purchase.kind == "create" else f"migration of order {purchase.migrated_order_id}"
        reference = "" if purchase.reference is None else f", reference {purchase.reference!r}"
        return f"{self.message} (the {kind}, blib {purchase.blib_id}, {purchase.at:%Y-%m-%d %H:%M:%S %Z}{reference})"


class StillRunningError(TrooperError):
    """A job has ended (`orders.rented`, `orders.running`), and its server could not be frozen or stopped.

    `__cause__` says what failed.

    Attributes:
        order_id: the order that is still billed.
        price_h: what it costs, in EUR per hour; None if unknown.
    """

    hint = "It is still billed: freeze or stop it, here or in the vendor's console"

    def __init__(
        self, message: str, *, order_id: int, price_h: Decimal | None = None, **context: Unpack[Context]
    ) -> None:
        super().__init__(message, **context)
        self.order_id = order_id
        self.price_h = price_h


class WaitContext(Context, total=False):
    """What the error of a wait also has."""

    order: Order | None
    target: str | None
    polls: int
    last_error: TrooperError | None
    transition: Transition | None


class WaitError(TrooperError):
    """A wait failed. The action itself was accepted.

    Attributes:
        order: the order as last seen, or None.
        target: the status that was waited for.
        polls: how many fresh responses were seen.
        last_error: the last failure of the poll, or None.
        transition: what was waited for; `orders.wait(error.transition)` waits again.
    """

    hint = "Look at the order, then wait again"

    def __init__(self, message: str, **context: Unpack[WaitContext]) -> None:
        super().__init__(message)
        self.operation: str = context.get("operation", "")
        self.subject: str = context.get("subject", "")
        self.attempts: int = context.get("attempts", 0)
        self.seconds: float = context.get("seconds", 0.0)
        self.order: Order | None = context.get("order")
        self.target: str | None = context.get("target")
        self.polls: int = context.get("polls", 0)
        self.last_error: TrooperError | None = context.get("last_error")
        self.transition: Transition | None = context.get("transition")

    def _effort(self) -> str:
        return f"{count(self.polls, 'poll')}, {self.seconds:.1f} s" if self.seconds else ""


class WaitTimeoutError(WaitError, TimeoutError):
    """The deadline passed. The requested change itself continues."""

    hint = "It may still reach that state: wait again, or see error.order and error.last_error"


class SupersededError(WaitError):
    """Another action replaced the one that was waited for."""

    hint = "Somebody else, or the end of a paid period, changed the server: see error.order"


class OrderVanishedError(WaitError):
    """The order is not in the list any more, or never appeared."""

    hint = "It may have been terminated or replaced: see await client.orders.list()"


class TemplateFailedError(WaitError):
    """A template's installation failed.

    Attributes:
        install: the install as it was last seen.
    """

    hint = "Try it again (await client.templates.retry(error.install)), or remove it"

    def __init__(self, message: str, *, install: TemplateInstall, **context: Unpack[WaitContext]) -> None:
        super().__init__(message, **context)
        self.install = install


class PurchaseNotReadyError(WaitError):
    """The purchase was made and is billed, but the wait for it failed: `__cause__` says why.

    Buying again would rent a second server.

    Attributes:
        purchase: its record.
    """

    hint = "It is bought, so do not buy again: await client.orders.wait(error.transition) continues to wait"

    def __init__(self, message: str, *, purchase: Purchase, **context: Unpack[WaitContext]) -> None:
        super().__init__(message, **context)
        self.purchase = purchase
