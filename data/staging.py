"""A folder that appears whole or not at all, whoever else makes the same one at the same time."""

from __future__ import annotations

import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunefleet.cluster.errors import StorageError

PREFIX = ".making"


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """An empty folder beside ``target`` that takes its name when the block ends well, and is removed when it does not.

    Of several makers the first wins and the others' work is dropped. What killed makers of this host left behind is cleared away. Raises StorageError,
    with path, where it cannot be written.
    """
    temporary = target.with_name(f"{PREFIX}-{target.name}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear(target)
        temporary.mkdir()
        yield temporary
        _publish(temporary, target)
    except OSError as error:
        free = shutil.disk_usage(target.parent).free if target.parent.exists() else "unknown"
        raise StorageError(
            f"{error.filename or target}: {error.strerror or error}",
            got=f"{free} bytes free",
            want="a folder that can be written, with room",
            fix="free space, or choose another folder",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        return  # another maker was first; both wrote the same
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clear(target: Path) -> None:
    """Remove the leavings of makers that died on this host."""
    mine = f"{PREFIX}-{target.name}-{socket.gethostname()}-"
    for folder in target.parent.glob(f"{mine}*"):
        pid = folder.name.removeprefix(mine).partition("-")[0]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
