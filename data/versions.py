"""Versions of a data set: which rows it has, known by their content, whatever file they stand in and in what order.

    rows.arrow       in every store: of each row the hash of its content, its source, file and line, and what became of it

The version is a hash of all row hashes, sorted; rows that are held out as a whole are told apart. It says nothing of tokenizer, template and policies: those
are in the fingerprint, so one version may be prepared many times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import DataError, StorageError
from tunefleet.cluster.storage import Storage
from tunefleet.data.columnfile import Values, open_columns, to_bytes
from tunefleet.data.facts import Facts, Flag
from tunefleet.data.layout import Column
from tunefleet.data.shards import INDEX, File, Index
from tunefleet.data.store import Store

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Hashes = npt.NDArray[np.uint64]
    Bools = npt.NDArray[np.bool_]

ROWS = "rows.arrow"
COLUMNS = (
    Column("content", "int64", per_token=False),  # the hash of all of it
    Column("part", "int32", per_token=False),
    Column("file", "int32", per_token=False),
    Column("line", "int64", per_token=False),
    Column("fate", "uint8", per_token=False),
)
DROPPED, TRAINING, HELD = 0, 1, 2  # fates; a document whose pieces fell on both sides is TRAINING + HELD


@dataclass(frozen=True)
class Rows:
    """The readable rows of a version, in reading order."""

    content: Hashes
    columns: Mapping[str, npt.NDArray[Any]]
    held: Bools


def version_of(content: Hashes, held: Bools) -> str:
    """The name of a version: 12 hexadecimal digits. ``held``: which rows are of sources that are held out as a whole."""
    import numpy as np

    digest = hashlib.sha256()
    for side in (~held, held):
        digest.update(np.sort(content[side]).astype("<u8").tobytes())
        digest.update(b"|")
    return digest.hexdigest()[:12]


def write_rows(home: Storage, facts: Facts, held: Bools, fate: npt.NDArray[np.uint8]) -> tuple[File, str]:
    """Write the manifest of all rows; returns its file and the version. ``held`` and ``fate`` are of all rows; unreadable ones are left out."""
    import numpy as np

    good = ~facts.has(Flag.INVALID)
    content = facts.columns["whole"][good]
    values: dict[str, Any] = {"content": content.view(np.int64), **{name: facts.columns[name][good].astype(np.int32) for name in ("part", "file")}}
    values |= {"line": facts.columns["line"][good].astype(np.int64), "fate": fate[good]}
    stored = home.put(ROWS, to_bytes(COLUMNS, {name: Values(value) for name, value in values.items()}, len(content)))
    return File(name=stored.name, bytes=stored.bytes, sha256=stored.sha256), version_of(content, held[good])


def read_manifest(home: Storage, index: Index) -> Rows:
    """The rows of a store. Raises StorageError for a manifest that is not what was written."""
    import numpy as np

    file = index.manifest
    assert file is not None, "a store that prepare wrote has a manifest"
    found = open_columns(home.local(file.name, sha256=file.sha256, size=file.bytes), COLUMNS, index.meta["readable"])
    columns = {name: values.values for name, values in found.items()}
    held = np.array([source["held"] for source in index.meta["sources"]], bool)[columns["part"]]
    return Rows(columns["content"].view(np.uint64), columns, held)


@dataclass(frozen=True)
class Difference:
    """What one version has and another has not: places of rows in the manifests, each row as often as it is there more often."""

    added: npt.NDArray[np.int64]
    removed: npt.NDArray[np.int64]
    same: int


def difference(before: Rows, after: Rows) -> Difference:
    """What was added and removed from one version to another, by content: rows that only moved are the same. Of equal rows the later ones are the added."""
    import numpy as np

    def extra(one: Rows, other: Rows) -> npt.NDArray[np.int64]:
        order = np.argsort(one.content, kind="stable")
        mine, theirs = one.content[order], np.sort(other.content)
        turn = np.arange(len(mine)) - np.searchsorted(mine, mine)  # the how-manieth of its equals
        count = np.searchsorted(theirs, mine, side="right") - np.searchsorted(theirs, mine)
        return np.sort(order[turn >= count]).astype(np.int64)

    added, removed = extra(after, before), extra(before, after)
    return Difference(added, removed, len(after.content) - len(added))


def where(index: Index, rows: Rows, places: Sequence[int]) -> list[str]:
    """File and line of some rows, as they were when they were prepared."""
    sources = index.meta["sources"]
    columns = rows.columns
    return [f"{sources[columns['part'][place]]['files'][columns['file'][place]]}:{columns['line'][place]}" for place in places]


@dataclass(frozen=True)
class Listed:
    """A prepared version in a folder of stores. ``made_s``: when, by the storage's clock, seconds since 1970. ``bytes`` of its shards."""

    store: Storage
    version: str
    made_s: float
    bytes: int
    index: Index

    @property
    def fingerprint(self) -> str:
        """What it was prepared from."""
        return self.index.fingerprint


def listed(stores: Storage) -> tuple[list[Listed], list[StorageError]]:
    """Every store in a folder of stores, the oldest first; and what is wrong with those that cannot be read."""
    homes = [stores.sub(name.partition("/")[0]) for name in stores.list() if name.count("/") == 1 and name.endswith(f"/{INDEX}")]
    found: list[Listed] = []
    broken: list[StorageError] = []
    for home in homes:
        try:
            index = Store.at(home).index
            if "version" in index.meta:  # else it was made by hand
                size = sum(shard.bytes for split in index.splits.values() for shard in split.shards)
                found.append(Listed(home, index.meta["version"], home.modified(INDEX), size, index))
        except StorageError as error:
            broken.append(error)
    return sorted(found, key=lambda one: (one.made_s, one.fingerprint)), broken


def found_version(stores: Storage, name: str) -> Listed:
    """The store whose version or fingerprint begins with ``name``; of a version that was prepared several times the newest.

    Raises DataError, with those that there are, when it is none of them or begins several versions.
    """
    known, _ = listed(stores)
    fitting = [one for one in known if one.version.startswith(name) or one.fingerprint.startswith(name)]
    if len({one.version for one in fitting}) == 1:
        return fitting[-1]
    have = ", ".join(dict.fromkeys(one.version for one in fitting or known)) or "none: nothing was prepared there"
    raise DataError(
        f"{name}: {'begins several versions' if fitting else 'no such version'}", got=name, want=f"one of {have}", fix=f"tunefleet data list {stores.address}"
    )
