"""doctor: its findings on fakes of each kind, without secrets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from attrs import evolve

from tests.cli.conftest import Trooper
from trooper_async import Order, TrooperClient
from trooper_async.cli import _doctor
from trooper_async.testing import FakeTrooper, Profile


def answers(report: list[dict[str, str]]) -> dict[str, str]:
    return {one["question"]: f"{one['verdict']}: {one['answer']}" for one in report}


@asynccontextmanager
async def examined(**kind: Any) -> AsyncIterator[tuple[FakeTrooper, dict[str, str]]]:
    """The findings of the doctor's reads of such a fake."""
    async with FakeTrooper(**kind) as fake, fake.client() as client:
        fake.add_order(title="secret title", ip="203.0.113.77")
        fake.add_order(status="starting", desired_status="running")
        fake.set_status(fake.add_order(), "defrosting", "running")
        _, raw = await _doctor.key_finding(client, "the test")
        found = [*await _doctor.offer_findings(client), *await _doctor.order_findings(client, raw)]
        assert not any(request.method == "POST" for request in fake.requests)
        yield fake, {one.question: f"{one.verdict}: {one.answer}" for one in found}


async def test_doctor_reports_the_documented_api() -> None:
    """On the API as documented: its names, its history ids, no loose types; an unknown status word is reported."""
    async with examined() as (_, said):
        assert said["status names"] == "ok: status + status_user (3)"
        assert said["history ids"].startswith("ok: fall with time") or "no history" in said["history ids"]
        assert said["status words not known"] == "note: defrosting (1)"
        assert said["current and desired status that differ"].startswith("note: ")
        assert "starting with running" in said["current and desired status that differ"]
        assert said["ETag of the orders"] == "ok: none"
        assert said["kinds of values in /api/orders"] == "ok: as documented"
        assert said["fields not known in /api/orders"] == "ok: none"


async def test_doctor_reports_the_other_dialect_and_etags() -> None:
    """The names of the prose are told apart from the sample's, and ETags are tried."""
    async with examined(profile=evolve(Profile.load("prose"), etag="honoured")) as (_, said):
        assert said["status names"] == "ok: current_status + desired_status (3)"
        assert said["ETag of the orders"] == "ok: honoured with 304"
        assert said["telling headers of the orders"] == "ok: etag"


async def test_doctor_reports_loose_types() -> None:
    """Numbers as text, booleans as numbers, nulls and new fields are reported by field and kind."""
    async with examined(profile=evolve(Profile.load("loose"), desired_field=None, etag="none", gzip=False)) as (
        _,
        said,
    ):
        assert said["status names"] == "note: status (3)"
        assert "status_txt: null" in said["kinds of values in /api/order-status-history"]
        kinds = said["kinds of values in /api/orders"]
        for kind in ("price_h: text (3)", "is_locked: number (3)", "paid_until: null (3)"):
            assert kind in kinds
        assert said["fields not known in /api/orders"] == "note: beta_field"
        assert said["fields not known in /api/blibs"] == "note: beta_field"


def test_doctor_prints_no_values(trooper: Trooper, fake: FakeTrooper) -> None:
    """With the demo's fleet: status 0, only GETs, and no id, title, address or price in the output."""
    ran = trooper("doctor")
    assert (ran.status, ran.err) == (0, "")
    assert "is accepted (from none)" in ran.out
    assert {request.method for request in fake.requests} == {"GET"}
    report = answers(trooper("doctor", "--json").json)
    assert list(report)[:6] == ["versions", "base URL", "latency", "clock", "the API", "the key"]
    assert "this machine is" in report["clock"]
    text = ran.out + str(report)
    for secret in ("training", "203.0.113.9", "1.65", "0.195", fake.api_key, "ai99_"):
        assert secret not in text


def test_doctor_reports_a_refused_key(trooper: Trooper) -> None:
    """Status 3, and the public endpoints are checked nevertheless."""
    ran = trooper("doctor", "--json", api_key="wrong")
    assert ran.status == 3
    report = answers(ran.json)
    assert report["the key"] == "bad: is refused (401; key from none)"
    assert report["fields of /api/templates"] == "note: none to see (401)"
    assert "status names" not in report


def test_a_bad_finding_sets_the_exit_status(trooper: Trooper, fake: FakeTrooper) -> None:
    """A 403 is a refused key too (3); any other bad finding is a failure (1)."""
    fake.fail_next("/api/orders", status=403)
    assert trooper("doctor").status == 3
    fake.fail_next("/api/orders", status=200, body=[{"order_id": 1}])
    assert trooper("doctor").status == 1


def test_doctor_without_a_key_or_an_api_says_so(trooper: Trooper, fake: FakeTrooper) -> None:
    """Without a key it says what it could not check; without an API it says only that, with status 1."""
    assert answers(trooper("doctor", "--json", api_key=None).json)["the key"].startswith("note: there is none")
    fake.fail_next("/api/test", status=503)
    assert trooper("doctor").error == "the API: GET /api/test: 503"
    fake.drop_next("/api/test")
    assert trooper("doctor").status == 1
    fake.fail_next("/api/orders", status=500)
    ran = trooper("doctor", "--json")
    assert ran.status == 1
    assert answers(ran.json)["the key"] == "bad: GET /api/orders failed (500; key from none)"


def test_doctor_reports_invalid_json(trooper: Trooper, fake: FakeTrooper) -> None:
    """HTML instead of JSON, a list instead of an object: reported without a crash."""
    fake.fail_next("/api/orders", status=200, body="<html>")
    ran = trooper("doctor", "--json")
    assert answers(ran.json)["the key"].startswith("bad: GET /api/orders: 200, but it is not JSON")
    assert ran.status == 1
    fake.fail_next("/api/blibs", status=200, body={"rows": 1})
    assert trooper("doctor").status == 0


def test_findings_contain_no_values() -> None:
    """Anything but a plain word is reported by its kind: a key, title or address is not repeated."""
    odd: list[_doctor.Row] = [
        {"order_id": 1, "serverId": 2, "status": "sk_live_" + "x" * 60, "status_user": {"a": 1}, "\x1b[2J": 1},
        {"order_id": "2", "serverId": 2, "status": "a\x1b[2J", "current_status": "running", "10.0.0.1": 1},
    ]
    told = " ".join(
        one.answer
        for one in (
            _doctor.dialect(odd),
            _doctor.both_statuses(odd),
            _doctor.unknown_words(odd, odd),
            _doctor.same_ids(odd),
            _doctor.unknown_fields(Order, odd, "x"),
            _doctor.loose_kinds(Order, odd, "x"),
            _doctor.template_states([{"status": [1], "status_readable": "x" * 90}]),
        )
    )
    for secret in ("sk_live", "\x1b", "10.0.0.1", "xxx"):
        assert secret not in told
    assert _doctor.same_ids(odd).answer == "differ, or are missing, in 1"
    assert _doctor.dialect([{}]).verdict == "bad"
    assert _doctor.dialect([]).answer == "no orders to see them in"


@pytest.mark.parametrize(
    ("ids", "answer"),
    [
        ([1, 2, 3], "rise with time (1)"),
        ([3, "2", 1], "fall with time (1)"),
        ([1, 3, 2], "neither (1)"),
        ([1], "no history of two rows to see"),
        (["x", Decimal("1.5")], "no history of two rows to see"),
    ],
)
def test_doctor_reports_the_direction_of_history_ids(ids: list[Any], answer: str) -> None:
    """Whether ids rise or fall is judged by the rows' times, in whatever order they come."""
    rows: list[_doctor.Row] = [{"id": one, "status_since": f"2026-01-0{day}"} for day, one in enumerate(ids, 1)]
    assert _doctor.history_ids([list(reversed(rows))]).answer == answer
    assert _doctor.history_ids([rows]).answer == answer


async def test_the_doctors_repr_has_no_key() -> None:
    """No repr of the doctor's objects has the key."""
    async with FakeTrooper() as fake, TrooperClient(fake.api_key, base_url=fake.url) as client:
        raw = await _doctor.read(client, "/api/orders")
        assert raw.status == 200
        assert fake.api_key not in repr(raw)
