"""The order of the rows: a pure function of (rows of each shard, window, seed, epoch, position), the same for every reader and for ever.

The shards of an epoch are permuted, W of them in a row are a window, and the rows of a window are permuted. So a reader needs W shards at a time, and
the position says where it stands: nothing is replayed to resume. Permuted means sorted by a hash, which is written out here, since the order of a run must
not change with the version of a library. The hash is a bijection: no two rows of an epoch have one key, and so no sort can break ties in its own way.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Ids = npt.NDArray[np.int64]
    Hashes = npt.NDArray[np.uint64]

_SHARDS, _ROWS = 1, 2  # what a key is for: shards and rows are permuted by different hashes


class StepRange(NamedTuple):
    """The positions of one optimizer step: ``start`` to ``stop`` (half open) of an epoch."""

    epoch: int
    start: int
    stop: int


class Order:
    """The order in which the rows of a split are read, epoch after epoch.

    ``shard_rows``: rows of each shard; the id of a row is its position when the shards stand side by side. ``window``: shards that are shuffled together.
    """

    def __init__(self, shard_rows: Sequence[int], seed: int, window: int) -> None:
        assert window > 0, "a window holds at least one shard"
        assert sum(shard_rows) > 0, "a split without rows has no order"
        self.seed, self.window = seed, window
        self._shard_rows = np.asarray(shard_rows, np.int64)
        self._shard_starts = np.cumsum(self._shard_rows) - self._shard_rows
        self.rows = int(self._shard_rows.sum())
        self._epoch = lru_cache(maxsize=2)(self._plan)
        self._window = lru_cache(maxsize=2)(self._shuffled)  # two: a step may reach into the next window, and the log looks at a step again

    def at(self, epoch: int, start: int, stop: int) -> Ids:
        """The ids at positions ``start`` to ``stop`` of an epoch, (stop - start,) int64.

        Costs the sort of the windows that it touches, whatever the position and the number of rows outside of them; the last windows are kept.
        """
        assert 0 <= start <= stop <= self.rows, "a position outside of the epoch"
        _, ends = self._epoch(epoch)
        first, last = np.searchsorted(ends, [start, stop - 1], side="right")
        parts = []
        for number in range(int(first), int(last) + 1):
            begins = int(ends[number - 1]) if number else 0
            parts.append(self._window(epoch, number)[max(start - begins, 0) : stop - begins])
        return np.concatenate(parts) if start < stop else np.empty(0, np.int64)

    def steps_per_epoch(self, batch: int) -> int:
        """Steps in one pass over all rows; the last is smaller where ``batch`` does not divide, and never dropped."""
        return -(-self.rows // batch)

    def step_range(self, step: int, batch: int) -> StepRange:
        """Where step ``step`` (counted from 0 over all epochs) stands."""
        epoch, within = divmod(step, self.steps_per_epoch(batch))
        return StepRange(epoch, within * batch, min((within + 1) * batch, self.rows))

    def _plan(self, epoch: int) -> tuple[Ids, Ids]:
        """The shards of an epoch in their order, and the position behind the last row of each window."""
        keys = hashes(self.seed, epoch, _SHARDS, np.arange(len(self._shard_rows), dtype=np.int64))
        shards = np.argsort(keys).astype(np.int64)
        ends = np.cumsum(self._shard_rows[shards])
        return shards, np.append(ends[self.window - 1 : -1 : self.window], self.rows)

    def _shuffled(self, epoch: int, number: int) -> Ids:
        """The ids of one window in their order."""
        shards, _ = self._epoch(epoch)
        members = np.sort(shards[number * self.window : (number + 1) * self.window])
        ids = np.concatenate([np.arange(self._shard_rows[s], dtype=np.int64) + self._shard_starts[s] for s in members])
        return ids[np.argsort(hashes(self.seed, epoch, _ROWS, ids))]


def hashes(seed: int, epoch: int, purpose: int, ids: Ids) -> Hashes:
    """One uint64 an id, without collisions among the ids of one (seed, epoch, purpose). ``seed`` may be any non-negative integer below 2**64."""
    key = np.zeros(1, np.uint64)
    for part in (seed, epoch, purpose):
        key = _splitmix64(key ^ np.asarray([part], np.uint64))
    return _splitmix64(_splitmix64(ids.astype(np.uint64)) ^ key)


def _splitmix64(values: Hashes) -> Hashes:
    """The output function of SplitMix64, a bijection of the 64-bit integers. Source: Steele, Lea and Flood 2014, doi:10.1145/2714064.2660195."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
