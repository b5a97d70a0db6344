"""A Telegram bot for the account's servers: /servers, /run 12, /stop 12, /freeze 12, /restart 12.

    pip install python-telegram-bot
    TELEGRAM_TOKEN=… TELEGRAM_CHATS=12345,-67890 TROOPER_API_KEY=… python examples/telegram_bot.py

It replies when the API has accepted, and again when the server is there, or why it is not. All waits share one poll,
and none delays another command. Chats that are not in TELEGRAM_CHATS get no reply. A message that is older than two
minutes, because the bot or the network was down, gets a reply and is not executed. Telegram sends `/start` by itself,
also with a number from a link, so `/start` only greets.

No command is executed twice, even after kill -9; a command that was being executed then gets no more replies, and
/servers shows what became of it. Ctrl-C or SIGTERM ends the waits, tells their chats, and leaves; what was accepted
goes on. A second bot with the same token takes over: the first one leaves in the same way, with 1. While Telegram does
not respond, it is tried again; only at the start that ends the bot, with 1. TELEGRAM_BASE_URL is for your own Bot API
server.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from html import escape
from typing import Any

from attrs import frozen
from telegram import Update
from telegram.error import Conflict, InvalidToken, TelegramError, TimedOut
from telegram.ext import Application, CommandHandler, ContextTypes, filters

from trooper_async import Order, OutcomeUnknownError, TrooperClient, TrooperError

TELEGRAM = "https://api.telegram.org/bot"
LINES = 40  # of a message, which may have 4096 characters
LIMIT = timedelta(minutes=2)
"""The age of a message that is still executed."""


@frozen
class Commands:
    trooper: TrooperClient

    async def greet(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        await reply(update, "/servers lists the servers. /run 12, /stop 12, /freeze 12 and /restart 12 change one.")

    async def servers(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        try:
            lines = [describe(order) for order in await self.trooper.orders.list()] or ["no servers"]
        except TrooperError as error:
            lines = [escape(error.message[:2000])]
        for first in range(0, len(lines), LINES):
            await reply(update, "\n".join(lines[first : first + LINES]))

    async def act(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Any of the four commands that change a server."""
        message = update.effective_message
        assert message is not None
        assert message.text is not None
        verb = message.text.split()[0].removeprefix("/").partition("@")[0].casefold()
        orders = self.trooper.orders
        send = {"run": orders.start, "stop": orders.stop, "freeze": orders.freeze, "restart": orders.restart}[verb]
        number = context.args[0] if context.args else ""
        if not (number.isascii() and number.isdigit() and len(context.args or ()) == 1):
            await reply(update, f"/{verb} needs the number of one server; /servers lists them")
            return
        now = datetime.now(UTC)
        if abs(now - message.date) > LIMIT:  # in the future: one of the two clocks is wrong
            sent = f"{message.date.astimezone(UTC):%Y-%m-%d %H:%M:%S}, and here it is {now:%Y-%m-%d %H:%M:%S} UTC"
            await reply(update, f"not executed: it was sent at {sent}. Send it again if you still want it")
            return
        try:
            try:
                transition, outcome = await send(int(number)), "accepted"
            except OutcomeUnknownError as error:
                if error.transition is None:
                    raise
                transition, outcome = error.transition, "sent, but the response was lost: waiting to see"
            await reply(update, f"order {number}: {verb} is {outcome}")
            await reply(update, describe(await orders.wait(transition)))
        except TrooperError as error:  # also when the bot ends: what was accepted goes on without it
            error.hint = "/servers shows how it is now"  # the library's own hint is for somebody who writes Python
            await reply(update, escape(str(error)[:2000]))


def describe(order: Order) -> str:
    title = escape((order.title or "")[:50])
    wanted = "" if order.is_converged or order.desired_status is None else f", to be {escape(order.desired_status)}"
    return f"order {order.order_id} <b>{title}</b> is {escape(order.current_status)}{wanted}"


async def reply(update: Update, html: str) -> None:
    assert update.effective_message is not None
    for pause in (1, 4, 16, 0):
        try:
            await update.effective_message.reply_html(html)
        except TelegramError as error:  # a failed reply must not end the wait
            logging.warning("a reply was not sent: %s", error)
            if isinstance(error, TimedOut):  # it may have been
                return
            await asyncio.sleep(pause)
        else:
            return


async def receive(bot: Application[Any, Any, Any, Any, Any, Any]) -> None:
    """Give the bot each update once, until cancelled."""
    offset = failures = 0
    fetched: Sequence[Update] = ()
    while True:
        try:
            # this confirms what was fetched, so that Telegram never sends it again
            news = await bot.bot.get_updates(offset, timeout=0 if fetched else 30, allowed_updates=[Update.MESSAGE])
        except (Conflict, InvalidToken):
            raise
        except TelegramError as error:
            if not failures:
                logging.warning("Telegram does not respond: %s", error)
            failures += 1
            await asyncio.sleep(0 if isinstance(error, TimedOut) else min(failures, 30))
            continue
        if failures:
            logging.warning("Telegram responds again")
        for update in fetched:
            await bot.process_update(update)
        fetched, failures = news, 0
        offset = max([offset, *(update.update_id + 1 for update in news)])


async def serve(token: str, chats: Collection[int], trooper: TrooperClient, base_url: str = TELEGRAM) -> None:
    """Execute commands until cancelled; then close `trooper`, which ends the waits."""
    bot = Application.builder().token(token).base_url(base_url).updater(None).build()
    allowed = filters.Chat(chats) & filters.UpdateType.MESSAGE  # an edited message would be a second command
    commands = Commands(trooper)
    # block=False: each command is a task of its own, which the application owns, and awaits when it stops
    bot.add_handler(CommandHandler(["start", "help"], commands.greet, allowed, block=False))
    bot.add_handler(CommandHandler("servers", commands.servers, allowed, block=False))
    bot.add_handler(CommandHandler(["run", "stop", "freeze", "restart"], commands.act, allowed, block=False))
    async with bot:
        await bot.bot.delete_webhook()  # with one, nothing can be fetched
        await bot.start()
        try:
            await receive(bot)
        finally:
            await trooper.close()  # the waits end, so that the commands end and can be awaited
            await bot.stop()


async def main() -> None:
    token, chats = os.environ.pop("TELEGRAM_TOKEN", ""), os.environ.get("TELEGRAM_CHATS", "")
    if not token or not chats:
        raise SystemExit("TELEGRAM_TOKEN and TELEGRAM_CHATS must be set")
    task = asyncio.current_task()
    assert task is not None
    with suppress(NotImplementedError):  # on Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        async with TrooperClient(app="telegram_bot") as trooper:
            ids = [int(chat) for chat in chats.split(",")]
            await serve(token, ids, trooper, os.environ.get("TELEGRAM_BASE_URL", TELEGRAM))
    except InvalidToken:  # its text holds the token
        raise SystemExit("Telegram does not accept TELEGRAM_TOKEN") from None
    except Conflict:
        raise SystemExit("another bot with this token has taken over: only one can run") from None
    except TelegramError as error:
        raise SystemExit(f"Telegram does not respond: {error}") from None


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # at INFO it logs URLs, and the token is in them
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(main())
