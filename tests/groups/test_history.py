"""Since when a server has been running or stopped, according to its status history."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from trooper_async import StatusChange
from trooper_async._groups.history import RUNNING, STOPPED, since
from trooper_async.testing import FakeTrooper


def at(hour: int) -> datetime:
    return datetime(2026, 3, 1, hour, tzinfo=UTC)


def row(word: str, hour: int | None, row_id: int = 0) -> StatusChange:
    return StatusChange(word, None if hour is None else at(hour), id=row_id)


@pytest.mark.parametrize(
    ("history", "hour"),
    [
        ([], None),
        ([row("running", 5)], 5),
        ([row("stopped", 5)], None),
        ([row("running", 5), row("stopped", 3), row("running", 1)], 5),
        ([row("stopped", 3), row("running", 5), row("running", 1)], 5),  # in any order
        ([row("running", 5, 1), row("stopped", 3, 2)], 5),  # whatever the ids say
        ([row("stopped", 5), row("running", 3)], None),
        ([row("RUNNING", 5), row("starting", 4), row("stopped", 3)], 5),
        ([row("running", 8), row("restarted", 7), row("running", 5), row("frozen", 2)], 5),
        ([row("restarted", 7), row("running", 5), row("stopped", 2)], 5),
        ([row("restarted", hour) for hour in range(5)], 0),
        ([row("running", 5), row("stopped", None)], None),
        ([row("running", None)], None),
        ([row("running", 5), row("stopped", 5)], None),
        ([row("running", 6), row("running", 5), row("stopped", 5)], 6),
        ([row("odd word", 6), row("running", 5)], None),
    ],
)
def test_running_since_is_the_oldest_row_of_the_current_run(history: list[StatusChange], hour: int | None) -> None:
    """The oldest of the newest consecutive running rows; None if rows are missing, and never too early."""
    assert since(history, RUNNING) == (None if hour is None else at(hour))


@pytest.mark.parametrize(
    ("history", "hour"),
    [
        ([], None),
        ([row("stopped", 5), row("running", 3)], 5),
        ([row("stopped", 3), row("running", 5)], None),
        ([row("stopped", 5), row("running", 4), row("stopped", 1)], 5),
        ([row("Stopped", 6), row("stopped", 5), row("running", 4)], 5),
        ([row("frozen", 6), row("stopped", 5)], None),
        ([row("stopped", 5), row("running", None)], None),
    ],
)
def test_stopped_since_is_the_oldest_row_of_the_current_stop(history: list[StatusChange], hour: int | None) -> None:
    """The same for a stopped server."""
    assert since(history, STOPPED) == (None if hour is None else at(hour))


async def test_running_since_and_stopped_since_read_the_history() -> None:
    """Both read the current history and do not rely on the last known order."""
    async with FakeTrooper() as fake, fake.client() as trooper:
        order = fake.add_order(status="stopped")
        assert await trooper.orders.running_since(order) is None
        began = datetime.now(UTC)
        await trooper.orders.start_and_wait(order)
        since = await trooper.orders.running_since(order.order_id)
        assert since is not None
        assert abs((since - began).total_seconds()) < 60
        assert await trooper.orders.stopped_since(order) is None
        stopped = datetime.now(UTC)
        await trooper.orders.stop_and_wait(order)
        assert await trooper.orders.running_since(order) is None
        since = await trooper.orders.stopped_since(order)
        assert since is not None
        assert abs((since - stopped).total_seconds()) < 60
