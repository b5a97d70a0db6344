"""How many accounts and waiters one process can serve: an estimate from figures of the same run."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from tests.tools.benchmarks.curves import ORDERS_OF_AN_ACCOUNT, memory_of, tick_costs
from tests.tools.benchmarks.measure import Figure
from tests.tools.benchmarks.plots import OURS
from tests.tools.benchmarks.waiters import coming_and_going
from trooper_async import PollSchedule

_ACCOUNT = f"account of {ORDERS_OF_AN_ACCOUNT} orders"
_POLL_MS = f"{_ACCOUNT}: CPU of a poll, 1 % changed, all waited for"
_ACCOUNT_KIB = f"{_ACCOUNT}: memory with its client and a wait"
_WAITER_KIB = "memory of one more waiter, its task counted"
_WAITER_US = "CPU of a wait from its registration to its end"
_CORE = 0.5
"""Of a core, what waits and polls may use: the rest is the application's."""
_GIB = 4
"""What they may use of the memory."""


def waiter_us(waiters: int) -> float:
    """CPU microseconds of a wait from its registration to its end; on virtual time, so outside of an event loop."""
    life = coming_and_going(waiters)
    return 1e6 * (life["registered"] + life["ended"]) / waiters


async def figures(url: str, *, accounts: int, waiters: int, runs: int, waiter_us: float) -> list[Figure]:
    """The inputs of the estimate."""
    polls, every, waits = [], [], []
    for _ in range(runs):
        polls.append((await tick_costs(url, ORDERS_OF_AN_ACCOUNT))[OURS])
        every.append(1024 * await memory_of("accounts", accounts, url) / accounts)
        waits.append(1024 * await memory_of("ours", waiters, url) / waiters)
    return [
        Figure(_POLL_MS, polls, unit="ms"),
        Figure(_ACCOUNT_KIB, every, unit="KiB"),
        Figure(_WAITER_KIB, waits, unit="KiB"),
        Figure(_WAITER_US, [waiter_us], unit="µs"),
    ]


def estimate(figures: Iterable[Figure]) -> str:
    """The estimate and its arithmetic, in Markdown."""
    medians = {figure.work: median(figure.values) for figure in figures}
    poll_ms, account_kib = medians[_POLL_MS], medians[_ACCOUNT_KIB]
    waiter_kib, life_us = medians[_WAITER_KIB], medians[_WAITER_US]
    schedule = PollSchedule()
    polls = 1000 * _CORE / poll_ms
    young, old = polls * schedule.floor, polls * schedule.cap
    accounts = _GIB * 2**20 / account_kib
    return "\n".join(
        [
            f"- CPU: a poll of an account of {ORDERS_OF_AN_ACCOUNT} orders costs {poll_ms:.2f} ms. Half a core: "
            f"{1000 * _CORE:.0f} ms ÷ {poll_ms:.2f} ms = {polls:,.0f} polls a second, that is {young:,.0f} accounts "
            f"whose waits are young (a poll every {schedule.floor:g} s), or {old:,.0f} whose waits are old (every "
            f"{schedule.cap:g} s).",
            f"- Memory: an account takes {account_kib:,.0f} KiB (client, connection, orders, a wait): {_GIB} GiB ÷ "
            f"{account_kib:,.0f} KiB = {accounts:,.0f} accounts. One more wait takes {waiter_kib:.1f} KiB: {_GIB} GiB "
            f"÷ {waiter_kib:.1f} KiB = {_GIB * 2**20 / waiter_kib:,.0f} waits.",
            f"- Coming and going: a wait costs {life_us:.0f} µs from its registration to its end. Half a core: "
            f"{1e6 * _CORE:,.0f} µs ÷ {life_us:.0f} µs = {1e6 * _CORE / life_us:,.0f} waits a second.",
            f"- So a second process is needed beyond some {min(young, accounts):,.0f} accounts that are all being "
            f"switched, or {min(old, accounts):,.0f} that all wait for long. TLS comes on top.",
        ]
    )
