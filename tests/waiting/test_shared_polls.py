"""Waits for offers, installs and SSH servers share their requests like waits for orders do."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest

from tests.helpers.texts import exactly
from tests.tools.simulator.clock import run
from tests.tools.simulator.script import Script, reply, row
from trooper_async import Blib, ConfigurationError, Order, PermissionDeniedError, WaitError, WaitTimeoutError
from trooper_async._api.endpoints import Call
from trooper_async._api.responses import Response
from trooper_async._waiting import waits


def now() -> float:
    return asyncio.get_running_loop().time()


def offers(*rows: dict[str, Any]) -> Response:
    return Response(200, {}, json.dumps(rows).encode())


def scripted(others: Callable[[Call[Any]], Response], orders: Any = ()) -> Script:
    async def answer(call: Call[Any]) -> Response:
        await asyncio.sleep(0.05)
        return others(call)

    return Script(lambda t: list(orders), answer)


async def all_of(wait: Callable[[int], Awaitable[object]], target: str, problem: str = "") -> None:
    """200 waits, which time out together after six seconds."""
    for result in await asyncio.gather(*(wait(number) for number in range(200)), return_exceptions=True):
        assert isinstance(result, WaitTimeoutError)
        assert result.target == target
        assert f": {problem or f'{target} was not reached'} within 6 s" in str(result)


def test_200_waits_for_one_offer_share_one_poll() -> None:
    """In six seconds seven requests serve them all."""
    script = scripted(lambda call: offers({"id": 1, "is_available": False}))

    async def main() -> None:
        async with script.client() as client:
            await all_of(lambda _: client.blibs.wait_until_available(1, timeout=6), "available")

    run(main())
    assert Counter(script.sent)["/api/blibs"] <= 7


def test_200_waits_for_installs_of_one_order_share_one_poll() -> None:
    """Each order has one poll of its installs, whichever of them is waited for."""
    installs = [{"install_id": number, "status": 0, "status_readable": "Queued"} for number in range(1, 201)]
    script = scripted(lambda call: reply({"success": True, "templates": installs}))

    async def main() -> None:
        async with script.client() as client:
            await all_of(lambda number: client.templates.wait(7, number + 1, timeout=6), "installed")

    run(main())
    assert Counter(script.sent)["/api/template-config"] <= 7


def test_credentials_are_read_once_for_each_change_of_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 servers without SSH yet cost 200 reads of credentials and one poll, not one request per attempt."""
    monkeypatch.setattr(waits, "ssh_responds", mock.AsyncMock(return_value=False))
    servers = [row(number, "running") for number in range(1, 201)]
    script = scripted(lambda call: reply({"success": True, "ip": "192.0.2.1", "ssh_port": 22}), servers)

    async def main() -> None:
        async with script.client() as client:
            problem = "it is running, but no SSH server responded"
            await all_of(lambda number: client.orders.wait_until_reachable(number + 1, timeout=6), "running", problem)

    run(main())
    assert Counter(script.sent)["/api/credentials"] == 200
    assert Counter(script.sent)["/api/orders"] <= 7


def test_refused_credentials_end_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 403 right after a server started ends no wait: the server may not be known everywhere yet."""
    monkeypatch.setattr(waits, "ssh_responds", mock.AsyncMock(return_value=True))
    refusals = iter([403, 403, 403])

    def others(call: Call[Any]) -> Response:
        status = next(refusals, 200)
        return reply({"success": True, "ip": "192.0.2.1", "ssh_port": 22} if status == 200 else {"error": "no"}, status)

    script = scripted(others, [row(1, "running")])

    async def main() -> str | None:
        async with script.client() as client:
            return (await client.orders.wait_until_reachable(1, timeout=60)).ip

    assert run(main()) == "192.0.2.1"


def test_a_failed_wait_until_reachable_says_what_it_saw() -> None:
    """For a stopped server its error has the order, the polls and the last failure, like every wait's."""
    script = scripted(lambda call: reply({}), [row(1, "stopped", "running")])

    async def main() -> WaitTimeoutError:
        async with script.client() as client:
            with pytest.raises(WaitTimeoutError) as caught:
                await client.orders.wait_until_reachable(1, timeout=10)
            return caught.value

    error = run(main())
    assert isinstance(error.order, Order)
    assert error.polls > 3
    assert "last seen stopped" in str(error)


def test_a_failed_wait_until_reachable_says_why_it_has_no_credentials(caplog: pytest.LogCaptureFixture) -> None:
    """For a running server whose credentials could not be read, the log and the error say so."""
    caplog.set_level(logging.INFO, "trooper_async.waiters")
    script = scripted(lambda call: reply({"error": "not yet"}, 403), [row(1, "running")])

    async def main() -> None:
        async with script.client() as client:
            await client.orders.wait_until_reachable(1, timeout=10)

    with pytest.raises(
        WaitTimeoutError, match=r"within 10 s, since its credentials can't be read: .*not yet"
    ) as caught:
        run(main())
    assert isinstance(caught.value.last_error, PermissionDeniedError)
    assert (caught.value.last_error.operation, caught.value.last_error.subject) == ("orders.credentials", "order 1")
    assert caplog.messages[0] == "order 1: its credentials can't be read yet: not yet"


def test_refused_installs_end_no_wait() -> None:
    """Two 403s in a row end no wait for an install, and its id is in its error if it times out."""
    refusals = iter([403, 403, 403])
    done = {"install_id": 5, "status": 1, "status_readable": "Completed"}

    def others(call: Call[Any]) -> Response:
        status = next(refusals, 200)
        return reply({"success": True, "templates": [done]} if status == 200 else {"error": "no"}, status)

    async def main() -> int:
        async with scripted(others).client() as client:
            return (await client.templates.wait(7, 5)).install_id

    assert run(main()) == 5


def test_a_missing_install_ends_its_wait() -> None:
    """A wait for an install that the order does not have ends once that is steady, not after an hour."""
    script = scripted(lambda call: reply({"success": True, "templates": []}))

    async def main() -> float:
        async with script.client() as client:
            began = now()
            with pytest.raises(WaitError, match="not among the installs") as caught:
                await client.templates.wait(7, 999)
            assert (caught.value.subject, caught.value.target) == ("install 999 on order 7", "installed")
            return now() - began

    assert 30 <= run(main()) < 70


def test_the_first_available_of_several_offers_ends_the_wait() -> None:
    """Offers that are too dear, or not available, are skipped."""

    def others(call: Call[Any]) -> Response:
        return offers(
            {"id": 1, "is_available": True, "price_h": 2},
            {"id": 2, "is_available": now() > 1050, "price_h": 0.8},
            {"id": 3, "is_available": True},
        )

    async def main() -> Blib:
        async with scripted(others).client() as client:
            return await client.blibs.wait_until_available(1, Blib(2), 3, max_price_h=Decimal("1." + 30 * "0" + "1"))

    assert run(main()).id == 2


@pytest.mark.parametrize("wrong", [(), ("x",), (0,), (True,)], ids=repr)
def test_a_wait_without_an_offer_is_refused(wrong: tuple[Any, ...]) -> None:
    """Without an offer, or with an invalid one, nothing is sent."""
    needed = "pass the offers to wait for, or their ids: nothing was sent"
    if wrong:
        needed = f"an offer, or its id (a whole number above 0), is needed, not {wrong[0]!r}: nothing was sent"
    script = scripted(lambda call: offers())

    async def main() -> None:
        async with script.client() as client:
            with pytest.raises(ConfigurationError, match=exactly(f"blibs.wait_until_available: {needed}")):
                await client.blibs.wait_until_available(*wrong)

    run(main())
    assert not script.sent
