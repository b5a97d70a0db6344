"""An MCP server: an assistant lists, starts, stops and awaits the account's servers, and rents more within your limits.

    pip install 'mcp>=2'
    TROOPER_API_KEY=… python examples/mcp_server.py               # over stdio: put this into an MCP client's settings
    TROOPER_API_KEY=… python examples/mcp_server.py --http 8000   # or on http://127.0.0.1:8000/mcp

It can rent servers only if you set three more variables, which the assistant cannot change:

    TROOPER_LEDGER=~/purchases.jsonl   a file that records purchases, so that none is made twice, even after a crash
    TROOPER_MAX_PRICE_H=0.90           the most that one server may cost, in EUR per hour
    TROOPER_MAX_SERVERS=3              how many servers the account may have, counting frozen ones

A purchase starts with a preview, and is refused if anything differs from it. A preview buys one server at most. If the
MCP client supports elicitation, it asks the user before a purchase; otherwise the assistant confirms it, within your
limits. HTTP has no authentication: it listens on loopback only, where every user of this machine can connect.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import wraps
from typing import Annotated

import uvicorn
from attrs import define, field
from mcp.server.mcpserver import AcceptedElicitation, Context, Elicit, ElicitationResult, MCPServer, Resolve
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

from trooper_async import (
    Blib,
    Order,
    OrderNotFoundError,
    OrderVanishedError,
    OutcomeUnknownError,
    Purchase,
    PurchaseUnknownError,
    RateLimitError,
    ServerLockedError,
    SupersededError,
    Transition,
    TrooperClient,
    TrooperError,
    WaitTimeoutError,
    cost_h,
)

BUYING = ("TROOPER_LEDGER", "TROOPER_MAX_PRICE_H", "TROOPER_MAX_SERVERS")

NEXT_STEPS: dict[type[TrooperError], str] = {  # where the library's own hint is for somebody who writes Python
    OrderNotFoundError: "list_servers shows the ids",
    OrderVanishedError: "It may have been terminated or replaced: see list_servers",
    OutcomeUnknownError: "It may have been done: wait for the server before you try again",
    RateLimitError: "Nothing was changed: try again later",
    ServerLockedError: "Nothing was changed: the user has to unlock it first",
    SupersededError: "Somebody else, or the end of a paid period, changed the server: see list_servers",
    WaitTimeoutError: "It is still in progress: wait again",
}

READS = ToolAnnotations(read_only_hint=True)
STARTS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True)
INTERRUPTS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True)
RESTARTS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=False)
SPENDS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True)  # once per preview


class Consent(BaseModel):
    """The form that a user fills in."""

    yes: bool = Field(strict=True, title="Yes", description="Tick it to agree.")


def can_ask(context: Context[Tools]) -> bool:
    """Whether the MCP client can show its user a form."""
    capabilities = context.client_capabilities
    asks = None if capabilities is None else capabilities.elicitation
    return asks is not None and (asks.form is not None or asks.url is None)


async def may_buy(context: Context[Tools], preview: str, confirm: bool) -> Consent | Elicit[Consent]:
    if not confirm:
        raise ToolError("nothing was bought: show the user the preview, and call order with confirm=true if they agree")
    blib = context.request_context.lifespan_context.previews.get(preview)
    if blib is None or not can_ask(context):  # without a preview nothing is bought anyway
        return Consent(yes=True)
    return Elicit(f"Rent {offer(blib)}, paid by the hour until it is frozen, under the vendor's terms?", Consent)


async def may_resolve(context: Context[Tools], purchase_id: str, order_id: int | None) -> Consent | Elicit[Consent]:
    if not can_ask(context):
        return Consent(yes=True)
    outcome = "was not made" if order_id is None else f"is order {order_id}"
    return Elicit(f"Record that the purchase {purchase_id} {outcome}? This cannot be taken back.", Consent)


def check_consent(user: ElicitationResult[Consent]) -> None:
    if not (isinstance(user, AcceptedElicitation) and user.data.yes):
        raise ToolError("nothing was done: the user did not agree")


@define
class Tools:
    """The tools. Their docstrings are what the assistant reads."""

    group: asyncio.TaskGroup
    client: TrooperClient | None = None
    waits: dict[int, asyncio.Task[TrooperError | None]] = field(factory=dict)
    """By order id. Each begins when its action is accepted: a restart could not be seen later."""
    previews: dict[str, Blib] = field(factory=dict)
    buying: asyncio.Lock = field(factory=asyncio.Lock)

    @property
    def trooper(self) -> TrooperClient:
        """Made by the first tool that needs it, which says what is wrong with the key, if anything is."""
        if self.client is None:
            self.client = TrooperClient()
        return self.client

    async def list_servers(self) -> list[str]:
        """The rented servers: order id, title, status, requested status where it differs, price, paid until."""
        return [describe(order) for order in await self.trooper.orders.list()]

    async def list_offers(self) -> list[str]:
        """The GPU servers that can be rented now: name, blib id, GPUs, price per hour."""
        return [offer(blib) for blib in await self._offers()]

    async def start(self, order_id: int, migration_allowed: bool = False) -> str:
        """Start a server. With migration_allowed a frozen one may move to other hardware, in 10 to 90 minutes."""
        return await self._act(self.trooper.orders.start(order_id, migration_allowed=migration_allowed))

    async def stop(self, order_id: int) -> str:
        """Stop a server. It keeps its GPU, and still costs 35 % of its price."""
        return await self._act(self.trooper.orders.stop(order_id))

    async def freeze(self, order_id: int) -> str:
        """Freeze a server: it is archived and its GPU released; address and ports may change at the next start."""
        return await self._act(self.trooper.orders.freeze(order_id))

    async def restart(self, order_id: int) -> str:
        """Restart a server by force, as a power reset does: what runs on it is lost."""
        return await self._act(self.trooper.orders.restart(order_id))

    async def wait(
        self, order_id: int, seconds: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = 50
    ) -> str:
        """Wait until the last action on a server has taken effect, and say how the server is then.

        If that takes longer than `seconds`, it is an error: call it again.
        """
        if (action := self.waits.get(order_id)) is None:
            return describe(await self.trooper.orders.wait_until_converged(order_id, timeout=seconds))
        done, _ = await asyncio.wait([action], timeout=seconds)
        if not done:
            raise ToolError(f"order {order_id}: {NEXT_STEPS[WaitTimeoutError]}")
        if self.waits.get(order_id) is action:
            del self.waits[order_id]
        if (error := action.result()) is not None:
            raise error
        return describe(await self.trooper.orders.get(order_id))  # it may have been changed since

    async def preview_order(self, blib_id: int) -> str:
        """Show what renting an offer would cost, and give the preview's id for `order`. Nothing is bought."""
        max_price_h, _ = limits()
        blib = await self._offer(blib_id)
        if blib.price_h is None or blib.price_h > max_price_h:
            raise ToolError(f"nothing was bought: at most {max_price_h} EUR/h are allowed, and it is {offer(blib)}")
        async with self._buyer() as buyer:
            await self._check_room(buyer)
        preview = secrets.token_hex(8)
        self.previews[preview] = blib
        return f"preview {preview}: {offer(blib)}; each hour is paid in advance, until the server is frozen"

    async def order(
        self,
        preview: str,
        confirm: Annotated[bool, Field(strict=True)],
        user: Annotated[ElicitationResult[Consent], Resolve(may_buy)],
    ) -> str:
        """Rent the server of a preview by the hour, under the vendor's terms, until it is frozen.

        Show the user the preview first; confirm=true says that they agree. A preview never buys twice: after an error,
        call it again with the same preview.
        """
        check_consent(user)
        max_price_h, _ = limits()
        async with self._buyer() as buyer:
            made = next((one for one in buyer.orders.purchases if one.reference == preview and one.order_id), None)
            if made is not None:
                return f"order {made.order_id} was bought with this preview before; nothing was bought now"
            if preview not in self.previews:
                raise ToolError("nothing was bought: there is no such preview, make one with preview_order")
            wanted = self.previews[preview]
            blib = await self._offer(wanted.id)
            if offer(blib) != offer(wanted):
                raise ToolError(f"nothing was bought: it is {offer(blib)} now. Make a new preview")
            await self._check_room(buyer)
            try:
                transition = await buyer.orders.create(
                    blib, contract_interval="HOUR", terms_accepted=True, max_price_h=max_price_h, reference=preview
                )
            except PurchaseUnknownError as error:
                raise ToolError(f"{error.message}. {unresolved(error.purchase)}") from None
        return self._accepted(transition)

    async def unresolved_purchases(self) -> list[str]:
        """Purchases that need a decision: their outcome is unknown, or their result reached nobody."""
        async with self._ledger() as buyer:
            return [unresolved(purchase) for purchase in await buyer.orders.unresolved()]

    async def resolve(
        self,
        purchase_id: str,
        order_id: int | None,
        user: Annotated[ElicitationResult[Consent], Resolve(may_resolve)],
    ) -> str:
        """Record what the user says became of an unresolved purchase: the order that it is, or null if it was not made.

        It cannot be taken back. A server that was bought after all is billed, whatever is recorded.
        """
        check_consent(user)
        async with self._ledger() as buyer:
            purchase = next((one for one in buyer.orders.purchases if one.id == purchase_id), None)
            if purchase is None:
                raise ToolError(f"the ledger has no purchase {purchase_id!r}: see unresolved_purchases")
            await buyer.orders.resolve(purchase, order_id)
        return f"purchase {purchase_id} {'was not made' if order_id is None else f'is order {order_id}'}: recorded"

    async def _offers(self) -> list[Blib]:
        return [blib for blib in await self.trooper.blibs.list() if blib.is_available]

    async def _offer(self, blib_id: int) -> Blib:
        for blib in await self._offers():
            if blib.id == blib_id:
                return blib
        raise ToolError(f"nothing was bought: offer {blib_id} cannot be rented now, list_offers shows what can")

    @asynccontextmanager
    async def _ledger(self) -> AsyncIterator[TrooperClient]:
        """A client with the ledger, which is open only as long as needed: several MCP servers can share one."""
        async with self.buying, TrooperClient(ledger=ledger()) as buyer:
            yield buyer

    @asynccontextmanager
    async def _buyer(self) -> AsyncIterator[TrooperClient]:
        """The same, if no earlier purchase is unresolved."""
        async with self._ledger() as buyer:
            if purchases := await buyer.orders.unresolved():
                raise ToolError(f"nothing was bought. {unresolved(purchases[0])}")
            yield buyer

    async def _check_room(self, buyer: TrooperClient) -> None:
        """Refuse if the account has as many servers as it may have. The list may not show the latest purchases yet."""
        _, max_servers = limits()
        lately = datetime.now(UTC) - timedelta(hours=1)
        present = {one.order_id for one in await self.trooper.orders.list() if one.current_status != "terminated"}
        present |= {one.order_id for one in buyer.orders.purchases if one.order_id and one.at > lately}
        if len(present) >= max_servers:
            raise ToolError(f"nothing was bought: there are {len(present)} servers, and {max_servers} are allowed")

    async def _act(self, action: Awaitable[Transition]) -> str:
        try:
            return self._accepted(await action)
        except OutcomeUnknownError as error:
            if error.transition is not None:
                self._accepted(error.transition)
            raise

    def _accepted(self, transition: Transition) -> str:
        self.waits[transition.order_id] = self.group.create_task(self._outcome(transition))
        return f"order {transition.order_id}: {transition.action} is accepted, and leads to {transition.target}"

    async def _outcome(self, transition: Transition) -> TrooperError | None:
        try:
            await self.trooper.orders.wait(transition)
        except TrooperError as error:
            return error
        return None


def ledger() -> str:
    return os.path.expanduser(os.environ["TROOPER_LEDGER"])


def limits() -> tuple[Decimal, int]:
    """The operator's: EUR per hour, and the number of servers."""
    price, servers = (os.environ[name] for name in BUYING[1:])
    try:
        max_price_h, max_servers = Decimal(price), int(servers)
    except (InvalidOperation, ValueError):
        max_price_h, max_servers = Decimal("nan"), 0
    if not max_price_h.is_finite() or max_price_h <= 0 or max_servers < 0:
        raise ToolError(f"nothing can be bought: TROOPER_MAX_PRICE_H={price} or TROOPER_MAX_SERVERS={servers} is wrong")
    return max_price_h, max_servers


def offer(blib: Blib) -> str:
    return f"{blib.name!r} (blib {blib.id}): {blib.gpu_num} x {blib.gpu_type}, {blib.price_h} EUR/h"


def describe(order: Order) -> str:
    requested = "" if order.is_converged else f", requested {order.desired_status}"
    what = f"order {order.order_id} {order.title!r} is {order.current_status}{requested}: {order.price_h} EUR/h"
    if (cost := cost_h(order)) != order.price_h:
        what += f", {'an undocumented price' if cost is None else f'{cost} EUR/h'} while {order.current_status}"
    return f"{what}, paid until {order.paid_until}{', locked' if order.is_locked else ''}"


def unresolved(purchase: Purchase) -> str:
    outcome = "it is not known whether it was made"
    if purchase.order_id is not None:
        outcome = f"order {purchase.order_id} was bought, and nobody was told"
    return (
        f"purchase {purchase.id} (blib {purchase.blib_id}, {purchase.price_h} EUR/h, {purchase.at:%Y-%m-%d %H:%M %Z}): "
        f"{outcome}. Ask the user which server of list_servers it is, if any, then call resolve; until then nothing "
        "more can be bought"
    )


def readable(tool: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    """The tool, with errors that the assistant can read; MCP hides all others."""

    @wraps(tool)
    async def call(**arguments: object) -> object:
        try:
            return await tool(**arguments)
        except TrooperError as error:
            error.hint = NEXT_STEPS.get(type(error), error.hint)
            raise ToolError(str(error)) from None

    return call


async def serve(port: int | None) -> None:
    """Serve over stdio, or over HTTP on a port."""
    can_buy = all(os.environ.get(name) for name in BUYING)
    async with asyncio.TaskGroup() as group:
        tools = Tools(group)
        about = "Actions return once they are accepted; wait says when they have taken effect."
        if not can_buy:
            about += f" Nothing can be rented: the user has not set {', '.join(BUYING)} for this server."
        server = MCPServer("trooper", instructions=about, lifespan=lambda _: nullcontext(tools))
        for tool in (tools.list_servers, tools.list_offers, tools.wait):
            server.add_tool(readable(tool), annotations=READS)
        server.add_tool(readable(tools.start), annotations=STARTS)
        server.add_tool(readable(tools.stop), annotations=INTERRUPTS)
        server.add_tool(readable(tools.freeze), annotations=INTERRUPTS)
        server.add_tool(readable(tools.restart), annotations=RESTARTS)
        if can_buy:
            server.add_tool(readable(tools.preview_order), annotations=READS)
            server.add_tool(readable(tools.unresolved_purchases), annotations=READS)
            server.add_tool(readable(tools.order), annotations=SPENDS)
            server.add_tool(readable(tools.resolve), annotations=SPENDS)
        try:
            if port is None:
                await server.run_stdio_async()
            else:  # by default the app accepts the names of this machine only
                app = server.streamable_http_app()
                config = uvicorn.Config(app, host="127.0.0.1", port=port, timeout_graceful_shutdown=3)
                await uvicorn.Server(config).serve()
        finally:
            if tools.client is not None:
                await tools.client.close()  # which ends the waits of the group


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Let an assistant list, start, stop and rent GPU servers.")
    parser.add_argument("--http", type=int, metavar="PORT", help="serve http://127.0.0.1:PORT/mcp instead of stdio")
    try:
        asyncio.run(serve(parser.parse_args().http))
    except KeyboardInterrupt:
        sys.exit(130)
