"""A Telegram bot for the account's servers: /servers, /start 12, /stop 12, /freeze 12, /restart 12.

    pip install python-telegram-bot
    TELEGRAM_TOKEN=… TELEGRAM_CHATS=12345,-67890 TROOPER_API_KEY=… python examples/telegram_bot.py

It answers once the API has accepted, and again when the server is there, or why it is not. All waits share one poll,
and none holds up another command. Only the chats in TELEGRAM_CHATS are heard, others get no answer. Commands sent while
the bot was down are dropped: nobody wants a server started hours later. Ctrl-C or SIGTERM ends the waits, tells their
chats, and leaves. TELEGRAM_BASE_URL is for a Bot API server of one's own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Collection
from contextlib import suppress
from html import escape

from attrs import frozen
from telegram import Update
from telegram.error import InvalidToken, TelegramError
from telegram.ext import Application, CommandHandler, ContextTypes, filters

from trooper_async import Order, TrooperClient, TrooperError

TELEGRAM = "https://api.telegram.org/bot"
LINES = 40  # of a message, which may have 4096 characters


@frozen
class Commands:
    trooper: TrooperClient

    async def servers(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        try:
            lines = [describe(order) for order in await self.trooper.orders.list()] or ["no servers"]
        except TrooperError as error:
            lines = [escape(str(error)[:2000])]
        for first in range(0, len(lines), LINES):
            await reply(update, "\n".join(lines[first : first + LINES]))

    async def switch(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Any of the four verbs: the command's name is the method's."""
        assert update.effective_message is not None
        assert update.effective_message.text is not None
        verb = update.effective_message.text.split()[0].removeprefix("/").partition("@")[0].casefold()
        orders = self.trooper.orders
        send = {"start": orders.start, "stop": orders.stop, "freeze": orders.freeze, "restart": orders.restart}[verb]
        number = context.args[0] if context.args else ""
        if not (number.isascii() and number.isdigit() and len(context.args or ()) == 1):
            await reply(update, f"/{verb} needs the number of one server; /servers lists them")
            return
        try:
            transition = await send(int(number))
            await reply(update, f"order {number}: {verb} is accepted")
            await reply(update, describe(await orders.wait(transition)))
        except TrooperError as error:  # a client that is being closed too: what was accepted goes on without the bot
            await reply(update, escape(str(error)[:2000]))


def describe(order: Order) -> str:
    title = escape((order.title or "")[:50])
    wish = "" if order.is_converged or order.desired_status is None else f", to be {escape(order.desired_status)}"
    return f"order {order.order_id} <b>{title}</b> is {escape(order.current_status)}{wish}"


async def reply(update: Update, html: str) -> None:
    assert update.effective_message is not None
    try:
        await update.effective_message.reply_html(html)
    except TelegramError as error:  # the wait that it tells of must go on all the same
        logging.warning("a reply was lost: %s", error)


async def serve(token: str, chats: Collection[int], trooper: TrooperClient, base_url: str = TELEGRAM) -> None:
    """Answer commands until cancelled; then close `trooper`, which ends the waits."""
    bot = Application.builder().token(token).base_url(base_url).build()
    heard = filters.Chat(chats) & filters.UpdateType.MESSAGE  # an edited message would be a second command
    commands = Commands(trooper)
    # block=False: each command is a task of its own, which the application owns, and awaits when it stops
    bot.add_handler(CommandHandler("servers", commands.servers, heard, block=False))
    bot.add_handler(CommandHandler(["start", "stop", "freeze", "restart"], commands.switch, heard, block=False))
    assert bot.updater is not None
    async with bot:
        await bot.updater.start_polling(drop_pending_updates=True, allowed_updates=[Update.MESSAGE])
        await bot.start()
        try:
            await asyncio.Event().wait()
        finally:
            await bot.updater.stop()
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


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # at INFO it logs URLs, and the token is in them
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(main())
