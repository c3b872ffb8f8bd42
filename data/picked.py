"""Rows that were picked by their ids, read when they are asked for: each as a record, or one column of all of them as a padded matrix.

A matrix is gathered in one go for every shard: from each row's beginning as many values as the longest row has, and then what is not the row's own is
filled over. That costs about what gathering rows of one length from a plain file of numbers costs, however long each row is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tunefleet.data.layout import Record

if TYPE_CHECKING:
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]
    Array = np.ndarray[Any, Any]


class Readable(Protocol):
    """A split, as far as picked rows know it."""

    def record(self, row: int) -> Record:
        """The row with this id."""
        ...

    def places(self, ids: Ints, column: str) -> list[tuple[Ints, Array, Array, Array]]:
        """Where a column of these rows stands, shard by shard: which of the rows, the shard's values, and where each row begins and ends in them."""
        ...


class Picked(Sequence[Record]):
    """Rows of a split, in the order of ``ids``."""

    def __init__(self, split: Readable, ids: Ints) -> None:
        self._split, self._ids = split, ids

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, at: int) -> Record: ...
    @overload
    def __getitem__(self, at: slice) -> Picked: ...
    def __getitem__(self, at: int | slice) -> Record | Picked:
        return Picked(self._split, self._ids[at]) if isinstance(at, slice) else self._split.record(int(self._ids[at]))

    def padded(self, column: str, fill: int) -> tuple[Ints, Ints]:
        """See ``padded``."""
        parts = self._split.places(self._ids, column)
        longest = max(int((ends - begins).max()) for _, _, begins, ends in parts)
        found, lengths = np.empty((len(self._ids), longest), np.int64), np.empty(len(self._ids), np.int64)
        for mine, values, begins, ends in parts:
            lengths[mine] = ends - begins
            width = min(longest, len(values))
            found[mine, :width] = _from(values, begins, width)
            for row in np.flatnonzero(begins > len(values) - width):  # the shard ends within the width
                found[mine[row], : lengths[mine[row]]] = values[begins[row] : ends[row]]
        if int(lengths.min()) < longest:
            found[np.arange(longest) >= lengths[:, None]] = fill
        return found, lengths


def padded(records: Sequence[Record], column: str, fill: int) -> tuple[Ints, Ints]:
    """A column of whole numbers of B records as a right-padded matrix, (B, T), and how many are each record's own, (B,)."""
    if isinstance(records, Picked):
        return records.padded(column, fill)
    rows = [record.columns[column] for record in records]
    lengths = np.asarray([len(row) for row in rows], np.int64)
    found = np.full((len(rows), int(lengths.max())), fill, np.int64)
    for number, row in enumerate(rows):
        found[number, : len(row)] = row
    return found, lengths


def _from(values: Array, begins: Array, width: int) -> Array:
    """``width`` values from each beginning on; a beginning too near the end is moved to where so many are left."""
    last, step = len(values) - width, values.itemsize
    every = as_strided(values, (last + 1, width), (step, step), writeable=False)
    taken: Array = every[np.minimum(begins, last)]
    return taken
