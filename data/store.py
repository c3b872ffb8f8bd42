"""Reading a store: rows of tokens straight from memory-mapped files, each file checked against the index before its first use."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tunefleet.cluster.errors import DataError, StorageError, nearest
from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.data.layout import Record
from tunefleet.data.picked import Picked
from tunefleet.data.settings import Cache
from tunefleet.data.shards import INDEX, LENGTH, Index, SplitIndex
from tunefleet.data.storefiles import Files, OpenShards

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Store:
    """A folder of shards with its index. Nothing but the index is read until rows are asked for."""

    def __init__(self, files: Files, index: Index) -> None:
        self.files, self.index = files, index

    @classmethod
    def open(cls, path: str | Path, cache: Cache | None = None) -> Store:
        """Open a store. Raises StorageError where there is none, or one of another version. ``cache`` is where this machine keeps files of a remote one.

        The index itself is never kept: every process reads it anew, since all that is kept is checked against it.
        """
        return cls.at(open_storage(path), cache)

    @classmethod
    def at(cls, storage: Storage, cache: Cache | None = None) -> Store:
        """See open."""
        return cls(Files(storage, cache or Cache()), _read_index(storage))

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
        return Split(self.files, self.index, self.index.splits[name])


class Split:
    """The rows of one split by id, and what is known of them without opening a shard.

    Arrays are read-only views into the files: nothing is copied, and a row's pages are read from disk when they are first touched.
    """

    def __init__(self, files: Files, index: Index, split: SplitIndex) -> None:
        files.refuse_small_cache(split.shards, index.window)
        self.fingerprint, self.window, self.columns = index.fingerprint, index.window, index.layout.columns
        self.rows, self.tokens, self.supervised = split.rows, split.tokens, split.supervised
        self.shard_rows, self.shard_tokens = [shard.rows for shard in split.shards], [shard.tokens for shard in split.shards]
        self.sources = split.places()
        self._files, self._lengths = files, split.lengths
        self._ends = list(accumulate(self.shard_rows))
        self.shards = OpenShards(files, split.shards, self.columns, self.window)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of every row, (rows,), by id."""
        self._opened = self._files.open(self._lengths, [LENGTH], self.rows)  # kept, so that the cache keeps it
        found: npt.NDArray[np.int32] = self._opened.columns[LENGTH.name].values
        return found

    def record(self, row: int) -> Record:
        """The row with this id. Raises StorageError, naming the shard, when the shard is not what was written."""
        assert 0 <= row < self.rows, "no row has this id"
        number = bisect_right(self._ends, row)
        inside = row - self._ends[number] + self.shard_rows[number]
        found = {}
        for name, values, offsets in self.shards(number):
            found[name] = values[inside, ...] if offsets is None else values[offsets[inside] : offsets[inside + 1]]
        return Record(row, found)

    def records(self, rows: Iterable[int]) -> list[Record]:
        """The rows with these ids, in their order."""
        return [self.record(row) for row in rows]

    def pick(self, ids: npt.NDArray[np.int64]) -> Picked:
        """The same, but read when they are asked for."""
        return Picked(self, ids)

    def places(self, ids: npt.NDArray[np.int64], column: str) -> list[tuple[Any, Any, Any, Any]]:
        """Where a column of these rows stands. See picked.Readable."""
        import numpy as np

        numbers = np.searchsorted(self._ends, ids, side="right")
        found = []
        for number in np.flatnonzero(np.bincount(numbers)).tolist():
            mine = np.flatnonzero(numbers == number)
            inside = ids[mine] - (self._ends[number] - self.shard_rows[number])
            values, offsets = next((values, offsets) for name, values, offsets in self.shards(number) if name == column)
            found.append((mine, values, offsets[inside], offsets[inside + 1]))
        return found

    def verify(self) -> None:
        """Check every file now. Raises StorageError, naming the first that is not what was written."""
        _ = self.lengths
        for number in range(len(self.shard_rows)):
            self.shards(number)


def _read_index(storage: Storage) -> Index:
    """The index, as it was written. Whoever edits one edits what a run trains on: the order of its rows, the columns, the counts."""
    fix = "run `tunefleet prepare`"
    if not storage.exists(INDEX):
        raise StorageError(f"{storage.address}: no store of shards", got=f"no {INDEX}", want="a folder that was prepared to its end", fix=fix)
    text = storage.read(INDEX)
    fix = f"remove {storage.address} and run `tunefleet prepare`: it is made anew"
    try:
        index = Index.model_validate_json(text)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        place = ".".join(map(str, wrong["loc"])) or INDEX
        raise StorageError(f"{storage.address}: its {INDEX} cannot be read", got=f"{place}: {wrong['msg']}", want="an index of version 2", fix=fix) from error
    if (found := index.checksum()) != index.seal:
        raise StorageError(f"{storage.address}: its {INDEX} is not what was written", got=f"checksum {found}", want=f"checksum {index.seal}", fix=fix)
    return index
