"""The file in which purchases are recorded: JSON lines, appended and made durable, locked while it is open.

A line is the whole record of a purchase as it stands; the last one of a purchase counts. A last line without its end
(the process was killed while writing it) is ignored: an intent that was not written whole was never sent, and a
purchase whose outcome was not is open, so its outcome is unknown. No key and no password is ever in it.
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

_MARK = "trooper_ledger"


class Ledger:
    """An open ledger file. It belongs to the process that opened it. Its methods block: they are for a thread.

    Raises:
        ConfigurationError: it can't be opened, somebody else has it open, or it is not a ledger that this release
            can read. The file is left as it was.
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
            # a FileIO closes itself, and warns, when its client is forgotten
            self._file = io.FileIO(self._path, "a+", opener=lambda path, flags: os.open(path, flags, 0o600))
        except (OSError, ValueError) as error:
            self._refuse(f"can't be opened ({getattr(error, 'strerror', error)})")
        try:
            self._lock()
            data = self._read()
            self.records = records_of(data, self._path)
            """By purchase id, as they were when it was opened."""
            self._size = data.rfind(b"\n") + 1
            """Bytes up to the end of the last whole line."""
            self._torn = self._size < len(data)
            os.fchmod(self._file.fileno(), 0o600)
            if created:
                _sync_folder(self._path)
        except OSError as error:
            self.close()
            self._refuse(f"can't be read ({error.strerror})")
        except ConfigurationError:
            self.close()
            raise

    def append(self, record: Record) -> None:
        """Write a record, and return when it is on the disk.

        Raises:
            ConfigurationError: it can't be written, or the file is not the one that was opened any more.
        """
        if self._file.closed:
            self._refuse("is closed")
        is_intent = record.purchase.state == "open"
        kept = record if is_intent else evolve(record, blib=None, before=())
        line = stored.write(kept, _MARK).encode() + b"\n"
        try:
            size = os.fstat(self._file.fileno()).st_size
            if is_intent:  # what has an outcome is written wherever it may still be of use
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
            self._refuse(f"can't be written ({error.strerror})")

    def close(self) -> None:
        """Unlock it, also where a forked process still holds the descriptor, and close it."""
        if not self._file.closed:
            self._fcntl.flock(self._file, self._fcntl.LOCK_UN)
        self._file.close()

    def _lock(self) -> None:
        try:
            self._fcntl.flock(self._file, self._fcntl.LOCK_EX | self._fcntl.LOCK_NB)
        except BlockingIOError:
            self._refuse("is open in another client or process: one at a time")

    def _read(self) -> bytes:
        size = os.fstat(self._file.fileno()).st_size
        data = b""
        while len(data) < size and (part := os.pread(self._file.fileno(), size - len(data), len(data))):
            data += part
        return data

    def _check_file(self, size: int) -> None:
        """The open file is still the one at its path, and has the `size` that it was left with."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            found = None
        if found is None or not os.path.samestat(os.fstat(self._file.fileno()), found):
            self._refuse("was removed or replaced while it was open: make a new client")
        if size != self._size:
            self._refuse("was changed by another program while it was open: make a new client")

    def _refuse(self, what: str) -> NoReturn:
        refuse(self._path, what)


def refuse(path: str, what: str) -> NoReturn:
    raise ConfigurationError(f"the ledger {path} {what}") from None


def path_of(path: object) -> str:
    """The path of a ledger: that of a regular file, or of nothing yet."""
    try:
        name = os.fspath(path)  # type: ignore[call-overload]  # anything else is refused below
    except TypeError:
        name = None
    if not isinstance(name, str):
        raise ConfigurationError(f"ledger must be a path, not {path!r:.40}")
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):
        return name  # opening it says what is wrong, if anything is
    if not stat.S_ISREG(mode):
        refuse(name, "can't be opened (it is not a regular file)")
    return name


def records_of(data: bytes, path: str) -> dict[str, Record]:
    """The records in a ledger's bytes, by purchase id.

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
        if known is not None and record.purchase.state != "open":  # only the intent says what there was before
            record = evolve(record, blib=known.blib, before=known.before)
        records[record.purchase.id] = record
    return records


def _sync_folder(path: str) -> None:
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
