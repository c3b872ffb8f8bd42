"""Where files live: one small interface over a folder today, and an object store later. A name is either whole or absent.

Names are relative, with forward slashes. A reader never sees half a file: writing goes to a temporary name, which is synced and then renamed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from tunefleet.cluster.errors import SettingsError, StorageError

Chunks = Iterator[bytes] | list[bytes]
TEMPORARY = ".tmp-"
_CHUNK_BYTES = 4 << 20

file_events: list[Callable[[str, str], None]] = []
"""For fault tests only: each is called with (event, path) before the event happens.

Events, in the order of a put: ``create`` (the temporary file is opened), ``write`` (a chunk), ``sync``, ``rename`` (the name appears),
``sync-folder``, ``done``. Others: ``link`` (conditional create), ``append``, ``delete``. Storage itself never puts anything here.
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """What was written: enough to check it when it is read."""

    name: str
    bytes: int
    sha256: str


class Storage(Protocol):
    """A flat space of names. Every method raises StorageError with the path; every name that leads out of it is refused."""

    @property
    def address(self) -> str:
        """The folder or prefix, as an absolute address."""

    def put(self, name: str, data: bytes) -> Stored:
        """Write or replace a name, atomically and durably."""

    def put_file(self, name: str, local: Path, *, consume: bool = False) -> Stored:
        """Write or replace a name from a local file. ``consume`` gives the local file away: where it lies beside the name, it is renamed, not copied."""

    def staging(self, name: str) -> Path:
        """A fresh local path, on the same device where that is possible, to write a large file at before ``put_file(name, it, consume=True)``."""

    def read(self, name: str, *, sha256: str | None = None, size: int | None = None) -> bytes:
        """All bytes of a name; refused when checksum or size differ from what is wanted."""

    def read_from(self, name: str, offset: int) -> bytes:
        """Bytes from an offset to the end; empty when the name is not longer than that."""

    def local(self, name: str, *, sha256: str | None = None, size: int | None = None) -> Path:
        """A local path that holds the name's bytes, checked when a checksum or size is given."""

    def exists(self, name: str) -> bool:
        """Whether the name is there, whole."""

    def size(self, name: str) -> int:
        """Bytes of a name."""

    def modified(self, name: str) -> float:
        """When the name was last written, seconds, by the clock of the storage and not of this machine."""

    def list(self, prefix: str = "") -> list[str]:
        """Sorted names that begin with the prefix, at any depth."""

    def delete(self, name: str) -> None:
        """Remove a name; one that is absent is no error."""

    def delete_tree(self, prefix: str) -> None:
        """Remove every name below ``prefix/``."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a name only when there is none: False when there is one. Of several writers exactly one gets True."""

    def append(self, name: str, data: bytes) -> None:
        """Add bytes at the end. Only folders can; the bytes may be lost with the machine's power."""

    def sub(self, prefix: str) -> Storage:
        """The part below ``prefix/`` as a storage of its own."""


def open_storage(address: str | Path) -> Storage:
    """The storage at an address. A folder need not exist yet. Raises SettingsError for an address that no storage understands."""
    text = str(address)
    scheme, mark, rest = text.partition("://")
    if not mark:
        return Folder(Path(text).expanduser())
    if scheme == "file":
        return Folder(Path(rest))
    raise SettingsError("this address is no storage that is built", got=text, want="a folder, or file:///folder", fix="use a folder that every node mounts")


class Folder:
    """A folder of a local or shared file system."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))

    @property
    def address(self) -> str:
        """The folder's absolute path."""
        return str(self.root)

    def put(self, name: str, data: bytes) -> Stored:
        """See Storage."""
        return self._put(name, [data])

    def put_file(self, name: str, local: Path, *, consume: bool = False) -> Stored:
        """See Storage."""
        target = self._path(name)
        if not consume or local.parent != target.parent:
            stored = self._put(name, _chunks(local))
            if consume:
                local.unlink()
            return stored
        digest, size = hash_file(local)
        with _explained(target, size):
            _commit(local, target)
        return Stored(name, size, digest)

    def staging(self, name: str) -> Path:
        """See Storage."""
        target = self._path(name)
        with _explained(target, 0):
            target.parent.mkdir(parents=True, exist_ok=True)
        return _temporary(target)

    def read(self, name: str, *, sha256: str | None = None, size: int | None = None) -> bytes:
        """See Storage."""
        path = self._path(name)
        with _explained(path, 0):
            data = path.read_bytes()
        _check(path, len(data), lambda: hashlib.sha256(data).hexdigest(), sha256, size)
        return data

    def read_from(self, name: str, offset: int) -> bytes:
        """See Storage."""
        path = self._path(name)
        with _explained(path, 0), path.open("rb") as file:
            file.seek(offset)
            return file.read()

    def local(self, name: str, *, sha256: str | None = None, size: int | None = None) -> Path:
        """See Storage."""
        path = self._path(name)
        with _explained(path, 0):
            _check(path, path.stat().st_size, lambda: hash_file(path)[0], sha256, size)
        return path

    def exists(self, name: str) -> bool:
        """See Storage."""
        return self._path(name).is_file()

    def size(self, name: str) -> int:
        """See Storage."""
        path = self._path(name)
        with _explained(path, 0):
            return path.stat().st_size

    def modified(self, name: str) -> float:
        """See Storage."""
        path = self._path(name)
        with _explained(path, 0):
            return path.stat().st_mtime

    def list(self, prefix: str = "") -> list[str]:
        """See Storage."""
        top = prefix.rpartition("/")[0]
        start = self._path(top) if top else self.root
        names = [
            (Path(folder) / file).relative_to(self.root).as_posix() for folder, _, files in os.walk(start) for file in files if not file.startswith(TEMPORARY)
        ]
        return sorted(name for name in names if name.startswith(prefix))

    def delete(self, name: str) -> None:
        """See Storage."""
        path = self._path(name)
        _event("delete", path)
        with _explained(path, 0):
            path.unlink(missing_ok=True)

    def delete_tree(self, prefix: str) -> None:
        """See Storage."""
        path = self._path(prefix)
        _event("delete", path)
        with _explained(path, 0), suppress(FileNotFoundError):
            shutil.rmtree(path)

    def create(self, name: str, data: bytes) -> bool:
        """See Storage. A hard link is what makes it exclusive and whole at once."""
        target = self._path(name)
        temporary = _temporary(target)
        with _explained(target, len(data)):
            try:
                _write(temporary, [data])
                _event("link", target)
                os.link(temporary, target)
                _sync_folder(target.parent)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
        return True

    def append(self, name: str, data: bytes) -> None:
        """See Storage."""
        path = self._path(name)
        _event("append", path)
        with _explained(path, len(data)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab", buffering=0) as file:
                file.write(data)

    def sub(self, prefix: str) -> Folder:
        """See Storage."""
        return Folder(self._path(prefix))

    def _put(self, name: str, chunks: Chunks) -> Stored:
        target = self._path(name)
        temporary = _temporary(target)
        written = Stored(name, 0, "")
        try:
            with _explained(target, sum(map(len, chunks)) if isinstance(chunks, list) else 0):
                written = _write(temporary, chunks, name)
                _commit(temporary, target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        return written

    def _path(self, name: str) -> Path:
        """The path of a name. Raises StorageError when it would lie outside the folder, by its spelling or through a link."""
        parts = PurePosixPath(name).parts
        odd = not parts or name.startswith(("/", "\\")) or ".." in parts or "\0" in name or parts[-1].startswith(TEMPORARY)
        path = self.root.joinpath(*parts) if not odd else self.root
        if odd or not Path(os.path.realpath(path)).is_relative_to(self.root):
            raise StorageError("this name leads out of its storage", got=repr(name), want=f"a relative name inside {self.root}", fix="rename or remove it")
        return path


def hash_file(path: Path) -> tuple[str, int]:
    """The sha256 of a file and its size in bytes, in constant memory."""
    digest, size = hashlib.sha256(), 0
    for chunk in _chunks(path):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _write(temporary: Path, chunks: Chunks, name: str = "") -> Stored:
    """Write to the temporary name; what it returns describes the bytes as they were handed over."""
    temporary.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    _event("create", temporary)
    with temporary.open("xb", buffering=0) as file:
        for chunk in chunks:
            _event("write", temporary)
            view = memoryview(chunk)
            while view:
                view = view[file.write(view) :]
            digest.update(chunk)
            size += len(chunk)
    return Stored(name, size, digest.hexdigest())


def _commit(temporary: Path, target: Path) -> None:
    """Sync the bytes, then let the name appear, then sync the name."""
    _event("sync", temporary)
    _sync(temporary)
    _event("rename", target)
    temporary.replace(target)
    _sync_folder(target.parent)
    _event("done", target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    _event("sync-folder", path)
    _sync(path)


def _temporary(target: Path) -> Path:
    return target.with_name(f"{TEMPORARY}{os.getpid()}-{uuid.uuid4().hex[:12]}")


def _event(event: str, path: Path) -> None:
    for listener in file_events:
        listener(event, str(path))


def _check(path: Path, size: int, digest: Callable[[], str], sha256: str | None, wanted: int | None) -> None:
    if wanted is not None and size != wanted:
        raise StorageError(f"{path}: not what was written", got=f"{size} bytes", want=f"{wanted} bytes", fix="it is torn or altered: use another copy")
    if sha256 is not None and (found := digest()) != sha256:
        raise StorageError(f"{path}: not what was written", got=f"sha256 {found}", want=f"sha256 {sha256}", fix="it is altered: use another copy")


@contextmanager
def _explained(path: Path, size: int) -> Iterator[None]:
    """Turn the system's errors into one of ours, with path, bytes and what is free."""
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"{path}: missing", got=str(error), want="a file that is there", fix="check the path") from error
    except OSError as error:
        raise StorageError(
            f"{path}: {error.strerror or error}",
            got=f"{size} bytes to write, {_free(path)} bytes free" if size else str(error),
            want="a folder that can be read and written, with room",
            fix="free space, or choose another folder",
        ) from error


def _free(path: Path) -> str:
    for folder in path.parents:
        if folder.exists():
            return str(shutil.disk_usage(folder).free)
    return "unknown"
