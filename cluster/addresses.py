"""Addresses that carry no secret: they stand in run files, reports, events and errors, so a key has no place in one."""

from __future__ import annotations

from urllib.parse import urlsplit

from tunefleet.cluster.errors import SettingsError


def address_problem(key: str, text: str) -> SettingsError | None:
    """Why an address may not be used: it holds a user, a password, a query or a fragment. The secret itself is not in the error.

    Args:
        key: the setting, or what it is.
        text: an address; one without ``://`` is a path or a name, and fine.
    """
    scheme, mark, rest = text.partition("://")
    if not mark:
        return None
    host = rest.partition("/")[0]
    found = [word for word, there in (("a user or password", "@" in host), ("a query", "?" in rest), ("a fragment", scheme != "s3" and "#" in rest)) if there]
    if not found:
        return None
    fix = "take it out; credentials come from the environment (AWS_PROFILE, AWS_ACCESS_KEY_ID and so on, or the machine's role)"
    return SettingsError(f"{key}: an address must hold no secret", got=f"{public(text)} with {' and '.join(found)}", want="scheme://place/path", fix=fix)


def public(text: str) -> str:
    """An address without what may be secret in it, for people to read."""
    scheme, mark, _ = text.partition("://")
    if not mark:
        return text
    try:
        parts = urlsplit(text)
        return f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    except ValueError:
        return f"{scheme}://..."
