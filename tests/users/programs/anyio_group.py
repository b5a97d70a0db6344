"""anyio: servers stopped in a task group, and a wait that a cancel scope ends; its scopes cancel again and again."""

from __future__ import annotations

import sys

import anyio

from trooper_async import PollSchedule, TrooperClient


async def main(first: int, second: int, never: int) -> None:
    stopped = []

    async def stop(client: TrooperClient, order_id: int) -> None:
        order = await client.orders.stop_and_wait(order_id, timeout=60)
        stopped.append(order.order_id)

    async with TrooperClient(poll=PollSchedule(floor=0.05, cap=1.0)) as client, anyio.create_task_group() as group:
        group.start_soon(stop, client, first)
        group.start_soon(stop, client, second)
    print("stopped", *sorted(stopped))

    with anyio.move_on_after(0.5) as scope:
        async with TrooperClient(poll=PollSchedule(floor=0.05, cap=1.0)) as client:
            await client.orders.wait_until(never, "frozen")
    print("gave up" if scope.cancelled_caught else "frozen")
    left = [task.name for task in anyio.get_running_tasks() if task.id != anyio.get_current_task().id]
    print("left behind:", left)


first, second, never = map(int, sys.argv[1:])
anyio.run(main, first, second, never)
