"""Work that survives its process: workflows on DBOS, for waits of hours and accounts by the thousand.

It needs the extra `durable` (`pip install 'trooper-async[durable]'`). With nothing else it keeps its state in a SQLite
file in the working folder, for one process; with a `postgresql://` URL any number of workers share the work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from decimal import Decimal
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

try:
    from dbos import DBOS, SetEnqueueOptions, SetWorkflowID
    from dbos import error as dbos_errors
except ImportError:
    raise ImportError("trooper_async.durable needs DBOS: pip install 'trooper-async[durable]'") from None

from trooper_async import Blib, ConfigurationError, FleetReport, Order, Template, TemplateInstall
from trooper_async._api import arguments
from trooper_async.durable._outcomes import (
    ACTIVE,
    AlreadyResolvedError,
    DatabaseError,
    Handle,
    UndecidedPurchaseError,
    answer,
    asked,
    database_errors,
    derived_id,
)
from trooper_async.durable._process import Accounts, Process
from trooper_async.durable._records import (
    NotBoughtError,
    Request,
    Status,
    Switch,
    Terms,
    is_same,
    new_request,
)
from trooper_async.durable._waiting import installed
from trooper_async.durable._workflows import converge, send

__all__ = ["AlreadyResolvedError", "DatabaseError", "Durable", "Handle", "NotBoughtError", "UndecidedPurchaseError"]

T = TypeVar("T")
_LONG = 7200.0


class Durable:
    """Workflows that go on after a crash, to be used with `async with`; one in a process, which also works on them.

    Each has an id, your own or a derived one; the same id twice is the same work, also after a restart.

    Args:
        accounts: from an account's name to a new client with that account's key, or to an awaitable of it. Each worker
            asks it once per account, and closes what it gave. Keys are nowhere else: not in the database, nor its logs.
        database_url: `postgresql://user@host/database`, for any number of workers; else a SQLite file called after
            `name` in the working folder, for one. Whoever can write to it can run code here (it holds pickles).
        name: of the application: its workers share its work, and another one in the same database has its own, under
            other ids. It is of `a-z`, `0-9`, `_` and `-`, and of 3 characters or more.
        requests_at_once: switches and installs of one account that are sent at the same time, over all workers.
        requests_per_second: switches and installs of one account that are begun in a second, over all workers.

    Raises:
        ConfigurationError: an argument that can't be right; on entering: the database can't be used, or it was closed.
    """

    def __init__(
        self,
        accounts: Accounts,
        *,
        database_url: str | None = None,
        name: str = "trooper",
        requests_at_once: int = 4,
        requests_per_second: int = 10,
    ) -> None:
        for limit in (requests_at_once, requests_per_second):
            if type(limit) is not int or limit < 1:
                raise ConfigurationError("limits must be whole numbers above 0")
        self._process = Process(accounts, database_url, name, requests_at_once, requests_per_second)

    async def __aenter__(self) -> Self:
        await self._process.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let what is being sent get to its end, and stop. All else is gone on with by the next process, or another."""
        await self._process.stop()

    async def switch(
        self,
        account: str,
        order: Order | int,
        action: Switch,
        *,
        migration_allowed: bool = False,
        timeout: float | None = _LONG,
        workflow_id: str | None = None,
    ) -> Handle[Order]:
        """Start, stop, freeze or restart a server, and wait until it has.

        Args:
            account: whose order it is.
            order: the order, or its id.
            action: `start`, `stop`, `freeze` or `restart`.
            migration_allowed: as for `client.orders.start`.
            timeout: seconds from the accepted request, whatever restarts in between; None waits for ever.
            workflow_id: your name for it. Without one, it is the same work as long as the same action on that order
                has not ended, and new work afterwards; with other arguments it is refused meanwhile.
        """
        order_id = arguments.order_id(order)
        if action not in ("start", "stop", "freeze", "restart"):
            raise ConfigurationError(f"no action is called {action!r}: nothing was sent")
        request = new_request(action, timeout)
        request["order_id"], request["migration_allowed"] = order_id, migration_allowed
        return await self._begin(self._process.requests, account, request, workflow_id, f"{action}/{order_id}", _one)

    async def install(
        self,
        account: str,
        order: Order | int,
        template: Template | int,
        *,
        timeout: float | None = _LONG,
        workflow_id: str | None = None,
    ) -> Handle[TemplateInstall]:
        """Install a template on a server, once, and wait until it is there. It gets no settings: one may be a secret.

        Args:
            account: whose order it is.
            order, template: the server's order and the template, or their ids.
            timeout, workflow_id: as for `switch`.
        """
        request = new_request("install", timeout)
        request["order_id"], request["template_id"] = arguments.order_id(order), arguments.template_id(template)
        name = f"install/{request['order_id']}/{request['template_id']}"
        return await self._begin(self._process.requests, account, request, workflow_id, name, installed)

    async def converge(
        self,
        account: str,
        targets: Mapping[int, Status],
        *,
        migration_allowed: bool = False,
        timeout: float | None = _LONG,
        workflow_id: str | None = None,
    ) -> Handle[FleetReport]:
        """Switch each of many orders that is not where it is wanted, and wait for all.

        Args:
            account: whose orders they are.
            targets: order id → `running`, `stopped` or `frozen`.
            migration_allowed, timeout: as for `switch`, each order's.
            workflow_id: as for `switch`; without one, as long as the same targets have not been reached.
        """
        for status in targets.values():
            if status not in ("running", "stopped", "frozen"):
                raise ConfigurationError(f"no server can be switched to {status!r}: nothing was sent")
        request = new_request("converge", timeout)
        wanted: list[tuple[int, Status]] = [
            (arguments.order_id(order_id), status) for order_id, status in sorted(targets.items())
        ]
        request["targets"], request["migration_allowed"] = wanted, migration_allowed
        digest = hashlib.sha256(repr(wanted).encode()).hexdigest()[:16]
        return await self._begin(
            self._process.waits, account, request, workflow_id, f"converge/{digest}", FleetReport.from_json
        )

    async def order(
        self,
        account: str,
        blib: Blib | int,
        *,
        workflow_id: str,
        contract_interval: str,
        terms_accepted: bool,
        max_price_h: Decimal | float,
        total_price: Decimal | float | None = None,
        second_partition_percentage: int | None = None,
        templates: Iterable[Template | int] = (),
        timeout: float | None = _LONG,
    ) -> Handle[Order]:
        """Order a GPU server, once, and wait until it runs. The purchases of an account are made one at a time.

        Args:
            account: who pays.
            blib: the offer, or its id; it is bought at the price that it then has.
            workflow_id: your name for this purchase: under it nothing is bought twice, whatever happens.
            contract_interval, terms_accepted, total_price, second_partition_percentage, templates: as for
                `client.orders.create`.
            max_price_h: the most that it may cost, in EUR per hour.
            timeout: seconds from the accepted purchase, or from the decision of one that was undecided, whatever
                restarts in between; None waits for ever.
        """
        request = new_request("create", timeout)
        request["blib_id"] = arguments.blib_id(blib)
        request["max_price"] = arguments.money(max_price_h, "max_price_h")
        request["terms"] = Terms(
            contract_interval=contract_interval,
            terms_accepted=terms_accepted,
            total_price=None if total_price is None else arguments.money(total_price, "total_price"),
            second_partition_percentage=second_partition_percentage,
            templates=[arguments.template_id(template) for template in templates],
        )
        return await self._begin(self._process.purchases, account, request, workflow_id, "", _one)

    async def migrate(
        self,
        account: str,
        order: Order | int,
        blib: Blib | int,
        *,
        keep_data: bool,
        max_total_due: Decimal | float,
        timeout: float | None = _LONG,
        workflow_id: str | None = None,
    ) -> Handle[Order]:
        """Buy a migration, once, and wait until the new order runs. It takes its turn among the account's purchases.

        Args:
            account: who pays.
            order, blib: what is migrated, and to what; or their ids.
            keep_data: whether the server's data moves along.
            max_total_due: the most that may be due now, in EUR.
            timeout: as for `order`.
            workflow_id: as for `switch`.
        """
        request = new_request("migrate", timeout)
        request["order_id"], request["blib_id"] = arguments.order_id(order), arguments.blib_id(blib)
        request["keep_data"], request["max_price"] = keep_data, arguments.money(max_total_due, "max_total_due")
        name = f"migrate/{request['order_id']}"
        return await self._begin(self._process.purchases, account, request, workflow_id, name, _one)

    async def undecided(self) -> list[UndecidedPurchaseError]:
        """The purchases, of all accounts and workers, that wait until somebody says whether they were made.

        Raises:
            DatabaseError: it can't be asked.
        """
        queue = self._process.purchases
        with database_errors("undecided purchases"):
            rows = await DBOS.list_workflows_async(queue_name=queue, status=ACTIVE, load_output=False)
            found = [await asked(row.workflow_id, row.queue_partition_key) for row in rows]
        return [error for error in found if error is not None]

    async def resolve(self, what: UndecidedPurchaseError | str, order: Order | int | None) -> None:
        """Say what became of a purchase that waits for it: its workflow goes on with that order, or ends.

        Returns once its workflow has taken that. The first decision holds; who says the same again is right, too. A
        request may take 180 s, and then go through: that no candidate is found proves nothing for some minutes. Look at
        the account again after them, before you answer None.

        Args:
            what: the error, or the workflow's id.
            order: the order that was bought; None: it was not made.

        Raises:
            AlreadyResolvedError: somebody was first, with another decision.
            ConfigurationError: no such purchase waits for a decision; no `Durable` is open, or it was closed meanwhile.
            DatabaseError: the database can't be used: say it again later.
        """
        workflow_id = what if isinstance(what, str) else what.purchase.id
        order_id = None if order is None else arguments.order_id(order)
        await answer(workflow_id, order_id)

    async def _begin(
        self, queue: str, account: str, request: Request, chosen: str | None, derived: str, read: Callable[[str], T]
    ) -> Handle[T]:
        if not isinstance(account, str) or not account:
            raise ConfigurationError("an account is a text that is not empty: nothing was sent")
        given = chosen is not None or not derived  # a purchase has none that is derived: it would be another each time
        if given and (not isinstance(chosen, str) or not chosen.strip() or "/" in chosen):
            raise ConfigurationError("a workflow_id is a text that is not empty, without a slash: nothing was sent")
        fleet = request["action"] == "converge"
        with database_errors(chosen or derived):
            workflow_id = chosen or await derived_id(f"{self._process.name}/{quote(account, safe='')}/{derived}/")
            partition = SetEnqueueOptions(queue_partition_key=None if fleet else account)
            with SetWorkflowID(workflow_id), partition, suppress(dbos_errors.DBOSConflictingWorkflowError):
                await DBOS.enqueue_workflow_async(queue, converge if fleet else send, account, request)
            known = await DBOS.get_workflow_status_async(workflow_id)
        ours = known is not None and known.application_name == self._process.name and known.input
        if not ours or not is_same(ours["args"], account, request):
            raise ConfigurationError(f"the workflow_id {workflow_id!r} is that of other work: nothing was sent")
        return Handle(workflow_id, read)


def _one(text: str) -> Order:
    (outcome,) = FleetReport.from_json(text).outcomes
    assert outcome.order is not None  # noqa: S101 - a wait that ended otherwise has raised
    return outcome.order
