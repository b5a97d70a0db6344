"""`trooper cost`."""

from __future__ import annotations

from typing import Unpack

from trooper_async._groups.selection import select
from trooper_async.cli._cli import Cli
from trooper_async.cli._command import Filters, command, filter_options
from trooper_async.cli._costs import HOURS_A_DAY, HOURS_A_MONTH, STOPPED_SHARE, FleetCost, fleet_cost, share
from trooper_async.cli._tables import table
from trooper_async.cli._text import NOTHING, cell, count, euros, moment, rounded, status_style, until


@command()
@filter_options
async def cost(cli: Cli, **filters: Unpack[Filters]) -> None:
    """What the servers cost as they are, per hour, day and month, and when their paid periods end.

    A stopped server still costs 35 % of its price; one on the way counts in full. What a frozen one costs is not
    documented: it is in no sum. A month is 30 days. A paid period is prepaid and not refunded: at its end the server is
    paid anew, or, with auto-renew off (which the API does not show), frozen.
    """
    async with cli.client() as client:
        costs = fleet_cost(select(await client.orders.list(), **filters))
    by_status = table("status", "servers", "price", "counts", "EUR/h", "EUR/day", "EUR/month")
    for one in costs.by_status:
        part = share(one.status)
        sums = [NOTHING] * 3
        if one.cost_h is not None:
            sums = [euros(one.cost_h), rounded(one.cost_h * HOURS_A_DAY), rounded(one.cost_h * HOURS_A_MONTH)]
        counts = "not documented" if part is None else f"{part:.0%}"
        name = cell(one.status, status_style(one.status))
        by_status.add_row(name, str(len(one.order_ids)), euros(one.price_h), counts, *sums)
    by_status.add_section()
    in_all = [euros(costs.per_hour), rounded(costs.per_day), rounded(costs.per_month)]
    by_status.add_row("in all", str(sum(len(one.order_ids) for one in costs.by_status)), "", "", *in_all, style="bold")
    ends = table("paid until", "", "id", "title", "interval")
    for end in costs.ends:
        interval = cell(end.contract_interval)
        ends.add_row(moment(end.paid_until), until(end.paid_until), str(end.order_id), cell(end.title), interval)
    cli.result(costs, by_status, *([ends] if costs.ends else []), *_notes(costs))


def _notes(costs: FleetCost) -> list[str]:
    notes = []
    stopped = next((one for one in costs.by_status if one.status == "stopped"), None)
    if stopped is not None and stopped.cost_h:
        month = rounded(stopped.cost_h * HOURS_A_MONTH)
        notes.append(
            f"What is stopped still costs {STOPPED_SHARE:.0%}: {month} EUR per month. Freezing releases its resources."
        )
    if costs.unpriced:
        notes.append(f"{count(len(costs.unpriced), 'order')} without a price, in no sum: {costs.unpriced}")
    return notes
