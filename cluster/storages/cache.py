"""Local copies of remote objects: a folder of this user's under the temporary folder, bounded, shared by the processes of a machine.

A copy is named by what it is a copy of, version included, so it never goes stale. What was used least recently goes first; what was used within the
last hour stays, whatever the bound.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tunefleet.cluster.errors import StorageError

LIMIT_BYTES = 64 << 30
"""At most this, and at most half of what the disk has free for it."""

IN_USE_S = 3600.0


def fetched(key: str, size: int, content: Callable[[], Iterator[bytes]], check: Callable[[Path], None]) -> Path:
    """A local copy of what ``key`` stands for. Of several processes one fetches it, the others wait.

    Args:
        key: address and version.
        size: bytes.
        content: the bytes, asked for only when there is no copy.
        check: raises StorageError when a file is not what it should be; a copy that has gone bad is fetched anew.
    """
    path = private_folder("objects") / hashlib.sha256(key.encode()).hexdigest()
    with _explained(path, size), _locked(path):
        if path.exists():
            try:
                check(path)
                os.utime(path)
            except StorageError:
                path.unlink()
            else:
                return path
        make_room(path.parent, size)
        temporary = path.with_name(f"{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
        try:
            with temporary.open("xb") as file:
                for block in content():
                    file.write(block)
            check(temporary)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def staging() -> Path:
    """A fresh path for a file that is to be uploaded; what killed processes left there goes."""
    folder = private_folder("staging")
    for left in folder.iterdir():
        pid = left.name.partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            left.unlink(missing_ok=True)
    return folder / f"{os.getpid()}-{uuid.uuid4().hex[:12]}"


def make_room(folder: Path, size: int, *, now_s: float | None = None, limit_bytes: int | None = None) -> list[Path]:
    """Remove the least recently used copies until ``size`` more bytes fit; those removed."""
    now_s = time.time() if now_s is None else now_s
    files = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            found = path.stat()
            if not path.name.endswith(".lock"):
                files.append((found.st_mtime, found.st_size, path))
    used = sum(bytes_ for _, bytes_, _ in files)
    limit = min(LIMIT_BYTES, (used + shutil.disk_usage(folder).free) // 2) if limit_bytes is None else limit_bytes
    removed = []
    for mtime, bytes_, path in sorted(files):
        if used + size <= limit or now_s - mtime < IN_USE_S:
            break
        path.unlink(missing_ok=True)
        used -= bytes_
        removed.append(path)
    return removed


def private_folder(kind: str) -> Path:
    """A folder that only this user can look into. Raises StorageError when somebody else has made one of that name."""
    top = Path(tempfile.gettempdir()) / f"tunefleet-{os.getuid()}"
    top.mkdir(mode=0o700, exist_ok=True)
    found = top.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
        fix = "remove it, or set TMPDIR to a folder of your own"
        raise StorageError(f"{top}: not a private folder of this user", got=f"owner {found.st_uid}, mode {found.st_mode & 0o777:o}", want="mode 700", fix=fix)
    folder = top / kind
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process and thread at a time for a copy."""
    lock = path.with_name(f"{path.name}.lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _explained(path: Path, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(path.parent).free
        raise StorageError(
            f"{path}: {error.strerror or error}",
            got=f"{size} bytes to keep, {free} bytes free",
            want="a temporary folder with room for the largest object",
            fix="free space, or set TMPDIR to another folder",
        ) from error
