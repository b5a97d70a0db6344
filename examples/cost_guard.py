"""A bot that warns ten minutes before a paid period ends, and freezes what idles past its time.

    python examples/cost_guard.py --stopped-hours 2 --running-hours 24 --title "job-*" --act

A *stopped* server does nothing and goes on costing 35 % of its price: past `--stopped-hours` it is frozen. Whether a
running one is busy the API does not say; for jobs that are known to end, `--running-hours` freezes what has run for
longer. The hours begin with the API's status history, so a restart of this bot forgets nothing. `--title` limits the
freezing to some servers, and a locked one is never frozen: lock what must stay. Without `--act` it only says what it
would do. The key comes from TROOPER_API_KEY. It runs until Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from attrs import define, field

from trooper_async import Order, TrooperClient, TrooperError
from trooper_async._groups.selection import select


def say_at_once(line: str) -> None:
    print(line, flush=True)  # to a log or a pipe too


@define
class CostGuard:
    """`limits`: the hours that a server may be in a status. `say` could as well be a chat or a mail."""

    client: TrooperClient
    limits: Mapping[str, float | None]
    title: str = "*"
    act: bool = False
    say: Callable[[str], object] = say_at_once
    _seen: dict[int, tuple[Order, datetime]] = field(factory=dict, init=False)  # and since when it has its status
    _said: dict[tuple[str, int], datetime] = field(factory=dict, init=False)  # of which time each thing was last said

    async def run(self, every: float) -> None:
        """Look at the orders and the clock every so many seconds, until cancelled or the key is refused."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(every))
            while True:
                await asyncio.sleep(every)
                for order, since in list(self._seen.values()):
                    try:
                        await self._check(order, since)
                    except TrooperError as error:  # of this order, which is tried again at the next look
                        self.say(f"{name(order)}: {error}")

    async def _watch(self, every: float) -> None:
        async for change in self.client.orders.watch(interval=every):
            order, previous = change.order, change.previous
            if previous is None:
                self._seen[order.order_id] = order, await self._read_since(order)
            elif change.kind == "vanished":
                del self._seen[order.order_id]
            else:
                same = order.current_status == previous.current_status
                self._seen[order.order_id] = order, self._seen[order.order_id][1] if same else datetime.now(UTC)

    async def _read_since(self, order: Order) -> datetime:
        """Since when it has its status; from now on, where the history can't be read or is behind."""
        if self.limits.get(order.current_status) is not None:
            with suppress(TrooperError):
                rows = await self.client.orders.history(order)
                dated = [(row.status_since, row.status_user) for row in rows if row.status_since is not None]
                if dated and max(dated)[1] == order.current_status:
                    return max(dated)[0]
        return datetime.now(UTC)

    async def _check(self, order: Order, since: datetime) -> None:
        now, end = datetime.now(UTC), order.paid_until
        if end is not None and now < end <= now + timedelta(minutes=10) and order.current_status != "frozen":
            self._say_once(order, end, "ends soon", f"paid until {end.astimezone():%H:%M}, then renewed or frozen")
        hours, limit = (now - since) / timedelta(hours=1), self.limits.get(order.current_status)
        if limit is None or hours <= limit or not select([order], title=self.title):
            return
        what = "locked, so it stays" if order.is_locked else "freezing it" if self.act else "--act would freeze it"
        if what == "freezing it" and self._said.get((what, order.order_id)) != since:
            fresh = await self.client.orders.get(order)  # it may have been started or locked just now
            if fresh.is_locked or {fresh.current_status, fresh.desired_status} - {order.current_status, None}:
                return
            await self.client.orders.freeze(order)
        self._say_once(order, since, what, f"for {hours:.1f} h: {what}")

    def _say_once(self, order: Order, moment: datetime, what: str, text: str) -> None:
        if self._said.get((what, order.order_id)) != moment:
            self._said[what, order.order_id] = moment
            self.say(f"{name(order)}: {text}")


def name(order: Order) -> str:
    return f"order {order.order_id} ({order.title}, {order.current_status}, {order.price_h} EUR/h)"


async def guard(options: argparse.Namespace) -> int:
    limits = {"stopped": options.stopped_hours, "running": options.running_hours}
    try:
        async with TrooperClient(app="cost_guard") as client:
            await CostGuard(client, limits, options.title, act=options.act).run(every=5)
    except* TrooperError as errors:
        print(errors.exceptions[0], file=sys.stderr)
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Warn before paid periods end, and freeze what idles.")
    parser.add_argument("--stopped-hours", type=float, metavar="H", help="freeze what is stopped for longer")
    parser.add_argument("--running-hours", type=float, metavar="H", help="freeze what runs for longer")
    parser.add_argument("--title", default="*", help="freeze only servers with such a title, like job-*")
    parser.add_argument("--act", action="store_true", help="freeze, instead of only saying so")
    with suppress(KeyboardInterrupt):
        return asyncio.run(guard(parser.parse_args()))
    return 130


if __name__ == "__main__":
    raise SystemExit(main())
