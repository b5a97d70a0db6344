"""The controls of a running fake over HTTP, for tests in other languages and in other processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields as _fields
from datetime import datetime
from decimal import Decimal
from typing import Any

from aiohttp import web

from trooper_async.testing._controls import Controls, RecordedRequest
from trooper_async.testing._faults import Hold
from trooper_async.testing._stock import FakeBlib

PREFIX = "/fake/"

HELP = """\
The running fake is controlled over HTTP too. No key is needed. Send JSON objects with POST:

  /fake/add_order          {"status": "stopped", "title": "one"}, and the other fields of an order -> its ids
  /fake/set_status         {"order_id": 123, "current": "stopping", "desired": "stopped"}
  /fake/remove_order       {"order_id": 123}
  /fake/fail_next          {"path": "/api/orders", "status": 503, "times": 2, "retry_after": 3,
                            "headers": {}, "body": {"error": "busy"}}: the next requests fail, and nothing is done
  /fake/drop_next          {"path": "/api/order", "when": "before" or "after", "times": 1}: the connection is cut
                            before or after the work is done
  /fake/delay_next         {"path": "/api/orders", "seconds": 2.5, "times": 1}: the response comes late
  /fake/hold_next          {"path": "/api/orders"} -> {"hold": 0}: the response waits until it is released
  /fake/arrived            {"hold": 0}: responds once the held request has arrived
  /fake/release            {"hold": 0}
  /fake/advance            {"seconds": 60}: put the fake's clock forward
  /fake/durations          {"stop": 60}: seconds of each transition from now on -> those of all
  /fake/blibs              {"2": {"price_h": 0.9, "is_available": false}}: change offers
  /fake/budget             {"eur": 5.0 or null}: what is left for migrations
  /fake/failing_templates  {"ids": [2]}: templates whose installations fail from now on
  /fake/reset              {}: as it was at the start, without any orders

GET /fake/requests returns the requests received so far: method, path, query, json, status, started (a monotonic time
in seconds). A control that can't be is a 400 with an "error". A change holds for the next request.
"""


class RemoteControls:
    """Serves the controls that `HELP` describes."""

    def __init__(self) -> None:
        self._holds: list[Hold] = []

    async def serve(self, fake: Controls, request: web.BaseRequest, sent: bytes) -> web.Response:
        """Respond to a request whose path begins with `PREFIX`.

        Args:
            fake: The fake to control.
            request: The request.
            sent: Its body.
        """
        name = request.path.removeprefix(PREFIX)
        if request.method == "GET" and name == "requests":
            return _json([_recorded(one) for one in list(fake.requests)])
        try:
            arguments = json.loads(sent or b"{}")
            if not isinstance(arguments, dict):
                raise TypeError("the body must be a JSON object")
            if request.method == "POST" and name in CONTROLS:
                return _json(CONTROLS[name](fake, **arguments))
            if request.method == "POST" and name in ("hold_next", "arrived", "release"):
                return _json(await self._hold(fake, name, **arguments))
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            return _json({"error": str(error).replace("_hold()", f"{name}()")}, 400)
        return web.Response(status=404, text=HELP)

    async def _hold(self, fake: Controls, name: str, *, path: str = "", hold: int = -1) -> object:
        if name == "hold_next":
            self._holds.append(fake.hold_next(path))
            return {"hold": len(self._holds) - 1}
        if not 0 <= _integer(hold) < len(self._holds):
            raise LookupError(f"there is no hold {hold}")
        if name == "arrived":
            await self._holds[hold].arrived(None)
        else:
            self._holds[hold].release()
        return {}


def add_order(fake: Controls, **fields: Any) -> object:  # any field of an order
    if "price_h" in fields:
        fields["price_h"] = _money(fields["price_h"])
    if "paid_until" in fields:
        fields["paid_until"] = datetime.fromisoformat(fields["paid_until"])
    order = fake.add_order(**fields)
    return {"order_id": order.order_id, "server_id": order.server_id}


def set_status(fake: Controls, order_id: int, current: str, desired: str | None = None) -> None:
    if not isinstance(current, str) or not isinstance(desired, str | None):
        raise TypeError("current and desired are status words")
    fake.set_status(_integer(order_id), current, desired)


def remove_order(fake: Controls, order_id: int) -> None:
    fake.remove_order(_integer(order_id))


def durations(fake: Controls, **seconds: float) -> object:
    fake.durations.update(seconds)
    return fake.durations


def blibs(fake: Controls, **changes: dict[str, Any]) -> object:  # fields of a FakeBlib
    for number, fields in changes.items():
        for name, value in fields.items():
            known = [one.name for one in _fields(FakeBlib) if one.name != "id"]
            if name not in known:
                raise ValueError(f"an offer has no {name!r} to change: there are {', '.join(known)}")
            setattr(fake.blibs[int(number)], name, _money(value) if name == "price_h" else value)
    return {}


def budget(fake: Controls, eur: float | None) -> object:
    fake.budget = None if eur is None else _money(eur)
    return {}


def failing_templates(fake: Controls, ids: list[int]) -> object:
    fake.failing_templates.clear()
    fake.failing_templates.update(_integer(number) for number in ids)
    return {}


CONTROLS: dict[str, Callable[..., object]] = {
    "add_order": add_order,
    "set_status": set_status,
    "remove_order": remove_order,
    "fail_next": Controls.fail_next,
    "drop_next": Controls.drop_next,
    "delay_next": Controls.delay_next,
    "advance": Controls.advance,
    "durations": durations,
    "blibs": blibs,
    "budget": budget,
    "failing_templates": failing_templates,
    "reset": Controls.reset,
}


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"an id is an integer, not {value!r}")
    return value


def _money(value: object) -> Decimal:
    return Decimal(str(value))


def _recorded(request: RecordedRequest) -> object:
    names = ("method", "path", "query", "json", "status", "started")
    return {name: getattr(request, name) for name in names}


def _json(content: object, status: int = 200) -> web.Response:
    return web.json_response({} if content is None else content, status=status)
