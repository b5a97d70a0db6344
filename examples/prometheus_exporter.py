"""Prometheus metrics of the account's servers: status, EUR per hour, outages of the API, unresolved purchases.

    pip install prometheus-client
    TROOPER_API_KEY=… python examples/prometheus_exporter.py --ledger purchases.jsonl

Prometheus then reads http://127.0.0.1:9877/metrics. It only reads: it changes nothing, costs nothing, and leaves
nothing behind. While the API does not respond, `trooper_up` is 0 and there are no series of servers, so that no old
status looks current; the age of the last successful poll counts from the start if there was none yet. `--ledger` may be
repeated; a ledger is read while other programs buy with it. `--host` opens it to other machines; it has no login. A
port that is in use or a key that is refused ends it with 1. Alerts worth having:

    trooper_last_good_poll_age_seconds > 300          sum(trooper_server_eur_per_hour) > 20
    trooper_purchases_unresolved > 0                  trooper_server_converged == 0, for: 90m
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from trooper_async import (
    AuthenticationError,
    ConfigurationError,
    Order,
    Purchase,
    RetryPolicy,
    TrooperClient,
    TrooperError,
    cost_h,
    read_ledger,
)

LOG = logging.getLogger("exporter")
IN_TIME = timedelta(hours=1)
"""An undelivered purchase that is older than this has lost its caller, since an order is waited for half an hour."""


class Account(Collector):
    """The known state of the account. It is polled on the event loop and collected in the threads of the HTTP
    server.
    """

    def __init__(self, ledgers: Sequence[str]) -> None:
        self._ledgers = ledgers
        self._orders: Sequence[Order] | None = None  # of the last poll, if it succeeded
        self._last_good = time.monotonic()
        self._outages = 0
        self._fails = self._was_good = False

    async def poll(self, client: TrooperClient) -> None:
        try:
            self._orders = await client.orders.find()
        except TrooperError as error:
            if isinstance(error, AuthenticationError | ConfigurationError) and not self._was_good:
                raise
            LOG.warning("%s", error)
            self._outages += not self._fails
            self._orders, self._fails = None, True
        else:
            self._last_good, self._fails, self._was_good = time.monotonic(), False, True

    def collect(self) -> Iterator[Metric]:
        orders, age = self._orders, time.monotonic() - self._last_good
        yield GaugeMetricFamily("trooper_up", "Whether the last poll succeeded.", orders is not None)
        yield CounterMetricFamily("trooper_outages", "Times that polls began to fail.", self._outages)
        yield GaugeMetricFamily("trooper_last_good_poll_age_seconds", "Age of the last good poll.", age)

        labels = ["order", "title"]
        status = GaugeMetricFamily("trooper_server_status", "1 for the current status.", labels=[*labels, "status"])
        converged = GaugeMetricFamily("trooper_server_converged", "Whether it is in the desired status.", labels=labels)
        price = GaugeMetricFamily("trooper_server_eur_per_hour", "Cost, where it is documented.", labels=labels)
        for order in orders or ():
            server = [str(order.order_id), order.title or ""]
            status.add_metric([*server, order.current_status], 1)
            if order.desired_status is not None:
                converged.add_metric(server, order.is_converged)
            if (cost := cost_h(order)) is not None:
                price.add_metric(server, float(cost))
        yield from (status, converged, price)

        unresolved = GaugeMetricFamily("trooper_purchases_unresolved", "To be resolved by hand.", labels=["ledger"])
        for ledger in self._ledgers:
            try:
                unresolved.add_metric([ledger], sum(is_unresolved(one) for one in read_ledger(ledger)))
            except TrooperError as error:  # no series rather than a 0
                LOG.warning("%s", error)
        yield unresolved


def is_unresolved(purchase: Purchase) -> bool:
    lost = purchase.state == "open" or (purchase.state == "bought" and not purchase.delivered)
    return purchase.state == "unknown" or (lost and datetime.now(UTC) - purchase.at > IN_TIME)


async def main() -> None:
    parser = argparse.ArgumentParser(description="Prometheus metrics of the account's GPU servers.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=9877, help="port to listen on (%(default)s)")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two polls (%(default)s)")
    parser.add_argument("--ledger", action="append", default=[], help="a file that records purchases")
    options = parser.parse_args()
    if not 0 < options.every < 86400:
        parser.error("--every is a number of seconds above 0")
    task = asyncio.current_task()
    assert task is not None
    with suppress(NotImplementedError):  # on Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    account, registry = Account(options.ledger), CollectorRegistry()
    registry.register(account)
    try:
        server, thread = start_http_server(options.port, options.host, registry)
    except (OSError, OverflowError) as error:
        raise SystemExit(f"cannot listen on {options.host}, port {options.port}: {error}") from None
    try:
        # no retries: a poll is repeated anyway, and until it has failed the last statuses look like the present ones
        async with TrooperClient(app="prometheus_exporter", retry=RetryPolicy(attempts=1)) as client:
            await account.poll(client)
            LOG.info("http://%s:%d/metrics", options.host, server.server_port)
            while True:
                await asyncio.sleep(options.every)
                await account.poll(client)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(main())
    except TrooperError as error:
        raise SystemExit(str(error)) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        pass
