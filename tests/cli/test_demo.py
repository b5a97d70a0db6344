"""demo: any command, and a prompt, on the embedded fake."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator

import pytest
from rich.console import Console

from trooper_async.cli import _demo
from trooper_async.cli._app import run
from trooper_async.cli._errors import FailedError
from trooper_async.testing import FakeTrooper


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_demo, "DURATIONS", dict.fromkeys(_demo.DURATIONS, 0.05))


def say(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_demo_runs_one_command_on_the_fake(capsys: pytest.CaptureFixture[str]) -> None:
    """`demo -- COMMAND` runs it without a key, passes --json on, and ends with its status."""
    assert run(["demo", "--", "ps", "--json"]) == 0
    assert '"title": "training llama 1"' in capsys.readouterr().out
    assert run(["demo", "--json", "--", "ping"]) == 0
    assert '"test"' in capsys.readouterr().out
    assert run(["demo", "--", "stop", "999"]) == 1
    assert "it is not in the list of orders" in capsys.readouterr().err
    assert "FakeTrooper" not in {thread.name for thread in threading.enumerate()}


def test_the_prompt_keeps_one_fleet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Successive commands see the same servers; comments, blank lines and typos do no harm."""
    say(
        monkeypatch,
        "rename 123 renamed",
        "",
        "# a comment",
        "trooper ps",
        "nope",
        "open 'quote",
        "demo",
        "ssh 123",
        "exit",
        "ps",
    )
    assert run(["demo"]) == 0
    said = "".join(capsys.readouterr())
    assert said.count("renamed") == 2
    assert "No such command 'nope'" in said
    assert "No closing quotation" in said
    assert "you are in it" in said
    assert "this would run: ssh -p" in said


def test_ctrl_c_at_the_prompt_only_ends_the_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C at the prompt gives another prompt; the end of input leaves it."""
    lines: Iterator[str | BaseException] = iter([KeyboardInterrupt(), "rename 123 renamed", EOFError()])

    def typed(*_: object) -> str:
        line = next(lines)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr(Console, "input", typed)
    assert run(["demo"]) == 0
    assert "order 123 is called renamed" in capsys.readouterr().out


def test_the_tour_runs_its_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`tour` runs its commands one after the other, and every one of them works."""
    say(monkeypatch, "tour")
    assert run(["demo"]) == 0
    said = "".join(capsys.readouterr())
    for command in _demo.TOUR:
        assert f"trooper> {command}" in said
    assert "error:" not in said
    assert "order 131: running" in said


def test_without_a_terminal_the_tour_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal the tour runs by itself."""
    say(monkeypatch)
    assert run(["demo"]) == 0
    assert f"trooper> {_demo.TOUR[-1]}" in capsys.readouterr().err


def test_a_fake_that_cannot_listen_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a loopback interface the command says so and ends."""

    def no_loopback(self: FakeTrooper) -> None:
        raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr(FakeTrooper, "start", no_loopback)
    with pytest.raises(FailedError, match="can't listen"), _demo.fake_fleet({}):
        pass
