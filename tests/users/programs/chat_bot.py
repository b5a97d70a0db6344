"""A bot like those of chat platforms: one loop for weeks, a task for each command, and a regular look at
all servers.
"""

from __future__ import annotations

import asyncio
import sys

from trooper_async import PollSchedule, TrooperClient, TrooperError


async def handle(client: TrooperClient, text: str) -> None:
    """Reply to one command: `stop 123`, `status 123`."""
    verb, _, order_id = text.partition(" ")
    try:
        if verb == "status":
            order = await client.orders.get(int(order_id))
        else:
            order = await getattr(client.orders, f"{verb}_and_wait")(int(order_id), timeout=60)
        print(f"{order.order_id} is {order.current_status}", flush=True)
    except TrooperError as error:
        print(f"sorry: {error}", flush=True)


async def look(client: TrooperClient) -> None:
    """What such bots do in the background: read everything regularly, outages or not."""
    while True:
        try:
            await client.orders.list()
        except TrooperError:
            print("looked in vain", flush=True)
        await asyncio.sleep(0.2)


async def main() -> None:
    loop = asyncio.get_running_loop()
    async with TrooperClient(poll=PollSchedule(floor=0.05, cap=1.0)) as client, asyncio.TaskGroup() as group:
        looking = group.create_task(look(client))
        while text := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            group.create_task(handle(client, text))
        looking.cancel()


asyncio.run(main())
