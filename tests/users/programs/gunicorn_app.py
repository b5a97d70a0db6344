"""An application for `gunicorn --preload`, which is imported before its workers are forked. With `CLIENT=before` it
makes its client on import, shared by mistake; otherwise each worker makes its own.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from trooper_async import PollSchedule, TrooperClient


class State(TypedDict):
    trooper: TrooperClient


def new_client() -> TrooperClient:
    return TrooperClient(poll=PollSchedule(floor=0.05, cap=1.0))


made_before = new_client() if os.environ["CLIENT"] == "before" else None


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[State]:
    async with made_before or new_client() as client:
        yield {"trooper": client}


async def stop(request: Request) -> JSONResponse:
    order = await request.state.trooper.orders.stop_and_wait(request.path_params["order_id"], timeout=60)
    return JSONResponse({"pid": os.getpid(), "status": order.current_status})


app = Starlette(routes=[Route("/servers/{order_id:int}/stop", stop, methods=["POST"])], lifespan=lifespan)
