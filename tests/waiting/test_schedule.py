"""How often the client polls: the arithmetic of `PollSchedule`."""

from __future__ import annotations

import math
import re

import pytest

from trooper_async import ConfigurationError, PollSchedule


@pytest.mark.parametrize(
    ("age", "jitter", "seconds"),
    [
        (0.0, 0.5, 1.0),  # the floor
        (9.0, 0.5, 1.0),
        (50.0, 0.0, 4.5),
        (50.0, 0.5, 5.0),
        (50.0, 1.0, 5.5),
        (200.0, 1.0, 22.0),
        (400.0, 0.0, 30.0),  # the cap
    ],
)
def test_the_interval_grows_with_the_wait(age: float, jitter: float, seconds: float) -> None:
    """A tenth of the time waited, plus or minus 10 %, between floor and cap."""
    assert PollSchedule().interval(age, lambda: jitter) == pytest.approx(seconds)


def test_floor_cap_and_share_are_settings() -> None:
    """Each of them counts; floor and cap may be equal."""
    assert PollSchedule(floor=2, cap=8, share=0.5).interval(3.0, lambda: 0.5) == 2
    assert PollSchedule(floor=2, cap=8, share=0.5).interval(10.0, lambda: 0.5) == pytest.approx(5.0)
    assert PollSchedule(floor=2, cap=8, share=0.5).interval(1000.0, lambda: 0.5) == 8
    assert PollSchedule(floor=2, cap=2).interval(1000.0) == 2


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, True, "1", None])
@pytest.mark.parametrize("name", ["floor", "cap", "share"])
def test_invalid_seconds_are_refused(name: str, value: object) -> None:
    """Zero, infinity and non-numbers are refused; the error names the setting."""
    with pytest.raises(ConfigurationError, match=re.escape(f"PollSchedule.{name} must be a number above 0")):
        PollSchedule(**{name: value})  # type: ignore[arg-type]  # what is tested


def test_a_floor_above_the_cap_is_refused() -> None:
    """The error says which is too high."""
    with pytest.raises(ConfigurationError) as caught:
        PollSchedule(floor=2, cap=1)
    assert caught.value.message == "PollSchedule.floor must not be above its cap"
