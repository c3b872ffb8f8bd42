"""A folder of a local or shared file system as a storage: writing goes to a temporary name, which is synced and then renamed."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tunefleet.cluster.errors import StorageError
from tunefleet.cluster.storage import TEMPORARY, Stored, announce, check_content, chunks, hash_file, name_parts, outside

Chunks = Iterator[bytes] | list[bytes]


class Folder:
    """A folder of a local or shared file system."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))

    @property
    def address(self) -> str:
        """The folder's absolute path."""
        return str(self.root)

    @property
    def appends(self) -> bool:
        """A folder can."""
        return True

    def put(self, name: str, data: bytes) -> Stored:
        """See Storage."""
        return self._put(name, [data])

    def put_file(self, name: str, local: Path, *, consume: bool = False) -> Stored:
        """See Storage."""
        target = self._path(name)
        if not consume or local.parent != target.parent:
            stored = self._put(name, chunks(local))
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
        check_content(str(path), len(data), lambda: hashlib.sha256(data).hexdigest(), sha256, size)
        return data

    def read_from(self, name: str, offset: int, length: int | None = None) -> bytes:
        """See Storage."""
        path = self._path(name)
        with _explained(path, 0), path.open("rb") as file:
            file.seek(offset)
            return file.read(-1 if length is None else length)

    def local(self, name: str, *, sha256: str | None = None, size: int | None = None) -> Path:
        """See Storage."""
        path = self._path(name)
        with _explained(path, 0):
            check_content(str(path), path.stat().st_size, lambda: hash_file(path)[0], sha256, size)
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
        announce("delete", str(path))
        with _explained(path, 0):
            path.unlink(missing_ok=True)

    def delete_tree(self, prefix: str) -> None:
        """See Storage."""
        path = self._path(prefix)
        announce("delete", str(path))
        with _explained(path, 0), suppress(FileNotFoundError):
            shutil.rmtree(path)

    def create(self, name: str, data: bytes) -> bool:
        """See Storage. A hard link is what makes it exclusive and whole at once."""
        target = self._path(name)
        temporary = _temporary(target)
        with _explained(target, len(data)):
            try:
                _write(temporary, [data])
                announce("link", str(target))
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
        announce("append", str(path))
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
        path = self.root.joinpath(*name_parts(name, self.address))
        if not Path(os.path.realpath(path)).is_relative_to(self.root):
            raise outside(name, self.address)
        return path


def _write(temporary: Path, chunks: Chunks, name: str = "") -> Stored:
    """Write to the temporary name; what it returns describes the bytes as they were handed over."""
    temporary.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    announce("create", str(temporary))
    with temporary.open("xb", buffering=0) as file:
        for chunk in chunks:
            announce("write", str(temporary))
            view = memoryview(chunk)
            while view:
                view = view[file.write(view) :]
            digest.update(chunk)
            size += len(chunk)
    return Stored(name, size, digest.hexdigest())


def _commit(temporary: Path, target: Path) -> None:
    """Sync the bytes, then let the name appear, then sync the name."""
    announce("sync", str(temporary))
    _sync(temporary)
    announce("rename", str(target))
    temporary.replace(target)
    _sync_folder(target.parent)
    announce("done", str(target))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    announce("sync-folder", str(path))
    _sync(path)


def _temporary(target: Path) -> Path:
    return target.with_name(f"{TEMPORARY}{os.getpid()}-{uuid.uuid4().hex[:12]}")


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
