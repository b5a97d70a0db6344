"""A separate Postgres server, in a temporary folder, as a user that is not root."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def binaries() -> Path | None:
    """The folder of `initdb` and `postgres`, if this machine has them."""
    found = shutil.which("postgres")
    if found is not None and (folder := Path(found).resolve().parent).joinpath("initdb").exists():
        return folder
    return max((path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")), default=None)


class Postgres:
    """A running server: `url` of its database, and `stop` and `start` for one that goes away."""

    def __init__(self, folder: Path, *settings: str) -> None:
        bin_folder = binaries()
        if bin_folder is None:
            raise RuntimeError("Postgres is not installed: apt-get install postgresql")
        self._bin, self._folder, self._settings = bin_folder, folder, settings
        self._user = pwd.getpwnam("nobody").pw_uid if os.getuid() == 0 else None
        self._port = _free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        if self._user is not None:
            os.chown(folder, self._user, -1)
        self._run("initdb", "-D", str(folder / "data"), "-U", "postgres", "-A", "trust", "--no-sync")
        self.start()

    def start(self) -> None:
        settings = [f"-c{setting}" for setting in self._settings]
        where = ["-D", str(self._folder / "data"), "-k", str(self._folder), "-p", str(self._port)]
        self._process = subprocess.Popen(
            [self._bin / "postgres", *where, *settings], user=self._user, stderr=subprocess.DEVNULL, cwd=self._folder
        )
        while subprocess.run(
            [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self._port)], check=False
        ).returncode:
            if self._process.poll() is not None:
                raise RuntimeError("postgres ended at once")

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)  # its fast shutdown: connections are cut
        self._process.wait()

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._bin / program, *arguments], user=self._user, check=True, capture_output=True, cwd=self._folder
        )


def _free_port() -> int:
    """A port that the system assigns to no other process, so that it is free until the server has started."""
    for port in random.SystemRandom().sample(range(20_000, 30_000), 100):
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


@contextmanager
def postgres(*settings: str) -> Iterator[Postgres]:
    """A server with an empty database, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="trooper-postgres-"))
    try:
        folder.chmod(0o700)
        server = Postgres(folder, *settings)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
