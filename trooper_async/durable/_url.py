"""The database's address, which may hold a password."""

from __future__ import annotations

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from trooper_async import ConfigurationError


def checked(database_url: str) -> URL:
    """One that can be used, without a driver: the engine has its own.

    Raises:
        ConfigurationError: it is none.
    """
    try:
        url = make_url(database_url)
        if url.get_backend_name() in ("sqlite", "postgresql") and url.database and url.database != ":memory:":
            return url.set(drivername=url.get_backend_name())
    except (ArgumentError, ValueError):
        pass
    raise ConfigurationError("database_url must be postgresql://user@host/database or sqlite:///file")


def refusal(url: URL, error: Exception) -> ConfigurationError:
    """Why it can't be used, without a password. Not to be raised where `error` would be its cause or context."""
    reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    options = [word for option, words in url.normalized_query.items() if "password" in option for word in words]
    for password in filter(None, [url.password, *options]):
        reason = reason.replace(password, "[blanked]")
    return ConfigurationError(f"the database {url.set(query={}).render_as_string()} can't be used: {reason}")
