"""A profile: how the API behaves, as plain data. `profiles/README.md` explains its JSON."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Literal, Self, TypeAlias, get_args

from attrs import evolve, field, fields, frozen

from trooper_async._base.converter import from_data, model_data
from trooper_async._base.errors import ConfigurationError

FORMAT = 1
Kind: TypeAlias = Literal["text", "number", "boolean", "null", "missing", "object", "list"]

WORD = re.compile(r"[A-Za-z][A-Za-z_ -]{0,39}")


def kind_of(value: object) -> Kind:
    """The JSON type of a value."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float() | Decimal():
            return "number"
        case list():
            return "list"
        case dict():
            return "object"
    return "text"


def _check(holds: bool, problem: str) -> None:
    if not holds:
        raise ConfigurationError(problem)


@frozen
class Step:
    """What an order shows from a certain time on. None means the same as before the action."""

    after: float
    """Seconds after the API accepted the action."""
    current: str | None
    """The current status."""
    desired: str | None
    """The desired status."""


@frozen
class Row:
    """A row that an action adds to the status history."""

    after: float
    """Seconds after the API accepted the action."""
    status: str
    """The status in the row."""


@frozen
class Course:
    """How an action proceeds: what GET /api/orders shows step by step, and the rows of the history."""

    steps: tuple[Step, ...]
    """What is shown; the last step is the end of the action."""
    history: tuple[Row, ...]
    """The rows that are written: at the acceptance, during the action, at its end or later. There may be none."""
    reply: str | None = None
    """The status word in the response to the action; None for the current status of the first step."""

    def __attrs_post_init__(self) -> None:
        _check(len(self.steps) > 0, "an action has at least one step")
        for moments in (self.steps, self.history):
            times = [one.after for one in moments]
            _check(all(0 <= one < math.inf for one in times) and times == sorted(times), "times rise from 0")
        words = [self.reply, *(row.status for row in self.history)]
        words += [word for step in self.steps for word in (step.current, step.desired)]
        for word in words:
            _check(word is None or WORD.fullmatch(word) is not None, "a status is a word of letters")
        _check(self.steps[-1].current is not None, "the last step of an action has a current status")

    @property
    def seconds(self) -> float:
        """How long the action takes."""
        return self.steps[-1].after

    def scaled(self, factor: float) -> Course:
        """The same at a different speed."""
        steps = [evolve(step, after=factor * step.after) for step in self.steps]
        return evolve(
            self, steps=tuple(steps), history=tuple(evolve(row, after=factor * row.after) for row in self.history)
        )


def _course(passing: str, target: str) -> Course:
    return Course((Step(0.0, passing, target), Step(0.05, target, target)), (Row(0.05, target),))


_TO_RUNNING = _course("starting", "running")
_TO_STOPPED = _course("stopping", "stopped")
_TO_FROZEN = _course("freezing", "frozen")
_RESTARTED = _course("restarting", "running")
_MIGRATED = _course("migrating", "running")


@frozen(kw_only=True)
class Actions:
    """How each action proceeds."""

    start: Course = _TO_RUNNING
    """From stopped to running."""
    stop: Course = _TO_STOPPED
    """To stopped."""
    freeze: Course = _TO_FROZEN
    """To frozen."""
    restart: Course = _RESTARTED
    """From running to running."""
    create: Course = _TO_RUNNING
    """From an accepted order to a running server."""
    migrate: Course = _MIGRATED
    """To a running server on another host."""
    thaw: Course = _TO_RUNNING
    """From frozen to running, on the same host."""


@frozen
class Refusal:
    """How a request is refused."""

    status: int
    """The status of the response."""
    error: str
    """Its text."""
    field: str | None = "error"
    """The field of the JSON object that holds the text; None: the body is plain text."""
    next: str | None = None
    """The `next` of the JSON object: what to do about it."""


@frozen(kw_only=True)
class Refusals:
    """How requests are refused."""

    key: Refusal = Refusal(401, "Missing or invalid Authorization header", next="login")
    """Without the right key. Only GET /api/orders sends the `next`."""
    locked: Refusal = Refusal(403, "Server is locked and cannot be modified")
    """An action on a locked server."""
    unknown: Refusal = Refusal(403, "Access denied or server not found")
    """An order or server that does not exist."""


@frozen(kw_only=True)
class Types:
    """The JSON types of values, unless `fields` says otherwise."""

    number: Kind = "number"
    """Of values that the document shows as numbers."""
    boolean: Kind = "boolean"
    """Of values that the document shows as true or false."""


@frozen
class RateLimit:
    """How many requests are accepted; the others get a 429."""

    requests: int
    """At most so many"""
    seconds: float
    """in any period of so many seconds."""
    retry_after: int | None
    """The `Retry-After` of a 429 in seconds; None: it has none."""

    def __attrs_post_init__(self) -> None:
        _check(self.requests >= 1 and 0 < self.seconds < math.inf, "a rate limit lets requests pass")

    def scaled(self, factor: float) -> RateLimit:
        """The same at a different speed."""
        pause = None if self.retry_after is None else math.ceil(factor * self.retry_after)
        return evolve(self, seconds=factor * self.seconds, retry_after=pause)


@frozen(kw_only=True)
class Profile:
    """How the API behaves in what its document leaves open. The defaults are as the document shows.

    It holds only words, types, times and counts, and nothing of an account.
    """

    about: str = "The samples of the API document."
    """What it is, in one sentence."""
    current_field: Literal["status", "current_status"] = "status"
    """The name of the current status in GET /api/orders."""
    desired_field: Literal["status_user", "desired_status"] | None = "status_user"
    """The name of the desired status; None: there is none."""
    actions: Actions = Actions()
    """How each action proceeds."""
    install_seconds: float = 0.05
    """How long the installation of a template takes."""
    read_lag: float = 0.0
    """Seconds by which GET /api/orders and the history lag behind changes."""
    history_ids: Literal["rising", "falling"] = "falling"
    """Whether a newer row of the history has the higher id or the lower one."""
    types: Types = Types()
    """The JSON types of numbers and booleans."""
    fields: dict[str, dict[str, Kind]] = field(factory=dict)
    """The types of single fields by endpoint, if not the document's; `*` stands for all endpoints."""
    headers: dict[str, str] = field(factory=dict)
    """Additional headers of every response."""
    etag: Literal["none", "ignored", "honoured"] = "none"
    """Whether GET /api/orders has an `ETag`, and whether `If-None-Match` gets a 304."""
    gzip: bool = False
    """Whether responses are compressed for clients that accept it."""
    refusals: Refusals = Refusals()
    """How requests are refused."""
    rate_limit: RateLimit | None = None
    """How many requests are accepted; None: all of them."""
    words: tuple[str, ...] = ()
    """The status words that were seen during the recording. The fake ignores them."""

    def __attrs_post_init__(self) -> None:
        _check(all(isinstance(names, dict) for names in self.fields.values()), "fields are names and kinds by endpoint")
        kinds = [kind for names in self.fields.values() for kind in names.values()]
        _check(all(kind in get_args(Kind) for kind in kinds), f"the kinds of fields are {', '.join(get_args(Kind))}")
        _check(all(WORD.fullmatch(word) for word in self.words), "a status is a word of letters")
        _check(all(isinstance(text, str) for text in self.headers.values()), "headers are text")
        _check(all(0 <= one < math.inf for one in (self.read_lag, self.install_seconds)), "times are at least 0")

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a profile that `to_json` or a person wrote. What is left out is as in the document.

        Args:
            text: JSON: see `profiles/README.md` in this package.

        Raises:
            ConfigurationError: It is not a profile, or one of a later release.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict) or "profile" not in data:
            raise ConfigurationError('this is not a profile: it is no JSON object with "profile"')
        if data["profile"] != FORMAT:
            raise ConfigurationError("this profile was written by a later release: update trooper-async")
        if unknown := data.keys() - {"profile"} - {one.name for one in fields(cls)}:
            raise ConfigurationError(f"a profile has no {', '.join(sorted(map(repr, unknown)))}")
        return from_data(data, cls)

    @classmethod
    def load(cls, source: str | Path) -> Self:
        """Load a profile of this package by name, or from a file by path.

        Args:
            source: A name in `PROFILES`, or a `Path`.

        Raises:
            ConfigurationError: It does not exist or cannot be read.
        """
        if isinstance(source, Path):
            return cls.from_json(source.read_text(encoding="utf-8"))
        if source not in PROFILES:
            raise ConfigurationError(f"there is no profile {source!r}: there are {', '.join(PROFILES)}")
        return cls.from_json((_FOLDER / f"{source}.json").read_text(encoding="utf-8"))

    def scaled(self, factor: float) -> Self:
        """The same behaviour at a different speed.

        Args:
            factor: Times are multiplied by it, above 0. A `Retry-After`, in whole seconds, is rounded up.
        """
        if not 0 < factor < math.inf:
            raise ConfigurationError("a profile is scaled by a factor above 0")
        limit = self.rate_limit
        return evolve(
            self,
            actions=Actions(**{one.name: getattr(self.actions, one.name).scaled(factor) for one in fields(Actions)}),
            install_seconds=factor * self.install_seconds,
            read_lag=factor * self.read_lag,
            rate_limit=limit and limit.scaled(factor),
        )

    def to_json(self) -> str:
        """The profile as text, for a file."""
        return json.dumps({"profile": FORMAT, **model_data(self)}, indent=2) + "\n"


_FOLDER = files("trooper_async.testing") / "profiles"
PROFILES = tuple(sorted(entry.name.removesuffix(".json") for entry in _FOLDER.iterdir() if entry.name[-5:] == ".json"))
"""The names of the profiles in this package."""
