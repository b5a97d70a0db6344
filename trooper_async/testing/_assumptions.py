"""What a recorded profile means for this package: which of its assumptions hold, in plain words."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from trooper_async.models import OrderStatus
from trooper_async.testing._profile import Actions, Profile


@frozen
class Assumption:
    """Something that this package assumes or prefers, and what the profile shows."""

    holds: bool
    """Whether it holds."""
    text: str
    """What the profile shows, and what that means for waits."""


def assumptions(profile: Profile) -> tuple[Assumption, ...]:
    """Compare a recorded profile with what this package assumes.

    Args:
        profile: The recorded profile. Actions that were not exercised are left out.
    """
    found = [*_of_reads(profile)]
    if profile.actions == Actions():
        found.append(Assumption(True, "how actions go was not exercised"))
    else:
        found += _of_actions(profile)
    return tuple(found)


def _of_reads(profile: Profile) -> Iterator[Assumption]:
    names = f"{profile.current_field} and {profile.desired_field}"
    if profile.desired_field is None:
        text = "orders have no desired status: a wait can't tell that somebody else has changed the plan"
        yield Assumption(False, text)
    else:
        yield Assumption(True, f"orders have both statuses, as {names}")
    known = {str(word) for word in OrderStatus}
    new = [word for word in profile.words if word.casefold() not in known]
    text = f"status words that this package does not know count as on the way: {', '.join(new)}"
    yield Assumption(not new, text if new else "all status words are known")
    etag = {"none": "no ETag: every poll is sent whole", "ignored": "an ETag, but If-None-Match is ignored"}
    yield Assumption(True, f"the list has {etag.get(profile.etag, 'an ETag that saves polls of an unchanged list')}")
    key = profile.refusals.key
    text = f"a wrong key is refused with a {key.status}"
    is_told = key.status in (401, 403)
    yield Assumption(is_told, text if is_told else f"{text}, which is not taken for a refused key")
    odd = [f"{path}: {name} is {kind}" for path, names in profile.fields.items() for name, kind in names.items()]
    yield Assumption(not odd, f"fields not as documented: {'; '.join(odd)}" if odd else "all fields are as documented")
    if (limit := profile.rate_limit) is not None:
        pause = "without Retry-After" if limit.retry_after is None else f"with Retry-After {limit.retry_after}"
        yield Assumption(False, f"about {limit.requests} requests in {limit.seconds:.0f} s, then 429 {pause}")


def _of_actions(profile: Profile) -> Iterator[Assumption]:
    for action in ("stop", "start", "restart", "freeze", "thaw"):
        course = getattr(profile.actions, action)
        shown = next((step.after for step in course.steps if step.current or step.desired), course.seconds)
        if len(course.steps) == 1:
            yield Assumption(action != "restart", f"a {action} is not seen in the list in transition")
        elif shown > 0:
            text = f"a {action} shows {shown:.0f} s after its acceptance: polls before that see the old status"
            yield Assumption(False, text)
        words = " → ".join(dict.fromkeys(step.current for step in course.steps if step.current))
        yield Assumption(True, f"a {action} goes {words} in {course.seconds:.0f} s")
    restart = profile.actions.restart
    if not restart.history:
        yield Assumption(False, "a restart adds no row to the history: only its status on the way confirms it")
    else:
        after = restart.history[0].after
        text = f"a restart adds a row to the history {after:.0f} s after its acceptance"
        yield Assumption(after <= restart.seconds, text)
    stop = profile.actions.stop.steps[0]
    if profile.desired_field is not None and len(profile.actions.stop.steps) > 1:
        is_wish = stop.desired is not None
        meaning = "the requested status" if is_wish else "the last status reached"
        yield Assumption(is_wish, f"{profile.desired_field} is {meaning}")
