"""How often to poll: pure arithmetic, without a clock."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from attrs import Attribute, field, frozen

from trooper_async.errors import ConfigurationError


def _positive(instance: object, attribute: Attribute[float], value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigurationError(f"PollSchedule.{attribute.name} must be a number above 0")


@frozen
class PollSchedule:
    """How often the shared poll runs.

    A waiter that has waited `a` seconds wants a poll every `share`·a seconds (± 10 %), never closer than `floor`
    seconds, and at least every `cap` seconds.
    """

    floor: float = field(default=1.0, validator=_positive)
    cap: float = field(default=30.0, validator=_positive)
    share: float = field(default=0.1, validator=_positive)

    def __attrs_post_init__(self) -> None:
        if self.floor > self.cap:
            raise ConfigurationError("PollSchedule.floor must not be above its cap")

    def interval(self, age: float, rng: Callable[[], float] = random.random) -> float:
        """Seconds between two polls for a wait of some age.

        Args:
            age: how long it has waited, in seconds.
            rng: the jitter's source, from 0 up to 1.

        Returns:
            The seconds.
        """
        return min(self.cap, max(self.floor, self.share * age * (0.9 + 0.2 * rng())))
