"""A program that buys with a ledger and waits: `python waiting_buyer.py URL KEY LEDGER REFERENCE` (may be empty)."""

from __future__ import annotations

import asyncio
import sys
from decimal import Decimal

from trooper_async import Blib, TrooperClient


async def main(url: str, key: str, ledger: str, reference: str) -> None:
    offer = Blib(1, "RTX 4090 Single", "RTX 4090", 1, price_h=Decimal("0.85"))
    async with TrooperClient(key, base_url=url, ledger=ledger) as client:
        await client.orders.create_and_wait(
            offer, contract_interval="HOUR", terms_accepted=True, reference=reference or None
        )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
