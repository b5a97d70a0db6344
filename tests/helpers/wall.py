"""A wall clock that a test sets, for a program in this or another process."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from tests.helpers.conditions import until


class Wall:
    """The clock is two files in a folder: the time, which stands still until it is set, and a byte for each reading."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._time, self._looks = folder / "time", folder / "looks"

    def set(self, now: datetime) -> None:
        """Set the clock."""
        new = self._time.with_suffix(".new")
        new.write_text(now.isoformat())
        new.replace(self._time)

    def __call__(self) -> datetime:
        """Read the clock."""
        with self._looks.open("ab") as looks:
            looks.write(b".")
        return datetime.fromisoformat(self._time.read_text())

    async def is_looked_at(self) -> None:
        """Wait until the program has read this time, done what it does about it, and read the clock again."""
        looks = self._count()
        await until(lambda: self._count() >= looks + 4)

    def _count(self) -> int:
        return self._looks.stat().st_size if self._looks.exists() else 0
