"""Shards: tokenised examples in files of some tens of megabytes, and the index that makes a folder of them a store.

    index.json                   written last: a folder without it is no store
    train-00000.arrow, ...       one row an example (or group), one column an entry of the layout
    lengths-train.arrow          the length of every row, in tokens: dividing a step over ranks opens no shard

Which example stands where is decided when a shard is written, and nowhere else: a row's id is its position in its split. The sources of a split stand
one behind the other and no shard holds rows of two of them, so that each can be read in its own measure.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.settings import Settings
from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.data.columnfile import Values, to_bytes
from tunefleet.data.layout import Column, Encoded, Layout

INDEX = "index.json"
SHARD_BYTES = 64 << 20
WINDOW = 8  # shards that are shuffled together; a node's cache holds one more
LABELS = "labels"  # the column of a layout that holds numbers of labels: they are known when all rows are
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


class SourceIndex(Settings):
    """What a source gave to a split: a run of its shards, and so of its ids. One that gave nothing is listed too."""

    name: str = Field(description="name of the source, once in a split")
    rows: NonNegativeInt = Field(description="its rows")
    tokens: NonNegativeInt = Field(description="its tokens")
    shards: NonNegativeInt = Field(description="how many of the split's shards are its own")


class SourceRows(NamedTuple):
    """Where the rows of a source stand in a split."""

    name: str
    ids: range
    shards: range


class SplitIndex(Settings):
    """One split: training rows, held-out rows."""

    rows: NonNegativeInt = Field(description="rows over all shards")
    tokens: NonNegativeInt = Field(description="tokens over all shards")
    supervised: NonNegativeInt = Field(description="tokens that carry loss")
    sources: tuple[SourceIndex, ...] = Field(description="in the order of the run file; their rows and shards stand one behind the other")
    shards: tuple[Shard, ...] = Field(description="in the order of the rows' ids")
    lengths: File = Field(description="tokens of every row, int32")

    @model_validator(mode="after")
    def _adds_up(self) -> SplitIndex:
        if (self.rows, self.tokens) != (sum(s.rows for s in self.shards), sum(s.tokens for s in self.shards)):
            raise ValueError("rows and tokens are not those of the shards")
        if sum(s.shards for s in self.sources) != len(self.shards) or len({s.name for s in self.sources}) != len(self.sources):
            raise ValueError("the sources do not share out the shards")
        for source, place in zip(self.sources, self.places(), strict=True):
            own = self.shards[place.shards.start : place.shards.stop]
            if (source.rows, source.tokens) != (sum(s.rows for s in own), sum(s.tokens for s in own)):
                raise ValueError(f"rows and tokens of {source.name} are not those of its shards")
        return self

    def places(self) -> list[SourceRows]:
        """The ids and the shards of every source, in order."""
        row_ends, shard_ends = (list(accumulate(counts)) for counts in ([s.rows for s in self.sources], [s.shards for s in self.sources]))
        return [
            SourceRows(s.name, range(row_end - s.rows, row_end), range(shard_end - s.shards, shard_end))
            for s, row_end, shard_end in zip(self.sources, row_ends, shard_ends, strict=True)
        ]


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

    version: Literal[2] = Field(default=2, description="version of this format")
    fingerprint: str = Field(description="of (rows, tokenizer, chat template, max_length, layout, policies)")
    layout: Columns = Field(description="columns of every shard")
    window: PositiveInt = Field(default=WINDOW, description="shards that are shuffled together")
    splits: dict[str, SplitIndex] = Field(description="splits by name")
    counts: dict[str, int] = Field(default_factory=dict, description="counts of the quality gate")
    manifest: File | None = Field(default=None, description="what every row was and what became of it; none in a store that was made by hand")
    meta: dict[str, Any] = Field(default_factory=dict, description="whatever prepare wants to say again later; plain JSON")
    seal: str = Field(default="", description="checksum of everything else here: an index that was edited is refused")

    def checksum(self) -> str:
        """The sha256 of everything but the seal."""
        return hashlib.sha256(self.model_dump_json(exclude={"seal"}).encode()).hexdigest()

    def sealed(self) -> Index:
        """The same with its checksum."""
        return self.model_copy(update={"seal": self.checksum()})


def write_index(folder: str | Path, index: Index) -> bool:
    """Make the folder a store, after all its shards. False when it is one already: of several writers exactly one gets True."""
    return open_storage(folder).create(INDEX, index.sealed().model_dump_json(indent=1).encode())


class ColumnBuffer:
    """Examples one behind the other, in the columns of a layout."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.bytes = 0
        self._values = {column.name: bytearray() for column in layout.columns}
        self._offsets = {column.name: array("i", [0]) for column in layout.columns if column.per_token}

    def add(self, encoded: Encoded) -> int:
        """Append an example; returns the bytes that it takes. Raises DataError when it is not what the layout promised."""
        if encoded.columns.keys() != self._values.keys():
            raise self._unlike(got=", ".join(encoded.columns), want=", ".join(self._values))
        before = self.bytes
        for column in self.layout.columns:
            self._append(column, encoded.columns[column.name])
        return self.bytes - before

    def values(self) -> dict[str, Values]:
        """The columns as arrays, for ``to_bytes``."""
        return {
            column.name: Values(_as_numpy(self._values[column.name], column), _as_numpy(self._offsets[column.name], LENGTH) if column.per_token else None)
            for column in self.layout.columns
        }

    def _append(self, column: Column, found: Any) -> None:
        import numpy as np

        value = np.ascontiguousarray(found)  # 0 dimensions become 1
        if value.dtype != column.dtype or value.ndim != 1 or (not column.per_token and value.size != 1):
            kind = "one value a token" if column.per_token else "one value an example"
            raise self._unlike(got=f"{column.name}: {value.dtype} of shape {value.shape}", want=f"{column.name}: {column.dtype}, {kind}")
        self._values[column.name] += value.data.cast("B")
        self.bytes += value.nbytes
        if column.per_token:
            self._offsets[column.name].append(self._offsets[column.name][-1] + value.size)

    def _unlike(self, *, got: str, want: str) -> DataError:
        what = f"the layout {self.layout.name} wrote other columns than it declares"
        return DataError(what, got=got, want=want, fix="correct its encode function or its columns")


class ShardWriter:
    """Writes one split, row after row, and holds one shard in memory (``shard_bytes``, twice while it is written out).

    A shard appears under its name only when it is whole. The same rows give the same bytes.
    """

    def __init__(self, folder: Path, split: str, layout: Layout, shard_bytes: int = SHARD_BYTES) -> None:
        self.storage, self.split, self.layout, self.shard_bytes = open_storage(folder), split, layout, shard_bytes
        self._shards: list[Shard] = []
        self._sources: list[tuple[str, int]] = []  # name, number of its first shard
        self._lengths, self._supervised = array("i"), 0
        self._first, self._buffer = 0, ColumnBuffer(layout)

    def source(self, name: str) -> None:
        """Begin a source: the rows that follow stand in shards of their own. Without one all rows are of a source that is called like the split."""
        self._flush()
        self._sources.append((name, len(self._shards)))

    def add(self, encoded: Encoded) -> None:
        """Append a row; its id is the number of rows before it. Raises DataError when it is not what the layout promised."""
        self._buffer.add(encoded)
        self._lengths.append(encoded.length)
        self._supervised += encoded.supervised
        if self._buffer.bytes >= self.shard_bytes:
            self._flush()

    def close(self) -> SplitIndex:
        """Write what is left, and the lengths; returns the split's part of the index."""
        self._flush()
        sources = self._sources or [(self.split, 0)]
        ends = [*(first for _, first in sources[1:]), len(self._shards)]
        own = [(name, self._shards[first:end]) for (name, first), end in zip(sources, ends, strict=True)]
        return write_split(self.storage, self.split, own, _as_numpy(self._lengths, LENGTH), self._supervised)

    def _flush(self) -> None:
        lengths = self._lengths[self._first :]
        if not lengths:
            return
        data = to_bytes(self.layout.columns, self._buffer.values(), len(lengths))
        self._shards.append(write_shard(self.storage, shard_name(self.split, len(self._shards)), data, len(lengths), sum(lengths)))
        self._first, self._buffer = len(self._lengths), ColumnBuffer(self.layout)


def shard_name(split: str, number: int) -> str:
    """``train-00007.arrow``."""
    return f"{split}-{number:05d}.arrow"


def write_shard(storage: Storage, name: str, data: bytes, rows: int, tokens: int) -> Shard:
    """A shard of these bytes; returns its entry in the index."""
    stored = storage.put(name, data)
    return Shard(name=stored.name, bytes=stored.bytes, sha256=stored.sha256, rows=rows, tokens=tokens)


def write_split(storage: Storage, split: str, sources: Sequence[tuple[str, Sequence[Shard]]], lengths: Any, supervised: int) -> SplitIndex:
    """Write the lengths (int32, of every row) of a split whose shards stand; returns its part of the index. ``sources``: names and shards, in order."""
    stored = storage.put(f"lengths-{split}.arrow", to_bytes([LENGTH], {LENGTH.name: Values(lengths)}, len(lengths)))
    shares = [SourceIndex(name=name, rows=sum(s.rows for s in own), tokens=sum(s.tokens for s in own), shards=len(own)) for name, own in sources]
    shards = tuple(shard for _, own in sources for shard in own)
    return SplitIndex(
        rows=len(lengths),
        tokens=sum(shard.tokens for shard in shards),
        supervised=supervised,
        sources=tuple(shares),
        shards=shards,
        lengths=File(name=stored.name, bytes=stored.bytes, sha256=stored.sha256),
    )


def _as_numpy(buffer: bytearray | array[int], column: Column) -> Any:
    import numpy as np

    return np.frombuffer(buffer, column.dtype)
