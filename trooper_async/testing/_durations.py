"""How long the fake's transitions take."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from attrs import fields

from trooper_async.testing._profile import Actions, Profile

NAMES = (*(action.name for action in fields(Actions)), "install")


class Durations(dict[str, float]):
    """Seconds by transition. An unknown name is refused: it would change nothing, so the test would prove nothing."""

    def __init__(self, profile: Profile, given: Mapping[str, float] | float | None = None) -> None:
        super().__init__({name: getattr(profile.actions, name).seconds for name in NAMES[:-1]})
        self["install"] = profile.install_seconds
        if given is not None:
            self.update(given if isinstance(given, Mapping) else dict.fromkeys(NAMES, given))

    def __setitem__(self, name: str, seconds: float) -> None:
        if name not in NAMES:
            raise ValueError(f"no transition is called {name!r}: there are {', '.join(NAMES)}")
        if not seconds >= 0:
            raise ValueError(f"a transition takes at least 0 seconds, not {seconds!r}")
        super().__setitem__(name, seconds)

    update = MutableMapping.update  # this calls __setitem__, unlike dict's own
