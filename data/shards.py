"""Shards: tokenised examples in files of some tens of megabytes, and the index that makes a folder of them a store.

    index.json                   written last: a folder without it is no store
    train-00000.arrow, ...       one row an example (or group), one column an entry of the layout
    lengths-train.arrow          the length of every row, in tokens: dividing a step over ranks opens no shard

Which example stands where is decided when a shard is written, and nowhere else: a row's id is its position in its split.
"""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.settings import Settings
from tunefleet.cluster.storage import open_storage
from tunefleet.data.columnfile import Values, to_bytes
from tunefleet.data.layout import Column, Encoded, Layout

INDEX = "index.json"
SHARD_BYTES = 64 << 20
WINDOW = 8  # shards that are shuffled together; a node's cache holds one more
LENGTH = Column("length", "int32", per_token=False)


class File(Settings):
    """A file of a store: enough to know that it is what was written."""

    name: str = Field(description="name inside the store")
    bytes: NonNegativeInt = Field(description="size")
    sha256: str = Field(description="checksum of the whole file")


class Shard(File):
    """A file of examples."""

    rows: PositiveInt = Field(description="examples, or groups of them")
    tokens: NonNegativeInt = Field(description="sum of the rows' lengths")


class SplitIndex(Settings):
    """One split: training rows, held-out rows."""

    rows: NonNegativeInt = Field(description="rows over all shards")
    tokens: NonNegativeInt = Field(description="tokens over all shards")
    supervised: NonNegativeInt = Field(description="tokens that carry loss")
    shards: tuple[Shard, ...] = Field(description="in the order of the rows' ids")
    lengths: File = Field(description="tokens of every row, int32")

    @model_validator(mode="after")
    def _adds_up(self) -> SplitIndex:
        if (self.rows, self.tokens) != (sum(s.rows for s in self.shards), sum(s.tokens for s in self.shards)):
            raise ValueError("rows and tokens are not those of the shards")
        return self


class Columns(Settings):
    """The layout of a store: its name, version and columns, without the function that filled them."""

    name: str = Field(description="name of the layout")
    version: int = Field(description="version of the layout")
    columns: tuple[Column, ...] = Field(description="columns of every shard, in order")

    @classmethod
    def of(cls, layout: Layout) -> Columns:
        """What an index keeps of a layout."""
        return cls(name=layout.name, version=layout.version, columns=layout.columns)


class Index(Settings):
    """What stands in index.json."""

    version: Literal[1] = Field(default=1, description="version of this format")
    fingerprint: str = Field(description="of (rows, tokenizer, chat template, max_length, layout, policies)")
    layout: Columns = Field(description="columns of every shard")
    window: PositiveInt = Field(default=WINDOW, description="shards that are shuffled together")
    splits: dict[str, SplitIndex] = Field(description="splits by name")
    counts: dict[str, int] = Field(default_factory=dict, description="counts of the quality gate")
    meta: dict[str, Any] = Field(default_factory=dict, description="whatever prepare wants to say again later; plain JSON")


def write_index(folder: Path, index: Index) -> None:
    """Make the folder a store: atomically, and after all its shards."""
    open_storage(folder).put(INDEX, index.model_dump_json(indent=1).encode())


class ShardWriter:
    """Writes one split, row after row, and holds one shard in memory (``shard_bytes``, twice while it is written out).

    A shard appears under its name only when it is whole. The same rows give the same bytes.
    """

    def __init__(self, folder: Path, split: str, layout: Layout, shard_bytes: int = SHARD_BYTES) -> None:
        self.storage, self.split, self.layout, self.shard_bytes = open_storage(folder), split, layout, shard_bytes
        self._shards: list[Shard] = []
        self._lengths, self._supervised = array("i"), 0
        self._begin()

    def add(self, encoded: Encoded) -> None:
        """Append a row; its id is the number of rows before it. Raises DataError when it is not what the layout promised."""
        if encoded.columns.keys() != self._values.keys():
            raise self._unlike(got=", ".join(encoded.columns), want=", ".join(self._values))
        for column in self.layout.columns:
            self._append(column, encoded.columns[column.name])
        self._lengths.append(encoded.length)
        self._supervised += encoded.supervised
        if self._pending_bytes() >= self.shard_bytes:
            self._flush()

    def close(self) -> SplitIndex:
        """Write what is left, and the lengths; returns the split's part of the index."""
        self._flush()
        values = {LENGTH.name: Values(_as_numpy(self._lengths, LENGTH))}
        stored = self.storage.put(f"lengths-{self.split}.arrow", to_bytes([LENGTH], values, len(self._lengths)))
        return SplitIndex(
            rows=len(self._lengths),
            tokens=sum(self._lengths),
            supervised=self._supervised,
            shards=tuple(self._shards),
            lengths=File(name=stored.name, bytes=stored.bytes, sha256=stored.sha256),
        )

    def _append(self, column: Column, found: Any) -> None:
        import numpy as np

        value = np.ascontiguousarray(found)  # 0 dimensions become 1
        if value.dtype != column.dtype or value.ndim != 1 or (not column.per_token and value.size != 1):
            kind = "one value a token" if column.per_token else "one value an example"
            raise self._unlike(got=f"{column.name}: {value.dtype} of shape {value.shape}", want=f"{column.name}: {column.dtype}, {kind}")
        self._values[column.name] += value.data.cast("B")
        if column.per_token:
            self._offsets[column.name].append(self._offsets[column.name][-1] + value.size)

    def _unlike(self, *, got: str, want: str) -> DataError:
        what = f"the layout {self.layout.name} wrote other columns than it declares"
        return DataError(what, got=got, want=want, fix="correct its encode function or its columns")

    def _begin(self) -> None:
        self._first = len(self._lengths)
        self._values = {column.name: bytearray() for column in self.layout.columns}
        self._offsets = {column.name: array("i", [0]) for column in self.layout.columns if column.per_token}

    def _pending_bytes(self) -> int:
        return sum(map(len, self._values.values()))

    def _flush(self) -> None:
        lengths = self._lengths[self._first :]
        if not lengths:
            return
        values = {
            column.name: Values(_as_numpy(self._values[column.name], column), _as_numpy(self._offsets[column.name], LENGTH) if column.per_token else None)
            for column in self.layout.columns
        }
        stored = self.storage.put(f"{self.split}-{len(self._shards):05d}.arrow", to_bytes(self.layout.columns, values, len(lengths)))
        self._shards.append(Shard(name=stored.name, bytes=stored.bytes, sha256=stored.sha256, rows=len(lengths), tokens=sum(lengths)))
        self._begin()


def _as_numpy(buffer: bytearray | array[int], column: Column) -> Any:
    import numpy as np

    return np.frombuffer(buffer, column.dtype)
