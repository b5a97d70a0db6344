"""Whether the result of a purchase reached its caller: otherwise it is unresolved, in this process and the next. Rules
3, 5 and 6 of `trooper_async._buying`.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import processes, waiting_buyer
from tests.helpers.buying import LIST, POST, buy, buy_and_wait, paths, posts, states, the_purchase
from tests.helpers.conditions import until
from trooper_async import (
    ConfigurationError,
    PurchaseNotReadyError,
    PurchaseUnknownError,
    TrooperClient,
    UnresolvedPurchaseError,
)
from trooper_async.testing import FakeTrooper


def lines(path: Path) -> list[dict[str, Any]]:
    """What a ledger records of its purchases, line by line."""
    return [json.loads(line)["purchase"] for line in path.read_text().splitlines()]


async def test_a_delivered_purchase_is_recorded_as_delivered(fake_trooper: FakeTrooper, path: Path) -> None:
    """`create` delivers when it returns, `create_and_wait` when it returns or raises: the next process may buy."""
    async with fake_trooper.client(ledger=path) as client:
        await buy(client)
        await buy_and_wait(client)
        with pytest.raises(PurchaseNotReadyError):
            await buy_and_wait(client, on_change=lambda order: 1 / 0)
        assert [purchase.delivered for purchase in client.orders.purchases] == [True] * 3
    assert [(one["state"], one["delivered"]) for one in lines(path)[:3]] == [
        ("open", False),
        ("bought", False),
        ("bought", True),
    ]
    async with fake_trooper.client(ledger=path) as client:
        assert await client.orders.unresolved() == ()
        await buy(client)


@pytest.mark.parametrize("reference", ["", "job-1"], ids=["without a reference", "with a reference"])
async def test_a_process_killed_while_it_waits_for_its_server_buys_no_second_one(
    reference: str, fake_trooper: FakeTrooper, path: Path
) -> None:
    """The next process does not buy a second server: it names the first one, and a reference finds it again."""
    fake_trooper.durations["create"] = 600
    arguments = (waiting_buyer.__file__, fake_trooper.url, fake_trooper.api_key, str(path), reference)
    async with processes.python(*arguments) as child:
        await until(lambda: posts(fake_trooper) and any(one["state"] == "bought" for one in lines(path)))
        child.send(signal.SIGKILL)
        await child.ends()

    async with fake_trooper.client(ledger=path) as client:
        with pytest.raises(UnresolvedPurchaseError) as caught:
            await buy(client)
        assert caught.value.message == (
            "an earlier purchase (orders.create_and_wait) is unresolved: order 123 was bought, but not received by its "
            "caller: it costs 0.85 EUR per hour until it is frozen; nothing was bought"
        )
        assert str(caught.value).endswith(". Use or freeze order 123, then await client.orders.resolve(error, 123)")
        assert [one.order_id for one in await client.orders.unresolved()] == [123]
        if reference:
            assert (await buy(client, reference=reference)).order_id == 123
        else:
            await client.orders.resolve(caught.value, 123)
        assert (await buy(client)).order_id == 124
    assert posts(fake_trooper) == 2


@pytest.mark.parametrize("write", [1, 2, 3], ids=["the intent", "the outcome", "the delivery"])
async def test_a_caller_cancelled_while_a_line_is_written(
    write: int, fake_trooper: FakeTrooper, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line is completed. If nothing was sent the purchase is refused; otherwise it is bought, and unresolved."""
    async with fake_trooper.client(ledger=path) as client:
        ledger = client._purchases.journal._ledger
        assert ledger is not None
        append, loop = ledger.append, asyncio.get_running_loop()
        writes = 0

        def cancelling(record: Any) -> None:
            nonlocal writes
            writes += 1
            if writes == write:
                loop.call_soon_threadsafe(task.cancel)
                asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()  # until it is cancelled
            append(record)

        monkeypatch.setattr(ledger, "append", cancelling)
        task = asyncio.create_task(buy(client))
        await asyncio.wait([task])
        assert task.cancelled()
        unresolved = await client.orders.unresolved()
    if write == 1:
        assert (posts(fake_trooper), unresolved) == (0, ())
        assert [one["state"] for one in lines(path)] == ["open", "refused"]
    else:
        assert [one.order_id for one in unresolved] == [123]
        assert (lines(path)[-1]["state"], lines(path)[-1]["delivered"]) == ("bought", False)


@pytest.mark.parametrize("moment", ["note", "post"])
async def test_a_cancelled_purchase_is_recorded_truthfully(moment: str, fake_trooper: FakeTrooper, path: Path) -> None:
    """If not sent it is not recorded; if sent it is followed and bought: never left open, never unrecorded."""
    async with fake_trooper.client(ledger=path) as client:
        hold = fake_trooper.hold_next(LIST if moment == "note" else POST)
        task = asyncio.create_task(buy(client))
        await hold.arrived()
        task.cancel()
        await asyncio.wait([task])
        hold.release()
    async with fake_trooper.client(ledger=path) as client:
        assert states(client) == ([] if moment == "note" else [("bought", 123)])


# Reported when the client is closed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [buy, buy_and_wait])
async def test_an_undelivered_purchase_is_reported_at_close(
    call: Any, fake_trooper: FakeTrooper, caplog: pytest.LogCaptureFixture
) -> None:
    """After Ctrl-C a server is running: one WARNING names it, and its price per hour."""
    fake_trooper.durations["create"] = 600
    hold = fake_trooper.hold_next(POST)
    async with fake_trooper.client() as client:
        task = asyncio.create_task(call(client))
        await hold.arrived()
        task.cancel()
        hold.release()
        await asyncio.wait([task])

    warnings = [one.getMessage() for one in caplog.records if one.name == "trooper_async.purchases"]
    assert warnings == [
        f"orders.{'create' if call is buy else 'create_and_wait'}: order 123 was bought, but not received by its "
        "caller: it costs 0.85 EUR per hour until it is frozen"
    ]
    assert [one.levelno for one in caplog.records if one.name == "trooper_async.purchases"] == [logging.WARNING]


async def test_a_delivered_purchase_is_not_reported_at_close(
    fake_trooper: FakeTrooper, caplog: pytest.LogCaptureFixture
) -> None:
    """If it was delivered or resolved, nothing is logged."""
    async with fake_trooper.client() as client:
        await buy(client)
        hold = fake_trooper.hold_next(POST)
        task = asyncio.create_task(buy(client))
        await hold.arrived()
        task.cancel()
        hold.release()
        (lost,) = await client.orders.unresolved()
        await client.orders.resolve(lost, lost.order_id)

    assert "purchases" not in {record.name.rpartition(".")[2] for record in caplog.records}


async def test_a_script_finds_the_orders_to_freeze(fake_trooper: FakeTrooper, trooper: TrooperClient) -> None:
    """`unresolved()` waits for purchases in flight and returns them, so that an interrupted script can freeze them."""
    hold = fake_trooper.hold_next(POST)
    task = asyncio.create_task(buy(trooper))
    await hold.arrived()
    task.cancel()
    looking = asyncio.create_task(trooper.orders.unresolved())
    await asyncio.sleep(0)
    assert not looking.done()
    hold.release()

    assert [(one.order_id, one.state) for one in await looking] == [(123, "bought")]


# Closing under cancellation -----------------------------------------------------------------------------------------


async def test_closing_completes_however_often_it_is_cancelled(fake_trooper: FakeTrooper, path: Path) -> None:
    """A purchase in flight is awaited and recorded, the ledger is unlocked, and then the cancellation goes on."""
    client = fake_trooper.client(ledger=path)
    hold = fake_trooper.hold_next(POST)
    buying = asyncio.create_task(buy(client))
    await hold.arrived()
    closing = asyncio.create_task(client.close())
    for _ in range(20):
        await asyncio.sleep(0)
        closing.cancel()
    assert not closing.done()
    hold.release()
    await asyncio.wait([closing, buying])

    assert closing.cancelled()
    assert (await buying).order_id == 123
    async with fake_trooper.client(ledger=path) as client:
        assert the_purchase(client).state == "bought"


# Arguments ----------------------------------------------------------------------------------------------------------


async def _async_function(order: object) -> None: ...


class _AsyncCallable:
    async def __call__(self, order: object) -> None: ...


@pytest.mark.parametrize(
    "on_change",
    ["x", 5, _async_function, functools.partial(_async_function), _AsyncCallable(), lambda: None, lambda a, b: None],
    ids=[
        "a text",
        "a number",
        "a coroutine function",
        "a partial one",
        "an object with one",
        "without an argument",
        "with two",
    ],
)
@pytest.mark.parametrize("twin", ["create_and_wait", "buy_and_wait", "rented", "running", "stop_and_wait", "wait"])
async def test_an_invalid_on_change_is_refused_before_anything_is_sent(
    twin: str, on_change: Any, fake_trooper: FakeTrooper, trooper: TrooperClient
) -> None:
    """It must be a plain function of one argument: otherwise the purchase would be made, and its wait would fail."""
    quote = await trooper.migrations.quote(100, 2)
    transition = await trooper.orders.stop(100)
    fake_trooper.requests.clear()
    calls = {
        "create_and_wait": lambda: buy_and_wait(trooper, on_change=on_change),
        "buy_and_wait": lambda: trooper.migrations.buy_and_wait(quote, keep_data=True, on_change=on_change),
        "rented": lambda: trooper.orders.rented(
            None,  # type: ignore[arg-type]  # it is refused before that is looked at
            contract_interval="HOUR",
            terms_accepted=True,
            on_change=on_change,
        ).__aenter__(),
        "running": lambda: trooper.orders.running(100, on_change=on_change).__aenter__(),
        "stop_and_wait": lambda: trooper.orders.stop_and_wait(100, on_change=on_change),
        "wait": lambda: trooper.orders.wait(transition, on_change=on_change),
    }
    with pytest.raises(
        ConfigurationError, match=r"on_change must be a (plain function|function that takes an Order), not"
    ):
        await calls[twin]()
    assert paths(fake_trooper) == []


async def test_an_unknown_purchase_is_unresolved_although_its_caller_knows(
    fake_trooper: FakeTrooper, path: Path
) -> None:
    """An unknown purchase is reported to its caller, and stays unresolved."""
    async with fake_trooper.client(ledger=path) as client:
        fake_trooper.drop_next(POST, when="after")
        with pytest.raises(PurchaseUnknownError):
            await buy(client)
        assert [one.state for one in await client.orders.unresolved()] == ["unknown"]
