"""The retry table of `trooper_async._http`: every call with every fault, with the client's sessions and your own."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.tools.faults.__main__ import offsets
from tests.tools.faults.cell import Cell, cells_of, play_all
from tests.tools.faults.faults import FAULTS, Fault, Framing, Session, cut
from tests.tools.faults.targets import TARGETS, Kind, Target
from trooper_async._api import endpoints

SAMPLE = 41
"""Every so many bytes, where not every one."""
FULLY: dict[Kind, Target] = {target.kind: target for target in reversed(TARGETS)}
"""One of each kind."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of retries are thousands of warnings."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def wrong(cells: list[Cell]) -> str:
    """The lines of the cells that are not as they must be."""
    return "\n".join(str(cell) for cell in cells if cell.problems)


def test_every_endpoint_has_a_row() -> None:
    """The table has all 18 endpoints of the API."""
    table = [value for value in vars(endpoints).values() if isinstance(value, endpoints.Endpoint)]
    assert {target.path for target in TARGETS} == {endpoint.path for endpoint in table}
    assert len({target.path for target in TARGETS}) == 18


def test_names_are_unique() -> None:
    """No fault and no call hides another of the same name."""
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert len({target.name for target in TARGETS}) == len(TARGETS)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_a_fault_gives_the_result_of_the_table(fault: Fault) -> None:
    """Requests sent, error, attempts and ledger record are those of the table, for every call in one of the sessions.

    One call of each kind is made with both; `nox -s faults` makes all with both.
    """
    turn = FAULTS.index(fault)
    cells = await play_all(
        cell
        for number, cell in enumerate(cells_of([fault]))
        if len(fault.sessions) == 1 or cell[1] in FULLY.values() or (number // 2 + number + turn) % 2
    )
    assert not wrong(cells), wrong(cells)
    assert {cell.target.name for cell in cells} == {target.name for target in TARGETS}
    assert {cell.session for cell in cells} == set(fault.sessions)


@pytest.mark.parametrize("session", ["ours", "yours"])
@pytest.mark.parametrize("target", FULLY.values(), ids=str)
async def test_a_response_cut_at_each_byte_is_lost(target: Target, session: Session) -> None:
    """Wherever the response is cut, in status line, headers or body, it is incomplete."""
    cells = await play_all((cut(target, "length", offset), target, session) for offset in offsets(target, "length"))
    assert not wrong(cells), wrong(cells)
    assert len(cells) > 60


@pytest.mark.parametrize("framing", ["length", "chunked", "until closed"])
async def test_a_response_cut_at_some_bytes_is_lost(framing: Framing) -> None:
    """A sample of bytes for all calls and the other framings; the last byte is among them."""
    cells = await play_all(
        (cut(target, framing, offset), target, session)
        for number, target in enumerate(TARGETS)
        for session in ("ours", "yours")
        for offset in {*offsets(target, framing)[number % SAMPLE :: SAMPLE], offsets(target, framing)[-1]}
    )
    assert not wrong(cells), wrong(cells)
