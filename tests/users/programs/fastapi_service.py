"""A FastAPI service with one client: servers as JSON, and a restart that streams its progress."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from trooper_async import Order, OrderNotFoundError, PollSchedule, TrooperClient, TrooperError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, TrooperClient]]:
    async with TrooperClient(poll=PollSchedule(floor=0.05, cap=1.0)) as client:
        yield {"trooper": client}


app = FastAPI(lifespan=lifespan)


@app.exception_handler(TrooperError)
async def failed(request: Request, error: TrooperError) -> JSONResponse:
    status = 404 if isinstance(error, OrderNotFoundError) else 502
    return JSONResponse({"error": str(error)}, status_code=status)


@app.get("/servers")
async def servers(request: Request) -> list[Order]:
    client: TrooperClient = request.state.trooper
    return await client.orders.list()


@app.get("/servers/{order_id}/status")
async def status(request: Request, order_id: int) -> dict[str, str]:
    order = await request.state.trooper.orders.get(order_id)
    return {"status": order.current_status}


@app.post("/servers/{order_id}/restart")
async def restart(request: Request, order_id: int) -> StreamingResponse:
    """Lines of JSON: each status on the way, and how it ended."""
    client: TrooperClient = request.state.trooper
    await client.orders.get(order_id)  # an unknown one is a 404, before the stream begins
    seen: asyncio.Queue[Order | None] = asyncio.Queue()

    async def progress() -> AsyncIterator[str]:
        wait = asyncio.create_task(client.orders.restart_and_wait(order_id, on_change=seen.put_nowait, timeout=60))
        wait.add_done_callback(lambda _: seen.put_nowait(None))
        try:
            while (order := await seen.get()) is not None:
                yield json.dumps({"status": order.current_status}) + "\n"
            yield json.dumps({"done": (await wait).current_status}) + "\n"
        except TrooperError as error:
            yield json.dumps({"error": str(error)}) + "\n"
        finally:
            wait.cancel()  # a client that hangs up waits no more; the restart continues

    return StreamingResponse(progress(), media_type="application/x-ndjson")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=0, log_level="info")
