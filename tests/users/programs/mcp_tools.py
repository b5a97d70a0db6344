"""An MCP server whose tools return models: as they are, and as dicts of JSON types."""

from __future__ import annotations

import asyncio
from typing import Any

from mcp.server.mcpserver import MCPServer

from trooper_async import Order, TrooperClient


async def main() -> None:
    async with TrooperClient() as client:
        server = MCPServer("servers")

        @server.tool()
        async def servers() -> list[Order]:
            """All servers."""
            return await client.orders.list()

        @server.tool()
        async def server_of(order_id: int) -> dict[str, Any]:
            """One server, with its price as a number."""
            return (await client.orders.get(order_id)).to_dict(money="number")

        await server.run_stdio_async()


asyncio.run(main())
