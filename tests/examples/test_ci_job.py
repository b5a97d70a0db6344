"""examples/ci_job.py as a process, with a real SSH server as the rented one."""

from __future__ import annotations

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
