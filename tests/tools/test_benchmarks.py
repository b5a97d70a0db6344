"""The benchmarks work: at tiny sizes, without checking any timing."""

from __future__ import annotations

import asyncio
import gc
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

if [peer for peer in ("hcloud", "httpx", "matplotlib", "orjson", "pydantic") if find_spec(peer) is None]:
    pytest.skip("the peers are installed by the sessions that need them", allow_module_level=True)

from tests.tools.benchmarks import __main__ as program
from tests.tools.benchmarks import curves
from tests.tools.benchmarks.body import body, ids
from tests.tools.benchmarks.curves import memory_of
from tests.tools.benchmarks.measure import HEADER, Figure
from tests.tools.benchmarks.server import in_a_process

TINY = program.Sizes(
    runs=1,
    orders=30,
    polls=4,
    waiters=20,
    waits=2,
    restarts=3,
    calls=10,
    imports=1,
    fleet=5,
    accounts=2,
    plot_orders=(5,),
    plot_waiters=(5,),
)


@pytest.fixture
def _garbage() -> Iterator[None]:
    """The objects that the benchmarks keep from the garbage collector are returned to it."""
    yield
    gc.unfreeze()
    gc.collect()
    gc.freeze()  # as conftest.py does


async def memory_here(way: str, count: int, url: str) -> float:
    """Replaces `memory_of` for the plots: in a thread, without the imports. hcloud's threads would never end here."""
    if way == "hcloud":
        return await memory_of(way, count, url)
    return await asyncio.to_thread(curves._memory, way, count, url)


@pytest.mark.timeout(900)  # it starts thirty processes, which takes minutes beside many busy ones
@pytest.mark.usefixtures("_garbage")
def test_the_benchmarks_print_a_table_and_draw_plots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table has all goals, the machine and the estimate; both plots are drawn."""
    monkeypatch.setattr(curves, "memory_of", memory_here)
    figures = program.benchmark(TINY, program.SUBJECTS, tmp_path)

    printed = capsys.readouterr().out
    assert all(figure.work in printed and figure.values for figure in figures)
    assert len({figure.work for figure in figures}) == len(figures)
    assert sum(figure.goal is not None for figure in figures) == 24
    assert program.machine() in printed
    assert "a second process is needed beyond" in printed
    for plot in ("bench-poll.svg", "bench-memory.svg"):
        drawn = (tmp_path / plot).read_text()
        assert "trooper_async" in drawn
        assert "hcloud" in drawn
        assert "httpx + pydantic" in drawn


def test_a_missed_goal_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """A median that misses its goal by more than 20 % is the exit status; a smaller miss is not."""
    for value, status in ((1.19, 0), (1.21, 1)):
        monkeypatch.setattr(program, "benchmark", lambda *_, value=value: [Figure("x", [value], 1.0)])
        assert program.main([]) == status
    assert Figure("x", [0.79], 1.0, at_least=True).missed
    assert not Figure("x", [0.81], 1.0, at_least=True).missed
    assert not Figure("x", [0.5, 1.0, 9.0], 1.0).missed  # the median counts


def test_the_table_has_minimum_median_and_maximum() -> None:
    """They stand beside the goal, in columns."""
    rows = [
        *HEADER.splitlines(),
        str(Figure("one", [3.0, 1.0, 2.0], 2.0, unit="ms")),
        str(Figure("another", [1_234.0])),
    ]

    assert len({len(row) for row in rows}) == 1
    assert re.split(r" *\| *", rows[2])[1:-1] == ["one", "1 ms", "2 ms", "3 ms", "≤ 2 ms", "met"]
    assert "1,234" in rows[3]


def test_bodies_differ_in_the_share_that_changed() -> None:
    """1 % of 1,000 orders differ in the second state, and all do with 100 %."""
    before = json.loads(body(1_000))
    for share, count in ((0.0, 0), (0.01, 10), (1.0, 1_000)):
        after = json.loads(body(1_000, share))
        assert [row["order_id"] for row in after] == list(ids(1_000))
        assert sum(a != b for a, b in zip(before, after, strict=True)) == count


def test_no_process_is_left() -> None:
    """A server's process ends with its block, also after an error in it."""

    async def serve() -> None:
        async with in_a_process("tests.tools.benchmarks.server") as url:
            with pytest.raises(RuntimeError, match=r"the process of 1 nobody ended with"):
                await memory_of("nobody", 1, "no URL")
            port = int(url.rsplit(":", 1)[1])
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)

    asyncio.run(serve())
