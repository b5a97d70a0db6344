"""The simulated API: it replaces the client's HTTP request, with all the faults of a network."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from attrs import define, field

from tests.tools.simulator.world import World
from trooper_async import APIConnectionError, APITimeoutError, PollSchedule, TrooperClient
from trooper_async._api.endpoints import Call, Repeatability
from trooper_async._api.responses import FailedAttempt, Failure, Response
from trooper_async._http.sessions import Sending

_KINDS = {"running": "start", "stopped": "stop", "frozen": "freeze", "restarted": "restart"}


@define
class Shown:
    """What one client has seen of one server, as far as it tells restarts apart."""

    away: list[float] = field(factory=list)
    """Times at which a poll began that showed it other than running."""
    histories: list[bytes] = field(factory=list)


@define(eq=False)
class Api:
    """One client's access to the world."""

    world: World
    polls: int = 0
    shown: dict[int, Shown] = field(factory=dict)
    installed: float = 0.0
    """When the one template install is done."""
    read_at: float = 0.0
    """When the last response was read from the world."""
    cut: int = 0
    """Polls that were cancelled in flight."""
    impatient: int = 0
    """Polls that came before a Retry-After was over, or closer than the floor to the one before."""
    _floor: float = 1.0
    _last_poll: float = -math.inf
    _quiet_until: float = 0.0
    _looked_early: bool = False
    _burst_ends: float = 0.0

    def client(self, schedule: PollSchedule) -> TrooperClient:
        client = TrooperClient("simulated-key", poll=schedule)
        client._transport.wire.send = self.fetch  # type: ignore[method-assign]  # the one place where requests leave
        self._floor = schedule.floor
        return client

    async def fetch(
        self,
        call: Call[Any],
        *,
        sending: Sending | None = None,
        limit: float = math.inf,
        headers: Mapping[str, str] | None = None,
    ) -> Response | FailedAttempt:
        """What `Wire.send` does, without a network."""
        rng, settings = self.world.rng, self.world.settings
        loop = asyncio.get_running_loop()
        began = loop.time()
        path = call.endpoint.path
        if path == "/api/orders" and headers is not None:
            self.polls += 1
            too_close = began < self._last_poll + self._floor - 1e-6
            early = began < self._quiet_until - 1e-6
            self.impatient += too_close or (early and self._looked_early)
            self._looked_early |= early  # a final poll before a deadline is allowed
            self._last_poll = began
        if sending is not None:
            sending.may_have_left = True
        await asyncio.sleep(rng.uniform(0.005, 0.1))
        once = call.kind in (Repeatability.ONCE, Repeatability.PURCHASE)
        patience = 180.0 if once else min(30.0, limit)
        fault = rng.random() < settings.faults
        fault_kind = rng.choice(("lost", "late", "429", "burst", "unreadable")) if fault else ""
        if loop.time() < self._burst_ends:
            return Response(502, {}, b"<html>bad gateway</html>")
        if fault_kind == "burst":
            self._burst_ends = loop.time() + rng.uniform(1, 60)
            return Response(503, {}, b"{}")
        if fault_kind == "429":
            pause = rng.randrange(1, 30)
            if path == "/api/orders" and headers is not None:
                self._quiet_until = loop.time() + pause
            return Response(429, {"Retry-After": str(pause)}, b'{"error": "slow down"}')
        if fault_kind == "lost":
            return FailedAttempt(Failure.LOST, APIConnectionError("the answer was lost or cut"))
        reply = self._answer(call)
        hold = rng.uniform(0, settings.slow) if rng.random() < 0.3 else 0.0
        try:
            await asyncio.sleep(min(hold, patience) + rng.uniform(0.005, 0.1))
        except asyncio.CancelledError:
            self.cut += headers is not None and path == "/api/orders"
            raise
        if hold > patience:
            return FailedAttempt(Failure.LOST, APITimeoutError("no whole answer in time"))
        if fault_kind == "late":
            return FailedAttempt(Failure.LOST, APIConnectionError("the answer was lost or cut"))
        if fault_kind == "unreadable":
            return Response(200, {}, reply.body[: len(reply.body) // 2] if reply.body else b"")
        poll = headers is not None and path == "/api/orders"
        if path == "/api/orders":
            self._looked_early = False
            self._quiet_until = 0.0  # a call that is let in again need not wait any longer
        self._note(call, reply, began, poll=poll)
        if settings.etag and reply.body is not None and path == "/api/orders":
            etag = hashlib.sha1(reply.body, usedforsecurity=False).hexdigest()
            if headers is not None and headers.get("If-None-Match") == etag:
                return Response(304, {"ETag": etag}, b"")
            return Response(200, {"ETag": etag}, reply.body)
        return reply

    def _answer(self, call: Call[Any]) -> Response:
        now = self.read_at = asyncio.get_running_loop().time()
        sent: dict[str, Any] = dict(call.sent)
        match call.endpoint.path:
            case "/api/orders":
                return Response(200, {}, self.world.list(now))
            case "/api/order-status-history":
                return Response(200, {}, self.world.history(now, sent["order_id"]))
            case "/api/order-status":
                server = self.world.servers[sent["serverId"]]
                self.world.switch(now, server, _KINDS[sent["action"]], ours=True)
                return _ok(message="initiated")
            case "/api/order":
                return _ok(orderId=self.world.create(now).order_id)
            case "/api/buy-migration":
                old = self.world.servers[sent["order_id"]]
                return _ok(new_order_id=self.world.create(now, replaces=old).order_id)
            case "/api/migration-options":
                return _ok(availableBlibs=[{"id": 2, "price_h": 1.65, "is_available": True}])
            case "/api/migration-cost":
                return _ok(totalDue=3.2)
            case "/api/template-install-add":
                self.installed = now + 20
                return _ok(install_id=5)
            case "/api/template-config":
                done = now > self.installed
                install = {"install_id": 5, "status": int(done), "status_readable": "Completed" if done else "Queued"}
                return _ok(templates=[install])
            case "/api/blibs":
                return Response(200, {}, json.dumps([{"id": 1, "is_available": now > 1020}]).encode())
        raise AssertionError(call.endpoint.path)

    def _note(self, call: Call[Any], reply: Response, began: float, *, poll: bool) -> None:
        """A response that is about to reach the client."""
        if call.endpoint.path == "/api/order-status-history" and reply.body is not None:
            self._shown(int(str(call.sent["order_id"]))).histories.append(reply.body)
        elif poll:
            for row in json.loads(reply.body or b"[]"):
                if row.get("current_status", row.get("status")) != "running":
                    self._shown(row["order_id"]).away.append(began)

    def _shown(self, order_id: int) -> Shown:
        return self.shown.setdefault(order_id, Shown())


def _ok(**fields: object) -> Response:
    return Response(200, {}, json.dumps({"success": True, **fields}).encode())
