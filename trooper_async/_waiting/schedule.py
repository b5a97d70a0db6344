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

    The poll interval grows with the time that the youngest wait has waited.

    Attributes:
        floor: the least number of seconds between two polls.
        cap: the greatest number of seconds between two polls.
        share: the poll interval as a share of the time already waited (± 10 %).
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
