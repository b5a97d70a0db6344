"""What can be read from an order's status history."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from trooper_async.models import StatusChange

RUNNING = ("running", "restarting", "restarted")
"""Words of a running server. A restart does not end a run: some servers keep `restarted` as their last word."""
STOPPED = ("stopped",)


def since(history: Iterable[StatusChange], words: Collection[str]) -> datetime | None:
    """Since when the server with this history has had one of these statuses; None if it has not, or if that is
    unknown.
    """
    rows: list[tuple[datetime, bool]] = []
    for row in history:
        if row.status_since is None:
            return None  # it may be the newest: neither the rows' order nor their ids say
        rows.append((row.status_since, row.status_user.casefold() in words))
    first: datetime | None = None
    # of rows with the same time, one that does not fit counts as newer, so that the time is never overestimated
    for time, fits in sorted(rows, key=lambda row: (row[0], not row[1]), reverse=True):
        if not fits:
            break
        first = time
    return first
