"""Hundreds of simulated waits, the same in each run; `nox -s simulate` runs a hundred thousand others."""

from __future__ import annotations

import pytest

from tests.tools.simulator import purchases
from tests.tools.simulator.__main__ import FINE
from tests.tools.simulator.scenario import simulate


@pytest.mark.parametrize("part", range(4))
def test_no_simulated_wait_ends_wrongly(part: int) -> None:
    """Over every unknown of the API: no wait ends early, late, never or with a wrong error."""
    judged = [one for number in range(5) for one in simulate(f"{part}-{number}")]
    wrong = [one for one in judged if one.verdict not in FINE]
    assert not wrong
    assert len(judged) > 100


def test_no_simulated_purchase_is_made_twice_or_forgotten() -> None:
    """Lost responses, late orders and other buyers: the client buys once and remembers; a naive retry fails."""
    mine = [purchases.simulate(("trooper_async", str(number)))[1] for number in range(150)]
    assert all(outcome == purchases.Outcome(False, False, False) for outcome in mine)
    naive = [purchases.simulate(("naive retry", str(number)))[1] for number in range(50)]
    assert any(outcome.double for outcome in naive)
