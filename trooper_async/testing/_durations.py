"""How long the fake's transitions take. Touches nothing."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

NAMES = ("start", "stop", "freeze", "restart", "create", "migrate", "thaw", "install")


class Durations(dict[str, float]):
    """Seconds by transition. A name that is none is refused: it would change nothing, and the test prove nothing."""

    def __init__(self, given: Mapping[str, float] | float = 0.05) -> None:
        super().__init__(dict.fromkeys(NAMES, 0.05))
        self.update(given if isinstance(given, Mapping) else dict.fromkeys(NAMES, given))

    def __setitem__(self, name: str, seconds: float) -> None:
        if name not in NAMES:
            raise ValueError(f"no transition is called {name!r}: there are {', '.join(NAMES)}")
        if not seconds >= 0:
            raise ValueError(f"a transition takes at least 0 seconds, not {seconds!r}")
        super().__setitem__(name, seconds)

    update = MutableMapping.update  # which goes through __setitem__, unlike dict's
