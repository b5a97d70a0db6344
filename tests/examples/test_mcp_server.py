"""examples/mcp_server.py called by the official MCP client: in this process, over stdio and over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
import pytest

pytest.importorskip("mcp", reason="needs mcp: pip install -e '.[examples]'")

from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.session import ClientRequestContext, ElicitationFnT
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.types import ElicitRequestParams, ElicitResult, TextContent, ToolAnnotations

from examples import mcp_server
from tests.helpers import processes
from tests.helpers.conditions import free_port, until
from tests.helpers.day import OUTAGES, Day
from tests.helpers.fake_orders import outage, sent_of
from trooper_async import PollSchedule, PurchaseUnknownError, TrooperClient, errors
from trooper_async.testing import FakeTrooper

SCRIPT = Path(mcp_server.__file__)
PREVIEW = {"blib_id": 3}  # 0.195 EUR/h


class User:
    """The user of the MCP client: what they were asked, and what they reply."""

    def __init__(self, *, yes: bool = True) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Any] = {"action": "accept", "content": {"yes": yes}}

    async def answer(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        self.asked.append(params.message)
        return ElicitResult(**self.answers)


def answers(user: User | None) -> ElicitationFnT | None:
    return None if user is None else user.answer


class Assistant:
    """What an MCP client does with the tools; all that it has read is kept."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.instructions = client.instructions or ""
        self.read: list[str] = []

    async def tools(self) -> dict[str, ToolAnnotations | None]:
        return {tool.name: tool.annotations for tool in (await self._client.list_tools()).tools}

    async def call(self, tool: str, **arguments: Any) -> str:
        return await self._call(tool, arguments, fails=False)

    async def fail(self, tool: str, **arguments: Any) -> str:
        """The text of the tool error that this call raises."""
        return await self._call(tool, arguments, fails=True)

    async def preview(self, **arguments: Any) -> str:
        """The id of a preview."""
        return (await self.call("preview_order", **{**PREVIEW, **arguments})).split()[1].rstrip(":")

    async def either(self, tool: str, **arguments: Any) -> tuple[bool, str]:
        """Whether a call succeeds, and its text."""
        result = await self._client.call_tool(tool, arguments)
        text = "\n".join(part.text for part in result.content if isinstance(part, TextContent))
        self.read.append(text)
        return not result.is_error, text

    async def _call(self, tool: str, arguments: dict[str, Any], *, fails: bool) -> str:
        succeeded, text = await self.either(tool, **arguments)
        assert succeeded is not fails, text
        return text


def limited(ledger: Path, *, price: str = "0.5", servers: str = "2") -> dict[str, str]:
    """The variables with which an operator allows purchases."""
    return {"TROOPER_LEDGER": str(ledger), "TROOPER_MAX_PRICE_H": price, "TROOPER_MAX_SERVERS": servers}


def environment(fake: FakeTrooper, operator: dict[str, str]) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("TROOPER_")}
    return {**others, "TROOPER_BASE_URL": fake.url, "TROOPER_API_KEY": fake.api_key, **operator}


@asynccontextmanager
async def assistant(
    fake: FakeTrooper, operator: dict[str, str] | None = None, *, user: User | None = None, **options: Any
) -> AsyncIterator[Assistant]:
    """The example in this process, with clients of the fake; it ends by itself, and never shows the key."""
    made: asyncio.Future[MCPServer] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def run(server: MCPServer) -> None:
        made.set_result(server)
        await over.wait()

    def client(**its: Any) -> TrooperClient:
        return fake.client(**its, **options)

    with (
        mock.patch.dict(os.environ, environment(fake, operator or {}), clear=True),
        mock.patch.object(MCPServer, "run_stdio_async", run),
        mock.patch.object(mcp_server, "TrooperClient", client),
    ):
        serving = asyncio.create_task(mcp_server.serve(None))
        serving.add_done_callback(lambda _: made.cancel())  # where it has failed before
        try:
            async with Client(await made, elicitation_callback=answers(user)) as session:
                one = Assistant(session)
                yield one
        finally:
            over.set()
            await serving
    assert fake.api_key not in "".join(one.read)


@asynccontextmanager
async def over_stdio(
    fake: FakeTrooper, operator: dict[str, str] | None = None, *, user: User | None = None, **options: Any
) -> AsyncIterator[Assistant]:
    """The example as a process; it ends by itself once its stdin is closed, and never shows the key."""
    variables = environment(fake, operator or {})
    server = StdioServerParameters(command=sys.executable, args=["-W", "error", str(SCRIPT)], env=variables)
    with tempfile.TemporaryFile("w+") as log:
        async with Client(stdio_client(server, log), elicitation_callback=answers(user), **options) as session:
            one = Assistant(session)
            yield one
        log.seek(0)
        logged = log.read()
    assert "Traceback" not in logged
    if key := variables["TROOPER_API_KEY"]:
        assert key not in logged + "".join(one.read)


@asynccontextmanager
async def serving_http(fake: FakeTrooper, operator: dict[str, str] | None = None) -> AsyncIterator[str]:
    """The example as a process, as an HTTP server; its URL. SIGTERM ends it, whoever is connected."""
    variables = environment(fake, operator or {})
    async with processes.python(SCRIPT, "--http", str(port := free_port()), env=variables) as child:
        await child.says("Uvicorn running")
        yield f"http://127.0.0.1:{port}/mcp"
        child.send(signal.SIGTERM)
        await child.ends()
    assert "Traceback" not in child.err
    assert fake.api_key not in child.err + child.out


@asynccontextmanager
async def over_http(
    fake: FakeTrooper, operator: dict[str, str] | None = None, *, user: User | None = None, **options: Any
) -> AsyncIterator[Assistant]:
    async with (
        serving_http(fake, operator) as url,
        Client(url, elicitation_callback=answers(user), **options) as session,
    ):
        yield Assistant(session)


def sent(fake: FakeTrooper, path: str = "/api/order-status") -> list[Any]:
    return [request.json for request in fake.requests if request.path == path]


# --- servers ----------------------------------------------------------------------------------------------------------


async def test_each_tool_describes_its_effect(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """The hints say which tools only read, which interrupt a server, and which can be repeated."""
    async with assistant(fake_trooper, limited(tmp_path / "ledger")) as one:
        hints = {
            name: (its.read_only_hint, its.destructive_hint, its.idempotent_hint)
            for name, its in (await one.tools()).items()
            if its is not None
        }
    reads = ("list_servers", "list_offers", "wait", "preview_order", "unresolved_purchases")
    assert hints == {
        **dict.fromkeys(reads, (True, None, None)),
        "start": (False, False, True),
        **dict.fromkeys(("stop", "freeze", "order", "resolve"), (False, True, True)),
        "restart": (False, True, False),
    }


async def test_servers_and_offers_are_listed(fake_trooper: FakeTrooper) -> None:
    """With the facts for a decision: status, cost, end of the paid period; sold out offers are left out."""
    order = fake_trooper.add_order(title="job 1", is_locked=True)
    fake_trooper.set_status(order, "stopping", "stopped")
    fake_trooper.add_order(title="job 2", status="stopped")
    fake_trooper.add_order(title="job 3", status="frozen")
    async with assistant(fake_trooper) as one:
        servers = (await one.call("list_servers")).splitlines()
        offers = (await one.call("list_offers")).splitlines()
    assert servers[0].startswith(
        f"order {order.order_id} 'job 1' is stopping, requested stopped: 0.85 EUR/h, paid until"
    )
    assert f"{order.paid_until:%Y-%m-%d}" in servers[0]
    assert servers[0].endswith(", locked")
    assert "'job 2' is stopped: 0.85 EUR/h, 0.2975 EUR/h while stopped, paid until" in servers[1]
    assert "'job 3' is frozen: 0.85 EUR/h, an undocumented price while frozen, paid until" in servers[2]
    assert len(offers) == 4
    assert offers[2] == "'V100 Single' (blib 3): 1 x V100, 0.195 EUR/h"


async def test_servers_are_started_stopped_and_awaited(fake_trooper: FakeTrooper) -> None:
    """An action returns once accepted, `wait` says when it has taken effect."""
    order = fake_trooper.add_order().order_id
    async with assistant(fake_trooper) as one:
        assert await one.call("freeze", order_id=order) == f"order {order}: freeze is accepted, and leads to frozen"
        assert "is frozen: " in await one.call("wait", order_id=order)
        assert "is frozen: " in await one.call("list_servers")
        await one.call("start", order_id=order, migration_allowed=True)
        await one.call("stop", order_id=order)
        assert "is stopped: " in await one.call("wait", order_id=order)
    assert [body["action"] for body in sent(fake_trooper)] == ["frozen", "running", "stopped"]
    assert [body.get("migration_allowed") for body in sent(fake_trooper)] == [None, True, None]


async def test_an_action_is_watched_from_its_acceptance(fake_trooper: FakeTrooper) -> None:
    """Not from the assistant's call of `wait`: by then a restart might no longer be visible."""
    order = fake_trooper.add_order().order_id
    fake_trooper.durations["restart"] = 0  # over between two polls
    async with assistant(fake_trooper, poll=PollSchedule()) as one:
        await one.call("restart", order_id=order)
        await until(lambda: fake_trooper.requests[-1].path == "/api/orders")
        paths = [request.path for request in fake_trooper.requests]
        assert "wait again" in await one.fail("wait", order_id=order, seconds=0.1)
    assert paths == ["/api/orders", "/api/order-status-history", "/api/order-status", "/api/orders"]


async def test_a_wait_blocks_no_other_tool_and_has_a_timeout(fake_trooper: FakeTrooper) -> None:
    """At its end it is an error that says to wait again; the action goes on."""
    fake_trooper.durations["freeze"] = 600
    order = fake_trooper.add_order().order_id
    async with assistant(fake_trooper) as one:
        await one.call("freeze", order_id=order)
        assert "wait again" in await one.fail("wait", order_id=order, seconds=0.05)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(one.call("wait", order_id=order))
            await one.call("list_servers")
            assert not waiting.done()
            fake_trooper.set_status(order, "frozen")
        assert "is frozen" in waiting.result()


async def test_an_action_of_somebody_else_can_be_awaited(fake_trooper: FakeTrooper) -> None:
    """If nothing was sent from here, it waits for the requested status."""
    order = fake_trooper.add_order().order_id
    async with assistant(fake_trooper) as one:
        assert "is running: " in await one.call("wait", order_id=order)


@pytest.mark.parametrize("waited", [False, True])
async def test_a_wait_returns_the_current_status(fake_trooper: FakeTrooper, waited: bool) -> None:
    """If the server was started elsewhere since, it waits for that, and does not return the old status."""
    fake_trooper.durations["start"] = 0.3
    order = fake_trooper.add_order().order_id
    async with assistant(fake_trooper) as one, fake_trooper.client() as elsewhere:
        await one.call("stop", order_id=order)
        await until(lambda: not [task for task in asyncio.all_tasks() if "Tools._outcome" in repr(task)])
        if waited:
            assert "is stopped" in await one.call("wait", order_id=order)
            await elsewhere.orders.start(order)
        else:
            await elsewhere.orders.start_and_wait(order)
        assert "is running" in await one.call("wait", order_id=order)


async def test_a_lost_response_can_be_waited_for(fake_trooper: FakeTrooper) -> None:
    """The outcome is reported as unknown, and `wait` finds out."""
    order = fake_trooper.add_order().order_id
    fake_trooper.drop_next("/api/order-status", when="after")
    async with assistant(fake_trooper) as one:
        assert "It may have been done: wait for the server" in await one.fail("restart", order_id=order)
        assert "is running" in await one.call("wait", order_id=order)
    assert len(sent(fake_trooper)) == 1


# --- purchases --------------------------------------------------------------------------------------------------------

TRANSPORTS = pytest.mark.parametrize(
    ("transport", "mode"), [(over, mode) for over in (over_stdio, over_http) for mode in ("auto", "legacy")]
)
Transport = Callable[..., AbstractAsyncContextManager[Assistant]]


@pytest.mark.parametrize("missing", [*mcp_server.BUYING, None])
async def test_without_the_operators_limits_no_tool_buys(
    fake_trooper: FakeTrooper, tmp_path: Path, missing: str | None
) -> None:
    """Ledger, price and number of servers are all needed: it says what is missing."""
    operator = limited(tmp_path / "ledger") if missing else {}
    async with assistant(fake_trooper, {**operator, missing: ""} if missing else {}) as one:
        assert not {"preview_order", "order", "resolve"} & set(await one.tools())
        assert "Nothing can be rented" in one.instructions
        assert "order" in await one.fail("order", preview="x", confirm=True)
    assert sent(fake_trooper, "/api/order") == []


@TRANSPORTS
async def test_an_order_is_previewed_confirmed_and_made(
    fake_trooper: FakeTrooper, tmp_path: Path, transport: Transport, mode: str
) -> None:
    """The user is asked by their MCP client, once, with the text of the preview."""
    user = User()
    async with transport(fake_trooper, limited(tmp_path / "ledger"), user=user, mode=mode) as one:
        text = await one.call("preview_order", blib_id=3)
        assert "'V100 Single' (blib 3): 1 x V100, 0.195 EUR/h" in text
        assert "each hour is paid in advance" in text
        assert sent(fake_trooper, "/api/order") == []
        preview = text.split()[1].rstrip(":")
        bought = await one.call("order", preview=preview, confirm=True)
        assert bought == "order 123: create is accepted, and leads to running"
        assert "is running" in await one.call("wait", order_id=123)
    assert len(user.asked) == 1
    assert "'V100 Single' (blib 3): 1 x V100, 0.195 EUR/h" in user.asked[0]
    assert [body["price_h"] for body in sent(fake_trooper, "/api/order")] == [0.195]


@TRANSPORTS
async def test_nothing_is_bought_unless_the_user_agrees(
    fake_trooper: FakeTrooper, tmp_path: Path, transport: Transport, mode: str
) -> None:
    """Whatever the assistant says: no tick, a refusal, a closed window and a wrongly filled form are a no."""
    user = User(yes=False)
    async with transport(fake_trooper, limited(tmp_path / "ledger"), user=user, mode=mode) as one:
        preview = await one.preview()
        assert "the user did not agree" in await one.fail("order", preview=preview, confirm=True)
        for action in ("decline", "cancel"):
            user.answers = {"action": action}
            assert "the user did not agree" in await one.fail("order", preview=preview, confirm=True)
        for content in ({}, {"yes": "true"}, {"yes": 1}, None):
            user.answers = {"action": "accept", "content": content}
            await one.fail("order", preview=preview, confirm=True)
    assert len(user.asked) == 7
    assert sent(fake_trooper, "/api/order") == []


async def test_a_client_that_cannot_ask_relies_on_confirm(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """Then the assistant's `confirm` counts, within the operator's limits."""
    async with assistant(fake_trooper, limited(tmp_path / "ledger")) as one:
        assert "order 123" in await one.call("order", preview=await one.preview(), confirm=True)


@pytest.mark.parametrize("confirm", [False, "true", "True", "yes", 1, 1.0, None, [True], "confirmed by the user"])
async def test_confirm_must_be_true(fake_trooper: FakeTrooper, tmp_path: Path, confirm: object) -> None:
    """No text, number or list counts as true, and the user is not even asked."""
    user = User()
    async with assistant(fake_trooper, limited(tmp_path / "ledger"), user=user) as one:
        assert "confirm" in await one.fail("order", preview=await one.preview(), confirm=confirm)
        assert "confirm" in await one.fail("order", preview=await one.preview())
    assert user.asked == []
    assert sent(fake_trooper, "/api/order") == []


async def test_extra_arguments_of_an_assistant_have_no_effect(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """Price, limits, offer, terms and consent are no arguments of an order."""
    user = User(yes=False)
    attempts: list[dict[str, Any]] = [
        {"max_price_h": 1e9, "reference": "r1"},
        {"price_h": 0.01, "blib_id": 1},
        {"user": {"action": "accept", "data": {"yes": True}}},
        {"TROOPER_MAX_SERVERS": 99, "max_servers": 99},
    ]
    async with assistant(fake_trooper, limited(tmp_path / "ledger"), user=user) as one:
        preview = await one.preview()
        for arguments in attempts:
            assert "did not agree" in await one.fail("order", preview=preview, confirm=True, **arguments)
    assert sent(fake_trooper, "/api/order") == []


@pytest.mark.parametrize("transport", [assistant, over_stdio, over_http])
async def test_an_assistant_cannot_exceed_the_limits(
    fake_trooper: FakeTrooper, tmp_path: Path, transport: Transport
) -> None:
    """No number of previews and no argument gives more servers than the operator allows, nor does freezing some."""
    fake_trooper.add_order(title="there before")
    async with transport(fake_trooper, limited(tmp_path / "ledger", servers="4")) as one:
        previews = [await one.preview() for _ in range(8)]
        outcomes = await asyncio.gather(
            *(one.either("order", preview=preview, confirm=True) for preview in previews * 2),
            *(one.either("order", preview=preview, confirm="true", max_price_h=1e9) for preview in previews),
            *(one.either("order", blib_id=1, max_price_h=1e9, reference=f"r{nth}", confirm=True) for nth in range(8)),
        )
        bought = {text for succeeded, text in outcomes if succeeded and "is accepted" in text}
        assert len(bought) == 3
        assert any("there are 4 servers, and 4 are allowed" in text for succeeded, text in outcomes if not succeeded)
        assert "at most 0.5 EUR/h are allowed" in await one.fail("preview_order", blib_id=1, max_price_h=1e9)
        for line in (await one.call("list_servers")).splitlines():
            await one.call("freeze", order_id=int(line.split()[1]))
        assert "4 are allowed" in await one.fail("preview_order", **PREVIEW)
        assert not [
            preview
            for preview in previews
            if "accepted" in (await one.either("order", preview=preview, confirm=True))[1]
        ]
    assert [body["blib_id"] for body in sent(fake_trooper, "/api/order")] == [3, 3, 3]


async def test_servers_missing_from_a_lagging_list_count(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """A list that lags behind the purchases does not allow more."""
    async with assistant(fake_trooper, limited(tmp_path / "ledger", servers="1")) as one:
        previews = [await one.preview() for _ in range(2)]
        await one.call("order", preview=previews[0], confirm=True)
        fake_trooper.fail_next("/api/orders", status=200, body=[], times=50)
        assert "1 are allowed" in await one.fail("order", preview=previews[1], confirm=True)
    assert len(sent(fake_trooper, "/api/order")) == 1


async def test_a_preview_buys_one_server(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """Used again at once, later, or in a new process, it returns what it has bought."""
    operator = limited(tmp_path / "ledger", servers="9")
    async with assistant(fake_trooper, operator) as one:
        preview = await one.preview()
        order = {"preview": preview, "confirm": True}
        answers = await asyncio.gather(*(one.call("order", **order) for _ in range(5)), one.call("order", **order))
    async with assistant(fake_trooper, operator) as one:
        answers.append(await one.call("order", **order))
    assert sum("is accepted" in answer for answer in answers) == 1
    assert sum("order 123 was bought with this preview before" in answer for answer in answers) == 6
    assert len(sent(fake_trooper, "/api/order")) == 1


async def test_nothing_is_bought_that_differs_from_the_preview(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """Another price, even a lower one, other hardware under the same id, a missing offer, an unknown preview."""
    async with assistant(fake_trooper, limited(tmp_path / "ledger")) as one:
        preview = await one.preview()
        blib = fake_trooper.blibs[3]
        for price in ("0.2", "0.1"):
            blib.price_h = Decimal(price)
            assert f"{price} EUR/h now" in await one.fail("order", preview=preview, confirm=True)
        blib.price_h = Decimal("0.195")
        blib.gpu_type = "K80"
        assert "1 x K80, 0.195 EUR/h now" in await one.fail("order", preview=preview, confirm=True)
        del fake_trooper.blibs[3]
        assert "offer 3 cannot be rented now" in await one.fail("order", preview=preview, confirm=True)
        for other in ("", "0" * 16, preview.upper() + "0"):
            assert "there is no such preview" in await one.fail("order", preview=other, confirm=True)
    assert sent(fake_trooper, "/api/order") == []


async def test_no_preview_above_the_limit(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """The limit is the operator's; sold out and unknown offers have no preview either."""
    async with assistant(fake_trooper, limited(tmp_path / "ledger", price="0.194")) as one:
        assert "at most 0.194 EUR/h are allowed" in await one.fail("preview_order", blib_id=3)
        assert "at most 0.194 EUR/h are allowed" in await one.fail("preview_order", blib_id=3, max_price_h=99)
        assert "offer 99 cannot be rented now" in await one.fail("preview_order", blib_id=99)


@pytest.mark.parametrize(
    ("price", "servers"),
    [
        ("nan", "2"),
        ("inf", "2"),
        ("-1", "2"),
        ("0", "2"),
        ("cheap", "2"),
        ("0.5", "nan"),
        ("0.5", "-1"),
        ("0.5", "2.5"),
    ],
)
async def test_an_invalid_limit_allows_no_purchase(
    fake_trooper: FakeTrooper, tmp_path: Path, price: str, servers: str
) -> None:
    """The buying tools say so; the others work."""
    async with assistant(fake_trooper, limited(tmp_path / "ledger", price=price, servers=servers)) as one:
        await one.call("list_servers")
        assert f"TROOPER_MAX_PRICE_H={price}" in await one.fail("preview_order", **PREVIEW)
        assert "nothing can be bought" in await one.fail("order", preview="x", confirm=True)


# --- purchases of unknown outcome -------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [True, False])
async def test_a_lost_purchase_is_resolved_by_a_tool(fake_trooper: FakeTrooper, tmp_path: Path, made: bool) -> None:
    """Until the user decides what became of it, nothing more is bought, under no other preview either."""
    user = User()
    async with assistant(fake_trooper, limited(tmp_path / "ledger"), user=user) as one:
        preview, other = [await one.preview() for _ in range(2)]
        fake_trooper.drop_next("/api/order", when="after" if made else "before")
        text = await one.fail("order", preview=preview, confirm=True)
        assert "it is not known whether it was made" in text
        assert ("order 123" in text) is made
        for again in (preview, other):
            assert "call resolve" in await one.fail("order", preview=again, confirm=True)
        assert "call resolve" in await one.fail("preview_order", **PREVIEW)
        purchase = (await one.call("unresolved_purchases")).split()[1]
        assert purchase in text

        assert "no purchase 'x'" in await one.fail("resolve", purchase_id="x", order_id=None)
        assert "purchase_id" in await one.fail("resolve", order_id=None)
        assert "order_id" in await one.fail("resolve", purchase_id=purchase)
        await one.call("resolve", purchase_id=purchase, order_id=123 if made else None)
        assert await one.call("unresolved_purchases") == ""
        again = await one.call("order", preview=preview, confirm=True)
        assert again == (
            "order 123 was bought with this preview before; nothing was bought now"
            if made
            else "order 123: create is accepted, and leads to running"
        )
    assert [question for question in user.asked if "Record that the purchase" in question]
    assert len(sent(fake_trooper, "/api/order")) == (1 if made else 2)


async def test_a_purchase_is_not_resolved_without_the_users_consent(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """The user is asked there too."""
    fake_trooper.drop_next("/api/order", when="after")
    async with assistant(fake_trooper, limited(tmp_path / "ledger")) as one:
        await one.fail("order", preview=await one.preview(), confirm=True)
        purchase = (await one.call("unresolved_purchases")).split()[1]
    async with assistant(fake_trooper, limited(tmp_path / "ledger"), user=User(yes=False)) as one:
        assert "did not agree" in await one.fail("resolve", purchase_id=purchase, order_id=None)
        assert purchase in await one.call("unresolved_purchases")


async def test_a_server_that_was_bought_after_all_counts(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """An assistant that resolves every purchase as not made gets no more servers than allowed."""
    async with assistant(fake_trooper, limited(tmp_path / "ledger", servers="2")) as one:
        for _ in range(2):
            fake_trooper.drop_next("/api/order", when="after")
            await one.fail("order", preview=await one.preview(), confirm=True)
            purchase = (await one.call("unresolved_purchases")).split()[1]
            await one.call("resolve", purchase_id=purchase, order_id=None)
        assert "there are 2 servers, and 2 are allowed" in await one.fail("preview_order", **PREVIEW)


@pytest.mark.parametrize("moment", ["held", "answered"])
async def test_killed_during_a_purchase_the_next_process_buys_nothing(
    fake_trooper: FakeTrooper, tmp_path: Path, moment: str
) -> None:
    """The ledger has it, whether or not its response came; another process resolves it."""
    operator = limited(tmp_path / "ledger")
    variables = environment(fake_trooper, operator)
    hold = fake_trooper.hold_next("/api/order") if moment == "held" else None
    async with processes.python(SCRIPT, "--http", str(port := free_port()), env=variables) as child:
        await child.says("Uvicorn running")
        previews = []

        async def buy() -> None:
            async with Client(f"http://127.0.0.1:{port}/mcp") as session:
                one = Assistant(session)
                previews.append(await one.preview())
                await one.call("order", preview=previews[0], confirm=True)

        buying = asyncio.create_task(buy())
        await (buying if hold is None else hold.arrived())
        await child.kill()
        await asyncio.gather(buying, return_exceptions=True)
    preview = previews[0]
    if hold is not None:
        hold.release()
    async with over_stdio(fake_trooper, operator) as one:
        if hold is None:
            assert "order 123 was bought with this preview" in await one.call("order", preview=preview, confirm=True)
        else:
            assert "call resolve" in await one.fail("order", preview=preview, confirm=True)
            assert "call resolve" in await one.fail("preview_order", **PREVIEW)
            purchase = (await one.call("unresolved_purchases")).split()[1]
            await one.call("resolve", purchase_id=purchase, order_id=123)
            assert "order 123 was bought with this preview" in await one.call("order", preview=preview, confirm=True)
    assert len(sent(fake_trooper, "/api/order")) == 1


async def test_a_purchase_whose_call_was_cancelled_is_not_forgotten(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """It is followed to its end, and reported as an undelivered order."""
    async with assistant(fake_trooper, limited(tmp_path / "ledger")) as one:
        preview = await one.preview()
        with fake_trooper.hold_next("/api/order") as hold:
            buying = asyncio.create_task(one.call("order", preview=preview, confirm=True))
            await hold.arrived()
            buying.cancel()
        await asyncio.gather(buying, return_exceptions=True)
        text = await one.fail("order", preview=preview, confirm=True)
        assert "order 123 was bought, and nobody was told" in text
        purchase = (await one.call("unresolved_purchases")).split()[1]
        assert "it is order 123" in await one.fail("resolve", purchase_id=purchase, order_id=None)
        await one.call("resolve", purchase_id=purchase, order_id=123)
        assert "order 123 was bought with this preview" in await one.call("order", preview=preview, confirm=True)
    assert len(sent(fake_trooper, "/api/order")) == 1


# --- what does not work, and what goes on -----------------------------------------------------------------------------


async def test_a_ledger_in_use_by_another_client_blocks_only_purchases(
    fake_trooper: FakeTrooper, tmp_path: Path
) -> None:
    """The buying tools say why, for as long as it lasts; everything else works."""
    order = fake_trooper.add_order().order_id
    async with over_stdio(fake_trooper, limited(tmp_path / "ledger")) as one:
        async with fake_trooper.client(ledger=tmp_path / "ledger"):
            for tool, arguments in (
                ("preview_order", PREVIEW),
                ("order", {"preview": "x", "confirm": True}),
                ("unresolved_purchases", {}),
                ("resolve", {"purchase_id": "x", "order_id": None}),
            ):
                assert "is open in another client or process" in await one.fail(tool, **arguments)
            await one.call("stop", order_id=order)
            assert "is stopped" in await one.call("wait", order_id=order)
        assert "0.195 EUR/h" in await one.call("preview_order", **PREVIEW)


async def test_several_mcp_clients_can_share_a_ledger(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """It is open during a purchase only; purchases of one count for the other."""
    operator = limited(tmp_path / "ledger", servers="2")
    async with over_stdio(fake_trooper, operator) as first, over_stdio(fake_trooper, operator) as second:
        previews = [await one.preview() for one in (first, second, second)]
        assert "order 123" in await first.call("order", preview=previews[0], confirm=True)
        assert "order 124" in await second.call("order", preview=previews[1], confirm=True)
        assert "2 are allowed" in await second.fail("order", preview=previews[2], confirm=True)


async def test_an_unusable_ledger_blocks_only_purchases(fake_trooper: FakeTrooper, tmp_path: Path) -> None:
    """A folder, another file, a missing folder: the tools that need it say so."""
    (tmp_path / "letter").write_text("Dear Sir or Madam,\n")
    for ledger in (tmp_path, tmp_path / "letter", tmp_path / "nowhere" / "ledger"):
        async with over_stdio(fake_trooper, limited(ledger)) as one:
            assert f"the ledger {ledger} " in await one.fail("preview_order", **PREVIEW)
            assert "V100" in await one.call("list_offers")
    assert (tmp_path / "letter").read_text() == "Dear Sir or Madam,\n"


@pytest.mark.parametrize(
    ("key", "said"), [("", "TROOPER_API_KEY"), ("two words", "printable ASCII"), ("refused", "Check the API key")]
)
async def test_a_bad_key_is_reported_by_the_tools(
    fake_trooper: FakeTrooper, tmp_path: Path, key: str, said: str
) -> None:
    """The server starts, lists its tools, and each says what is wrong, without the key."""
    operator = {**limited(tmp_path / "ledger"), "TROOPER_API_KEY": key}
    async with over_stdio(fake_trooper, operator) as one:
        assert "order" in await one.tools()
        for tool, arguments in (("list_servers", {}), ("stop", {"order_id": 1}), ("preview_order", PREVIEW)):
            assert said in await one.fail(tool, **arguments)


async def test_failures_are_tool_errors_with_a_next_step(fake_trooper: FakeTrooper) -> None:
    """They say what is wrong; the server goes on."""
    locked = fake_trooper.add_order(is_locked=True).order_id
    async with over_stdio(fake_trooper) as one:
        assert "the user has to unlock it" in await one.fail("stop", order_id=locked)
        assert "list_servers shows the ids" in await one.fail("start", order_id=999)
        assert "order_id" in await one.fail("freeze", order_id="all")
        for seconds in (0, -1, "nan", "inf", 1e9):
            assert "seconds" in await one.fail("wait", order_id=locked, seconds=seconds)
        fake_trooper.fail_next("/api/orders", status=401)
        assert "Check the API key" in await one.fail("list_servers")
        await one.call("list_servers")


def test_no_hint_names_a_python_call() -> None:
    """If the library's hint names a Python call, the server has its own: the assistant has only tools."""
    own = {*mcp_server.NEXT_STEPS, PurchaseUnknownError}
    never_here = {"UnresolvedPurchaseError", "TemplateFailedError", "PurchaseNotReadyError", "ClientClosedError"}
    names = {name for name in dir(errors) if name.endswith("Error")} - never_here
    kinds = [getattr(errors, name) for name in names]
    in_python = [kind for kind in kinds if any(word in kind.hint for word in ("await ", "client.", "error."))]
    assert in_python
    assert [kind for kind in in_python if kind not in own] == []
    assert not [step for step in mcp_server.NEXT_STEPS.values() if "await " in step or "error." in step]


# --- HTTP -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:{port}"}, 200),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example:{port}"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
async def test_http_responds_only_under_its_own_name(
    fake_trooper: FakeTrooper, headers: dict[str, str], status: int
) -> None:
    """Pages of other sites, and foreign names for this machine (DNS rebinding), are refused."""
    start = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": start}
    async with serving_http(fake_trooper) as url, aiohttp.ClientSession() as session:
        port = url.split(":")[2].partition("/")[0]
        sent_headers = {name: value.format(port=port) for name, value in headers.items()}
        sent_headers |= {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        async with session.post(url, data=json.dumps(body), headers=sent_headers) as response:
            assert response.status == status
            assert (b"serverInfo" in await response.read()) is (status == 200)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_http_ends_on_a_signal_whoever_is_connected(fake_trooper: FakeTrooper, mode: str) -> None:
    """An open connection and a wait in progress do not keep the process alive."""
    order = fake_trooper.add_order()
    fake_trooper.set_status(order, "stopping", "stopped")
    variables = environment(fake_trooper, {})
    async with processes.python(SCRIPT, "--http", str(port := free_port()), env=variables) as child:
        await child.says("Uvicorn running")

        async def wait() -> None:
            async with Client(f"http://127.0.0.1:{port}/mcp", mode=mode) as session:
                await session.call_tool("wait", {"order_id": order.order_id, "seconds": 600})

        waiting = asyncio.create_task(wait())
        await until(lambda: sent(fake_trooper, "/api/orders"))
        child.send(signal.SIGTERM)
        await child.ends()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert "Traceback" not in child.err


# A day, on a clock that the test puts forward -----------------------------------------------------------------------

LIST, ACTION, ORDER = "/api/orders", "/api/order-status", "/api/order"


@pytest.fixture
def day(fake_trooper: FakeTrooper, tmp_path: Path) -> Day:
    return Day(fake_trooper, tmp_path)


@asynccontextmanager
async def at_work(day: Day) -> AsyncIterator[tuple[processes.Child, Assistant]]:
    """The example as an HTTP server, and an assistant; it is killed (SIGKILL) at the end."""
    operator = limited(day.folder / "ledger")
    async with day.started(str(SCRIPT), "--http", str(port := free_port()), env=operator) as child:
        await child.says("Uvicorn running")
        # a connection that is kept would be closed, by the server's clock, while a request is being sent over it
        async with create_mcp_http_client({"Connection": "close"}) as http:
            transport = streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=http)
            async with Client(transport) as session:
                yield child, Assistant(session)
        await child.kill()
    assert "Traceback" not in child.err


@pytest.mark.parametrize("seconds", OUTAGES.values(), ids=OUTAGES)
async def test_a_wait_survives_an_outage(day: Day, seconds: float) -> None:
    """The wait says to call it again; after the outage it succeeds, and nothing is sent again."""
    day.fake.durations["restart"] = 3
    order = day.fake.add_order().order_id
    async with at_work(day) as (child, one):
        await one.call("restart", order_id=order)
        with outage(day.fake, LIST, ACTION):
            waiting = asyncio.create_task(one.either("wait", order_id=order))
            await until(lambda: 503 in [request.status for request in day.fake.requests])
            await day.passes(seconds, child)
            if seconds > 50:
                succeeded, text = await waiting
                assert (succeeded, "wait again" in text) == (False, True)
                if seconds == OUTAGES["3 h"]:
                    assert "a 503 of fail_next" in await one.fail("wait", order_id=order)
                waiting = asyncio.create_task(one.either("wait", order_id=order))
        await day.passes_until(waiting.done, child)
        while "wait again" in waiting.result()[1]:  # if nobody saw it leave `running`, that must be steady
            waiting = asyncio.create_task(one.either("wait", order_id=order))
            await day.passes_until(waiting.done, child)
        assert "is running" in waiting.result()[1]
    assert sent_of(day.fake) == [(order, "restarted")]


@pytest.mark.parametrize("seconds", OUTAGES.values(), ids=OUTAGES)
async def test_a_purchase_during_an_outage_is_unknown(day: Day, seconds: float) -> None:
    """Its outcome is unknown until the user resolves it, also during the outage; nothing is bought meanwhile."""
    async with at_work(day) as (child, one):
        preview = await one.preview()
        with outage(day.fake, ORDER):
            buying = asyncio.create_task(one.fail("order", preview=preview, confirm=True))
            await day.passes_until(buying.done, child)  # it looks for the order in the list
            text = await buying
            assert "it is not known whether it was made" in text
        with outage(day.fake, LIST, ORDER, "/api/blibs"):
            await day.passes(seconds, child)
            assert await one.call("unresolved_purchases") in text
            failing = asyncio.create_task(one.fail("order", preview=preview, confirm=True))
            await day.passes_until(failing.done, child)
            assert sent_of(day.fake) == []
        purchase = (await one.call("unresolved_purchases")).split()[1]
        await one.call("resolve", purchase_id=purchase, order_id=None)
        assert "order 123" in await one.call("order", preview=preview, confirm=True)
    assert [request.status for request in day.fake.requests if request.path == ORDER] == [503, 200]


async def test_killed_between_preview_and_purchase(day: Day) -> None:
    """The next process does not know the preview, buys nothing with it, and makes a new one."""
    async with at_work(day) as (_, one):
        preview = await one.preview()
    async with at_work(day) as (_, one):
        assert "there is no such preview" in await one.fail("order", preview=preview, confirm=True)
        assert "order 123" in await one.call("order", preview=await one.preview(), confirm=True)
    assert len(sent(day.fake, ORDER)) == 1


async def test_two_copies_with_one_ledger_take_turns(day: Day) -> None:
    """While one of them buys, the other says that the ledger is in use; the limit is for both together."""
    async with at_work(day) as (_, first), at_work(day) as (_, second):
        previews = [await one.preview() for one in (first, second, second)]
        with day.fake.hold_next(ORDER) as hold:
            buying = asyncio.create_task(first.call("order", preview=previews[0], confirm=True))
            await hold.arrived()
            text = await second.fail("order", preview=previews[1], confirm=True)
            assert "is open in another client or process" in text
        assert "order 123" in await buying
        assert "order 124" in await second.call("order", preview=previews[1], confirm=True)
        assert "2 are allowed" in await second.fail("order", preview=previews[2], confirm=True)
    assert len(sent(day.fake, ORDER)) == 2


async def test_a_copy_on_the_same_port_exits(day: Day) -> None:
    """It says why, and the first one continues."""
    async with day.started(str(SCRIPT), "--http", str(port := free_port())) as child:
        await child.says("Uvicorn running")
        async with day.started(str(SCRIPT), "--http", str(port)) as second:
            assert await second.ends() > 0
        assert "address already in use" in second.err
        assert "Traceback" not in second.err
        assert child.running
