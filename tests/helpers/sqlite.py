"""What DBOS needs of SQLite on Python 3.12 and newer: `unixepoch('subsec')`, which SQLite has since 3.42."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine


@event.listens_for(Engine, "connect")
def _supply_subseconds(connection: Any, record: object) -> None:
    if isinstance(connection, sqlite3.Connection) and sqlite3.sqlite_version_info < (3, 42):
        connection.create_function("unixepoch", 1, lambda modifier: round(time.time(), 3))
