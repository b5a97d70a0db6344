"""examples/mcp_server.py asked by the official MCP client, in this process and over real stdio."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

pytest.importorskip("mcp", reason="needs mcp: pip install -e '.[examples]'")

from mcp import Client, StdioServerParameters, stdio_client
from mcp.server.mcpserver import MCPServer
from mcp.types import TextContent

from examples import mcp_server
from tests.helpers.conditions import until
from trooper_async import PollSchedule, TrooperClient
from trooper_async.testing import FakeTrooper

SCRIPT = Path(mcp_server.__file__)


class Assistant:
    """What an MCP client does with the tools; all that it has read is kept."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.read: list[str] = []

    async def tools(self) -> dict[str, bool | None]:
        """The names of the tools, and whether each one only reads."""
        listed = (await self._client.list_tools()).tools
        return {tool.name: tool.annotations.read_only_hint if tool.annotations else None for tool in listed}

    async def call(self, tool: str, **arguments: Any) -> str:
        return await self._call(tool, arguments, fails=False)

    async def fail(self, tool: str, **arguments: Any) -> str:
        """The text of the tool error that this call ends with."""
        return await self._call(tool, arguments, fails=True)

    async def _call(self, tool: str, arguments: dict[str, Any], *, fails: bool) -> str:
        result = await self._client.call_tool(tool, arguments)
        text = "\n".join(part.text for part in result.content if isinstance(part, TextContent))
        self.read.append(text)
        assert bool(result.is_error) is fails, text
        return text


@asynccontextmanager
async def assistant(fake: FakeTrooper, ledger: Path | None = None, **options: Any) -> AsyncIterator[Assistant]:
    """The example in this process, with a client of the fake; it ends by itself, and never shows the key."""
    made: asyncio.Future[MCPServer] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def run(server: MCPServer) -> None:
        made.set_result(server)
        await over.wait()

    def client(**its: Any) -> TrooperClient:
        return fake.client(**its, **options)

    with mock.patch.object(MCPServer, "run_stdio_async", run), mock.patch.object(mcp_server, "TrooperClient", client):
        serving = asyncio.create_task(mcp_server.serve(str(ledger) if ledger else None))
        serving.add_done_callback(lambda _: made.cancel())  # where it has failed before
        try:
            async with Client(await made) as session:
                user = Assistant(session)
                yield user
        finally:
            over.set()
            await serving
    assert fake.api_key not in "".join(user.read)


@asynccontextmanager
async def assistant_over_stdio(fake: FakeTrooper, ledger: Path) -> AsyncIterator[Assistant]:
    """The example in a process of its own; it ends by itself once its stdin is closed, and never shows the key."""
    environment = {
        **os.environ,
        "TROOPER_BASE_URL": fake.url,
        "TROOPER_API_KEY": fake.api_key,
        "TROOPER_LEDGER": str(ledger),
    }
    server = StdioServerParameters(command=sys.executable, args=["-W", "error", str(SCRIPT)], env=environment)
    with tempfile.TemporaryFile("w+") as log:
        async with Client(stdio_client(server, log)) as session:
            user = Assistant(session)
            yield user
        log.seek(0)
        logged = log.read()
    assert "Traceback" not in logged
    assert fake.api_key not in logged + "".join(user.read)


def sent(fake: FakeTrooper, path: str = "/api/order-status") -> list[Any]:
    return [request.json for request in fake.requests if request.path == path]


async def test_the_tools_and_which_of_them_only_read(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """Without a ledger there is none that orders."""
    async with assistant(fake_trooper) as user:
        tools = await user.tools()
    assert tools == {
        **dict.fromkeys(("list_servers", "list_offers", "wait"), True),
        **dict.fromkeys(("start", "stop", "freeze", "restart"), False),
    }
    async with assistant(fake_trooper, tmp_path / "ledger") as user:
        assert await user.tools() == {**tools, "order": False}


async def test_servers_and_offers_are_listed(fake_trooper: FakeTrooper) -> None:
    """With what one decides by: status, price, end of the paid period; offers that are sold out are left out."""
    order = fake_trooper.add_order(title="job 1", is_locked=True)
    fake_trooper.set_status(order, "stopping", "stopped")
    async with assistant(fake_trooper) as user:
        servers = await user.call("list_servers")
        offers = (await user.call("list_offers")).splitlines()
    assert (
        f"order {order.order_id} 'job 1' is stopping, wanted stopped: 0.85 EUR/h, paid until {order.paid_until:%Y-%m}"
        in servers
    )
    assert servers.endswith(", locked")
    assert [line.split("'")[0] for line in offers] == ["blib 1 ", "blib 2 ", "blib 3 ", "blib 5 "]
    assert offers[2] == "blib 3 'V100 Single': 1 x V100, 0.195 EUR/h"


async def test_servers_are_switched_and_awaited(fake_trooper: FakeTrooper) -> None:
    """A switch returns once accepted, wait tells the end."""
    order = fake_trooper.add_order().order_id
    async with assistant(fake_trooper) as user:
        assert await user.call("freeze", order_id=order) == f"order {order}: freeze is accepted, and leads to frozen"
        assert "is frozen: " in await user.call("wait", order_id=order)
        assert "is frozen: " in await user.call("list_servers")
        await user.call("start", order_id=order, migration_allowed=True)
        await user.call("stop", order_id=order)
        assert "is stopped: " in await user.call("wait", order_id=order)
    assert [body["action"] for body in sent(fake_trooper)] == ["frozen", "running", "stopped"]
    assert [body.get("migration_allowed") for body in sent(fake_trooper)] == [None, True, None]


async def test_a_switch_is_watched_from_when_it_was_accepted(fake_trooper: FakeTrooper) -> None:
    """Not from when the assistant asks: by then nobody could see that a restart has happened; `running` proves none."""
    order = fake_trooper.add_order().order_id
    fake_trooper.durations["restart"] = 0  # over between two polls
    async with assistant(fake_trooper, poll=PollSchedule()) as user:
        await user.call("restart", order_id=order)
        await until(lambda: fake_trooper.requests[-1].path == "/api/orders")
        paths = [request.path for request in fake_trooper.requests]
        assert "wait again" in await user.fail("wait", order_id=order, seconds=0.1)
    assert paths == ["/api/orders", "/api/order-status-history", "/api/order-status", "/api/orders"]


async def test_a_wait_holds_up_no_other_tool_and_ends_with_its_seconds(fake_trooper: FakeTrooper) -> None:
    """It ends as an error that says to wait again; what it waits for goes on."""
    fake_trooper.durations["freeze"] = 600
    order = fake_trooper.add_order().order_id
    async with assistant(fake_trooper) as user:
        await user.call("freeze", order_id=order)
        assert "wait again" in await user.fail("wait", order_id=order, seconds=0.05)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(user.call("wait", order_id=order))
            await user.call("list_servers")
            assert not waiting.done()
            fake_trooper.set_status(order, "frozen")
        assert "is frozen" in waiting.result()


async def test_a_wait_for_what_somebody_else_began(fake_trooper: FakeTrooper) -> None:
    """Where nothing was sent from here, it is the wanted status that is waited for."""
    order = fake_trooper.add_order().order_id
    async with assistant(fake_trooper) as user:
        assert "is running: " in await user.call("wait", order_id=order)


async def test_nothing_is_bought_without_confirm_or_above_the_limit(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """It is said what would be bought, at which price, or why it is not."""
    wanted: dict[str, Any] = {"blib_id": 3, "max_price_h": 0.2, "reference": "job-1"}
    async with assistant(fake_trooper, tmp_path / "ledger") as user:
        answer = await user.call("order", **wanted)
        assert answer.startswith("nothing was bought")
        assert "V100 Single at 0.195 EUR/h, up to 0.2" in answer
        assert "at most 0.1 are allowed" in await user.fail("order", **{**wanted, "max_price_h": 0.1, "confirm": True})
        assert "there is no offer 99" in await user.fail("order", **{**wanted, "blib_id": 99, "confirm": True})
        assert "max_price_h" in await user.fail("order", blib_id=3, reference="job-1", confirm=True)
        assert "reference" in await user.fail("order", blib_id=3, max_price_h=1, confirm=True)
    assert sent(fake_trooper, "/api/order") == []


async def test_an_order_is_bought_once_also_by_another_process(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """The ledger knows it by its reference."""
    wanted: dict[str, Any] = {"blib_id": 3, "max_price_h": "0.195", "reference": "job-1", "confirm": True}
    answers = []
    for _ in range(2):
        async with assistant_over_stdio(fake_trooper, tmp_path / "ledger") as user:
            answers.append(await user.call("order", **wanted))
            assert "is running" in await user.call("wait", order_id=123)
    assert answers == ["order 123: create is accepted, and leads to running"] * 2
    assert [body["price_h"] for body in sent(fake_trooper, "/api/order")] == [0.195]


async def test_a_purchase_whose_answer_was_lost_is_told_with_what_it_may_be(
    fake_trooper: FakeTrooper, tmp_path: Path
) -> None:
    """It is a tool error, the list shows what it may be, and the same reference buys nothing more."""
    fake_trooper.drop_next("/api/order", when="after")
    wanted: dict[str, Any] = {"blib_id": 3, "max_price_h": 1, "reference": "job-1", "confirm": True}
    async with assistant(fake_trooper, tmp_path / "ledger") as user:
        assert "Do not buy again" in await user.fail("order", **wanted)
        assert "order 123 'Server 123' is" in await user.call("list_servers")
        assert "orders.resolve" in await user.fail("order", **wanted)
    assert len(sent(fake_trooper, "/api/order")) == 1


async def test_failures_are_tool_errors_in_the_words_of_the_client(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """They say what is wrong and what to do; the server goes on."""
    locked = fake_trooper.add_order(is_locked=True).order_id
    async with assistant_over_stdio(fake_trooper, tmp_path / "ledger") as user:
        assert "unlock it first" in await user.fail("stop", order_id=locked)
        assert "not in the list of orders" in await user.fail("start", order_id=999)
        assert "order_id" in await user.fail("freeze", order_id="all")
        fake_trooper.fail_next("/api/orders", status=401)
        assert "Check the API key" in await user.fail("list_servers")
        await user.call("list_servers")
