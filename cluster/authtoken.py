"""The token of a local Ray: a file that its user alone may read. Ray would write it for everybody on the machine who can enter the home folder."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def guard_token(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Before a local Ray starts: make the token where Ray would, and take away what others may do with one that is there. Returns what is to be said.

    A token that the environment names by its value or its path is the user's own matter.
    """
    if environment.get("RAY_AUTH_MODE", "token").lower() != "token" or environment.get("RAY_AUTH_TOKEN") or environment.get("RAY_AUTH_TOKEN_PATH"):
        return ()
    path = Path("~/.ray/auth_token").expanduser()
    with suppress(OSError):  # a home that takes no file: Ray says so itself
        _make(path)
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            path.chmod(mode & 0o700)
            return (f"{path} could be read by other users of this machine, and from now on only by you; remove it for another token",)
    return ()


def _make(path: Path) -> None:
    """A new token, unless there is one; it appears whole, also where two processes make it at once."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = path.with_name(f"{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    mine.touch(mode=0o600, exist_ok=False)
    try:
        mine.write_text(secrets.token_hex(32), encoding="ascii")
        with suppress(FileExistsError):
            os.link(mine, path)
    finally:
        mine.unlink()
