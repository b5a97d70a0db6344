"""The peers: polls of an account with other libraries, as one would write them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, TypeAlias, TypeVar

import aiohttp
import attrs
import cattrs
import hcloud
import httpx
import orjson
import pydantic
from hcloud.actions import BoundAction
from hcloud.actions.domain import Action

T = TypeVar("T")
Poll: TypeAlias = Callable[[], Awaitable[T]]
KEY = "benchmark-key"
_HEADERS = {"Authorization": f"Bearer {KEY}"}


@attrs.frozen
class TemplateInstall:
    id: int
    template_name: str
    status: int
    status_readable: str


@attrs.frozen
class Server:
    """The row of GET /api/orders for aiohttp + json + cattrs."""

    order_id: int
    serverId: int  # noqa: N815 - the API's name
    title: str
    status: str
    status_user: str
    server_name: str
    machine_name: str
    ip: str
    ssh_port: int
    price_h: float
    paid_until: datetime
    contract_interval: str
    is_locked: bool
    is_low_priority: bool
    blib_name: str
    blib_gpu_type: str
    blib_gpu_num: int
    country_code: str
    template_installs: list[TemplateInstall]


class PydanticTemplateInstall(pydantic.BaseModel):
    id: int
    template_name: str
    status: int
    status_readable: str


class PydanticServer(pydantic.BaseModel):
    """The same for httpx + pydantic."""

    order_id: int
    serverId: int  # noqa: N815 - the API's name
    title: str
    status: str
    status_user: str
    server_name: str
    machine_name: str
    ip: str
    ssh_port: int
    price_h: float
    paid_until: datetime
    contract_interval: str
    is_locked: bool
    is_low_priority: bool
    blib_name: str
    blib_gpu_type: str
    blib_gpu_num: int
    country_code: str
    template_installs: list[PydanticTemplateInstall]


_CATTRS = cattrs.Converter()
_CATTRS.register_structure_hook(datetime, lambda text, _: datetime.fromisoformat(text))
_PYDANTIC = pydantic.TypeAdapter(list[PydanticServer])


@asynccontextmanager
async def read_only(url: str, **headers: str) -> AsyncGenerator[Poll[bytes]]:
    """aiohttp's GET and `await response.read()`, nothing decoded."""
    async with aiohttp.ClientSession(headers={**_HEADERS, **headers}) as session:

        async def poll() -> bytes:
            async with session.get(f"{url}/api/orders") as response:
                return await response.read()

        yield poll


@asynccontextmanager
async def read_and_orjson(url: str) -> AsyncGenerator[Poll[Any]]:
    """The same and `orjson.loads`: the cheapest possible decoding, into dicts."""
    async with read_only(url) as read:

        async def poll() -> Any:
            return orjson.loads(await read())

        yield poll


@asynccontextmanager
async def aiohttp_cattrs(url: str) -> AsyncGenerator[Poll[list[Server]]]:
    """aiohttp + json + cattrs: the whole list as models."""
    async with aiohttp.ClientSession(headers=_HEADERS) as session:

        async def poll() -> list[Server]:
            async with session.get(f"{url}/api/orders", raise_for_status=True) as response:
                return _CATTRS.structure(await response.json(), list[Server])

        yield poll


@asynccontextmanager
async def httpx_pydantic(url: str) -> AsyncGenerator[Poll[list[PydanticServer]]]:
    """httpx + pydantic: the whole list as models."""
    async with httpx.AsyncClient(headers=_HEADERS, timeout=60) as client:

        async def poll() -> list[PydanticServer]:
            response = await client.get(f"{url}/api/orders")
            return _PYDANTIC.validate_json(response.raise_for_status().content)

        yield poll


@asynccontextmanager
async def loop_per_server(shared: Poll[T], servers: int) -> AsyncGenerator[Poll[None]]:
    """One tick of one loop per server, each with its own GET of the list."""

    async def tick() -> None:
        await asyncio.gather(*(shared() for _ in range(servers)))

    yield tick


def hcloud_actions(url: str, servers: int) -> list[BoundAction]:
    """Actions of Hetzner's client, one per server: it polls each with its own GET."""
    client = hcloud.Client(KEY, api_endpoint=f"{url.split('/', 3)[0]}//{url.split('/', 3)[2]}/v1", poll_interval=3600)
    return [BoundAction(client.actions, {"id": number, "status": Action.STATUS_RUNNING}) for number in range(servers)]


@asynccontextmanager
async def hcloud_polls(url: str, servers: int) -> AsyncGenerator[Poll[None]]:
    """One tick of `BoundAction.wait_until_finished` for each server."""
    actions = hcloud_actions(url, servers)

    async def tick() -> None:
        for action in actions:
            action.reload()

    yield tick
