"""The files of a store on this machine: those of a folder where they lie, remote ones through the cache of the node; each checked before its first use."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunefleet.cluster.errors import SettingsError, StorageError
from tunefleet.cluster.filecache import FileCache, Held
from tunefleet.cluster.storage import Storage, is_remote
from tunefleet.data.columnfile import Values, open_columns
from tunefleet.data.layout import Column
from tunefleet.data.settings import Cache
from tunefleet.data.shards import File, Shard

_CHECKED: set[tuple[str, str, int, int]] = set()  # files of folders whose checksum was right in this process; the cache has its own
_OPEN_SHARDS = 256  # files kept mapped: below the usual limit of 1,024 open files, and far above a window
ShardColumns = list[tuple[str, Any, Any]]
"""Name, values and offsets of every column of a shard; see columnfile.Values."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A file's columns, mapped. ``held`` keeps it in the node's cache as long as this is kept; None for a file of a folder."""

    columns: dict[str, Values]
    held: Held | None


class Files:
    """The files of one store."""

    def __init__(self, storage: Storage, cache: Cache) -> None:
        self.storage, self.remote = storage, is_remote(storage.address)
        self._cache = FileCache(Path(cache.folder) if cache.folder else None, cache.limit)

    def open(self, file: File, columns: Sequence[Column], rows: int) -> Opened:
        """The columns of a file, which is what the index says: its bytes were read once in this process. Raises StorageError that names it else."""
        opened = self.open_ahead(file, columns, rows, wait=True, within_limit=False)
        assert opened is not None, "a file that is needed is waited for"
        return opened

    def open_ahead(self, file: File, columns: Sequence[Column], rows: int, *, wait: bool, within_limit: bool = True) -> Opened | None:
        """The same for a file that is not needed yet: None where the cache has no room or, with ``wait`` False, while another process fetches it."""
        held = None
        if self.remote:
            held = self._cache.hold(self.storage, file.name, sha256=file.sha256, size=file.bytes, wait=wait, within_limit=within_limit)
            if held is None:
                return None
            path = held.path
        else:
            path = self._local(file)
        return Opened(open_columns(path, columns, rows, name=f"{self.storage.address}/{file.name}"), held)

    def fit(self, shards: Sequence[Shard]) -> bool:
        """Whether there is room for all of them at once: in a folder they lie anyway."""
        return not self.remote or self._cache.has_room(sum(shard.bytes for shard in shards))

    def crowded(self, size: int) -> bool:
        """Whether the cache of the node has no room left for so many bytes, whoever filled it."""
        return self.remote and self._cache.crowded(size)

    def refuse_small_cache(self, shards: Sequence[Shard], window: int) -> None:
        """Raise SettingsError for a limit below W + 1 shards: a window would fetch again and again what it has just dropped."""
        limit, need = self._cache.limit, sum(sorted((shard.bytes for shard in shards), reverse=True)[: window + 1])
        if self.remote and limit is not None and limit < need:
            want = f"{need} bytes or more: the {window} shards that are shuffled together, and the next"
            raise SettingsError("data.cache.limit: too small for this store", got=f"{limit} bytes", want=want, fix="raise it, or remove it")

    def _local(self, file: File) -> Path:
        """The file where it lies."""
        try:
            path = self.storage.local(file.name, size=file.bytes)
            if _stamp(path, file) not in _CHECKED:
                self.storage.local(file.name, sha256=file.sha256)
                _CHECKED.add(_stamp(path, file))
        except StorageError as error:
            fix = f"put it back from a copy, or delete {self.storage.address} and run `tunefleet prepare` again"
            raise StorageError(error.what, got=error.got, want=error.want, fix=fix) from error
        return path


class OpenShards:
    """The shards of a split that are open in this process. Calling it with a number gives that shard, opened where it was not."""

    def __init__(self, files: Files, shards: Sequence[Shard], columns: Sequence[Column], window: int) -> None:
        self._files, self._shards, self._layout = files, shards, columns
        self._most = _OPEN_SHARDS if files.fit(shards) else 2 * window + 1  # a step may reach into the next window
        self._largest = max((shard.bytes for shard in shards), default=0)
        self._open: dict[int, tuple[ShardColumns, Held | None]] = {}
        self._change = threading.Lock()

    def __call__(self, number: int) -> ShardColumns:
        """The columns of a shard. Raises StorageError, naming it, when it is not what was written."""
        found = self._open.get(number)
        if found is not None:
            return found[0]
        shard = self._shards[number]
        self._close_oldest()
        return self._add(number, self._files.open(shard, self._layout, shard.rows))

    def open_ahead(self, number: int, *, wait: bool) -> bool:
        """Open a shard that is not needed yet; whether it is open now. See Files.open_ahead."""
        if number in self._open:
            return True
        shard = self._shards[number]
        self._close_oldest()
        opened = self._files.open_ahead(shard, self._layout, shard.rows, wait=wait)
        if opened is not None:
            self._add(number, opened)
        return number in self._open

    def let_go(self, needed: Collection[int]) -> None:
        """Close all but these, so that the cache may drop them; while it has room for another, none need go."""
        if self._files.crowded(self._largest):
            with self._change:
                self._open = {number: held for number, held in self._open.items() if number in needed}

    def _close_oldest(self) -> None:
        """Make place for one more, before it is fetched: the cache can drop what is closed."""
        with self._change:
            while len(self._open) >= self._most:
                del self._open[next(iter(self._open))]

    def _add(self, number: int, opened: Opened) -> ShardColumns:
        columns = [(name, values.values, values.offsets) for name, values in opened.columns.items()]
        with self._change:
            return self._open.setdefault(number, (columns, opened.held))[0]


def _stamp(path: Path, file: File) -> tuple[str, str, int, int]:
    """What a file's checksum is remembered under, as long as nobody writes to it."""
    found = path.stat()
    return str(path), file.sha256, found.st_ino, found.st_mtime_ns
