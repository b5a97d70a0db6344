"""What would cost money or data: overwritten files, unclear questions, mixed-up accounts, lost outcomes."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
from pathlib import Path

import pytest

from tests.cli.conftest import Clock, Trooper, environment, interrupted, sent
from tests.cli.terminal import terminal
from tests.helpers.fake_orders import order_of, polls_since
from trooper_async import FleetOutcome, FleetReport, Transition
from trooper_async.cli._settings import Settings, fingerprint
from trooper_async.testing import FakeTrooper

ORDER = ("order", "3", "--yes", "--max-price-h", "0.20", "--accept-terms")


# Reports --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["pipe", "link to a device", "folder"])
def test_a_report_is_written_to_regular_files_only(
    trooper: Trooper, fake: FakeTrooper, tmp_path: Path, device: Path, what: str
) -> None:
    """A pipe, a device or a folder as report is refused before anything is sent, and left unchanged."""
    path = tmp_path / "report"
    match what:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to(device)
    before = path.lstat()
    ran = trooper("stop", "126", "--report", str(path), "--no-wait")
    assert (ran.status, ran.error) == (2, f"{path} is not a regular file")
    assert (path.lstat().st_mode, path.lstat().st_ino) == (before.st_mode, before.st_ino)
    assert fake.requests == []


def test_a_report_to_a_device_is_refused(trooper: Trooper, fake: FakeTrooper, device: Path) -> None:
    """A device is neither replaced nor written to."""
    assert trooper("stop", "126", "--report", str(device), "--no-wait").status == 2
    assert device.is_char_device()
    assert fake.requests == []


def test_a_report_to_a_dash_is_refused(
    trooper: Trooper, fake: FakeTrooper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--report -` creates no file of that name, and says how to write to stdout."""
    monkeypatch.chdir(tmp_path)
    ran = trooper("stop", "126", "--report", "-")
    assert (ran.status, "--json" in ran.error) == (2, True)
    assert (list(tmp_path.glob("-")), fake.requests) == ([], [])


def test_a_report_through_a_symlink_is_written_to_its_target(trooper: Trooper, tmp_path: Path) -> None:
    """The link stays a link; its target has the report."""
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    link.symlink_to(target)
    assert trooper("stop", "126", "--report", str(link)).status == 0
    assert link.is_symlink()
    assert len(FleetReport.from_json(target.read_text()).succeeded) == 1


def test_the_report_of_a_running_run_is_locked(trooper: Trooper, fake: FakeTrooper, tmp_path: Path) -> None:
    """During a run, no other command can resume its report or write to it; nothing is sent twice."""
    file = tmp_path / "k.json"
    left = FleetReport((FleetOutcome(123, "restart", sent=False), FleetOutcome(124, "restart", sent=False)))
    file.write_text(left.to_json() + "\n")
    with file.open() as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        for words in (["resume", str(file)], ["stop", "126", "--report", str(file)]):
            ran = trooper(*words)
            assert (ran.status, ran.error) == (2, f"{file} is the report of a run that has not finished")
    assert fake.requests == []
    assert trooper("resume", str(file)).status == 0
    assert sorted(order_of(fake, body["serverId"]) for body in sent(fake, "/api/order-status")) == [123, 124]


def test_the_report_grows_linearly_with_the_servers(trooper: Trooper, fake: FakeTrooper, tmp_path: Path) -> None:
    """The bytes written per server do not depend on how many there are."""

    def written(number: int) -> int:
        for order_id in range(1000, 1000 + number):
            fake.add_order(order_id=order_id, title=f"many {number}", status="running")
        file = tmp_path / f"{number}.json"
        assert trooper("stop", "--all", "--title", f"many {number}", "--yes", "--report", str(file)).status == 0
        assert len(FleetReport.from_json(file.read_text()).succeeded) == number
        for order_id in range(1000, 1000 + number):
            fake.remove_order(order_id)
        return file.stat().st_size

    few, many = written(10), written(100)
    assert many / few < 12


def test_a_torn_last_line_of_a_report_is_ignored() -> None:
    """A run killed while writing leaves half a line: the action in it was not sent yet."""
    whole = FleetReport((FleetOutcome(1, "restart"), FleetOutcome(2, "restart"))).to_json()
    about_to_be_sent = FleetOutcome(1, "restart", transition=Transition(1, "restart", "running"), sent=None)
    sending = FleetReport((about_to_be_sent,)).to_json()
    assert FleetReport.from_json(f"{whole}\n{sending}\n{sending[:50]}").outcomes == (
        about_to_be_sent,
        FleetOutcome(2, "restart"),
    )
    assert FleetReport.from_json(whole).outcomes == FleetReport.from_json(whole).outcomes  # as a program stores it


# Questions and limits -----------------------------------------------------------------------------------------------


def test_a_migration_needs_keep_data_or_lose_data(trooper: Trooper, fake: FakeTrooper) -> None:
    """Without --keep-data or --lose-data: a usage error before any request or question."""
    ran = trooper("migrate", "buy", "128", "1", answers="y\n")
    assert (ran.status, ran.error) == (2, "pass --keep-data or --lose-data")
    assert "?" not in ran.err
    assert fake.requests == []


def test_the_question_of_a_migration_has_all_facts(trooper: Trooper) -> None:
    """It names the server, its title and status, GPUs and prices before and after, the data, and the amount due now."""
    ran = trooper("migrate", "buy", "128", "1", "--lose-data", answers="n\n")
    (question,) = [line for line in ran.err.splitlines() if "[y/N]" in line]
    for part in ("order 128 (notebooks, running)", "1 x V100 → 1 x RTX 4090", "0.195 → 0.85 EUR per hour"):
        assert part in question
    assert "ITS DATA IS LOST" in question
    assert "EUR now? [y/N]" in question


def test_the_question_of_an_order_has_all_facts(trooper: Trooper) -> None:
    """It names the offer, its GPUs, the price, the interval and what is installed."""
    ran = trooper("order", "3", "--template", "comfyui", answers="n\n")
    (question,) = [line for line in ran.err.splitlines() if "[y/N]" in line]
    assert "Rent offer 3 (V100 Single, 1 x V100) for 0.195 EUR for each HOUR" in question
    assert "with ComfyUI?" in question


def test_the_question_of_a_start_names_the_price(trooper: Trooper) -> None:
    """Started servers are billed in full again."""
    ran = trooper("start", "--all", "--status", "stopped", answers="n\n")
    assert "Start 2 servers, which cost 2.50 EUR per hour while they run? [y/N]" in ran.err


def test_input_typed_before_a_question_is_discarded(fake: FakeTrooper, tmp_path: Path) -> None:
    """Two lines of `y` typed before the price was shown buy nothing."""
    hold = fake.hold_next("/api/blibs")
    with hold, terminal("order", "3", environment=environment(fake, tmp_path)) as shown:
        hold.wait_arrived()
        shown.type("y")
        shown.type("y")
        hold.release()
        shown.until("Rent offer 3", "[y/N]")
        shown.type("n")
        assert shown.end()[0] == 1
    assert sent(fake, "/api/order") == []


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (["--interval", "MONTH", "--total-price", "99999"], 2),
        (["--interval", "MONTH", "--total-price", "144.01"], 2),
        (["--interval", "MONTH", "--total-price", "144"], 0),
        (["--interval", "month", "--total-price", "144"], 0),
        (["--total-price", "0.21"], 2),
        (["--interval", "FORTNIGHT", "--total-price", "5"], 2),
        (["--interval", "FORTNIGHT", "--total-price", "5", "--max-total", "4"], 2),
        (["--interval", "MONTH", "--total-price", "200", "--max-total", "250"], 2),
        (["--interval", "MONTH", "--total-price", "100", "--max-total", "99"], 2),
        (["--interval", "MONTH", "--total-price", "100", "--max-total", "100"], 0),
    ],
)
def test_the_limit_is_for_the_amount_paid(trooper: Trooper, fake: FakeTrooper, options: list[str], status: int) -> None:
    """The price of the interval is at most --max-price-h times its hours, or --max-total; otherwise nothing is sent."""
    assert trooper(*ORDER, *options, "--no-wait").status == status
    assert len(sent(fake, "/api/order")) == (status == 0)


def test_the_limit_of_the_interval_is_sufficient(trooper: Trooper, fake: FakeTrooper) -> None:
    """--max-total alone is enough of a limit for --yes."""
    alone = ("order", "3", "--yes", "--accept-terms", "--no-wait", "--interval", "MONTH", "--total-price", "60")
    assert trooper(*alone).status == 2
    assert trooper(*alone, "--max-total", "59").status == 2
    assert sent(fake, "/api/order") == []
    assert trooper(*alone, "--max-total", "60").status == 0


# Accounts and ledgers -----------------------------------------------------------------------------------------------


def test_each_account_has_its_own_ledger(
    trooper: Trooper,
    fake: FakeTrooper,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same reference with another key or base URL does buy: accounts do not see each other's purchases."""
    from trooper_async.cli._app import run

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TROOPER_BASE_URL", fake.url)
    for key in (fake.api_key, "another-key"):
        monkeypatch.setenv("TROOPER_API_KEY", key)
        capsys.readouterr()
        status = run([*ORDER, "--reference", "job-1", "--no-wait"])
        assert status == (0 if key == fake.api_key else 3)  # the fake refuses the other key
    run(["purchases", "--json"])
    assert [one["state"] for one in json.loads(capsys.readouterr().out)] in ([], ["refused"])
    assert fingerprint("a", "https://x") != fingerprint("b", "https://x")
    assert fingerprint("a", "https://x") != fingerprint("a", "https://y")
    assert fingerprint("a", "https://x/") == fingerprint("a", "https://x")


def test_a_ledger_in_use_is_waited_for(trooper: Trooper, fake: FakeTrooper, settings: Settings) -> None:
    """Two commands can buy at once: the second waits while the first sends, and reading needs no lock."""
    settings.ledger.parent.mkdir()
    held = settings.ledger.open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    assert trooper("ps").status == trooper("purchases").status == 0

    def release() -> None:
        held.close()

    timer = threading.Timer(0.5, release)
    timer.start()
    try:
        ran = trooper(*ORDER)
    finally:
        timer.join()
    assert ran.status == 0
    assert "another process is buying with this ledger: waiting for it" in ran.err
    assert len(sent(fake, "/api/order")) == 1


def test_a_wait_does_not_lock_the_ledger(trooper: Trooper, fake: FakeTrooper, settings: Settings) -> None:
    """While an order waits for its server, its purchase is listed, and others can buy."""
    fake.durations["create"] = 30.0

    def bought() -> bool:
        if not sent(fake, "/api/order"):
            return False
        with settings.ledger.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    ran = interrupted(trooper, fake, signal.SIGINT, "/api/orders", *ORDER, when=bought)
    assert ran.status == 130
    assert trooper("purchases", "--json").json[0]["order_id"] == 131


# Outcomes -----------------------------------------------------------------------------------------------------------


def error_of(out: str) -> dict[str, object]:
    """The error of a command with --json, which is all that it writes to stdout."""
    data: dict[str, dict[str, object]] = json.loads(out)
    assert list(data) == ["error"]
    return data["error"]


def test_json_reports_a_bought_server_that_does_not_run(trooper: Trooper, fake: FakeTrooper, clock: Clock) -> None:
    """A wait that fails after the purchase: one object with the order and the purchase."""
    fake.durations["create"] = 600
    with clock.forward(90, once=lambda: polls_since(fake, "/api/order") > 1):
        ran = trooper(*ORDER, "--timeout", "90", "--json")
    error = error_of(ran.out)
    assert (ran.status, error["type"], error["order_id"]) == (1, "PurchaseNotReadyError", 131)
    assert isinstance(error["purchase"], dict)
    assert error["purchase"]["state"] == "bought"
    assert "`trooper wait 131 --until running`" in ran.err


def test_json_reports_an_interrupted_purchase(trooper: Trooper, fake: FakeTrooper) -> None:
    """Ctrl-C while the server starts: one object with the order that is billed."""
    fake.durations["create"] = 30.0
    ran = interrupted(trooper, fake, signal.SIGINT, "/api/order", *ORDER, "--json", when=lambda: True)
    error = error_of(ran.out)
    assert (ran.status, error["type"], error["order_id"]) == (130, "Interrupted", 131)


def test_json_reports_a_lost_response(trooper: Trooper, fake: FakeTrooper) -> None:
    """A purchase whose response is lost: one object with the candidates."""
    fake.drop_next("/api/order", when="after")
    ran = trooper(*ORDER, "--json")
    error = error_of(ran.out)
    assert (ran.status, error["type"], error["exit_status"]) == (4, "PurchaseUnknownError", 4)
    assert isinstance(error["candidates"], list)
    assert [order["order_id"] for order in error["candidates"]] == [131]


@pytest.mark.parametrize(
    "words",
    [["nope"], ["ps", "--nope"], ["stop"], ["show", "999"], ["ssh", "999"], ["order", "77"], ["resume", "none"]],
)
def test_json_has_one_object_for_every_failure(trooper: Trooper, words: list[str]) -> None:
    """Usage errors and failures of any command: `error`, with the text of stderr."""
    ran = trooper(*words, "--json")
    error = error_of(ran.out)
    assert error["exit_status"] == ran.status != 0
    assert error["message"] == ran.error


def test_template_settings_are_shown_with_show_only(trooper: Trooper) -> None:
    """Whatever an option is called, its value may be a password: names only, values with --show."""
    values = ["--set", "DB_PWD=hunter2", "--set", "max_tokens=5"]
    assert trooper("templates", "install", "123", "1", *values).status == 0
    for words in (["templates", "installs", "123"], ["show", "123"], ["ps"]):
        said = trooper(*words, "--json")
        assert "hunter2" not in said.out + trooper(*words).out
    (install,) = trooper("templates", "installs", "123", "--json").json
    assert install["config_names"] == ["DB_PWD", "max_tokens"]
    (install,) = trooper("templates", "installs", "123", "--json", "--show").json
    assert install["config"] == {"DB_PWD": "hunter2", "max_tokens": "5"}
    assert "DB_PWD=hunter2" in trooper("templates", "installs", "123", "--show").out


def test_template_settings_may_come_from_a_file_or_stdin(trooper: Trooper, fake: FakeTrooper, tmp_path: Path) -> None:
    """Then a value is in no process list and no shell history."""
    token = tmp_path / "token"
    token.write_text("from the file\n")
    files = ["--set-file", f"TOKEN={token}", "--set", "-"]
    ran = trooper("templates", "install", "123", "1", *files, "--no-wait", answers="PWD=from=stdin\n\n")
    assert ran.status == 0
    (body,) = sent(fake, "/api/template-install-add")
    assert body["config"] == {"TOKEN": "from the file", "PWD": "from=stdin"}
    assert trooper("templates", "install", "123", "1", "--set-file", "TOKEN=" + str(tmp_path / "none")).status == 1
