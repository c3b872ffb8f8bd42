"""Where files live: one small interface over a folder and an object store. A name is either whole or absent.

Names are relative, with forward slashes. A reader never sees half a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from tunefleet.cluster.addresses import address_problem
from tunefleet.cluster.errors import SettingsError, StorageError

TEMPORARY = ".tmp-"
CHUNK_BYTES = 4 << 20

file_events: list[Callable[[str, str], None]] = []
"""For fault tests only: each is called with (event, path) before the event happens.

Events, in the order of a put into a folder: ``create`` (the temporary file is opened), ``write`` (a chunk), ``sync``, ``rename`` (the name appears),
``sync-folder``, ``done``. Others: ``link`` (conditional create), ``append``, ``delete``. On S3: ``upload`` (one request of an upload), ``delete``.
Storage itself never puts anything here.
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

    @property
    def appends(self) -> bool:
        """Whether ``append`` works. Where it does not, ``cluster.metrics`` writes lines as numbered parts."""

    def put(self, name: str, data: bytes) -> Stored:
        """Write or replace a name, atomically and durably."""

    def put_file(self, name: str, local: Path, *, consume: bool = False) -> Stored:
        """Write or replace a name from a local file. ``consume`` gives the local file away: where it lies beside the name, it is renamed, not copied."""

    def staging(self, name: str) -> Path:
        """A fresh local path, on the same device where that is possible, to write a large file at before ``put_file(name, it, consume=True)``."""

    def read(self, name: str, *, sha256: str | None = None, size: int | None = None) -> bytes:
        """All bytes of a name; refused when checksum or size differ from what is wanted."""

    def read_from(self, name: str, offset: int, length: int | None = None) -> bytes:
        """Bytes from an offset, to the end or as many as asked for; fewer where the name ends before."""

    def local(self, name: str, *, sha256: str | None = None, size: int | None = None) -> Path:
        """A local path that holds the name's bytes, checked when a checksum or size is given. Of a remote name it is a copy in a cache: open it soon."""

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
        """Write a name only when there is none: False when there is one. Of several writers exactly one gets True.

        The data tells its writers apart: one that asks twice, since it never heard the answer, is told True by finding its own.
        """

    def append(self, name: str, data: bytes) -> None:
        """Add bytes at the end. Only folders can; the bytes may be lost with the machine's power."""

    def sub(self, prefix: str) -> Storage:
        """The part below ``prefix/`` as a storage of its own."""


def open_storage(address: str | Path) -> Storage:
    """The storage at an address. A folder need not exist yet. Raises SettingsError for an address that no storage understands."""
    from tunefleet.cluster.storages.folder import Folder

    text = str(address)
    scheme, mark, rest = text.partition("://")
    if not mark:
        return Folder(Path(text).expanduser())
    if problem := address_problem("this address", text):
        raise problem
    if scheme == "file":
        return Folder(Path(rest))
    if scheme == "s3":
        from tunefleet.cluster.storages.s3 import S3

        return S3.at(text)
    raise SettingsError("this address is no storage that is built", got=text, want="a folder, file:///folder, or s3://bucket/prefix", fix="choose one of them")


def is_remote(address: str) -> bool:
    """Whether an address is an object store, which is no folder of any machine."""
    return "://" in address and not address.startswith("file://")


def name_parts(name: str, root: str) -> tuple[str, ...]:
    """The parts of a name. Raises StorageError when its spelling leads out of the storage at ``root``, or is that of a temporary file."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith(("/", "\\")) or ".." in parts or "\0" in name or parts[-1].startswith(TEMPORARY):
        raise outside(name, root)
    return parts


def outside(name: str, root: str) -> StorageError:
    """The error for a name that leads out of its storage."""
    return StorageError("this name leads out of its storage", got=repr(name), want=f"a relative name inside {root}", fix="rename or remove it")


def check_content(path: str, size: int, digest: Callable[[], str], sha256: str | None, wanted: int | None) -> None:
    """Raises StorageError unless size and checksum are those wanted; ``digest`` is asked only where a checksum is."""
    if wanted is not None and size != wanted:
        raise StorageError(f"{path}: not what was written", got=f"{size} bytes", want=f"{wanted} bytes", fix="it is torn or altered: use another copy")
    if sha256 is not None and (found := digest()) != sha256:
        raise StorageError(f"{path}: not what was written", got=f"sha256 {found}", want=f"sha256 {sha256}", fix="it is altered: use another copy")


def hash_file(path: Path) -> tuple[str, int]:
    """The sha256 of a file and its size in bytes, in constant memory."""
    digest, size = hashlib.sha256(), 0
    for chunk in chunks(path):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def chunks(path: Path, size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The bytes of a file, piece by piece."""
    with path.open("rb") as file:
        while chunk := file.read(size):
            yield chunk


def announce(event: str, path: str) -> None:
    """Tell the fault tests what is about to happen."""
    for listener in file_events:
        listener(event, path)
