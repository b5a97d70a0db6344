"""Renting by requirements, waiting for an offer, and a server for the duration of one command."""

from __future__ import annotations

import signal
from decimal import Decimal
from pathlib import Path

import pytest

from tests.cli.conftest import Clock, Trooper, interrupted, sent
from tests.helpers.fake_orders import order_of, polls_since
from trooper_async.testing import FakeTrooper

YES = ("--yes", "--accept-terms", "--max-price-h", "0.9")
JOB = ("order", "3", *YES, "--for-job")


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The arguments of `ssh` are in this file; the last one is run by a shell."""
    calls, program = tmp_path / "calls", tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/bash\necho "$@ key=${{TROOPER_API_KEY-none}}" >> {calls}\nexec bash -c "${{@: -1}}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("TROOPER_API_KEY", "the-key")
    return calls


def test_the_cheapest_matching_offer_is_rented(trooper: Trooper, fake: FakeTrooper) -> None:
    """It is shown, and named in the question, before anything is sent."""
    ran = trooper("order", "--gpu", "rtx 4090", "--max-price-h", "0.9", "--no-wait", answers="y\ny\n")
    assert ran.status == 0
    assert "Rent offer 1 (" in ran.err
    assert trooper("order", "--gpu", "RTX*", "--min-gpus", "2", *YES[:-1], "2", "--no-wait").status == 0
    assert [body["blib_id"] for body in sent(fake, "/api/order")] == [1, 2]


def test_an_offer_that_does_not_match_is_not_rented(trooper: Trooper, fake: FakeTrooper) -> None:
    """Too dear, taken, or none at all: it names the nearest ones, and nothing is sent."""
    dear = trooper("order", "--gpu", "RTX 4090", *YES[:-1], "0.5")
    assert (dear.status, "can be rented now for at most 0.50 EUR per hour" in dear.error) == (1, True)
    assert "--wait-for-offer" in dear.err
    assert "no offer fits" in trooper("order", "--gpu", "TPU", *YES).error
    assert trooper("order", "--gpu", "A100", *YES).status == 1  # it is not available
    assert sent(fake, "/api/order") == []


@pytest.mark.parametrize(
    "words",
    [[], ["3", "--gpu", "x"], ["x"], ["0"], ["3", "4"], ["3", "--for-job"], ["--gpu", "x", "--for-job"]],
)
def test_an_ambiguous_order_is_refused(trooper: Trooper, fake: FakeTrooper, words: list[str]) -> None:
    """An offer or requirements, not both; a command only for a job, and a job only with one."""
    assert trooper("order", *words, *YES).status == 2
    assert trooper("order", "3", "--for-job", "--no-wait", *YES, "--", "true").status == 2
    assert fake.requests == []


def test_an_offer_is_waited_for(trooper: Trooper, fake: FakeTrooper) -> None:
    """--wait-for-offer rents when a matching offer is available."""
    offer = fake.blibs[4]  # an A100, which is taken
    polls = 0

    def soon() -> bool:
        nonlocal polls
        polls = sum(request.path == "/api/blibs" for request in list(fake.requests))
        if polls > 2:
            offer.is_available = True
        return len(sent(fake, "/api/order")) == 1

    words = ("order", "--gpu", "A100", "--yes", "--accept-terms", "--max-price-h", "100", "--wait-for-offer")
    fake.durations["create"] = 30.0
    ran = interrupted(trooper, fake, signal.SIGINT, "/api/blibs", *words, when=soon)
    assert ran.status == 130
    assert "waiting until one of 1 offer can be rented" in ran.err
    assert [body["blib_id"] for body in sent(fake, "/api/order")] == [4]


def actions(fake: FakeTrooper) -> list[tuple[int, str]]:
    return [(order_of(fake, body["serverId"]), body["action"]) for body in sent(fake, "/api/order-status")]


def test_a_job_has_its_own_server(trooper: Trooper, fake: FakeTrooper, ssh: Path) -> None:
    """Rented, run through ssh without the key, frozen; the exit status is the command's."""
    ran = trooper(*JOB, "--json", "--", "exit 7")
    assert (ran.status, ran.json) == (7, {"order_id": 131, "exit_status": 7})
    called = ssh.read_text()
    assert called.startswith("-o HostKeyAlias=trooper-131 -o StrictHostKeyChecking=accept-new -p ")
    assert called.endswith("exit 7 key=none\n")
    assert actions(fake) == [(131, "frozen")]
    assert "order 131 is being frozen" in ran.err
    assert trooper(*JOB, "--then", "stop", "--", "true").status == 0
    assert actions(fake)[-1] == (132, "stopped")


def test_an_interrupted_job_releases_its_server(trooper: Trooper, fake: FakeTrooper, ssh: Path) -> None:
    """Ctrl-C while the command runs ends it, and the server is frozen."""
    ran = interrupted(trooper, fake, signal.SIGINT, "/api/order", *JOB, "--", "sleep 60", when=ssh.exists)
    assert ran.status == 130
    assert actions(fake) == [(131, "frozen")]


def test_a_job_interrupted_during_its_purchase_releases_its_server(trooper: Trooper, fake: FakeTrooper) -> None:
    """The purchase is followed to its end, and the server that it bought is frozen."""
    hold = fake.hold_next("/api/order")
    ran = interrupted(trooper, fake, signal.SIGINT, "/api/order", *JOB, "--", "true", then=hold.release)
    assert ran.status == 130
    assert actions(fake) == [(131, "frozen")]


def test_a_job_whose_server_does_not_start_releases_it(trooper: Trooper, fake: FakeTrooper, clock: Clock) -> None:
    """The command reports the failure of the wait after the server is frozen."""
    fake.durations["create"] = 600
    with clock.forward(90, once=lambda: polls_since(fake, "/api/order") > 1):
        ran = trooper(*JOB, "--timeout", "90", "--", "true")
    assert (ran.status, "was not reached within 90 s" in ran.error) == (1, True)
    assert actions(fake) == [(131, "frozen")]


def test_a_job_retries_the_release_of_its_server(
    trooper: Trooper, fake: FakeTrooper, ssh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failures are retried; if that does not help, the order and a command are named, and it is a failure."""
    monkeypatch.setattr("trooper_async.cli._jobs._PAUSE", 0.01)
    fake.fail_next("/api/order-status", status=500, times=6)
    assert trooper(*JOB, "--", "true").status == 0
    assert actions(fake)[-1] == (131, "frozen")
    fake.fail_next("/api/order-status", status=403, body={"error": "Server is locked and cannot be modified"})
    ran = trooper(*JOB, "--", "true")
    assert ran.status == 1
    assert "it is still billed" in ran.error
    assert "`trooper freeze 132`" in ran.err


def test_two_jobs_can_run_at_once(trooper: Trooper, fake: FakeTrooper, ssh: Path, tmp_path: Path) -> None:
    """While a job runs, another order can be made: the ledger is not locked."""
    from trooper_async.cli._purchases import _is_locked

    seen = []
    (tmp_path / "state").mkdir()
    ledger = tmp_path / "state" / "purchases.jsonl"

    def running() -> bool:
        if ssh.exists():
            seen.append(_is_locked(ledger))
        return bool(seen)

    interrupted(trooper, fake, signal.SIGINT, "/api/order", *JOB, "--", "sleep 60", when=running)
    assert seen[-1] is False
    assert ledger.exists()


def test_a_named_offer_is_waited_for(trooper: Trooper, fake: FakeTrooper) -> None:
    """An available one is rented at once; one that is too dear or taken is waited for."""
    assert trooper("order", "3", *YES, "--wait-for-offer", "--no-wait").status == 0
    words = ("order", "3", *YES[:-1], "0.1", "--wait-for-offer")
    fake.durations["create"] = 30.0

    def cheaper() -> bool:
        fake.blibs[3].price_h = Decimal("0.09")
        return len(sent(fake, "/api/order")) == 2

    assert interrupted(trooper, fake, signal.SIGINT, "/api/blibs", *words, when=cheaper).status == 130
    assert [body["price_h"] for body in sent(fake, "/api/order")] == [0.195, 0.09]
