"""Plain data: frozen attrs classes and enums of what the API gives and what the client hands out.

No I/O and no client inside. Money is `Decimal`, times are aware `datetime`s. Only ids and
what the waiters judge by are required; everything else may be missing or null in an answer, and is then None.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Literal

from attrs import Factory, field, frozen

from trooper_async._base import stored
from trooper_async._base.converter import api_names
from trooper_async._base.values import JSON as JSON

Action = Literal["start", "stop", "freeze", "restart", "create", "migrate"]


class OrderStatus(StrEnum):
    """The status words known so far (the full list is not documented). Any other word stays a plain `str`."""

    running = "running"
    stopped = "stopped"
    frozen = "frozen"
    starting = "starting"
    stopping = "stopping"
    freezing = "freezing"
    restarting = "restarting"
    restarted = "restarted"
    migrating = "migrating"
    migrated = "migrated"
    terminated = "terminated"
    reset = "reset"


@frozen
class Blib:
    """An offer: a GPU server configuration that can be ordered (or migrated to)."""

    id: int
    name: str | None = None
    gpu_type: str | None = None
    gpu_num: int | None = None
    gpu_ram: int | None = None
    cpu_cores: int | None = None
    cpu_ram: int | None = None
    hdd: int | None = None
    price_h: Decimal | None = None
    """EUR per hour."""
    is_public: bool | None = None
    country_code: str | None = None
    is_available: bool | None = None
    available_hosts: tuple[str, ...] | None = None
    fit_count: int | None = field(default=None, metadata=api_names("fitCount"))
    max_possible_instances: int | None = field(default=None, metadata=api_names("maxPossibleInstances"))
    additional_cost_per_cycle: Decimal | None = field(default=None, metadata=api_names("additionalCostPerCycle"))
    """EUR per interval over the present one; only in migration options."""


@frozen
class TemplateInstall:
    """A template as it is installed (or being installed) on a server."""

    install_id: int = field(metadata=api_names("install_id", "id"))
    template_id: int | None = None
    template_name: str | None = None
    status: int | None = None
    status_readable: str | None = None
    config: dict[str, JSON] | None = field(default=None, hash=False)


@frozen
class Order:
    """A rented GPU server.

    `current_status` is where the server is, `desired_status` where it is wanted (None where the API gives none).
    """

    order_id: int
    current_status: OrderStatus | str = field(metadata=api_names("current_status", "status"))
    desired_status: OrderStatus | str | None = field(default=None, metadata=api_names("desired_status", "status_user"))
    server_id: int = field(
        default=Factory(lambda order: order.order_id, takes_self=True), metadata=api_names("serverId", "order_id")
    )
    """Equal to the order's id in every sample of the API document."""
    title: str | None = None
    server_name: str | None = None
    machine_name: str | None = None
    ip: str | None = None
    ssh_port: int | None = None
    price_h: Decimal | None = None
    """EUR per hour."""
    paid_until: datetime | None = None
    contract_interval: str | None = None
    is_locked: bool | None = None
    is_low_priority: bool | None = None
    blib_name: str | None = None
    blib_gpu_type: str | None = None
    blib_gpu_num: int | None = None
    country_code: str | None = None
    template_installs: tuple[TemplateInstall, ...] | None = None

    @property
    def is_converged(self) -> bool:
        """Whether the server is where it is wanted; False where the API does not say what is wanted."""
        return self.desired_status is not None and same_word(self.current_status, self.desired_status)


@frozen
class StatusChange:
    """A row of an order's status history. Its `id` says nothing of order in time."""

    status_user: OrderStatus | str
    status_since: datetime | None = None
    status_txt: str | None = None
    id: int | None = None


@frozen
class Transition:
    """An action that the API has accepted, as plain data without secrets: store it, and wait for it later.

    `history_before` is what the history held before a restart was sent (None where it could not be read): a restart
    starts and ends at `running`, so what it is proven by has to be new.
    """

    order_id: int
    action: Action
    target: OrderStatus | str
    history_before: tuple[StatusChange, ...] | None = None
    migration_allowed: bool = False
    """Whether a start may move the server to other hardware, which takes 10 to 90 minutes."""
    departed: bool = False
    """Whether a status other than `running` was seen since a restart was sent: set it on what you store, so that a wait
    after a crash knows of it."""

    def to_json(self) -> str:
        """This transition as JSON text for `from_json`, in another process or a later release too."""
        return stored.write(self, "trooper_transition")

    @classmethod
    def from_json(cls, text: str) -> Transition:
        """The transition that `to_json` wrote.

        Raises:
            ConfigurationError: the text is not a stored transition, or one of a later release.
        """
        return stored.read(text, "trooper_transition", cls)


@frozen
class Credentials:
    """How to log in to a server. The password is in no repr, and credentials can't be pickled."""

    ip: str | None = None
    ssh_port: int | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    status: OrderStatus | str | None = None

    def __reduce__(self) -> str:
        raise TypeError("Credentials hold a password and can't be pickled")

    def __getstate__(self) -> object:
        raise TypeError("Credentials hold a password and can't be pickled or copied")


@frozen
class CurrentOrder:
    """The order that a migration would replace."""

    id: int
    title: str | None = None
    status: OrderStatus | str | None = None
    contract_interval: str | None = None
    paid_until: datetime | None = None


@frozen
class MigrationOptions:
    """What an order can be migrated to."""

    available_blibs: tuple[Blib, ...] = field(metadata=api_names("availableBlibs"))
    current_order: CurrentOrder | None = field(default=None, metadata=api_names("currentOrder"))
    current_blib: Blib | None = field(default=None, metadata=api_names("currentBlib"))


@frozen
class Rate:
    """A price as number and as text (`€0.85/hour`)."""

    amount: Decimal | None = None
    display: str | None = None


@frozen
class MigrationQuote:
    """What migrating `order_id` to `target_blib_id` costs, in EUR."""

    order_id: int
    target_blib_id: int
    total_due: Decimal = field(metadata=api_names("totalDue"))
    upgrade_cost: Decimal | None = field(default=None, metadata=api_names("upgradeCost"))
    remaining_value: Decimal | None = field(default=None, metadata=api_names("remainingValue"))
    additional_cost_per_cycle: Decimal | None = field(default=None, metadata=api_names("additionalCostPerCycle"))
    next_billing_date: datetime | None = field(default=None, metadata=api_names("nextBillingDate"))
    current_rate: Rate | None = field(default=None, metadata=api_names("currentRate"))
    new_rate: Rate | None = field(default=None, metadata=api_names("newRate"))


@frozen
class TemplateOption:
    """A setting of a template; `possible_values` is the API's comma-separated text."""

    id: int
    name: str | None = None
    type: str | None = None
    default_value: str | None = None
    possible_values: str | None = None


@frozen
class Template:
    """A software template that can be installed on a server."""

    id: int
    name: str | None = None
    description: str | None = None
    category: str | None = None
    is_public: bool | None = None
    options: tuple[TemplateOption, ...] | None = None


@frozen
class OrderChange:
    """What `orders.watch()` yields: an order appeared, changed or vanished."""

    order: Order
    previous: Order | None
    """The order as it was yielded before; None for one that appeared."""
    order_id: int
    kind: Literal["appeared", "changed", "vanished"]


@frozen
class Purchase:
    """A purchase of this client, and what is known of it.

    `state`: `open` while it is on the wire, `bought`, `refused` (for certain), `unknown` (the answer was lost), or
    `resolved` (the caller has said what became of it).
    """

    id: str
    kind: Literal["create", "migrate"]
    blib_id: int
    state: Literal["open", "bought", "refused", "unknown", "resolved"]
    at: datetime
    """When it was begun, by this machine's clock."""
    reference: str | None = None
    price_h: Decimal | None = None
    """EUR per hour; for a migration the new rate where the quote has one."""
    order_id: int | None = None
    """The order it bought, where known."""
    migrated_order_id: int | None = None
    """For a migration, the order that it replaces."""


_KNOWN_WORDS = {word.value: word for word in OrderStatus}


def status_word(text: str) -> OrderStatus | str:
    """The known status of that name in any case of letters, else the text itself."""
    return _KNOWN_WORDS.get(text.casefold(), text)


def same_word(one: str, other: str) -> bool:
    """Whether two status words are the same, in any case of letters."""
    return one.casefold() == other.casefold()
