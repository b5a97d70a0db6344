"""The shared poll: its CPU compared with reading and decoding alone, and its longest stall of the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from unittest.mock import patch

from attrs import frozen

from tests.tools.benchmarks import peers
from tests.tools.benchmarks.body import ids
from tests.tools.benchmarks.measure import Figure, Stalls, cpu, stalls, tidy
from tests.tools.benchmarks.server import plain, tagged
from trooper_async import Order, PollSchedule, TrooperClient
from trooper_async._waiting.poller import Poller

AT_ONCE = PollSchedule(floor=1e-6, cap=1e-6)
"""The next poll begins when the last one has ended."""
_FIRST = "the very first decode"


class Polls:
    """The polls of a client whose waits never end."""

    def __init__(self) -> None:
        self._ended: list[float] = []
        self._wanted = 0
        self._enough = asyncio.Event()
        tidy()
        self._began = time.process_time()

    def count(self) -> None:
        """A poll has ended."""
        self._ended.append(time.process_time())
        if len(self._ended) >= self._wanted:
            self._enough.set()

    async def first(self) -> float:
        """CPU seconds of the first one, including everything before it."""
        await self._until(1)
        return self._ended[0] - self._began

    async def next(self, polls: int) -> float:
        """CPU seconds of each of so many more."""
        before = len(self._ended)
        await self._until(before + polls)
        return (self._ended[before + polls - 1] - self._ended[before - 1]) / polls

    async def _until(self, polls: int) -> None:
        self._wanted = polls
        self._enough.clear()
        await self._enough.wait()


@asynccontextmanager
async def polling(url: str, orders: int, waiters: int = 1) -> AsyncGenerator[Polls]:
    """A client that polls continuously for so many waiters, each waiting for a status that never comes."""
    poll = Poller._poll  # there is no public word of a poll's end

    async def counted(poller: Poller[Order]) -> None:
        await poll(poller)
        polls.count()

    async with TrooperClient(peers.KEY, base_url=url, poll=AT_ONCE) as client:
        polls = Polls()
        waits = [
            asyncio.create_task(client.orders.wait_until(ids(orders)[number % orders], "frozen", timeout=None))
            for number in range(waiters)
        ]
        try:
            with patch.object(Poller, "_poll", counted):
                yield polls
        finally:
            for wait in waits:
                wait.cancel()
            for wait in waits:
                with suppress(asyncio.CancelledError):
                    await wait


@frozen
class Costs:
    """CPU seconds of one poll each, of one run."""

    orjson: float
    first: float
    one_percent: float
    identical: float
    not_modified: float
    """Beyond the read itself, as `identical` is."""
    all_changed: float


async def costs(url: str, orders: int, polls: int) -> Costs:
    """One run: each of the peers and this package in turn."""
    some, none, every, tag = plain(orders, 0.01), plain(orders, 0.0), plain(orders, 1.0), tagged(orders)
    async with AsyncExitStack() as stack:
        orjson = await stack.enter_async_context(peers.read_and_orjson(url + some))
        read = await stack.enter_async_context(peers.read_only(url + none))
        asked = await stack.enter_async_context(peers.read_only(url + tag, **{"If-None-Match": '"1"'}))
        for poll in (orjson, read, asked):
            await poll()  # the connection
        cost_orjson = await cpu(orjson, polls)
        cost_read = await cpu(read, polls)
        cost_asked = await cpu(asked, 10 * polls)
    async with polling(url + some, orders) as ours:
        first = await ours.first()
        one_percent = await ours.next(polls)
    async with polling(url + none, orders) as ours:
        await ours.first()
        identical = await ours.next(polls)
    async with polling(url + tag, orders) as ours:
        await ours.first()
        not_modified = await ours.next(10 * polls)
    async with polling(url + every, orders) as ours:
        await ours.first()
        all_changed = await ours.next(max(1, polls // 4))
    return Costs(cost_orjson, first, one_percent, identical - cost_read, not_modified - cost_asked, all_changed)


async def stalls_of(url: str, orders: int) -> dict[str, Stalls]:
    """The longest stalls of one run: during the first poll of a client, and during some more."""
    found = {_FIRST: Stalls()}
    for name, changed in (("1 % changed", 0.01), ("nothing changed", 0.0), ("all rows changed", 1.0)):
        async with polling(url + plain(orders, changed), orders) as ours:
            async with stalls() as watched:
                await ours.first()
            found[_FIRST].cpu = max(found[_FIRST].cpu, watched.cpu)
            found[_FIRST].wall = max(found[_FIRST].wall, watched.wall)
            async with stalls() as found[name]:
                await ours.next(3)
    return found


async def figures(url: str, *, orders: int, polls: int, runs: int) -> list[Figure]:
    await costs(url, min(orders, 100), 1)  # objects made on first use
    every = [await costs(url, orders, polls) for _ in range(runs)]
    held = [await stalls_of(url, orders) for _ in range(runs)]
    of = f"poll of {orders:,} orders"
    return [
        Figure(f"{of}, 1 % changed ÷ read + orjson.loads", [one.one_percent / one.orjson for one in every], 0.15),
        Figure(
            f"{of}, identical bytes, beyond the read ÷ the same", [one.identical / one.orjson for one in every], 0.05
        ),
        Figure(f"{of}, 304, beyond the read ÷ the same", [one.not_modified / one.orjson for one in every], 0.05),
        Figure(f"{of}, all changed ÷ first decode", [one.all_changed / one.first for one in every], 1.25),
        Figure(f"{of}, first decode ÷ read + orjson.loads", [one.first / one.orjson for one in every]),
        Figure(f"{of}, 1 % changed: CPU", [1000 * one.one_percent for one in every], unit="ms"),
        *(Figure(f"longest stall, {name}", [run[name].cpu for run in held], 10.0, unit="ms") for name in held[0]),
        *(Figure(f"the same by the clock, {name}", [run[name].wall for run in held], unit="ms") for name in held[0]),
        *await _peers(url, orders=orders, runs=runs),
    ]


async def _peers(url: str, *, orders: int, runs: int) -> list[Figure]:
    """The cost and stalls of the peers' full decodes, compared with read + orjson.loads."""
    at = url + plain(orders, 0.01)
    found: dict[str, list[tuple[float, float]]] = {}
    async with AsyncExitStack() as stack:
        orjson = await stack.enter_async_context(peers.read_and_orjson(at))
        polls = {
            "read + orjson.loads": orjson,
            "aiohttp + json + cattrs": await stack.enter_async_context(peers.aiohttp_cattrs(at)),
            "httpx + pydantic": await stack.enter_async_context(peers.httpx_pydantic(at)),
        }
        for _ in range(runs):
            base = await cpu(orjson, 2)
            for name, poll in polls.items():
                cost = await cpu(poll)
                async with stalls() as watched:
                    await poll()
                found.setdefault(name, []).append((cost / base, watched.cpu))
    return [
        *(
            Figure(f"peer: one poll with {name} ÷ read + orjson.loads", [r for r, _ in runs])
            for name, runs in found.items()
        ),
        *(
            Figure(f"peer: longest stall with {name}", [ms for _, ms in runs], unit="ms")
            for name, runs in found.items()
        ),
    ]
