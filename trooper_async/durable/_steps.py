"""The parts of workflows: steps that may be repeated, and requests that must not.

DBOS runs a step at least once. A request that must not be repeated leaves a mark: an event of the workflow, written
right before each attempt, in the transaction in which DBOS checks that this run still owns the workflow. A later run
that finds the mark of another run does not send; one that finds none knows that nothing was sent.
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

from trooper_async import TrooperClient, check_before_sending, errors
from trooper_async.durable._accounts import LOG, Accounts

P = ParamSpec("P")
T = TypeVar("T")
MARK, PROGRESS = "sending", "progress"


class Mark(TypedDict):
    """What is stored before a request that must not be repeated is sent, and after it was accepted."""

    run: str  # the run of the workflow that sent it
    note: Any  # the state before it
    result: Any  # what the API returned; None if unknown


def workflow(name: str) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]:
    def decorate(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        @DBOS.workflow(name=f"trooper.{name}", max_recovery_attempts=None)
        @functools.wraps(function)
        async def run(*args: P.args, **kwargs: P.kwargs) -> T:
            while Accounts.opened is None:
                LOG.error("no Accounts is open in this process, and its workflows wait for one")
                await asyncio.sleep(1)
            with Accounts.opened.running():
                return await function(*args, **kwargs)

        return run

    return decorate


def accounts() -> Accounts:
    assert Accounts.opened is not None  # noqa: S101 - the workflow has waited for it
    return Accounts.opened


async def deadline_of(timeout: float) -> float:
    """A step: the time in so many seconds, by the wall clock, since another process may have to keep the deadline."""
    return await DBOS.run_step_async({"name": "deadline"}, lambda: time.time() + timeout)


async def repeat(name: str, account: str, deadline: float, call: Callable[[TrooperClient, float], Awaitable[T]]) -> T:
    """A step that may be repeated: a read, a wait or a setting, with retries (`Accounts.persist`)."""

    async def step() -> T:
        return await accounts().persist(account, deadline, call)

    return await DBOS.run_step_async({"name": name, "preemptible": True}, step)


async def send_once(
    account: str,
    deadline: float,
    look: Callable[[TrooperClient], Awaitable[Any]],
    send: Callable[[TrooperClient, Any], Awaitable[Any]],
) -> Mark:
    """A step that sends a request that must not be repeated: `look` returns the mark's note, and `send` takes it and
    returns the result.

    Returns:
        The mark. Without a result, an earlier run may have sent it, or its response was lost.
    """
    ours = accounts()
    mark = Mark(run=uuid.uuid4().hex, note=None, result=None)

    async def check() -> None:
        if ours.stopping:
            raise errors.ClientClosedError("this worker is being stopped: nothing was sent")
        await DBOS.set_event_async(MARK, mark)

    async def attempt(client: TrooperClient, left: float) -> None:
        mark["note"] = await look(client)
        with ours.sending():
            try:
                with check_before_sending(check):
                    mark["result"] = await send(client, mark["note"])
            except errors.OutcomeUnknownError as error:
                LOG.error("workflow %s: %s", workflow_id(), error.message)
            except errors.TrooperError:
                await DBOS.set_event_async(MARK, None)  # nothing was changed: a later run may send it
                raise
            else:
                await DBOS.set_event_async(MARK, mark)

    async def step() -> Mark:
        marked: Mark | None = await DBOS.get_event_async(workflow_id(), MARK, 0)
        if marked is None:
            await ours.persist(account, deadline, attempt)
        return marked or mark

    return await DBOS.run_step_async({"name": "send"}, step)


@asynccontextmanager
async def progress() -> AsyncIterator[Callable[[object], None]]:
    """Return a function that stores its argument as the workflow's event `progress`, at most once a second."""
    latest: list[object] = []
    news = asyncio.Event()

    def tell(value: object) -> None:
        latest[:] = [value]
        news.set()

    async def store() -> None:
        with suppress(dbos_errors.DBOSWorkflowConflictIDError):  # of a run that no longer owns the workflow
            while await news.wait():
                news.clear()
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
