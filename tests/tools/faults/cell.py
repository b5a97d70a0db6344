"""One cell of the table: a fault, a call and a session, run once and checked."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import aiohttp

from tests.tools.faults.certificate import context
from tests.tools.faults.faults import ATTEMPTS, LATE, Expected, Fault, Session
from tests.tools.faults.server import Api, Other, Place
from tests.tools.faults.targets import NEW_ORDER_ID, TARGETS, Target
from trooper_async import (
    OutcomeUnknownError,
    PollSchedule,
    PurchaseUnknownError,
    RetryPolicy,
    TrooperClient,
    TrooperError,
    UnresolvedPurchaseError,
)
from trooper_async._http import wire as wire_module

KEY = "tk-the-key-of-the-table-of-faults"
POLL = PollSchedule(floor=0.001, cap=0.01)
AT_ONCE = 48
"""Cells; each has a few sockets open."""
WARMING = ("/api/test", "/api/template-install-retry")
"""What is asked of a client to have its connections made, those for what must not be sent twice too."""


@dataclass
class Cell:
    """The observations."""

    target: Target
    fault: Fault
    session: Session
    wire: int
    error: TrooperError | None
    seconds: float
    record: str | None
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        outcome, attempts = "succeeds", "-"
        if self.error is not None:
            outcome, attempts = type(self.error).__name__, str(self.error.attempts)
        return (
            f"{self.target.name:24} {self.fault.name:28} {self.session:7} {self.wire:4} {outcome:21} {attempts:>8} "
            f"{self.seconds:7.2f}  {self.record or '-':8} {'; '.join(self.problems)}"
        ).rstrip()


HEADING = (
    f"{'call':24} {'fault':28} {'session':7} {'wire':>4} {'exception':21} {'attempts':>8} {'seconds':>7}  {'record':8}"
)


class _Places:
    """Where the client's requests go: its base URL is moved there when the request under test is next."""

    def __init__(self, stack: AsyncExitStack, session: aiohttp.ClientSession | None) -> None:
        self._stack = stack
        self._session = session
        self._urls: dict[Place, str] = {}
        self._untrusted: Other | None = None

    async def add(self, place: Place) -> None:
        """Add a place, unless the API itself provides it."""
        if place == "refused":  # bound, so that no other process gets it, and not listening
            unused = self._stack.enter_context(socket.socket())
            unused.bind(("127.0.0.1", 0))
            self._urls[place] = f"http://127.0.0.1:{unused.getsockname()[1]}"
        elif place == "no such host":
            self._urls[place] = "https://does-not-exist.invalid"
        elif place == "untrusted":
            self._untrusted = await self._stack.enter_async_context(Other(tls=context()))
            self._urls[place] = f"https://{self._untrusted.address}"
        elif place == "no TLS":
            other = await self._stack.enter_async_context(Other(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
            self._urls[place] = f"https://{other.address}"
        elif place == "silent":
            other = await self._stack.enter_async_context(Other())
            self._urls[place] = f"https://{other.address}"
        elif place == "busy pool":
            other = await self._stack.enter_async_context(Other())
            self._urls[place] = f"http://{other.address}"
            assert self._session is not None
            holding = asyncio.create_task(self._hold(self._session, self._urls[place]))
            self._stack.push_async_callback(_cancel, holding)
            await other.heard.wait()

    @staticmethod
    async def _hold(session: aiohttp.ClientSession, url: str) -> None:
        """Take the only allowed connection."""
        async with session.get(url):
            pass

    def move(self, client: TrooperClient, place: Place, timeout: float) -> None:
        client._transport.wire._timeout = timeout
        client._transport.wire._base_url = self._urls.get(place, client._transport.wire._base_url)

    def heard_in_vain(self) -> bool:
        """Whether an untrusted server received anything."""
        return self._untrusted is not None and self._untrusted.heard.is_set()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


@contextmanager
def arranged(once_answer: float) -> Iterator[None]:
    """No name is looked up outside, and the timeout of once-only calls is short."""
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        if str(host).endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return await real(host, *args, **options)

    with (
        mock.patch.object(loop, "getaddrinfo", getaddrinfo),
        mock.patch.object(wire_module, "_ONCE_RESPONSE", once_answer),
    ):
        yield


async def play(fault: Fault, target: Target, session: Session) -> Cell:
    """Run it, within `arranged`."""
    steps = fault.steps(target)
    helpers = [*(WARMING if fault.warm else ()), *target.helpers]
    async with AsyncExitStack() as stack:
        yours = None
        if session == "yours":
            connector = aiohttp.TCPConnector(limit_per_host=1 if fault.place == "busy pool" else 0)
            yours = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        places = _Places(stack, yours)
        needed: list[Place] = [fault.place, *(step.moves for step in steps)]
        for place in needed:
            await places.add(place)
        api = await stack.enter_async_context(Api(target, steps, helpers, fault.place))
        client = TrooperClient(
            KEY,
            base_url=api.url,
            session=yours,
            timeout=10.0,
            retry=RetryPolicy(attempts=ATTEMPTS, max_delay=0.01, deadline=fault.deadline),
            poll=POLL,
        )
        await stack.enter_async_context(client)
        api.begin(lambda place: places.move(client, place, fault.timeout))
        if fault.warm:
            await client.ping()
            await client.templates.retry(5)
        error: TrooperError | None = None
        started = time.perf_counter()
        try:
            await target.run(client)
        except TrooperError as caught:
            error = caught
        seconds = time.perf_counter() - started
        records = [purchase.state for purchase in client.orders.purchases]
        cell = Cell(target, fault, session, api.wire, error, seconds, ", ".join(records) or None)
        cell.problems += _problems(cell, api)
        if places.heard_in_vain():
            cell.problems.append("sent to an untrusted server")
        if cell.record == "unknown":
            cell.problems += await _bought_again(client, target, api)
    return cell


def _problems(cell: Cell, api: Api) -> list[str]:
    """What is not as it must be."""
    expected, error, target = cell.fault.expected[cell.target.kind], cell.error, cell.target
    if cell.fault.accepts and target.needs_nothing:
        expected = Expected(1, None)
    problems = []
    if expected.wire != cell.wire and not (expected.wire is None and cell.wire > 0):
        problems.append(f"wire: not {expected.wire}")
    if type(error) is not (expected.error or type(None)):
        problems.append(f"not {expected.error.__name__ if expected.error else 'a success'} ({error!r})")
    attempts = cell.wire if expected.attempts is None else expected.attempts
    if error is not None and error.attempts != attempts:
        problems.append(f"attempts: not {attempts}")
    if expected.record != cell.record:
        problems.append(f"record: not {expected.record}")
    if isinstance(error, PurchaseUnknownError):
        candidates = [order.order_id for order in error.candidates]
        if candidates != ([NEW_ORDER_ID] if any(step.works for step in cell.fault.steps(target)[:1]) else []):
            problems.append(f"candidates: {candidates}")
    elif isinstance(error, OutcomeUnknownError):
        action = error.transition.action if error.transition is not None else None
        if action != target.action:
            problems.append(f"transition: {action}")
    if any(path != "/api/orders" or target.kind != "purchase" for path in api.other):
        problems.append(f"also asked: {api.other}")
    on_kept = cell.fault.warm and (cell.session == "yours" or target.kind in ("read", "setting"))
    if cell.fault.warm and bool(api.on_kept) != on_kept:
        problems.append(f"on kept connections: {api.on_kept}")
    if KEY in str(error):
        problems.append("the key is in the error")
    return problems


async def _bought_again(client: TrooperClient, target: Target, api: Api) -> list[str]:
    """Whether a purchase with an unknown outcome lets the next one be sent."""
    before = api.wire
    try:
        await target.run(client)
    except UnresolvedPurchaseError:
        return [] if api.wire == before else ["bought again"]
    except TrooperError as error:
        return [f"bought again: {error!r}"]
    return ["bought again"]


async def play_all(cells: Iterable[tuple[Fault, Target, Session]]) -> list[Cell]:
    """Play them, some at once.

    A machine that stands still for longer than a short time limit can make a connection late that was to be made, so
    a cell with such a limit that is not right is played again with more time.
    """
    places = asyncio.Semaphore(AT_ONCE)

    async def one(fault: Fault, target: Target, session: Session) -> Cell:
        async with places:
            return await play(fault, target, session)

    with arranged(LATE):
        played = await asyncio.gather(*[one(*cell) for cell in cells])
    for more in (5, 25):
        late = [n for n, cell in enumerate(played) if cell.problems and cell.fault.timeout == LATE]
        again: list[tuple[Fault, Target, Session]] = [
            (replace(played[n].fault, timeout=more * LATE), played[n].target, played[n].session) for n in late
        ]
        with arranged(more * LATE):
            for n, cell in zip(late, await asyncio.gather(*[one(*cell) for cell in again]), strict=True):
                played[n] = replace(cell, fault=played[n].fault)
    return played


def cells_of(faults: Sequence[Fault], targets: Sequence[Target] = TARGETS) -> list[tuple[Fault, Target, Session]]:
    """Every target and session for each of the faults."""
    return [(fault, target, session) for fault in faults for target in targets for session in fault.sessions]
