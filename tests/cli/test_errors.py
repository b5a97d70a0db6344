"""Every command with an API that refuses, fails, or loses responses: exit status, one line, no secrets."""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.cli.conftest import PASSWORD, Clock, Trooper, environment
from tests.cli.terminal import COMMAND, command
from tests.helpers.fake_orders import polls_since
from trooper_async import cli, errors
from trooper_async.cli import _app, _errors
from trooper_async.cli._context import Cli
from trooper_async.cli._errors import FailedError
from trooper_async.cli._settings import Settings
from trooper_async.testing import FakeTrooper

# The request that each command is about.
COMMANDS = {
    "/api/orders": [["ps"], ["cost"], ["wait", "123"], ["stop", "--all", "--yes"]],
    "/api/blibs": [["gpus"]],
    "/api/test": [["ping"]],
    "/api/order": [["order", "3", "--yes", "--max-price-h", "1", "--accept-terms"]],
    "/api/order-status": [["start", "125"], ["stop", "123"], ["freeze", "123"], ["restart", "123"]],
    "/api/order-title": [["rename", "123", "x"]],
    "/api/order-lock": [["lock", "123"], ["unlock", "123"]],
    "/api/credentials": [["credentials", "123"], ["ssh", "123", "--json"]],
    "/api/order-status-history": [["history", "123"]],
    "/api/migration-options": [["migrate", "options", "128"]],
    "/api/migration-cost": [["migrate", "quote", "128", "1"]],
    "/api/buy-migration": [["migrate", "buy", "128", "1", "--keep-data", "--yes", "--max-total-due", "999"]],
    "/api/templates": [["templates", "list"]],
    "/api/template-config": [["templates", "installs", "123"]],
    "/api/template-install-add": [["templates", "install", "123", "1"]],
    "/api/template-install-delete": [["templates", "remove", "1"]],
    "/api/template-install-retry": [["templates", "retry", "1"]],
}
CASES = [
    pytest.param(path, words, id="-".join(words[:2])) for path, all_words in COMMANDS.items() for words in all_words
]
ONCE = {"restart", "order", "install", "retry", "buy"}


def test_every_command_is_tested() -> None:
    """A command that is not in these cases is listed by name: it makes no request of its own, or several."""
    covered = {words[0] for all_words in COMMANDS.values() for words in all_words}
    assert set(_app.app.list_commands(click.Context(_app.app))) - covered == {
        "resume",
        "watch",
        "purchases",
        "doctor",
        "demo",
        "show",
        "config",
        "completion",
        "ssh-config",
    }


@pytest.mark.parametrize(("path", "words"), CASES)
def test_a_refused_key_exits_with_3(trooper: Trooper, fake: FakeTrooper, path: str, words: list[str]) -> None:
    """401: one line, a hint, status 3, nothing on stdout."""
    fake.fail_next(path, status=401, times=50)
    ran = trooper(*words, "--json")
    assert ran.status == 3
    assert "the API returned 401" in ran.error
    assert "hint:  check the API key" in ran.err


@pytest.fixture
def time_passes(fake: FakeTrooper, path: str, words: list[str], clock: Clock) -> Iterator[None]:
    """What waits meets its deadline after the first failure that is logged, and again once it waits for the outcome."""
    failed, logger = threading.Event(), logging.getLogger("trooper_async")
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: failed.set()  # type: ignore[method-assign]  # a class for one line is more
    logger.addHandler(handler)
    waits = words[0] in {"wait", "ssh", "start", "stop", "freeze", "restart"}
    switches = path == "/api/order-status"
    with (
        clock.forward(10_000, once=lambda: waits and failed.is_set()),
        clock.forward(10_000, once=lambda: switches and polls_since(fake, path) > 1),
    ):
        yield
    logger.removeHandler(handler)


@pytest.mark.usefixtures("time_passes")
@pytest.mark.parametrize(("path", "words"), CASES)
def test_a_lasting_rate_limit_exits_with_1(trooper: Trooper, fake: FakeTrooper, path: str, words: list[str]) -> None:
    """429 for longer than a call, or a wait, may take: status 1."""
    fake.fail_next(path, status=429, times=50, retry_after=300)
    ran = trooper(*words, "--json")
    assert ran.status == 1
    assert "429" in ran.error or "a 429 of fail_next" in ran.error or "rate limited" in ran.error


@pytest.mark.usefixtures("time_passes")
@pytest.mark.parametrize(("path", "words"), CASES)
def test_a_failing_api_exits_with_1_or_4(trooper: Trooper, fake: FakeTrooper, path: str, words: list[str]) -> None:
    """Repeated 500s: 1; 4 for once-only calls, since they may have been carried out. Stop, freeze and start are sent
    until their deadline; one that is then in flight may have been carried out, too.
    """
    fake.fail_next(path, status=500, times=10**6)
    ran = trooper(*words, "--json")
    assert ran.status in ({4} if ONCE & set(words) else {1, 4} if path == "/api/order-status" else {1})
    assert ran.error


@pytest.mark.usefixtures("time_passes")
@pytest.mark.parametrize(("path", "words"), CASES)
def test_lost_responses_exit_with_1_or_4(trooper: Trooper, fake: FakeTrooper, path: str, words: list[str]) -> None:
    """Repeated lost responses: 1 for reads, 4 for what may have been carried out."""
    fake.drop_next(path, times=10**6)
    ran = trooper(*words, "--json")
    reads = path in {"/api/orders", "/api/blibs", "/api/test", "/api/credentials", "/api/order-status-history"}
    reads = reads or path in {"/api/migration-options", "/api/migration-cost", "/api/templates", "/api/template-config"}
    assert ran.status == (1 if reads else 4)
    assert ran.error


@pytest.mark.parametrize("words", [["ps"], ["stop", "123"], ["watch"], ["order", "3"], ["resume", __file__]])
def test_a_missing_key_exits_with_2(trooper: Trooper, fake: FakeTrooper, words: list[str]) -> None:
    """Without a key nothing is sent, and the hint says where it is looked for."""
    ran = trooper(*words, api_key=None)
    assert ran.status == 2
    if words[0] != "resume":
        assert ran.error == "there is no API key"
        assert "TROOPER_API_KEY" in ran.err
    assert fake.requests == []


def test_a_usage_error_is_one_line_with_a_hint(trooper: Trooper) -> None:
    """Unknown commands and options: status 2, and where to look."""
    for words in (["nope"], ["ps", "--nope"], ["history"], ["migrate", "nope"]):
        ran = trooper(*words)
        assert (ran.status, ran.out) == (2, "")
        assert ran.error
        assert "--help" in ran.err
        assert len(ran.err.splitlines()) == 2
    assert trooper().status == 2
    assert trooper("migrate").status == 2


def test_help_explains_statuses_completion_key_and_ledger(trooper: Trooper) -> None:
    """Exit statuses, completion, the places of key and ledger; each command has its own help; the version."""
    assert trooper("--version").out.startswith("trooper, version ")
    text = trooper("--help").out
    for needed in ("130  ended by Ctrl-C", "trooper completion", "config path", "XDG_STATE_HOME"):
        assert needed in text
    for name in _app.app.list_commands(click.Context(_app.app)):
        ran = trooper(name, "--help")
        assert ran.status == 0
        assert name in ran.out


def test_debug_shows_requests_and_tracebacks(trooper: Trooper, fake: FakeTrooper) -> None:
    """--debug prints a line for each request and the traceback, without the key; otherwise neither is printed."""
    fake.fail_next("/api/orders", status=400)
    loud = trooper("ps", "--debug")
    assert "GET /api/orders 400" in loud.err
    assert "Traceback" in loud.err
    assert fake.api_key not in loud.err
    fake.fail_next("/api/orders", status=400)
    quiet = trooper("ps").err
    assert "Traceback" not in quiet
    assert "GET /api/orders" not in quiet


def test_an_unexpected_exception_is_printed_without_its_text(trooper: Trooper, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one line without the exception's text, which may hold anything; --debug prints all of it."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("whatever it holds")

    monkeypatch.setattr(Cli, "client", broken)
    ran = trooper("ps")
    assert (ran.status, ran.error) == (1, "trooper itself failed (ZeroDivisionError)")
    assert "whatever it holds" not in ran.err
    assert "whatever it holds" in trooper("ps", "--debug").err


def test_a_failed_wait_after_a_lost_response_is_unknown(trooper: Trooper) -> None:
    """A wait that failed after a lost response is as unknown as that; of several errors, unknown counts first."""
    lost = errors.OutcomeUnknownError("lost")
    late = errors.WaitTimeoutError("late")
    assert _errors.exit_status(late) == 1
    late.__cause__ = lost
    assert _errors.exit_status(late) == 4
    refused = errors.AuthenticationError("no", status=401)
    closed = errors.ClientClosedError("closed")
    locked = errors.ServerLockedError("locked", status=403)
    assert _errors.partly([locked, lost, refused], 3).status == 4
    assert _errors.partly([refused, closed], 3).status == 3
    assert _errors.partly([locked, closed], 3).status == 1
    assert _errors.partly([refused, refused], 3).status == 3
    assert _errors.partly([closed, late], 3).status == 4
    assert isinstance(_errors.explained(closed), FailedError)


def test_titles_cannot_control_the_terminal(trooper: Trooper, fake: FakeTrooper) -> None:
    """Markup, escape sequences and direction marks in a title are shown, not executed."""
    fake.add_order(order_id=200, title="[red]\x1b[2J\x07\u202e[/red] :boom: \n x", status="[bold]odd\x1b[0m")
    for words in (["ps"], ["stop", "--all", "--title", "*red*"], ["cost"], ["wait", "200", "--timeout", "0.2"]):
        ran = trooper(*words)
        assert not any(mark in ran.err + ran.out for mark in "\x1b\x07\u202e")
        assert "[red]" in ran.out + ran.err or words[0] == "wait"
    row = next(order for order in trooper("ps", "--json").json if order["order_id"] == 200)
    assert row["title"].startswith("[red]\x1b[2J")  # as data it is complete
    assert "\x1b" not in trooper("ps", "--json").out


def test_no_output_has_a_secret(trooper: Trooper, fake: FakeTrooper, settings: Settings) -> None:
    """No command prints the key or a password, with and without --debug, whether it succeeds or fails."""
    said = []
    for all_words in COMMANDS.values():
        for words in all_words:
            for more in ([], ["--json"], ["--debug"]):
                ran = trooper(*words, *more)
                said.append(ran.out + ran.err)
    for words in (["doctor"], ["doctor", "--json", "--debug"], ["purchases"], ["ps", "--api-key", "x"]):
        ran = trooper(*words)
        said.append(ran.out + ran.err)
    for path in {request.path for request in fake.requests}:  # responses that echo the key
        fake.fail_next(path, status=400, times=9, body={"error": f"bad key {fake.api_key}"})
    refused = (["ps"], ["gpus"], ["stop", "123"], ["credentials", "123", "--show"])
    said.extend(trooper(*words, "--debug").err for words in refused)
    assert len(said) > 60
    for text in said:
        assert fake.api_key not in text
        assert PASSWORD not in text
    assert fake.api_key not in repr(settings)


def test_the_key_is_never_an_argument(trooper: Trooper) -> None:
    """There is no option for the key, and a value given for one is not repeated."""
    for words in (
        ["--api-key=the-key-itself", "ps"],
        ["ps", "--api-key", "the-key-itself"],
        ["ps", "--key=the-key-itself"],
    ):
        ran = trooper(*words)
        assert ran.status == 2
        assert "the-key-itself" not in ran.err


def test_without_the_extra_it_says_what_to_install() -> None:
    """Without click or rich: one line, and status 2; another missing module is an error of its own."""
    code = "import sys; sys.modules[{!r}] = None; sys.argv[1:] = ['ps']; from trooper_async.cli import main; main()"
    for missing in ("click", "rich"):
        ran = subprocess.run([sys.executable, "-c", code.format(missing)], capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr == "trooper: its packages are missing: pip install 'trooper-async[cli]'\n"
    ran = subprocess.run([sys.executable, "-c", code.format("attrs")], capture_output=True, text=True, check=False)
    assert ran.returncode == 1


def test_main_exits_with_the_status_of_argv(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It exits with the status of the command in argv; if the extra is missing, with 2."""
    monkeypatch.setattr("sys.argv", ["trooper", "nope"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    monkeypatch.setitem(sys.modules, "click", None)
    monkeypatch.delitem(sys.modules, "trooper_async.cli._app")
    monkeypatch.delattr(cli, "_app")
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "pip install 'trooper-async[cli]'" in capsys.readouterr().err


def test_a_closed_pipe_ends_quietly(fake: FakeTrooper, tmp_path: Path) -> None:
    """`trooper ps --json | head -0` ends quietly."""
    for number in range(400):
        fake.add_order(order_id=1000 + number)
    ran = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shlex.join(COMMAND)} ps --json | true"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(fake, tmp_path),
    )
    assert (ran.returncode, ran.stderr) == (1, "")


def test_trooper_works_as_a_process(fake: FakeTrooper, tmp_path: Path) -> None:
    """As a process: only JSON on stdout, no colour in a pipe whatever FORCE_COLOR says, completion."""
    variables = {**environment(fake, tmp_path), "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}

    def shell(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return command(*words, environment={**variables, **more})

    assert shell("ps", "--json").stdout.startswith("[\n  {")
    table = shell("ps")
    assert table.returncode == 0
    assert "training llama 1" in table.stdout
    assert "\x1b" not in table.stdout + table.stderr
    assert "_TROOPER_COMPLETE" in shell(_TROOPER_COMPLETE="bash_source").stdout
    words = shell(_TROOPER_COMPLETE="bash_complete", COMP_WORDS="trooper st", COMP_CWORD="1").stdout.split()
    assert words == ["plain,start", "plain,stop"]
