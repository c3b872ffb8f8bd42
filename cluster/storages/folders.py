"""Whole folders between a storage and this machine: a model that lies on S3 is read from a local copy, an export is written here and sent up."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from tunefleet.cluster.errors import StorageError
from tunefleet.cluster.scratch import private_folder
from tunefleet.cluster.storage import Storage, is_remote, open_storage

UNUSED_S = 24 * 3600.0
"""A local copy of a folder that nobody has asked for in this time is removed when the next one is made."""

_FILES_ABREAST = 4


WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")


def local_folder(address: str, *, weights: bool = True) -> str:
    """A local folder with the same files: the folder itself, expanded, or a copy of what lies below a remote address.

    ``weights``: whether those are wanted too; config and tokenizer are small, and read by the driver. What is neither (a hub id) comes back as it is.
    Raises StorageError for a remote address with nothing below it.
    """
    if not is_remote(address):
        return str(Path(address).expanduser()) if Path(address).expanduser().exists() else address
    storage = open_storage(address)
    names = [name for name in storage.list() if weights or not name.endswith(WEIGHTS)]
    if not names:
        raise StorageError(f"{storage.address}: nothing there", got="no object below it", want="the files of a folder", fix="check the address")
    with ThreadPoolExecutor(_FILES_ABREAST) as pool:
        files = dict(zip(names, pool.map(storage.local, names), strict=True))
    top = private_folder("folders")
    version = hashlib.sha256("\n".join([storage.address, *(f"{name} {path.name}" for name, path in files.items())]).encode()).hexdigest()
    target = top / version
    if not target.is_dir():
        _forget_unused(top)
        temporary = top / f"{version}.{os.getpid()}-{uuid.uuid4().hex[:8]}"
        for name, path in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(path, temporary / name)  # so that it stays when the cache lets the object go
        with suppress(OSError):  # another process was first, with the same
            temporary.rename(target)
        shutil.rmtree(temporary, ignore_errors=True)
    os.utime(target)
    return str(target)


def has_file(address: str, name: str) -> bool:
    """Whether a folder, local or remote, has a file."""
    return open_storage(address).exists(name) if is_remote(address) else (Path(address).expanduser() / name).is_file()


def joined(address: str, name: str) -> str:
    """The address of a name in a folder, local or remote; a local one absolute."""
    return f"{address.rstrip('/')}/{name}" if is_remote(address) else str(Path(address).expanduser().absolute() / name)


@contextmanager
def sent_up(storage: Storage, prefix: str, *, last: str = "") -> Iterator[Path]:
    """A temporary local folder whose files take the place of what lies below ``prefix/`` when the block ends well.

    Names appear one by one; ``last`` is the one by which readers know that the others stand: it goes first and comes last.
    """
    with tempfile.TemporaryDirectory(prefix="tunefleet-") as made:
        folder = Path(made) / (prefix.rpartition("/")[2] or "folder")
        folder.mkdir()
        yield folder
        if last:
            storage.delete(f"{prefix}/{last}")
        names = sorted((path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()), key=lambda name: (name == last, name))
        for name in names:
            storage.put_file(f"{prefix}/{name}", folder / name)
        for stale in set(storage.list(f"{prefix}/")) - {f"{prefix}/{name}" for name in names}:
            storage.delete(stale)


def _forget_unused(top: Path) -> None:
    for folder in top.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime > UNUSED_S:
                shutil.rmtree(folder, ignore_errors=True)
