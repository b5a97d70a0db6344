"""Everyday use: pipes, outages, narrow screens, closed streams, hints that work."""

from __future__ import annotations

import io
import json
import re
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path

import click
import pytest
from rich.console import Console

from tests.cli.conftest import PASSWORD, Clock, Ran, Trooper, environment, interrupted, meanwhile
from tests.cli.terminal import COMMAND, screen, terminal
from tests.helpers.fake_orders import polls_since
from trooper_async import Order, OrderChange
from trooper_async.cli import _app, _errors
from trooper_async.cli._live import Board
from trooper_async.cli._tables import ORDERS, table_of
from trooper_async.errors import TrooperError
from trooper_async.testing import FakeTrooper


@pytest.fixture
def variables(fake: FakeTrooper, tmp_path: Path) -> dict[str, str]:
    return environment(fake, tmp_path)


def shell(line: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A line of bash in which `trooper` is this command."""
    script = f'trooper() {{ {shlex.join(COMMAND)} "$@"; }}; {line}'
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, env=variables)


# Pipes --------------------------------------------------------------------------------------------------------------


def test_a_table_can_be_filtered_and_redirected(variables: dict[str, str], tmp_path: Path) -> None:
    """`ps | grep`, `ps > file` and `ps | head -1` work as expected."""
    assert shell("trooper ps | grep frozen", variables).stdout.split()[:3] == ["129", "archive", "2025"]
    shell(f"trooper ps > {tmp_path}/f", variables)
    lines = (tmp_path / "f").read_text().splitlines()
    assert (len(lines), lines[0].split()[:3]) == (9, ["ID", "TITLE", "GPU"])
    head = shell("trooper ps --no-header | head -1", variables)
    assert (head.stdout.split()[0], head.stderr) == ("123", "")


def test_a_table_in_a_pipe_is_plain_and_complete(trooper: Trooper, fake: FakeTrooper) -> None:
    """No rules, no colours, nothing cut or wrapped, however long."""
    title = "x" * 300
    fake.add_order(order_id=300, title=title)
    ran = trooper("ps")
    assert title in ran.out
    assert len(ran.out.splitlines()) == 10
    assert "─" not in ran.out


def test_the_columns_of_a_list_can_be_chosen(trooper: Trooper) -> None:
    """Columns by name and order, sorted, without header, ids only; an unknown name is refused."""
    ran = trooper("ps", "--columns", "status,id", "--no-header", "--sort", "-eur/h")
    assert ran.out.splitlines()[0].split() == ["frozen", "129"]
    assert ran.err == ""
    assert trooper("ps", "--ids", "--status", "stopped").out.split() == ["125", "127"]
    assert trooper("ps", "--ids", "--status", "nothing").out == ""
    assert trooper("gpus", "--ids", "--sort", "-id").out.split() == ["5", "3", "2", "1"]
    sorted_ids = [order["order_id"] for order in trooper("ps", "--sort", "-id", "--json").json]
    assert sorted_ids == sorted(sorted_ids, reverse=True)
    assert trooper("templates", "list", "--columns", "name").out.splitlines()[0] == "NAME"
    for words in (["--columns", "nope"], ["--sort", "nope"]):
        ran = trooper("ps", *words)
        assert (ran.status, "there are id, title" in ran.error) == (2, True)


def test_a_long_list_is_paged_on_a_terminal(fake: FakeTrooper, variables: dict[str, str]) -> None:
    """A list with more rows than the screen goes through $PAGER; a shorter one does not."""
    for number in range(60):
        fake.add_order(order_id=400 + number, title=f"bulk {number}")
    pager = {**variables, "PAGER": "sed s/^/paged:/"}
    with terminal("ps", environment=pager) as shown:
        assert shown.end()[0] == 0
    assert "paged:" in screen(shown.said)
    with terminal("ps", "--status", "frozen", environment=pager) as shown:
        assert shown.end()[0] == 0
    assert "paged:" not in screen(shown.said)


def test_show_has_everything_about_one_server(trooper: Trooper, fake: FakeTrooper) -> None:
    """Status, cost, login, history and installs; unreadable parts are named, and the rest is shown."""
    ran = trooper("show", "125")
    for text in ("training llama 3", "1.65, 0.5775 now", "ssh -p", "Status changes", "Installed"):
        assert text in ran.out
    assert PASSWORD not in ran.out + trooper("show", "125", "--json").out
    data = trooper("show", "125", "--json").json
    assert (data["order"]["order_id"], data["cost_h"]) == (125, 0.5775)
    fake.fail_next("/api/order-status-history", status=400)
    ran = trooper("show", "125")
    assert ran.status == 0
    assert "Status changes: could not be read: the API returned 400" in ran.out


# Waits and outages --------------------------------------------------------------------------------------------------


def test_wait_prints_the_outcome_of_each_server(trooper: Trooper, fake: FakeTrooper, clock: Clock) -> None:
    """Each of several servers has its own outcome, in the table and as JSON."""
    fake.set_status(123, "stopping", "stopped")
    words = ("wait", "123", "124", "--until", "running")

    def late(*more: str) -> Ran:
        seen = len(fake.requests)
        with clock.forward(3600, once=lambda: len(fake.requests) > seen + 2):
            return trooper(*words, *more)

    ran = late()
    assert ran.status == 1
    assert re.search(r"123 .*failed .*running was not reached", ran.out)
    assert re.search(r"124 .*running", ran.out)
    outcomes = {one["order_id"]: one for one in late("--json").json}
    assert outcomes[123]["error"]["type"] == "WaitTimeoutError"
    assert outcomes[124]["order"]["current_status"] == "running"


def test_without_a_terminal_each_status_is_a_line(trooper: Trooper, fake: FakeTrooper) -> None:
    """A run of an hour prints what it does: at the start, and for each status."""
    fake.durations["stop"] = 3600

    def both_were_seen() -> bool:
        return len(fake.sent("/api/order-status")) == 2 and polls_since(fake, "/api/order-status") > 1

    with meanwhile(both_were_seen, lambda: fake.advance(3600)):
        ran = trooper("stop", "123", "124")
    lines = ran.err.splitlines()
    assert lines[0] == "stopping 2 servers …"
    assert "[0/2] order 123: stopping → stopped" in lines
    assert any(re.fullmatch(r"\[2/2\] order 12\d: stopped .*", line) for line in lines)


def test_watch_in_a_pipe_reports_an_outage(trooper: Trooper, fake: FakeTrooper) -> None:
    """An outage is a line, with since when and why, and so is its end; with --json too."""

    def over() -> bool:
        return sum(request.path == "/api/orders" and request.status == 200 for request in list(fake.requests)) > 3

    for more in ([], ["--json"]):
        fake.requests.clear()
        fake.fail_next("/api/orders", status=503, times=6)
        words = ("watch", "--status", "frozen", "--interval", "0.05", *more)
        ran = interrupted(trooper, fake, signal.SIGINT, "/api/orders", *words, when=over)
        if more:
            kinds = [json.loads(line)["kind"] for line in ran.out.splitlines()]
            assert kinds == ["outage", "responding", "appeared"]
        else:
            assert re.search(r"the API has not responded since \d\d:\d\d:\d\d: the API returned 503", ran.out)
            assert "the API responds again" in ran.out


def test_waits_report_an_outage(trooper: Trooper, fake: FakeTrooper) -> None:
    """So do the commands that wait."""
    fake.set_status(123, "stopping", "stopped")
    fake.fail_next("/api/orders", status=503, times=8)
    with meanwhile(lambda: len(fake.requests) > 10, lambda: fake.set_status(123, "stopped", "stopped")):
        ran = trooper("wait", "123")
    assert "the API has not responded since" in ran.err
    assert "the API responds again" in ran.err


def test_watch_on_a_terminal_reports_an_outage(fake: FakeTrooper, variables: dict[str, str]) -> None:
    """The old table is not shown as if it were current."""
    with terminal("watch", "--interval", "0.05", environment=variables) as shown:
        shown.until("notebooks")
        fake.fail_next("/api/orders", status=503, times=10**6)
        shown.until("the API has not responded since", "503")
        shown.ctrl_c()
        assert shown.end()[0] == 130


def test_watch_reports_a_server_that_leaves_the_filter(trooper: Trooper, fake: FakeTrooper) -> None:
    """A running server that stops is a line of `watch --status running`."""
    stopped = False

    def left() -> bool:
        nonlocal stopped
        polls = sum(request.path == "/api/orders" for request in list(fake.requests))
        if not stopped and polls > 2:
            fake.set_status(123, "stopped")
            stopped = True
            fake.requests.clear()
        return stopped and polls > 3

    words = ("watch", "--status", "running", "--title", "training*", "--interval", "0.05", "--json")
    ran = interrupted(trooper, fake, signal.SIGINT, "/api/orders", *words, when=left)
    last = json.loads(ran.out.splitlines()[-1])
    assert (last["kind"], last["order_id"], last["order"]["current_status"]) == ("left", 123, "stopped")
    assert last["previous"]["current_status"] == "running"


def test_watch_shows_what_fits_and_always_the_totals() -> None:
    """33 or 1,500 servers on 24 lines: those in transition first, how many more there are, and the totals."""
    for number in (33, 1500):
        board = Board()
        for order_id in range(1, number + 1):
            wanted = "stopped" if order_id == number else "running"
            order = Order(order_id, "running", wanted, title=f"server {order_id}")
            board.take(OrderChange(order, None, order_id, "appeared"), matches=True)
        file = io.StringIO()
        console = Console(file=file, width=100, height=24, force_terminal=True, color_system=None)
        began = time.process_time()
        console.print(board)
        assert time.process_time() - began < 1
        lines = file.getvalue().splitlines()
        assert len(lines) < 24
        assert f"server {number} " in lines[2]
        shown = sum("server " in line and "running" in line for line in lines)
        assert f"… {number - shown} more" in file.getvalue()
        assert f"{number} servers, " in file.getvalue()


def test_a_finished_run_sends_no_extra_request(trooper: Trooper, fake: FakeTrooper) -> None:
    """If nothing is waited for, nothing is polled."""
    assert trooper("stop", "123", "--no-wait").status == 0
    paths = [request.path for request in fake.requests]
    assert paths.count("/api/orders") <= 1


# ssh ----------------------------------------------------------------------------------------------------------------


def test_ssh_to_a_stopped_server_says_so_at_once(trooper: Trooper, fake: FakeTrooper) -> None:
    """It says that it is stopped, and how to start it, instead of waiting."""
    ran = trooper("ssh", "125")
    assert (ran.status, ran.error) == (1, "order 125 is stopped")
    assert "`trooper ssh 125 --start`" in ran.err
    assert [request.path for request in fake.requests] == ["/api/orders"]


def test_ssh_can_start_a_stopped_server(trooper: Trooper) -> None:
    """--start starts it, and then waits until it can be reached."""
    ran = trooper("ssh", "125", "--start", "--json")
    assert (ran.status, ran.json["ip"]) == (0, "127.0.0.1")
    assert "order 125: running" in ran.err


def test_ssh_to_an_unknown_server_ends_at_once(trooper: Trooper, fake: FakeTrooper) -> None:
    """An id that is not in the list is not waited for."""
    ran = trooper("ssh", "999")
    assert ran.status == 1
    assert "not in the list" in ran.error
    assert len(fake.requests) == 1


def test_ssh_config_has_an_entry_for_each_running_server(
    trooper: Trooper, fake: FakeTrooper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts by id and by unique title; ssh itself can read it; nothing else in ~/.ssh is touched."""
    monkeypatch.setenv("HOME", str(tmp_path))
    fake.add_order(order_id=300, title="Notebooks!")
    fake.add_order(order_id=301, title="x\n  ProxyCommand evil")
    ran = trooper("ssh-config")
    file = tmp_path / ".ssh" / "trooper.conf"
    assert (ran.status, ran.out) == (0, f"6 servers in {file}\n")
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    assert "Host trooper-123 training-llama-1\n" in text
    assert "Host trooper-128\n" in text  # another one has the same title
    assert "evil" not in [word for line in text.splitlines() for word in line.split()[:1]]
    assert "ProxyCommand" not in text
    assert "trooper-125" not in text  # it is stopped
    assert trooper("ssh-config", "--file", "-").out.startswith("# Written by")
    if found := subprocess.run(["bash", "-c", "command -v ssh"], capture_output=True, text=True).stdout.strip():
        said = subprocess.run([found, "-F", file, "-G", "inference-eu"], capture_output=True, text=True, check=True)
        assert f"port {fake._server(126).ssh_port}\n" in said.stdout


# Narrow screens -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 52, 80, 200])
def test_a_narrow_screen_keeps_status_and_title(width: int) -> None:
    """No line is wider than the screen; address and paid-until go first; status and id are never cut, the title is."""
    orders = [
        Order(123, "starting", "running", title="a training run of llama", ip="203.0.113.123", ssh_port=34115),
        Order(124, "stopped", "stopped", title="x", blib_gpu_type="RTX 4090", blib_gpu_num=2),
    ]
    lines = [line.plain for line in table_of(ORDERS, orders).lines(width)]
    assert max(map(len, lines)) <= width
    assert "starting → running" in lines[2]
    assert re.search(r"123  a train", lines[2])
    shown = lines[0].split()
    for first, later in (("address", "paid-until"), ("paid-until", "gpu"), ("gpu", "eur/h")):
        assert first not in shown or later in shown
    assert ("address" in shown) == (width == 200)


def test_a_password_is_never_wrapped(fake: FakeTrooper, variables: dict[str, str]) -> None:
    """However narrow the screen, it can be copied in one piece."""
    fake._server(123).password = password = "p" * 70
    with terminal("credentials", "123", "--show", environment=variables, columns=40) as shown:
        assert shown.end()[0] == 0
    assert password in shown.said


# Streams ------------------------------------------------------------------------------------------------------------


def test_a_closed_stream_is_no_crash(variables: dict[str, str]) -> None:
    """A closed stream is not written to, and counts as ended when read."""
    for line in ("trooper ps <&-", "trooper ps 2>&-", "trooper ps --json 2>&- <&-"):
        ran = shell(line, variables)
        assert (ran.returncode, "training llama 1" in ran.stdout) == (0, True), line
        assert "Traceback" not in ran.stderr
    stopped = shell("trooper stop --all <&-", variables)
    assert (stopped.returncode, "not confirmed" in stopped.stderr) == (1, True)
    assert shell("trooper ps >&-", variables).returncode == 0


def test_an_encoding_that_lacks_a_character_is_no_crash(fake: FakeTrooper, variables: dict[str, str]) -> None:
    """latin-1 and ASCII outputs get a ? instead."""
    fake.add_order(title="Zürich ☃")
    for encoding in ("latin-1", "ascii"):
        more = {**variables, "PYTHONIOENCODING": encoding}
        ran = subprocess.run([*COMMAND, "ps"], capture_output=True, check=False, env=more)
        assert (ran.returncode, "rich ?" in ran.stdout.decode(encoding)) == (0, True)
        assert subprocess.run([*COMMAND, "ps", "--help"], capture_output=True, env=more, check=False).returncode == 0


def test_json_is_valid_with_half_a_surrogate_pair(fake: FakeTrooper, trooper: Trooper) -> None:
    """Half a surrogate pair in a title is replaced by a replacement character."""
    fake.fail_next("/api/orders", status=200, body='[{"order_id": 1, "status": "running", "title": "half \\ud83d"}]')
    ran = trooper("ps", "--json")
    assert (ran.status, ran.json[0]["title"]) == (0, "half \ufffd")


def test_ctrl_z_restores_the_terminal(fake: FakeTrooper, variables: dict[str, str]) -> None:
    """While stopped, the terminal is as before; once continued, the command goes on."""
    fake.durations["stop"] = 600
    script = 'set -m; "$@"; echo it is stopped; read; fg >/dev/null'
    with terminal("stop", "123", "124", environment=variables, shell=script) as shown:
        shown.until("stopping 2 servers", "stopping → stopped")
        assert shown.said.rfind("\x1b[?25l") > shown.said.rfind("\x1b[?25h")
        shown.ctrl_z()
        shown.until("it is stopped")
        assert shown.said.rfind("\x1b[?25h") > shown.said.rfind("\x1b[?25l")
        shown.type("")
        for order_id in (123, 124):
            fake.set_status(order_id, "stopped")
        assert shown.end()[0] == 0
    assert "2 done" in screen(shown.said)


# doctor and hints ---------------------------------------------------------------------------------------------------


def test_doctor_names_the_cause_of_a_failed_connection(trooper: Trooper) -> None:
    """If nothing listens there it says so, not just that there is no response."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        ran = trooper("doctor", base_url=url)
    assert ran.status == 1
    assert re.search("refused|connect", ran.error)
    assert url in ran.out


def test_doctor_does_not_take_a_login_page_for_the_api(trooper: Trooper, fake: FakeTrooper) -> None:
    """HTML under 200 does not mean that the key was accepted."""
    fake.fail_next("/api/test", status=200, body="<html>log in</html>")
    assert "200, but it is not JSON" in trooper("doctor").error
    fake.fail_next("/api/orders", status=200, body="<html>log in</html>")
    ran = trooper("doctor")
    assert (ran.status, "is accepted" in ran.out) == (1, False)


def test_doctor_names_the_base_url_and_the_source_of_the_key(trooper: Trooper, fake: FakeTrooper) -> None:
    """Both are the most common mistakes; the key itself is not shown."""
    ran = trooper("doctor", key_source="TROOPER_API_KEY")
    assert fake.url in ran.out
    assert "is accepted (from TROOPER_API_KEY)" in ran.out
    assert fake.api_key not in ran.out


def commands(group: click.Group) -> dict[str, click.Command]:
    """All commands below it, by what is typed."""
    context = click.Context(group)
    found: dict[str, click.Command] = {}
    for name in group.list_commands(context):
        made = group.get_command(context, name)
        assert made is not None
        found[name] = made
        if isinstance(made, click.Group):
            found |= {f"{name} {below}": command for below, command in commands(made).items()}
    return found


@pytest.mark.parametrize("name", sorted(_errors._HINTS))
def test_every_hint_is_an_existing_command(name: str) -> None:
    """The command in a hint can be typed as it is: it exists, with its options."""
    there = commands(_app.app)
    for quoted in re.findall("`([^`]*)`", _errors._HINTS[name]):
        program, *words = shlex.split(quoted)
        assert program == "trooper"
        known = max((known for known in there if " ".join(words).startswith(known)), key=len)
        options = {option for parameter in there[known].params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options


def kinds_below(kind: type[TrooperError]) -> set[str]:
    return {kind.__name__}.union(*map(kinds_below, kind.__subclasses__()))


def test_every_error_has_a_hint_for_the_command_line() -> None:
    """No error of the package ends with advice that only a program can follow."""
    own = {name for name in kinds_below(TrooperError) if getattr(_errors, name, None) is None}
    from trooper_async import errors

    assert {name for name in own if hasattr(errors, name)} - {"TrooperError"} <= set(_errors._HINTS)


def test_hints_contain_the_ids(trooper: Trooper, fake: FakeTrooper, clock: Clock) -> None:
    """Ids stand where a placeholder would: the server's, the install's, the purchase's."""
    fake.durations["stop"] = 600
    with clock.forward(90, once=lambda: polls_since(fake, "/api/order-status")):
        assert "`trooper wait 123` continues to wait" in trooper("stop", "123", "--timeout", "90").err
    fake.failing_templates.add(2)
    assert re.search(r"`trooper templates retry \d+`", trooper("templates", "install", "124", "2").err)
    assert "`trooper ps`" in trooper("show", "999").err


def test_debug_in_a_pipe_is_a_line_for_each_request(trooper: Trooper, fake: FakeTrooper) -> None:
    """Not padded to any width; no traceback if a run only has servers that failed."""
    ran = trooper("stop", "124", "999", "--debug")
    assert ran.status == 1
    assert "Traceback" not in ran.err
    assert max(map(len, ran.err.splitlines())) < 300
    assert all(line == line.rstrip() for line in ran.err.splitlines())
    assert re.search(r"^\d\d:\d\d:\d\d DEBUG GET /api/orders 200", ran.err, re.MULTILINE)


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["ps"], ["123", "starting → running"]),
        (["show", "125"], ["training llama 3", "stopped", "ssh -p"]),
        (["watch"], ["Ctrl-C ends it", "starting → running"]),
        (["order", "3"], ["0.195", "[y/N]"]),
    ],
    ids=lambda value: value[0],
)
def test_no_row_is_wrapped_at_any_width(
    fake: FakeTrooper, variables: dict[str, str], words: list[str], kept: list[str], columns: int
) -> None:
    """On 40, 80 and 200 columns no row is wrapped, and the most important columns are there."""
    fake.set_status(123, "starting", "running")
    with terminal(*words, environment=variables, columns=columns) as shown:
        shown.until(*kept)
        if words[0] == "watch":
            shown.ctrl_c()
        if words[0] == "order":
            shown.type("n")
        shown.end()
    table = [line for line in screen(shown.said).splitlines() if re.match(r" *\d+  ", line)]
    assert all(len(line) <= columns for line in table)
    assert {"ps": 8, "watch": 8, "order": 1}.get(words[0], 0) <= len(table)
