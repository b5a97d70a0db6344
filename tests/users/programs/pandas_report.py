"""What the servers cost, by GPU, as a pandas report: models become rows by `to_dict`."""

from __future__ import annotations

import asyncio

import pandas as pd  # type: ignore[import-untyped]  # no types are installed

from trooper_async import TrooperClient, cost_h


async def main() -> None:
    async with TrooperClient() as client:
        orders = await client.orders.list()
    frame = pd.DataFrame([order.to_dict(money="number") for order in orders]).set_index("order_id")
    frame["cost_h"] = pd.Series({order.order_id: float(cost_h(order) or 0) for order in orders})
    assert frame["price_h"].dtype == float
    report = frame.groupby("blib_gpu_type").agg(
        servers=("title", "size"), price=("price_h", "sum"), cost=("cost_h", "sum")
    )
    print(report.round(2).to_csv(), end="")


asyncio.run(main())
