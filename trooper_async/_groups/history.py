"""What can be read from an order's status history."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from trooper_async.models import StatusChange

# Words of a running server. A restart does not end a run: some servers keep `restarted` as their last word.
_RUNNING = ("running", "restarting", "restarted")


def stopped_since(history: Iterable[StatusChange]) -> datetime | None:
    """When the server with this history was stopped; None if it is not stopped, or if that is unknown."""
    return _since(history, ("stopped",))


def running_since(history: Iterable[StatusChange]) -> datetime | None:
    """When the server with this history began to run; None if it does not run, or if that is unknown."""
    return _since(history, _RUNNING)


def _since(history: Iterable[StatusChange], words: tuple[str, ...]) -> datetime | None:
    rows: list[tuple[datetime, bool]] = []
    for row in history:
        if row.status_since is None:
            return None  # it may be the newest: neither the rows' order nor their ids say
        rows.append((row.status_since, row.status_user.casefold() in words))
    since: datetime | None = None
    # of rows with the same time, one that does not fit counts as newer, so that the time is never overestimated
    for time, fits in sorted(rows, key=lambda row: (row[0], not row[1]), reverse=True):
        if not fits:
            break
        since = time
    return since
