"""Checks of the URLs of the API and of a proxy."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit


def problem_of_url(url: object) -> str | None:
    """What is wrong with a base URL. The text does not contain the URL, which may hold a password."""
    if isinstance(url, str) and "://" not in url:
        return "base_url must be an https URL: write https:// in front of the host"
    parts = _parts(url)
    if parts is None or not isinstance(url, str):
        return "base_url is not a valid URL"
    has_more = "@" in parts.netloc or any(c in "?#" or c.isspace() for c in url)  # an empty query or user counts, too
    if parts.scheme not in ("https", "http") or not parts.hostname or has_more:
        return "base_url must be an https URL without user, query and fragment"
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        return "base_url must be https: over http anyone in between could read the API key"
    return None


def problem_of_proxy(proxy: object, url: str) -> str | None:
    """What is wrong with a proxy's URL, without the URL itself."""
    if proxy is None:
        return None
    parts, target = _parts(proxy), _parts(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        return "proxy must be the URL of an HTTP proxy (http://host:port)"
    if target is not None and target.scheme == "http" and not _is_loopback(parts.hostname):
        return "with a base_url of http the proxy must be on this machine: another one could read the API key"
    return None


def _parts(url: object) -> SplitResult | None:
    """The parts of a URL whose host and port can be read, or None."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        return parts if parts is None or parts.port is None or parts.hostname else None
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
