"""A client with a ledger that was made before a fork, as with `gunicorn --preload` and prefork workers. Rule 9 of
`trooper_async._buying`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers import processes
from tests.helpers.buying import posts, states
from tests.helpers.texts import exactly
from trooper_async import ConfigurationError
from trooper_async.testing import FakeTrooper

PROGRAM = """
import asyncio, os, sys
from decimal import Decimal
from trooper_async import Blib, ConfigurationError, TrooperClient

url, key, ledger, how = sys.argv[1:]
client = TrooperClient(key, base_url=url, ledger=ledger)

async def buy(client):
    offer = Blib(1, price_h=Decimal("0.85"))
    return await client.orders.create(offer, contract_interval="HOUR", terms_accepted=True, reference="job-7")

def child(then):
    then()
    sys.stdout.flush()
    os._exit(0)

def buy_here():
    try:
        print(asyncio.run(buy(client)))
    except ConfigurationError as error:
        print("refused:", error)

def resolve_here():
    try:
        asyncio.run(client.orders.resolve(None, None))
    except ConfigurationError as error:
        print("refused:", error)

ours, theirs = os.pipe()

def sleep():
    os.close(theirs)
    os.read(ours, 1)  # until the parent has ended

def close():
    asyncio.run(client.close())
    print("closed", flush=True)

async def main():
    async with client:
        print("parent:", (await buy(client)).order_id, flush=True)

if how == "two children buy":
    for _ in range(2):
        if (pid := os.fork()) == 0:
            child(buy_here)
        os.waitpid(pid, 0)
    asyncio.run(main())
elif how == "a child resolves":
    if (pid := os.fork()) == 0:
        child(resolve_here)
    os.waitpid(pid, 0)
    asyncio.run(client.close())
elif how == "a child lives on":
    if os.fork() == 0:
        child(sleep)
    asyncio.run(main())
    TrooperClient(key, base_url=url, ledger=ledger)._purchases.journal._ledger.close()
    print("opened again", flush=True)
elif how == "a child closes":
    if (pid := os.fork()) == 0:
        child(close)
    os.waitpid(pid, 0)
    try:
        TrooperClient(key, base_url=url, ledger=ledger)
    except ConfigurationError as error:
        print("refused:", error)
    asyncio.run(client.close())
elif how == "a child closes a client at work":
    async def work():
        async with client:
            waiting = asyncio.create_task(client.blibs.wait_until_available(999, timeout=None))
            await client.ping()
            if (pid := os.fork()) == 0:
                child(close)
            os.waitpid(pid, 0)
            print("parent:", await client.ping(), waiting.done())
            waiting.cancel()
    asyncio.run(work())
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


async def ran(how: str, fake: FakeTrooper, path: Path) -> str:
    """What the program printed."""
    program = ["-c", PROGRAM, fake.url, fake.api_key, str(path), how]
    async with processes.python(*program) as child:
        assert await child.ends() == 0, child.err
        assert "Traceback" not in child.err
        return child.out


async def test_a_forked_process_cannot_buy_with_its_parents_client(fake_trooper: FakeTrooper, path: Path) -> None:
    """Each child would have its own memory and buy again: it is told to make its own client; the parent can buy."""
    out = await ran("two children buy", fake_trooper, path)

    text = "refused: orders.create: this client was made in another process, before a fork: make one per process"
    assert out.count(text) == 2
    assert "parent: 123" in out
    assert posts(fake_trooper) == 1
    assert len(fake_trooper.requests) == 2, "the children sent nothing at all"


async def test_a_forked_process_cannot_resolve(fake_trooper: FakeTrooper, path: Path) -> None:
    """Its decision would be in no ledger."""
    out = await ran("a child resolves", fake_trooper, path)
    assert "refused: orders.resolve: this client was made in another process" in out


async def test_closing_in_the_parent_unlocks_a_ledger_that_a_child_holds_open(
    fake_trooper: FakeTrooper, path: Path
) -> None:
    """The parent closes while a child with the same open file sleeps: the ledger is unlocked."""
    out = await ran("a child lives on", fake_trooper, path)

    assert "opened again" in out
    async with fake_trooper.client(ledger=path) as client:
        assert states(client) == [("bought", 123)]


async def test_closing_in_a_child_does_not_unlock_the_parents_ledger(fake_trooper: FakeTrooper, path: Path) -> None:
    """The parent keeps the lock until it closes the client."""
    out = await ran("a child closes", fake_trooper, path)

    assert out.index("closed") < out.index("refused: the ledger")
    assert "is open in another client or process" in out


async def test_closing_in_a_child_leaves_the_parents_work_alone(fake_trooper: FakeTrooper, path: Path) -> None:
    """Connections, waits and event loop are the parent's: the child closes nothing, and does not hang."""
    out = await ran("a child closes a client at work", fake_trooper, path)

    assert out.splitlines()[0] == "closed"
    assert out.splitlines()[1].startswith("parent: ")
    assert out.endswith(" False\n"), "the parent's wait goes on"


async def test_two_processes_with_their_own_clients_take_turns(fake_trooper: FakeTrooper, path: Path) -> None:
    """While one has the ledger open the other is refused; afterwards it knows what was bought."""
    program = (
        "import asyncio, sys\n"
        "from trooper_async import TrooperClient\n"
        "async def main():\n"
        "    async with TrooperClient('key', ledger=sys.argv[1]):\n"
        "        print('open', flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    async with processes.python("-c", program, path) as child:
        await child.says("open")
        with pytest.raises(
            ConfigurationError, match=exactly(f"the ledger {path} is open in another client or process: one at a time")
        ):
            fake_trooper.client(ledger=path)
    async with fake_trooper.client(ledger=path):
        pass
