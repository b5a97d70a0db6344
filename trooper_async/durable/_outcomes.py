"""What has become of a workflow, asked from anywhere."""

from __future__ import annotations

import asyncio
import time

from dbos import DBOS, WorkflowHandleAsync

from trooper_async import ConfigurationError, Order, PollSchedule, PurchaseUnknownError, TrooperError
from trooper_async.durable._process import current
from trooper_async.durable._records import UNKNOWN, WAIT, Intent, Request, candidates, purchase_of

_ASK = PollSchedule(floor=0.1)
"""How often the database is asked for an outcome: like the API, it is every tenth of the time waited."""
ACTIVE = ["ENQUEUED", "DELAYED", "PENDING"]


class DatabaseError(TrooperError):
    """The workflows' database can't be written. What was begun is not lost: it goes on once it can be."""

    hint = "Make room on its disk: what stands still goes on by itself, or with the next process"


class UndecidedPurchaseError(PurchaseUnknownError):
    """A purchase of a workflow that may or may not have been made. It waits until somebody says what it was.

    Until then no other purchase of its account is made, on any worker. Where its orders can't be read just now there
    are no candidates, and its text says so.
    """

    hint = (
        "Do not buy again yet: look at error.candidates and at the account, "
        "then await durable.resolve(error, order_or_none)"
    )


async def outcome(workflow_id: str) -> str:
    """Wait until a workflow, and the wait that it has begun, have ended; the report of it.

    Raises:
        UndecidedPurchaseError: it is a purchase that waits for a decision.
        DatabaseError: it stands still, since the database can't be written.
        TrooperError: it ended so.
    """
    sent = await _ended(workflow_id)
    return sent if sent is not None else await _ended(f"{workflow_id}{WAIT}") or ""


async def asked(workflow_id: str, account: str | None) -> UndecidedPurchaseError | None:
    """The question that a purchase waits to be answered, if it does; its candidates as of now."""
    event: tuple[Request, Intent, str] | None = await DBOS.get_event_async(workflow_id, UNKNOWN, 0)
    if event is None or account is None:
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


async def derived_id(prefix: str) -> str:
    """The id of the same work where that has not ended; else a new one."""
    rows = await DBOS.list_workflows_async(workflow_id_prefix=prefix, load_input=False, load_output=False)
    numbers = [(int(row.workflow_id.removeprefix(prefix).split("/")[0]), row.status in ACTIVE) for row in rows]
    active = [number for number, is_active in numbers if is_active]
    return f"{prefix}{max(active) if active else 1 + max((number for number, _ in numbers), default=0)}"


async def _ended(workflow_id: str) -> str | None:
    began = time.monotonic()
    while True:
        status = await DBOS.get_workflow_status_async(workflow_id)
        if status is None:
            raise ConfigurationError(f"there is no workflow {workflow_id}")
        if status.status not in ACTIVE:
            break
        if (said := current().stalled.get(workflow_id)) is not None:
            raise DatabaseError(f"the database can't be written: {said}", operation="durable", subject=workflow_id)
        if status.queue_name == current().purchases and (error := await asked(workflow_id, status.queue_partition_key)):
            raise error
        await asyncio.sleep(_ASK.interval(time.monotonic() - began))
    handle: WorkflowHandleAsync[str | None] = await DBOS.retrieve_workflow_async(workflow_id)
    return await handle.get_result()
