"""An API on virtual time that sells servers, slowly."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.tools.simulator.script import Script, reply, row
from trooper_async._api.endpoints import Call
from trooper_async._api.responses import Response


class Shop:
    """An API whose lists and purchases take their time; what it sells runs at once, or never."""

    def __init__(self, *, list_takes: float = 0.1, post_takes: float = 0.1, runs: bool = True) -> None:
        self.orders: dict[int, str] = {1: "running"}
        self.frozen: list[int] = []
        self._post_takes, self._runs = post_takes, runs
        self.script = Script(
            lambda now: [row(one, current, "running") for one, current in self.orders.items()],
            self._answer,
            seconds=list_takes,
        )

    async def _answer(self, call: Call[Any]) -> Response:
        match call.endpoint.path:
            case "/api/blibs":
                return reply([{"id": 1, "price_h": 0.85}])
            case "/api/migration-options":
                return reply({"success": True, "availableBlibs": [{"id": 2}]})
            case "/api/migration-cost":
                return reply({"success": True, "totalDue": 3.20})
            case "/api/order-status":
                server = call.sent["serverId"]
                assert isinstance(server, int)
                self.frozen.append(server)
                return reply({"success": True})
        order_id = max(self.orders) + 1
        self.orders[order_id] = "running" if self._runs else "starting"
        await asyncio.sleep(self._post_takes)
        return reply({"success": True, "orderId": order_id, "new_order_id": order_id})
