"""examples/ci_job.py as a process, with a real SSH server as the rented one."""

from __future__ import annotations

import asyncio
import shlex
import signal
from argparse import ArgumentTypeError
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("asyncssh", reason="needs asyncssh: pip install -e '.[examples]'")

import asyncssh

from examples.ci_job import euros
from tests.helpers import processes
from tests.helpers.conditions import until
from tests.helpers.day import OUTAGES, Day
from tests.helpers.fake_orders import outage, sent_of, status_of
from trooper_async.testing import FakeTrooper

SCRIPT = Path(__file__).parents[2] / "examples" / "ci_job.py"
PASSWORD = "a-password-for-tests-only"


class Machine(asyncssh.SSHServer):
    """The rented machine: it accepts the password, and executes the commands of the tests."""

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return (username, password) == ("root", PASSWORD)


class Ssh:
    """The SSH server of the rented machine. `commands` are those that it received."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.over = asyncio.Event()
        self.port = 0

    async def work(self, process: asyncssh.SSHServerProcess[str]) -> None:
        words = shlex.split(process.command or "")
        self.commands.append(words)
        match words:
            case ["say", out, err, code]:
                process.stdout.write(out)
                process.stderr.write(err)
                process.exit(int(code))
            case ["killed"]:
                process.exit_with_signal("KILL")
            case ["crash"]:
                process.get_extra_info("connection").abort()
            case ["until"]:
                await self.over.wait()
                process.exit(0)
            case ["work"]:
                process.stdout.write("working\n")
                await process.channel.wait_closed()


@pytest.fixture
async def ssh(fake_trooper: FakeTrooper) -> AsyncIterator[Ssh]:
    """The credentials of every server of the fake lead to this one."""
    machine = Ssh()
    key = asyncssh.generate_private_key("ssh-ed25519")
    listener = await asyncssh.listen(
        "127.0.0.1", 0, server_factory=Machine, server_host_keys=[key], process_factory=machine.work
    )
    machine.port = listener.get_port()
    login = {"ip": "127.0.0.1", "ssh_port": machine.port, "username": "root", "password": PASSWORD}
    fake_trooper.fail_next("/api/credentials", status=200, body={**login, "status": "running"}, times=20)
    async with listener:
        yield machine


def job(
    fake: FakeTrooper, *command: str, name: str = "ci", limit: str = "0.2"
) -> AbstractAsyncContextManager[processes.Child]:
    environment = {"TROOPER_API_KEY": fake.api_key, "TROOPER_BASE_URL": fake.url}
    return processes.python(SCRIPT, "--name", name, "--max-price-h", limit, "--", *command, env=environment)


def actions(fake: FakeTrooper) -> list[Any]:
    return [body["action"] for body in fake.sent("/api/order-status")]


async def test_the_server_is_ordered_once_and_frozen_after_each_job(fake_trooper: FakeTrooper, ssh: Ssh) -> None:
    """Output and exit code are the command's, which gets its arguments unchanged; the second job starts it."""
    async with job(fake_trooper, "say", "out put\n", "it's\n", "3") as child:
        assert await child.ends() == 3
    assert (child.out, "it's\n" in child.err) == ("out put\n", True)
    assert "order 123 costs 0.195 EUR per hour, and is frozen at the end" in child.err
    assert actions(fake_trooper) == ["frozen"]
    async with job(fake_trooper, "say", "", "", "0") as child:
        assert await child.ends() == 0
    assert actions(fake_trooper) == ["frozen", "running", "frozen"]
    assert len(fake_trooper.sent("/api/order")) == 1
    assert ssh.commands == [["say", "out put\n", "it's\n", "3"], ["say", "", "", "0"]]
    assert PASSWORD not in child.err + child.out


@pytest.mark.parametrize("command", ["killed", "crash"])
async def test_a_killed_command_or_a_lost_connection_fails_the_job(
    command: str, fake_trooper: FakeTrooper, ssh: Ssh
) -> None:
    """The server is frozen."""
    async with job(fake_trooper, command) as child:
        assert await child.ends() == (137 if command == "killed" else 1)
    assert ("was not run to its end" in child.err) is (command == "crash")
    assert (actions(fake_trooper), "Traceback" in child.err) == (["frozen"], False)


@pytest.mark.parametrize("ends", [[signal.SIGTERM], [signal.SIGINT, signal.SIGTERM, signal.SIGINT]])
async def test_a_cancelled_job_freezes_its_server(
    ends: list[signal.Signals], fake_trooper: FakeTrooper, ssh: Ssh
) -> None:
    """Even if the API does not respond, and with the successive signals that CI systems send."""
    async with job(fake_trooper, "work") as child:
        assert await child.says("working\n") == "working\n"  # at once, although the command goes on
        fake_trooper.fail_next("/api/order-status", status=400, times=2)
        with fake_trooper.hold_next("/api/order-status") as hold:
            for end in ends:
                child.send(end)
            await hold.arrived()
        assert await child.ends() in [128 + end for end in ends]
    assert actions(fake_trooper) == ["frozen"] * 3
    assert ("interrupted" in child.err, "Traceback" in child.err) == (True, False)


async def test_after_kill_9_the_next_job_names_the_running_server(fake_trooper: FakeTrooper, ssh: Ssh) -> None:
    """It uses no server that another job may be using, and names what is billed."""
    async with job(fake_trooper, "work") as child:
        await child.says("working")
        child.send(signal.SIGKILL)
        await child.ends()
    async with job(fake_trooper, "work") as child:
        assert (await child.ends(), "order 123 is running: another job uses it, or one was killed" in child.err) == (
            1,
            True,
        )
    assert (actions(fake_trooper), len(fake_trooper.sent("/api/order"))) == ([], 1)


async def test_a_job_cancelled_during_its_order_freezes_its_server(fake_trooper: FakeTrooper, ssh: Ssh) -> None:
    """The order is followed to its end, and its server frozen."""
    async with job(fake_trooper, "work") as child:
        with fake_trooper.hold_next("/api/order") as hold:
            await hold.arrived()
            child.send(signal.SIGTERM)
        assert await child.ends() == 128 + signal.SIGTERM
    assert (actions(fake_trooper), ssh.commands) == (["frozen"], [])


async def test_a_server_being_frozen_is_waited_for(fake_trooper: FakeTrooper, ssh: Ssh) -> None:
    """The previous job has just ended: that server is not in use."""
    order = fake_trooper.add_order(title="ci", status="freezing", desired_status="frozen", price_h=Decimal("0.2"))
    async with job(fake_trooper, "say", "", "", "0") as child:
        await until(lambda: len(fake_trooper.sent("/api/orders")) > 1)
        fake_trooper.set_status(order, "frozen")
        assert await child.ends() == 0
    assert actions(fake_trooper) == ["running", "frozen"]


@pytest.mark.parametrize(
    ("status", "desired", "price", "problem"),
    [
        ("running", None, "0.1", "another job uses it, or one was killed. `trooper freeze 123` makes it free again"),
        ("frozen", "running", "0.1", "another job uses it"),
        ("frozen", None, "0.21", "costs 0.21 EUR per hour"),
    ],
)
async def test_a_server_that_cannot_be_used_is_left_alone(
    status: str, desired: str | None, price: str, problem: str, fake_trooper: FakeTrooper, ssh: Ssh
) -> None:
    """One that is in use, or too dear: nothing is sent, and the job fails."""
    fake_trooper.add_order(title="ci", status=status, desired_status=desired, price_h=Decimal(price))
    async with job(fake_trooper, "work") as child:
        assert (await child.ends(), problem in child.err) == (1, True)
    assert {request.method for request in fake_trooper.requests} == {"GET"}


async def test_a_terminated_server_is_replaced(fake_trooper: FakeTrooper, ssh: Ssh) -> None:
    """It may stay in the list forever, and is not in use."""
    fake_trooper.add_order(title="ci", status="terminated")
    async with job(fake_trooper, "say", "", "", "0") as child:
        assert await child.ends() == 0
    assert (actions(fake_trooper), len(fake_trooper.sent("/api/order"))) == (["frozen"], 1)


async def test_nothing_is_ordered_above_the_limit(fake_trooper: FakeTrooper) -> None:
    """The job fails, and nothing is bought."""
    async with job(fake_trooper, "work", limit="0.19") as child:
        assert (await child.ends(), "at most 0.19 are allowed" in child.err) == (1, True)
    assert fake_trooper.sent("/api/order") == []


@pytest.mark.parametrize("limit", ["cheap", "0", "-1", "nan", "inf"])
def test_an_invalid_limit_is_refused(limit: str) -> None:
    """It ends before anything is sent."""
    with pytest.raises(ArgumentTypeError, match="is no amount of EUR above 0"):
        euros(limit)


# A day, on a clock that the test puts forward -----------------------------------------------------------------------

LIST, ACTION, ORDER = "/api/orders", "/api/order-status", "/api/order"


@pytest.fixture
def day(fake_trooper: FakeTrooper, ssh: Ssh, tmp_path: Path) -> Day:
    return Day(fake_trooper, tmp_path)


def started(day: Day, *command: str) -> AbstractAsyncContextManager[processes.Child]:
    return day.started(SCRIPT, "--name", "ci", "--max-price-h", "0.2", "--", *command)


@pytest.mark.parametrize("seconds", OUTAGES.values(), ids=OUTAGES)
async def test_an_outage_at_the_end_delays_the_freeze(day: Day, ssh: Ssh, seconds: float) -> None:
    """The command ends during the outage: the server is frozen after it, once, however long it lasts."""
    async with started(day, "until") as child:
        await until(lambda: ssh.commands)
        with outage(day.fake, LIST, ACTION):
            ssh.over.set()
            await child.says("retrying in")
            await day.passes(seconds, child)
            assert child.running
        await day.passes_until(lambda: not child.running, child)
        assert await child.ends() == 0
    await until(lambda: status_of(day.fake, 123) == "frozen")
    assert sent_of(day.fake) == [(123, "frozen")]
    assert "Traceback" not in child.err


@pytest.mark.parametrize("seconds", OUTAGES.values(), ids=OUTAGES)
@pytest.mark.parametrize("first", [True, False], ids=["ordered", "started"])
async def test_an_outage_while_the_server_starts_is_tolerated(day: Day, ssh: Ssh, first: bool, seconds: float) -> None:
    """The job continues after it; after half an hour it fails, and its server is frozen as soon as possible."""
    day.fake.durations["create"] = day.fake.durations["thaw"] = 30
    if not first:
        day.fake.add_order(order_id=123, title="ci", status="frozen", price_h=Decimal("0.2"))
    async with started(day, "say", "", "", "0") as child:
        await until(lambda: day.fake.sent(ORDER if first else ACTION))
        with outage(day.fake, LIST, ACTION):
            await day.passes(seconds, child)
        await day.passes_until(lambda: ssh.commands or sent_of(day.fake)[-1:] == [(123, "frozen")], child)
        assert await child.ends() == (seconds == OUTAGES["3 h"])
    assert len(ssh.commands) == (seconds != OUTAGES["3 h"])
    assert sent_of(day.fake) == [*([] if first else [(123, "running")]), (123, "frozen")]
    assert len(day.fake.sent(ORDER)) == first
    assert "Traceback" not in child.err


@pytest.mark.parametrize("seconds", OUTAGES.values(), ids=OUTAGES)
async def test_an_outage_at_the_start_is_waited_for(day: Day, ssh: Ssh, seconds: float) -> None:
    """For ten minutes; then the job fails, and nothing was bought."""
    with outage(day.fake, LIST):
        async with started(day, "say", "", "", "0") as child:
            await until(lambda: day.fake.sent(LIST))
            await day.passes(seconds, child)
            day.fake._pending_faults[LIST].clear() if seconds != OUTAGES["3 h"] else None
            await day.passes_until(lambda: ssh.commands or not child.running, child)
            assert await child.ends() == (seconds == OUTAGES["3 h"])
    assert len(day.fake.sent(ORDER)) == len(ssh.commands) == (seconds != OUTAGES["3 h"])


async def test_an_order_of_unknown_outcome_fails_the_job(day: Day) -> None:
    """It says which order it may be."""
    day.fake.drop_next(ORDER, when="after")
    async with started(day, "work") as child:
        await day.passes_until(lambda: not child.running, child)
        assert await child.ends() == 1
    assert "order 123" in child.err
    assert "Traceback" not in child.err
    assert (len(day.fake.sent(ORDER)), sent_of(day.fake)) == (1, [])


@pytest.mark.parametrize("phase", ["ordering", "coming up", "starting", "working", "freezing"])
async def test_a_job_killed_in_each_phase(day: Day, ssh: Ssh, phase: str) -> None:
    """The next job names the running server and fails, or waits for a freeze; a server without a title is not found."""
    day.fake.durations["create"] = 600 if phase == "coming up" else 0.05
    if phase not in ("ordering", "coming up"):
        day.fake.add_order(order_id=123, title="ci", status="frozen", price_h=Decimal("0.2"))
    held = day.fake.hold_next(ORDER if phase == "ordering" else ACTION) if phase in ("ordering", "starting") else None
    async with started(day, "until") as child:
        if held is not None:
            await held.arrived()
        elif phase == "coming up":
            await child.says("order 123 is ")
        else:
            await until(lambda: ssh.commands)
        if phase == "freezing":
            with day.fake.hold_next(ACTION) as held:
                ssh.over.set()
                await held.arrived()
                await child.kill()
        await child.kill()
    if held is not None:
        held.release()
    ssh.over.set()
    ssh.commands.clear()
    day.fake.durations["create"] = 0.05
    async with started(day, "until") as child:
        code = await child.ends()
    if phase in ("starting", "working"):
        assert (code, "order 123 is running: another job uses it, or one was killed" in child.err) == (1, True)
    else:
        assert (code, len(ssh.commands)) == (0, 1)
    assert len(day.fake.sent(ORDER)) == (2 if phase in ("ordering", "coming up") else 0)


async def test_a_second_copy_fails_without_disturbing_the_first(day: Day, ssh: Ssh) -> None:
    """It finds the server in use."""
    async with started(day, "until") as child:
        await until(lambda: ssh.commands)
        async with started(day, "until") as second:
            assert await second.ends() == 1
        assert "order 123 is running: another job uses it" in second.err
        ssh.over.set()
        assert await child.ends() == 0
    assert (len(day.fake.sent(ORDER)), sent_of(day.fake)) == (1, [(123, "frozen")])
