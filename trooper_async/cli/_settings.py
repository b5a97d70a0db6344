"""The API key and other settings of a client, from the environment or from a file that only its owner can read.

The file may hold several accounts: the entries at its top are the default one, and each `[profile.NAME]` is another.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import Factory, field, frozen

from trooper_async.errors import ConfigurationError

NAMES = ("api_key", "base_url", "ledger", "proxy", "ca_file", "keyring")
_KEY_STORE = "trooper"


@frozen
class Settings:
    """The settings of a client."""

    api_key: str | None = field(repr=False)
    base_url: str | None
    ledger: Path
    """The ledger, where purchases are recorded."""
    options: Mapping[str, Any] = Factory(dict)
    """Other arguments of `TrooperClient`."""
    is_demo: bool = False
    """Whether the embedded fake is used: then `ssh` only shows what it would run."""
    profile: str | None = None
    key_source: str = "none"
    """Where the key comes from, in words."""
    profiles: tuple[str, ...] = ()

    @property
    def account(self) -> str:
        """A fingerprint of base URL and key, which keeps the data of accounts apart."""
        return fingerprint(self.api_key, self.base_url)


def fingerprint(api_key: str | None, base_url: str | None) -> str:
    """Make a fingerprint that tells accounts apart and reveals nothing of the key."""
    return hashlib.sha256(f"{(base_url or '').rstrip('/')}\n{api_key or ''}".encode()).hexdigest()[:12]


def config_path() -> Path:
    """`~/.config/trooper/config.toml`, or in `$XDG_CONFIG_HOME`."""
    return folder("XDG_CONFIG_HOME", ".config") / "config.toml"


def load(profile: str | None = None) -> Settings:
    """Load the settings from the environment and the file.

    `TROOPER_API_KEY` and `TROOPER_BASE_URL` take precedence over the file, but not over a profile that is named here.

    Args:
        profile: the account in the file; by default `$TROOPER_PROFILE`, or else the entries at the top of the file.

    Raises:
        ConfigurationError: the profile does not exist, or the file is invalid or readable by others. The message
        contains none of its values.
    """
    path = config_path()
    file = read(path)
    chosen = profile or os.environ.get("TROOPER_PROFILE") or None
    entries = _entries_of(path, file, chosen)
    key, source = _key(path, entries, chosen)
    base_url = entries.get("base_url")
    of_file = key
    if profile is None:
        if from_environment := os.environ.get("TROOPER_API_KEY"):
            key, source = from_environment, "TROOPER_API_KEY"
        base_url = os.environ.get("TROOPER_BASE_URL") or base_url
    elif key is None:
        raise ConfigurationError(f"profile {profile!r:.40} in {path} has no api_key: `trooper config set api_key`")
    if ca_file := entries.get("ca_file"):
        # OpenSSL reads it when aiohttp is imported and makes its TLS context
        os.environ["SSL_CERT_FILE"] = str(path.parent / Path(ca_file).expanduser())
    return Settings(
        api_key=key,
        base_url=base_url,
        ledger=_ledger(path, entries.get("ledger"), fingerprint(key, base_url), is_own_key=key == of_file),
        options={"proxy": entries["proxy"]} if "proxy" in entries else {},
        profile=chosen,
        key_source=source,
        profiles=tuple(sorted(_profiles(file))),
    )


def _ledger(path: Path, given: str | None, account: str, *, is_own_key: bool) -> Path:
    """Each account has its own ledger, so that the purchases of one neither count for nor block the other."""
    if given is None:
        return folder("XDG_STATE_HOME", ".local/state") / f"purchases-{account}.jsonl"
    named = path.parent / Path(given).expanduser()
    return named if is_own_key else named.with_name(f"{named.stem}-{account}{named.suffix}")


def _key(path: Path, entries: Mapping[str, Any], profile: str | None) -> tuple[str | None, str]:
    if entries.get("keyring"):
        return stored_key(profile), "the system's key store"
    key = entries.get("api_key")
    return key, "none" if key is None else str(path)


def stored_key(profile: str | None) -> str | None:
    """Read the key from the system's key store."""
    found: str | None = _key_store().get_password(_KEY_STORE, profile or "default")
    return found


def store_key(profile: str | None, key: str) -> None:
    """Put a key into the system's key store."""
    _key_store().set_password(_KEY_STORE, profile or "default", key)


def _key_store() -> Any:  # it is optional
    try:
        import keyring  # type: ignore[import-not-found, unused-ignore]  # it is optional
    except ImportError:
        raise ConfigurationError("the system's key store needs the package keyring: pip install keyring") from None
    return keyring


def folder(variable: str, default: str) -> Path:
    """This command's folder below one of the XDG folders; XDG says that a relative path must be ignored."""
    given = os.environ.get(variable, "")
    base = Path(given) if os.path.isabs(given) else Path.home() / default
    return base / "trooper"


def _profiles(file: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = file.get("profile", {})
    return found


def _entries_of(path: Path, file: Mapping[str, Any], profile: str | None) -> Mapping[str, Any]:
    if profile is None:
        return {name: value for name, value in file.items() if name != "profile"}
    if profile not in _profiles(file):
        there = ", ".join(sorted(_profiles(file))) or "none"
        raise ConfigurationError(f"there is no profile {profile!r:.40} in {path} (there are: {there})")
    return _profiles(file)[profile]


def read(path: Path) -> dict[str, Any]:
    """Read the file; an empty result if there is none."""
    data: dict[str, Any] = {}
    problem: str | None = None
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if os.name == "posix" and mode & 0o077:
                problem = f"can be read by others (mode {mode:04o}): chmod 600 {path}"
            else:
                data = tomllib.load(file)
    except (FileNotFoundError, NotADirectoryError):  # HOME is often /dev/null for system users
        return {}
    except OSError as error:
        problem = f"can't be read ({error.strerror})"
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        problem = "is not TOML"
    if problem := problem or _problem(data):  # raised here, since the exceptions above may hold the file's content
        raise ConfigurationError(f"{path} {problem}")
    return data


def _problem(data: Mapping[str, Any]) -> str | None:
    profiles = data.get("profile", {})
    if not isinstance(profiles, dict) or not all(isinstance(entries, dict) for entries in profiles.values()):
        return "has a profile that is not written as [profile.NAME]"
    default = {name: value for name, value in data.items() if name != "profile"}
    for entries in (default, *profiles.values()):
        for name, value in entries.items():
            if name not in NAMES:
                return f"has an entry {name!r:.40}: there are {', '.join(NAMES)}"
            if not isinstance(value, bool if name == "keyring" else str):
                return f"has a value of {name} that is not {'true or false' if name == 'keyring' else 'text'}"
    return None
