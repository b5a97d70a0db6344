"""order, migrate, purchases and templates: what is shown and asked before money is spent, and what is known
afterwards.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Trooper, interrupted, meanwhile, sent
from tests.helpers.fake_orders import order_of, polls_since
from trooper_async import FleetReport
from trooper_async.cli._settings import Settings
from trooper_async.testing import FakeTrooper

ORDER = ("order", "3", "--yes", "--max-price-h", "0.20", "--accept-terms")
MIGRATE = ("migrate", "buy", "128", "1", "--keep-data", "--yes", "--max-total-due", "1000")


def test_order_shows_the_price_and_asks_twice(trooper: Trooper, fake: FakeTrooper) -> None:
    """Price and terms are confirmed separately, and the command waits until the server runs."""
    fake.durations["create"] = 600
    with meanwhile(lambda: polls_since(fake, "/api/order") > 1, lambda: fake.advance(600)):
        ran = trooper("order", "3", "--json", answers="y\ny\n")
    assert ran.status == 0
    assert (ran.json["order_id"], ran.json["current_status"]) == (131, "running")
    assert (
        ran.err.index("Rent offer 3") < ran.err.index("0.195 EUR for each HOUR") < ran.err.index("terms and conditions")
    )
    assert "order 131: starting" in ran.err
    (body,) = sent(fake, "/api/order")
    assert body["terms_accepted"] is True


@pytest.mark.parametrize("answers", ["", "n\n", "y\n", "y\nn\n", "maybe\ny\n"])
def test_order_sends_nothing_without_both_confirmations(trooper: Trooper, fake: FakeTrooper, answers: str) -> None:
    """A no, or no reply, to the price or the terms: nothing is sent."""
    ran = trooper("order", "3", answers=answers)
    assert ran.status == 1
    assert "nothing was sent" in ran.error
    assert sent(fake, "/api/order") == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["3", "--yes"],
        ["3", "--yes", "--accept-terms"],
        ["3", "--yes", "--max-price-h", "1"],
        ["3", "--interval", "MONTH", "--max-price-h", "1"],
        ["3", "--max-price-h", "cheap"],
        ["3", "--max-price-h", "-1"],
    ],
)
def test_order_with_yes_needs_a_limit_and_the_terms(trooper: Trooper, fake: FakeTrooper, arguments: list[str]) -> None:
    """--yes needs a price limit and the terms; other intervals need their price: status 2, and no request."""
    assert trooper("order", *arguments).status == 2
    assert fake.requests == []


def test_order_above_the_limit_is_refused(trooper: Trooper, fake: FakeTrooper) -> None:
    """An offer above --max-price-h: nothing is asked or sent."""
    ran = trooper("order", "3", "--max-price-h", "0.19", answers="y\ny\n")
    assert ran.status == 1
    assert "at most 0.19 are allowed" in ran.error
    assert sent(fake, "/api/order") == []
    assert trooper("order", "77", answers="y\ny\n").error == "there is no offer 77: nothing was sent"


def test_order_sends_its_options(trooper: Trooper, fake: FakeTrooper) -> None:
    """Interval, total price, partition and templates (by name or id) are sent; --no-wait prints the transition."""
    options = ["--interval", "MONTH", "--total-price", "120", "--second-partition-percentage", "20"]
    ran = trooper(*ORDER, *options, "--template", "comfyui", "--template", "1", "--no-wait", "--json")
    assert (ran.status, ran.json["action"]) == (0, "create")
    (body,) = sent(fake, "/api/order")
    assert (body["contract_interval"], body["total_price"], body["second_partition_percentage"]) == ("MONTH", 120, 20)
    assert [template["id"] for template in body["templates"]] == [2, 1]
    unknown = trooper(*ORDER, "--template", "nope")
    assert unknown.error == "no template is called nope: nothing was sent"
    assert len(sent(fake, "/api/order")) == 1


def test_a_reference_buys_once(trooper: Trooper, fake: FakeTrooper, settings: Settings) -> None:
    """The ledger knows the reference in another run of the command, and nothing more is bought."""
    first = trooper(*ORDER, "--reference", "job-7", "--json")
    again = trooper(*ORDER, "--reference", "job-7", "--json")
    assert first.json["order_id"] == again.json["order_id"] == 131
    assert len(sent(fake, "/api/order")) == 1
    assert settings.ledger.stat().st_mode & 0o777 == 0o600
    assert settings.ledger.parent.stat().st_mode & 0o777 == 0o700


def test_a_lost_purchase_is_unknown_until_it_is_resolved(trooper: Trooper, fake: FakeTrooper) -> None:
    """Status 4 and the candidates; the next order is refused; `purchases` lists it; once resolved, orders go on."""
    fake.drop_next("/api/order", when="after")
    ran = trooper(*ORDER)
    assert ran.status == 4
    assert "candidates: order 131" in ran.error
    (hint,) = [line for line in ran.err.splitlines() if line.startswith("hint: ")]
    assert trooper(*ORDER).status == 1
    assert len(sent(fake, "/api/order")) == 1

    (purchase,) = trooper("purchases", "--json").json
    assert (purchase["state"], purchase["order_id"], purchase["price_h"]) == ("unknown", None, 0.195)
    told = trooper("purchases")
    assert f"trooper purchases resolve {purchase['id'][:8]}" in told.out

    assert f"`trooper purchases resolve {purchase['id'][:8]} --order 131`" in hint
    assert trooper("purchases", "resolve", purchase["id"][:8]).status == 2
    assert trooper("purchases", "resolve", "zz", "--not-made").error == "no purchase has an id that begins with 'zz'"
    resolved = trooper("purchases", "resolve", purchase["id"][:8], "--order", "131", "--json")
    assert (resolved.json["state"], resolved.json["order_id"]) == ("resolved", 131)
    assert trooper(*ORDER).status == 0


def test_purchases_without_a_ledger_is_empty(trooper: Trooper, settings: Settings) -> None:
    """Without a ledger there is nothing to list or resolve, and none is created; no key is needed."""
    assert trooper("purchases", "--json", api_key=None).json == []
    assert "nothing was bought" in trooper("purchases").out
    assert trooper("purchases", "resolve", "x", "--not-made").status == 1
    assert not settings.ledger.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_purchase_is_awaited_and_reported(
    trooper: Trooper, fake: FakeTrooper, number: signal.Signals
) -> None:
    """Ctrl-C or SIGTERM while it is in flight: its response is awaited and printed; status 130."""
    hold = fake.hold_next("/api/order")
    ran = interrupted(trooper, fake, number, "/api/order", *ORDER, then=hold.release)
    assert ran.status == 130
    assert "waiting for the response to what was sent" in ran.err
    assert "bought as order 131, which is billed" in ran.err
    assert trooper("purchases", "--json").json[0]["order_id"] == 131


def test_an_interrupted_wait_names_the_order(trooper: Trooper, fake: FakeTrooper) -> None:
    """Ctrl-C while the new server starts: the order that is being billed is named."""
    fake.durations["create"] = 30.0
    ran = interrupted(trooper, fake, signal.SIGINT, "/api/order", *ORDER)
    assert ran.status == 130
    assert "bought as order 131, which is billed" in ran.err


def test_an_interrupt_before_the_purchase_says_that_nothing_was_bought(trooper: Trooper, fake: FakeTrooper) -> None:
    """Ctrl-C before the purchase is sent: nothing was bought."""
    fake.delay_next("/api/blibs", 30)
    ran = interrupted(trooper, fake, signal.SIGINT, "/api/blibs", *ORDER)
    assert ran.status == 130
    assert "nothing was bought" in ran.err
    assert sent(fake, "/api/order") == []


def test_an_interrupted_fleet_can_be_resumed(trooper: Trooper, fake: FakeTrooper, tmp_path: Path) -> None:
    """Ctrl-C in a run of many: what is known is printed and stored, and `resume` sends none of it again."""
    fake.durations["stop"] = 600
    file = tmp_path / "report.json"
    stop = ("stop", "123", "124", "126", "--concurrency", "1", "--report", str(file))

    def all_sent() -> bool:
        return len(sent(fake, "/api/order-status")) == 3

    ran = interrupted(trooper, fake, signal.SIGINT, "/api/order-status", *stop, when=all_sent)
    assert ran.status == 130
    assert f"trooper resume {file}" in ran.err
    kept = FleetReport.from_json(file.read_text())
    assert all(outcome.transition is not None for outcome in kept.outcomes)
    fake.advance(600)
    resumed = trooper("resume", str(file), "--json")
    assert [outcome["order"]["current_status"] for outcome in resumed.json] == ["stopped"] * 3
    assert sorted(order_of(fake, body["serverId"]) for body in sent(fake, "/api/order-status")) == [123, 124, 126]


def test_migrate_shows_asks_and_waits(trooper: Trooper, fake: FakeTrooper) -> None:
    """Options, quote and purchase; the question names the price and what happens to the data."""
    assert 4 in [blib["id"] for blib in trooper("migrate", "options", "128", "--json").json["available_blibs"]]
    quote = trooper("migrate", "quote", "128", "1", "--json").json
    assert (quote["order_id"], quote["target_blib_id"]) == (128, 1)
    asked = trooper("migrate", "buy", "128", "1", "--lose-data", answers="n\n")
    assert "ITS DATA IS LOST" in asked.err
    assert asked.status == 1
    assert sent(fake, "/api/buy-migration") == []
    assert trooper("migrate", "options", "128").status == trooper("migrate", "quote", "128", "1").status == 0
    ran = trooper(*MIGRATE, "--json")
    assert (ran.status, ran.json["order_id"], ran.json["current_status"]) == (0, 131, "running")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--keep-data", "--yes"], 2),
        (["--yes", "--max-total-due", "5"], 2),
        (["--keep-data", "--yes", "--max-total-due", "0.01"], 1),
    ],
)
def test_migrate_without_limit_or_data_option_buys_nothing(
    trooper: Trooper, fake: FakeTrooper, arguments: list[str], status: int
) -> None:
    """Without a limit, without --keep-data or --lose-data, or above the limit: nothing is bought."""
    assert trooper("migrate", "buy", "128", "1", *arguments).status == status
    assert sent(fake, "/api/buy-migration") == []


def test_a_migration_above_the_limit_is_not_sent_after_a_yes(trooper: Trooper, fake: FakeTrooper) -> None:
    """The question comes even if the quote is above the limit, since the quote that counts is read later."""
    fake.fail_next(
        "/api/migration-cost",
        status=200,
        body={"success": True, "totalDue": 12, "upgradeCost": 12, "remainingValue": 0},
    )
    ran = trooper("migrate", "buy", "128", "1", "--keep-data", "--max-total-due", "11")
    assert (ran.status, ran.error) == (1, "not confirmed: nothing was sent")
    assert sent(fake, "/api/buy-migration") == []


def test_migrate_without_waiting(trooper: Trooper) -> None:
    """--no-wait prints the transition of the new order, and `purchases` says what it replaces."""
    assert trooper(*MIGRATE, "--no-wait", "--json").json["order_id"] == 131
    assert "order 128 → offer 1" in trooper("purchases").out


def test_templates_are_installed_and_removed(trooper: Trooper, fake: FakeTrooper) -> None:
    """list, install (with options, by name), installs, retry, remove."""
    assert [one["name"] for one in trooper("templates", "list", "--json").json][1] == "ComfyUI"
    assert "Python Version=3.9" in trooper("templates", "list").out
    installed = trooper("templates", "install", "123", "pytorch environment", "--set", "python_version=3.10", "--json")
    assert (installed.json["status_readable"], installed.json["config_names"]) == ("Completed", ["python_version"])
    assert [one["install_id"] for one in trooper("templates", "installs", "123", "--json").json] == [1]
    assert "python_version" in trooper("templates", "installs", "123").out
    fake.failing_templates.add(2)
    failed = trooper("templates", "install", "123", "2")
    assert failed.status == 1
    assert "trooper templates retry" in failed.err
    assert trooper("templates", "retry", "2", "--json").json == {"install_id": 2}
    assert trooper("templates", "remove", "1", "--json").json == {"install_id": 1}
    assert trooper("templates", "install", "123", "3", "--no-wait", "--json").json == {"install_id": 3}
    assert trooper("templates", "install", "123", "3", "--set", "x").status == 2
