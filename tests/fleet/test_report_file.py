"""A report in a file: continued after a kill, locked, and as cheap for the last order as for the first."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.helpers.texts import exactly
from trooper_async import ConfigurationError, FleetOutcome, FleetReport, ReportFile, TrooperClient
from trooper_async.testing import FakeTrooper


async def test_a_killed_run_is_continued(trooper: TrooperClient, fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """Whatever was, or may have been, sent is in the file, and `resume` sends nothing twice."""
    orders = [fake_trooper.add_order() for _ in range(6)]
    path = tmp_path / "stop.report"
    calls = 0
    with ReportFile(path) as file:
        assert file.report is None

        def dies(progress: object) -> None:
            nonlocal calls
            calls += 1
            file(progress)  # type: ignore[arg-type]  # a FleetProgress
            if calls == 4:
                raise KeyError("killed")

        with pytest.raises(KeyError):
            await trooper.fleet.stop(orders, concurrency=1, on_progress=dies)
    with ReportFile(path) as file:
        assert file.report is not None
        report = await trooper.fleet.resume(file.report, on_progress=file)
    assert len(report.succeeded) == 6
    sent = [request.json["serverId"] for request in fake_trooper.requests if request.path == "/api/order-status"]
    assert len(sent) == len(set(sent)) == 6
    stored = FleetReport.from_json(path.read_text())
    assert [outcome.order_id for outcome in stored.succeeded] == [order.order_id for order in orders]
    with ReportFile(path) as file:
        assert file.report is None  # a finished report is replaced by the next run's


async def test_each_change_adds_one_line(trooper: TrooperClient, fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """The file grows with the number of changes, not with their number times that of the orders."""
    sizes = []
    for count in (20, 40):
        orders = [fake_trooper.add_order() for _ in range(count)]
        path = tmp_path / f"{count}.report"
        with ReportFile(path) as file:
            await trooper.fleet.stop(orders, on_progress=file)
        assert len(path.read_text().splitlines()) == 2 * count
        sizes.append(path.stat().st_size)
    assert sizes[1] < 2.5 * sizes[0]


def test_a_torn_last_line_is_ignored(tmp_path: Path) -> None:
    """The process was killed while writing: the action in that line had not been sent."""
    path = tmp_path / "report"
    with ReportFile(path):
        pass
    text = FleetReport(()).to_json()
    assert FleetReport.from_json(f"{text}\n{text[:20]}") == FleetReport(())
    with pytest.raises(ConfigurationError):
        FleetReport.from_json(f"{text[:20]}\n{text}\n")


def test_two_runs_cannot_share_a_file(tmp_path: Path) -> None:
    """The file is locked while it is open, and the second run does not remove it, even if it is still empty."""
    path = tmp_path / "report"
    with ReportFile(path) as file:
        with pytest.raises(
            ConfigurationError,
            match=exactly(f"ReportFile: {path} is the report of a run that has not finished: nothing was sent"),
        ):
            ReportFile(path)
        file.store(PENDING)
        assert FleetReport.from_json(path.read_text()) == PENDING
    file.close()  # it is closed
    ReportFile(path).close()


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ("text", "is not the report of a fleet"),
        ("folder", "is not a regular file"),
        ("device", "is not a regular file"),
        ("missing folder", r"cannot be opened \(No such file or directory\)"),
    ],
)
def test_a_file_that_is_no_report_is_left_unchanged(tmp_path: Path, device: Path, what: str, problem: str) -> None:
    """Another file, a folder or a device is refused, and not written to."""
    path = tmp_path / "file"
    match what:
        case "text":
            path.write_text("my notes\n")
        case "folder":
            path.mkdir()
        case "device":
            path = device
        case _:
            path = tmp_path / "none" / "file"
    with pytest.raises(ConfigurationError, match=f"^ReportFile: {path} {problem}: nothing was sent$"):
        ReportFile(path)
    if what == "text":
        assert path.read_text() == "my notes\n"


async def test_read_returns_any_report(trooper: TrooperClient, fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """`read` returns the report in the file, finished or not; a run without orders writes nothing, unless
    it is stored.
    """
    path = tmp_path / "report"
    with ReportFile(path) as file:
        assert file.read() is None
        file.store(await trooper.fleet.stop([], on_progress=file))
    with ReportFile(path) as file:
        empty = file.read()
        assert empty is not None
        assert (file.report, empty.outcomes) == (None, ())
        before = datetime.now(UTC)
        await trooper.fleet.stop([fake_trooper.add_order()], on_progress=file)
        stored = file.read()
    assert stored is not None
    (outcome,) = stored.succeeded
    assert outcome.sent_at is not None
    assert before <= outcome.sent_at <= datetime.now(UTC)
    assert file.report is None


async def test_an_action_that_was_not_sent_has_no_time(trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """Neither a server that was left alone, nor one whose request was refused."""
    there, refused = fake_trooper.add_order(status="stopped"), fake_trooper.add_order()
    fake_trooper.fail_next("/api/order-status", status=400)
    report = await trooper.fleet.stop([there, refused])
    assert [(outcome.sent, outcome.sent_at) for outcome in report.outcomes] == [(False, None), (False, None)]


PENDING = FleetReport((FleetOutcome(1, "stop"), FleetOutcome(2, "stop")))


async def test_the_report_of_another_run_is_kept(
    trooper: TrooperClient, fake_trooper: FakeTrooper, tmp_path: Path
) -> None:
    """A run of other orders is refused before it sends anything: the first run can still be resumed."""
    path = tmp_path / "report"
    with ReportFile(path) as file:
        file.store(PENDING)
    text = f"ReportFile: {path} holds the report of another run: resume that one, or name another file"
    with ReportFile(path) as file:
        with pytest.raises(ConfigurationError, match=exactly(f"{text}: nothing was sent")):
            await trooper.fleet.stop([fake_trooper.add_order()], on_progress=file)
        assert file.read() == PENDING
    assert fake_trooper.sent("/api/order-status") == []


def test_a_resumed_run_always_has_its_report_on_disk(tmp_path: Path) -> None:
    """The file is appended to and not emptied first: the process may be killed right then."""
    path = tmp_path / "report"
    with ReportFile(path) as file:
        file.store(PENDING)
    before = path.read_text()
    with ReportFile(path) as file:
        file.store(PENDING)
    assert path.read_text() == 2 * before
    with ReportFile(path) as file:
        file.store(FleetReport(PENDING.outcomes[:1]))
        assert file.read() == FleetReport(PENDING.outcomes[:1])


@pytest.mark.parametrize("length", [1, 20, 60, -1])
def test_a_kill_during_the_first_line_leaves_a_usable_file(tmp_path: Path, length: int) -> None:
    """Nothing had been sent: the file has no report."""
    path = tmp_path / "report"
    path.write_text(PENDING.to_json()[:length])
    with ReportFile(path) as file:
        assert (file.report, file.read()) == (None, None)
        file.store(PENDING)
        assert file.read() == PENDING


def test_a_torn_line_is_not_continued_by_the_next_one(tmp_path: Path) -> None:
    """A run killed while writing a line, even within a character, is resumed into a file that can be read again."""
    path = tmp_path / "report"
    path.write_bytes(f"{PENDING.to_json()}\n{PENDING.to_json()[:40]}é".encode()[:-1])
    for _ in range(2):
        with ReportFile(path) as file:
            assert file.report == PENDING
            file.store(PENDING)
            assert file.read() == PENDING


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing fails, and can be repeated once there is room."""
    path = tmp_path / "report"
    write, room = os.write, 30

    def full(file: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(28, "No space left on device")
        written, room = write(file, data[:room]), 0
        return written

    with ReportFile(path) as file:
        file.store(PENDING)
        before = path.read_text()
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            file.store(PENDING)
        monkeypatch.undo()
        assert path.read_text() == before
        file.store(PENDING)
        assert file.read() == PENDING


def test_a_file_removed_meanwhile_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run may remove its empty file between the moment it is opened here and the lock."""
    path, real = tmp_path / "report", os.open

    def removed(name: Path, flags: int, mode: int) -> int:
        file = real(name, flags, mode)
        path.unlink()
        return file

    monkeypatch.setattr(os, "open", removed)
    with pytest.raises(
        ConfigurationError,
        match=exactly(f"ReportFile: {path} is the report of a run that has not finished: nothing was sent"),
    ):
        ReportFile(path)
    monkeypatch.undo()
    ReportFile(path).close()


def test_a_report_without_a_final_newline_is_accepted(tmp_path: Path) -> None:
    """`to_json` written by other means has no newline at the end."""
    path = tmp_path / "report"
    path.write_text(PENDING.to_json())
    with ReportFile(path) as file:
        assert file.report == PENDING
        file.store(PENDING)
    assert path.read_text() == PENDING.to_json() + "\n"
