"""The only generator of bodies: an account's orders as in the API document, and after some changes."""

from __future__ import annotations

import json
import random

Row = dict[str, object]

_GPUS = ("RTX 4090", "RTX 3090", "A100 80GB", "V100", "L40S", "RTX Pro 6000 Blackwell")
_COUNTRIES = ("DE", "NL", "FI", "FR")
_TITLES = ("training of the language models", "Entwicklungsrechner der Bildgruppe, 2. Büro", "nightly-batch-inference")
_FIRST_ID = 100_001


def ids(orders: int) -> range:
    """The ids of an account with so many orders."""
    return range(_FIRST_ID, _FIRST_ID + orders)


def row(order_id: int, status: str = "running", desired: str | None = None) -> Row:
    """A row of GET /api/orders with all the fields of the document's sample; `desired` is `status` if not given."""
    gpu = _GPUS[order_id % len(_GPUS)]
    return {
        "order_id": order_id,
        "serverId": order_id,
        "title": f"{_TITLES[order_id % len(_TITLES)]} {order_id}",
        "status": status,
        "status_user": desired or status,
        "server_name": f"gpu-server-{order_id % 97:02}",
        "machine_name": f"ai{order_id % 97:02}_trooperai_{order_id:06}",
        "ip": f"192.168.{order_id % 251}.{order_id % 241}",
        "ssh_port": 22_001 + order_id % 9_000,
        "price_h": round(0.35 + order_id % 400 / 100, 2),
        "paid_until": f"2026-{1 + order_id % 12:02}-{1 + order_id % 28:02}T14:30:00.000Z",
        "contract_interval": "HOUR",
        "is_locked": order_id % 50 == 0,
        "is_low_priority": order_id % 7 == 0,
        "blib_name": f"{gpu} Single",
        "blib_gpu_type": gpu,
        "blib_gpu_num": 1 + order_id % 4,
        "country_code": _COUNTRIES[order_id % len(_COUNTRIES)],
        "template_installs": [
            {"id": order_id, "template_name": "PyTorch Environment", "status": 1, "status_readable": "Completed"}
        ],
    }


def body(orders: int, changed: float = 0.0) -> bytes:
    """The body of GET /api/orders, without white space as the API's server writes it.

    Args:
        orders: how many there are.
        changed: the share of them that is stopping, where all others run: spread at random, the same each time; at
            least one where it is above 0.
    """
    count = min(orders, max(1, round(changed * orders))) if changed else 0
    stopping = set(random.Random(orders).sample(ids(orders), count))
    rows = [row(order_id, "stopping", "stopped") if order_id in stopping else row(order_id) for order_id in ids(orders)]
    return encode(rows)


def encode(data: object) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
