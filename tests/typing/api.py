"""The public surface as its users see it: checked by mypy and pyright, never run.

If something here no longer type-checks, it has changed for all users.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import assert_type

from trooper_async import (
    Blib,
    Credentials,
    FleetOutcome,
    FleetProgress,
    FleetReport,
    MigrationOptions,
    MigrationQuote,
    Order,
    OrderChange,
    OrderStatus,
    PollSchedule,
    Purchase,
    PurchaseUnknownError,
    RetryPolicy,
    StatusChange,
    Template,
    TemplateInstall,
    Transition,
    TrooperClient,
    TrooperError,
    read_ledger,
    select,
)
from trooper_async._waiting.feed import Watch


async def client_and_blibs() -> None:
    async with TrooperClient(
        "key",
        base_url="https://example.com",
        timeout=30.0,
        retry=RetryPolicy(attempts=4, max_delay=20.0, deadline=60.0, budget=10),
        poll=PollSchedule(floor=1.0, cap=30.0, share=0.1),
        max_concurrency=16,
        max_body_bytes=2**20,
        proxy=None,
        app="my-bot/1.0",
    ) as client:
        assert_type(await client.ping(), str)
        assert_type(await client.blibs.list(), list[Blib])
        assert_type(await client.blibs.list_private(), list[Blib])
        assert_type(await client.blibs.wait_until_available(1, timeout=5), Blib)
    await TrooperClient().close()


def ledger() -> None:
    assert_type(read_ledger("purchases.jsonl"), tuple[Purchase, ...])


async def orders(client: TrooperClient, order: Order, blib: Blib) -> None:
    assert_type(await client.orders.list(), list[Order])
    assert_type(await client.orders.get(1), Order)
    assert_type(await client.orders.find(title="a*"), list[Order])
    transition = await client.orders.create(
        blib,
        contract_interval="HOUR",
        terms_accepted=True,
        price_h=Decimal("0.85"),
        total_price=0.85,
        second_partition_percentage=20,
        templates=[1],
        max_price_h=1,
        reference="mine",
    )
    assert_type(transition, Transition)
    assert_type(
        await client.orders.create_and_wait(
            blib, contract_interval="HOUR", terms_accepted=True, timeout=None, on_change=print
        ),
        Order,
    )
    assert_type(await client.orders.start(order, migration_allowed=True), Transition)
    assert_type(await client.orders.stop(1), Transition)
    assert_type(await client.orders.restart(order), Transition)
    assert_type(await client.orders.freeze(order), Transition)
    assert_type(await client.orders.start_and_wait(1, migration_allowed=True, timeout=5, on_change=print), Order)
    assert_type(await client.orders.stop_and_wait(order, timeout=None), Order)
    assert_type(await client.orders.restart_and_wait(order), Order)
    assert_type(await client.orders.freeze_and_wait(order), Order)
    assert_type(await client.orders.wait(Transition.from_json(transition.to_json()), timeout=5.0), Order)
    assert_type(await client.orders.wait_until(order, "running"), Order)
    assert_type(await client.orders.wait_until(order, OrderStatus.running, timeout=None), Order)
    assert_type(await client.orders.wait_until(1, lambda seen: seen.is_converged), Order)
    assert_type(await client.orders.wait_until_converged(order), Order)
    assert_type(await client.orders.wait_until_reachable(order), Credentials)
    assert_type(client.orders.watch(interval=5.0), Watch[OrderChange])
    async for change in client.orders.watch():
        assert_type(change.order, Order)
        assert_type(change.previous, Order | None)
    assert_type(await client.orders.credentials(order), Credentials)
    assert_type(await client.orders.history(order), list[StatusChange])
    assert_type(client.orders.purchases, tuple[Purchase, ...])
    await client.orders.rename(order, "title")
    await client.orders.lock(order)
    await client.orders.unlock(1)


async def fleets(client: TrooperClient, orders: list[Order], wanted: dict[int, OrderStatus]) -> None:
    async def show_later(progress: FleetProgress) -> None:
        await asyncio.sleep(0)

    report = await client.fleet.start(orders, migration_allowed=True, concurrency=4, timeout=None)
    assert_type(report, FleetReport)
    assert_type(await client.fleet.stop(range(3), wait=False, on_progress=print), FleetReport)
    assert_type(await client.fleet.restart((1, orders[0]), on_progress=show_later), FleetReport)
    assert_type(await client.fleet.freeze(iter(orders), on_progress=lambda progress: progress.done), FleetReport)
    assert_type(await client.fleet.converge(wanted), FleetReport)
    assert_type(await client.fleet.converge({orders[0]: "stopped"}, timeout=5.0), FleetReport)
    assert_type(await client.fleet.converge({1: "running", 2: OrderStatus.frozen}), FleetReport)
    assert_type(await client.fleet.resume(report, concurrency=2), FleetReport)
    assert_type(report.outcomes, tuple[FleetOutcome, ...])
    assert_type(report.failed[0].error, TrooperError | None)
    assert_type(report.elapsed, float)
    assert_type(FleetReport.from_json(report.to_json()), FleetReport)
    assert_type(select(orders, title="job-*", max_price_h=1), list[Order])


async def purchases(client: TrooperClient, blib: Blib, error: PurchaseUnknownError) -> None:
    assert_type(error.candidates, tuple[Order, ...])
    assert_type(error.purchase, Purchase)
    await client.orders.resolve(error, 5)
    await client.orders.resolve(error.purchase, None)
    assert_type(await client.orders.unresolved(), tuple[Purchase, ...])
    async with client.orders.rented(blib, contract_interval="HOUR", terms_accepted=True, then="stop") as rented:
        assert_type(rented, Order)
    async with client.orders.running(5, then="leave") as running:
        assert_type(running, Order)
    assert_type(await client.migrations.options(1), MigrationOptions)
    quote = await client.migrations.quote(1, blib)
    assert_type(quote, MigrationQuote)
    assert_type(quote.total_due, Decimal)
    assert_type(await client.migrations.buy(quote, keep_data=True, max_total_due=5, reference="r"), Transition)
    assert_type(await client.migrations.buy_and_wait(quote, keep_data=False, timeout=5), Order)


async def templates(client: TrooperClient, order: Order) -> None:
    assert_type(await client.templates.list(), list[Template])
    assert_type(await client.templates.installs(order), list[TemplateInstall])
    assert_type(await client.templates.install(order, 1, {"python_version": "3.12"}), int)
    packages: dict[str, list[str]] = {"packages": ["vim"]}
    assert_type(await client.templates.install(order, 1, packages), int)
    assert_type(await client.templates.install_and_wait(1, 1, timeout=None), TemplateInstall)
    await client.templates.remove(5)
    await client.templates.retry(5)


def fields(order: Order) -> None:
    assert_type(order.current_status, OrderStatus | str)
    assert_type(order.price_h, Decimal | None)
    assert_type(order.is_converged, bool)
