"""The key, and what else a client is made with: from the environment, else from a file that only its owner reads."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

from attrs import field, frozen

from trooper_async import PollSchedule, RetryPolicy
from trooper_async.errors import ConfigurationError

_NAMES = ("api_key", "base_url", "ledger")


@frozen
class Settings:
    """What a client is made with. `TROOPER_API_KEY` and `TROOPER_BASE_URL` win over the file."""

    api_key: str | None = field(repr=False)
    base_url: str | None
    ledger: Path
    """Where purchases are journalled."""
    poll: PollSchedule = PollSchedule()  # noqa: RUF009 - frozen
    retry: RetryPolicy = RetryPolicy()  # noqa: RUF009 - frozen
    is_demo: bool = False
    """Whether all this is the embedded fake: then `ssh` only says what it would run."""


def config_path() -> Path:
    """`~/.config/trooper/config.toml`, or in `$XDG_CONFIG_HOME`."""
    return _folder("XDG_CONFIG_HOME", ".config") / "config.toml"


def load() -> Settings:
    """The settings as environment and file have them.

    Raises:
        ConfigurationError: the file can be read by others, or is not as it should be. No value of it is told.
    """
    file = _read(config_path())
    ledger = file.get("ledger")
    return Settings(
        api_key=os.environ.get("TROOPER_API_KEY") or file.get("api_key"),
        base_url=os.environ.get("TROOPER_BASE_URL") or file.get("base_url"),
        ledger=Path(ledger).expanduser() if ledger else _folder("XDG_STATE_HOME", ".local/state") / "purchases.jsonl",
    )


def _folder(variable: str, default: str) -> Path:
    given = os.environ.get(variable, "")
    base = Path(given) if os.path.isabs(given) else Path.home() / default  # a relative one is to be ignored (XDG)
    return base / "trooper"


def _read(path: Path) -> dict[str, str]:
    data: dict[str, object] = {}
    problem = ""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if os.name == "posix" and mode & 0o077:
                problem = f"can be read by others (mode {mode:04o}): chmod 600 {path}"
            else:
                data = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        problem = f"can't be read ({error.strerror})"
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        problem = "is no TOML"
    texts = {name: value for name, value in data.items() if isinstance(value, str)}
    for name in data:
        if name not in _NAMES:
            problem = f"has an entry {name!r:.40}: there are {', '.join(_NAMES)}"
        elif name not in texts:
            problem = f"has a value of {name} that is no text"
    if problem:  # raised here: the exceptions above may hold what is in the file
        raise ConfigurationError(f"{path} {problem}")
    return texts
