"""The 18 endpoints of the API document, each a function from the world and a call to the JSON of the response.

It uses only `_world`, `_rows` and `_call`. A refusal is raised, with the document's text if the document has one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from trooper_async.testing import _rows as rows
from trooper_async.testing._call import Call, RefusalError
from trooper_async.testing._profile import Refusal
from trooper_async.testing._stock import FakeBlib
from trooper_async.testing._world import ACTIONS, INTERVAL_HOURS, Install, Phase, Server, World


def test(world: World, call: Call) -> object:
    """GET /api/test"""
    return {"test": "meinstring5"}


def blibs(world: World, call: Call) -> object:
    """GET /api/blibs: private ones too where a key is given"""
    return [rows.blib_row(blib) for blib in world.offers() if blib.is_public or call.has_key]


def blibs_private(world: World, call: Call) -> object:
    """GET /api/blibs-private"""
    return [rows.private_row(blib) for blib in world.offers()]


def order(world: World, call: Call) -> object:
    """POST /api/order"""
    if call.get("terms_accepted") is not True:
        raise RefusalError(400, "You must accept the terms and conditions.")
    interval = call.get("contract_interval")
    if not isinstance(interval, str) or interval not in INTERVAL_HOURS:
        raise RefusalError(400, "Invalid or missing contract interval.")
    blib = _available(world, call.integer("blib_id"))
    price_h, total_price = call.number("price_h"), call.number("total_price")
    # The total price of other intervals is not documented: any price is accepted.
    if price_h != blib.price_h or (total_price != blib.price_h if interval == "HOUR" else not total_price > 0):
        raise RefusalError(400, "The price does not match the current price.")
    if call.get("second_partition_percentage") is not None:
        call.number("second_partition_percentage")
    server = world.create(blib, call.now, interval, _template_ids(world, call))
    return {"success": True, "orderId": server.order_id}


def orders(world: World, call: Call) -> object:
    """GET /api/orders"""
    when = call.now - world.profile.read_lag
    return [rows.order_row(world, server, phase, when) for server, phase in world.present(when)]


def order_status(world: World, call: Call) -> object:
    """POST /api/order-status"""
    server, _ = _server(world, call)
    word = call.get("action")
    if not isinstance(word, str) or word not in ACTIONS:
        raise RefusalError(400, "Invalid action")
    migration_allowed = call.boolean("migration_allowed", default=False)
    _must_be_free(world, server)
    action = ACTIONS[word]
    course = world.switch(server, call.now, action, migration_allowed)
    _, phase = world.order(server.order_id, call.now)
    return {
        "success": True,
        "message": f"Server {action.verb} initiated successfully",
        "status": phase.current if course is None or course.reply is None else course.reply,
    }


def order_title(world: World, call: Call) -> object:
    """POST /api/order-title"""
    server, _ = _server(world, call)
    title = call.get("title")
    if not isinstance(title, str):
        raise RefusalError(400, "Invalid or missing title")
    server.title = title
    return {"success": True, "message": "Title updated successfully"}


def order_lock(world: World, call: Call) -> object:
    """POST /api/order-lock"""
    server, _ = _server(world, call)
    server.is_locked = call.boolean("is_locked")
    return {"success": True, "updated": 1}


def credentials(world: World, call: Call) -> object:
    """POST /api/credentials"""
    server, phase = _server(world, call)
    return {
        "success": True,
        "ip": server.ip,
        "ssh_port": server.ssh_port,
        "username": "root",
        "password": server.password,
        "status": phase.current,
    }


def order_status_history(world: World, call: Call) -> object:
    """GET /api/order-status-history"""
    when = call.now - world.profile.read_lag
    server, _ = _queried(world, call, when)
    return {
        "success": True,
        "history": [rows.history_row(world, number, change) for number, change in server.history(when)],
    }


def migration_options(world: World, call: Call) -> object:
    """GET /api/migration-options"""
    server, phase = _queried(world, call, call.now)
    return {
        "success": True,
        "currentOrder": {
            "id": server.order_id,
            "title": server.title,
            "status": phase.current,
            "contract_interval": server.contract_interval,
            "paid_until": server.paid_until,
        },
        "currentBlib": {
            "id": server.blib_id,
            "name": server.blib_name,
            "gpu_type": server.blib_gpu_type,
            "gpu_num": server.blib_gpu_num,
            "price_h": server.price_h,
        },
        "availableBlibs": [rows.target_row(server, blib) for blib in world.offers() if blib.id != server.blib_id],
    }


def migration_cost(world: World, call: Call) -> object:
    """POST /api/migration-cost"""
    server, blib = _migration(world, call)
    return {"success": True, **rows.quote(server, blib)}


def buy_migration(world: World, call: Call) -> object:
    """POST /api/buy-migration"""
    server, blib = _migration(world, call)
    keep_data = call.boolean("keep_data")
    _must_be_free(world, server)
    if world.budget is not None:
        due = rows.total_due(server, blib)
        if due > world.budget:
            raise RefusalError(400, "Insufficient budget for migration")
        world.budget -= due
    new = world.migrate(server, call.now, blib, keep_data)
    return {"success": True, "message": "Migration initiated successfully", "new_order_id": new.order_id}


def templates(world: World, call: Call) -> object:
    """GET /api/templates"""
    return [rows.template_row(number, template) for number, template in world.templates.items()]


def template_config(world: World, call: Call) -> object:
    """GET /api/template-config"""
    server, _ = _queried(world, call, call.now)
    return {"success": True, "templates": [rows.install_row(install, call.now) for install in server.installs]}


def template_install_add(world: World, call: Call) -> object:
    """POST /api/template-install-add"""
    server, _ = _order(world, call)
    template_id, config = call.integer("template_id"), call.get("config")
    if template_id not in world.templates:
        raise RefusalError(400, "Template not found")
    if not isinstance(config, dict | None):
        raise RefusalError(400, "Invalid config")
    install = world.install(server, call.now, template_id, config or {})
    return {"success": True, "install_id": install.install_id, "message": "Template installation queued"}


def template_install_delete(world: World, call: Call) -> object:
    """POST /api/template-install-delete"""
    server, install = _install(world, call)
    server.installs.remove(install)
    return {"success": True, "message": "Template removal initiated"}


def template_install_retry(world: World, call: Call) -> object:
    """POST /api/template-install-retry"""
    _, install = _install(world, call)
    if install.at(call.now)[1] != "Failed":
        raise RefusalError(400, "Only a failed installation can be retried")
    world.run(install, call.now)
    return {"success": True, "message": "Template installation retry initiated"}


def refusal(form: Refusal, **more: object) -> RefusalError:
    """The response that a profile has for a refused request."""
    return RefusalError(form.status, form.error, field=form.field, **more)


def _server(world: World, call: Call) -> tuple[Server, Phase]:
    try:
        return world.server(call.integer("serverId"), call.now)
    except LookupError:
        raise refusal(world.profile.refusals.unknown) from None


def _order(world: World, call: Call) -> tuple[Server, Phase]:
    return _by_order_id(world, call.integer("order_id"), call.now)


def _queried(world: World, call: Call, when: float) -> tuple[Server, Phase]:
    return _by_order_id(world, call.queried("order_id"), when)


def _by_order_id(world: World, order_id: int, when: float) -> tuple[Server, Phase]:
    try:
        return world.order(order_id, when)
    except LookupError:
        raise refusal(world.profile.refusals.unknown) from None


def _install(world: World, call: Call) -> tuple[Server, Install]:
    try:
        return world.find_install(call.integer("install_id"), call.now)
    except LookupError:
        raise refusal(world.profile.refusals.unknown) from None


def _available(world: World, blib_id: int) -> FakeBlib:
    blib = world.blibs.get(blib_id)
    if blib is None or not blib.is_available:
        raise RefusalError(400, "This server configuration is not available.")
    return blib


def _migration(world: World, call: Call) -> tuple[Server, FakeBlib]:
    server, _ = _order(world, call)
    blib = _available(world, call.integer("target_blib_id"))
    if blib.id == server.blib_id:
        raise RefusalError(400, "The server has this configuration already.")
    return server, blib


def _must_be_free(world: World, server: Server) -> None:
    if server.is_locked:
        raise refusal(world.profile.refusals.locked, success=False)
    if server.is_leaving:
        raise RefusalError(400, "The server is being migrated")


def _template_ids(world: World, call: Call) -> list[int]:
    wanted = call.get("templates") or []
    ids = []
    for item in wanted if isinstance(wanted, list) else [None]:
        number = item.get("id") if isinstance(item, dict) else None
        if not isinstance(number, int) or number not in world.templates:
            raise RefusalError(400, "Invalid templates")
        ids.append(number)
    return ids


class Route(NamedTuple):
    """How an endpoint is reached: its method, whether it needs a key, and its function."""

    method: Literal["GET", "POST"]
    auth: Literal["none", "optional", "required"]
    respond: Callable[[World, Call], object]


ROUTES = {
    "/api/test": Route("GET", "none", test),
    "/api/blibs": Route("GET", "optional", blibs),
    "/api/blibs-private": Route("GET", "required", blibs_private),
    "/api/order": Route("POST", "required", order),
    "/api/orders": Route("GET", "required", orders),
    "/api/order-status": Route("POST", "required", order_status),
    "/api/order-title": Route("POST", "required", order_title),
    "/api/order-lock": Route("POST", "required", order_lock),
    "/api/credentials": Route("POST", "required", credentials),
    "/api/order-status-history": Route("GET", "required", order_status_history),
    "/api/migration-options": Route("GET", "required", migration_options),
    "/api/migration-cost": Route("POST", "required", migration_cost),
    "/api/buy-migration": Route("POST", "required", buy_migration),
    "/api/templates": Route("GET", "optional", templates),
    "/api/template-config": Route("GET", "required", template_config),
    "/api/template-install-add": Route("POST", "required", template_install_add),
    "/api/template-install-delete": Route("POST", "required", template_install_delete),
    "/api/template-install-retry": Route("POST", "required", template_install_retry),
}
