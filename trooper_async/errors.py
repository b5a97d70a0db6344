"""Every exception of trooper_async.

TrooperError
├── ConfigurationError (also ValueError)      a bad key, URL or argument: nothing was sent
├── ClientClosedError                         the client is closed, or was closed in mid-call
├── APIConnectionError                        no usable answer, and safe to repeat
│   └── APITimeoutError (also TimeoutError)   a read was not answered in time
├── APIStatusError                            the API answered, and not with success: 3xx and other 4xx
│   ├── BadRequestError 400 · AuthenticationError 401 · NotFoundError 404 · ServerError 5xx
│   ├── PermissionDeniedError 403 ── ServerLockedError (its text says "locked")
│   ├── RateLimitError 429
│   └── RefusedError                          {"success": false} under a 2xx
├── OrderNotFoundError                        no such order in the list
├── ResponseFormatError                       an answer that is not what the API document says
├── PriceError                                dearer than the caller's limit: nothing was sent
├── OutcomeUnknownError                       sent, and the answer lost: it may or may not have happened
│   └── PurchaseUnknownError                  a purchase that may or may not have been made
├── UnresolvedPurchaseError                   an earlier purchase must be resolved first: nothing was sent
└── WaitError                                 a wait that ended otherwise than hoped for
    ├── WaitTimeoutError (also TimeoutError) · SupersededError · OrderVanishedError · TemplateFailedError
    └── PurchaseNotReadyError                 bought, but the wait after it ended otherwise

Nothing that is raised once a purchase may have been sent is a connection error or a TimeoutError, so that a generic
"retry on timeout" around a purchase cannot buy twice.
"""

from __future__ import annotations

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
    "SupersededError",
    "TemplateFailedError",
    "TrooperError",
    "UnresolvedPurchaseError",
    "WaitError",
    "WaitTimeoutError",
]


class ClientClosedError(TrooperError):
    """The client is closed, or was closed while the call was under way."""

    hint = "Open a new TrooperClient, or keep this one open for as long as it is needed"


class APIConnectionError(TrooperError):
    """No usable answer, and safe to repeat: nothing arrived, or it was only a read."""

    hint = "Nothing was changed: check the network and the base URL, and try again"


class APITimeoutError(APIConnectionError, TimeoutError):
    """A read was not answered in time; nothing was changed."""

    hint = "Nothing was changed: try again, or allow a longer timeout"


class APIStatusError(TrooperError):
    """The API answered, and not with success.

    `status` is the HTTP status, `message` the API's own text, `next_step` what the API suggests (`login`),
    `retry_after` the seconds it asked to wait, where it did.
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
        return f"the API answered {self.status}: {self.message.rstrip('.')}"


class BadRequestError(APIStatusError):
    """400: the API refuses the request as it is (also for a budget that is too small)."""

    hint = "Nothing was changed: change the request before sending it again"


class AuthenticationError(APIStatusError):
    """401: the API key is missing or not accepted."""

    hint = "Check the API key (the api_key argument, or TROOPER_API_KEY)"


class PermissionDeniedError(APIStatusError):
    """403: not yours, or not there: the API answers 403 for "not found" too."""

    hint = "Check that the order is there and belongs to this API key"


class ServerLockedError(PermissionDeniedError):
    """403: the server is locked against changes."""

    hint = "Unlock it first: await client.orders.unlock(order)"


class NotFoundError(APIStatusError):
    """404: the API knows no such thing."""

    hint = "Check the base URL and the id"


class RateLimitError(APIStatusError):
    """429, for longer than the call may wait."""

    hint = "Nothing was changed: wait `retry_after` seconds, or send less at once"


class ServerError(APIStatusError):
    """5xx: the API itself failed."""

    hint = "Try again later"


class RefusedError(APIStatusError):
    """`{"success": false}` under a 2xx: the API refuses."""

    hint = "Nothing was changed: the message says why"


class OrderNotFoundError(TrooperError):
    """No such order in the account's list. Nothing was sent for it."""

    hint = "orders.list() shows the orders of this API key"


class PriceError(TrooperError):
    """Dearer than the caller's limit, or no longer the price in hand. Nothing was sent."""

    hint = "Nothing was bought: read the offers or the quote again, and decide anew"


class OutcomeUnknownError(TrooperError):
    """Sent, and the answer was lost: it may or may not have happened.

    `transition` can be waited for where there is one (`orders.wait(error.transition)`): if it happened, that ends well.
    """

    hint = "Do not send it again blindly: look at the order first, or wait for error.transition"

    def __init__(self, message: str, *, transition: Transition | None = None, **context: Unpack[Context]) -> None:
        super().__init__(message, **context)
        self.transition = transition


class PurchaseUnknownError(OutcomeUnknownError):
    """A purchase that may or may not have been made. It is never sent again by this package.

    `purchase` is its record, `candidates` the orders that were not there before it, likeliest first. Somebody else may
    share the account: no candidate is proven to be this purchase, and none found proves nothing.
    """

    hint = (
        "Do not buy again yet: look at error.candidates and at the account, "
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

    `purchase` is that earlier one, `candidates` the orders that it may have bought, likeliest first, where that is
    unknown.
    """

    hint = "Find out what became of it, then await client.orders.resolve(error, order_or_none)"

    def __init__(
        self, message: str, *, purchase: Purchase, candidates: tuple[Order, ...] = (), **context: Unpack[Context]
    ) -> None:
        super().__init__(message, **context)
        self.purchase = purchase
        self.candidates = candidates


class WaitContext(Context, total=False):
    """What every ended wait can say besides."""

    order: Order | None
    target: str | None
    polls: int
    last_error: TrooperError | None
    transition: Transition | None


class WaitError(TrooperError):
    """A wait that ended otherwise than hoped for. The action itself was accepted.

    `order` is the order as last seen, `target` the status waited for, `polls` how many fresh answers were seen,
    `last_error` the last failure of the poll, `transition` what was waited for (`orders.wait(error.transition)`
    goes on with it).
    """

    def __init__(self, message: str, **context: Unpack[WaitContext]) -> None:
        super().__init__(message)
        self.operation = context.get("operation", "")
        self.subject = context.get("subject", "")
        self.attempts = context.get("attempts", 0)
        self.seconds = context.get("seconds", 0.0)
        self.order = context.get("order")
        self.target = context.get("target")
        self.polls = context.get("polls", 0)
        self.last_error = context.get("last_error")
        self.transition = context.get("transition")

    def _effort(self) -> str:
        return f"{count(self.polls, 'poll')}, {self.seconds:.1f} s" if self.seconds else ""


class WaitTimeoutError(WaitError, TimeoutError):
    """The deadline passed first. Whatever was begun goes on at the API."""

    hint = "It may still get there: wait again, or look at error.order and error.last_error"


class SupersededError(WaitError):
    """Another switch took the place of the one that was waited for."""

    hint = "Somebody else, or the end of a paid period, switched the server: look at error.order"


class OrderVanishedError(WaitError):
    """The order is not in the list any more, or never came."""

    hint = "It may have been terminated or replaced: look at orders.list()"


class TemplateFailedError(WaitError):
    """A template's installation failed; `install` is how it stands."""

    hint = "await client.templates.retry(error.install), or remove it"

    def __init__(self, message: str, *, install: TemplateInstall, **context: Unpack[WaitContext]) -> None:
        super().__init__(message, **context)
        self.install = install


class PurchaseNotReadyError(WaitError):
    """Bought, and billed from now on, but the wait after it ended otherwise: `__cause__` says how.

    `purchase` is its record. Buying again would rent a second server.
    """

    hint = "It is bought: do not buy again; await client.orders.wait(error.transition) goes on waiting"

    def __init__(self, message: str, *, purchase: Purchase, **context: Unpack[WaitContext]) -> None:
        super().__init__(message, **context)
        self.purchase = purchase
