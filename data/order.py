"""The order of the rows: a pure function of (rows of each shard, window, seed, epoch, position), the same for every reader and for ever.

The shards of an epoch are permuted, W of them in a row are a window, and the rows of a window are permuted. So a reader needs W shards at a time, and
the position says where it stands: nothing is replayed to resume. Permuted means sorted by a hash, which is written out here, since the order of a run must
not change with the version of a library. The hash is a bijection: no two rows of an epoch have one key, and so no sort can break ties in its own way.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tunefleet.data.mixing import GOLDEN, mixed

if TYPE_CHECKING:
    import numpy.typing as npt

    Ids = npt.NDArray[np.int64]
    Hashes = npt.NDArray[np.uint64]
    Lengths = npt.NDArray[np.int32] | npt.NDArray[np.int64]

_SHARDS, _ROWS = 1, 2  # what a key is for: shards and rows are permuted by different hashes


class Course(Protocol):
    """Which examples an epoch has, and in which order: of one store as it stands (Order), or of several sources in given shares (Mixture)."""

    @property
    def seed(self) -> int:
        """What it was drawn with."""
        ...

    @property
    def rows(self) -> int:
        """Positions of an epoch; the same for every epoch."""
        ...

    def at(self, epoch: int, start: int, stop: int) -> Ids:
        """The ids at positions ``start`` to ``stop`` of an epoch, (stop - start,) int64."""
        ...

    def tokens_before(self, epoch: int, position: int) -> int:
        """Tokens of the examples at the positions before this one."""
        ...

    def epoch_tokens(self) -> tuple[int, int, int]:
        """Tokens of an epoch: on average over epochs (rounded up), and bounds that none falls below or exceeds."""
        ...


class Order:
    """The order in which the rows of a split are read, epoch after epoch.

    ``shard_rows``: rows of each shard; the id of a row is its position when the shards stand side by side. ``window``: shards that are shuffled together.
    ``lengths``: tokens of every row, by id; only what asks for tokens needs them. ``shard_tokens``: their sums by shard, which spare looking at every row.
    """

    def __init__(self, shard_rows: Sequence[int], seed: int, window: int, lengths: Lengths | None = None, shard_tokens: Sequence[int] | None = None) -> None:
        assert window > 0, "a window holds at least one shard"
        assert sum(shard_rows) > 0, "a split without rows has no order"
        self.seed, self.window, self._lengths, self._known_tokens = seed, window, lengths, shard_tokens
        self._shard_rows = np.asarray(shard_rows, np.int64)
        self._shard_starts = np.cumsum(self._shard_rows) - self._shard_rows
        self.rows = int(self._shard_rows.sum())
        self._epoch = lru_cache(maxsize=2)(self._plan)
        self._window = lru_cache(maxsize=2)(self._shuffled)  # two: a step may reach into the next window, and the log looks at a step again
        self._sums = lru_cache(maxsize=4)(self._tokens_within)
        self._before_windows = lru_cache(maxsize=2)(self._tokens_before_windows)

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

    def windows(self, epoch: int, start: int, stop: int) -> list[tuple[int, int]]:
        """The windows that positions ``start`` to ``stop`` touch, each by its first position and the one behind its last."""
        _, ends = self._epoch(epoch)
        first, last = np.searchsorted(ends, [start, stop - 1], side="right") if start < stop else (0, -1)
        return [(int(ends[number - 1]) if number else 0, int(ends[number])) for number in range(int(first), int(last) + 1)]

    def tokens_before(self, epoch: int, position: int) -> int:
        """See Course. Costs the sort of one window."""
        assert 0 <= position <= self.rows, "a position outside of the epoch"
        _, ends = self._epoch(epoch)
        number = int(np.searchsorted(ends, position, side="right"))
        inside = position - (int(ends[number - 1]) if number else 0)
        whole = int(self._before_windows(epoch)[number])
        return whole + int(self._sums(epoch, number)[inside]) if inside else whole

    def epoch_tokens(self) -> tuple[int, int, int]:
        """See Course: every epoch has every row."""
        total = int(self._shard_tokens.sum())
        return total, total, total

    @cached_property
    def _shard_tokens(self) -> Ids:
        assert self._lengths is not None, "an order that counts tokens needs the lengths of its rows"
        if self._known_tokens is not None:
            return np.asarray(self._known_tokens, np.int64)
        found = np.zeros(len(self._shard_rows), np.int64)
        full = np.flatnonzero(self._shard_rows)
        found[full] = np.add.reduceat(self._lengths, self._shard_starts[full], dtype=np.int64)
        return found

    def _tokens_before_windows(self, epoch: int) -> Ids:
        """Tokens before each window of an epoch, and behind the last."""
        shards, ends = self._epoch(epoch)
        sums = np.append(0, np.cumsum(self._shard_tokens[shards]))
        return sums[np.minimum(np.arange(len(ends) + 1) * self.window, len(shards))]

    def _tokens_within(self, epoch: int, number: int) -> Ids:
        """Tokens before each row of a window, counted from its first, and behind its last."""
        assert self._lengths is not None, "an order that counts tokens needs the lengths of its rows"
        return np.append(0, np.cumsum(self._lengths[self._window(epoch, number)], dtype=np.int64))

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
    return mixed((mixed(ids.astype(np.uint64) + GOLDEN) ^ _key(seed, epoch, purpose)) + GOLDEN)


@lru_cache(maxsize=1024)
def _key(seed: int, epoch: int, purpose: int) -> Hashes:
    """What makes the hashes of one (seed, epoch, purpose), (1,)."""
    key = np.zeros(1, np.uint64)
    for part in (seed, epoch, purpose):
        key = mixed((key ^ np.asarray([part], np.uint64)) + GOLDEN)
    return key
