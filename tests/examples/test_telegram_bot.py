"""examples/telegram_bot.py with a local stand-in of Telegram's Bot API, over real HTTP."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

pytest.importorskip("telegram", reason="needs python-telegram-bot: pip install -e '.[examples]'")

from examples.telegram_bot import main, serve
from tests.helpers import processes
from tests.helpers.conditions import LIMIT, until
from tests.helpers.day import OUTAGES, Day
from tests.helpers.fake_orders import outage, sent_of
from trooper_async import TrooperClient
from trooper_async.testing import FakeTrooper

SCRIPT = Path(__file__).parents[2] / "examples" / "telegram_bot.py"
TOKEN = "123456:a-token-for-tests-only"
CHAT, STRANGER = 77, 78


class FakeTelegram:
    """The part of https://core.telegram.org/bots/api that the bot needs: getMe, getUpdates as a long poll,
    sendMessage.
    """

    def __init__(self) -> None:
        self.url = ""
        self.said: list[tuple[int, str]] = []
        self.lose = 0
        self.is_down = False
        self.token = TOKEN
        self.confirms: asyncio.Event | None = None  # held, and set once one has come
        self.polls = 0
        self.polled = asyncio.Event()
        self._updates: list[dict[str, Any]] = []
        self._last = self._confirmed = 0
        self._news = asyncio.Condition()

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        token, _, method = request.path.removeprefix("/bot").rpartition("/")
        sent = {name: str(value) for name, value in (await request.post()).items()}
        if self.is_down:
            return web.json_response({"ok": False, "error_code": 502, "description": "Bad Gateway"}, status=502)
        if token != self.token:
            return web.json_response({"ok": False, "error_code": 401, "description": "Unauthorized"}, status=401)
        result: object = True
        if method == "getMe":
            result = {"id": 123456, "is_bot": True, "first_name": "Trooper", "username": "trooper_bot"}
        elif method == "getUpdates":
            self.polled.set()
            result = await self.updates(int(sent.get("offset", 0)), float(sent.get("timeout", 0)))
            if result is None:
                text = "Conflict: terminated by other getUpdates request"
                return web.json_response({"ok": False, "error_code": 409, "description": text}, status=409)
        elif method == "sendMessage":
            if self.lose:
                self.lose -= 1
                return web.json_response({"ok": False, "error_code": 500, "description": "lost"}, status=500)
            assert sent["parse_mode"] == "HTML"
            async with self._news:
                self.said.append((int(sent["chat_id"]), sent["text"]))
                self._news.notify_all()
            chat = {"id": int(sent["chat_id"]), "type": "private"}
            result = {"message_id": len(self.said), "date": 0, "chat": chat, "text": sent["text"]}
        return web.json_response({"ok": True, "result": result})

    async def updates(self, offset: int, timeout: float) -> list[dict[str, Any]] | None:
        """None: another request of this kind has come."""
        if self.confirms is not None and offset > self._confirmed:
            self.confirms.set()
            await asyncio.Event().wait()  # until its client is gone
        async with self._news:
            self._confirmed = max(self._confirmed, offset)
            self._updates = [update for update in self._updates if update["update_id"] >= offset]
            self.polls = poll = self.polls + 1
            self._news.notify_all()
            try:
                async with asyncio.timeout(timeout):
                    await self._news.wait_for(lambda: self._updates or self.is_down or self.polls != poll)
            except TimeoutError:
                return []
            return self._updates if self.polls == poll else None

    async def send(self, text: str, *, chat: int = CHAT, kind: str = "message", ago: float = 0.0) -> None:
        """Somebody writes to the bot, or did so many seconds ago."""
        command = {"type": "bot_command", "offset": 0, "length": len(text.split()[0])}
        sender = {"id": chat, "is_bot": False, "first_name": "Someone"}
        where = {"id": chat, "type": "private"}
        async with self._news:
            self._last += 1
            date = int(time.time() - ago)
            message = {"message_id": self._last, "date": date, "chat": where, "from": sender, "text": text}
            self._updates.append({"update_id": self._last, kind: {**message, "entities": [command]}})
            self._news.notify_all()

    async def hears(self, *parts: str) -> str:
        """Wait for a reply that has all of these parts."""
        found: list[str] = []

        def has_come() -> bool:
            found[:] = [text for _, text in self.said if all(part in text for part in parts)]
            return bool(found)

        async with asyncio.timeout(LIMIT), self._news:
            await self._news.wait_for(has_come)
        return found[0]


@pytest_asyncio.fixture
async def telegram() -> AsyncIterator[FakeTelegram]:
    fake = FakeTelegram()
    runner = web.ServerRunner(
        web.Server(fake.respond, handler_cancellation=True, access_log=None), shutdown_timeout=0.1
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}/bot"
    yield fake
    await runner.cleanup()


@asynccontextmanager
async def bot(telegram: FakeTelegram, trooper: TrooperClient) -> AsyncIterator[None]:
    """The running bot; at the end it is stopped, and nothing that it began is left."""
    before = asyncio.all_tasks()
    task = asyncio.create_task(serve(TOKEN, [CHAT], trooper, telegram.url))
    try:
        async with asyncio.timeout(LIMIT):
            await telegram.polled.wait()
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not {left for left in asyncio.all_tasks() - before if "aiohttp" not in repr(left)}


def changes(fake: FakeTrooper) -> list[dict[str, Any]]:
    return [request.json for request in fake.requests if request.path == "/api/order-status"]


async def test_each_command_gets_a_reply_when_accepted_and_when_done(
    telegram: FakeTelegram, trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """The second reply has the new status of the server."""
    order = fake_trooper.add_order(title="job 1")
    async with bot(telegram, trooper):
        for verb, end in (("stop", "stopped"), ("freeze", "frozen"), ("run", "running"), ("restart", "running")):
            telegram.said.clear()
            await telegram.send(f"/{verb} {order.order_id}")
            await telegram.hears(f"order {order.order_id} <b>job 1</b> is {end}")
            assert [chat for chat, _ in telegram.said] == [CHAT, CHAT]
            assert telegram.said[0][1] == f"order {order.order_id}: {verb} is accepted"
    assert [body["action"] for body in changes(fake_trooper)] == ["stopped", "frozen", "running", "restarted"]


async def test_servers_are_listed_with_escaped_titles(
    telegram: FakeTelegram, trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """A title is text, whatever it looks like; a long list comes in several messages."""
    async with bot(telegram, trooper):
        await telegram.send("/servers")
        await telegram.hears("no servers")
        orders = [fake_trooper.add_order(title="<i>x</i> & y", status="stopped") for _ in range(41)]
        fake_trooper.set_status(orders[0], "<starting>", "running")
        await telegram.send("/servers")
        await telegram.hears(f"order {orders[40].order_id} ")
    texts = [text for _, text in telegram.said[1:]]
    assert [len(text.splitlines()) for text in texts] == [40, 1]
    lines = texts[0].splitlines()
    title = "<b>&lt;i&gt;x&lt;/i&gt; &amp; y</b>"
    assert lines[0] == f"order {orders[0].order_id} {title} is &lt;starting&gt;, to be running"
    assert lines[1] == f"order {orders[1].order_id} {title} is stopped"


async def test_a_wait_blocks_no_other_command(
    telegram: FakeTelegram, trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """While one server takes its time, others are stopped, and waited for."""
    fake_trooper.durations["freeze"] = 600
    slow, quick = fake_trooper.add_order(), fake_trooper.add_order()
    async with bot(telegram, trooper):
        await telegram.send(f"/freeze {slow.order_id}")
        await telegram.hears("freeze is accepted")
        await telegram.send(f"/stop {quick.order_id}")
        await telegram.hears(f"order {quick.order_id} ", "is stopped")


async def test_stopping_the_bot_ends_its_waits_and_notifies_their_chats(
    telegram: FakeTelegram, trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """Nothing is left behind, and the next run gets no command again."""
    fake_trooper.durations["freeze"] = 600
    order = fake_trooper.add_order()
    async with bot(telegram, trooper):
        await telegram.send(f"/freeze {order.order_id}")
        await telegram.hears("accepted")
    assert "closed" in telegram.said[-1][1]
    assert await telegram.updates(0, 0) == []


async def test_only_the_allowed_chats_get_replies(
    telegram: FakeTelegram, trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """A stranger gets no reply, and an edited message is no second command."""
    order = fake_trooper.add_order()
    async with bot(telegram, trooper):
        await telegram.send(f"/stop {order.order_id}", chat=STRANGER)
        await telegram.send(f"/stop {order.order_id}", kind="edited_message")
        await telegram.send("/stop last")
        await telegram.hears("/stop needs the number")
    assert {chat for chat, _ in telegram.said} == {CHAT}
    assert changes(fake_trooper) == []


@pytest.mark.parametrize("ago", [6 * 3600, 130, -130])
async def test_an_old_message_is_not_executed(
    ago: float, telegram: FakeTelegram, trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """It gets a reply with both times, and so does one from the future, since one clock is wrong then."""
    order = fake_trooper.add_order()
    await telegram.send(f"/freeze {order.order_id}", ago=ago)  # before the bot was started
    async with bot(telegram, trooper):
        await telegram.hears("not executed: it was sent at", "and here it is")
        await telegram.send(f"/stop {order.order_id}", ago=60)
        await telegram.hears("is stopped")
    assert [body["action"] for body in changes(fake_trooper)] == ["stopped"]


@pytest.mark.parametrize("text", ["/start", "/start 123", "/start@trooper_bot 123", "/help"])
async def test_telegrams_own_start_only_greets(
    text: str, telegram: FakeTelegram, trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """Telegram sends it when a chat or a link is opened, with the link's number: no server is started."""
    fake_trooper.add_order(order_id=123, status="stopped")
    async with bot(telegram, trooper):
        await telegram.send(text)
        await telegram.hears("/run 12")
    assert fake_trooper.requests == []


@pytest.mark.parametrize("text", ["/run", "/run@trooper_bot", "/stop x", "/stop -1", "/freeze 1 2", "/RESTART ²"])
async def test_a_command_without_a_server_is_explained(
    text: str, telegram: FakeTelegram, trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """Nothing is sent for it."""
    async with bot(telegram, trooper):
        await telegram.send(text)
        await telegram.hears("needs the number of one server; /servers lists them")
    assert fake_trooper.requests == []


async def test_a_lost_response_is_waited_for(
    telegram: FakeTelegram, trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """The response to a restart is lost: it is not sent again, and the chat is notified once it is confirmed."""
    order = fake_trooper.add_order()
    fake_trooper.drop_next("/api/order-status", when="after")
    async with bot(telegram, trooper):
        await telegram.send(f"/restart {order.order_id}")
        await telegram.hears("restart is sent, but the response was lost: waiting to see")
        await telegram.hears("is running")
    assert len(changes(fake_trooper)) == 1


async def test_errors_are_replies(telegram: FakeTelegram, trooper: TrooperClient, fake_trooper: FakeTrooper) -> None:
    """The chat gets the client's error, escaped."""
    locked = fake_trooper.add_order(is_locked=True)
    async with bot(telegram, trooper):
        await telegram.send("/stop 999")
        await telegram.hears("order 999", "not in the list of orders")
        await telegram.send(f"/stop {locked.order_id}")
        await telegram.hears("locked", "/servers shows")
        fake_trooper.fail_next("/api/orders", status=400, body={"error": "<b>no"})
        await telegram.send("/servers")
        await telegram.hears("&lt;b&gt;no")


async def test_a_reply_that_is_lost_is_sent_again(
    telegram: FakeTelegram, trooper: TrooperClient, fake_trooper: FakeTrooper
) -> None:
    """Telegram fails once: both replies are sent nevertheless."""
    order = fake_trooper.add_order()
    telegram.lose = 1
    async with bot(telegram, trooper):
        await telegram.send(f"/stop {order.order_id}")
        await telegram.hears("is stopped")
    assert len(telegram.said) == 2


def run(telegram: FakeTelegram, **environment: str) -> AbstractAsyncContextManager[processes.Child]:
    """The bot as a separate process."""
    defaults = {"TELEGRAM_BASE_URL": telegram.url, "TELEGRAM_CHATS": f"{CHAT},-5"}
    return processes.python(SCRIPT, env={**defaults, **environment})


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
async def test_it_runs_as_a_user_runs_it(
    end: signal.Signals, telegram: FakeTelegram, fake_trooper: FakeTrooper
) -> None:
    """It exits with 0 on a signal during a wait; neither token nor key are logged, even in an outage."""
    fake_trooper.durations["freeze"] = 600
    order = fake_trooper.add_order()
    key = {"TROOPER_API_KEY": fake_trooper.api_key, "TROOPER_BASE_URL": fake_trooper.url}
    async with run(telegram, TELEGRAM_TOKEN=TOKEN, **key) as child:
        await until(telegram.polled.is_set)
        telegram.lose = 1
        await telegram.send(f"/freeze {order.order_id}")
        await until(lambda: not telegram.lose)
        child.send(end)
        assert await child.ends() == 0
    assert "a reply was not sent" in child.err
    assert "closed" in telegram.said[-1][1]
    for secret in (TOKEN, fake_trooper.api_key):
        assert secret not in child.out + child.err + json.dumps(telegram.said)


@pytest.mark.parametrize("environment", [{}, {"TELEGRAM_TOKEN": TOKEN, "TELEGRAM_CHATS": ""}])
async def test_without_chats_it_does_not_start(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No chats means nobody, not everybody: it says what is missing."""
    for name in ("TELEGRAM_TOKEN", "TELEGRAM_CHATS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=r"^TELEGRAM_TOKEN and TELEGRAM_CHATS must be set$"):
        await main()


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"TELEGRAM_TOKEN": "1:wrong"}, "Telegram does not accept TELEGRAM_TOKEN"),
        ({"TELEGRAM_TOKEN": TOKEN, "TELEGRAM_BASE_URL": "http://127.0.0.1:1/bot"}, "All connection attempts failed"),
    ],
)
async def test_a_failed_start_is_reported_without_the_token(
    environment: dict[str, str], problem: str, telegram: FakeTelegram
) -> None:
    """A refused token is not shown either."""
    async with run(telegram, TROOPER_API_KEY="never-used", **environment) as child:
        assert await child.ends() == 1
    assert problem in child.err
    assert not any(secret in child.out + child.err for secret in (TOKEN, "1:wrong"))


# A day, on a clock that the test puts forward -----------------------------------------------------------------------


@pytest.fixture
def day(fake_trooper: FakeTrooper, tmp_path: Path) -> Day:
    fake_trooper.durations["restart"] = 60
    fake_trooper.add_order(order_id=1)
    return Day(fake_trooper, tmp_path)


@asynccontextmanager
async def running(day: Day, telegram: FakeTelegram) -> AsyncIterator[processes.Child]:
    """The bot, once it has asked for updates."""
    environment = {"TELEGRAM_BASE_URL": telegram.url, "TELEGRAM_CHATS": str(CHAT), "TELEGRAM_TOKEN": TOKEN}
    polls = telegram.polls
    async with day.started(SCRIPT, env=environment) as child:
        await until(lambda: telegram.polls > polls or not child.running)
        yield child
    assert "Traceback" not in child.err
    assert TOKEN not in child.err


@pytest.mark.parametrize("seconds", OUTAGES.values(), ids=OUTAGES)
async def test_an_outage_of_the_api_ends_waits_at_their_deadline(
    day: Day, telegram: FakeTelegram, seconds: float
) -> None:
    """The chat is notified; an action that cannot be sent is refused, and never sent later."""
    async with running(day, telegram) as child:
        await telegram.send("/restart 1")
        await telegram.hears("restart is accepted")
        with outage(day.fake, "/api/orders", "/api/order-status"):
            await telegram.send("/freeze 1")
            await day.passes_until(lambda: "orders.freeze" in str(telegram.said), child)
            await day.passes(seconds, child)
        ends = "running was not reached within 900 s" if seconds == OUTAGES["3 h"] else "</b> is running"
        await day.passes_until(lambda: ends in str(telegram.said), child)
        await telegram.send("/stop 1")
        await day.passes_until(lambda: "stop is accepted" in str(telegram.said), child)
    assert sent_of(day.fake) == [(1, "restarted"), (1, "stopped")]


@pytest.mark.parametrize("seconds", OUTAGES.values(), ids=OUTAGES)
async def test_an_outage_of_telegram_is_logged(day: Day, telegram: FakeTelegram, seconds: float) -> None:
    """It is logged once, and so is its end; a command that is older than two minutes is not executed."""
    async with running(day, telegram) as child:
        telegram.is_down = True
        await telegram.send("/stop 1", ago=seconds)
        await child.says("Telegram does not respond: Bad Gateway")
        await day.passes(seconds, child)
        telegram.is_down = False
        await day.passes_until(lambda: telegram.said, child)
        if seconds == OUTAGES["5 s"]:
            await telegram.hears("stop is accepted")
        else:
            await telegram.hears("not executed: it was sent at")
        await child.says("responds again")
        assert child.err.count("Telegram does not respond") == child.err.count("Telegram responds again") == 1
    assert sent_of(day.fake) == ([(1, "stopped")] if seconds == OUTAGES["5 s"] else [])


@pytest.mark.parametrize("phase", ["fetched", "sent", "waiting"])
async def test_killed_at_any_moment_a_command_is_executed_once(day: Day, telegram: FakeTelegram, phase: str) -> None:
    """The next process executes what the killed one had only fetched, and nothing else."""
    async with running(day, telegram) as child:
        if phase == "fetched":
            telegram.confirms = asyncio.Event()
            await telegram.send("/restart 1")
            await until(telegram.confirms.is_set)
            await day.passes(1, child)  # it does nothing before the fetch is confirmed
        elif phase == "sent":
            telegram.said.append((CHAT, "restart is accepted"))  # which this process will not say
            with day.fake.hold_next("/api/order-status") as hold:
                await telegram.send("/restart 1")
                await hold.arrived()
                await child.kill()
        else:
            await telegram.send("/restart 1")
            await telegram.hears("restart is accepted")
        await child.kill()
    assert len(sent_of(day.fake)) == (phase != "fetched")
    telegram.confirms = None
    async with running(day, telegram) as child:
        await telegram.hears("restart is accepted")
        await telegram.send("/servers")
        await telegram.hears("order 1 ", "is restarting")
    assert sent_of(day.fake) == [(1, "restarted")]


async def test_a_second_copy_takes_over(day: Day, telegram: FakeTelegram) -> None:
    """The first one ends its waits, notifies their chats and says why it exits; each command is executed once."""
    async with running(day, telegram) as first:
        await telegram.send("/restart 1")
        await telegram.hears("restart is accepted")
        async with running(day, telegram):
            assert await first.ends() == 1
            await telegram.hears("closed")
            await telegram.send("/freeze 1")
            await telegram.hears("freeze is accepted")
    assert "another bot with this token has taken over: only one can run" in first.err
    assert sent_of(day.fake) == [(1, "restarted"), (1, "frozen")]


async def test_a_revoked_token_ends_the_bot(day: Day, telegram: FakeTelegram) -> None:
    """Otherwise it would receive nothing any more, and nobody would notice."""
    async with running(day, telegram) as child:
        telegram.token = "another"
        await telegram.send("/stop 1")
        assert await child.ends() == 1
    assert "Telegram does not accept TELEGRAM_TOKEN" in child.err
