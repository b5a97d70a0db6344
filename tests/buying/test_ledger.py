"""The ledger: the next process knows what was bought, or may have been, whatever happened to this one. Rule 9 of
`trooper_async._buying`.
"""

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
import tempfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import buyer, processes
from tests.helpers.buying import BLIB, POST, buy, posts, states
from tests.helpers.conditions import LIMIT, until
from tests.helpers.killed import kill_and_count
from tests.helpers.texts import exactly
from trooper_async import (
    Blib,
    ConfigurationError,
    Purchase,
    PurchaseUnknownError,
    TrooperClient,
    UnresolvedPurchaseError,
    read_ledger,
)
from trooper_async._base import stored
from trooper_async._buying.journal import Journal
from trooper_async._buying.ledger import Ledger
from trooper_async._buying.record import Record
from trooper_async.testing import FakeTrooper

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
    delivered=st.booleans(),
)
records = st.builds(
    Record,
    purchase=purchases,
    operation=texts,
    terms=st.dictionaries(texts, st.none() | st.booleans() | st.integers() | texts | st.lists(texts, max_size=2)),
    blib=st.none()
    | st.builds(Blib, id=st.integers(1, 10**9), name=st.none() | texts, gpu_num=st.none() | st.integers()),
    before=st.lists(st.integers(1, 10**9), max_size=3).map(tuple),
)
LAST = Record(Purchase("last", "create", 1, "bought", datetime.now(UTC), None, Decimal("0.80"), 7), "orders.create", {})


@given(st.lists(records, max_size=5, unique_by=lambda record: record.purchase.id), st.binary(max_size=30))
def test_every_record_is_read_back_despite_a_torn_line(written: list[Record], torn: bytes) -> None:
    """Every record comes back unchanged, with the rest of a torn line at the end, and after another append."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ledger"
        ledger = Ledger(file)
        for record in written:
            ledger.append(evolve(record, purchase=evolve(record.purchase, state="open")))
            if record.purchase.state != "open":
                ledger.append(record)
        ledger.close()
        with file.open("ab") as raw:
            raw.write(b"{" + torn.replace(b"\n", b" "))
        ledger = Ledger(file)
        assert list(ledger.records.values()) == written
        ledger.append(LAST)
        ledger.close()
        ledger = Ledger(file)
        assert list(ledger.records.values()) == [*written, LAST]
        ledger.close()


async def test_the_next_client_knows_the_purchases(fake_trooper: FakeTrooper, path: Path) -> None:
    """What was bought and delivered is known after a restart, and its reference buys nothing more."""
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


async def test_the_intent_is_on_disk_before_the_request_is_sent(
    fake_trooper: FakeTrooper, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The intent is written and fsynced before the request arrives, and the outcome after it."""
    seen: list[tuple[str, int]] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        fsync(descriptor)
        if path.exists() and path.stat().st_size:
            lines = path.read_bytes().splitlines()
            seen.append((json.loads(lines[-1])["purchase"]["state"], posts(fake_trooper)))

    monkeypatch.setattr(os, "fsync", noting)
    async with fake_trooper.client(ledger=path) as client:
        await buy(client)
    assert seen == [("open", 0), ("bought", 1), ("bought", 1)], "the last line says that its caller has got it"
    intent, *outcomes = (json.loads(line) for line in path.read_bytes().splitlines())
    assert intent["blib"]["id"] == BLIB.id
    assert [(line["blib"], line["before"]) for line in outcomes] == [(None, [])] * 2, "the intent has them"


async def test_lines_are_written_one_after_the_other(
    fake_trooper: FakeTrooper, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Purchases at the same time do not write into each other's lines: one thread writes them all."""
    threads: set[str] = set()
    waiting, append = threading.Event(), Ledger.append

    def noting(self: Ledger, record: Record) -> None:
        threads.add(threading.current_thread().name)
        assert waiting.wait(LIMIT)
        append(self, record)

    monkeypatch.setattr(Ledger, "append", noting)
    async with fake_trooper.client(ledger=path) as client:
        buying = asyncio.gather(*(buy(client, reference=f"job-{number}") for number in range(4)))
        await until(lambda: len(client._purchases.journal._writing) == 4)
        waiting.set()
        await buying
    assert len(threads) == 1


def test_the_file_is_made_with_mode_600(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for a moment can another user open it."""
    monkeypatch.setattr(os, "fchmod", lambda *_: None)
    Ledger(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_the_file_has_mode_600_and_no_secret(fake_trooper: FakeTrooper, path: Path) -> None:
    """The mode is 0600, even if the file existed with a wider one; the key is not in it."""
    path.touch(mode=0o666)
    async with fake_trooper.client(ledger=path) as client:
        await buy(client, reference="job-1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert fake_trooper.api_key.encode() not in path.read_bytes()


async def test_a_lost_purchase_stays_unknown_over_restarts_until_it_is_resolved(
    fake_trooper: FakeTrooper, path: Path
) -> None:
    """The next process may buy nothing until somebody resolves the purchase; the decision is stored too."""
    async with fake_trooper.client(ledger=path) as client:
        fake_trooper.drop_next(POST, when="after")
        with pytest.raises(PurchaseUnknownError):
            await buy(client, reference="job-1")
    async with fake_trooper.client(ledger=path) as client:
        with pytest.raises(UnresolvedPurchaseError) as caught:
            await buy(client)
        assert [order.order_id for order in caught.value.candidates] == [123]
        assert "candidates: order 123" in str(caught.value)
        with pytest.raises(PurchaseUnknownError) as unknown:
            await buy(client, reference="job-1")
        assert [order.order_id for order in unknown.value.candidates] == [123]
        await client.orders.resolve(caught.value, 123)
        assert (await buy(client, reference="job-1")).order_id == 123
    async with fake_trooper.client(ledger=path) as client:
        assert states(client) == [("resolved", 123)]
        await buy(client)
    assert posts(fake_trooper) == 2


async def test_a_purchase_open_when_its_process_ended_is_unknown(
    fake_trooper: FakeTrooper, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An intent without an outcome is reported when the ledger is opened, and blocks purchases until it is resolved."""
    async with fake_trooper.client(ledger=path) as client:
        await buy(client)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:40])  # killed while writing the outcome
    async with fake_trooper.client(ledger=path) as client:
        assert caplog.messages == ["the ledger has an open purchase (orders.create): whether it was made is unknown"]
        assert states(client) == [("unknown", None)]
        with pytest.raises(UnresolvedPurchaseError) as caught:
            await buy(client)
        await client.orders.resolve(caught.value, None)
        await buy(client)
    async with fake_trooper.client(ledger=path) as client:
        assert states(client) == [("resolved", None), ("bought", 124)]


async def test_a_ledger_can_be_open_only_once(fake_trooper: FakeTrooper, path: Path) -> None:
    """Two clients, or processes, can't share a ledger; once the first has closed it, another can open it."""
    async with fake_trooper.client(ledger=path):
        problem = exactly(f"the ledger {path} is open in another client or process: one at a time")
        with pytest.raises(ConfigurationError, match=problem):
            fake_trooper.client(ledger=path)
    async with fake_trooper.client(ledger=path):
        pass


def line(**changes: object) -> bytes:
    """A line as it is written, with changes."""
    return json.dumps({**json.loads(stored.write(LAST, "trooper_ledger")), **changes}).encode() + b"\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(
            line(trooper_ledger=2),
            "line 1: this Record was stored by a later release: update trooper-async",
            id="of a later release",
        ),
        pytest.param(line(operation=None), "line 1: this stored Record is damaged", id="a field is missing"),
        pytest.param(line(terms=[]), "line 1: this stored Record is damaged", id="a field of the wrong type"),
        pytest.param(
            line(purchase={**json.loads(line())["purchase"], "reference": 7}),
            "line 1: this stored Record is damaged",
            id="a reference that is not text",
        ),
        pytest.param(
            line() + b'{"trooper_ledger": 1, "purch\n' + line(),
            "line 2: not a stored Record",
            id="a torn line in the middle",
        ),
        pytest.param(b"\n" + line(), "line 1: not a stored Record", id="an empty line"),
        pytest.param(line() + b"\x00\x00\xff\n", "line 2: not UTF-8", id="bytes that are not text"),
        pytest.param(b'api_key = "secret"\n', "line 1: not a stored Record", id="a TOML file"),
        pytest.param(b"[]\n", "line 1: not a stored Record", id="other JSON"),
    ],
)
def test_an_unreadable_ledger_is_refused_and_left_unchanged(content: bytes, problem: str, path: Path) -> None:
    """A purchase that can't be read would be made again, so it is an error before anything is bought."""
    path.write_bytes(content)
    path.chmod(0o644)
    refusal = rf"^the ledger {path} is not a ledger, or it is damaged \({problem}\)$"
    with pytest.raises(ConfigurationError, match=refusal):
        TrooperClient("key", ledger=path)
    with pytest.raises(ConfigurationError, match=refusal):
        read_ledger(path)
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("ledger", [5, True, b"bytes", ["list"]])
def test_a_ledger_argument_that_is_no_path_is_refused(ledger: Any) -> None:
    """The error says so, whatever was passed."""
    with pytest.raises(ConfigurationError, match=exactly(f"ledger must be a path, not {ledger!r}")):
        TrooperClient("key", ledger=ledger)


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ("missing/folder/ledger", "No such file or directory"),
        ("", "No such file or directory"),
        ("nul\0", "embedded null byte"),
        (".", "it is not a regular file"),
        ("fifo", "it is not a regular file"),
        ("device", "it is not a regular file"),
    ],
)
def test_a_ledger_that_can_not_be_opened_is_refused(
    where: str, problem: str, tmp_path: Path, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing folder, or a path that is a folder or a device, is an error when the client is made."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    if where == "device":
        where = str(device)
    before = device.stat().st_mode
    with pytest.raises(ConfigurationError, match=exactly(f"the ledger {where} can't be opened ({problem})")):
        TrooperClient("key", ledger=where)
    assert device.stat().st_mode == before


def test_a_ledger_that_can_not_be_read_is_refused_and_unlocked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of another user, say; once it can be used, the next client can open it."""
    path.write_bytes(line())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fchmod", mock.Mock(side_effect=OSError(errno.EPERM, "Operation not permitted")))
        with pytest.raises(ConfigurationError, match=rf"^the ledger {path} can't be read \(Operation not permitted\)$"):
            Ledger(path)
    Ledger(path).close()


def test_a_ledger_may_be_a_symlink(path: Path) -> None:
    """A symlink works like its target."""
    link = path.with_name("link")
    link.symlink_to(path)
    ledger = Ledger(link)
    ledger.append(LAST)
    ledger.close()
    assert path.read_bytes() == line()


def removed(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


def truncated(path: Path) -> None:
    os.truncate(path, 10)


def written_to(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"another program's\n")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (removed, "removed or replaced"),
        (replaced, "removed or replaced"),
        (truncated, "changed by another program"),
        (written_to, "changed by another program"),
    ],
)
async def test_a_ledger_changed_from_outside_buys_nothing(
    change: Callable[[Path], None], problem: str, fake_trooper: FakeTrooper, path: Path
) -> None:
    """If it is removed, replaced, cut or written to while open, purchases could be forgotten, so nothing is sent."""
    async with fake_trooper.client(ledger=path) as client:
        await buy(client, reference="job-1")
        change(path)
        left = path.exists() and path.read_bytes()
        text = f"the ledger {path} was {problem} while it was open: make a new client; nothing was sent"
        with pytest.raises(ConfigurationError, match=exactly(f"orders.create: {text}")):
            await buy(client, reference="job-2")
        assert (path.exists() and path.read_bytes()) == left
        assert posts(fake_trooper) == 1
        assert states(client) == [("bought", 123)], "an intent that was not written is none"


async def test_an_outcome_is_written_although_the_ledger_was_cut(
    fake_trooper: FakeTrooper, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is already bought is written wherever that may help, and an error reports the damage."""
    async with fake_trooper.client(ledger=path) as client:
        hold = fake_trooper.hold_next(POST)
        buying = asyncio.create_task(buy(client, reference="job-1"))
        await until(lambda: posts(fake_trooper))
        os.truncate(path, 0)
        hold.release()
        assert (await buying).order_id == 123
    assert caplog.messages[0] == (
        "orders.create: its outcome (bought, order 123) could not be written: "
        f"the ledger {path} was changed by another program while it was open: make a new client"
    )
    ledger = Ledger(path)
    assert [record.purchase.order_id for record in ledger.records.values()] == [123]
    ledger.close()


async def test_without_file_locks_a_ledger_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without POSIX file locks, a client with a ledger is refused, and one without works."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    problem = f"the ledger {path} can't be locked: a ledger needs a POSIX system (Linux, macOS)"
    with pytest.raises(ConfigurationError, match=exactly(problem)):
        TrooperClient("key", ledger=path)
    async with TrooperClient("key"):
        pass


async def test_a_full_disk_prevents_a_purchase(
    fake_trooper: FakeTrooper, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A purchase whose intent can't be written is not sent; half a written line does no harm later."""
    write = os.write
    full = True

    def half(descriptor: int, data: Any) -> int:
        if not full:
            return write(descriptor, data)
        if len(data) > 50:
            return write(descriptor, data[:50])
        raise OSError(errno.ENOSPC, "No space left on device")

    async with fake_trooper.client(ledger=path) as client:
        monkeypatch.setattr(os, "write", half)
        text = f"orders.create: the ledger {path} can't be written (No space left on device); nothing was sent"
        with pytest.raises(ConfigurationError, match=exactly(text)):
            await buy(client)
        assert posts(fake_trooper) == 0
        assert states(client) == []
        full = False
        await buy(client)
    async with fake_trooper.client(ledger=path) as client:
        assert states(client) == [("bought", 123)]


async def test_nothing_is_bought_once_the_ledger_is_closed(path: Path) -> None:
    """The intent of a purchase could not be written."""
    journal = Journal(path)
    await journal.close()
    with pytest.raises(ConfigurationError, match=exactly("orders.create: the ledger is closed; nothing was sent")):
        await journal.intend(LAST)


async def test_an_outcome_that_can_not_be_written_is_not_lost(
    fake_trooper: FakeTrooper, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller gets its purchase, an error is logged, and to the next process the purchase is unknown."""
    async with fake_trooper.client(ledger=path) as client:
        with monkeypatch.context() as patch:
            fsync = os.fsync

            def fails_after_the_post(descriptor: int) -> None:
                if posts(fake_trooper):
                    raise OSError(errno.EIO, "Input/output error")
                fsync(descriptor)

            patch.setattr(os, "fsync", fails_after_the_post)
            assert (await buy(client)).order_id == 123
        reason = f"the ledger {path} can't be written (Input/output error)"
        assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
            (logging.ERROR, f"orders.create: its outcome (bought, order 123) could not be written: {reason}"),
            (logging.ERROR, f"orders.create: its delivery could not be recorded: {reason}"),
        ]
        assert (await buy(client)).order_id == 124, "its caller has got it"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])  # as if the disk had lost it
    async with fake_trooper.client(ledger=path) as client:
        assert states(client) == [("unknown", None)]


async def test_a_process_killed_with_a_purchase_in_flight_leaves_it_unknown(
    fake_trooper: FakeTrooper, path: Path
) -> None:
    """The intent is on disk: the next process buys nothing under that reference, and names the candidate."""
    with fake_trooper.hold_next(POST) as hold:
        async with processes.python(buyer.__file__, fake_trooper.url, fake_trooper.api_key, path, "1") as child:
            await hold.arrived()
            child.send(signal.SIGKILL)
            await child.ends()
    async with fake_trooper.client(ledger=path) as client:
        assert states(client) == [("unknown", None)]
        offer = (await client.blibs.list())[0]
        with pytest.raises(PurchaseUnknownError) as caught:
            await client.orders.create(offer, contract_interval="HOUR", terms_accepted=True, reference="job-0")
        assert [order.order_id for order in caught.value.candidates] == [123]
    assert posts(fake_trooper) == 1


async def test_a_killed_process_buys_nothing_twice_and_forgets_nothing(path: Path) -> None:
    """SIGKILL at random moments, then the same jobs under the same references: at most one server per job."""
    servers, recorded, jobs = await kill_and_count(path, 3, random.Random(1))
    assert servers <= recorded == jobs


async def test_a_ledger_can_be_read_while_it_is_in_use(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """Reading needs no lock and changes nothing; a missing file is empty, and a file that is no ledger is an error."""
    path = tmp_path / "ledger"
    assert read_ledger(path) == ()
    async with fake_trooper.client(ledger=path) as client:
        with fake_trooper.hold_next(POST) as hold:
            buying = asyncio.create_task(buy(client, reference="one"))
            await hold.arrived()
            assert [(one.reference, one.state) for one in read_ledger(path)] == [("one", "open")]
        await buying
        assert read_ledger(str(path)) == client.orders.purchases
        path.write_text("no ledger\n")
        with pytest.raises(
            ConfigurationError,
            match=exactly(f"the ledger {path} is not a ledger, or it is damaged (line 1: not a stored Record)"),
        ):
            read_ledger(path)
    with pytest.raises(
        ConfigurationError, match=exactly(f"the ledger {tmp_path} can't be opened (it is not a regular file)")
    ):
        read_ledger(tmp_path)
    with pytest.raises(ConfigurationError, match=rf"^the ledger {path}/in-a-file can't be read \(Not a directory\)$"):
        read_ledger(path / "in-a-file")
