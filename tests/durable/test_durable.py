"""Durable workflows in one process on SQLite: what they do, what they refuse, what is stored."""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.event
import sqlalchemy.exc
import sqlalchemy.pool
from dbos import DBOS

from tests.helpers.fake_orders import order_of
from trooper_async import (
    AuthenticationError,
    ConfigurationError,
    OrderNotFoundError,
    OutcomeUnknownError,
    PollSchedule,
    PriceError,
    PurchaseNotReadyError,
    ServerLockedError,
    TemplateFailedError,
    TrooperClient,
    WaitTimeoutError,
)
from trooper_async.durable import (
    AlreadyResolvedError,
    DatabaseError,
    Durable,
    Handle,
    NotBoughtError,
    UndecidedPurchaseError,
    _outcomes,
    _process,
    _records,
    _waiting,
    _workflows,
)
from trooper_async.models import Order
from trooper_async.testing import FakeTrooper

INSTALL = "/api/template-install-add"
CHANGES = ("/api/order-status", "/api/order", "/api/buy-migration", INSTALL)
TERMS: dict[str, Any] = {"contract_interval": "HOUR", "terms_accepted": True, "max_price_h": 1}


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Everything is looked for more often than in use, also by the database that is copied; no disk is waited for."""

    def fast(connection: sqlite3.Connection, record: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    sqlalchemy.event.listen(sqlalchemy.pool.Pool, "connect", fast)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_process, "_QUEUE_POLL", 0.05)
        patch.setattr(_outcomes, "_ASK", PollSchedule(floor=0.02))
        yield
    sqlalchemy.event.remove(sqlalchemy.pool.Pool, "connect", fast)


@pytest.fixture(scope="module")
def database(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as a first process leaves it: making one takes a second."""
    path = tmp_path_factory.mktemp("database") / "trooper.sqlite"

    async def make() -> None:
        async with Durable(lambda account: TrooperClient("key"), database_url=f"sqlite:///{path}"):
            pass

    asyncio.run(make())
    return path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the default database."""
    shutil.copy(database, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def durable(fake: FakeTrooper, **options: Any) -> Durable:
    return Durable(lambda account: fake.client(), **options)


def posts(fake: FakeTrooper, path: str = "/api/order-status") -> list[Any]:
    return [request.json for request in fake.requests if request.path == path and request.method == "POST"]


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.01)


async def waiting(work: Durable, number: int) -> None:
    """Until so many waits are under way."""
    await until(lambda: len(work._process._resting) == number)


async def begin_and_kill(
    work: Durable,
    begin: Callable[[Durable], Awaitable[object]],
    number: int,
    patch: pytest.MonkeyPatch,
    *,
    sent: bool = False,
) -> None:
    """Begin so many sends, each of which ends as in a process that is killed before, or after, it has sent."""
    act, ended = _workflows._act, 0

    async def killed(*args: Any) -> Any:
        nonlocal ended
        try:
            if sent:
                await act(*args)
            raise asyncio.CancelledError  # which nothing is stored of
        finally:
            ended += 1

    with patch.context() as within:
        within.setattr(_workflows, "_act", killed)
        await begin(work)
        await until(lambda: ended == number)


async def buy(work: Durable, name: str, account: str = "one", blib: int = 1) -> Handle[Order]:
    return await work.order(account, blib, workflow_id=name, **TERMS)


async def test_every_switch_reaches_its_target(fake_trooper: FakeTrooper) -> None:
    """Start, stop, freeze and restart are sent once each, and their result is the order as it then is."""
    running = [fake_trooper.add_order() for _ in range(3)]
    stopped = fake_trooper.add_order(status="stopped")
    async with durable(fake_trooper) as work:
        handles = [
            await work.switch("one", running[0], "stop"),
            await work.switch("one", running[1].order_id, "freeze"),
            await work.switch("one", running[2], "restart"),
            await work.switch("one", stopped, "start", migration_allowed=True),
        ]
        results = [(await handle.result()).current_status for handle in handles]
    assert results == ["stopped", "frozen", "running", "running"]
    assert sorted(body["action"] for body in posts(fake_trooper)) == ["frozen", "restarted", "running", "stopped"]


async def test_the_same_id_is_the_same_work_also_after_it_has_ended(fake_trooper: FakeTrooper) -> None:
    """Begun three times under one id, the last time by a later process: sent once, one result."""
    order = fake_trooper.add_order()
    async with durable(fake_trooper) as work:
        first, second = [await work.switch("one", order, "stop", workflow_id="tonight") for _ in range(2)]
        assert await first.result() == await second.result()
    fake_trooper.set_status(order, "running")
    async with durable(fake_trooper) as work:
        assert (
            await (await work.switch("one", order, "stop", workflow_id="tonight")).result()
        ).current_status == "stopped"
    assert len(posts(fake_trooper)) == 1


async def test_a_derived_id_is_the_same_work_until_it_has_ended(fake_trooper: FakeTrooper) -> None:
    """Without an id, an action joins one that has not ended; afterwards it is new work; so for another account."""
    fake_trooper.durations["stop"] = 100
    order = fake_trooper.add_order()
    async with durable(fake_trooper) as work:
        handles = [await work.switch("a_b", order, "stop") for _ in range(2)]
        other = await work.switch("axb", order, "stop")  # `_` is a wildcard in the database's own words
        assert handles[0].id == handles[1].id != other.id
        await waiting(work, 2)
        fake_trooper.durations["stop"] = 0.05
        fake_trooper.set_status(order, "stopped")
        await handles[0].result()
        again = await work.switch("a_b", order, "stop")
        assert again.id not in (handles[0].id, other.id)
        await asyncio.gather(again.result(), other.result())
    assert len(posts(fake_trooper)) == 3


@pytest.mark.parametrize(
    ("name", "order", "text"), [("taken", 124, "other work"), ("a/b", 123, "slash"), (" ", 123, "not empty")]
)
async def test_an_id_that_can_not_be_used_is_refused(
    name: str, order: int, text: str, fake_trooper: FakeTrooper
) -> None:
    """One that other work has, or that could be a derived one: nothing is sent for it."""
    orders = [fake_trooper.add_order() for _ in range(2)]
    async with durable(fake_trooper) as work:
        await (await work.switch("one", orders[0], "stop", workflow_id="taken")).result()
        with pytest.raises(ConfigurationError, match=text):
            await work.switch("one", order, "stop", workflow_id=name)
        with pytest.raises(ConfigurationError, match="other work"):
            await buy(work, "taken")
    assert len(posts(fake_trooper)) == 1


async def test_a_fleet_converges_and_is_reported(fake_trooper: FakeTrooper) -> None:
    """Only what is not there is sent; the report names what was left alone, and what failed and why."""
    orders = [fake_trooper.add_order(status=status).order_id for status in ("running", "running", "stopped")]
    async with durable(fake_trooper) as work:
        handle = await work.converge(
            "one",
            {orders[0]: "stopped", orders[1]: "running", orders[2]: "running", 999: "frozen"},
            migration_allowed=True,
        )
        report = await handle.result()
        assert await handle.result() == report
    assert [outcome.order_id for outcome in report.outcomes] == [*orders, 999]
    assert [outcome.order_id for outcome in report.left_alone] == [orders[1]]
    assert report.migration_allowed
    assert isinstance(report.failed[0].error, OrderNotFoundError)
    assert len(posts(fake_trooper)) == 2


async def test_a_fleet_says_that_it_was_sent_though_the_wait_failed(fake_trooper: FakeTrooper) -> None:
    """A key that is refused during the waits does not make a sent switch one that was not; a refused one was not."""
    fake_trooper.durations["stop"] = 100
    orders = [fake_trooper.add_order(is_locked=is_locked).order_id for is_locked in (False, True)]
    async with durable(fake_trooper) as work:
        handle = await work.converge("one", dict.fromkeys(orders, "stopped"))
        await until(lambda: len(posts(fake_trooper)) == 2)
        fake_trooper.fail_next("/api/orders", status=401, times=1000)
        report = await handle.result()
    assert [type(outcome.error) for outcome in report.outcomes] == [AuthenticationError, ServerLockedError]
    assert [outcome.sent for outcome in report.outcomes] == [True, False]


async def test_a_fleet_waits_for_what_stands_still(fake_trooper: FakeTrooper, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order whose workflow can't write for a while has not failed: it is asked for again."""
    monkeypatch.setattr(_workflows, "_ASK_AGAIN", 0.05)
    outcome, refusals = _outcomes.outcome, 2

    async def stalled(workflow_id: str) -> str:
        nonlocal refusals
        refusals -= 1
        if refusals >= 0:
            raise DatabaseError("full")
        return await outcome(workflow_id)

    monkeypatch.setattr(_workflows, "outcome", stalled)
    async with durable(fake_trooper) as work:
        report = await (await work.converge("one", {fake_trooper.add_order().order_id: "stopped"})).result()
    assert (len(report.succeeded), report.failed) == (1, ())
    assert refusals == -1


async def test_a_purchase_and_a_migration_are_made_once(fake_trooper: FakeTrooper) -> None:
    """Both are bought once and waited for; the migration's result is the new order."""
    old = fake_trooper.add_order()
    async with durable(fake_trooper) as work:
        bought = await (await buy(work, "job")).result()
        migrated = await (await work.migrate("one", old, 2, keep_data=True, max_total_due=100)).result()
        assert await (await buy(work, "job")).result() == bought
    assert {bought.current_status, migrated.current_status} == {"running"}
    assert old.order_id not in (bought.order_id, migrated.order_id)
    assert (len(posts(fake_trooper, "/api/order")), len(posts(fake_trooper, "/api/buy-migration"))) == (1, 1)


async def test_a_template_is_installed_once(fake_trooper: FakeTrooper) -> None:
    """It is sent once and waited for; begun again meanwhile, it is the same work."""
    fake_trooper.durations["install"] = 0.3
    order = fake_trooper.add_order()
    async with durable(fake_trooper) as work:
        first, second = [await work.install("one", order, 1) for _ in range(2)]
        assert first.id == second.id
        install = await first.result()
        assert await second.result() == install
    assert (install.template_id, install.status_readable, install.config) == (1, "Completed", None)
    assert len(posts(fake_trooper, INSTALL)) == 1


async def test_an_installation_that_fails_is_an_error_and_no_setting_is_stored(
    fake_trooper: FakeTrooper, folder: Path
) -> None:
    """It says how the install stands, without its settings, which may hold a password."""
    fake_trooper.failing_templates.add(1)
    order = fake_trooper.add_order()
    async with fake_trooper.client() as client:
        await client.templates.install(order, 2, {"password": "not-for-the-database"})
    async with durable(fake_trooper) as work:
        with pytest.raises(TemplateFailedError) as caught:
            await (await work.install("one", order, 1)).result()
        assert (caught.value.install.template_id, caught.value.install.config) == (1, None)
    assert b"not-for-the-database" not in b"".join(path.read_bytes() for path in folder.iterdir())


@pytest.mark.parametrize("others", [0, 1])
async def test_an_install_whose_answer_was_lost_is_found_on_the_server(
    others: int, fake_trooper: FakeTrooper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By being the only new one of its template; of two, nobody can know which it is. It is never sent again."""
    order = fake_trooper.add_order()
    async with fake_trooper.client() as client, durable(fake_trooper) as work:
        await client.templates.install(order, 1)  # it was there before
        act = _workflows._act

        async def lost(*args: Any) -> Any:
            for _ in range(others):
                await client.templates.install(order, 1)
            await client.templates.install(order, 2)
            fake_trooper.drop_next(INSTALL, when="after")
            return await act(*args)

        monkeypatch.setattr(_workflows, "_act", lost)
        handle = await work.install("one", order, 1)
        if others:
            with pytest.raises(OutcomeUnknownError, match="new installs of it: 2, 4"):
                await handle.result()
        else:
            assert (await handle.result()).install_id == 3
    assert len(posts(fake_trooper, INSTALL)) == 3 + others


async def test_what_is_too_dear_is_not_bought(fake_trooper: FakeTrooper) -> None:
    """Prices are checked against the caller's limits before anything is sent."""
    old = fake_trooper.add_order()
    async with durable(fake_trooper) as work:
        with pytest.raises(PriceError):
            await (await buy(work, "dear", blib=2)).result()
        with pytest.raises(PriceError):
            await (await work.migrate("one", old, 2, keep_data=True, max_total_due=0)).result()
    assert not posts(fake_trooper, "/api/order") + posts(fake_trooper, "/api/buy-migration")


async def test_an_unknown_purchase_waits_for_a_decision_and_blocks_those_of_its_account(
    fake_trooper: FakeTrooper,
) -> None:
    """Its candidates are named; that account buys no more until it is resolved, another one does; then all go on."""
    async with FakeTrooper() as other:
        clients = {"one": fake_trooper, "two": other}
        async with Durable(lambda account: clients[account].client()) as work:
            fake_trooper.drop_next("/api/order", when="after")
            lost = await buy(work, "lost")
            with pytest.raises(UndecidedPurchaseError) as caught:
                await lost.result()
            blocked = await buy(work, "blocked")
            await (await buy(work, "elsewhere", "two")).result()
            (undecided,) = await work.undecided()
            (candidate,) = undecided.candidates
            assert len(posts(fake_trooper, "/api/order")) == 1
            await work.resolve(caught.value, candidate)
            assert (await lost.result()).order_id == candidate.order_id
            assert (await blocked.result()).order_id != candidate.order_id
            assert await work.undecided() == []
            with pytest.raises(ConfigurationError, match="waits for a decision"):
                await work.resolve("blocked", candidate)
    assert len(posts(fake_trooper, "/api/order")) == 2


async def test_a_purchase_resolved_as_not_made_is_never_made(fake_trooper: FakeTrooper) -> None:
    """It ends as unknown, resolved; another id buys."""
    fake_trooper.drop_next("/api/order", when="before")
    async with durable(fake_trooper) as work:
        lost = await buy(work, "lost")
        with pytest.raises(UndecidedPurchaseError, match="none found"):
            await lost.result()
        await work.resolve("lost", None)
        with pytest.raises(NotBoughtError, match="not made") as caught:
            await lost.result()
        assert caught.value.purchase.state == "resolved"
        assert "Do not buy again" not in str(caught.value)
        await (await buy(work, "anew")).result()
    assert len(posts(fake_trooper, "/api/order")) == 2


@pytest.mark.parametrize("first", ["bought", "not made"])
async def test_the_first_decision_holds(first: str, fake_trooper: FakeTrooper) -> None:
    """Of two operators who answer otherwise, the second is told what was decided; the same answer again is right."""
    fake_trooper.drop_next("/api/order", when="after")
    async with durable(fake_trooper) as work:
        handle = await buy(work, "lost")
        with pytest.raises(UndecidedPurchaseError) as caught:
            await handle.result()
        (candidate,) = caught.value.candidates
        decisions = (candidate.order_id, None) if first == "bought" else (None, candidate.order_id)
        await work.resolve("lost", decisions[0])
        with pytest.raises(
            AlreadyResolvedError, match=f"as {'order 123' if first == 'bought' else 'not made'}"
        ) as late:
            await work.resolve("lost", decisions[1])
        assert late.value.order_id == decisions[0]
        assert await _outcomes.asked("lost", "one") is None
        await work.resolve("lost", decisions[0])
        if first == "bought":
            assert (await handle.result()).order_id == candidate.order_id
        else:
            with pytest.raises(NotBoughtError, match="not made"):
                await handle.result()


async def test_of_two_decisions_at_once_one_holds(fake_trooper: FakeTrooper) -> None:
    """Exactly one of the two is told that it holds, and its purchase goes on so."""
    fake_trooper.drop_next("/api/order", when="after")
    async with durable(fake_trooper) as work:
        handle = await buy(work, "lost")
        with pytest.raises(UndecidedPurchaseError):
            await handle.result()
        answers = await asyncio.gather(*(work.resolve("lost", order) for order in (123, None)), return_exceptions=True)
        (late,) = [answer for answer in answers if answer is not None]
        assert isinstance(late, AlreadyResolvedError)
        assert late.order_id == (123, None)[answers.index(None)]
        ended = (await asyncio.gather(handle.result(), return_exceptions=True))[0]
    assert isinstance(ended, NotBoughtError if late.order_id is None else Order)


async def test_an_undecided_purchase_is_listed_before_it_is_taken_up_again(fake_trooper: FakeTrooper) -> None:
    """It waits in the queue after its worker was stopped: its question is there; who decides is ended by closing."""
    fake_trooper.drop_next("/api/order", when="after")
    async with durable(fake_trooper) as work:
        with pytest.raises(UndecidedPurchaseError):
            await (await buy(work, "lost")).result()
    with sqlite3.connect("trooper.sqlite") as database:  # what no worker of this version takes up stays in the queue
        database.execute("UPDATE workflow_status SET status = 'ENQUEUED', application_version = 'another'")
    database.close()
    async with durable(fake_trooper) as work:
        assert [error.purchase.id for error in await work.undecided()] == ["lost"]
        deciding = asyncio.create_task(work.resolve("lost", None))
        await asyncio.sleep(0.1)
        assert not deciding.done()
    with pytest.raises(ConfigurationError, match="being closed"):
        await asyncio.wait_for(deciding, 5)


async def test_a_purchase_that_was_refused_after_an_upgrade_is_not_resolved(
    fake_trooper: FakeTrooper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had asked, and takes no decision any more: who gives one is told so, and does not wait."""
    fake_trooper.drop_next("/api/order", when="after")
    async with durable(fake_trooper) as work:
        with pytest.raises(UndecidedPurchaseError):
            await (await buy(work, "lost")).result()
    monkeypatch.setattr(_records, "FORMAT", 2)
    async with durable(fake_trooper) as work:
        with pytest.raises(ConfigurationError, match="waits for a decision"):
            await asyncio.wait_for(work.resolve("lost", None), 5)
        with pytest.raises(ConfigurationError, match="look at the account first"):
            await (await buy(work, "lost")).result()


async def test_two_applications_in_one_database_have_nothing_in_common(fake_trooper: FakeTrooper) -> None:
    """Derived ids are each one's own; a chosen one that the other has is refused, and so is a decision for it."""
    fake_trooper.drop_next("/api/order", when="after")
    fake_trooper.durations["stop"] = 100
    order = fake_trooper.add_order()
    async with durable(fake_trooper) as work:
        with pytest.raises(UndecidedPurchaseError):
            await (await buy(work, "lost")).result()
        theirs = await work.switch("one", order, "stop")
        await waiting(work, 2)
    fake_trooper.set_status(order, "stopped")
    async with durable(fake_trooper, database_url="sqlite+aiosqlite:///trooper.sqlite", name="second") as work:
        ours = await work.switch("one", order, "stop")
        assert ours.id != theirs.id
        assert (await ours.result()).current_status == "stopped"
        with pytest.raises(ConfigurationError, match="other work"):
            await buy(work, "lost")
        assert await work.undecided() == []
        with pytest.raises(ConfigurationError, match="no workflow lost"):
            await asyncio.wait_for(work.resolve("lost", None), 5)
    assert len(posts(fake_trooper, "/api/order")) == 1


async def test_a_call_where_none_is_open_says_so(fake_trooper: FakeTrooper) -> None:
    """Before it was entered, after it was left, and of a result that was waited for meanwhile."""
    fake_trooper.durations["stop"] = 100
    work, order = durable(fake_trooper), fake_trooper.add_order()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: work.switch("one", order, "stop"),
        work.undecided,
        lambda: work.resolve("lost", None),
    ]
    for call in calls:
        with pytest.raises(ConfigurationError, match="no Durable is open"):
            await call()
    async with work:
        handle = await work.switch("one", order, "stop")
        results = [asyncio.create_task(handle.result()) for _ in range(50)]  # more than the engine has threads
        await waiting(work, 1)
    for result in [*results, *(call() for call in (*calls, handle.result))]:
        with pytest.raises(ConfigurationError, match="no Durable is open"):
            await asyncio.wait_for(result, 5)


async def test_what_somebody_ends_in_the_engine_may_have_been_sent(fake_trooper: FakeTrooper) -> None:
    """A workflow that was cancelled with the engine's own tools is of unknown outcome, also in a fleet."""
    fake_trooper.durations["stop"] = 100
    order = fake_trooper.add_order().order_id
    async with durable(fake_trooper) as work:
        fleet = await work.converge("one", {order: "stopped"}, workflow_id="fleet")
        await waiting(work, 2)
        await DBOS.cancel_workflow_async(f"fleet/{order}/wait")
        (outcome,) = (await fleet.result()).outcomes
    assert (type(outcome.error), outcome.sent) == (OutcomeUnknownError, None)


async def test_closing_in_the_middle_of_waits_loses_nothing(fake_trooper: FakeTrooper) -> None:
    """The next process goes on with each wait, sends nothing again, and has its own poll for them."""
    fake_trooper.durations["stop"] = 100
    orders = [fake_trooper.add_order() for _ in range(5)]
    async with durable(fake_trooper) as work:
        handles = [await work.switch("one", order, "stop") for order in orders]
        await waiting(work, 5)
    async with durable(fake_trooper) as work:
        again = [await work.switch("one", order, "stop") for order in orders]
        for order in orders:
            fake_trooper.set_status(order, "stopped")
        assert [handle.id for handle in again] == [handle.id for handle in handles]
        results = await asyncio.gather(*(handle.result() for handle in again))
    assert {order.current_status for order in results} == {"stopped"}
    assert len(posts(fake_trooper)) == 5


async def test_closing_before_anything_is_sent_leaves_no_doubt(fake_trooper: FakeTrooper) -> None:
    """What is cut while it only looks is done by the next process, once."""
    orders = [fake_trooper.add_order() for _ in range(2)]
    reads = ("/api/orders", "/api/order-status-history", "/api/template-config")
    for path in reads:
        fake_trooper.delay_next(path, 10)

    async def begin(work: Durable) -> list[Handle[Any]]:
        return [
            await buy(work, "job"),
            await work.switch("one", orders[0], "restart", workflow_id="restart"),
            await work.install("one", orders[1], 1, workflow_id="install"),
        ]

    async with durable(fake_trooper) as work:
        await begin(work)
        await until(lambda: {request.path for request in fake_trooper.requests} >= {*reads})
    assert not [request for request in fake_trooper.requests if request.path in CHANGES]
    async with durable(fake_trooper) as work:
        for handle in await begin(work):
            await handle.result()
    assert len([request for request in fake_trooper.requests if request.path in CHANGES]) == 3


async def test_closing_lets_a_purchase_on_the_wire_get_to_its_end(fake_trooper: FakeTrooper) -> None:
    """Its answer is awaited and stored: the next process knows what was bought, and asks nobody."""
    fake_trooper.delay_next("/api/order", 0.2)
    async with durable(fake_trooper) as work:
        await buy(work, "job")
        await until(lambda: posts(fake_trooper, "/api/order"))
    async with durable(fake_trooper) as work:
        assert (await (await buy(work, "job")).result()).current_status == "running"
    assert len(posts(fake_trooper, "/api/order")) == 1


async def test_a_deadline_is_kept_over_a_restart(fake_trooper: FakeTrooper, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that passed while no process was there leaves a last look: who is there by then is, who is not timed out."""
    fake_trooper.durations["stop"] = 100
    orders = [fake_trooper.add_order() for _ in range(2)]
    async with durable(fake_trooper) as work:
        names = [(await work.switch("one", order, "stop", timeout=0.1)).id for order in orders]
        await waiting(work, 2)
    await asyncio.sleep(0.1)
    fake_trooper.set_status(orders[0], "stopped")
    monkeypatch.setattr(_waiting, "_A_LOOK", 0.5)
    async with durable(fake_trooper) as work:
        there, late = [await work.switch("one", order, "stop", timeout=0.1) for order in orders]
        assert [there.id, late.id] == names
        assert (await there.result()).current_status == "stopped"
        with pytest.raises(WaitTimeoutError, match=r"within 0\.5 s") as caught:
            await late.result()
        assert caught.value.transition is not None
    assert len(posts(fake_trooper)) == 2


async def test_an_account_has_one_client_and_its_waits_one_poll(fake_trooper: FakeTrooper) -> None:
    """The callback is asked once per account; 20 waits cost the requests of one."""
    fake_trooper.durations["stop"] = 100
    asked = []

    async def accounts(account: str) -> TrooperClient:
        asked.append(account)
        await asyncio.sleep(0.01)
        return fake_trooper.client()

    orders = [fake_trooper.add_order() for _ in range(20)]
    async with Durable(accounts, requests_at_once=20, requests_per_second=1000) as work:
        handles = [await work.switch("one", order, "stop") for order in orders]
        await waiting(work, 20)
        before = len(fake_trooper.requests)
        await asyncio.sleep(0.3)
        for order in orders:
            fake_trooper.set_status(order, "stopped")
        await asyncio.gather(*(handle.result() for handle in handles))
    assert asked == ["one"]
    assert len(fake_trooper.requests) - before < 60  # a poll is every 20 ms at most: 20 of their own would be hundreds


async def test_requests_of_an_account_are_limited(fake_trooper: FakeTrooper) -> None:
    """No more at once, and no more in a second, than was said; both are lower bounds of the time that it takes."""
    orders = [fake_trooper.add_order() for _ in range(7)]  # before Python 3.12, DBOS counts in whole seconds on SQLite
    fake_trooper.delay_next("/api/order-status", 0.05, times=7)
    Path("trooper.sqlite").unlink()  # it has other limits, that hold for one more look at the queue
    async with durable(fake_trooper, requests_at_once=1, requests_per_second=3) as work:
        handles = [await work.switch("one", order, "stop") for order in orders]
        await asyncio.gather(*(handle.result() for handle in handles))
    started = [request.started for request in fake_trooper.requests if request.path == "/api/order-status"]
    assert all(later - earlier >= 0.05 for earlier, later in itertools.pairwise(started))
    assert started[6] - started[0] >= 1.0


async def test_errors_come_out_as_they_are(fake_trooper: FakeTrooper) -> None:
    """What the API refused is refused for its workflow, with all that the error says, in a later process as well."""
    order = fake_trooper.add_order(is_locked=True)
    for _ in range(2):
        async with durable(fake_trooper) as work:
            with pytest.raises(ServerLockedError) as caught:
                await (await work.switch("one", order, "stop", workflow_id="locked")).result()
        assert (caught.value.status, caught.value.operation) == (403, "orders.stop")
    assert len(posts(fake_trooper)) == 1


async def test_no_key_is_in_the_database_or_the_logs(
    fake_trooper: FakeTrooper, folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not after all kinds of work and failures, nor in what DBOS logs; and nothing is printed."""
    caplog.set_level(logging.DEBUG)
    order = fake_trooper.add_order()
    fake_trooper.drop_next("/api/order", when="after")
    async with durable(fake_trooper) as work:
        await (await work.switch("one", order, "restart")).result()
        with pytest.raises(UndecidedPurchaseError):
            await (await buy(work, "lost")).result()
        with pytest.raises(OrderNotFoundError):
            await (await work.switch("one", 999, "stop")).result()
    stored = b"".join(path.read_bytes() for path in folder.iterdir())
    assert b"lost" in stored
    assert fake_trooper.api_key.encode() not in stored
    assert fake_trooper.api_key not in caplog.text
    assert [record.message for record in caplog.records if record.name == "dbos" and record.levelname != "DEBUG"] == []
    assert capfd.readouterr() == ("", "")
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.glob("*.sqlite"))


@pytest.mark.parametrize("kind", ["raises", "returns"])
async def test_a_callback_that_fails_is_named_and_not_quoted(kind: str, fake_trooper: FakeTrooper) -> None:
    """What it raised may hold a key: only its kind is told. Nothing is sent."""

    def accounts(account: str) -> TrooperClient:
        if kind == "returns":
            return "my-secret-key"  # type: ignore[return-value]  # the mistake that is tested
        raise LookupError("my-secret-key is not for you")

    async with Durable(accounts) as work:
        with pytest.raises(ConfigurationError, match=r"LookupError|must return a TrooperClient") as caught:
            await (await work.switch("one", 1, "stop")).result()
    assert "secret" not in repr(caught.value) + str(caught.value)


async def test_a_workflow_of_another_release_is_refused(
    fake_trooper: FakeTrooper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was begun with other steps ends with an error that names its release, before anything is sent."""
    order = fake_trooper.add_order()
    async with durable(fake_trooper) as work:
        with monkeypatch.context() as patch:
            patch.setattr(_records, "FORMAT", 0)
            patch.setattr(_records, "__version__", "0.0.7")
            handle = await work.switch("one", order, "stop")
            purchase = await buy(work, "job")
        with pytest.raises(ConfigurationError, match=r"0\.0\.7 has begun"):
            await handle.result()
        with pytest.raises(ConfigurationError, match=r"may be bought: look at the account first"):
            await purchase.result()
    assert not posts(fake_trooper) + posts(fake_trooper, "/api/order")


async def test_one_durable_in_a_process_and_one_process_on_a_file(fake_trooper: FakeTrooper) -> None:
    """A second one is refused; after the first is closed it is welcome."""
    async with durable(fake_trooper):
        with pytest.raises(ConfigurationError, match="one at a time"):
            await durable(fake_trooper, name="second").__aenter__()
    with sqlite3.connect("trooper.sqlite.lock") as another_process:
        another_process.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ConfigurationError, match="open in another process"):
            await durable(fake_trooper).__aenter__()
    another_process.close()
    first = durable(fake_trooper)
    async with first:
        pass
    with pytest.raises(ConfigurationError, match="used once"):
        await first.__aenter__()


async def test_an_application_of_dbos_is_left_alone(fake_trooper: FakeTrooper) -> None:
    """Where the process runs another one already, that is said, and it goes on."""
    DBOS(config={"name": "another", "system_database_url": "sqlite:///another.sqlite", "log_level": "CRITICAL"})
    try:
        with pytest.raises(ConfigurationError, match="another DBOS application"):
            await durable(fake_trooper).__aenter__()
    finally:
        DBOS.destroy()
    async with durable(fake_trooper):
        pass


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:pass-word@127.0.0.1:1/db",
        "postgresql+asyncpg://user:pass-word@127.0.0.1:1/db",
        "postgresql://user@127.0.0.1:1/db?password=pass-word&sslpassword=pass-word",
        "postgresql://user@127.0.0.1:1/db?sslmode=pass-word&password=pass-word",
        "postgresql://user:pass-word@127.0.0.1",
        "mysql://user:pass-word@127.0.0.1/db",
        "sqlite://",
        "sqlite:////nowhere/at/all/trooper.sqlite",
        "nonsense pass-word",
    ],
)
async def test_a_database_that_can_not_be_used_is_said_at_once(url: str, fake_trooper: FakeTrooper) -> None:
    """A wrong URL is an error before anything is begun; the password in it is not shown."""
    with pytest.raises(ConfigurationError) as caught:
        await durable(fake_trooper, database_url=url).__aenter__()
    assert "pass-word" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_without_the_extra_it_says_what_to_install() -> None:
    """Importing it names the extra; the package itself needs none of it."""
    code = "import sys; sys.modules['dbos'] = None\nimport trooper_async\nimport trooper_async.durable"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.stderr.strip().splitlines()[-1] == (
        "ImportError: trooper_async.durable needs DBOS: pip install 'trooper-async[durable]'"
    )


async def test_the_loop_is_left_as_it_was(fake_trooper: FakeTrooper) -> None:
    """After closing, the loop's own threads work, and no task is left."""
    async with durable(fake_trooper) as work:
        await (await work.switch("one", fake_trooper.add_order(), "stop")).result()
    assert await asyncio.to_thread(lambda: 7) == 7
    left = [task.get_name() for task in asyncio.all_tasks() if "trooper" in task.get_name() or "dbos" in repr(task)]
    assert left == []


class Disk:
    """Where SQLite's databases are; while it is full, what is written fails as SQLite fails then."""

    full = False
    room_after: int | None = None
    """After so many refusals there is room again."""
    refused = 0
    words: tuple[str, ...] = ("INSERT", "UPDATE")

    def refuse(self, connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        """For a statement that is about to be executed."""
        if self.full and statement.split()[0] in self.words:
            self.refused += 1
            self.full = self.refused != self.room_after
            error = sqlite3.OperationalError("database or disk is full")
            raise sqlalchemy.exc.OperationalError(statement, parameters, error)


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", disk.refuse)
    yield disk
    sqlalchemy.event.remove(sqlalchemy.engine.Engine, "before_cursor_execute", disk.refuse)


async def test_a_full_disk_keeps_work_from_being_begun(fake_trooper: FakeTrooper, disk: Disk) -> None:
    """Nothing is sent, and it is said; with room, it is begun."""
    order = fake_trooper.add_order()
    async with durable(fake_trooper) as work:
        disk.full = True
        with pytest.raises(DatabaseError, match="full"):
            await work.switch("one", order, "stop", workflow_id="full")
        disk.full = False
        await (await work.switch("one", order, "stop")).result()
    assert len(posts(fake_trooper)) == 1


async def test_a_full_disk_stops_a_wait_and_loses_nothing(
    fake_trooper: FakeTrooper, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks is told; with room again it goes on by itself, and nothing is sent again."""
    monkeypatch.setattr(_process, "_LOOK", 0.2)
    fake_trooper.durations["stop"] = 100
    order = fake_trooper.add_order()
    async with durable(fake_trooper) as work:
        handle = await work.switch("one", order, "stop")
        await waiting(work, 1)
        disk.full = True
        fake_trooper.set_status(order, "stopped")
        with pytest.raises(DatabaseError, match="full"):
            await handle.result()
        disk.full = False
        await until(lambda: not work._process.stalled)
        assert (await handle.result()).current_status == "stopped"
    assert len(posts(fake_trooper)) == 1


async def test_a_decision_that_can_not_be_stored_is_none(fake_trooper: FakeTrooper, disk: Disk) -> None:
    """Who decides is told, in a typed error; the purchase is asked about as before."""
    fake_trooper.drop_next("/api/order", when="after")
    async with durable(fake_trooper) as work:
        handle = await buy(work, "lost")
        with pytest.raises(UndecidedPurchaseError):
            await handle.result()
        disk.full = True
        with pytest.raises(DatabaseError, match="full"):
            await work.resolve("lost", None)
        disk.full = False
        (undecided,) = await work.undecided()
        await work.resolve(undecided, 123)
        assert (await handle.result()).order_id == 123


async def test_a_database_that_can_not_be_read_is_said_so(fake_trooper: FakeTrooper, disk: Disk) -> None:
    """By every call that reads it; and each of them works again afterwards."""
    order = fake_trooper.add_order()
    async with durable(fake_trooper) as work:
        handle = await work.switch("one", order, "stop")
        await handle.result()
        disk.full, disk.words = True, ("SELECT",)
        for call in (
            handle.result,
            work.undecided,
            lambda: work.resolve("lost", None),
            lambda: work.switch("one", order, "stop"),
        ):
            with pytest.raises(DatabaseError, match="full"):
                await call()
        disk.full = False
        await handle.result()


@pytest.mark.parametrize("room", ["for the failure", "later", "in the next process"])
async def test_a_purchase_whose_answer_could_not_be_stored_is_asked_about(
    room: str, fake_trooper: FakeTrooper, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is never sent again, nor forgotten: whether the engine could store its own failure, or nothing at all."""
    monkeypatch.setattr(_process, "_LOOK", 0.2 if room == "later" else 100)
    act = _workflows._act

    async def bought(*args: Any) -> Any:
        transition = await act(*args)
        disk.full = True
        disk.room_after = 1 if room == "for the failure" else None
        return transition

    monkeypatch.setattr(_workflows, "_act", bought)
    async with durable(fake_trooper) as work:
        handle = await buy(work, "job")
        await until(lambda: disk.full or disk.refused)
        if room != "for the failure":
            with pytest.raises(DatabaseError):
                await handle.result()
            disk.full = False
            await until(lambda: room == "in the next process" or not work._process.stalled)
        if room == "later":
            with pytest.raises(UndecidedPurchaseError):
                await handle.result()
    async with durable(fake_trooper) as work:
        handle = await buy(work, "job")
        with pytest.raises(UndecidedPurchaseError) as caught:
            await handle.result()
        await work.resolve(caught.value, caught.value.candidates[0])
        assert (await handle.result()).order_id == 123
    assert len(posts(fake_trooper, "/api/order")) == 1


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_what_a_life_that_ended_while_sending_leaves_behind(
    moment: str, fake_trooper: FakeTrooper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings are sent again; the rest is not: what has happened is found out, what has not is said to be unknown.

    A setting that is refused now has gone through all the same, where it has.
    """
    monkeypatch.setattr(_waiting, "_A_LOOK", 0.8)
    statuses = {"stop": "running", "freeze": "running", "start": "stopped", "thaw": "frozen", "restart": "running"}
    orders = {action: fake_trooper.add_order(status=status).order_id for action, status in statuses.items()}
    migrated, installed = [fake_trooper.add_order().order_id for _ in range(2)]

    async def begin(work: Durable) -> dict[str, Handle[Any]]:
        words: dict[str, Any] = {"thaw": "start"}
        handles: dict[str, Handle[Any]] = {
            action: await work.switch(
                "one",
                order,
                words.get(action, action),
                migration_allowed=action == "thaw",
                timeout=0.8,
                workflow_id=action,
            )
            for action, order in orders.items()
        }
        handles["install"] = await work.install("one", installed, 1, timeout=0.8, workflow_id="install")
        handles["create"] = await buy(work, "create", "two")
        handles["migrate"] = await work.migrate("three", migrated, 2, keep_data=True, max_total_due=100)
        return handles

    def sent() -> list[str]:
        changes = [request.json for request in fake_trooper.requests if request.path in CHANGES]
        return sorted(
            str(order_of(fake_trooper, body["serverId"]) if "serverId" in body else body.get("order_id", "create"))
            for body in changes
        )

    done = moment == "after"
    async with durable(fake_trooper, requests_at_once=9) as work:
        await begin_and_kill(work, begin, 8, monkeypatch, sent=done)
    once = sorted([*map(str, orders.values()), str(migrated), str(installed), "create"])
    assert sent() == (once if done else [])
    if done:
        fake_trooper.fail_next("/api/order-status", status=403, times=3)
    async with durable(fake_trooper) as work:
        handles = await begin(work)
        for action, target in (("stop", "stopped"), ("freeze", "frozen"), ("start", "running")):
            assert (await handles[action].result()).current_status == target
        for action in ("thaw", "restart", "install"):
            if done and action == "install":
                assert (await handles[action].result()).status_readable == "Completed"
            elif done:
                assert (await handles[action].result()).current_status == "running"
            else:
                with pytest.raises(OutcomeUnknownError, match="the process ended"):
                    await handles[action].result()
        for action in ("create", "migrate"):
            with pytest.raises(UndecidedPurchaseError) as caught:
                await handles[action].result()
            assert bool(caught.value.candidates) == done
    assert sent() == sorted((once if done else []) + [str(orders[action]) for action in ("stop", "freeze", "start")])


async def test_a_doubt_outlives_a_wait_that_fails(fake_trooper: FakeTrooper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends the wait for what a killed process may have sent: it may have been sent, and is not said to be."""
    stopped, frozen, fleet, installed = [
        fake_trooper.add_order(status=status).order_id for status in ("running", "running", "frozen", "running")
    ]

    async def begin(work: Durable) -> list[Handle[Any]]:
        return [
            await work.switch("one", stopped, "restart", workflow_id="restart"),
            await work.switch("one", frozen, "freeze", workflow_id="freeze"),
            await work.install("one", installed, 1, workflow_id="install"),
            await work.converge("one", {fleet: "running"}, migration_allowed=True, workflow_id="fleet"),
        ]

    async with durable(fake_trooper, requests_at_once=9) as work:
        await begin_and_kill(work, begin, 4, monkeypatch)
    for path in ("/api/orders", "/api/template-config"):
        fake_trooper.fail_next(path, status=401, times=1000)
    async with durable(fake_trooper) as work:
        *handles, whole = await begin(work)
        for handle in handles:
            with pytest.raises(OutcomeUnknownError, match="the process ended"):
                await handle.result()
        (outcome,) = (await whole.result()).outcomes
    assert (type(outcome.error), outcome.sent) == (OutcomeUnknownError, None)
    assert not posts(fake_trooper)


async def test_an_install_that_arrives_late_is_found(
    fake_trooper: FakeTrooper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed process has sent may still be on its way, and a failed look proves nothing: it is looked again."""
    order = fake_trooper.add_order()

    async def begin(work: Durable) -> Handle[Any]:
        return await work.install("one", order, 1, workflow_id="install")

    def looked() -> int:
        return sum(request.path == "/api/template-config" for request in fake_trooper.requests)

    async with durable(fake_trooper) as work:
        await begin_and_kill(work, begin, 1, monkeypatch)
    before = looked()
    fake_trooper.fail_next("/api/template-config", status=404)
    async with fake_trooper.client() as client, durable(fake_trooper) as work:
        handle = await begin(work)
        await until(lambda: looked() >= before + 2)
        sent = await client.templates.install(order, 1)
        assert (await handle.result()).install_id == sent


async def test_a_purchase_that_does_not_get_ready_is_bought_all_the_same(fake_trooper: FakeTrooper) -> None:
    """Its error says so, and what to wait for."""
    fake_trooper.durations["create"] = 100
    async with durable(fake_trooper) as work:
        handle = await work.order("one", 1, workflow_id="job", timeout=1, **TERMS)
        await until(lambda: posts(fake_trooper, "/api/order"))
        fake_trooper.remove_order(123)
        with pytest.raises(PurchaseNotReadyError) as caught:
            await handle.result()
    assert (caught.value.purchase.order_id, caught.value.purchase.reference) == (123, "job")


@pytest.mark.parametrize("trouble", ["the key is refused", "there is no client"])
async def test_a_purchase_whose_wait_fails_is_bought_all_the_same(
    trouble: str, fake_trooper: FakeTrooper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever ends its wait, its error names the order, and never says that nothing was sent; so does the log."""
    caplog.set_level(logging.INFO, "trooper_async.durable")
    monkeypatch.setattr(_waiting, "_ASK_AGAIN", 0.05)
    monkeypatch.setattr(_waiting, "_A_LOOK", 100.0)  # no deadline ends it
    fake_trooper.durations["create"] = fake_trooper.durations["stop"] = 100
    switched = fake_trooper.add_order().order_id

    def vault(account: str) -> TrooperClient:
        raise LookupError

    async with durable(fake_trooper) as work:
        await work.switch("one", switched, "stop", workflow_id="stop", timeout=0.5)
        await work.order("one", 1, workflow_id="job", timeout=0.5, **TERMS)
        await until(lambda: "was accepted" in caplog.text and posts(fake_trooper))
        if trouble == "the key is refused":
            fake_trooper.fail_next("/api/orders", status=401, times=1000)
        else:
            monkeypatch.setattr(_waiting, "_A_LOOK", 0.3)
    assert "purchase job of one was accepted: order 124" in caplog.text
    async with Durable(vault) if trouble == "there is no client" else durable(fake_trooper) as work:
        handle = await work.order("one", 1, workflow_id="job", timeout=0.5, **TERMS)
        with pytest.raises(PurchaseNotReadyError) as caught:
            await handle.result()
        with pytest.raises(WaitTimeoutError if trouble == "there is no client" else AuthenticationError) as switch:
            await (await work.switch("one", switched, "stop", workflow_id="stop", timeout=0.5)).result()
        assert not isinstance(switch.value, WaitTimeoutError) or switch.value.transition is not None
    error = caught.value
    assert (error.purchase.order_id, error.transition and error.transition.order_id) == (124, 124)
    assert isinstance(error.last_error, AuthenticationError | ConfigurationError)
    assert "nothing was sent" not in str(error)
    assert len(posts(fake_trooper, "/api/order")) == 1


@pytest.mark.parametrize("was", ["waiting", "sending"])
async def test_what_was_sent_goes_on_once_there_is_a_client(
    was: str, fake_trooper: FakeTrooper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A vault that is away for a while ends no wait, and drops nothing that is to be sent again; it is logged."""
    monkeypatch.setattr(_waiting, "_ASK_AGAIN", 0.05)
    fake_trooper.durations["stop"] = 100
    order, failures = fake_trooper.add_order(), 3

    def vault(account: str) -> TrooperClient:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise LookupError
        return fake_trooper.client()

    async def begin(work: Durable) -> Handle[Order]:
        return await work.switch("one", order, "stop", workflow_id="tonight")

    async with durable(fake_trooper) as work:
        if was == "sending":
            await begin_and_kill(work, begin, 1, monkeypatch, sent=True)
        else:
            await begin(work)
            await waiting(work, 1)
    fake_trooper.set_status(order, "stopped")
    fake_trooper.durations["stop"] = 0.05
    async with Durable(vault) as work:
        assert (await (await begin(work)).result()).current_status == "stopped"
    assert caplog.text.count("is tried again: `accounts` raised LookupError") == 3
    assert len(posts(fake_trooper)) == (2 if was == "sending" else 1)


async def test_an_undecided_purchase_stays_one_where_its_account_can_not_be_read(fake_trooper: FakeTrooper) -> None:
    """It says that its candidates could not be looked for, and hides no other account's; readable again, they are."""
    async with FakeTrooper() as other:
        clients = {"one": fake_trooper, "two": other}
        async with Durable(lambda account: clients[account].client()) as work:
            for account, fake in clients.items():
                fake.drop_next("/api/order", when="after")
                with pytest.raises(UndecidedPurchaseError):
                    await (await buy(work, account, account)).result()
            fake_trooper.fail_next("/api/orders", status=401)
            with pytest.raises(UndecidedPurchaseError, match=r"not be looked for \(AuthenticationError\)") as caught:
                await (await buy(work, "one", "one")).result()
            assert caught.value.candidates == ()
            fake_trooper.fail_next("/api/orders", status=401)
            found = {error.purchase.id: len(error.candidates) for error in await work.undecided()}
            assert found == {"one": 0, "two": 1}
            (candidate,) = next(e.candidates for e in await work.undecided() if e.purchase.id == "one")
            await work.resolve("one", candidate)
            assert (await (await buy(work, "one", "one")).result()).order_id == candidate.order_id


async def test_nonsense_is_refused_before_anything_is_begun(fake_trooper: FakeTrooper) -> None:
    """Words, ids, times and limits that can't be right."""
    with pytest.raises(ConfigurationError, match="limits"):
        durable(fake_trooper, requests_at_once=0)
    for name in ("No Good Name", "ab"):
        with pytest.raises(ConfigurationError, match="name"):
            durable(fake_trooper, name=name)
    nonsense: Any = "explode"
    a_decimal: Any = Decimal(60)
    async with durable(fake_trooper) as work:
        for begin in (
            lambda: work.switch("one", 1, nonsense),
            lambda: work.switch("", 1, "stop"),
            lambda: work.switch("one", nonsense, "stop"),
            lambda: work.switch("one", 1, "stop", timeout=0),
            lambda: work.order("one", 1, workflow_id="job", timeout=a_decimal, **TERMS),
            lambda: work.converge("one", {1: nonsense}),
            lambda: buy(work, None),  # type: ignore[arg-type]  # a name that is not set, which would buy each time
        ):
            with pytest.raises(ConfigurationError, match=r"nothing was sent|seconds above 0"):
                await begin()
        with pytest.raises(PriceError, match="not offered"):
            await (await buy(work, "job", blib=99)).result()
    assert not posts(fake_trooper) + posts(fake_trooper, "/api/order")
