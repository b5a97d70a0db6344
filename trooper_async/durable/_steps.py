"""What workflows are made of: steps that may run again, and sends that must not.

DBOS runs a step at least once. What must not be sent twice leaves a mark: an event of the workflow, written right
before each attempt leaves, in the transaction in which DBOS checks that this run still owns the workflow. A later run
that finds the mark of another does not send; one that finds none knows that nothing was sent.
"""

from __future__ import annotations

import asyncio
import functools
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, ParamSpec, TypedDict, TypeVar

from dbos import DBOS
from dbos import error as dbos_errors
from sqlalchemy.exc import SQLAlchemyError

from trooper_async import TrooperClient, check_before_sending, errors
from trooper_async.durable._accounts import LOG, WORKFLOWS, Accounts

P = ParamSpec("P")
T = TypeVar("T")
MARK, PROGRESS = "sending", "progress"
_AGAIN = 5.0  # seconds until a database that could not be written is tried again


class Mark(TypedDict):
    """What is stored before a request leaves that must not be sent twice, and after it was accepted."""

    run: str  # which run of the workflow sent it
    note: Any  # what was there before
    result: Any  # what the API returned; None: not known


def workflow(name: str) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """A workflow that waits for a database that is full or read-only, where DBOS would end it."""

    WORKFLOWS.append(f"trooper.{name}")

    def decorate(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        @DBOS.workflow(name=f"trooper.{name}", max_recovery_attempts=None)
        @functools.wraps(function)
        async def run(*args: P.args, **kwargs: P.kwargs) -> T:
            ours, own_id = await accounts(), workflow_id()
            ours.alive[own_id] += 1
            try:
                return await function(*args, **kwargs)
            except SQLAlchemyError as error:
                LOG.error("workflow %s waits for its database: %s", own_id, getattr(error, "orig", error))
                await rest(asyncio.sleep, _AGAIN)
            finally:
                ours.alive[own_id] -= 1
                if not ours.alive[own_id]:
                    del ours.alive[own_id]
            # this run is given the outcome of the next one, which `Accounts` has begun
            raise dbos_errors.DBOSWorkflowConflictIDError(own_id)

        return run

    return decorate


async def accounts() -> Accounts:
    """Those of this process; what DBOS recovers before they are open waits for them."""
    while Accounts.opened is None:
        LOG.error("no Accounts is open in this process, and its workflows wait for one")
        await asyncio.sleep(1)
    return Accounts.opened


async def rest(work: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Wait for something that stopping may cut."""
    with (await accounts()).running(may_be_cut=True):
        return await work(*args, **kwargs)


async def deadline_of(timeout: float) -> float:
    """A step: when so many seconds will be over, by the wall clock, since another process may have to keep it."""
    return await DBOS.run_step_async({"name": "deadline"}, lambda: time.time() + timeout)


async def repeat(
    name: str,
    account: str,
    deadline: float,
    call: Callable[[TrooperClient, float], Awaitable[T]],
    last: Callable[[], T | None] = lambda: None,
) -> T:
    """A step that may be cut and run again: a read, a wait or a setting, persistently (`Accounts.persist`).

    `last` may have a result all the same if that fails.
    """

    async def run() -> T:
        try:
            return await rest((await accounts()).persist, account, deadline, call)
        except errors.TrooperError:
            if (result := last()) is None:
                raise
            return result

    return await DBOS.run_step_async({"name": name, "preemptible": True}, run)


async def send_once(
    account: str,
    deadline: float,
    look: Callable[[TrooperClient], Awaitable[Any]],
    send: Callable[[TrooperClient, Any], Awaitable[Any]],
) -> Mark:
    """A step that sends what must not be sent twice: `look` returns the mark's note, `send`, given that, its result.

    Returns:
        The mark. Without a result, an earlier run may have sent it, or its response was lost.
    """
    ours, active = await accounts(), True
    mark = Mark(run=uuid.uuid4().hex, note=None, result=None)

    async def check() -> None:
        if ours.stopping or not active:  # a run that has left the step must write nothing more
            raise errors.ClientClosedError("this worker is being stopped: nothing was sent")
        await DBOS.set_event_async(MARK, mark)

    async def attempt(client: TrooperClient, left: float) -> None:
        mark["note"] = await look(client)
        try:
            mark["result"] = await send(client, mark["note"])
        except errors.OutcomeUnknownError:
            raise
        except errors.TrooperError:
            await _write(None)  # nothing was done: a later run may send it
            raise

    async def step() -> Mark:
        nonlocal active
        marked: Mark | None = await DBOS.get_event_async(workflow_id(), MARK, 0)
        if marked is not None and marked["run"] != mark["run"]:
            return marked
        try:
            with check_before_sending(check):
                await ours.persist(account, deadline, attempt, once=True)
            await _write(mark)
        except errors.OutcomeUnknownError as error:
            LOG.error("workflow %s: %s", workflow_id(), error.message)
        finally:
            active = False
        return mark

    with ours.running(may_be_cut=False):  # until its outcome is stored
        return await DBOS.run_step_async({"name": "send"}, step)


async def _write(mark: Mark | None) -> None:
    while True:  # however long the database cannot be written: what the mark says is known here alone
        try:
            return await DBOS.set_event_async(MARK, mark)
        except SQLAlchemyError as error:
            LOG.error("workflow %s waits for its database: %s", workflow_id(), getattr(error, "orig", error))
        await asyncio.sleep(_AGAIN)


@asynccontextmanager
async def progress() -> AsyncIterator[Callable[[object], None]]:
    """A function that stores what it is given as the workflow's event `progress`, the latest at most once a second."""
    latest: list[object] = []
    news = asyncio.Event()

    def tell(value: object) -> None:
        latest[:] = [value]
        news.set()

    async def store() -> None:
        with suppress(dbos_errors.DBOSWorkflowConflictIDError):  # of a run that no longer owns the workflow
            while await news.wait():
                news.clear()
                with suppress(SQLAlchemyError):
                    await DBOS.set_event_async(PROGRESS, latest[0])
                await asyncio.sleep(1)

    task = asyncio.create_task(store(), name="trooper progress")
    try:
        yield tell
    finally:
        task.cancel()
        await asyncio.wait([task])


def workflow_id() -> str:
    found = DBOS.workflow_id
    assert found is not None  # noqa: S101 - within a workflow or a step
    return found
