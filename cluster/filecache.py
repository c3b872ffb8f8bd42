"""Files of a remote storage on this machine: each fetched once a node, however many processes ask for it, and checked before anybody sees it.

A file is known by a key of 64 hexadecimal digits: its sha256 where that is known beforehand, so that it is the same one for every store and every run, else a
hash of address and version (``key_of``). Who comes later finds what was fetched before.

    <key>           whole and checked: it appears by rename
    <key>.lock      locked alone by who fetches it, shared by who uses it; the system lets go of it when its holder dies
    .tmp-<key>-*    on its way

What is in use is never removed, so the cache grows past its limit when more than that is in use at once. A file that is mapped stays readable whatever happens.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tunefleet.cluster.errors import StorageError
from tunefleet.cluster.scratch import private_folder, scratch
from tunefleet.cluster.storage import Storage, hash_file

STALL_S = 300.0
"""Seconds in which a fetch by another process must bring something; then it counts as hung. Longer than a storage's own time-outs and retries."""

_POLL_S = 0.02
_BLOCK_BYTES = 16 << 20  # of one request
_SPARE = 0.1  # of its disk, which a cache without a limit leaves free
_KEY = re.compile(r"[0-9a-f]{64}")
_LOCK, _TEMPORARY = ".lock", ".tmp-"


_FILES = "files"  # the folder where none is named

LENT_S = 3600.0
"""Seconds for which a file that was lent is in use by the process that asked: to be opened, read, linked."""

_LENT_MOST = 256  # at a time, as each is an open file
_lent: dict[Path, tuple[float, Held]] = {}
_checked: set[tuple[str, str, int, int]] = set()  # copies whose bytes were read and right in this process
_change = threading.Lock()


def key_of(*parts: object) -> str:
    """A key for a version of something whose content is not known beforehand."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


class Held:
    """A file of the cache, which stays there until ``release``, or until this object is forgotten or its process ends."""

    def __init__(self, path: Path, lock: int, *, fetched: bool) -> None:
        self.path, self.fetched = path, fetched
        self.release = weakref.finalize(self, os.close, lock)


@dataclass(frozen=True, slots=True)
class _File:
    """What is asked for: ``blocks`` brings its bytes; ``sha256`` None where they are not known, then the size alone is checked."""

    key: str
    path: str
    blocks: Callable[[], Iterator[bytes]]
    bytes: int
    sha256: str | None
    fix: str = "use another copy"

    def __str__(self) -> str:
        return self.path

    def is_right(self, copy: Path) -> bool:
        """Whether a copy is what it should be. Its bytes are read once a process, and again when it was written to."""
        stamp = self.stamp(copy)
        if stamp in _checked:
            return True
        right = copy.stat().st_size == self.bytes and (self.sha256 is None or hash_file(copy)[0] == self.sha256)
        if right:
            _checked.add(stamp)
        return right

    def stamp(self, copy: Path) -> tuple[str, str, int, int]:
        """What a copy that is right is remembered under, as long as nobody writes to it."""
        found = copy.stat()
        return str(copy), self.sha256 or "", found.st_ino, found.st_mtime_ns


class FileCache:
    """A folder that the processes of this machine share. ``limit``: bytes that it holds at most; None leaves a tenth of its disk free."""

    def __init__(self, folder: Path | None = None, limit: int | None = None, *, stall_s: float = STALL_S) -> None:
        self.folder, self.limit, self.stall_s = (folder or scratch(_FILES)).expanduser().absolute(), limit, stall_s
        self._made, self._own = False, folder is None

    def hold(self, storage: Storage, name: str, *, sha256: str, size: int, wait: bool = True, within_limit: bool = False) -> Held | None:
        """The file with this checksum, fetched where it is not here yet, or was damaged here.

        ``wait`` False: None when another process is fetching it. ``within_limit``: None when there is no room for it beside what is in use.
        Raises StorageError when it cannot be fetched, is not what was written, or does not fit on the disk.
        """
        path = f"{storage.address}/{name}"
        if not _KEY.fullmatch(sha256):
            raise StorageError(f"{path}: not fetched", got=f"sha256 {sha256!r}", want="64 hexadecimal digits", fix="prepare the data again")
        fix = "delete the store and run `tunefleet prepare` again"
        return self._right(_File(sha256, path, lambda: _blocks(storage, name, size), size, sha256, fix), wait=wait, within_limit=within_limit)

    def lend(self, key: str, path: str, blocks: Callable[[], Iterator[bytes]], *, size: int, sha256: str | None = None) -> Path:
        """A local copy of what the key stands for, in use by this process for LENT_S, or until it has asked for very many others.

        ``path`` is its name in errors; ``blocks`` gives its bytes, and is asked only when there is no copy. Raises StorageError as hold does.
        """
        held = self._right(_File(key, path, blocks, size, sha256), wait=True, within_limit=False)
        assert held is not None, "a file that is needed is waited for"
        now = time.monotonic()
        with _change:
            _lent.pop(held.path, None)
            _lent[held.path] = now, held
            for copy, (since, _) in list(_lent.items()):
                if now - since > LENT_S or len(_lent) > _LENT_MOST:
                    del _lent[copy]
        return held.path

    def _right(self, file: _File, *, wait: bool, within_limit: bool) -> Held | None:
        """The file as it should be: a copy that has changed since it was fetched is given up, and fetched again."""
        self._make_folder()
        while True:
            held = self._here(file, wait=wait, within_limit=within_limit)
            with suppress(FileNotFoundError):  # another process has found it damaged, and given it up
                if held is None or file.is_right(held.path):
                    return held
                self._give_up(held, file.key)

    def _here(self, file: _File, *, wait: bool, within_limit: bool) -> Held | None:
        key = file.key
        others, fetched = _Others(self.folder, key), False
        while True:
            present = self._path(key).exists()
            lock = self._lock(key, fcntl.LOCK_SH if present else fcntl.LOCK_EX)
            if lock is not None:
                try:
                    if not present:
                        self._clear(key)
                        if not self._path(key).exists() and not (fetched := self._fetch(file, within_limit=within_limit)):
                            return None
                        fcntl.flock(lock, fcntl.LOCK_SH)  # lets go for a moment, in which the file may be removed again
                    if self._is_mine(lock, key) and self._path(key).exists():
                        os.utime(lock)
                        return Held(self._path(key), os.dup(lock), fetched=fetched)
                finally:
                    os.close(lock)
            elif not present and not wait:
                return None
            elif others.stalled(self.stall_s):
                fetched = self._fetch(file, within_limit=False)
                self._path(key, _LOCK).unlink(missing_ok=True)  # it is the hung one's; whoever comes next makes another
            else:
                time.sleep(_POLL_S)

    def has_room(self, size: int) -> bool:
        """Whether so many bytes could be kept at once, if nothing else were."""
        if self.limit is not None:
            return size <= self.limit
        self._make_folder()
        disk = shutil.disk_usage(self.folder)
        kept = sum(bytes_ for _, bytes_, _ in self._kept())
        return size <= disk.free + kept - disk.total * _SPARE

    def crowded(self, size: int) -> bool:
        """Whether something must go before so many bytes more are kept."""
        self._make_folder()
        return not self._fits(sum(bytes_ for _, bytes_, _ in self._kept()), size)

    def _give_up(self, held: Held, key: str) -> None:
        """Remove a file that turned out to be damaged: the next to ask fetches it again. Who has it mapped keeps what it has."""
        self._path(key).unlink(missing_ok=True)
        self._path(key, _LOCK).unlink(missing_ok=True)  # others may hold it for as long as they run
        held.release()

    def _path(self, key: str, suffix: str = "") -> Path:
        return self.folder / f"{key}{suffix}"

    def _make_folder(self) -> None:
        """A folder that is nobody else's: whoever could write there could change a file after it was checked."""
        if self._made:
            return
        with _explained(self.folder, 0):
            private_folder(_FILES) if self._own else self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = self.folder.stat().st_uid
        if owner != os.getuid():
            raise StorageError(
                f"{self.folder}: belongs to another user",
                got=f"user {owner}",
                want=f"a folder of user {os.getuid()}",
                fix=f"set data.cache.folder to {self.folder / str(os.getuid())}",
            )
        self._made = True

    def _lock(self, key: str, kind: int) -> int | None:
        """The lock of a file as an open descriptor; None when somebody holds it, or took it away in this moment."""
        path = self._path(key, _LOCK)
        with _explained(path, 0):
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return None
            except BaseException:
                os.close(lock)
                raise
        if self._is_mine(lock, key):
            return lock
        os.close(lock)
        return None

    def _is_mine(self, lock: int, key: str) -> bool:
        """Whether the lock that was taken is still the one that others find."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(lock), self._path(key, _LOCK).stat())
        return False

    def _fetch(self, file: _File, *, within_limit: bool) -> bool:
        """Bring a file in; False where there is no room within the limit. One whose bytes are wrong is fetched twice: they may be right over there."""
        if not self._make_room(file.bytes) and within_limit:
            return False
        temporary = self.folder / f"{_TEMPORARY}{file.key}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            wanted = (file.sha256, file.bytes)
            if self._bring(file, temporary) != wanted and (found := self._bring(file, temporary)) != wanted:
                raise StorageError(
                    f"{file}: not what was written",
                    got=f"{found[1]} bytes, sha256 {found[0]}",
                    want=f"{file.bytes} bytes, sha256 {file.sha256}",
                    fix=f"it is torn or altered: {file.fix}",
                )
            with _explained(temporary, file.bytes):
                temporary.replace(self._path(file.key))
            _checked.add(file.stamp(self._path(file.key)))
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _bring(self, file: _File, target: Path) -> tuple[str | None, int]:
        """Copy it to a local path, block by block; the sha256 (where one is wanted) and the size of what came."""
        digest, size = hashlib.sha256(), 0
        with _explained(target, file.bytes), target.open("wb") as copy:
            for block in file.blocks():
                copy.write(block)
                digest.update(block)
                size += len(block)
        return digest.hexdigest() if file.sha256 else None, size

    def _make_room(self, size: int) -> bool:
        """Remove what is not in use, the longest unused first, until so many bytes more fit; whether they do."""
        with _explained(self.folder, size):
            names = [path.name for path in self.folder.iterdir()]
            for key in {name.removeprefix(_TEMPORARY).partition("-")[0] for name in names if name.startswith(_TEMPORARY)}:
                if _KEY.fullmatch(key) and (lock := self._lock(key, fcntl.LOCK_EX)) is not None:
                    self._clear(key)
                    os.close(lock)
            whole = self._kept()
        held = sum(bytes_ for _, bytes_, _ in whole)
        for _, bytes_, name in whole:
            if self._fits(held, size):
                break
            if self._remove(name):
                held -= bytes_
        return self._fits(held, size)

    def _fits(self, held: int, size: int) -> bool:
        disk = shutil.disk_usage(self.folder)
        if self.limit is None:
            return disk.free - size >= disk.total * _SPARE
        return held + size <= self.limit and disk.free >= size

    def _kept(self) -> list[tuple[float, int, str]]:
        """When each file was last asked for, its bytes, and its name; the longest unused first."""
        found = []
        for path in self.folder.iterdir():
            if _KEY.fullmatch(path.name):
                lock = self._path(path.name, _LOCK)
                with suppress(FileNotFoundError):  # somebody else has removed it
                    found.append((lock.stat().st_mtime if lock.exists() else 0.0, path.stat().st_size, path.name))
        return sorted(found)

    def _remove(self, key: str) -> bool:
        """Remove a file unless it is in use."""
        lock = self._lock(key, fcntl.LOCK_EX)
        if lock is None:
            return False
        self._path(key).unlink(missing_ok=True)
        self._path(key, _LOCK).unlink(missing_ok=True)
        os.close(lock)
        return True

    def _clear(self, key: str) -> None:
        """Remove what was left by who died while it fetched; the lock of the key is held, so nobody else is fetching it."""
        for leaving in self.folder.glob(f"{_TEMPORARY}{key}-*"):
            leaving.unlink(missing_ok=True)


def _blocks(storage: Storage, name: str, size: int) -> Iterator[bytes]:
    """The bytes of a name, one after the other, and one more where there are more than there should be."""
    start = 0
    while start < size:
        wanted = min(_BLOCK_BYTES, size - start)
        block = storage.read_from(name, start, wanted + (start + wanted == size))
        yield block
        start += len(block)
        if len(block) < wanted:
            return


class _Others:
    """The fetches of one file by other processes: whether anything comes in."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        self._seen, self._since = self._state(), time.monotonic()

    def stalled(self, after_s: float) -> bool:
        """Whether nothing has come in for so long."""
        state = self._state()
        if state != self._seen:
            self._seen, self._since = state, time.monotonic()
        return time.monotonic() - self._since > after_s

    def _state(self) -> list[tuple[str, int]]:
        found = []
        for path in self.folder.glob(f"{_TEMPORARY}{self.key}-*"):
            with suppress(FileNotFoundError):
                found.append((path.name, path.stat().st_size))
        return sorted(found)


@contextmanager
def _explained(path: Path, size: int) -> Iterator[None]:
    """Turn the system's errors into one of ours, with path, bytes and what is free."""
    try:
        yield
    except OSError as error:
        folder = next(parent for parent in (path, *path.parents) if parent.is_dir())
        free = shutil.disk_usage(folder).free
        raise StorageError(
            f"{path}: {error.strerror or error}",
            got=f"{size} bytes to write, {free} bytes free" if size else f"{free} bytes free",
            want="a folder on a disk of this machine that can be written, with room",
            fix="free space, or set TMPDIR, or data.cache.folder for shards, to another folder",
        ) from error
