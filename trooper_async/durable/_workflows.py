"""The workflows, which an application starts, enqueues, schedules, or calls from its own workflows.

Raises:
    WaitTimeoutError, SupersededError, …: like the client's waits.
    OutcomeUnknownError: a request that must not be repeated was in flight when its process died, or its response was
    lost, and nothing shows whether it took effect.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from attrs import evolve
from dbos import DBOS, SetEnqueueOptions, SetWorkflowID, StepOptions

from trooper_async import (
    Blib,
    FleetOutcome,
    FleetProgress,
    FleetReport,
    Order,
    OrderStatus,
    Purchase,
    Transition,
    TrooperClient,
    errors,
)
from trooper_async.durable._accounts import LOG
from trooper_async.durable._purchases import DECISION, PURCHASE, PURCHASES, UNDECIDED, NotBoughtError
from trooper_async.durable._steps import (
    PROGRESS,
    Mark,
    accounts,
    deadline_of,
    progress,
    repeat,
    send_once,
    workflow,
    workflow_id,
)

_TARGETS = {"start": "running", "stop": "stopped", "freeze": "frozen", "restart": "running"}
_FOREVER = 10 * 365 * 86400.0
_LOOK_AGAIN = 5.0
_QUEUE_POLL = 1.0


@workflow("switch")
async def switch(
    account: str,
    order_id: int,
    action: Literal["start", "stop", "freeze", "restart"],
    *,
    migration_allowed: bool = False,
    timeout: float = 7200.0,
) -> str:
    """Start, stop, freeze or restart a server, and wait until it has reached the state; returns its status.

    Args:
        account: the account's name, as `Accounts` knows it.
        order_id: the order.
        action: what to do. A restart, and a start with `migration_allowed`, are sent only once.
        migration_allowed: whether a start may move a frozen server to other hardware.
        timeout: seconds from the start of the workflow, by the wall clock.
    """
    deadline = await deadline_of(timeout)
    if action not in _TARGETS:
        raise errors.ConfigurationError(f"no action is called {action!r:.40}: nothing was sent")
    planned = Transition(
        order_id, action, OrderStatus(_TARGETS[action]), migration_allowed=migration_allowed and action == "start"
    )

    async def look(client: TrooperClient) -> str:
        before = tuple(await client.orders.history(order_id)) if action == "restart" else None
        return evolve(planned, history_before=before).to_json()

    async def send(client: TrooperClient, note: object) -> bool:
        options = {"migration_allowed": True} if planned.migration_allowed else {}
        await getattr(client.orders, action)(order_id, **options)
        return True

    mark = None
    if action == "restart" or planned.migration_allowed:
        mark = await send_once(account, deadline, look, send)
        planned = Transition.from_json(mark["note"])
    else:
        await repeat("send", account, deadline, send)
    with _unknown_unless_sent(mark, f"order {order_id}", planned):
        return await _wait(account, deadline, planned)


@workflow("converge")
async def converge(
    account: str, targets: Mapping[int, str], *, migration_allowed: bool = False, timeout: float = 7200.0
) -> str:
    """Bring each of many orders to a status, and wait for all. Returns text for `FleetReport.from_json`.

    After a crash the list is read again, and each server that is not in the status you want gets its request again.

    Args:
        account: the account's name, as `Accounts` knows it.
        targets: order id → `running`, `stopped` or `frozen`.
        migration_allowed: whether frozen servers may move to other hardware. Each of them is then started once, by its
            own `switch`.
        timeout: seconds from the start of the workflow, by the wall clock.
    """
    deadline = await deadline_of(timeout)

    async def frozen(client: TrooperClient, left: float) -> list[int]:
        wanted = {order_id for order_id, status in targets.items() if status == "running"}
        orders = await client.orders.find()
        return [one.order_id for one in orders if one.current_status == "frozen" and one.order_id in wanted]

    thawed = await repeat("frozen", account, deadline, frozen) if migration_allowed else []
    left = max(1.0, deadline - time.time())
    starts = {
        one: await DBOS.start_workflow_async(switch, account, one, "start", migration_allowed=True, timeout=left)
        for one in thawed
    }
    report = await _converge(account, deadline, {one: status for one, status in targets.items() if one not in starts})
    outcomes = {outcome.order_id: outcome for outcome in report.outcomes}
    for one, handle in starts.items():
        outcome = FleetOutcome(one, "start", transition=Transition(one, "start", "running", migration_allowed=True))
        try:
            outcomes[one] = evolve(outcome, order=Order(one, await handle.get_result()), sent=True)
        except errors.TrooperError as error:
            outcomes[one] = evolve(outcome, error=error, sent=None)
    return FleetReport(tuple(outcomes[one] for one in targets), report.elapsed, migration_allowed).to_json()


@workflow("install")
async def install(account: str, order_id: int, template_id: int, *, timeout: float = 7200.0) -> int:
    """Install a template on a server, once, and wait until it is installed. Returns the id of the install.

    It takes no settings of the template: they may be passwords, and the arguments of a workflow are stored.

    Args:
        account: the account's name, as `Accounts` knows it.
        order_id: the order.
        template_id: the template.
        timeout: seconds from the start of the workflow, by the wall clock.
    """
    deadline = await deadline_of(timeout)

    async def look(client: TrooperClient) -> list[int]:
        return [one.install_id for one in await client.templates.installs(order_id)]

    async def send(client: TrooperClient, known: object) -> int:
        return await client.templates.install(order_id, template_id)

    async def wait(client: TrooperClient, left: float) -> int:
        install_id = mark["result"]
        while install_id is None:
            installs = [one for one in await client.templates.installs(order_id) if one.template_id == template_id]
            new = [one.install_id for one in installs if one.install_id not in mark["note"]]
            if len(new) > 1 or (not new and time.time() > deadline):
                raise errors.WaitError(f"new installs of that template: {new or 'none'}")
            install_id = new[0] if new else None
            await asyncio.sleep(0 if new else _LOOK_AGAIN)
        await client.templates.wait(order_id, install_id, timeout=left)
        return int(install_id)

    mark = await send_once(account, deadline, look, send)
    with _unknown_unless_sent(mark, f"template {template_id} on order {order_id}"):
        return await repeat("wait", account, deadline, wait)


@workflow("order")
async def order(
    account: str,
    blib_id: int,
    *,
    max_price_h: Decimal | float,
    contract_interval: str,
    terms_accepted: bool,
    total_price: Decimal | float | None = None,
    second_partition_percentage: int | None = None,
    templates: Sequence[int] = (),
    timeout: float = 7200.0,
) -> int:
    """Order a GPU server, once, and wait until it is running. Returns the order's id.

    Args:
        account: the account's name, as `Accounts` knows it. An application makes an account's purchases one at
            a time.
        blib_id: the offer, which is bought at its current price.
        max_price_h: the highest price, in EUR per hour.
        contract_interval: the period that is paid in advance: `HOUR`, or another interval of `client.orders.create`.
        terms_accepted: whether you accept the vendor's terms and conditions.
        total_price: EUR for the whole interval; required unless it is `HOUR`.
        second_partition_percentage: the share of the disk for a second partition, in percent.
        templates: ids of templates to install.
        timeout: seconds by the wall clock, from its turn to be sent, and as many again until the server runs.

    Raises:
        NotBoughtError: its outcome was unknown, and it was resolved as not made.
        PurchaseNotReadyError: it is bought, but the server is not running.
        PriceError, BadRequestError, …: nothing was bought.
    """
    terms = {
        "max_price_h": max_price_h,
        "contract_interval": contract_interval,
        "terms_accepted": terms_accepted,
        "total_price": total_price,
        "second_partition_percentage": second_partition_percentage,
        "templates": list(templates),
    }
    return await _buy_and_wait(account, None, blib_id, terms, timeout)


@workflow("migrate")
async def migrate(
    account: str,
    order_id: int,
    blib_id: int,
    *,
    keep_data: bool,
    max_total_due: Decimal | float,
    timeout: float = 7200.0,
) -> int:
    """Buy a migration, once, and wait until the new order is running. Returns its id, and raises as `order` does.

    Args:
        account: the account's name, as `Accounts` knows it. An application makes an account's purchases one at
            a time.
        order_id: the order to migrate.
        blib_id: the offer to migrate to.
        keep_data: whether the data is moved too.
        max_total_due: the most that may be due now, in EUR.
        timeout: seconds by the wall clock, from its turn to be sent, and as many again until the server runs.
    """
    terms = {"keep_data": keep_data, "max_total_due": max_total_due}
    return await _buy_and_wait(account, order_id, blib_id, terms, timeout)


async def _buy_and_wait(account: str, migrated: int | None, blib_id: int, terms: dict[str, Any], timeout: float) -> int:
    until_done: StepOptions = {"name": "queue", "retries_allowed": True, "max_attempts": 10**9, "backoff_rate": 1.0}
    queue = await DBOS.run_step_async(until_done, _make_queue)
    reference = f"{workflow_id()}-purchase"
    with SetWorkflowID(reference), SetEnqueueOptions(queue_partition_key=account):
        buying = await DBOS.enqueue_workflow_async(queue, purchase, account, migrated, blib_id, terms, timeout)
    order_id = await buying.get_result(polling_interval_sec=_QUEUE_POLL)
    kind: Literal["create", "migrate"] = "create" if migrated is None else "migrate"
    transition = Transition(order_id, kind, OrderStatus.running)
    try:
        await _wait(account, await deadline_of(timeout), transition)
    except errors.TrooperError as error:
        bought = Purchase(reference, kind, blib_id, "bought", datetime.now(UTC), reference, None, order_id, migrated)
        text, subject = f"bought as order {order_id}, but not running yet: {error.message}", f"order {order_id}"
        raise errors.PurchaseNotReadyError(
            text, purchase=bought, transition=transition, last_error=error, subject=subject
        ) from None
    return order_id


async def _make_queue() -> str:
    """The queue of this application's purchases: in DBOS, applications that share a database share no queue."""
    status = await DBOS.get_workflow_status_async(workflow_id())
    queue = f"{PURCHASES} of {status.application_name}" if status and status.application_name else PURCHASES
    await DBOS.register_queue_async(queue, partition_concurrency=1, polling_interval_sec=_QUEUE_POLL)
    return queue


@workflow(PURCHASE)
async def purchase(account: str, migrated: int | None, blib_id: int, terms: dict[str, Any], timeout: float) -> int:
    """Make one purchase, or wait until somebody decides whether it was made. Its account makes no other meanwhile."""
    reference = workflow_id()

    async def look(client: TrooperClient) -> dict[str, Any]:
        known, blib = [one.order_id for one in await client.orders.find()], Blib(blib_id)
        if migrated is None:
            offers = [*await client.blibs.list(), *await client.blibs.list_private()]
            if blib_id not in (one.id for one in offers):
                raise errors.PriceError(f"blib {blib_id} is not offered", operation="durable.order")
            blib = next(one for one in offers if one.id == blib_id)
        what = {"account": account, "migrated": migrated, "blib_id": blib_id, "name": blib.name, "price": blib.price_h}
        return {**what, "known": known, "at": time.time()}

    async def send(client: TrooperClient, note: dict[str, Any]) -> int:
        if migrated is None:
            blib = Blib(id=blib_id, name=note["name"], price_h=note["price"])
            return (await client.orders.create(blib, reference=reference, **terms)).order_id
        quote = await client.migrations.quote(migrated, blib_id)
        return (await client.migrations.buy(quote, reference=reference, **terms)).order_id

    mark = await send_once(account, await deadline_of(timeout), look, send)
    order_id: int | None = mark["result"]
    if order_id is None:
        LOG.error("purchase %s of account %s is in doubt, and waits for a decision", reference, account)
        await DBOS.set_event_async(UNDECIDED, {"run": mark["run"], **mark["note"]})
        (order_id,) = await DBOS.recv_async(DECISION, _FOREVER)
        await DBOS.set_event_async(UNDECIDED, None)
    if order_id is None:
        raise NotBoughtError("it was in doubt, and was decided as not made", subject=f"purchase {reference}")
    return order_id


@contextmanager
def _unknown_unless_sent(mark: Mark | None, subject: str, transition: Transition | None = None) -> Iterator[None]:
    """Surrounds the wait for a sent request: if it may not have been sent, a failed wait is an unknown outcome."""
    try:
        yield
    except errors.TrooperError as error:
        if mark is None or mark["result"] is not None or isinstance(error, errors.TemplateFailedError):
            raise
        text = f"it may not have been sent; {error.message}"
        raise errors.OutcomeUnknownError(text, transition=transition, subject=subject) from None


async def _wait(account: str, deadline: float, transition: Transition) -> str:
    async def wait(client: TrooperClient, left: float) -> str:
        known = await DBOS.get_event_async(workflow_id(), PROGRESS, 0) or {}
        departed = bool(known.get("departed"))

        def on_change(order: Order) -> None:
            nonlocal departed
            departed = departed or order.current_status != OrderStatus.running
            tell({"status": str(order.current_status), "departed": departed})

        async with progress() as tell:
            # a restart that was seen to begin, before a crash or an outage, needs no evidence of that again
            begun = evolve(transition, departed=departed and transition.action == "restart")
            return str((await client.orders.wait(begun, timeout=left, on_change=on_change)).current_status)

    return await repeat("wait", account, deadline, wait)


async def _converge(account: str, deadline: float, targets: Mapping[int, str]) -> FleetReport:
    report: FleetReport | None = None

    async def converge(client: TrooperClient, left: float) -> None:
        nonlocal report

        def on_progress(now: FleetProgress) -> None:
            tell({"done": now.done, "failed": now.failed, "total": now.total})

        async with progress() as tell:
            if report is None:
                report = await client.fleet.converge(targets, timeout=left, on_progress=on_progress)
            else:
                report = await client.fleet.resume(report, timeout=left, on_progress=on_progress)
        for outcome in report.failed:
            if outcome.resumable and outcome.error is not None:
                raise outcome.error  # after a pause, everything that may succeed is resumed

    async def step() -> str:
        try:
            await accounts().persist(account, deadline, converge)
        except errors.TrooperError:
            if report is None:
                raise
        assert report is not None  # noqa: S101 - the call above has made it
        return report.to_json()

    return FleetReport.from_json(await DBOS.run_step_async({"name": "converge", "preemptible": True}, step))
