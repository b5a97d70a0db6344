"""The command in this process, against the demo's fleet in a thread."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, frozen

from trooper_async import PollSchedule, RetryPolicy
from trooper_async.cli._app import run
from trooper_async.cli._demo import fake_fleet
from trooper_async.cli._settings import Settings
from trooper_async.testing import FakeTrooper

PASSWORD = "pw-of-the-server-42"
ON_ITS_WAY = 130


@frozen
class Ran:
    """The result of a run of the command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # any JSON that the command wrote
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of the error."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in self.err
        return line.removeprefix("error: ")


Trooper = Callable[..., Ran]


@pytest.fixture
def fake() -> Iterator[FakeTrooper]:
    """The demo's fleet, orders 123 to 129, and 130, which is starting and stays so; other transitions take 0.05 s."""
    with fake_fleet({"start": 86_400.0}) as fake:
        fake.durations["start"] = 0.05
        for order_id in range(123, ON_ITS_WAY + 1):
            fake._server(order_id).password = PASSWORD
        yield fake


@pytest.fixture
def settings(fake: FakeTrooper, tmp_path: Path) -> Settings:
    return Settings(
        fake.api_key,
        fake.url,
        tmp_path / "state" / "purchases.jsonl",
        {"poll": PollSchedule(floor=0.02, cap=0.1), "retry": RetryPolicy(max_delay=0.0)},
    )


@pytest.fixture
def trooper(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ran]:
    """`trooper("stop", "123", answers="y\n", api_key=…)`; without `answers`, stdin is at its end."""

    def ran(*arguments: str, answers: str = "", **changes: Any) -> Ran:  # of Settings
        monkeypatch.setattr("sys.stdin", io.StringIO(answers))
        capsys.readouterr()
        status = run(arguments, evolve(settings, **changes))
        said = capsys.readouterr()
        return Ran(status, said.out, said.err)

    return ran


def sent(fake: FakeTrooper, path: str) -> list[Any]:  # decoded bodies
    """The bodies of the requests to a path."""
    return [request.json for request in list(fake.requests) if request.path == path]


def environment(fake: FakeTrooper, home: Path) -> dict[str, str]:
    """The environment of a user who has this fake's key and nothing else."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TROOPER", "COV_", "XDG", "NO_C", "COLUMNS", "LINES"))
    }
    return {**kept, "HOME": str(home), "TROOPER_API_KEY": fake.api_key, "TROOPER_BASE_URL": fake.url}


def interrupted(
    trooper: Trooper,
    fake: FakeTrooper,
    number: signal.Signals,
    path: str,
    *arguments: str,
    when: Callable[[], bool] = lambda: True,
    then: Callable[[], object] = lambda: None,
) -> Ran:
    """Runs it, and sends the signal once the path was requested and `when` holds; `then` is called once it
    has arrived.
    """
    loops = asyncio.SelectorEventLoop
    add = loops.add_signal_handler

    def is_time() -> bool:
        return any(request.path == path for request in list(fake.requests)) and when()

    with pytest.MonkeyPatch.context() as patch, meanwhile(is_time, lambda: os.kill(os.getpid(), number)):
        patch.setattr(
            loops, "add_signal_handler", lambda loop, number, call: add(loop, number, lambda: (call(), then()))
        )
        return trooper(*arguments)


@contextmanager
def meanwhile(condition: Callable[[], object], do: Callable[[], object], *, again: bool = False) -> Iterator[None]:
    """While the block runs, another thread acts once the condition holds, or each time that it does."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            if condition():
                do()
                if not again:
                    return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Clock:
    """The clock of the command's event loops, which any thread can put forward; not of the fake's, in its own thread:
    its server would end the connections that were kept.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._ahead = 0.0
        self._loops: set[asyncio.AbstractEventLoop] = set()
        patch.setattr(asyncio.BaseEventLoop, "time", lambda loop: self._time(loop))

    def _time(self, loop: asyncio.AbstractEventLoop) -> float:
        if threading.current_thread() is not threading.main_thread():
            return time.monotonic()
        self._loops.add(loop)
        return time.monotonic() + self._ahead

    @contextmanager
    def forward(self, seconds: float, *, once: Callable[[], object]) -> Iterator[None]:
        """While the block runs, the clock is put forward once the condition holds."""

        def put() -> None:
            self._ahead += seconds
            for loop in list(self._loops):
                with suppress(RuntimeError):  # closed
                    loop.call_soon_threadsafe(int)  # one that sleeps looks at its clock again

        with meanwhile(once, put):
            yield


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)
