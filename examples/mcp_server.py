"""An MCP server over stdio: an assistant lists, switches and awaits the account's servers, and orders on your word.

    pip install 'mcp>=2'
    TROOPER_API_KEY=… TROOPER_LEDGER=~/trooper-purchases.jsonl python examples/mcp_server.py

Put this command into the settings of an MCP client. Without a price limit and `confirm` nothing is bought: the answer
says what would be, at which price. The ledger (a file for each MCP client) remembers purchases by reference, so that a
repeated call never buys twice, also after a crash; without it there is no tool that orders. What fails is a tool error.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from decimal import Decimal
from functools import wraps

from attrs import field, frozen
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

from trooper_async import Order, Transition, TrooperClient, TrooperError


@frozen
class Tools:  # their docstrings are what the assistant reads
    trooper: TrooperClient
    group: asyncio.TaskGroup
    waits: dict[int, asyncio.Task[Order | BaseException]] = field(factory=dict)  # begun at once: a restart must be seen

    async def list_servers(self) -> list[str]:
        """The rented servers: order id, title, status, wanted status where it differs, price per hour, paid until."""
        return [describe(order) for order in await self.trooper.orders.list()]

    async def list_offers(self) -> list[str]:
        """The GPU servers that can be ordered now: blib id, name, GPUs, price per hour."""
        offers = [blib for blib in await self.trooper.blibs.list() if blib.is_available]
        return [f"blib {o.id} {o.name!r}: {o.gpu_num} x {o.gpu_type}, {o.price_h} EUR/h" for o in offers]

    async def start(self, order_id: int, migration_allowed: bool = False) -> str:
        """Start a server. With migration_allowed a frozen one may move to other hardware, in 10 to 90 minutes."""
        return self._accepted(await self.trooper.orders.start(order_id, migration_allowed=migration_allowed))

    async def stop(self, order_id: int) -> str:
        """Stop a server. It keeps its GPU, and goes on costing 35 % of its price."""
        return self._accepted(await self.trooper.orders.stop(order_id))

    async def freeze(self, order_id: int) -> str:
        """Freeze a server: it is archived and its GPU released; address and ports may change at the next start."""
        return self._accepted(await self.trooper.orders.freeze(order_id))

    async def restart(self, order_id: int) -> str:
        """Restart a server by force, as a power reset does: what runs on it is lost."""
        return self._accepted(await self.trooper.orders.restart(order_id))

    async def wait(self, order_id: int, seconds: float = 50) -> str:
        """Wait until what was last asked of a server has taken effect; call it again if that takes longer."""
        if order_id not in self.waits:
            return describe(await self.trooper.orders.wait_until_converged(order_id, timeout=seconds))
        done, _ = await asyncio.wait([self.waits[order_id]], timeout=seconds)
        outcome = self.waits[order_id].result() if done else ToolError("it is on its way still: wait again")
        if isinstance(outcome, BaseException):
            raise outcome
        return describe(outcome)

    async def order(self, blib_id: int, max_price_h: Decimal, reference: str, confirm: bool = False) -> str:
        """Rent a server by the hour, under the vendor's terms, until it is frozen: ask the user, then confirm=true.

        Without confirm it only says what would be bought. max_price_h is in EUR. The same reference never buys twice:
        after an error repeat the call with it, never with another one.
        """
        blib = next((blib for blib in await self.trooper.blibs.list() if blib.id == blib_id), None)
        if blib is None:
            raise ToolError(f"nothing was bought: there is no offer {blib_id}, list_offers shows them")
        if not confirm:
            return f"nothing was bought; confirm=true buys {blib.name} at {blib.price_h} EUR/h, up to {max_price_h}"
        transition = await self.trooper.orders.create(
            blib, contract_interval="HOUR", terms_accepted=True, max_price_h=max_price_h, reference=reference
        )
        return self._accepted(transition)

    def _accepted(self, transition: Transition) -> str:
        self.waits[transition.order_id] = self.group.create_task(self._outcome(transition))
        return f"order {transition.order_id}: {transition.action} is accepted, and leads to {transition.target}"

    async def _outcome(self, transition: Transition) -> Order | BaseException:
        return (await asyncio.gather(self.trooper.orders.wait(transition), return_exceptions=True))[0]


def describe(order: Order) -> str:
    wish = "" if order.is_converged else f", wanted {order.desired_status}"
    what = f"order {order.order_id} {order.title!r} is {order.current_status}{wish}"
    return f"{what}: {order.price_h} EUR/h, paid until {order.paid_until}{', locked' if order.is_locked else ''}"


def readable(tool: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    @wraps(tool)
    async def call(**arguments: object) -> object:
        try:
            return await tool(**arguments)
        except TrooperError as error:
            raise ToolError(str(error)) from None  # of anything else MCP tells nothing

    return call


async def serve(ledger: str | None) -> None:
    async with asyncio.TaskGroup() as group, TrooperClient(ledger=ledger) as trooper:  # its end ends the group's waits
        server, tools = MCPServer("trooper", instructions="Switches return once accepted."), Tools(trooper, group)
        reads: list[Callable[..., Awaitable[object]]] = [tools.list_servers, tools.list_offers, tools.wait]
        for tool in [*reads, tools.start, tools.stop, tools.freeze, tools.restart, *([tools.order] if ledger else [])]:
            server.add_tool(readable(tool), annotations=ToolAnnotations(read_only_hint=tool in reads))
        await server.run_stdio_async()


if __name__ == "__main__":
    asyncio.run(serve(os.path.expanduser(os.environ.get("TROOPER_LEDGER", "")) or None))
