"""What has become of a workflow, asked from anywhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from dbos import DBOS, WorkflowHandleAsync, WorkflowStatus
from dbos import error as dbos_errors
from sqlalchemy.exc import SQLAlchemyError

from trooper_async import (
    ConfigurationError,
    Order,
    OutcomeUnknownError,
    PollSchedule,
    PurchaseUnknownError,
    TrooperError,
)
from trooper_async.durable._process import current, opened
from trooper_async.durable._records import (
    ANSWER,
    DECISION,
    QUESTION,
    WAIT,
    Intent,
    Request,
    candidates,
    purchase_of,
)

T = TypeVar("T")

_ASK = PollSchedule(floor=0.1)
"""How often the database is asked for an outcome: like the API, it is every tenth of the time waited."""
ACTIVE = ["ENQUEUED", "DELAYED", "PENDING"]


class DatabaseError(TrooperError):
    """The workflows' database can't be used, or not be written. What was begun is not lost."""

    hint = "Make room on its disk, or bring it back: what stands still goes on by itself, or with the next process"


class UndecidedPurchaseError(PurchaseUnknownError):
    """A purchase of a workflow that may or may not have been made. It waits until somebody says what it was.

    Until then no other purchase of its account is made, on any worker. Where its orders can't be read just now there
    are no candidates, and its text says so.
    """

    hint = (
        "Do not buy again yet: look at error.candidates and at the account, "
        "then await durable.resolve(error, order_or_none)"
    )


class AlreadyResolvedError(TrooperError):
    """Somebody else has decided otherwise what became of a purchase, and the first decision holds.

    `order_id` is the order that it was said to be; None: it was said not to be made.
    """

    hint = "Look at the account: if that decision is wrong, only the account's owner can set it right"

    def __init__(self, workflow_id: str, order_id: int | None) -> None:
        what = "not made" if order_id is None else f"order {order_id}"
        text = (
            f"purchase {workflow_id} has been resolved already, as {what}: this came too late, and counts for nothing"
        )
        super().__init__(text, operation="durable.resolve")
        self.order_id = order_id


class Handle(Generic[T]):
    """A workflow, wherever and whenever it was begun. It goes on whether or not anybody has its handle."""

    def __init__(self, workflow_id: str, read: Callable[[str], T]) -> None:
        self.id = workflow_id
        self._read = read

    async def result(self) -> T:
        """Wait until it has ended; any number of times, in any process.

        Returns:
            The order as it was then; of a fleet, the report; of a template, its install.

        Raises:
            UndecidedPurchaseError: whether it was bought is unknown: see `Durable.resolve`.
            NotBoughtError: that was decided: it was not.
            PurchaseNotReadyError: it is bought, and the wait for it ended otherwise, however it did.
            DatabaseError: its database can't be used, or it stands still until that can be written.
            OutcomeUnknownError: it may have been sent, by a process that was killed, and nothing came of it.
            ConfigurationError: no `Durable` is open, or it was closed meanwhile.
            TrooperError: it ended as the same call of the client would have: `WaitTimeoutError`, `ServerLockedError`, …
        """
        return self._read(await outcome(self.id))


@contextmanager
def database_errors(subject: str) -> Iterator[None]:
    """Around a call that uses the database: what goes wrong with it is a `DatabaseError`.

    Raises:
        ConfigurationError: no `Durable` is open, or it was closed meanwhile.
    """
    process = opened()
    try:
        yield
    except (dbos_errors.DBOSException, SQLAlchemyError, RuntimeError, asyncio.CancelledError) as error:
        if process.closing and not _is_cancelled():  # with the engine, its threads are gone
            opened()
        if not isinstance(error, dbos_errors.DBOSException | SQLAlchemyError):
            raise
        text = f"the database can't be used: {getattr(error, 'orig', None) or error}"
        raise DatabaseError(text, operation="durable", subject=subject) from None


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def outcome(workflow_id: str) -> str:
    """Wait until a workflow, and the wait that it has begun, have ended; what is stored as its end.

    Raises:
        UndecidedPurchaseError: it is a purchase that waits for a decision.
        DatabaseError: it stands still, or can't be asked for.
        TrooperError: it ended so.
    """
    with database_errors(workflow_id):
        sent = await _ended(workflow_id)
        return sent if sent is not None else await _ended(f"{workflow_id}{WAIT}") or ""


async def asked(workflow_id: str, account: str | None) -> UndecidedPurchaseError | None:
    """The question that a purchase waits to be answered, if it does; its candidates as of now."""
    event: tuple[Request, Intent, str] | None = await DBOS.get_event_async(workflow_id, QUESTION, 0)
    if event is None or account is None or await DBOS.get_event_async(workflow_id, DECISION, 0) is not None:
        return None
    request, intent, doubt = event
    found: tuple[Order, ...] = ()
    try:
        client = await current().client(account)
        found = candidates(await client.orders.find(), intent)
    except TrooperError as error:  # of the account, or of `accounts`: the purchase is undecided all the same
        named = f"could not be looked for ({type(error).__name__}), which proves nothing"
    else:
        named = ", ".join(f"order {order.order_id}" for order in found) or "none found, which proves nothing"
    return UndecidedPurchaseError(
        f"{doubt}; candidates: {named}",
        purchase=purchase_of(workflow_id, request, intent, "unknown"),
        candidates=found,
        operation=f"durable.{request['action']}",
        subject=f"blib {request['blib_id']}",
    )


async def answer(workflow_id: str, order_id: int | None) -> None:
    """Decide what became of a purchase that asks; once its workflow has taken a decision, hear whether it was this.

    Raises:
        AlreadyResolvedError: it was another.
        ConfigurationError: it does not ask.
    """
    began, is_sent = time.monotonic(), False
    with database_errors(f"purchase {workflow_id}"):
        while True:
            status = await _status(workflow_id)  # before the decision, which comes first
            decision: tuple[int | None, float] | None = await DBOS.get_event_async(workflow_id, DECISION, 0)
            if decision is not None:
                break
            if status.status not in ACTIVE or await DBOS.get_event_async(workflow_id, QUESTION, 0) is None:
                raise ConfigurationError(f"no purchase of workflow {workflow_id} waits for a decision")
            if not is_sent:
                await DBOS.send_async(workflow_id, (order_id, time.time()), ANSWER)
                is_sent = True
            await asyncio.sleep(_ASK.interval(time.monotonic() - began))
    if decision[0] != order_id:
        raise AlreadyResolvedError(workflow_id, decision[0])


async def derived_id(prefix: str) -> str:
    """The id of the same work where that has not ended; else a new one."""
    rows = await DBOS.list_workflows_async(workflow_id_prefix=prefix, load_input=False, load_output=False)
    numbers = [(int(row.workflow_id.removeprefix(prefix).split("/")[0]), row.status in ACTIVE) for row in rows]
    active = [number for number, is_active in numbers if is_active]
    return f"{prefix}{max(active) if active else 1 + max((number for number, _ in numbers), default=0)}"


async def _status(workflow_id: str) -> WorkflowStatus:
    application = opened().name
    status = await DBOS.get_workflow_status_async(workflow_id)
    if status is None or status.application_name != application:
        raise ConfigurationError(f"this application has no workflow {workflow_id}")
    return status


async def _ended(workflow_id: str) -> str | None:
    began = time.monotonic()
    while (status := await _status(workflow_id)).status in ACTIVE:
        if (said := current().stalled.get(workflow_id)) is not None:
            raise DatabaseError(f"the database can't be written: {said}", operation="durable", subject=workflow_id)
        if status.queue_name == current().purchases and (error := await asked(workflow_id, status.queue_partition_key)):
            raise error
        await asyncio.sleep(_ASK.interval(time.monotonic() - began))
    if status.status not in ("SUCCESS", "ERROR"):  # with the engine's own tools: it may have been sent
        text = f"the workflow was ended from outside: {status.status}"
        raise OutcomeUnknownError(text, operation="durable", subject=workflow_id)
    handle: WorkflowHandleAsync[str | None] = await DBOS.retrieve_workflow_async(workflow_id)
    return await handle.get_result()
