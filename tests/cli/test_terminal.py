"""In a real terminal: the live display during a wait, what stays, and Ctrl-C."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from tests.cli.conftest import Trooper, environment, interrupted, sent
from tests.cli.terminal import Terminal, screen, terminal
from tests.helpers.conditions import block_until
from trooper_async.cli import _app
from trooper_async.cli._context import Cli
from trooper_async.cli._settings import Settings
from trooper_async.testing import FakeTrooper


@pytest.fixture
def variables(fake: FakeTrooper, tmp_path: Path) -> dict[str, str]:
    return environment(fake, tmp_path)


def test_an_action_shows_each_servers_status(fake: FakeTrooper, variables: dict[str, str]) -> None:
    """During the wait the servers' statuses are on the screen; at the end only the result is."""
    fake.durations["stop"] = 600
    with terminal("stop", "123", "124", environment=variables) as shown:
        shown.until("stopping 2 servers: 0 of 2", "training llama 1", "stopping → stopped")
        for order_id in (123, 124):
            fake.set_status(order_id, "stopped")
        assert shown.end()[0] == 0
    last = screen(shown.said)
    assert "stopping 2 servers" not in last
    assert [line for line in last.splitlines() if "training llama 2" in line and "stopped" in line]
    assert "2 done" in last
    assert "\x1b[?25h" in shown.said  # the cursor is visible again


def test_many_servers_are_counted_by_status(fake: FakeTrooper, variables: dict[str, str]) -> None:
    """A fleet too large for one line per server is shown as counts by status."""
    fake.durations["stop"] = 600
    for number in range(20):
        fake.add_order(order_id=300 + number, title=f"bulk {number}")
    with terminal("stop", "--all", "--title", "bulk*", "--yes", environment=variables) as shown:
        live = shown.until("stopping 20 servers: 0 of 20", "20 stopping")
        assert "bulk 7" not in live
        for number in range(20):
            fake.set_status(300 + number, "stopped")
        assert shown.end()[0] == 0
    assert "20 done" in screen(shown.said)


def test_watch_is_live_until_ctrl_c(fake: FakeTrooper, variables: dict[str, str]) -> None:
    """The table follows the servers: changed, new, gone; Ctrl-C ends it with 130."""
    with terminal("watch", "--interval", "0.05", environment=variables) as shown:
        shown.until("notebooks")
        fake.set_status(123, "stopping", "stopped")
        shown.until("stopping → stopped")
        shown.until("ago")
        fake.add_order(title="brand new")
        shown.until("brand new")
        shown.ctrl_c()
        assert shown.end()[0] == 130
    last = screen(shown.said)
    assert last.count("notebooks") == 1  # drawn over, not again below
    assert "stopping → stopped" in last
    assert "interrupted" in last
    assert "\x1b[?25h" in shown.said


@pytest.mark.parametrize("end", [Terminal.ctrl_c, Terminal.terminate])
def test_ctrl_c_and_sigterm_work_at_a_question(
    fake: FakeTrooper, variables: dict[str, str], end: Callable[[Terminal], None]
) -> None:
    """Ctrl-C and SIGTERM work at once while the command asks, and nothing is sent."""
    with terminal("order", "3", environment=variables) as shown:
        shown.until("Rent offer 3")
        end(shown)
        assert shown.end()[0] == 130
    assert "nothing was bought" in screen(shown.said)
    assert sent(fake, "/api/order") == []


def test_an_order_can_be_confirmed(fake: FakeTrooper, variables: dict[str, str]) -> None:
    """Yes to price and terms rents the server; each intermediate status stays on the screen."""
    with terminal("order", "3", environment=variables) as shown:
        shown.until("Rent offer 3")
        shown.type("y")
        shown.until("terms and conditions")
        shown.type("yes")
        assert shown.end()[0] == 0
    last = screen(shown.said)
    assert "order 131: running" in last
    assert "waiting until it runs" not in last


def test_a_second_ctrl_c_does_not_wait(fake: FakeTrooper, variables: dict[str, str], trooper: Trooper) -> None:
    """With a purchase in flight the first Ctrl-C waits for its response, the second ends the command; the ledger has
    it.
    """
    fake.delay_next("/api/order", 30)
    with terminal("order", "3", "--yes", "--max-price-h", "1", "--accept-terms", environment=variables) as shown:
        block_until(lambda: sent(fake, "/api/order"))
        shown.ctrl_c()
        shown.until("waiting for the response")
        shown.ctrl_c()
        assert shown.end()[0] == 130
    assert "whether it was bought is unknown" in screen(shown.said)
    (ledger,) = Path(variables["HOME"], ".local/state/trooper").iterdir()
    assert trooper("purchases", "--json", ledger=ledger).json[0]["state"] == "unknown"


@pytest.mark.parametrize(("more", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_are_used_on_a_terminal_without_no_color(
    variables: dict[str, str], more: dict[str, str], coloured: bool
) -> None:
    """Colours on a terminal; none with NO_COLOR."""
    with terminal("ps", environment={**variables, **more}) as shown:
        assert shown.end()[0] == 0
    assert ("\x1b[" in shown.said) is coloured
    assert "training llama 1" in screen(shown.said)


def test_ssh_replaces_the_command(fake: FakeTrooper, variables: dict[str, str], tmp_path: Path) -> None:
    """It waits until the server responds, then it becomes ssh, with the arguments, and without the key."""
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text('#!/bin/sh\necho "ssh was called: $*, key: ${TROOPER_API_KEY-none}"\nexit 7\n')
    ssh.chmod(0o755)
    fake.set_status(123, "starting", "running")
    path = {**variables, "PATH": f"{ssh.parent}:{variables['PATH']}"}
    with terminal("ssh", "123", "--", "-L", "8888:localhost:8888", environment=path) as shown:
        shown.until("waiting until order 123 can be reached")
        fake.set_status(123, "running")
        assert shown.end()[0] == 7
    port = fake._server(123).ssh_port
    assert f"ssh was called: -p {port} -l root 127.0.0.1 -L 8888:localhost:8888, key: none" in screen(shown.said)


@pytest.mark.parametrize("user", ["-oProxyCommand=x", "a b", "root;x"])
def test_ssh_is_not_called_with_an_invalid_user_name(trooper: Trooper, fake: FakeTrooper, user: str) -> None:
    """A user name that ssh would take for an option or a command is refused."""
    port = fake._server(123).ssh_port
    fake.fail_next(
        "/api/credentials", status=200, body={"ip": "127.0.0.1", "ssh_port": port, "username": user, "password": "x"}
    )
    ran = trooper("ssh", "123")
    assert ran.status == 1
    assert "ssh would misread" in ran.error


def test_ssh_as_json_only_waits(trooper: Trooper, monkeypatch: pytest.MonkeyPatch) -> None:
    """--json prints the login, without the password; if ssh is not installed the command says so."""
    where = trooper("ssh", "123", "--json").json
    assert (where["username"], where["ip"]) == ("root", "127.0.0.1")
    assert "password" not in where
    monkeypatch.setenv("PATH", "")
    assert trooper("ssh", "123").error == "ssh is not installed"


def test_watch_in_a_pipe_writes_lines(trooper: Trooper, fake: FakeTrooper) -> None:
    """Without a terminal each change is a line; with --json one of JSON; failures are tolerated."""

    def asked() -> bool:
        return sum(request.path == "/api/orders" for request in list(fake.requests)) > 3

    watch = ("watch", "--status", "frozen", "--interval", "0.05")
    fake.fail_next("/api/orders", status=500, times=2)
    ran = interrupted(trooper, fake, signal.SIGINT, "/api/orders", *watch, when=asked)
    assert ran.status == 130
    assert "order 129 archive 2025 appeared: frozen" in ran.out
    assert "notebooks" not in ran.out
    fake.requests.clear()
    ran = interrupted(trooper, fake, signal.SIGINT, "/api/orders", *watch, "--json", when=asked)
    assert (ran.json["kind"], ran.json["order"]["title"], ran.json["previous"]) == ("appeared", "archive 2025", None)


def test_the_demo_has_a_prompt(tmp_path: Path) -> None:
    """At a terminal `demo` greets, reads commands, survives Ctrl-C in one of them, and `exit` ends it."""
    with terminal("demo", environment={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}) as shown:
        shown.until("A fake fleet", "trooper>")
        shown.type("ps --title 'archive*'")
        shown.until("says why)\ntrooper>")
        shown.type("rename 129 renamed")
        shown.until("order 129 is called renamed")
        shown.type("watch")
        shown.until("paid-until", "Ctrl-C ends it")
        shown.ctrl_c()
        shown.until("interrupted\ntrooper>")
        shown.type("exit")
        assert shown.end()[0] == 0


def test_live_displays_fit_the_terminal(trooper: Trooper, fake: FakeTrooper, monkeypatch: pytest.MonkeyPatch) -> None:
    """The live displays in this process, for a terminal of that size: action, wait, watch, templates."""
    shown = io.StringIO()

    def on_a_terminal(settings: Settings, as_json: bool, debug: bool) -> Cli:
        cli = Cli(settings, as_json=as_json, debug=debug)
        cli.out = cli.err = Console(
            file=shown, force_terminal=True, color_system=None, width=100, height=60, highlight=False
        )
        return cli

    monkeypatch.setattr(_app, "Cli", on_a_terminal)
    fake.durations["stop"] = 0.2
    for number in range(15):
        fake.add_order(order_id=400 + number, title=f"bulk {number}")
    assert trooper("stop", "--all", "--title", "bulk*", "--yes").status == 0
    assert trooper("stop", "123", "999").status == 1
    assert "stopping 2 servers: " in shown.getvalue()
    assert trooper("wait", "124", "--until", "stopped", "--timeout", "0.1").status == 1
    assert trooper("templates", "install", "126", "1").status == 0
    fake.set_status(126, "odd", "running")
    watch = ("watch", "--interval", "0.05")

    went = False

    def all_seen() -> bool:
        """Once both are on the screen one vanishes and the other arrives; whether that is on the screen, too."""
        nonlocal went
        now = screen(shown.getvalue())
        if not went and "odd → running" in now and "notebooks" in now:
            went = True
            fake.remove_order(128)
            fake.set_status(126, "running")
        return went and "odd → running" not in now and "notebooks" not in now and " ago" in now

    shown.seek(0)
    shown.truncate()
    assert interrupted(trooper, fake, signal.SIGINT, "/api/orders", *watch, when=all_seen).status == 130
