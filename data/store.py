"""Reading a store: rows of tokens straight from memory-mapped files, each file checked against the index before its first use."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tunefleet.cluster.errors import DataError, StorageError, nearest
from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.data.columnfile import Values, open_columns
from tunefleet.data.layout import Column, Record
from tunefleet.data.shards import INDEX, LENGTH, File, Index, SplitIndex

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_CHECKED: set[tuple[str, str, int, int]] = set()  # files whose checksum was right in this process
_OPEN_SHARDS = 256  # files kept mapped: below the usual limit of 1,024 open files, and far above a window


class Store:
    """A folder of shards with its index. Nothing but the index is read until rows are asked for."""

    def __init__(self, storage: Storage, index: Index) -> None:
        self.storage, self.index = storage, index

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a store. Raises StorageError where there is none, or one of another version."""
        storage = open_storage(path)
        return cls(storage, _read_index(storage))

    @property
    def fingerprint(self) -> str:
        """What the store was made from."""
        return self.index.fingerprint

    def split(self, name: str) -> Split:
        """One split. Raises DataError when the store has none of this name."""
        if name not in self.index.splits:
            close = nearest(name, self.index.splits)
            raise DataError(
                "the store has no such split",
                got=name,
                want=f"one of {', '.join(self.index.splits) or '(it has none)'}",
                fix=f"did you mean {close}?" if close else "prepare the data again",
            )
        return Split(self.storage, self.index, self.index.splits[name])


class Split:
    """The rows of one split by id, and what is known of them without opening a shard.

    Arrays are read-only views into the files: nothing is copied, and a row's pages are read from disk when they are first touched.
    """

    def __init__(self, storage: Storage, index: Index, split: SplitIndex) -> None:
        self.storage, self.fingerprint, self.window, self.columns = storage, index.fingerprint, index.window, index.layout.columns
        self.rows, self.tokens, self.supervised = split.rows, split.tokens, split.supervised
        self.shard_rows = [shard.rows for shard in split.shards]
        self.sources = split.places()
        self._index = split
        self._ends = list(accumulate(self.shard_rows))
        self._shard = lru_cache(maxsize=_OPEN_SHARDS)(self._open)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of every row, (rows,), by id."""
        found: npt.NDArray[np.int32] = open_file(self.storage, self._index.lengths, [LENGTH], self.rows)[LENGTH.name].values
        return found

    def record(self, row: int) -> Record:
        """The row with this id. Raises StorageError, naming the shard, when the shard is not what was written."""
        assert 0 <= row < self.rows, "no row has this id"
        number = bisect_right(self._ends, row)
        inside = row - self._ends[number] + self.shard_rows[number]
        found = {}
        for name, values, offsets in self._shard(number):
            found[name] = values[inside, ...] if offsets is None else values[offsets[inside] : offsets[inside + 1]]
        return Record(row, found)

    def records(self, rows: Iterable[int]) -> list[Record]:
        """The rows with these ids, in their order."""
        return [self.record(row) for row in rows]

    def verify(self) -> None:
        """Check every file now. Raises StorageError, naming the first that is not what was written."""
        _ = self.lengths
        for number in range(len(self.shard_rows)):
            self._shard(number)

    def _open(self, number: int) -> list[tuple[str, Any, Any]]:
        shard = self._index.shards[number]
        return [(name, v.values, v.offsets) for name, v in open_file(self.storage, shard, self.columns, shard.rows).items()]


def open_file(storage: Storage, file: File, columns: Sequence[Column], rows: int) -> dict[str, Values]:
    """The columns of a store's file, checked: its bytes once a process, as long as nobody writes to it."""
    path = storage.local(file.name, size=file.bytes)
    stamp = path.stat()
    known = (str(path), file.sha256, stamp.st_ino, stamp.st_mtime_ns)
    if known not in _CHECKED:
        storage.local(file.name, sha256=file.sha256)
        _CHECKED.add(known)
    return open_columns(path, columns, rows)


def _read_index(storage: Storage) -> Index:
    fix = "run `tunefleet prepare`"
    if not storage.exists(INDEX):
        raise StorageError(f"{storage.address}: no store of shards", got=f"no {INDEX}", want="a folder that was prepared to its end", fix=fix)
    text = storage.read(INDEX)
    try:
        return Index.model_validate_json(text)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        place = ".".join(map(str, wrong["loc"])) or INDEX
        raise StorageError(f"{storage.address}: its {INDEX} cannot be read", got=f"{place}: {wrong['msg']}", want="an index of version 2", fix=fix) from error
