"""The file that records purchases: JSON lines, appended and synced to disk, locked while it is open.

Each line is the whole record of a purchase at that time; the last line of a purchase counts. An incomplete last line
(the process was killed while writing it) is ignored: if it was an intent, nothing was sent; if it was an outcome, the
purchase is still open, so its outcome is unknown. The file never holds a key or a password.
"""

from __future__ import annotations

import io
import os
import stat
from typing import NoReturn

from attrs import evolve

from trooper_async._base import stored
from trooper_async._buying.record import Record
from trooper_async.errors import ConfigurationError
from trooper_async.models import Purchase

_MARK = "trooper_ledger"


class Ledger:
    """An open ledger file. It belongs to the process that opened it. Its methods block, so call them in a thread.

    Raises:
        ConfigurationError: it cannot be opened, another process has it open, or it is not a ledger that this release
            can read. The file is unchanged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            import fcntl
        except ImportError:
            refuse(os.fspath(path), "can't be locked: a ledger needs a POSIX system (Linux, macOS)")
        self._fcntl = fcntl
        self._path = path_of(path)
        self._torn = False
        try:
            created = not os.path.exists(self._path)
            # a FileIO that is never closed is closed when it is collected, with a ResourceWarning
            self._file = io.FileIO(self._path, "a+", opener=lambda path, flags: os.open(path, flags, 0o600))
        except (OSError, ValueError) as error:
            refuse(self._path, f"can't be opened ({getattr(error, 'strerror', error)})")
        try:
            self._fcntl.flock(self._file, self._fcntl.LOCK_EX | self._fcntl.LOCK_NB)
            self._file.seek(0)
            data = self._file.readall()
            self.records = records_of(data, self._path)
            """By purchase id, as of the opening."""
            self._size = data.rfind(b"\n") + 1
            """How many bytes there are up to the end of the last whole line."""
            self._torn = self._size < len(data)
            os.fchmod(self._file.fileno(), 0o600)
            if created:
                _sync_folder(self._path)
        except (OSError, ConfigurationError) as error:
            self.close()
            if isinstance(error, BlockingIOError):
                refuse(self._path, "is open in another client or process: one at a time")
            if isinstance(error, OSError):
                refuse(self._path, f"can't be read ({error.strerror})")
            raise

    def append(self, record: Record) -> None:
        """Append a record, and return when it is on disk.

        Raises:
            ConfigurationError: it cannot be written, or the file is no longer the one that was opened.
        """
        is_intent = record.purchase.state == "open"
        stored_record = record if is_intent else evolve(record, blib=None, before=())
        line = stored.write(stored_record, _MARK).encode() + b"\n"
        try:
            size = os.fstat(self._file.fileno()).st_size
            if is_intent:  # an outcome is written even to a file that was replaced, since it may still help
                self._check_file(self._size if self._torn and size > self._size else size)
            if self._torn and size > self._size:
                os.ftruncate(self._file.fileno(), self._size)
            self._torn = True
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
            os.fsync(self._file.fileno())
            self._torn = False
            self._check_file(os.fstat(self._file.fileno()).st_size - len(line))
            self._size += len(line)
        except OSError as error:
            refuse(self._path, f"can't be written ({error.strerror})")

    def close(self) -> None:
        """Unlock it, even if a forked process still holds the descriptor, and close it."""
        if not self._file.closed:
            self._fcntl.flock(self._file, self._fcntl.LOCK_UN)
        self._file.close()

    def _check_file(self, size: int) -> None:
        """Check that the open file is still the one at its path and has the `size` that this process left."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            found = None
        if found is None or not os.path.samestat(os.fstat(self._file.fileno()), found):
            refuse(self._path, "was removed or replaced while it was open: make a new client")
        if size != self._size:
            refuse(self._path, "was changed by another program while it was open: make a new client")


def refuse(path: str, what: str) -> NoReturn:
    raise ConfigurationError(f"the ledger {path} {what}") from None


def path_of(path: object) -> str:
    """The path of a ledger: of a regular file, or of a file that does not exist yet."""
    try:
        name = os.fspath(path)  # type: ignore[call-overload]  # anything else is refused below
    except TypeError:
        name = None
    if not isinstance(name, str):
        raise ConfigurationError(f"ledger must be a path, not {path!r:.40}")
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):
        return name  # if something is wrong, opening it raises the error
    if not stat.S_ISREG(mode):
        refuse(name, "can't be opened (it is not a regular file)")
    return name


def records_of(data: bytes, path: str) -> dict[str, Record]:
    """Read the records in a ledger's bytes, by purchase id.

    Raises:
        ConfigurationError: a whole line is not a record of this release.
    """
    records: dict[str, Record] = {}
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            record = stored.read(line.decode(), _MARK, Record)
        except (ConfigurationError, UnicodeDecodeError) as error:
            problem = error.message if isinstance(error, ConfigurationError) else "not UTF-8"
            refuse(path, f"is not a ledger, or it is damaged (line {number}: {problem})")
        known = records.get(record.purchase.id)
        if known is not None and record.purchase.state != "open":  # only the intent's line has the orders from before
            record = evolve(record, blib=known.blib, before=known.before)
        records[record.purchase.id] = record
    return records


def read_ledger(path: str | os.PathLike[str]) -> tuple[Purchase, ...]:
    """The purchases in a ledger as they were last written. It is not locked: another process may be buying with it.

    Args:
        path: the `ledger` of a client.

    Returns:
        The purchases, the oldest first; none if there is no such file. An `open` one is in flight, or its process ended
        before the outcome was written.

    Raises:
        ConfigurationError: the file cannot be read, or is not a ledger that this release can read.
    """
    name = path_of(path)
    try:
        with open(name, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        refuse(name, f"can't be read ({getattr(error, 'strerror', error)})")
    return tuple(record.purchase for record in records_of(data, name).values())


def _sync_folder(path: str) -> None:
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
