"""`trooper doctor --record` and `--replay`: a profile of the API, and what it means for waits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from trooper_async import PollSchedule
from trooper_async.cli._context import Cli
from trooper_async.cli._errors import FAILED, FailedError
from trooper_async.cli._text import printable
from trooper_async.testing import ClientApi, Profile, RecordingError, assumptions, record, replay

if TYPE_CHECKING:
    from trooper_async import TrooperClient

_WRONG_KEY = "wrong-key-0"
"""Its digit keeps a text that repeats it out of the profile."""


async def record_to(cli: Cli, file: Path, exercise: int | None, seconds: float, *, yes: bool) -> None:
    """Record a profile, show it, and save it if that is wanted."""
    async with cli.client() as client, cli.client(key=_WRONG_KEY) as stranger:
        if exercise is not None and not yes and not cli.ask(await _question(client, exercise)):
            raise FailedError(FAILED, "not confirmed: nothing was sent", "--yes skips the question")
        try:
            pace = cli.settings.options.get("poll", PollSchedule()).floor
            profile = await record(
                ClientApi(client),
                seconds=seconds,
                interval=pace,
                exercise=exercise,
                wrong_key=ClientApi(stranger),
                tell=cli.say,
            )
        except RecordingError as error:
            left = "" if exercise is None else f": see where it is with `trooper show {exercise}`"
            raise FailedError(FAILED, f"{error}{left}") from None
    text = profile.to_json()
    cli.say(*map(printable, text.splitlines()))
    if not yes and not cli.ask(f"That is all that is saved. Save it to {file}?"):
        raise FailedError(FAILED, "not confirmed: nothing was saved", "--yes skips the question")
    _save(file, text)
    await _show(cli, profile)


def _save(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FailedError(
            FAILED, f"{file} can't be written ({error.strerror})", "what is shown above is all of it"
        ) from None


async def replay_from(cli: Cli, file: Path) -> None:
    """Say which waits end early, late or never under a profile."""
    try:
        profile = Profile.load(file)
    except OSError as error:
        raise FailedError(FAILED, f"{file} can't be read ({error.strerror})") from None
    await _show(cli, profile)


async def _question(client: TrooperClient, order_id: int) -> str:
    order = await client.orders.get(order_id)
    price = "its price" if order.price_h is None else f"{order.price_h} EUR an hour"
    return printable(
        f"Order {order_id} ({order.title}) is {order.current_status}. Its server is stopped, started, restarted, "
        "frozen and thawed, and ends as it is now. Whatever runs on it ends; its IP and ports may change. It may take "
        f"an hour, at {price} while it runs. Go on?"
    )


async def _show(cli: Cli, profile: Profile) -> None:
    found, waits = assumptions(profile), await replay(profile, poll=cli.settings.options.get("poll"))
    right = ("in time", "late")
    lines = [
        *(("✓ " if one.holds else "! ") + one.text for one in found),
        *(("✓ " if one.verdict in right else "✗ ") + str(one) for one in waits),
    ]
    result = {"assumptions": found, "waits": waits}
    cli.result(result, *(Text(printable(line)) for line in lines))
    if wrong := [one.action for one in waits if one.verdict not in right]:
        raise FailedError(FAILED, f"waits that end wrongly: {', '.join(wrong)}")
