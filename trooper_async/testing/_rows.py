"""The JSON of the world, written by hand from the samples in the API document.

It uses only `_world` and, on purpose, nothing of the client: a mistake in the client's models must not be repeated
here.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypeAlias

from trooper_async.testing._stock import FakeBlib, Template
from trooper_async.testing._world import INTERVAL_HOURS, Change, Install, Phase, Server, World

Row: TypeAlias = dict[str, object]


def order_row(world: World, server: Server, phase: Phase, when: float) -> Row:
    """A row of GET /api/orders."""
    profile = world.profile
    return {
        "order_id": server.order_id,
        "serverId": server.server_id,
        "title": server.title,
        profile.current_field: phase.current,
        **({} if profile.desired_field is None else {profile.desired_field: phase.desired}),
        "server_name": server.server_name,
        "machine_name": server.machine_name,
        "ip": server.ip,
        "ssh_port": server.ssh_port,
        "price_h": server.price_h,
        "paid_until": server.paid_until,
        "contract_interval": server.contract_interval,
        "is_locked": server.is_locked,
        "is_low_priority": server.is_low_priority,
        "blib_name": server.blib_name,
        "blib_gpu_type": server.blib_gpu_type,
        "blib_gpu_num": server.blib_gpu_num,
        "country_code": server.country_code,
        "template_installs": [
            {"id": install.install_id, "template_name": install.template_name, **install_status(install, when)}
            for install in server.installs
        ],
    }


def install_status(install: Install, when: float) -> Row:
    """The two status fields of a template installation."""
    code, text = install.at(when)
    return {"status": code, "status_readable": text}


def install_row(install: Install, when: float) -> Row:
    """A row of GET /api/template-config."""
    return {
        "install_id": install.install_id,
        "template_id": install.template_id,
        "template_name": install.template_name,
        **install_status(install, when),
        "config": install.config,
    }


def history_row(world: World, number: int, change: Change) -> Row:
    """A row of GET /api/order-status-history."""
    return {
        "id": 1_000_000 + (number if world.profile.history_ids == "rising" else -number),
        "status_user": change.status,
        "status_txt": change.note,
        "status_since": world.moment(change.since),
    }


def private_row(blib: FakeBlib) -> Row:
    """A row of GET /api/blibs-private, which does not include availability."""
    return {
        "id": blib.id,
        "name": blib.name,
        "gpu_type": blib.gpu_type,
        "gpu_num": blib.gpu_num,
        "gpu_ram": blib.gpu_ram,
        "cpu_cores": blib.cpu_cores,
        "cpu_ram": blib.cpu_ram,
        "hdd": blib.hdd,
        "price_h": blib.price_h,
        "is_public": int(blib.is_public),  # 1 in the samples, where other booleans are true
        "country_code": blib.country_code,
    }


def blib_row(blib: FakeBlib) -> Row:
    """A row of GET /api/blibs."""
    return {
        **private_row(blib),
        "is_available": blib.is_available,
        "available_hosts": ["ai18", "ai89"] if blib.is_available else [],
        "fitCount": 2 if blib.is_available else 0,
        "maxPossibleInstances": 5 if blib.is_available else 0,
    }


def template_row(template_id: int, template: Template) -> Row:
    """A row of GET /api/templates."""
    options = [
        {"id": number, "name": name, "type": "select", "default_value": default, "possible_values": possible}
        for number, (name, default, possible) in enumerate(template.options, start=1)
    ]
    return {
        "id": template_id,
        "name": template.name,
        "description": template.description,
        "category": template.category,
        "is_public": True,
        "options": options,
    }


def target_row(server: Server, blib: FakeBlib) -> Row:
    """One of the `availableBlibs` of GET /api/migration-options."""
    return {
        "id": blib.id,
        "name": blib.name,
        "gpu_type": blib.gpu_type,
        "gpu_num": blib.gpu_num,
        "price_h": blib.price_h,
        "is_available": blib.is_available,
        "additionalCostPerCycle": per_cycle(server, blib.price_h - server.price_h),
    }


def quote(server: Server, blib: FakeBlib) -> dict[str, object]:
    """The response of POST /api/migration-cost. The remaining value is always that of a whole interval, so quotes
    repeat.
    """
    return {
        "upgradeCost": per_cycle(server, blib.price_h),
        "remainingValue": per_cycle(server, server.price_h),
        "totalDue": total_due(server, blib),
        "additionalCostPerCycle": per_cycle(server, blib.price_h - server.price_h),
        "nextBillingDate": server.paid_until,
        "currentRate": rate(server, server.price_h),
        "newRate": rate(server, blib.price_h),
    }


def total_due(server: Server, blib: FakeBlib) -> Decimal:
    """What a migration costs at once; nothing is refunded."""
    return max(per_cycle(server, blib.price_h - server.price_h), Decimal(0))


def per_cycle(server: Server, price_h: Decimal) -> Decimal:
    """An hourly price for one interval of the order's contract."""
    return price_h * INTERVAL_HOURS.get(server.contract_interval, 1)


def rate(server: Server, price_h: Decimal) -> Row:
    """A price as number and text, per interval of the order's contract: `€0.85/hour`."""
    amount = per_cycle(server, price_h)
    return {"amount": amount, "display": f"€{amount}/{server.contract_interval.lower()}"}


def encode(content: object) -> bytes:
    """A response as JSON."""
    return json.dumps(content, default=_plain).encode()


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return float(value)  # money is written as a JSON number, in its shortest form
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    raise TypeError(f"no JSON for {type(value)}")
