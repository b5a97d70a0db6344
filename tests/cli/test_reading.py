"""The commands that only read, and those that change a title or a lock."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from attrs import fields

from tests.cli.conftest import ON_ITS_WAY, PASSWORD, Clock, Trooper, meanwhile
from trooper_async import Credentials, Order, StatusChange
from trooper_async.cli._servers import fleet_cost, timeline
from trooper_async.cli._text import euros, moment, printable, span, to_json
from trooper_async.testing import FakeTrooper

ORDER_FIELDS = [field.name for field in fields(Order) if field.name != "extra"]


def test_ps_lists_the_servers(trooper: Trooper) -> None:
    """A row for each server with its current and desired status, and the sum of their current costs."""
    ran = trooper("ps")
    assert ran.status == 0
    assert "training llama 1  2 x RTX 4090" in ran.out
    assert "starting → running" in ran.out
    # 4 running, 1 starting, 35 % of the 2 stopped; the frozen one is not in it
    assert f"8 servers, {2 * 1.65 + 0.85 + 0.195 + 0.85 + 0.35 * (1.65 + 0.85):.2f} EUR per hour" in ran.err


def test_ps_as_json_has_the_models_fields(trooper: Trooper) -> None:
    """`--json` prints the orders with the models' field names, on stdout alone."""
    ran = trooper("ps", "--json")
    assert ran.status == 0
    assert ran.err == ""
    assert [list(order) for order in ran.json] == [ORDER_FIELDS] * 8
    assert (ran.json[0]["order_id"], ran.json[0]["current_status"]) == (123, "running")
    assert datetime.fromisoformat(ran.json[0]["paid_until"]).tzinfo is not None
    assert '"price_h": 0.195,' in ran.out


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        (["--title", "TRAINING*", "--status", "running"], [123, 124]),
        (["--gpu-type", "v100"], [128]),
        (["--country-code", "nl"], [126]),
        (["--max-price-h", "0.2"], [128]),
    ],
)
def test_ps_takes_filters(trooper: Trooper, filters: list[str], ids: list[int]) -> None:
    """Each filter selects by its own field, ignoring case."""
    assert [order["order_id"] for order in trooper("ps", "--json", *filters).json] == ids


def test_gpus_are_sorted_by_price(trooper: Trooper) -> None:
    """Available offers, by price; others only with --all; filters select."""
    assert [blib["id"] for blib in trooper("gpus", "--json").json] == [3, 1, 2, 5]
    assert [blib["id"] for blib in trooper("gpus", "--json", "--all", "--gpu-type", "a*").json] == [4]
    assert [blib["id"] for blib in trooper("gpus", "--json", "--min-gpus", "2", "--max-price-h", "2").json] == [2]
    of_24_gb = trooper("gpus", "--json", "--min-gpu-ram", "24", "--country-code", "de").json
    assert [blib["id"] for blib in of_24_gb] == [1, 2, 5]
    table = trooper("gpus").out
    assert table.index("V100 Single") < table.index("RTX 4090 Dual")
    assert "0.825" in table  # EUR per hour and GPU


def test_public_commands_need_no_key(trooper: Trooper) -> None:
    """gpus, templates list and ping work without a key."""
    assert trooper("gpus", "--json", api_key=None).status == 0
    assert trooper("templates", "list", "--json", api_key=None).status == 0
    assert trooper("ping", "--json", api_key=None).json["test"] == "meinstring5"


def test_credentials_hides_the_password(trooper: Trooper) -> None:
    """The password is shown only with --show, in the table and as JSON."""
    hidden, hidden_json = trooper("credentials", "123"), trooper("credentials", "123", "--json")
    assert "(--show)" in hidden.out
    assert PASSWORD not in hidden.out + hidden.err + hidden_json.out + hidden_json.err
    assert "password" not in hidden_json.json
    assert PASSWORD in trooper("credentials", "123", "--show").out
    assert trooper("credentials", "123", "--show", "--json").json["password"] == PASSWORD


def test_history_shows_a_bar_for_each_change(trooper: Trooper, fake: FakeTrooper) -> None:
    """Each change has its row, the latest first, with a bar; as JSON it is the models."""
    fake.set_status(123, "stopped")
    ran = trooper("history", "123")
    assert ran.out.index("stopped") < ran.out.index("running")
    assert "█" in ran.out
    assert [change["status_user"] for change in trooper("history", "123", "--json").json] == ["stopped", "running"]


def test_the_bars_of_a_history_follow_the_times() -> None:
    """Bars join without a gap, from the first change to now; a change without a time has none."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    changes = [
        StatusChange("a", now - timedelta(hours=1)),
        StatusChange("b", now - timedelta(hours=4)),
        StatusChange("c"),
    ]
    assert timeline(changes, now, width=8) == [(3600, "······██"), (3 * 3600, "██████··"), (None, "")]
    assert timeline([], now) == []


def test_rename_lock_and_unlock_print_the_result(trooper: Trooper) -> None:
    """As JSON they print the new state."""
    assert trooper("rename", "123", "new name", "--json").json == {"order_id": 123, "title": "new name"}
    assert trooper("lock", "123", "--json").json == {"order_id": 123, "is_locked": True}
    assert "new name (locked)" in trooper("ps").out
    assert trooper("unlock", "123", "--json").json == {"order_id": 123, "is_locked": False}
    assert "no longer locked" in trooper("unlock", "123").out


def test_cost_includes_stopped_servers(trooper: Trooper) -> None:
    """Per hour, day and month; stopped ones at 35 %, frozen ones in no sum; and when paid periods end."""
    costs = trooper("cost", "--json").json
    per_hour = Decimal("1.65") * 2 + Decimal("0.85") * 2 + Decimal("0.195") + Decimal("0.35") * Decimal("2.50")
    assert Decimal(str(costs["per_hour"])) == per_hour
    assert Decimal(str(costs["per_day"])) == 24 * per_hour
    assert Decimal(str(costs["per_month"])) == 720 * per_hour
    assert {one["status"]: one["cost_h"] for one in costs["by_status"]}["frozen"] is None
    assert costs["ends"][-1]["order_id"] in (126, 129)  # paid by the month
    table = trooper("cost").out
    assert "Stopped servers still cost 35%: 630.00 EUR per month" in table
    assert "not documented" in table


def test_cost_names_servers_without_a_price() -> None:
    """An order without a price is in no sum, and named; a terminated one costs nothing, an unknown status in full."""
    orders = [Order(1, "running"), Order(2, "terminated", price_h=Decimal(5)), Order(3, "Odd", price_h=Decimal(2))]
    costs = fleet_cost(orders)
    assert (costs.per_hour, costs.unpriced) == (Decimal(2), (1,))


def test_json_is_exact_and_hides_secrets() -> None:
    """Money keeps its digits; passwords are left out unless requested; numbers without a JSON form are null."""
    assert to_json(Decimal("12.300")) == "12.300"
    assert to_json([Decimal("NaN"), None, True, 1], indent=None) == "[null, null, true, 1]"
    credentials = Credentials("203.0.113.1", 22, "root", "pw", "running")
    assert "pw" not in to_json(credentials)
    assert json.loads(to_json(credentials, secrets=True))["password"] == "pw"
    assert json.loads(to_json("half a pair: \ud83d")) == "half a pair: \ufffd"


def test_texts_are_formatted_for_people() -> None:
    """Control characters are shown as such, amounts and times in full."""
    assert printable("\x1b[31mred\u202e\nx") == "\ufffd[31mred\ufffd\ufffdx"
    assert printable("x" * 500, 120) == "x" * 120 + "…"
    assert [euros(Decimal(text)) for text in ("5", "0.195", "1E+3", "1E+400")] == [
        "5.00",
        "0.195",
        "1,000.00",
        "1E+400",
    ]
    assert [span(seconds) for seconds in (0.05, 42, 60, 7500, 90000)] == [
        "0.1 s",
        "42 s",
        "1 min",
        "2 h 5 min",
        "1 d 1 h",
    ]
    assert moment(datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))) == "0001-01-01 00:00+14:00"
    assert moment(None) == euros(None) == "-"


def test_wait_until_converged_or_a_status(trooper: Trooper, fake: FakeTrooper, clock: Clock) -> None:
    """Servers in transition are waited for, all or named ones."""
    with meanwhile(lambda: len(fake.requests) > 1, lambda: fake.set_status(ON_ITS_WAY, "running")):
        assert trooper("wait", str(ON_ITS_WAY), "--json").json[0]["order"]["current_status"] == "running"
    fake.set_status(123, "stopping", "stopped")
    seen = len(fake.requests)
    with clock.forward(3600, once=lambda: len(fake.requests) > seen + 2):
        ran = trooper("wait", "123", "124", "--until", "running")
    assert ran.status == 1
    assert "order 124: running" in ran.err
    assert ran.error.startswith("1 of 2 servers failed")
    every = trooper("wait", "--all", "--title", "inference*", "--json")
    assert [order["order_id"] for order in every.json] == [126]
