"""Plain data: frozen attrs classes and enums for what the API sends and what the client returns.

No I/O and no client inside. Money is `Decimal` in EUR, times are aware `datetime`s. Of what the API sends, only ids and
status words are required; any other field is None if the API does not send it, or sends something unreadable. `extra`
holds what a model does not know.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: F401 - `get_type_hints` of a constructor looks for that of `extra` here
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Literal

from attrs import Factory, field, frozen

from trooper_async._base import stored
from trooper_async._base.converter import api_names
from trooper_async._base.errors import ConfigurationError
from trooper_async._base.json_text import JSON as JSON
from trooper_async._base.model import APIModel, Model

Action = Literal["start", "stop", "freeze", "restart", "create", "migrate"]
"""What can be requested for an order. `create` and `migrate` are purchases."""


class OrderStatus(StrEnum):
    """The status words known so far; the full list is not documented. Any other word stays a plain `str`."""

    running = "running"
    """It is running, and its full price is billed."""
    stopped = "stopped"
    """It is shut down, but keeps its GPU, CPU and RAM: it starts within seconds, and 35 % of its price is billed."""
    frozen = "frozen"
    """It is archived and its resources are released: starting takes longer, and its IP and ports may change."""
    starting = "starting"
    """It is changing to `running`."""
    stopping = "stopping"
    """It is changing to `stopped`."""
    freezing = "freezing"
    """It is changing to `frozen`."""
    restarting = "restarting"
    """A forced power reset is in progress."""
    restarted = "restarted"
    """A restart was requested; only as the desired status."""
    migrating = "migrating"
    """It is being moved to other hardware, which takes 10 to 90 minutes."""
    migrated = "migrated"
    """It has been moved to other hardware."""
    terminated = "terminated"
    """It is permanently removed."""
    reset = "reset"
    """Its data is wiped and its system is reinstalled; its ports may change."""


@frozen
class Blib(APIModel):
    """An offer, which the API calls a blib: a GPU server configuration that can be ordered or migrated to.

    From `GET /api/blibs`, `GET /api/blibs-private` and `GET /api/migration-options`.
    """

    id: int
    """What `orders.create` and `migrations.quote` take."""
    name: str | None = None
    """The configuration's name."""
    gpu_type: str | None = None
    """The GPU model, such as `RTX 4090`."""
    gpu_num: int | None = None
    """How many GPUs."""
    gpu_ram: int | None = None
    """GPU memory in GB."""
    cpu_cores: int | None = None
    """How many CPU cores."""
    cpu_ram: int | None = None
    """Main memory in GB."""
    hdd: int | None = None
    """Disk space in GB."""
    price_h: Decimal | None = None
    """EUR per hour."""
    is_public: bool | None = None
    """Whether everybody can order it; otherwise it belongs to a private network."""
    country_code: str | None = None
    """Where it is, such as `DE`."""
    is_available: bool | None = None
    """Whether one can be ordered now."""
    available_hosts: tuple[str, ...] | None = None
    """The machines that have room for it. Only in `/api/blibs`."""
    fit_count: int | None = field(default=None, metadata=api_names("fitCount"))
    """`fitCount`, which the API's document does not explain. Only in `/api/blibs`."""
    max_possible_instances: int | None = field(default=None, metadata=api_names("maxPossibleInstances"))
    """How many can be ordered at most. Only in `/api/blibs`."""
    additional_cost_per_cycle: Decimal | None = field(default=None, metadata=api_names("additionalCostPerCycle"))
    """EUR per contract interval, in addition to the price of the present server. Only in `/api/migration-options`."""


@frozen
class TemplateInstall(APIModel):
    """A template that is installed, or being installed, on a server.

    From `GET /api/template-config`, and with fewer fields in each order of `GET /api/orders`.
    """

    install_id: int = field(metadata=api_names("install_id", "id"))
    """What `templates.remove` and `templates.retry` take."""
    template_id: int | None = None
    """The template's id. Not in an order."""
    template_name: str | None = None
    """The template's name."""
    status: int | None = None
    """A code: 1 is completed, the others are not documented."""
    status_readable: str | None = None
    """The status as a word, such as `Completed`."""
    config: dict[str, JSON] | None = field(default=None, hash=False, repr=False)
    """The settings that it was installed with. They may be passwords, so they are not in the repr. Not in an order."""


@frozen
class Order(APIModel):
    """A rented GPU server. From `GET /api/orders`."""

    order_id: int
    """What the methods of `client.orders` take."""
    current_status: OrderStatus | str = field(metadata=api_names("current_status", "status"))
    """The status of the server now."""
    desired_status: OrderStatus | str | None = field(default=None, metadata=api_names("desired_status", "status_user"))
    """The status last requested, by anyone, or set at the end of a paid period."""
    server_id: int = field(
        default=Factory(lambda order: order.order_id, takes_self=True), metadata=api_names("serverId", "order_id")
    )
    """The id that the API's own requests about the server take; equal to `order_id` in all samples of its document."""
    title: str | None = None
    """The name that `orders.rename` sets."""
    server_name: str | None = None
    """The server's name."""
    machine_name: str | None = None
    """The name of the machine that it runs on."""
    ip: str | None = None
    """Its address. It may change when the server is frozen."""
    ssh_port: int | None = None
    """The port of its SSH server. It may change when the server is frozen, migrated or reset."""
    price_h: Decimal | None = None
    """EUR per hour while it is running."""
    paid_until: datetime | None = None
    """The end of the prepaid period. With auto-renewal off, the server is frozen then."""
    contract_interval: str | None = None
    """What is prepaid and renewed at a time, such as `HOUR`."""
    is_locked: bool | None = None
    """Whether it is locked against changes of its status (`orders.lock`)."""
    is_low_priority: bool | None = None
    """Whether it is a low-priority server; the API's document does not say what that means."""
    blib_name: str | None = None
    """The name of the offer that was ordered."""
    blib_gpu_type: str | None = None
    """Its GPU model."""
    blib_gpu_num: int | None = None
    """How many GPUs it has."""
    country_code: str | None = None
    """Where it is, such as `DE`."""
    template_installs: tuple[TemplateInstall, ...] | None = None
    """The templates that are installed, or being installed, on it."""

    @property
    def is_converged(self) -> bool:
        """Whether the current status is the desired one; False if the API gives no desired status."""
        return self.desired_status is not None and same_word(self.current_status, meant(self.desired_status))


@frozen
class StatusChange(APIModel):
    """A row of a server's status history, which has the last five. From `GET /api/order-status-history`."""

    status_user: OrderStatus | str
    """The status that it changed to."""
    status_since: datetime | None = None
    """When it changed."""
    status_txt: str | None = None
    """What happened, in the API's words."""
    id: int | None = None
    """The row's id. Later rows may have lower ids."""


TARGETS: dict[Action, OrderStatus] = {
    "start": OrderStatus.running,
    "stop": OrderStatus.stopped,
    "freeze": OrderStatus.frozen,
    "restart": OrderStatus.running,
    "create": OrderStatus.running,
    "migrate": OrderStatus.running,
}
"""The status that each action leads to."""


@frozen
class Transition(Model):
    """An action that the API has accepted, as plain data without secrets: store it, and wait for it later.

    Raises:
        ConfigurationError: the fields contradict each other, such as a `stop` towards `running`.
    """

    order_id: int
    """The order that changes; for a migration, the new one."""
    action: Action
    """What was requested."""
    target: OrderStatus | str
    """The status that it leads to."""
    history_before: tuple[StatusChange, ...] | None = None
    """The status history before a restart was sent; None for other actions, or if it could not be read. A restart
    begins and ends at `running`, so only a new row proves it.
    """
    migration_allowed: bool = False
    """Whether a start may move the server to other hardware, which takes 10 to 90 minutes."""
    departed: bool = False
    """Whether a status other than `running` was seen after a restart was sent. Set it on a stored transition, so that a
    wait after a crash knows about it.
    """

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.order_id, int) or self.order_id <= 0:
            raise ConfigurationError("the order_id of a Transition must be a whole number above 0")
        if self.action not in TARGETS or not same_word(self.target, TARGETS[self.action]):
            raise ConfigurationError(f"a Transition cannot {self.action!s:.20} towards {self.target!s:.20}")

    def to_json(self) -> str:
        """Return this transition as text, to be stored.

        Returns:
            JSON text for `from_json`, in another process or a later release too.
        """
        return stored.write(self, "trooper_transition")

    @classmethod
    def from_json(cls, text: str) -> Transition:
        """Read the transition that `to_json` wrote.

        Args:
            text: what `to_json` returned.

        Returns:
            The transition. Pass it to `orders.wait`.

        Raises:
            ConfigurationError: the text is not a stored transition, is damaged, or was written by a later release.
        """
        return stored.read(text, "trooper_transition", cls)


@frozen
class Credentials(APIModel):
    """How to log in to a server. From `POST /api/credentials`.

    The password is not in the repr, and credentials cannot be pickled. `to_dict` includes the password.
    """

    ip: str | None = None
    """The address to connect to."""
    ssh_port: int | None = None
    """The port of the SSH server."""
    username: str | None = None
    """The user to log in as, such as `root`."""
    password: str | None = field(default=None, repr=False)
    """The password for SSH."""
    status: OrderStatus | str | None = None
    """The status of the server now."""

    def __getstate__(self) -> object:
        raise TypeError("Credentials hold a password, and can't be pickled or copied")


@frozen
class CurrentOrder(APIModel):
    """The order that a migration would replace. In `GET /api/migration-options`."""

    id: int
    """The order's id."""
    title: str | None = None
    """The server's title."""
    status: OrderStatus | str | None = None
    """The status of the server now."""
    contract_interval: str | None = None
    """What is prepaid and renewed at a time, such as `HOUR`."""
    paid_until: datetime | None = None
    """The end of the prepaid period."""


@frozen
class MigrationOptions(APIModel):
    """What an order can be migrated to. From `GET /api/migration-options`."""

    available_blibs: tuple[Blib, ...] = field(metadata=api_names("availableBlibs"))
    """The offers that it can be migrated to."""
    current_order: CurrentOrder | None = field(default=None, metadata=api_names("currentOrder"))
    """The order as it is."""
    current_blib: Blib | None = field(default=None, metadata=api_names("currentBlib"))
    """The offer that the order has now."""


@frozen
class Rate(APIModel):
    """A price as number and as text. In `POST /api/migration-cost`."""

    amount: Decimal | None = None
    """EUR per hour, or per what `display` says."""
    display: str | None = None
    """The price as text, such as `€0.85/hour`."""


@frozen
class MigrationQuote(APIModel):
    """What a migration costs. From `POST /api/migration-cost`."""

    order_id: int
    """The order that would be replaced."""
    target_blib_id: int
    """The offer that it would be migrated to."""
    total_due: Decimal = field(metadata=api_names("totalDue"))
    """EUR to pay now."""
    upgrade_cost: Decimal | None = field(default=None, metadata=api_names("upgradeCost"))
    """EUR for the new server, before `remaining_value` is deducted."""
    remaining_value: Decimal | None = field(default=None, metadata=api_names("remainingValue"))
    """EUR left of what was paid for the present server."""
    additional_cost_per_cycle: Decimal | None = field(default=None, metadata=api_names("additionalCostPerCycle"))
    """EUR per contract interval, in addition to the present price."""
    next_billing_date: datetime | None = field(default=None, metadata=api_names("nextBillingDate"))
    """When the next interval is billed."""
    current_rate: Rate | None = field(default=None, metadata=api_names("currentRate"))
    """The price now."""
    new_rate: Rate | None = field(default=None, metadata=api_names("newRate"))
    """The price after the migration."""


@frozen
class TemplateOption(APIModel):
    """A setting of a template. In `GET /api/templates`."""

    id: int
    """The setting's id."""
    name: str | None = None
    """Its name."""
    type: str | None = None
    """What kind of value it takes, such as `select`."""
    default_value: str | None = None
    """Its value if none is given."""
    possible_values: str | None = None
    """The values that it may have, separated by commas."""


@frozen
class Template(APIModel):
    """A software template that can be installed on a server. From `GET /api/templates`."""

    id: int
    """What `templates.install` and `orders.create` take."""
    name: str | None = None
    """The template's name."""
    description: str | None = None
    """What it installs."""
    category: str | None = None
    """Such as `Machine Learning`."""
    is_public: bool | None = None
    """Whether everybody can install it."""
    options: tuple[TemplateOption, ...] | None = None
    """Its settings, for the `config` of `templates.install`."""


@frozen
class OrderChange(Model):
    """An order that appeared, changed or vanished: what `orders.watch()` yields."""

    order: Order
    """The order as it is, or as it was last seen if it vanished."""
    previous: Order | None
    """The order as it was yielded last; None if it appeared."""
    order_id: int
    """The order's id."""
    kind: Literal["appeared", "changed", "vanished"]
    """What happened to it."""


@frozen
class Purchase(Model):
    """A purchase of this client, and what is known of it."""

    id: str
    """The purchase's own id, given by this package."""
    kind: Literal["create", "migrate"]
    """Whether a server was ordered or migrated."""
    blib_id: int
    """The offer that was bought."""
    state: Literal["open", "bought", "refused", "unknown", "resolved"]
    """`open` (in flight), `bought`, `refused` (certainly not made), `unknown` (the response was lost), or `resolved`
    (the caller said what became of it)."""
    at: datetime
    """When it began, by this machine's clock."""
    reference: str | None = None
    """The caller's own name for it."""
    price_h: Decimal | None = None
    """EUR per hour; for a migration the new rate, if the quote has one."""
    order_id: int | None = None
    """The order that was bought, if known."""
    migrated_order_id: int | None = None
    """For a migration, the order that it replaces."""
    delivered: bool = False
    """Whether the result reached its caller; False if the call was cancelled before that."""


_KNOWN_WORDS = {word.value: word for word in OrderStatus}


def status_word(text: str) -> OrderStatus | str:
    """The known status with that name, ignoring case; otherwise the text itself."""
    return _KNOWN_WORDS.get(text.casefold(), text)


def same_word(one: str, other: str) -> bool:
    """Whether two status words are the same, ignoring case."""
    return one.casefold() == other.casefold()


def meant(desired: str) -> str:
    """The status that a desired status asks for: a restart ends at `running`."""
    return OrderStatus.running if desired.casefold() in ("restarted", "restarting") else desired
