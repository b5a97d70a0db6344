"""Durable workflows, in one process on SQLite: what each does, and what is left when its process dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOS, SetWorkflowID, WorkflowHandleAsync
from dbos import error as dbos_errors

from tests.helpers.clock import forward_with_the_date
from tests.helpers.conditions import until
from tests.helpers.durable import application, eventually, operator
from tests.helpers.fake_orders import polls_since
from trooper_async import FleetReport, Order, TrooperClient, durable, errors
from trooper_async._groups.migrations import Migrations
from trooper_async._groups.orders import Orders
from trooper_async._groups.templates import Templates
from trooper_async.testing import FakeTrooper

TERMS: dict[str, Any] = {"contract_interval": "HOUR", "terms_accepted": True, "max_price_h": 1}
SWITCH, ORDER, INSTALL, MIGRATION = (
    "/api/order-status",
    "/api/order",
    "/api/template-install-add",
    "/api/buy-migration",
)
HISTORY = "/api/order-status-history"


async def start(name: str, workflow: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Start a workflow under an id, or join it."""
    with SetWorkflowID(name):
        return await DBOS.start_workflow_async(workflow, *args, **kwargs)


async def status(name: str) -> str | None:
    found = await DBOS.get_workflow_status_async(name)
    return None if found is None else found.status


async def result(name: str) -> Any:
    """The result of a workflow that an earlier process began."""
    handle: WorkflowHandleAsync[Any] = await DBOS.retrieve_workflow_async(name)
    return await handle.get_result(polling_interval_sec=0.05)


async def progress(name: str) -> Any:
    """Its progress, once there is some."""
    return await eventually(lambda: DBOS.get_event_async(name, "progress", 0))


@contextmanager
def killed(group: type, method: str, *, sent: bool) -> Iterator[asyncio.Event]:
    """Calls of a method end as in a process that is killed right before or after sending; the event says so."""
    original, dead = getattr(group, method), asyncio.Event()

    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            if sent:
                await original(self, *args, **kwargs)
            raise asyncio.CancelledError  # of which nothing is stored
        finally:
            dead.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group, method, call)
        yield dead


async def test_every_workflow_reaches_its_end(fake_trooper: FakeTrooper, database: str) -> None:
    """Each is sent once, and returns its result."""
    one, two = fake_trooper.add_order().order_id, fake_trooper.add_order().order_id
    frozen = fake_trooper.add_order(status="frozen").order_id
    async with application(lambda account: fake_trooper.client(), database):
        assert await durable.switch("acme", one, "stop") == "stopped"
        assert await durable.switch("acme", one, "start") == "running"
        assert await durable.switch("acme", one, "restart") == "running"
        assert await durable.switch("acme", one, "freeze") == "frozen"
        assert await durable.switch("acme", frozen, "start", migration_allowed=True) == "running"
        assert await durable.install("acme", two, 1) == 1
        bought = await durable.order("acme", 1, **TERMS)
        migrated = await durable.migrate("acme", bought, 2, keep_data=True, max_total_due=100)
    assert [body["action"] for body in fake_trooper.sent(SWITCH)] == [
        *("stopped", "running", "restarted", "frozen", "running")
    ]
    assert len({one, two, frozen, bought, migrated}) == 5
    assert [len(fake_trooper.sent(path)) for path in (INSTALL, ORDER, MIGRATION)] == [1, 1, 1]


async def test_a_fleet_converges_and_is_reported(fake_trooper: FakeTrooper, database: str) -> None:
    """Only missing states are requested; a frozen server starts with migration, once; failures are in the report."""
    states = {"running": "stopped", "stopped": "running", "frozen": "running", "freezing": "frozen"}
    orders = {fake_trooper.add_order(status=now): wanted for now, wanted in states.items()}
    targets, frozen = {order.order_id: wanted for order, wanted in orders.items()}, list(orders)[2]
    there, locked = fake_trooper.add_order(), fake_trooper.add_order(is_locked=True)
    targets |= {there.order_id: "running", locked.order_id: "stopped", 999: "frozen"}
    fake_trooper.set_status(list(targets)[3], "frozen")
    async with application(lambda account: fake_trooper.client(), database):
        text = await durable.converge("acme", targets, migration_allowed=True)
    report = FleetReport.from_json(text)
    assert [outcome.order_id for outcome in report.outcomes] == list(targets)
    assert [type(outcome.error) for outcome in report.failed] == [errors.ServerLockedError, errors.OrderNotFoundError]
    assert there.order_id in [outcome.order_id for outcome in report.left_alone]
    (thawed,) = [body for body in fake_trooper.sent(SWITCH) if body.get("migration_allowed")]
    assert thawed["serverId"] == frozen.server_id


# Outages -------------------------------------------------------------------------------------------------------------


async def test_an_outage_at_the_start_is_tolerated(fake_trooper: FakeTrooper, database: str) -> None:
    """Reads and settings are retried until the deadline, whatever Retry-After says."""
    orders = [fake_trooper.add_order().order_id for _ in range(4)]
    for path in ("/api/orders", "/api/blibs", "/api/template-config", HISTORY):
        fake_trooper.fail_next(path, status=503, times=6, retry_after=150)
    async with application(lambda account: fake_trooper.client(), database):
        await asyncio.gather(
            durable.switch("acme", orders[0], "restart", timeout=3600),
            durable.install("acme", orders[1], 1, timeout=3600),
            durable.order("acme", 1, timeout=3600, **TERMS),
        )
        fake_trooper.fail_next(SWITCH, status=503, times=12, retry_after=150)
        await asyncio.gather(
            durable.switch("acme", orders[2], "stop", timeout=3600),
            durable.converge("acme", {orders[3]: "stopped"}, timeout=3600),
        )
    async with fake_trooper.client() as client:
        assert [(await client.orders.get(order)).current_status for order in orders[2:]] == ["stopped", "stopped"]


async def test_an_outage_beyond_the_deadline_is_raised(
    fake_trooper: FakeTrooper, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workflow fails with the error of its last attempt, and nothing was sent."""
    order = fake_trooper.add_order().order_id
    fake_trooper.fail_next("/api/orders", status=503, times=1000)
    async with application(lambda account: fake_trooper.client(), database):
        stopping = asyncio.create_task(durable.switch("acme", order, "stop", timeout=600))
        await until(lambda: len(fake_trooper.requests) > 1)
        forward_with_the_date(600, monkeypatch)
        with pytest.raises((errors.ServerError, errors.APITimeoutError)):  # by then there may be one in flight
            await stopping
    assert fake_trooper.sent(SWITCH) == []


# Keys ----------------------------------------------------------------------------------------------------------------


async def test_a_rotated_key_ends_no_wait(fake_trooper: FakeTrooper, file: Path) -> None:
    """After a 401 the accounts function is called again, all waits continue, and no key is in the database."""
    fake_trooper.api_key, asked = "an-old-key", list[str]()
    fake_trooper.durations["stop"] = 100
    orders = [fake_trooper.add_order().order_id for _ in range(3)]

    async def get(account: str) -> TrooperClient:
        asked.append(account)
        return fake_trooper.client()

    async with application(get, f"sqlite:///{file}"):
        handles = [await start(f"stop {order}", durable.switch, "acme", order, "stop") for order in orders[:2]]
        handles.append(await start("fleet", durable.converge, "acme", {orders[2]: "stopped"}))
        await until(lambda: len(fake_trooper.sent(SWITCH)) == 3)
        fake_trooper.api_key = "a-new-key"
        await until(lambda: len(asked) > 1)
        for order in orders:
            fake_trooper.set_status(order, "stopped")
        results = [await handle.get_result() for handle in handles]
    assert results[:2] == ["stopped", "stopped"]
    assert not FleetReport.from_json(results[2]).failed
    assert len(fake_trooper.sent(SWITCH)) == 3
    assert set(asked) == {"acme"}
    assert not any(key in file.read_bytes() for key in (b"an-old-key", b"a-new-key"))


async def test_a_failing_accounts_function_is_called_again(
    fake_trooper: FakeTrooper, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An unreachable or slow vault ends nothing; its error is not logged, since its text may hold a key."""
    failures: list[Callable[[], Any]] = [
        lambda: (_ for _ in ()).throw(LookupError("SECRET")),
        lambda: asyncio.Event().wait(),
        lambda: "SECRET",
    ]
    order = fake_trooper.add_order().order_id

    def get(account: str) -> Any:
        return failures.pop(0)() if failures else fake_trooper.client()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trooper_async.durable._accounts._GET_CLIENT", 0.05)
        async with application(get, database):
            assert await durable.switch("acme", order, "stop") == "stopped"
    assert "LookupError" in caplog.text
    assert "TimeoutError" in caplog.text
    assert "SECRET" not in caplog.text


# Restarts ------------------------------------------------------------------------------------------------------------


async def test_a_stored_baseline_confirms_a_restart(fake_trooper: FakeTrooper, database: str) -> None:
    """The history is read, stored, and not readable again when the restart is sent; then the process dies."""
    order = fake_trooper.add_order().order_id
    restart = Orders.restart

    async def unreadable(self: Orders, order: Order | int) -> Any:
        fake_trooper.fail_next(HISTORY, status=500)
        return await restart(self, order)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Orders, "restart", unreadable)
        with killed(Orders, "restart", sent=True) as dead:
            async with application(lambda account: fake_trooper.client(), database):
                await start("restart", durable.switch, "acme", order, "restart")
                await dead.wait()
                await until(lambda: fake_trooper.sent(SWITCH))
    fake_trooper.advance(60)  # the restart is over before a process runs again
    async with application(lambda account: fake_trooper.client(), database):
        assert await result("restart") == "running"
    assert len(fake_trooper.sent(SWITCH)) == 1


async def test_a_stored_departure_confirms_a_restart(fake_trooper: FakeTrooper, database: str) -> None:
    """The process dies after it saw the server restart; when it runs again, the history can't be read."""
    fake_trooper.durations["restart"] = 100
    order = fake_trooper.add_order().order_id
    async with application(lambda account: fake_trooper.client(), database):
        await start("restart", durable.switch, "acme", order, "restart")

        async def departed() -> bool:
            return bool((await progress("restart"))["departed"])

        await eventually(departed)
    fake_trooper.set_status(order, "running")
    fake_trooper.fail_next(HISTORY, status=500, times=10_000)
    async with application(lambda account: fake_trooper.client(), database):
        assert await result("restart") == "running"
    assert len(fake_trooper.sent(SWITCH)) == 1


# Purchases of unknown outcome -----------------------------------------------------------------------------------------


async def test_an_unknown_purchase_is_decided_from_another_process(fake_trooper: FakeTrooper, database: str) -> None:
    """It blocks only its own account, lists its candidates, refuses existing orders; the first decision counts."""
    before = fake_trooper.add_order()
    async with FakeTrooper() as other:
        fakes = {"acme": fake_trooper, "other": other}
        async with application(lambda account: fakes[account].client(), database):
            fake_trooper.drop_next(ORDER, when="after")
            lost = await start("lost", durable.order, "acme", 1, **TERMS)
            with operator(database) as script:
                (asked,) = await eventually(lambda: durable.undecided(script))
                held_up = await start("held up", durable.order, "acme", 1, **TERMS)
                await durable.order("other", 1, **TERMS)
                assert len(fake_trooper.sent(ORDER)) == 1
                async with fake_trooper.client() as client:
                    (candidate,) = asked.candidates(await client.orders.list())
                for nonsense in (before, "5"):
                    with pytest.raises(errors.ConfigurationError, match="was there before"):
                        await durable.resolve(script, asked, nonsense)  # type: ignore[arg-type]  # a text is none
                with pytest.raises(errors.ConfigurationError, match="no purchase of workflow stranger"):
                    await durable.resolve(script, "stranger", None)
                await durable.resolve(script, asked, candidate)
                assert await lost.get_result() == candidate.order_id
                with pytest.raises(errors.ConfigurationError, match="no purchase of workflow lost-purchase"):
                    await durable.resolve(script, asked.workflow_id, None)
                assert await held_up.get_result() not in (candidate.order_id, before.order_id)
    assert (asked.account, asked.blib_id, asked.workflow_id) == ("acme", 1, "lost-purchase")
    assert len(fake_trooper.sent(ORDER)) == 2


async def test_the_first_decision_counts(fake_trooper: FakeTrooper, database: str) -> None:
    """Another one has no effect, even before a worker has received the first; a purchase not made is an error."""
    async with application(lambda account: fake_trooper.client(), database):
        fake_trooper.drop_next(ORDER, when="before")
        await start("lost", durable.order, "acme", 1, **TERMS)
        with operator(database) as script:
            (asked,) = await eventually(lambda: durable.undecided(script))
    with operator(database) as script:
        await durable.resolve(script, asked, None)
        await durable.resolve(script, asked, 123)
    async with application(lambda account: fake_trooper.client(), database):
        with pytest.raises(durable.NotBoughtError, match="lost-purchase"):
            await result("lost")
    assert len(fake_trooper.sent(ORDER)) == 1


# Ids -----------------------------------------------------------------------------------------------------------------


async def test_starting_again_under_an_id_joins_the_running_work(fake_trooper: FakeTrooper, database: str) -> None:
    """A nightly job that restarts after the fleet has changed joins the running workflow and its progress."""
    fake_trooper.durations["stop"] = 100
    orders = [fake_trooper.add_order().order_id for _ in range(2)]
    async with application(lambda account: fake_trooper.client(), database):
        await start("tonight", durable.converge, "acme", {orders[0]: "stopped"})
        await until(lambda: fake_trooper.sent(SWITCH))
        joined = await start("tonight", durable.converge, "acme", dict.fromkeys(orders, "stopped"))
        assert await progress("tonight") == {"done": 0, "failed": 0, "total": 1}
        fake_trooper.set_status(orders[0], "stopped")
        report = FleetReport.from_json(await joined.get_result(polling_interval_sec=0.05))
    assert [outcome.order_id for outcome in report.outcomes] == orders[:1]
    assert len(fake_trooper.sent(SWITCH)) == 1


async def test_work_is_cancelled_retried_and_deleted_with_dbos(fake_trooper: FakeTrooper, database: str) -> None:
    """Cancelling ends a wait at DBOS's next poll; rewinding runs the failed part again, under the same id."""
    fake_trooper.durations["stop"] = 100
    order, locked = fake_trooper.add_order().order_id, fake_trooper.add_order(is_locked=True).order_id
    async with application(lambda account: fake_trooper.client(), database):
        waiting = await start("stop", durable.switch, "acme", order, "stop")
        await progress("stop")
        await DBOS.cancel_workflow_async("stop")
        with pytest.raises(dbos_errors.DBOSAwaitedWorkflowCancelledError):
            await waiting.get_result()
        failed = await start("locked", durable.switch, "acme", locked, "freeze")
        with pytest.raises(errors.ServerLockedError):
            await failed.get_result()
        async with fake_trooper.client() as client:
            await client.orders.unlock(locked)
        again = await DBOS.rewind_workflow_async("locked")
        assert await again.get_result(polling_interval_sec=0.05) == "frozen"
        await DBOS.delete_workflow_async("locked")
        assert await status("locked") is None


# Your own workflows -------------------------------------------------------------------------------------------------

training, trained = asyncio.Event(), asyncio.Event()


async def until_trained() -> None:
    training.set()
    await trained.wait()


@DBOS.workflow(name="tests.train")
async def train(account: str) -> int:
    """A user's workflow: order, install, train, freeze."""
    order_id = await durable.order(account, 1, **TERMS)
    await durable.install(account, order_id, 1)
    await DBOS.run_step_async({"name": "train"}, until_trained)
    await durable.switch(account, order_id, "freeze")
    return order_id


async def test_your_own_workflow_continues_after_a_crash(fake_trooper: FakeTrooper, database: str) -> None:
    """Order, install, train and freeze are one durable workflow: finished steps are not repeated."""
    training.clear()
    trained.clear()
    async with application(lambda account: fake_trooper.client(), database):
        await start("job-7", train, "acme")
        await training.wait()
    trained.set()
    async with application(lambda account: fake_trooper.client(), database):
        order_id = await result("job-7")
        async with fake_trooper.client() as client:
            assert (await client.orders.get(order_id)).current_status == "frozen"
    assert [len(fake_trooper.sent(path)) for path in (ORDER, INSTALL, SWITCH)] == [1, 1, 1]


# Versions ------------------------------------------------------------------------------------------------------------


async def test_running_work_is_left_to_its_version(fake_trooper: FakeTrooper, database: str) -> None:
    """A release under another application version neither ends nor runs it; the old one continues."""
    fake_trooper.durations["create"] = 100
    async with application(lambda account: fake_trooper.client(), database, version="1"):
        await start("job", durable.order, "acme", 1, **TERMS)
        await until(lambda: fake_trooper.sent(ORDER))
        await progress("job")
    fake_trooper.set_status(123, "running")
    fake_trooper.durations["create"] = 0.05
    async with application(lambda account: fake_trooper.client(), database, version="2"):
        await durable.order("acme", 1, **TERMS)  # its own work runs
        assert await status("job") == "PENDING"
    async with application(lambda account: fake_trooper.client(), database, version="1"):
        assert await result("job") == 123
    assert len(fake_trooper.sent(ORDER)) == 2


# A process that dies while it sends ---------------------------------------------------------------------------------

ONCE: dict[str, tuple[type, str, str]] = {
    "restart": (Orders, "restart", SWITCH),
    "thaw": (Orders, "start", SWITCH),
    "install": (Templates, "install", INSTALL),
    "order": (Orders, "create", ORDER),
    "migrate": (Migrations, "buy", MIGRATION),
}


async def begin(kind: str, order: int) -> Any:
    match kind:
        case "restart":
            return await start(kind, durable.switch, "acme", order, "restart", timeout=600)
        case "thaw":
            return await start(kind, durable.switch, "acme", order, "start", migration_allowed=True, timeout=600)
        case "install":
            return await start(kind, durable.install, "acme", order, 1, timeout=600)
        case "order":
            return await start(kind, durable.order, "acme", 1, **TERMS)
        case _:
            return await start(kind, durable.migrate, "acme", order, 2, keep_data=True, max_total_due=100)


@pytest.mark.parametrize("kind", ONCE)
async def test_what_was_not_sent_is_sent_by_the_next_process(
    kind: str, fake_trooper: FakeTrooper, database: str
) -> None:
    """If a process dies right before sending, it is known that nothing was sent."""
    group, method, path = ONCE[kind]
    order = fake_trooper.add_order(status="frozen" if kind == "thaw" else "running").order_id
    async with application(lambda account: fake_trooper.client(), database):
        with killed(group, method, sent=False) as dead:
            await begin(kind, order)
            await dead.wait()
    async with application(lambda account: fake_trooper.client(), database):
        await result(kind)
    assert len(fake_trooper.sent(path)) == 1


@pytest.mark.parametrize("kind", ONCE)
async def test_what_may_have_been_sent_is_not_sent_again(kind: str, fake_trooper: FakeTrooper, database: str) -> None:
    """If a process dies with a request in flight, the outcome is found out, or somebody decides."""
    group, method, path = ONCE[kind]
    order = fake_trooper.add_order(status="frozen" if kind == "thaw" else "running").order_id
    async with application(lambda account: fake_trooper.client(), database):
        with killed(group, method, sent=True) as dead:
            await begin(kind, order)
            await dead.wait()
    async with application(lambda account: fake_trooper.client(), database):
        if kind in ("order", "migrate"):
            with operator(database) as script:
                (asked,) = await eventually(lambda: durable.undecided(script))
                async with fake_trooper.client() as client:
                    (candidate,) = asked.candidates(await client.orders.list())
                await durable.resolve(script, asked, candidate)
            assert await result(kind) == candidate.order_id
        else:
            assert await result(kind) == (1 if kind == "install" else "running")
    assert len(fake_trooper.sent(path)) == 1


@pytest.mark.parametrize("kind", ["restart", "thaw", "install"])
async def test_a_lost_request_without_a_trace_is_unknown(
    kind: str, fake_trooper: FakeTrooper, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request lost before it arrived is not sent again, and its error says that it may not have been sent."""
    path = ONCE[kind][2]
    order = fake_trooper.add_order(status="frozen" if kind == "thaw" else "running").order_id
    fake_trooper.drop_next(path, when="before")
    async with application(lambda account: fake_trooper.client(), database):
        handle = await begin(kind, order)
        await until(lambda: fake_trooper.sent(path))
        seen = len(fake_trooper.requests)
        await until(lambda: len(fake_trooper.requests) > seen + 1)  # the workflow looks for it
        forward_with_the_date(600, monkeypatch)
        with pytest.raises(errors.OutcomeUnknownError, match="may not have been sent"):
            await handle.get_result()
    assert len(fake_trooper.sent(path)) == 1


async def test_two_new_installs_leave_the_outcome_unknown(fake_trooper: FakeTrooper, database: str) -> None:
    """Somebody else installs the same template while the response is lost: the outcome is unknown."""
    order = fake_trooper.add_order().order_id
    install = Templates.install

    async def lost(self: Templates, *args: Any, **kwargs: Any) -> Any:
        await install(self, *args, **kwargs)
        fake_trooper.drop_next(INSTALL, when="after")
        return await install(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Templates, "install", lost)
        async with application(lambda account: fake_trooper.client(), database):
            with pytest.raises(errors.OutcomeUnknownError, match=r"new installs of that template: \[1, 2\]"):
                await durable.install("acme", order, 1)


# What is refused, and what is stored --------------------------------------------------------------------------------


async def test_a_refused_request_is_an_error_and_can_be_repeated(fake_trooper: FakeTrooper, database: str) -> None:
    """Too dear, not offered, no such action: nothing is sent, and a refused purchase may be rewound."""
    async with application(lambda account: fake_trooper.client(), database):
        with pytest.raises(errors.PriceError):
            await durable.order("acme", 1, **{**TERMS, "max_price_h": 0.5})
        with pytest.raises(errors.PriceError, match="not offered"):
            await durable.order("acme", 99, **TERMS)
        with pytest.raises(errors.ConfigurationError, match="explode"):
            await durable.switch("acme", 1, "explode")  # type: ignore[arg-type]  # what it refuses
        assert fake_trooper.sent(ORDER) == []


async def test_applications_that_share_a_database_can_all_buy(fake_trooper: FakeTrooper, database: str) -> None:
    """Each has a queue of its own for its purchases: in DBOS they can share none."""
    for name in ("one", "two"):
        async with application(lambda account: fake_trooper.client(), database, name=name, version=name):
            assert await durable.order("acme", 1, **TERMS) in (123, 124)
    assert len(fake_trooper.sent(ORDER)) == 2


async def test_a_purchase_that_does_not_get_ready_is_bought(
    fake_trooper: FakeTrooper, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error says so, names the order, and is no timeout, so that a retry does not buy again."""
    fake_trooper.durations["create"] = 3600
    async with application(lambda account: fake_trooper.client(), database):
        ordering = asyncio.create_task(durable.order("acme", 1, timeout=600, **TERMS))
        await until(lambda: polls_since(fake_trooper, ORDER) > 2)
        forward_with_the_date(600, monkeypatch)
        with pytest.raises(errors.PurchaseNotReadyError) as caught:
            await ordering
    assert not isinstance(caught.value, TimeoutError)
    assert caught.value.purchase.order_id == 123
    assert caught.value.transition is not None
    assert isinstance(caught.value.last_error, errors.WaitTimeoutError)


async def test_no_setting_of_a_template_is_stored(
    fake_trooper: FakeTrooper, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A template's settings may hold a password: stored errors do not include them."""
    fake_trooper.failing_templates.add(1)
    fake_trooper.durations["stop"] = 3600
    order = fake_trooper.add_order()
    async with fake_trooper.client() as client:
        await client.templates.install(order, 2, {"password": "not-for-the-database"})
    async with application(lambda account: fake_trooper.client(), f"sqlite:///{file}"):
        with pytest.raises(errors.TemplateFailedError) as failed:
            await durable.install("acme", order.order_id, 1)
        stopping = asyncio.create_task(durable.switch("acme", order.order_id, "stop", timeout=600))
        await until(lambda: polls_since(fake_trooper, SWITCH) > 2)
        forward_with_the_date(600, monkeypatch)
        with pytest.raises(errors.WaitTimeoutError) as late:
            await stopping
    assert failed.value.install.config is None
    assert late.value.order is not None
    assert b"not-for-the-database" not in b"".join(path.read_bytes() for path in file.parent.iterdir())
