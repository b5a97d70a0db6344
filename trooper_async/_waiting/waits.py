"""The waits of one client, and the polls that they share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from copy import deepcopy
from operator import attrgetter
from typing import TypeVar, Unpack
from weakref import WeakValueDictionary

from attrs import evolve

from trooper_async._api.arguments import check_seconds
from trooper_async._api.endpoints import BLIBS, CREDENTIALS, ORDERS, TEMPLATE_CONFIG, Call, Sent
from trooper_async._base.converter import ids_of
from trooper_async._base.json_text import JSON
from trooper_async._base.timeouts import timeout_at
from trooper_async._http.retry import ONE_ATTEMPT
from trooper_async._http.transport import Transport
from trooper_async._waiting.histories import Histories
from trooper_async._waiting.judges import Judge, ReachJudge, Verdict, judge_of
from trooper_async._waiting.poller import Poller
from trooper_async._waiting.schedule import PollSchedule
from trooper_async._waiting.ssh import ssh_responds
from trooper_async._waiting.store import Items, Store
from trooper_async._waiting.wait import Wait, WaitOptions
from trooper_async.errors import (
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    ClientClosedError,
    OutcomeUnknownError,
    ResponseFormatError,
    WaitTimeoutError,
)
from trooper_async.models import Blib, Credentials, Order, TemplateInstall, Transition

T = TypeVar("T")

LOG = logging.getLogger("trooper_async.waiters")


def _order_id(row: JSON) -> int | None:
    ids = ids_of(row)
    return None if ids is None else ids[0]


def _detached(order: Order) -> Order:
    if not any(install.config for install in order.template_installs or ()):
        return order
    return evolve(order, template_installs=deepcopy(order.template_installs))  # their settings are mutable


ORDER_LIST = Items(Order, attrgetter("order_id"), _order_id, _detached)
OFFER_LIST = Items(Blib, attrgetter("id"), lambda row: None)
INSTALL_LIST = Items(TemplateInstall, attrgetter("install_id"), lambda row: None)


class Waits:
    """The waits of one client."""

    def __init__(self, transport: Transport, schedule: PollSchedule) -> None:
        self._transport = transport
        self.schedule = schedule
        self.orders: Poller[Order] = Poller(Store(transport, ORDERS, ORDER_LIST, "the orders"), schedule)
        self.offers: Poller[Blib] = Poller(Store(transport, BLIBS, OFFER_LIST, "the offers"), schedule)
        self._installs: WeakValueDictionary[int, Poller[TemplateInstall]] = WeakValueDictionary()
        self._histories = Histories(transport)

    def installs(self, order_id: int) -> Poller[TemplateInstall]:
        """The poll of the templates installed on an order's server."""
        poller = self._installs.get(order_id)
        if poller is None:
            name = f"the installs of order {order_id}"
            store = Store(self._transport, TEMPLATE_CONFIG, INSTALL_LIST, name, {"order_id": order_id})
            # a 403 may mean "not yet" here: the orders' poll detects a refused key
            poller = self._installs[order_id] = Poller(store, self.schedule, refusals=(AuthenticationError,))
        return poller

    def begin(
        self,
        order_id: int,
        judge: Judge,
        *,
        lost: OutcomeUnknownError | None = None,
        on_end: Callable[[Wait], object],
        **options: Unpack[WaitOptions],
    ) -> Wait:
        """Begin to wait until `judge` decides that it is over. `on_end` is called when the wait has ended."""
        histories = self._histories
        wait = Wait(order_id=order_id, judge=judge, lost=lost, on_end=on_end, histories=histories, **options)
        try:
            self.orders.join(wait, wait.operation, f"order {order_id}")
        except ClientClosedError as error:
            if judge.transition is None:
                raise
            wait.fail(error)  # its action was sent, and the error has to say so
        return wait

    def abandon(self, wait: Wait) -> None:
        """End a wait whose result nobody needs any more."""
        wait.cancel()
        self.orders.drop(wait)

    async def settle(self) -> None:
        """Wait for the end of requests that ended waits have left behind."""
        await self._histories.settle()
        await self.orders.settle()

    def transition(
        self, transition: Transition, *, lost: OutcomeUnknownError | None = None, **options: Unpack[WaitOptions]
    ) -> Awaitable[Order]:
        """Wait until an accepted action has taken effect: see `order`. `lost` is its error if its response was lost."""
        return self.order(transition.order_id, judge_of(transition, self.schedule), lost=lost, **options)

    async def order(
        self, order_id: int, judge: Judge, *, lost: OutcomeUnknownError | None = None, **options: Unpack[WaitOptions]
    ) -> Order:
        """Wait until `judge` decides that the wait is over, and return the order as it is then.

        Raises:
            WaitTimeoutError: `timeout` seconds have passed.
            SupersededError, OrderVanishedError, WaitError: the judge decided so, or the API refuses the key.
            ClientClosedError: the client was closed in the meantime.
        """
        check_seconds(options["timeout"], operation=options["operation"])
        ended = asyncio.get_running_loop().create_future()

        def done(_: Wait) -> None:
            if not ended.done():
                ended.set_result(None)

        wait = self.begin(order_id, judge, lost=lost, on_end=done, **options)
        try:
            await ended
        finally:
            self.abandon(wait)
            await self.settle()
        return wait.result(self.orders)

    async def reachable(self, order_id: int, *, operation: str, timeout: float | None) -> Credentials:
        """Wait until a server runs and an SSH server responds at the address in its credentials.

        Raises:
            WaitTimeoutError, SupersededError, OrderVanishedError, WaitError, ClientClosedError: as for `order`.
        """
        check_seconds(timeout, operation=operation)
        loop = asyncio.get_running_loop()
        wake_up = asyncio.Event()
        judge = ReachJudge(cap=self.schedule.cap, on_seen=wake_up.set)
        wait = self.begin(order_id, judge, on_end=lambda _: wake_up.set(), operation=operation, timeout=timeout)
        credentials: Credentials | None = None
        credentials_of: Order | None = None
        try:
            while not wait.ended:
                wake_up.clear()
                async with timeout_at(wait.deadline):
                    if judge.running and (credentials is None or wait.order != credentials_of):
                        credentials_of, credentials = wait.order, await self._credentials(wait)
                    if (
                        judge.running
                        and credentials is not None
                        and await ssh_responds(credentials.ip, credentials.ssh_port)
                        and judge.running
                        and wait.order == credentials_of  # it has not changed meanwhile
                    ):
                        return credentials
                    pause = self.schedule.interval(loop.time() - wait.joined)
                    with suppress(TimeoutError):
                        async with timeout_at(loop.time() + pause if judge.running else None):
                            await wake_up.wait()
        except TimeoutError:
            wait.expire()
        finally:
            self.abandon(wait)
            await self.settle()
        if judge.running and wait.verdict is Verdict.TIMED_OUT:
            text = f"it is running, but no SSH server responded within {timeout or 0:g} s"
            if credentials is None and wait.other_error is not None:
                text += f", since its credentials can't be read: {wait.other_error.message}"
            raise WaitTimeoutError(text, **wait.context(self.orders))
        raise wait.failure(self.orders)

    async def close(self) -> None:
        """End every wait with ClientClosedError, and the polls."""
        await self.orders.close()
        await self.offers.close()
        for poller in list(self._installs.values()):
            await poller.close()
        await self._histories.settle()

    async def _credentials(self, wait: Wait) -> Credentials | None:
        """The credentials of a server that was just seen running; None as long as the API does not return them."""
        assert wait.order is not None  # noqa: S101 - it was seen running
        sent: Sent = {"serverId": wait.order.server_id}
        request = Call(CREDENTIALS, "orders.credentials", f"order {wait.order_id}", sent)
        try:
            return await self._transport.request(request, retry=ONE_ATTEMPT)
        except (APIConnectionError, APIStatusError, ResponseFormatError) as error:
            if isinstance(error, AuthenticationError) and isinstance(wait.other_error, AuthenticationError):
                wait.fail(error)  # twice in a row: a 403 may mean "not yet", a 401 may not
            wait.other_error = error
            LOG.info("order %d: its credentials can't be read yet: %s", wait.order_id, error.message)
            return None
