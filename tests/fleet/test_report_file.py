"""A report in a file: continued after a kill, locked, and as cheap for the last order as for the first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trooper_async import ConfigurationError, FleetReport, ReportFile, TrooperClient
from trooper_async.testing import FakeTrooper


async def test_a_run_that_was_killed_is_continued(
    trooper: TrooperClient, fake_trooper: FakeTrooper, tmp_path: Path
) -> None:
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


async def test_each_change_adds_a_line_of_its_own(
    trooper: TrooperClient, fake_trooper: FakeTrooper, tmp_path: Path
) -> None:
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


def test_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    """The process was killed while it wrote: what the line says had not been sent."""
    path = tmp_path / "report"
    with ReportFile(path):
        pass
    text = FleetReport(()).to_json()
    assert FleetReport.from_json(f"{text}\n{text[:20]}") == FleetReport(())
    with pytest.raises(ConfigurationError):
        FleetReport.from_json(f"{text[:20]}\n{text}\n")


def test_two_runs_cannot_have_one_file(tmp_path: Path) -> None:
    """The file is locked while it is open."""
    path = tmp_path / "report"
    with ReportFile(path), pytest.raises(ConfigurationError, match="still going on"):
        ReportFile(path)
    ReportFile(path).close()


@pytest.mark.parametrize("what", ["text", "folder", "device", "missing folder"])
def test_what_is_no_report_is_left_as_it_is(tmp_path: Path, what: str) -> None:
    """Another file, a folder or a device is refused, and not written to."""
    path = tmp_path / "file"
    match what:
        case "text":
            path.write_text("my notes\n")
        case "folder":
            path.mkdir()
        case "device":
            path = Path(os.devnull)
        case _:
            path = tmp_path / "none" / "file"
    with pytest.raises(ConfigurationError, match="nothing was sent"):
        ReportFile(path)
    if what == "text":
        assert path.read_text() == "my notes\n"
