"""Warns ten minutes before a paid period ends, and freezes what has been stopped, or has run, for too long.

    python examples/cost_guard.py --stopped-hours 2 --running-hours 24 --title "job-*" --act >> guard.log

A stopped server does nothing and still costs 35 % of its price: it is frozen after `--stopped-hours`. The API does not
say whether a running server is busy; for jobs that are known to end, `--running-hours` freezes what has run for longer.
The hours come from the API's status history, which is read right before a server is frozen: a restart of this bot
forgets nothing, and two copies do no harm. A server whose history does not tell the hours is not frozen.

`--title` limits the freezing to some servers, and a locked server is never frozen. Without `--act` it only says what it
would do. A paid period is not refunded, so a freeze saves money from the next period on. The key comes from
TROOPER_API_KEY. It checks once a minute, until Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from io import TextIOWrapper

from attrs import define, field

from trooper_async import (
    APIConnectionError,
    Order,
    RateLimitError,
    ResponseFormatError,
    ServerError,
    TrooperClient,
    TrooperError,
    cost_h,
    select,
)

LOG = logging.getLogger("cost_guard")
OUTAGES = (APIConnectionError, RateLimitError, ResponseFormatError, ServerError)
SOON = timedelta(minutes=10)
AGAIN = timedelta(minutes=15)  # after which a freeze that had no effect is sent again


@define
class CostGuard:
    client: TrooperClient
    limits: Mapping[str, timedelta]
    """How long a server may be `stopped` or `running`."""
    title: str = "*"
    act: bool = False
    every: float = 60.0
    """Seconds between two checks."""
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _since: dict[int, tuple[str, datetime]] = field(factory=dict, init=False)  # when each server got its status
    _frozen: dict[int, datetime] = field(factory=dict, init=False)  # when each freeze was accepted
    _unknown: dict[int, datetime] = field(factory=dict, init=False)  # since when a history does not tell
    _requested: dict[int, datetime] = field(factory=dict, init=False)  # when another desired status was seen
    _said: dict[tuple[int, str], datetime] = field(factory=dict, init=False)

    async def run(self) -> None:
        """Check the orders and the clock, until cancelled."""
        failing_since: datetime | None = None
        while True:
            try:
                orders = await self.client.orders.find()
            except TrooperError as error:
                if failing_since is None:
                    failing_since = self.clock()
                    LOG.error("the orders cannot be read, so nothing is watched or frozen: %s", error)
            else:
                if failing_since is not None:
                    LOG.warning("the orders can be read again, after %s", self.clock() - failing_since)
                    failing_since = None
                await self.look(orders)
            await asyncio.sleep(self.every)

    async def look(self, orders: list[Order]) -> None:
        for order in orders:
            self.warn(order)
        for order in select(orders, title=self.title):
            try:
                await self.check(order)
            except TrooperError as error:  # the next check tries again
                LOG.error("%s: %s", name(order), error)

    def warn(self, order: Order) -> None:
        """Warn that a paid period is about to end."""
        end = order.paid_until
        if end is not None and order.current_status != "frozen" and end - SOON <= self.clock() < end:
            self.say_once(order, end, f"paid until {end.astimezone():%H:%M}, then renewed or frozen")

    async def check(self, order: Order) -> None:
        """Freeze the server if it has had its status for too long."""
        status, now = order.current_status.casefold(), self.clock()
        if self._since.get(order.order_id, (status,))[0] != status:
            del self._since[order.order_id]
        limit = self.limits.get(status)
        if limit is None or now - self._frozen.get(order.order_id, now - AGAIN) < AGAIN:
            return
        what = "freezing it" if self.act else "--act would freeze it"
        what = "it is locked, so it stays" if order.is_locked else what
        text = f"{status} for more than {limit / timedelta(hours=1):g} h: {what}"
        if order.order_id in self._since:
            _, since = self._since[order.order_id]
            if now - since <= limit or self._said.get((order.order_id, text)) == since:
                return
        read = await self.read_since(order)  # now: it may have been started and stopped between two checks
        if read is None:
            if now - self._unknown.setdefault(order.order_id, now) >= AGAIN:  # for a moment, the history may be behind
                self.say_once(order, self._unknown[order.order_id], "its history does not say since when: not frozen")
            return
        self._unknown.pop(order.order_id, None)
        self._since[order.order_id] = status, read
        if now - read <= limit:
            return
        if order.is_locked or not self.act:
            self.say_once(order, read, text)
        else:
            await self.freeze(order, text)

    async def freeze(self, order: Order, text: str) -> None:
        now = self.clock()
        fresh = await self.client.orders.get(order)  # it may have been started or locked right now
        if fresh.is_locked or fresh.current_status != order.current_status:
            return
        if stays(fresh):
            self._requested.pop(order.order_id, None)
        elif now - self._requested.setdefault(order.order_id, now) < AGAIN:
            return
        LOG.warning("%s: %s", name(order), text)
        await self.client.orders.freeze(order)
        self._frozen[order.order_id] = now

    async def read_since(self, order: Order) -> datetime | None:
        """Since when the server has had its status."""
        if order.current_status.casefold() == "running":
            return await self.client.orders.running_since(order)
        return await self.client.orders.stopped_since(order)

    def say_once(self, order: Order, moment: datetime, text: str) -> None:
        if self._said.get((order.order_id, text)) != moment:
            self._said[order.order_id, text] = moment
            LOG.warning("%s: %s", name(order), text)


def stays(order: Order) -> bool:
    """Whether no other status has been requested."""
    wanted = (order.desired_status or order.current_status).casefold()
    return wanted in (order.current_status.casefold(), "restarted", "restarting")


def name(order: Order) -> str:
    cost = cost_h(order)
    return f"order {order.order_id} ({order.title}, {order.current_status}, {cost or '?'} EUR/h)"


async def guard(options: argparse.Namespace) -> None:
    hours = {"stopped": options.stopped_hours, "running": options.running_hours}
    limits = {status: timedelta(hours=limit) for status, limit in hours.items() if limit is not None}
    async with TrooperClient(app="cost_guard") as client:
        try:
            matching = await client.orders.find(title=options.title)
        except OUTAGES as error:  # the key is fine, as far as can be told
            LOG.warning("which servers match cannot be read yet: %s", error)
        else:
            LOG.info("watching %d servers: %s", len(matching), ", ".join(map(name, matching)) or "none matches")
        await CostGuard(client, limits, options.title, act=options.act).run()


def hours(text: str) -> float:
    value = float(text)
    if not 0 < value < 100_000:
        raise argparse.ArgumentTypeError("it must be a number of hours above 0, and below 100,000")
    return value


def main() -> int:
    parser = argparse.ArgumentParser(description="Warn before paid periods end, and freeze idle servers.")
    parser.add_argument("--stopped-hours", type=hours, metavar="H", help="freeze what has been stopped for longer")
    parser.add_argument("--running-hours", type=hours, metavar="H", help="freeze what has run for longer")
    parser.add_argument("--title", default="*", help="freeze only servers with this title, or pattern such as job-*")
    parser.add_argument("--act", action="store_true", help="freeze, instead of only saying so")
    options = parser.parse_args()
    if options.act and options.stopped_hours is None and options.running_hours is None:
        parser.error("--act needs --stopped-hours or --running-hours")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # no character of a title is an error
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s")  # flushes each line
    try:
        asyncio.run(guard(options))
    except TrooperError as error:
        LOG.error("ended: %s", error)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
