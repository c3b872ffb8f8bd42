"""Folders of this user on this machine, below the system's temporary folder, that nobody else can look into."""

from __future__ import annotations

import os
import stat
import tempfile
import uuid
from pathlib import Path

from tunefleet.cluster.errors import StorageError


def scratch(kind: str) -> Path:
    """Where files of a kind lie; nothing is made."""
    return Path(tempfile.gettempdir()) / f"tunefleet-{os.getuid()}" / kind


def private_folder(kind: str) -> Path:
    """The same folder, made. Raises StorageError when somebody else has made one of that name."""
    folder = scratch(kind)
    top = folder.parent
    top.mkdir(mode=0o700, exist_ok=True)
    found = top.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
        fix = "remove it, or set TMPDIR to a folder of your own"
        raise StorageError(f"{top}: not a private folder of this user", got=f"owner {found.st_uid}, mode {found.st_mode & 0o777:o}", want="mode 700", fix=fix)
    folder.mkdir(exist_ok=True)
    return folder


def staging() -> Path:
    """A fresh path for a file that is to be uploaded; what killed processes left there goes."""
    folder = private_folder("staging")
    for left in folder.iterdir():
        pid = left.name.partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            left.unlink(missing_ok=True)
    return folder / f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
