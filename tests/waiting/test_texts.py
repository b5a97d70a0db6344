"""The whole text of each way in which a wait fails: what people read, from the operation to the next step."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any
from unittest import mock

import pytest

from tests.tools.simulator.clock import run
from tests.tools.simulator.script import Script, reply, row
from trooper_async import (
    OrderNotFoundError,
    OrderVanishedError,
    StatusChange,
    SupersededError,
    TemplateFailedError,
    Transition,
    TrooperClient,
    TrooperError,
    WaitError,
    WaitTimeoutError,
)
from trooper_async._api.endpoints import Call
from trooper_async._api.responses import Response
from trooper_async._waiting import waits

STOP = Transition(1, "stop", "stopped")
RESTART = Transition(1, "restart", "running", ())
WITH_HISTORY = Transition(1, "restart", "running", (StatusChange("running", id=9),))

Rows = Callable[[float], Any]
Wait = Callable[[TrooperClient], Awaitable[object]]


def fails(orders: Rows, wait: Wait, kind: type[TrooperError], text: str, *, others: Any = None) -> None:
    """The wait fails with this text, apart from how many polls and seconds it took. The last part is the class's hint:
    tests/test_errors.py.
    """

    async def other(call: Call[Any]) -> Response:
        return reply({"success": True, "history": [], **(others or {})}) if not isinstance(others, Response) else others

    async def main() -> None:
        async with Script(orders, other).client() as client:
            await wait(client)

    with pytest.raises(kind) as caught:
        run(main())
    assert type(caught.value) is kind
    assert re.sub(r" \(\d+ polls?, [0-9.]+ s\)", "", str(caught.value)) == f"{text}. {kind.hint}"


@pytest.mark.parametrize(
    ("orders", "reason"),
    [
        (lambda t: [row(1, "running", "stopped")], " (last seen running, desired stopped)"),
        (lambda t: [{"order_id": 1, "status": "running"}], " (last seen running)"),
        (lambda t: [{"status": "running"}], " (never seen in the list)"),
        (
            lambda t: reply({"error": "overloaded"}, 503),
            " (never seen in the list); no poll has succeeded for 9 s: overloaded",
        ),
    ],
)
def test_a_timeout_says_what_was_seen_last(orders: Rows, reason: str) -> None:
    """Both statuses, if the API gives them, or why no poll has succeeded."""
    text = f"orders.wait of order 1: stopped was not reached within 9 s{reason}"
    fails(orders, lambda client: client.orders.wait(STOP, timeout=9), WaitTimeoutError, text)


@pytest.mark.parametrize(
    ("wait", "kind", "text"),
    [
        (
            lambda client: client.orders.wait_until(1, lambda order: False, timeout=9),
            WaitTimeoutError,
            "orders.wait_until of order 1: the awaited condition was not reached within 9 s "
            "(last seen running, desired running)",
        ),
        (
            lambda client: client.orders.wait_until(2, "stopped"),
            OrderNotFoundError,
            "orders.wait_until of order 2: it is not in the list of orders",
        ),
    ],
)
def test_the_end_of_a_wait_for_a_running_server(wait: Wait, kind: type[TrooperError], text: str) -> None:
    """A condition that never holds, and an unknown order."""
    fails(lambda t: [row(1, "running")], wait, kind, text)


@pytest.mark.parametrize(
    ("later", "kind", "problem"),
    [
        ([], OrderVanishedError, "it is no longer in the list of orders (last seen stopping, desired stopped)"),
        (
            [row(1, "running")],
            SupersededError,
            "another action replaced this one (last seen running, desired running, not stopped)",
        ),
    ],
)
def test_an_action_that_cannot_succeed_any_more_ends_its_wait(
    later: list[dict[str, Any]], kind: type[TrooperError], problem: str
) -> None:
    """The order is gone, or somebody starts it again."""
    fails(
        lambda t: [row(1, "stopping", "stopped")] if t < 1010 else later,
        lambda client: client.orders.wait(STOP),
        kind,
        f"orders.wait of order 1: {problem}",
    )


def test_a_status_without_a_desired_one_cannot_converge() -> None:
    """The error says which wait works instead."""
    text = "the API gives no desired status for it: wait for a status by name instead"
    fails(
        lambda t: [{"order_id": 1, "status": "running"}],
        lambda client: client.orders.wait_until_converged(1),
        WaitError,
        f"orders.wait_until_converged of order 1: {text}",
    )


@pytest.mark.parametrize(
    ("transition", "orders", "others", "reason"),
    [
        (RESTART, lambda t: [row(1, "running")], None, "(running, but no restart was seen)"),
        (
            RESTART,
            lambda t: [row(1, "restarting" if t < 1055 else "running", "running")],
            None,
            "(running, but not for long enough yet to prove the restart)",
        ),
        (
            WITH_HISTORY,
            lambda t: [row(1, "running")],
            reply({"error": "the history is down"}, 500),
            "(running, but no restart was seen); the last failure in that time: the history is down",
        ),
    ],
)
def test_a_restart_that_is_not_confirmed_says_what_is_missing(
    transition: Transition, orders: Rows, others: Any, reason: str
) -> None:
    """`running` alone proves no restart."""
    text = f"orders.wait of order 1: running was not reached within 60 s {reason}"
    fails(orders, lambda client: client.orders.wait(transition, timeout=60), WaitTimeoutError, text, others=others)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_named_with_the_apis_text(status: int) -> None:
    """Its full stop does not stand before the parenthesis."""
    text = (
        "orders.wait of order 1: the API refuses the key, twice in a row: "
        f"the API returned {status}: not for GPU X (never seen in the list)"
    )
    fails(
        lambda t: reply({"error": "not for GPU X."}, status), lambda client: client.orders.wait(STOP), WaitError, text
    )


@pytest.mark.parametrize(
    ("others", "problem"),
    [
        ({"ip": "192.0.2.1", "ssh_port": 22}, ""),
        (reply({"error": "not yet"}, 403), ", since its credentials can't be read: not yet"),
    ],
)
def test_a_server_that_cannot_be_reached_says_why(monkeypatch: pytest.MonkeyPatch, others: Any, problem: str) -> None:
    """It runs, but SSH does not respond, or its address cannot be read."""
    monkeypatch.setattr(waits, "ssh_responds", mock.AsyncMock(return_value=False))
    text = "orders.wait_until_reachable of order 1: it is running, but no SSH server responded within 9 s" + problem
    fails(
        lambda t: [row(1, "running")],
        lambda client: client.orders.wait_until_reachable(1, timeout=9),
        WaitTimeoutError,
        text,
        others=others,
    )


@pytest.mark.parametrize(
    ("installs", "kind", "problem"),
    [
        ([], WaitError, "it is not among the installs of the order"),
        ([{"install_id": 5, "status": 0}], WaitTimeoutError, "installed was not reached within 99 s"),
        (
            [{"install_id": 5, "status": 3, "status_readable": "INSTALL ERROR"}],
            TemplateFailedError,
            "the installation of the template failed (INSTALL ERROR)",
        ),
        (
            [{"install_id": 5, "status": 3, "status_readable": "Failed", "template_name": "PyTorch"}],
            TemplateFailedError,
            "the installation of PyTorch failed (Failed)",
        ),
    ],
)
def test_a_template_that_is_not_installed_is_named(
    installs: list[dict[str, Any]], kind: type[TrooperError], problem: str
) -> None:
    """Its install and its order are the subject."""
    fails(
        lambda t: [row(1, "running")],
        lambda client: client.templates.wait(1, 5, timeout=99),
        kind,
        f"templates.wait of install 5 on order 1: {problem}",
        others={"templates": installs},
    )


def test_offers_that_stay_unavailable_are_named() -> None:
    """All that were waited for."""
    text = "blibs.wait_until_available of blib 1 or blib 2: available was not reached within 9 s"
    fails(
        lambda t: [],
        lambda client: client.blibs.wait_until_available(1, 2, timeout=9),
        WaitTimeoutError,
        text,
        others=reply([]),
    )
