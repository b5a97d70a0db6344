"""Every endpoint over real HTTP, in every dialect: what is sent, what is returned, and what each refusal becomes. The
bodies are those of the API document, with other ids: an order whose server has another id shows which of the two an
endpoint gets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from tests.helpers.conditions import until
from trooper_async import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    Blib,
    ConfigurationError,
    CurrentOrder,
    MigrationQuote,
    NotFoundError,
    Order,
    OrderNotFoundError,
    PermissionDeniedError,
    Rate,
    RefusedError,
    ResponseFormatError,
    RetryPolicy,
    ServerError,
    ServerLockedError,
    StatusChange,
    Template,
    TemplateInstall,
    TemplateOption,
    Transition,
    TrooperClient,
)
from trooper_async.testing import FakeTrooper

ORDER, SERVER = 123, 987
FAST = RetryPolicy(max_delay=0.0)

Verb = Callable[[TrooperClient, Order | int], Awaitable[object]]
VERBS: dict[str, tuple[Verb, str]] = {
    "start": (lambda trooper, order: trooper.orders.start(order), "/api/order-status"),
    "stop": (lambda trooper, order: trooper.orders.stop(order), "/api/order-status"),
    "restart": (lambda trooper, order: trooper.orders.restart(order), "/api/order-status"),
    "freeze": (lambda trooper, order: trooper.orders.freeze(order), "/api/order-status"),
    "rename": (lambda trooper, order: trooper.orders.rename(order, "Other"), "/api/order-title"),
    "lock": (lambda trooper, order: trooper.orders.lock(order), "/api/order-lock"),
    "unlock": (lambda trooper, order: trooper.orders.unlock(order), "/api/order-lock"),
    "credentials": (lambda trooper, order: trooper.orders.credentials(order), "/api/credentials"),
}


@dataclass
class Scene:
    """A fake API in one of its dialects, a client of it, and an order whose server has another id."""

    fake: FakeTrooper
    trooper: TrooperClient
    order: Order
    loose: bool

    def sent(self) -> list[tuple[str, str, dict[str, str], Any]]:
        """All requests to the API: method, path, query, JSON."""
        return [(request.method, request.path, request.query, request.json) for request in self.fake.requests]

    def unless_loose(self, value: Any) -> Any:
        """The value, or None where the loose dialect leaves it out or makes it null."""
        return None if self.loose else value


@pytest.fixture(params=["document", "prose", "loose"])
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    async with FakeTrooper(profile=request.param, durations={"install": 0.0}) as fake:
        order = fake.add_order(order_id=ORDER, server_id=SERVER, status="running", title="My PyTorch Server")
        async with fake.client(retry=FAST) as trooper:
            yield Scene(fake, trooper, order, request.param == "loose")


# --- the 18 endpoints ---------------------------------------------------------------------------------------------


async def test_ping_returns_the_text(scene: Scene) -> None:
    """`ping` sends GET /api/test and returns its text."""
    assert await scene.trooper.ping() == "meinstring5"
    assert scene.sent() == [("GET", "/api/test", {}, None)]


async def test_blibs_list_returns_every_field(scene: Scene) -> None:
    """`blibs.list` sends GET /api/blibs and returns every field of every offer."""
    blibs = await scene.trooper.blibs.list()

    assert scene.sent() == [("GET", "/api/blibs", {}, None)]
    assert [blib.id for blib in blibs] == [1, 2, 3, 4, 5]
    assert blibs[2] == Blib(
        id=3,
        name="V100 Single",
        gpu_type="V100",
        gpu_num=1,
        gpu_ram=16,
        cpu_cores=6,
        cpu_ram=scene.unless_loose(24),
        hdd=250,
        price_h=Decimal("0.195"),
        is_public=True,
        country_code=scene.unless_loose("DE"),
        is_available=True,
        available_hosts=("ai18", "ai89"),
        fit_count=scene.unless_loose(2),
        max_possible_instances=5,
    )
    assert blibs[3].is_available is False


async def test_blibs_list_needs_no_key(scene: Scene) -> None:
    """Without a key `blibs.list` returns the public offers only; with one, it sends the key."""
    async with scene.fake.client(api_key=None) as stranger:
        offers = await stranger.blibs.list()

    assert [blib.id for blib in offers] == [1, 2, 3, 4]
    assert 5 in [blib.id for blib in await scene.trooper.blibs.list()]


async def test_blibs_list_private_returns_every_field(scene: Scene) -> None:
    """`blibs.list_private` sends GET /api/blibs-private, which does not tell the availability."""
    blibs = await scene.trooper.blibs.list_private()

    assert scene.sent() == [("GET", "/api/blibs-private", {}, None)]
    assert blibs[4] == Blib(
        id=5,
        name="RTX 4090 Quad Private",
        gpu_type="RTX 4090",
        gpu_num=4,
        gpu_ram=24,
        cpu_cores=32,
        cpu_ram=scene.unless_loose(128),
        hdd=2000,
        price_h=Decimal("3.3"),
        is_public=False,
        country_code=scene.unless_loose("DE"),
    )


async def test_orders_create_sends_the_documented_body(scene: Scene) -> None:
    """`orders.create` sends the document's body, prices as the same JSON numbers, and returns the new order's id."""
    blib = next(blib for blib in await scene.trooper.blibs.list() if blib.id == 1)
    template = (await scene.trooper.templates.list())[0]

    transition = await scene.trooper.orders.create(
        blib,
        contract_interval="HOUR",
        terms_accepted=True,
        second_partition_percentage=20,
        templates=[template],
    )

    method, path, query, body = scene.sent()[-1]
    assert (method, path, query) == ("POST", "/api/order", {})
    assert body == {
        "blib_id": 1,
        "price_h": 0.85,
        "total_price": 0.85,
        "terms_accepted": True,
        "contract_interval": "HOUR",
        "second_partition_percentage": 20,
        "templates": [{"id": 1, "name": "PyTorch Environment"}],
    }
    assert [type(body[name]) for name in ("price_h", "total_price")] == [float, float]
    assert transition == Transition(ORDER + 1, "create", "running")


async def test_orders_create_sends_only_what_is_given(scene: Scene) -> None:
    """Omitted arguments are not sent, a template by id has no name, and money keeps its value as a number."""
    await scene.trooper.orders.create(
        Blib(id=3, price_h=Decimal("0.195")),
        contract_interval="DAY",
        terms_accepted=True,
        total_price=Decimal("5.00"),
        templates=[2, 3],
    )

    _, _, _, body = scene.sent()[-1]
    assert body == {
        "blib_id": 3,
        "price_h": 0.195,
        "total_price": 5,
        "terms_accepted": True,
        "contract_interval": "DAY",
        "templates": [{"id": 2}, {"id": 3}],
    }
    assert Decimal(str(body["price_h"])) == Decimal("0.195")


async def test_orders_list_returns_every_field(scene: Scene) -> None:
    """`orders.list` sends GET /api/orders, and returns every field of every order."""
    await scene.trooper.templates.install(ORDER, 1)
    scene.fake.add_order(order_id=200, status="stopping", desired_status="stopped")
    scene.fake.requests.clear()

    first, second = await scene.trooper.orders.list()

    assert scene.sent() == [("GET", "/api/orders", {}, None)]
    assert first == Order(
        order_id=ORDER,
        server_id=SERVER,
        title="My PyTorch Server",
        current_status="running",
        desired_status="running",
        server_name=scene.unless_loose("gpu-server-123"),
        machine_name=scene.unless_loose("ai99_trooperai_000123"),
        ip="127.0.0.1",
        ssh_port=scene.order.ssh_port,
        price_h=Decimal("0.85"),
        paid_until=scene.unless_loose(scene.order.paid_until),
        contract_interval="HOUR",
        is_locked=False,
        is_low_priority=scene.unless_loose(False),
        blib_name="RTX 4090 Single",
        blib_gpu_type="RTX 4090",
        blib_gpu_num=1,
        country_code=scene.unless_loose("DE"),
        template_installs=(
            TemplateInstall(install_id=1, template_name="PyTorch Environment", status=1, status_readable="Completed"),
        ),
    )
    assert (second.current_status, second.desired_status, second.is_converged) == ("stopping", "stopped", False)


async def test_orders_get_returns_one_order(scene: Scene) -> None:
    """`orders.get` returns one order as the list shows it now."""
    scene.fake.add_order(order_id=200)
    scene.fake.set_status(ORDER, "stopping", "stopped")

    order = await scene.trooper.orders.get(scene.order)

    assert (order.order_id, order.current_status, order.desired_status) == (ORDER, "stopping", "stopped")
    assert scene.sent() == [("GET", "/api/orders", {}, None)]


async def test_orders_find_returns_matching_orders(scene: Scene) -> None:
    """`orders.find` returns the orders with a title or matching a pattern, and all without one."""
    for order_id, title in ((200, "train-1"), (201, "train-2"), (202, "web")):
        scene.fake.add_order(order_id=order_id, title=title)
    find = scene.trooper.orders.find

    assert [order.order_id for order in await find(title="train-2")] == [201]
    assert [order.order_id for order in await find(title="train-*")] == [200, 201]
    assert [order.order_id for order in await find(title="nothing")] == []
    assert [order.order_id for order in await find()] == [ORDER, 200, 201, 202]
    assert scene.sent() == [("GET", "/api/orders", {}, None)] * 4


@pytest.mark.parametrize(
    ("action", "word", "target"),
    [("start", "running", "running"), ("stop", "stopped", "stopped"), ("freeze", "frozen", "frozen")],
)
async def test_start_stop_and_freeze_send_the_documented_body(
    scene: Scene, action: Any, word: str, target: str
) -> None:
    """An action sends the server's id and the API's word for it, and returns the accepted transition."""
    transition = await getattr(scene.trooper.orders, action)(scene.order)

    body = {"serverId": SERVER, "action": word, **({"migration_allowed": False} if action == "start" else {})}
    assert scene.sent() == [("POST", "/api/order-status", {}, body)]
    assert transition == Transition(ORDER, action, target)


async def test_start_with_migration_says_so(scene: Scene) -> None:
    """A start that may migrate says so to the API, and in its transition."""
    scene.fake.set_status(ORDER, "frozen")

    transition = await scene.trooper.orders.start(scene.order, migration_allowed=True)

    body = {"serverId": SERVER, "action": "running", "migration_allowed": True}
    assert scene.sent() == [("POST", "/api/order-status", {}, body)]
    assert transition == Transition(ORDER, "start", "running", migration_allowed=True)


async def test_restart_keeps_the_history_from_before(scene: Scene) -> None:
    """A restart reads the history first, sends `restarted`, and keeps the rows from before."""
    transition = await scene.trooper.orders.restart(scene.order)

    assert scene.sent() == [
        ("GET", "/api/order-status-history", {"order_id": str(ORDER)}, None),
        ("POST", "/api/order-status", {}, {"serverId": SERVER, "action": "restarted"}),
    ]
    assert (transition.order_id, transition.action, transition.target) == (ORDER, "restart", "running")
    assert transition.history_before is not None
    assert [row.status_user for row in transition.history_before] == ["running"]


async def test_restart_is_sent_although_the_history_is_unreadable(scene: Scene) -> None:
    """A history that can't be read is requested once, and does not prevent the restart."""
    scene.fake.fail_next("/api/order-status-history", status=500, times=4)

    transition = await scene.trooper.orders.restart(scene.order)

    assert [path for _, path, _, _ in scene.sent()] == ["/api/order-status-history", "/api/order-status"]
    assert transition.history_before is None


async def test_rename_sends_the_title(scene: Scene) -> None:
    """`orders.rename` sends the server's id and the title, which the list then shows."""
    await scene.trooper.orders.rename(scene.order, "My New Server Title")

    assert scene.sent() == [("POST", "/api/order-title", {}, {"serverId": SERVER, "title": "My New Server Title"})]
    assert (await scene.trooper.orders.get(ORDER)).title == "My New Server Title"


async def test_lock_and_unlock_send_a_boolean(scene: Scene) -> None:
    """`orders.lock` and `unlock` send a JSON boolean, and the list shows the result."""
    await scene.trooper.orders.lock(scene.order)
    assert (await scene.trooper.orders.get(ORDER)).is_locked is True

    await scene.trooper.orders.unlock(scene.order)
    assert (await scene.trooper.orders.get(ORDER)).is_locked is False

    assert scene.sent()[0] == ("POST", "/api/order-lock", {}, {"serverId": SERVER, "is_locked": True})
    assert scene.sent()[2] == ("POST", "/api/order-lock", {}, {"serverId": SERVER, "is_locked": False})


async def test_credentials_are_returned_without_showing_the_password(scene: Scene) -> None:
    """`orders.credentials` sends the server's id, and returns the login; no repr shows the password."""
    credentials = await scene.trooper.orders.credentials(scene.order)

    assert scene.sent() == [("POST", "/api/credentials", {}, {"serverId": SERVER})]
    assert (credentials.ip, credentials.ssh_port) == ("127.0.0.1", scene.order.ssh_port)
    assert (credentials.username, credentials.status) == ("root", "running")
    assert credentials.password
    assert credentials.password not in repr(credentials) + str(credentials)


async def test_history_returns_every_field(scene: Scene) -> None:
    """`orders.history` sends the order's id, and returns words, texts and aware times."""
    scene.fake.set_status(ORDER, "stopped")

    newest, oldest = await scene.trooper.orders.history(scene.order)

    assert scene.sent() == [("GET", "/api/order-status-history", {"order_id": str(ORDER)}, None)]
    assert newest == StatusChange("stopped", newest.status_since, scene.unless_loose("Server stopped"), newest.id)
    assert oldest == StatusChange("running", oldest.status_since, scene.unless_loose("Server running"), oldest.id)
    assert isinstance(newest.status_since, datetime)
    assert isinstance(oldest.status_since, datetime)
    assert newest.status_since > oldest.status_since
    assert newest.status_since.tzinfo is not None
    assert {type(newest.id), type(oldest.id)} == {int}


async def test_migrations_options_returns_every_field(scene: Scene) -> None:
    """`migrations.options` sends the order's id, and returns the current and the possible offers."""
    options = await scene.trooper.migrations.options(scene.order)

    assert scene.sent() == [("GET", "/api/migration-options", {"order_id": str(ORDER)}, None)]
    assert options.current_order == CurrentOrder(
        ORDER, "My PyTorch Server", "running", "HOUR", scene.unless_loose(scene.order.paid_until)
    )
    assert options.current_blib == Blib(1, "RTX 4090 Single", gpu_type="RTX 4090", gpu_num=1, price_h=Decimal("0.85"))
    assert options.available_blibs[0] == Blib(
        id=2,
        name="RTX 4090 Dual",
        gpu_type="RTX 4090",
        gpu_num=2,
        price_h=Decimal("1.65"),
        is_available=True,
        additional_cost_per_cycle=Decimal("0.8"),
    )


async def test_migrations_quote_returns_the_price(scene: Scene) -> None:
    """`migrations.quote` sends the two ids, and its quote knows what it is the price of."""
    quote = await scene.trooper.migrations.quote(scene.order, 2)

    assert scene.sent() == [("POST", "/api/migration-cost", {}, {"order_id": ORDER, "target_blib_id": 2})]
    assert quote == MigrationQuote(
        order_id=ORDER,
        target_blib_id=2,
        total_due=Decimal("0.8"),
        upgrade_cost=Decimal("1.65"),
        remaining_value=Decimal("0.85"),
        additional_cost_per_cycle=Decimal("0.8"),
        next_billing_date=scene.unless_loose(scene.order.paid_until),
        current_rate=Rate(Decimal("0.85"), "€0.85/hour"),
        new_rate=Rate(Decimal("1.65"), "€1.65/hour"),
    )


async def test_migrations_buy_sends_the_documented_body(scene: Scene) -> None:
    """`migrations.buy` sends the document's body once, and its transition is that of the new order."""
    quote = await scene.trooper.migrations.quote(ORDER, Blib(2))

    transition = await scene.trooper.migrations.buy(quote, keep_data=True)

    method, path, query, body = scene.sent()[-1]
    assert (method, path, query) == ("POST", "/api/buy-migration", {})
    assert body == {"order_id": ORDER, "target_blib_id": 2, "keep_data": True}
    assert transition == Transition(ORDER + 1, "migrate", "running")


async def test_templates_list_returns_every_field(scene: Scene) -> None:
    """`templates.list` sends GET /api/templates, and returns each template with its options."""
    templates = await scene.trooper.templates.list()

    assert scene.sent() == [("GET", "/api/templates", {}, None)]
    assert templates[0] == Template(
        id=1,
        name="PyTorch Environment",
        description=scene.unless_loose("Pre-configured PyTorch environment with CUDA support"),
        category=scene.unless_loose("Machine Learning"),
        is_public=True,
        options=(TemplateOption(1, "Python Version", "select", "3.9", "3.8,3.9,3.10"),),
    )
    assert templates[1].options == ()


async def test_templates_install_returns_an_id_that_installs_shows(scene: Scene) -> None:
    """`templates.install` sends order, template and config and returns the install's id; `installs` shows it."""
    install_id = await scene.trooper.templates.install(scene.order, Template(1), {"python_version": "3.9"})

    assert await scene.trooper.templates.installs(scene.order) == [
        TemplateInstall(
            install_id=install_id,
            template_id=1,
            template_name="PyTorch Environment",
            status=1,
            status_readable="Completed",
            config={"python_version": "3.9"},
        )
    ]
    body = {"order_id": ORDER, "template_id": 1, "config": {"python_version": "3.9"}}
    assert scene.sent() == [
        ("POST", "/api/template-install-add", {}, body),
        ("GET", "/api/template-config", {"order_id": str(ORDER)}, None),
    ]


async def test_templates_remove_sends_the_install_id(scene: Scene) -> None:
    """`templates.remove` takes an install or its id; afterwards the install is gone."""
    first, second = [await scene.trooper.templates.install(ORDER, template) for template in (1, 2)]
    install = (await scene.trooper.templates.installs(ORDER))[0]
    scene.fake.requests.clear()

    await scene.trooper.templates.remove(install)
    await scene.trooper.templates.remove(second)

    assert scene.sent() == [
        ("POST", "/api/template-install-delete", {}, {"install_id": install_id}) for install_id in (first, second)
    ]
    assert await scene.trooper.templates.installs(ORDER) == []


async def test_templates_retry_sends_the_install_id(scene: Scene) -> None:
    """`templates.retry` sends the install's id, and a failed installation is tried again."""
    scene.fake.failing_templates.add(1)
    install_id = await scene.trooper.templates.install(ORDER, 1)
    failed = (await scene.trooper.templates.installs(ORDER))[0]
    scene.fake.failing_templates.clear()
    scene.fake.requests.clear()

    await scene.trooper.templates.retry(failed)

    assert failed.status_readable == "Failed"
    assert scene.sent() == [("POST", "/api/template-install-retry", {}, {"install_id": install_id})]
    assert (await scene.trooper.templates.installs(ORDER))[0].status_readable == "Completed"


# --- ids ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VERBS)
async def test_an_action_with_an_order_reads_no_list(scene: Scene, name: str) -> None:
    """An action that is given an `Order` sends its server's id at once."""
    verb, path = VERBS[name]

    await verb(scene.trooper, scene.order)

    assert "/api/orders" not in [request.path for request in scene.fake.requests]
    assert scene.fake.requests[-1].path == path
    assert scene.fake.requests[-1].json["serverId"] == SERVER


@pytest.mark.parametrize("name", VERBS)
async def test_an_action_with_an_id_reads_the_list_once(scene: Scene, name: str) -> None:
    """An action that is given an order's id reads the list once, and sends the server's id."""
    verb, path = VERBS[name]

    await verb(scene.trooper, ORDER)

    paths = [request.path for request in scene.fake.requests if request.path != "/api/order-status-history"]
    assert paths == ["/api/orders", path]
    assert scene.fake.requests[-1].json["serverId"] == SERVER


@pytest.mark.parametrize("name", VERBS)
async def test_an_unknown_id_sends_nothing(scene: Scene, name: str) -> None:
    """An id that is not in the list is an OrderNotFoundError that names it, and no POST is sent."""
    verb, _ = VERBS[name]

    with pytest.raises(OrderNotFoundError) as caught:
        await verb(scene.trooper, 4711)

    assert str(caught.value) == (
        f"orders.{name} of order 4711: it is not in the list of orders: nothing was sent. {OrderNotFoundError.hint}"
    )
    assert [(request.method, request.path) for request in scene.fake.requests] == [("GET", "/api/orders")]


@pytest.mark.parametrize("read", ["list", "get", "find"])
async def test_known_ids_are_not_looked_up_again(scene: Scene, read: str) -> None:
    """After any read of the list its ids are known: the action is the only request."""
    await (scene.trooper.orders.get(ORDER) if read == "get" else getattr(scene.trooper.orders, read)())
    scene.fake.requests.clear()

    await scene.trooper.orders.stop(ORDER)

    assert scene.sent() == [("POST", "/api/order-status", {}, {"serverId": SERVER, "action": "stopped"})]


async def test_an_id_missing_from_the_last_list_is_looked_up(scene: Scene) -> None:
    """An order that appeared after the last list read is found by one more."""
    await scene.trooper.orders.list()
    scene.fake.add_order(order_id=300, server_id=301)
    scene.fake.requests.clear()

    await scene.trooper.orders.lock(300)

    assert scene.sent() == [
        ("GET", "/api/orders", {}, None),
        ("POST", "/api/order-lock", {}, {"serverId": 301, "is_locked": True}),
    ]


async def test_concurrent_actions_share_one_list_read(scene: Scene) -> None:
    """Fifty stops by id that begin together read the list once."""
    orders = [scene.fake.add_order(order_id=1000 + number, server_id=2000 + number) for number in range(50)]

    await asyncio.gather(*(scene.trooper.orders.stop(order.order_id) for order in orders))

    assert [request.path for request in scene.fake.requests].count("/api/orders") == 1
    stopped = [request.json["serverId"] for request in scene.fake.requests if request.path == "/api/order-status"]
    assert sorted(stopped) == [order.server_id for order in orders]


async def arrived(fake: FakeTrooper, path: str, count: int = 1) -> None:
    """Wait until so many requests to a path have arrived."""
    await until(lambda: [request.path for request in fake.requests].count(path) >= count)


async def test_a_look_up_does_not_use_a_list_already_in_flight(scene: Scene) -> None:
    """A look-up that begins while another's list is in flight reads anew: its order may not be in that one."""
    with scene.fake.hold_next("/api/orders") as hold:
        first = asyncio.create_task(scene.trooper.orders.stop(ORDER))
        await hold.arrived()
        scene.fake.add_order(order_id=300)
        second = asyncio.create_task(scene.trooper.orders.stop(300))
        await asyncio.sleep(0)  # it has begun

    await asyncio.gather(first, second)

    assert [request.path for request in scene.fake.requests].count("/api/orders") == 2


async def test_a_cancelled_shared_list_read_is_repeated(scene: Scene) -> None:
    """Callers that share the list read of a cancelled caller read it again, once, and find their orders."""
    scene.fake.add_order(order_id=300)
    scene.fake.add_order(order_id=301)
    scene.fake.delay_next("/api/orders", 30)
    first, *others = [asyncio.create_task(scene.trooper.orders.stop(order_id)) for order_id in (ORDER, 300, 301)]
    await arrived(scene.fake, "/api/orders")

    first.cancel()

    assert await asyncio.gather(*others) == [Transition(order_id, "stop", "stopped") for order_id in (300, 301)]
    assert first.cancelled()
    assert [request.path for request in scene.fake.requests].count("/api/orders") == 2


async def test_a_failed_shared_list_read_fails_all_its_callers(scene: Scene) -> None:
    """None of the callers says that its order does not exist, and they do not repeat the read one by one."""
    scene.fake.fail_next("/api/orders", status=401, times=20)

    outcomes = await asyncio.gather(
        *(scene.trooper.orders.stop(order_id) for order_id in range(ORDER, ORDER + 20)), return_exceptions=True
    )

    assert {type(outcome) for outcome in outcomes} == {AuthenticationError}
    assert [getattr(outcome, "subject", None) for outcome in outcomes] == [
        f"order {order_id}" for order_id in range(ORDER, ORDER + 20)
    ]
    assert [request.path for request in scene.fake.requests] == ["/api/orders"] * 2


async def test_unknown_ids_share_a_list_read_that_began_after_the_calls(scene: Scene) -> None:
    """Twenty concurrent unknown ids cost two list reads, and each is an OrderNotFoundError."""
    outcomes = await asyncio.gather(
        *(scene.trooper.orders.stop(order_id) for order_id in range(500, 520)), return_exceptions=True
    )

    assert {type(outcome) for outcome in outcomes} == {OrderNotFoundError}
    assert [request.path for request in scene.fake.requests] == ["/api/orders"] * 2


async def test_get_of_an_unknown_id_is_an_order_not_found_error(scene: Scene) -> None:
    """`orders.get` of an id that is not in the list is an OrderNotFoundError."""
    with pytest.raises(OrderNotFoundError, match="order 4711"):
        await scene.trooper.orders.get(4711)


# --- rows that can't be read --------------------------------------------------------------------------------------

ROWS = [
    {"order_id": 1, "serverId": 11, "title": "good", "status": "running"},
    {"order_id": 2, "serverId": 22, "title": "good", "status": ["bad"]},
    {"order_id": 3, "serverId": 33, "title": "good too", "status": "stopped"},
    {"order_id": [], "status": "running"},
    "no row at all",
]


@pytest.fixture
def bad_rows(fake_trooper: FakeTrooper) -> FakeTrooper:
    fake_trooper.fail_next("/api/orders", status=200, body=ROWS, times=10)
    return fake_trooper


async def test_get_and_find_tolerate_other_unreadable_rows(bad_rows: FakeTrooper, trooper: TrooperClient) -> None:
    """A row that can't be read affects only itself in `get` and `find`."""
    assert (await trooper.orders.get(3)).title == "good too"
    assert [order.order_id for order in await trooper.orders.find(title="good*")] == [1, 3]
    assert [order.order_id for order in await trooper.orders.find()] == [1, 3]


async def test_get_of_an_unreadable_row_names_the_place(bad_rows: FakeTrooper, trooper: TrooperClient) -> None:
    """`get` of a row that can't be read raises with its path, and never shows the value."""
    with pytest.raises(ResponseFormatError) as caught:
        await trooper.orders.get(2)

    assert (caught.value.path, caught.value.expected) == ("$[1].current_status", "a status word")
    assert "bad" not in str(caught.value)


async def test_get_of_an_id_that_an_unreadable_row_may_have(bad_rows: FakeTrooper, trooper: TrooperClient) -> None:
    """If a row's id can't be read, an order that is not listed may be that row: it is not said to be missing."""
    with pytest.raises(ResponseFormatError) as caught:
        await trooper.orders.get(4)

    assert (caught.value.path, caught.value.expected) == ("$[*].order_id", "readable")


async def test_list_raises_for_an_unreadable_row(bad_rows: FakeTrooper, trooper: TrooperClient) -> None:
    """`list` raises with the path of the row: it must not look shorter than it is."""
    with pytest.raises(ResponseFormatError) as caught:
        await trooper.orders.list()

    assert caught.value.path == "$[1].current_status"


async def test_an_action_tolerates_its_own_unreadable_row(bad_rows: FakeTrooper, trooper: TrooperClient) -> None:
    """The id of a row that can't be read can still be looked up."""
    with pytest.raises(PermissionDeniedError):  # the fake has no such server; only the request matters
        await trooper.orders.stop(2)

    assert bad_rows.requests[-1].json == {"serverId": 22, "action": "stopped"}


# --- refusals -----------------------------------------------------------------------------------------------------


async def test_unaccepted_terms_are_refused_before_sending(scene: Scene) -> None:
    """An order without accepted terms is refused before anything is sent."""
    with pytest.raises(ConfigurationError, match="terms_accepted must be True"):
        await scene.trooper.orders.create(
            Blib(1, price_h=Decimal("0.85")), contract_interval="HOUR", terms_accepted=False
        )

    assert scene.fake.requests == []


async def test_an_invalid_interval_is_a_bad_request_error(scene: Scene) -> None:
    """A contract interval that the API does not know is a BadRequestError with the API's text."""
    with pytest.raises(BadRequestError, match="Invalid or missing contract interval") as caught:
        await scene.trooper.orders.create(
            Blib(1, price_h=Decimal("0.85")), contract_interval="CENTURY", terms_accepted=True, total_price=1
        )

    assert caught.value.status == 400


async def test_an_outdated_price_is_a_bad_request_error(scene: Scene) -> None:
    """A price that is no longer the API's is refused by it: a BadRequestError."""
    scene.fake.blibs[1].price_h = Decimal("0.9")

    with pytest.raises(BadRequestError):
        await scene.trooper.orders.create(
            Blib(1, price_h=Decimal("0.85")), contract_interval="HOUR", terms_accepted=True
        )


async def test_an_insufficient_budget_is_a_bad_request_error(scene: Scene) -> None:
    """A migration that the budget does not cover is a BadRequestError (400, not 402) with the API's text."""
    quote = await scene.trooper.migrations.quote(ORDER, 2)
    scene.fake.budget = Decimal("0.1")

    with pytest.raises(BadRequestError, match="Insufficient budget for migration") as caught:
        await scene.trooper.migrations.buy(quote, keep_data=True)

    assert (caught.value.status, caught.value.operation) == (400, "migrations.buy")


async def test_an_action_on_a_locked_server_is_a_server_locked_error(scene: Scene) -> None:
    """It is a ServerLockedError, which is a PermissionDeniedError."""
    await scene.trooper.orders.lock(scene.order)

    with pytest.raises(ServerLockedError, match="Server is locked and cannot be modified") as caught:
        await scene.trooper.orders.stop(scene.order)

    assert isinstance(caught.value, PermissionDeniedError)
    assert (caught.value.status, caught.value.operation, caught.value.subject) == (403, "orders.stop", "order 123")


@pytest.mark.parametrize(
    "verb",
    [
        lambda trooper, order: trooper.orders.credentials(order),
        lambda trooper, order: trooper.orders.stop(order),
        lambda trooper, order: trooper.orders.history(order),
        lambda trooper, order: trooper.migrations.options(order),
        lambda trooper, order: trooper.migrations.quote(order, 2),
        lambda trooper, order: trooper.templates.installs(order),
        lambda trooper, order: trooper.templates.install(order, 1),
        lambda trooper, order: trooper.templates.remove(4711),
        lambda trooper, order: trooper.templates.retry(4711),
    ],
)
async def test_a_foreign_or_unknown_order_is_a_permission_denied_error(scene: Scene, verb: Verb) -> None:
    """If something does not exist, or is not yours, the API returns 403: a PermissionDeniedError."""
    scene.fake.remove_order(ORDER)

    with pytest.raises(PermissionDeniedError, match="Access denied or server not found") as caught:
        await verb(scene.trooper, scene.order)

    assert type(caught.value) is PermissionDeniedError
    assert caught.value.status == 403


async def test_a_wrong_key_is_an_authentication_error(scene: Scene) -> None:
    """A key that is not accepted is an AuthenticationError with the API's advice; it is sent once."""
    async with scene.fake.client(api_key="wrong", retry=FAST) as stranger:
        with pytest.raises(AuthenticationError) as caught:
            await stranger.orders.list()

    assert (caught.value.status, caught.value.next_step) == (401, "login")
    assert caught.value.message == "Missing or invalid Authorization header"
    assert len(scene.fake.requests) == 1


async def test_a_lasting_500_is_a_server_error(scene: Scene) -> None:
    """A 500 that lasts is a ServerError with the API's text, after all attempts."""
    scene.fake.fail_next("/api/blibs", status=500, body={"error": "Error fetching Blibs"}, times=4)

    with pytest.raises(ServerError, match="Error fetching Blibs") as caught:
        await scene.trooper.blibs.list()

    assert (caught.value.status, caught.value.attempts, len(scene.fake.requests)) == (500, 4, 4)


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (200, {"success": False, "error": "Not now"}, RefusedError, "Not now"),
        (200, {"success": 0, "message": "Not now"}, RefusedError, "Not now"),
        (403, {"success": False, "error": "Server is LOCKED"}, ServerLockedError, "Server is LOCKED"),
        (403, {"error": "Access denied"}, PermissionDeniedError, "Access denied"),
        (404, "<html>no such page</html>", NotFoundError, "Not Found"),
        (409, {"error": "Conflict of some kind"}, APIStatusError, "Conflict of some kind"),
        (302, "", APIStatusError, "Found"),
        (400, {"error": ["two", "texts"], "next": 5}, BadRequestError, "two; texts"),
        (400, {"error": [5], "next": 5}, BadRequestError, "Bad Request"),
    ],
)
async def test_other_statuses_have_their_classes(
    fake_trooper: FakeTrooper,
    trooper: TrooperClient,
    status: int,
    body: object,
    kind: type[APIStatusError],
    message: str,
) -> None:
    """Each status has its class, the message is the API's text or the status's own, and nothing is retried."""
    order = fake_trooper.add_order()
    fake_trooper.fail_next("/api/order-title", status=status, body=body)

    with pytest.raises(kind) as caught:
        await trooper.orders.rename(order, "Other")

    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.message, caught.value.next_step) == (status, message, None)
    assert len(fake_trooper.requests) == 1
