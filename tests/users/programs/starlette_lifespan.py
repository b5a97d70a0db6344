"""A Starlette application: the client lives as long as the application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from trooper_async import ClientClosedError, PollSchedule, TrooperClient


class State(TypedDict):
    trooper: TrooperClient


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[State]:
    async with TrooperClient(poll=PollSchedule(floor=0.05, cap=1.0)) as client:
        yield {"trooper": client}
    print("closed", flush=True)


async def stop(request: Request) -> PlainTextResponse:
    try:
        order = await request.state.trooper.orders.stop_and_wait(request.path_params["order_id"], timeout=60)
    except ClientClosedError:
        return PlainTextResponse("shutting down", 503)
    return PlainTextResponse(order.current_status)


app = Starlette(routes=[Route("/servers/{order_id:int}/stop", stop, methods=["POST"])], lifespan=lifespan)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=0, log_level="info", timeout_graceful_shutdown=1)
