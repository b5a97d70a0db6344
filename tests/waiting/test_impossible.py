"""What no client can know: two histories with identical responses, so that one result must be wrong. These are the
limits that the page of waiting names. Each test makes two simulated APIs, lets the client wait in one, and shows that
the other would have given it the same responses, byte for byte, at the same times, although the truth differs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from attrs import define, evolve, field

from tests.tools.simulator.api import Api
from tests.tools.simulator.clock import run
from tests.tools.simulator.world import Row, Server, Settings, State, World
from trooper_async import Order, PollSchedule, Transition, WaitTimeoutError
from trooper_async._api.endpoints import Call
from trooper_async._api.responses import FailedAttempt, Response

CALM = Settings.calm()
START = 1000.0


@define(eq=False)
class Recording(Api):
    """Records its responses, and when each was read."""

    answers: list[tuple[str, float, bytes]] = field(factory=list)

    async def fetch(self, call: Call[Any], **options: Any) -> Response | FailedAttempt:
        reply = await Api.fetch(self, call, **options)
        assert isinstance(reply, Response)
        self.answers.append((call.endpoint.path, self.read_at, reply.body or b""))
        return reply


def world(settings: Settings, *states: tuple[float, State], rows: tuple[Row, ...] = ()) -> World:
    """A world with server 1: its past, present and future."""
    made = World(settings, random.Random(1))
    server = Server(1)
    for time, state in states:
        server.put(START + time, state)
    server.rows = list(rows)
    made.servers[1] = server
    return made


def wait_in(first: World, transition: Transition, timeout: float) -> tuple[Order | WaitTimeoutError, float, Recording]:
    async def main() -> tuple[Order | WaitTimeoutError, float, Recording]:
        api = Recording(first)
        async with api.client(PollSchedule()) as client:
            try:
                end: Order | WaitTimeoutError = await client.orders.wait(transition, timeout=timeout)
            except WaitTimeoutError as error:
                end = error
            return end, asyncio.get_running_loop().time(), api

    return run(main())


def shows_the_same(second: World, api: Recording) -> bool:
    """Whether the other world would have given the same responses."""
    answer: dict[str, Callable[[float], bytes]] = {
        "/api/orders": second.list,
        "/api/order-status-history": lambda now: second.history(now, 1),
    }
    return all(answer[path](at) == body for path, at, body in api.answers)


def test_a_read_that_lags_longer_than_a_transition_misleads() -> None:
    """Stopped just now, or stopped before somebody started it and read late: the responses are the same."""
    quick = world(CALM, (-100, State("running", "running", "running")), (-0.1, State("stopped", "stopped", "stopped")))
    lagging = world(
        evolve(CALM, lags=(10.0,)),
        (-100, State("stopped", "stopped", "stopped")),
        (-5, State("running", "running", "running")),  # started since; our stop takes effect a minute later
        (60, State("stopped", "stopped", "stopped")),
    )
    end, ended, api = wait_in(quick, Transition(1, "stop", "stopped"), 900)
    assert isinstance(end, Order)
    assert shows_the_same(lagging, api)
    truth = lagging.servers[1].at(ended)
    assert truth is not None
    assert truth.current == "running"


def test_a_restart_without_evidence_times_out() -> None:
    """Over between two polls and in no readable row, or never begun: the wait times out in both."""
    running = State("running", "running", "running")
    done = world(CALM, (-100, running), (0.5, State("restarting", "running", "running")), (0.6, running))
    never = world(CALM, (-100, running))
    end, _, api = wait_in(done, Transition(1, "restart", "running", ()), 900)
    assert isinstance(end, WaitTimeoutError)
    assert "running, but no restart was seen" in str(end)
    assert shows_the_same(never, api)
    assert any(state.current == "restarting" for state in done.servers[1].states)


def test_late_evidence_of_an_earlier_start_misleads() -> None:
    """A lagging `starting` and a late row can be this restart's or an earlier start's: the responses are the same."""
    running, starting = State("running", "running", "running"), State("starting", "running", "running")
    row = Row(1, "running", START - 1, START + 3)
    restarted = world(CALM, (-100, running), (-0.1, starting), (5, running), rows=(row,))
    started = world(
        evolve(CALM, lags=(10.0,)),
        (-100, running),
        (-10.1, starting),  # the earlier start, read ten seconds late
        (-5, running),
        (80, State("restarting", "running", "running")),  # and only now the restart
        (90, running),
        rows=(Row(1, "running", START - 1, START - 7),),
    )
    end, ended, api = wait_in(restarted, Transition(1, "restart", "running", ()), 900)
    assert isinstance(end, Order)
    assert shows_the_same(started, api)
    assert ended < START + 80


@pytest.mark.parametrize("status_user", ["absent", "reached"])
def test_another_action_is_invisible_without_a_desired_status(status_user: Any) -> None:
    """Without a desired status, a slow stop and one that somebody reverted look the same."""
    settings = evolve(CALM, status_user=status_user)
    slow = world(settings, (-100, State("running", "running", "running")), (0, State("running", "stopped", "running")))
    taken_back = world(settings, (-100, State("running", "running", "running")))
    end, _, api = wait_in(slow, Transition(1, "stop", "stopped"), 900)
    assert isinstance(end, WaitTimeoutError)
    assert shows_the_same(taken_back, api)
