"""A client whose requests are handled by a function, on virtual time: for tests of one rule at a time."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from attrs import define, field

from trooper_async import PollSchedule, TrooperClient
from trooper_async._api.endpoints import Call
from trooper_async._api.responses import FailedAttempt, Response
from trooper_async._http.sessions import Sending

Row = dict[str, Any]


def row(order_id: int, current: str, desired: str | None = None, **more: object) -> Row:
    """A row of /api/orders in the sample's dialect; desired is current if not given."""
    return {"order_id": order_id, "serverId": order_id, "status": current, "status_user": desired or current, **more}


def reply(data: object, status: int = 200, **headers: str) -> Response:
    return Response(
        status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(data).encode()
    )


@define(eq=False)
class Script:
    """`orders(now)` returns the rows (or a Response or FailedAttempt) of a poll; `others` handles all other
    requests.
    """

    orders: Callable[[float], list[Row] | Response | FailedAttempt]
    others: Callable[[Call[Any]], Awaitable[Response | FailedAttempt]] | None = None
    seconds: float = 0.05
    """How long a response takes; what it shows is what was when the request arrived."""
    polls: list[float] = field(factory=list)
    sent: list[str] = field(factory=list)
    limits: list[float] = field(factory=list)
    """The seconds that each request of `sent` might take."""

    def client(self, **options: Any) -> TrooperClient:
        client = TrooperClient("scripted-key", **{"poll": PollSchedule(), **options})
        client._transport.wire.send = self.fetch  # type: ignore[method-assign]  # the one place where requests leave
        return client

    async def fetch(
        self,
        call: Call[Any],
        *,
        sending: Sending | None = None,
        limit: float = math.inf,
        headers: Mapping[str, str] | None = None,
    ) -> Response | FailedAttempt:
        now = asyncio.get_running_loop().time()
        self.sent.append(call.endpoint.path)
        self.limits.append(limit)
        if sending is not None:
            sending.may_have_left = True
        if call.endpoint.path != "/api/orders":
            if self.others is not None:
                return await self.others(call)
            return reply({"success": True, "history": []})
        if headers is not None:
            self.polls.append(now)
        shown = self.orders(now)
        await asyncio.sleep(self.seconds)
        return reply(shown) if isinstance(shown, list) else shown
