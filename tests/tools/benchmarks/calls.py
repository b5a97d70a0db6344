"""One typed call beside the same written inline with aiohttp; the import of the package beside aiohttp's, and the start
of the command beside click's import."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from decimal import Decimal
from typing import Any

import aiohttp

from tests.tools.benchmarks import peers
from tests.tools.benchmarks.measure import Figure, cpu
from tests.tools.benchmarks.server import plain
from trooper_async import Order, TemplateInstall, TrooperClient

_ORDERS = 5
_OURS = "from trooper_async import TrooperClient"
_COMMAND = "from trooper_async.cli._app import run; run(['--version'])"
_IMPORT = "import time; began = time.process_time(); {}; print(time.process_time() - began)"


async def inline(session: aiohttp.ClientSession, url: str) -> list[Order]:
    """The same call written by hand: the same models from the same response."""
    async with session.get(f"{url}/api/orders", raise_for_status=True) as response:
        return [_order(row) for row in await response.json()]


def _order(row: dict[str, Any]) -> Order:
    return Order(
        order_id=row["order_id"],
        server_id=row["serverId"],
        title=row["title"],
        current_status=row["status"],
        desired_status=row["status_user"],
        server_name=row["server_name"],
        machine_name=row["machine_name"],
        ip=row["ip"],
        ssh_port=row["ssh_port"],
        price_h=Decimal(str(row["price_h"])),
        paid_until=datetime.fromisoformat(row["paid_until"]),
        contract_interval=row["contract_interval"],
        is_locked=row["is_locked"],
        is_low_priority=row["is_low_priority"],
        blib_name=row["blib_name"],
        blib_gpu_type=row["blib_gpu_type"],
        blib_gpu_num=row["blib_gpu_num"],
        country_code=row["country_code"],
        template_installs=tuple(
            TemplateInstall(
                install_id=install["id"],
                template_name=install["template_name"],
                status=install["status"],
                status_readable=install["status_readable"],
            )
            for install in row["template_installs"]
        ),
    )


async def calls(url: str, count: int, changed: float) -> tuple[float, float]:
    """CPU seconds of a call with this package, and of the same inline, with that share of the orders
    changed each time.
    """
    account = url + plain(_ORDERS, changed)
    timeout = aiohttp.ClientTimeout(total=30)
    headers = {"Authorization": f"Bearer {peers.KEY}"}
    async with (
        TrooperClient(peers.KEY, base_url=account) as client,
        aiohttp.ClientSession(headers=headers, timeout=timeout) as session,
    ):
        if not changed:
            assert await client.orders.list() == await inline(session, account)
        ours, theirs = 0.0, 0.0
        for _ in range(10):  # in turn, so that both run under the same conditions
            ours += await cpu(client.orders.list, count // 10)
            theirs += await cpu(lambda: inline(session, account), count // 10)
    return ours / 10, theirs / 10


def imports(ours: str, theirs: str, processes: int) -> tuple[float, float]:
    """CPU seconds of two statements, each the sum of so many new processes, in turn."""
    pairs = [(_imported(ours), _imported(theirs)) for _ in range(processes)]
    return sum(ours for ours, _ in pairs), sum(theirs for _, theirs in pairs)


def _imported(statement: str) -> float:
    command = [sys.executable, "-c", _IMPORT.format(statement)]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()[-1])


async def figures(url: str, *, count: int, processes: int, runs: int) -> list[Figure]:
    await calls(url, 10, 0.0)  # objects made on first use
    _imported(_OURS)  # the bytecode
    _imported(_COMMAND)
    typed = [await calls(url, count, 0.0) for _ in range(runs)]
    others = [await calls(url, count, 1.0) for _ in range(runs)]
    imported = [imports(_OURS, "import aiohttp", processes) for _ in range(runs)]
    started = [imports(_COMMAND, "import click", processes) for _ in range(runs)]
    return [
        Figure(f"orders.list of {_ORDERS} orders ÷ the same inline with aiohttp", [a / b for a, b in typed], 0.85),
        Figure("the same, each order another at each call", [a / b for a, b in others], 1.3),
        Figure("from trooper_async import TrooperClient ÷ import aiohttp", [a / b for a, b in imported], 1.1),
        Figure("trooper --version ÷ import click", [a / b for a, b in started], 1.5),
    ]
