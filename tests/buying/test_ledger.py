"""The ledger: what was bought, or may have been, is known to the next process, whatever happened to this one."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import random
import signal
import stat
import sys
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trooper_async import (
    Blib,
    ConfigurationError,
    Purchase,
    PurchaseUnknownError,
    Transition,
    TrooperClient,
    UnresolvedPurchaseError,
)
from trooper_async._buying.ledger import Entry, Ledger
from trooper_async.testing import FakeTrooper

POST = "/api/order"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "purchases.jsonl"


async def buy(client: TrooperClient, **options: Any) -> Transition:
    blib = (await client.blibs.list())[0]
    return await client.orders.create(blib, contract_interval="HOUR", terms_accepted=True, **options)


def states(client: TrooperClient) -> list[tuple[str, int | None]]:
    return [(purchase.state, purchase.order_id) for purchase in client.orders.purchases]


def posts(fake: FakeTrooper) -> int:
    return sum(request.path == POST for request in fake.requests)


texts = st.text(max_size=20)
purchases = st.builds(
    Purchase,
    id=st.uuids().map(str),
    kind=st.sampled_from(["create", "migrate"]),
    blib_id=st.integers(1, 10**9),
    state=st.sampled_from(["open", "bought", "refused", "unknown", "resolved"]),
    at=st.datetimes(timezones=st.just(UTC)),
    reference=st.none() | texts.filter(bool),
    price_h=st.none() | st.decimals(0, 1000, places=3),
    order_id=st.none() | st.integers(1, 10**9),
    migrated_order_id=st.none() | st.integers(1, 10**9),
)


@given(st.lists(purchases, max_size=5, unique_by=lambda purchase: purchase.id), st.binary(max_size=30))
def test_what_is_written_is_read_back_whatever_is_torn(written: list[Purchase], torn: bytes) -> None:
    """Every entry comes back as it was, also with the remains of a line at the end, and after one more is appended."""
    import tempfile

    last = Purchase("last", "create", 1, "bought", datetime.now(UTC), None, Decimal("0.80"), 7)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ledger"
        ledger = Ledger(file)
        for purchase in written:
            ledger.append(Entry(purchase, "orders.create", Blib(id=purchase.blib_id, name="n"), frozenset({1, 2})))
        ledger.close()
        with file.open("ab") as raw:
            raw.write(b"{" + torn.replace(b"\n", b" "))
        ledger = Ledger(file)
        assert [entry.purchase for entry in ledger.entries.values()] == written
        assert all(entry.before == {1, 2} for entry in ledger.entries.values() if entry.purchase.state == "open")
        ledger.append(Entry(last, "orders.create"))
        ledger.close()
        ledger = Ledger(file)
        assert [entry.purchase for entry in ledger.entries.values()] == [*written, last]
        ledger.close()


async def test_purchases_are_known_to_the_next_client(fake_trooper: FakeTrooper, path: Path) -> None:
    """What was bought is known after a restart, counts as delivered, and its reference buys nothing more."""
    async with fake_trooper.client(ledger=path) as client:
        first = await buy(client, reference="job-1")
        await buy(client)
        before = client.orders.purchases
    async with fake_trooper.client(ledger=path) as client:
        assert client.orders.purchases == before
        assert await buy(client, reference="job-1") == first
        await buy(client)
        assert states(client) == [("bought", 123), ("bought", 124), ("bought", 125)]
    assert posts(fake_trooper) == 3


async def test_the_intent_is_on_the_disk_before_the_request_leaves(
    fake_trooper: FakeTrooper, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line is written and fsynced while nothing has arrived yet, and the outcome's after it."""
    seen: list[tuple[str, int]] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        fsync(descriptor)
        if path.exists() and path.stat().st_size:
            lines = path.read_bytes().splitlines()
            seen.append((json.loads(lines[-1])["state"], posts(fake_trooper)))

    monkeypatch.setattr(os, "fsync", noting)
    async with fake_trooper.client(ledger=path) as client:
        await buy(client)
    assert seen == [("open", 0), ("bought", 1)]


async def test_the_file_is_the_owners_alone_and_holds_no_secret(fake_trooper: FakeTrooper, path: Path) -> None:
    """Mode 0600, also where the file was there before with more; the key is not in it."""
    path.touch(mode=0o666)
    async with fake_trooper.client(ledger=path) as client:
        await buy(client, reference="job-1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert fake_trooper.api_key.encode() not in path.read_bytes()


async def test_a_lost_answer_stays_unknown_over_restarts_until_it_is_resolved(
    fake_trooper: FakeTrooper, path: Path
) -> None:
    """The next process may buy nothing until somebody says what became of it; that is remembered too."""
    async with fake_trooper.client(ledger=path) as client:
        fake_trooper.drop_next(POST, when="after")
        with pytest.raises(PurchaseUnknownError):
            await buy(client, reference="job-1")
    async with fake_trooper.client(ledger=path) as client:
        with pytest.raises(UnresolvedPurchaseError) as caught:
            await buy(client)
        with pytest.raises(PurchaseUnknownError) as unknown:
            await buy(client, reference="job-1")
        assert [order.order_id for order in unknown.value.candidates] == [123]
        await client.orders.resolve(caught.value, 123)
        assert (await buy(client, reference="job-1")).order_id == 123
    async with fake_trooper.client(ledger=path) as client:
        assert states(client) == [("resolved", 123)]
        await buy(client)
    assert posts(fake_trooper) == 2


async def test_one_that_was_open_when_its_process_ended_is_unknown(
    fake_trooper: FakeTrooper, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An intent without an outcome is told when the ledger is opened, and blocks until it is resolved."""
    async with fake_trooper.client(ledger=path) as client:
        await buy(client)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:40])  # killed while it wrote the outcome
    async with fake_trooper.client(ledger=path) as client:
        assert "open purchase" in caplog.text
        assert states(client) == [("unknown", None)]
        with pytest.raises(UnresolvedPurchaseError) as caught:
            await buy(client)
        await client.orders.resolve(caught.value, None)
        await buy(client)
    async with fake_trooper.client(ledger=path) as client:
        assert states(client) == [("resolved", None), ("bought", 124)]


async def test_a_second_opener_is_refused(fake_trooper: FakeTrooper, path: Path) -> None:
    """Two clients, or processes, can't share a ledger; once the first has closed it, the other may have it."""
    async with fake_trooper.client(ledger=path):
        with pytest.raises(ConfigurationError, match="one at a time"):
            fake_trooper.client(ledger=path)
    async with fake_trooper.client(ledger=path):
        pass


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{"trooper_ledger": 2, "id": "x"}\n', "later release"),
        (b'{"trooper_ledger": 1, "id": "x"}\n', r"damaged \(line 1\)"),
        (b'{"trooper_ledger": 1, "id": 5, "kind": "create", "blib_id": 1, "state": "open", "at": "x"}\n', "damaged"),
    ],
)
def test_a_ledger_that_can_not_be_understood_is_refused(content: bytes, text: str, path: Path) -> None:
    """A line of a later version, or a whole one that is damaged, is an error before anything is bought."""
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=text):
        TrooperClient("key", ledger=path)
    Ledger(path.with_name("other")).close()
    assert path.read_bytes() == content


def test_lines_that_are_not_whole_are_passed_over(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is no JSON, or none of ours, in the middle of the file is passed over and logged."""
    path.write_bytes(b'{"trooper_ledger": 1, "id\n\x00\x00\n[]\n')
    ledger = Ledger(path)
    assert ledger.entries == {}
    ledger.close()
    assert caplog.text.count("not whole") == 3


@pytest.mark.parametrize("where", ["missing/folder/ledger", "."])
def test_a_ledger_that_can_not_be_opened_is_refused(where: str, tmp_path: Path) -> None:
    """A folder that is not there, or a path that is one, is said when the client is made."""
    with pytest.raises(ConfigurationError, match="can't be opened"):
        TrooperClient("key", ledger=tmp_path / where)


async def test_a_full_disk_keeps_a_purchase_from_being_sent(
    fake_trooper: FakeTrooper, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An intent that can't be written is not sent; half a line that was written harms nothing later."""
    write = os.write
    full = True

    def half(descriptor: int, data: Any) -> int:
        if not full:
            return write(descriptor, data)
        if len(data) > 50:
            return write(descriptor, data[:50])
        raise OSError(errno.ENOSPC, "No space left on device")

    async with fake_trooper.client(ledger=path) as client:
        monkeypatch.setattr(os, "write", lambda descriptor, data: half(descriptor, data))
        monkeypatch.setattr(os, "write", half)
        with pytest.raises(ConfigurationError, match="No space left"):
            await buy(client)
        assert posts(fake_trooper) == 0
        assert states(client) == []
        full = False
        await buy(client)
    async with fake_trooper.client(ledger=path) as client:
        assert states(client) == [("bought", 123)]


async def test_an_outcome_that_can_not_be_written_is_not_lost(
    fake_trooper: FakeTrooper, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller gets its purchase, an error is logged, and the next process knows that it does not know."""
    async with fake_trooper.client(ledger=path) as client:
        with monkeypatch.context() as patch:
            fsync = os.fsync

            def fails_after_the_post(descriptor: int) -> None:
                if posts(fake_trooper):
                    raise OSError(errno.EIO, "Input/output error")
                fsync(descriptor)

            patch.setattr(os, "fsync", fails_after_the_post)
            assert (await buy(client)).order_id == 123
        assert [record.levelno for record in caplog.records if "can't be written" in record.getMessage()] == [
            logging.ERROR
        ]
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])  # as if the disk had dropped it
    async with fake_trooper.client(ledger=path) as client:
        assert states(client) == [("unknown", None)]


@pytest.mark.parametrize("moment", range(8))
async def test_cancelling_a_purchase_at_any_moment_leaves_its_truth_in_the_ledger(
    moment: int, fake_trooper: FakeTrooper, path: Path
) -> None:
    """Before it is sent it is refused, afterwards it is followed and bought: never open, never unrecorded."""
    async with fake_trooper.client(ledger=path) as client:
        blib = (await client.blibs.list())[0]
        fake_trooper.delay_next(POST, 0.02)
        task = asyncio.create_task(client.orders.create(blib, contract_interval="HOUR", terms_accepted=True))
        await asyncio.sleep(0.002 * moment)
        task.cancel()
        await asyncio.wait([task])
    async with fake_trooper.client(ledger=path) as client:
        bought = [order for state, order in states(client) if state == "bought"]
        assert len(bought) == posts(fake_trooper)
        assert {state for state, _ in states(client)} <= {"bought", "refused"}


async def killed_run(fake: FakeTrooper, path: Path, count: int, after: float | None) -> str:
    """Let a process buy, and kill it that many seconds after it began to; None lets it end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.buying.buyer", fake.url, fake.api_key, str(path), str(count)),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()) == b"ready\n"
    if after is not None:
        await asyncio.sleep(after)
        with suppress(ProcessLookupError):  # it has ended before
            process.send_signal(signal.SIGKILL)
    out = (await process.stdout.read()).decode()
    await process.wait()
    return out


async def kill_and_count(path: Path, kills: int, rng: random.Random, count: int = 30) -> tuple[int, int, int]:
    """(servers bought, purchases recorded, jobs) after a process was killed so many times and then ended."""
    async with FakeTrooper() as fake:
        for _ in range(kills):
            await killed_run(fake, path, count, rng.uniform(0.0, 0.15))
        await killed_run(fake, path, count, None)
        ledger = Ledger(path)
        entries = [entry.purchase for entry in ledger.entries.values() if entry.purchase.state != "refused"]
        ledger.close()
        async with fake.client() as client:
            orders = {order.order_id for order in await client.orders.list()}
        bought = {purchase.order_id for purchase in entries if purchase.state == "bought"}
        assert bought <= orders, "nothing is recorded as bought that is not there"
        assert len(orders - bought) <= sum(purchase.state != "bought" for purchase in entries), "unrecorded"
        return len(orders), len(entries), count


async def test_a_killed_process_buys_nothing_twice_and_forgets_nothing(path: Path) -> None:
    """SIGKILL at random moments, the same jobs again under the same references: one server a job at the most."""
    seed = random.randrange(10**9)
    servers, recorded, jobs = await kill_and_count(path, 4, random.Random(seed))
    assert servers <= recorded == jobs, f"seed {seed}"
