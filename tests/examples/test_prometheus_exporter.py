"""examples/prometheus_exporter.py as a process, read as Prometheus reads it."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest
from attrs import evolve

pytest.importorskip("prometheus_client", reason="needs prometheus-client: pip install -e '.[examples]'")

from prometheus_client.parser import text_string_to_metric_families

from examples import prometheus_exporter
from tests.helpers import processes
from tests.helpers.buying import buy, lose
from tests.helpers.conditions import LIMIT, free_port
from tests.helpers.day import OUTAGES, Day
from tests.helpers.fake_orders import outage
from trooper_async import Purchase, PurchaseUnknownError
from trooper_async.testing import FakeTrooper

LIST = "/api/orders"
SCRIPT = prometheus_exporter.__file__
Samples = dict[tuple[str, ...], float]


class Exporter:
    """A running exporter."""

    def __init__(self, child: processes.Child, url: str, session: aiohttp.ClientSession) -> None:
        self.child, self._url, self._session = child, url, session

    async def scrape(self) -> Samples:
        """Each sample by its name without the prefix, and the values of its labels in alphabetical order."""
        async with self._session.get(self._url) as response:
            families = text_string_to_metric_families(await response.text())
        samples = [sample for family in families for sample in family.samples]
        return {
            (one.name.removeprefix("trooper_"), *(one.labels[name] for name in sorted(one.labels))): one.value
            for one in samples
        }

    async def until(self, key: tuple[str, ...], value: float) -> Samples:
        """Scrape until a sample has this value."""
        async with asyncio.timeout(LIMIT):
            while (samples := await self.scrape()).get(key) != value:
                assert self.child.running
        return samples


@asynccontextmanager
async def reading(child: processes.Child) -> AsyncIterator[Exporter]:
    """The exporter in this process, after its first poll."""
    async with aiohttp.ClientSession() as session:
        await child.says("/metrics")
        found = re.search(r"http://127\.0\.0\.1:\d+/metrics", child.err)
        assert found is not None
        yield Exporter(child, found[0], session)


@asynccontextmanager
async def exporter(fake: FakeTrooper, *arguments: str | Path, key: str | None = None) -> AsyncIterator[Exporter]:
    environment = {"TROOPER_API_KEY": key or fake.api_key, "TROOPER_BASE_URL": fake.url}
    command = (prometheus_exporter.__file__, "--port", "0", "--every", "0.05", *arguments)
    async with processes.python(*command, env=environment) as child, reading(child) as running:
        yield running


async def test_servers_have_a_status_and_a_cost(fake_trooper: FakeTrooper) -> None:
    """The cost of a frozen server is not documented, so it has none; a status change is followed."""
    fake_trooper.add_order(order_id=1, title='a "b"', price_h=Decimal("0.80"))
    fake_trooper.add_order(order_id=2, title="c", price_h=Decimal("0.80"), status="stopped", desired_status="running")
    fake_trooper.add_order(order_id=3, title="d", status="frozen")
    async with exporter(fake_trooper) as running:
        samples = await running.scrape()
        age = samples.pop(("last_good_poll_age_seconds",))
        assert 0 <= age < 60
        assert samples == {
            ("up",): 1,
            ("outages_total",): 0,
            ("server_status", "1", "running", 'a "b"'): 1,
            ("server_status", "2", "stopped", "c"): 1,
            ("server_status", "3", "frozen", "d"): 1,
            ("server_converged", "1", 'a "b"'): 1,
            ("server_converged", "2", "c"): 0,
            ("server_converged", "3", "d"): 1,
            ("server_eur_per_hour", "1", 'a "b"'): 0.8,
            ("server_eur_per_hour", "2", "c"): 0.28,
        }
        fake_trooper.set_status(1, "stopping", "stopped")
        samples = await running.until(("server_status", "1", "stopping", 'a "b"'), 1)
        assert ("server_status", "1", "running", 'a "b"') not in samples


async def test_an_outage_shows_no_servers(fake_trooper: FakeTrooper) -> None:
    """While polls fail `up` is 0, the age grows and no server is shown; then all is back, and one outage counted."""
    fake_trooper.add_order(order_id=1, title="a")
    async with exporter(fake_trooper) as running:
        await running.until(("up",), 1)
        fake_trooper.fail_next("/api/orders", status=400, times=2)
        with fake_trooper.hold_next("/api/orders"):
            samples = await running.until(("up",), 0)
            assert [key for key in samples if key[0].startswith("server")] == []
            age = samples["last_good_poll_age_seconds",]
            assert (await running.scrape())["last_good_poll_age_seconds",] > age
        samples = await running.until(("up",), 1)
        assert (samples["outages_total",], samples["server_status", "1", "running", "a"]) == (1, 1)
        assert "returned 400" in running.child.err


async def test_unresolved_purchases_are_counted(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """Even while another process has the ledger open, until they are resolved."""
    ledger = tmp_path / "ledger"
    missing = tmp_path / "none-yet"
    damaged = tmp_path / "damaged"
    damaged.write_text("no ledger\n")
    key = ("purchases_unresolved", str(ledger))
    async with fake_trooper.client(ledger=ledger) as client:
        await buy(client, reference="one")
        await lose(fake_trooper, client, reference="two")
        files = [part for path in (ledger, missing, damaged) for part in ("--ledger", path)]
        async with exporter(fake_trooper, *files) as running:
            samples = await running.scrape()
            assert (samples[key], samples["purchases_unresolved", str(missing)]) == (1, 0)
            assert ("purchases_unresolved", str(damaged)) not in samples
            await running.child.says("not a ledger")
            with pytest.raises(PurchaseUnknownError) as lost:
                await buy(client, reference="two")
            await client.orders.resolve(lost.value, None)
            assert (await running.scrape())[key] == 0


def test_an_undelivered_purchase_is_counted() -> None:
    """It is unresolved once no caller can be waiting for it."""
    now = datetime.now(UTC)
    earlier, bought = now - timedelta(hours=2), Purchase("1", "create", 1, "bought", now, None, None, 7)
    for purchase, unresolved in (
        (bought, False),
        (evolve(bought, at=earlier), True),
        (evolve(bought, at=earlier, delivered=True), False),
        (evolve(bought, state="open"), False),
        (evolve(bought, state="open", at=earlier), True),
        (evolve(bought, state="unknown"), True),
        (evolve(bought, state="refused", at=earlier), False),
        (evolve(bought, state="resolved", at=earlier), False),
    ):
        assert prometheus_exporter.is_unresolved(purchase) is unresolved


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
async def test_it_ends_on_a_signal(end: signal.Signals, fake_trooper: FakeTrooper) -> None:
    """With 0 and without a traceback; the key is in no output, and nothing was changed."""
    async with exporter(fake_trooper) as running:
        samples = await running.scrape()
        assert samples["up",] == 1
        running.child.send(end)
        assert await running.child.ends() == 0
        assert not any(word in running.child.err for word in ("Traceback", fake_trooper.api_key))
    assert {request.method for request in fake_trooper.requests} == {"GET"}


@pytest.mark.parametrize(
    ("arguments", "key", "code", "problem"),
    [((), "wrong", 1, "401"), (("--every", "0"), "never-used", 2, "--every"), (("--every", "nan"), "x", 2, "--every")],
)
async def test_an_invalid_configuration_ends_it_at_the_start(
    arguments: tuple[str, ...], key: str, code: int, problem: str, fake_trooper: FakeTrooper
) -> None:
    """A refused key, or an invalid pause."""
    environment = {"TROOPER_API_KEY": key, "TROOPER_BASE_URL": fake_trooper.url}
    command = (prometheus_exporter.__file__, "--port", "0", *arguments)
    async with processes.python(*command, env=environment) as child:
        assert (await child.ends(), problem in child.err) == (code, True)
        assert "Traceback" not in child.err


# A day, on a clock that the test puts forward -----------------------------------------------------------------------

AGE = ("last_good_poll_age_seconds",)
RUNNING, FROZEN = ("server_status", "1", "running", "a"), ("server_status", "1", "frozen", "a")


@pytest.fixture
def day(fake_trooper: FakeTrooper, tmp_path: Path) -> Day:
    fake_trooper.add_order(order_id=1, title="a", price_h=Decimal("0.80"))
    return Day(fake_trooper, tmp_path)


@pytest.mark.parametrize("seconds", OUTAGES.values(), ids=OUTAGES)
async def test_an_outage_of_any_length(day: Day, seconds: float) -> None:
    """While it lasts /metrics is served, without old statuses, and the age grows; then everything is current again."""
    async with day.started(SCRIPT, "--port", "0") as child, reading(child) as running:
        assert (await running.scrape())[RUNNING] == 1
        await day.passes(27, child)  # it polls every 30 s
        with outage(day.fake, LIST):
            polls = len(day.fake.sent(LIST))
            await day.passes(seconds, child)
            assert len(day.fake.sent(LIST)) - polls == (27 + seconds) // 30  # no retries: the next poll is one
            day.fake.set_status(1, "frozen")
            samples = await running.scrape()
            assert samples["up",] == 0
            assert samples[AGE] >= seconds + 27
            assert not [key for key in samples if key[0].startswith("server")]
        await day.passes(30, child)
        samples = await running.scrape()
        assert (samples["up",], samples["outages_total",], samples[FROZEN]) == (1, 1, 1)
        assert samples[AGE] < 30 + LIMIT
        assert ("server_eur_per_hour", "1", "a") not in samples
    assert "Traceback" not in child.err


async def test_it_can_start_during_an_outage(day: Day) -> None:
    """It serves /metrics with the time since the last successful poll, so the alert on the age fires."""
    with outage(day.fake, LIST):
        async with day.started(SCRIPT, "--port", "0") as child, reading(child) as running:
            await day.passes(3 * 3600, child)
            samples = await running.scrape()
            assert (samples["up",], samples[AGE] >= 3 * 3600) == (0, True)
            day.fake._pending_faults.clear()
            await day.passes(30, child)
            samples = await running.scrape()
            assert (samples["up",], samples["outages_total",], samples[RUNNING]) == (1, 1, 1)


async def test_a_killed_exporter_and_a_second_copy(day: Day) -> None:
    """A copy on the same port exits with 1 and a sentence; after kill -9 the port is free, and nothing is left."""
    options = ("--port", str(free_port()))
    async with day.started(SCRIPT, *options) as child, reading(child) as running:
        async with day.started(SCRIPT, *options) as second:
            assert await second.ends() == 1
        assert second.err == f"cannot listen on 127.0.0.1, port {options[1]}: [Errno 98] Address already in use\n"
        async with day.started(SCRIPT, "--port", "0") as third, reading(third) as other:
            assert (await other.scrape())[RUNNING] == (await running.scrape())[RUNNING] == 1
    async with day.started(SCRIPT, *options) as child, reading(child) as running:
        assert (await running.scrape())[RUNNING] == 1
    assert {request.method for request in day.fake.requests} == {"GET"}
