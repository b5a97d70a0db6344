"""Models with every field set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

from trooper_async.models import Blib, Order, OrderStatus, TemplateInstall

NOON = datetime(2025, 9, 26, 14, 30, tzinfo=UTC)
LATER = datetime(2025, 9, 26, 16, 30, 1, 250, tzinfo=timezone(timedelta(hours=2)))
INSTALL = TemplateInstall(5, 1, "PyTorch", 1, "Completed", {"a": [1, {"b": None}], "size": Decimal("0.1")})
ORDER = Order(
    123,
    OrderStatus.running,
    "on fire",
    server_id=77,
    title="nächtlich \u2028 🚀",
    price_h=Decimal("0.850"),
    paid_until=LATER,
    is_locked=False,
    template_installs=(INSTALL,),
    extra={"uptime": 5, "tags": ["a"]},
)
BLIB = Blib(3, "RTX", "RTX 4090", 2, price_h=Decimal("1.65"), available_hosts=("ai18",), is_available=True)
