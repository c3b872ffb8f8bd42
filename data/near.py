"""Near duplicates: MinHash with locality-sensitive hashing finds candidates, the Jaccard index of their word 5-grams decides.

Source: Broder 1997, "On the resemblance and containment of documents". 128 hash functions in 16 bands of 8: of two texts that agree to 0.8, the chance to meet
in a band is 0.95, at 0.9 it is 0.9999. Shape letters: S shingles of all rows, K hash functions, R rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Hashes = npt.NDArray[np.uint64]
    Bools = npt.NDArray[np.bool_]

THRESHOLD = 0.8
WORDS = 5
BANDS, ROWS_PER_BAND = 16, 8
BATCH_SHINGLES = 1 << 17
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Shingles:
    """The hashed word 5-grams of many rows, four bytes each. A text of fewer words is one shingle."""

    def __init__(self) -> None:
        self._hashes, self._ends = array("I"), array("Q", [0])

    def add(self, words: Sequence[str]) -> None:
        """Append one row."""
        grams = _grams(np.fromiter((crc32(word.encode()) for word in words), np.uint64, len(words)))
        self._hashes.frombytes(np.unique(grams >> np.uint64(32)).astype(np.uint32).tobytes())
        self._ends.append(len(self._hashes))

    def near_duplicates(self, considered: Bools, groups: npt.NDArray[np.int64]) -> Bools:
        """Which rows are nearly equal to an earlier one that is no duplicate itself, among the considered rows of one group."""
        hashes, ends = np.frombuffer(self._hashes, np.uint32), np.frombuffer(self._ends, np.uint64).astype(np.int64)
        bands_RB = _bands(hashes, ends, groups)
        first: dict[int, list[int]] = {}
        found = np.zeros(len(considered), bool)
        for row in np.flatnonzero(considered).tolist():
            keys = bands_RB[row].tolist()
            mine = hashes[ends[row] : ends[row + 1]]
            candidates = sorted({other for key in keys for other in first.get(key, ())})
            if any(_jaccard(mine, hashes[ends[other] : ends[other + 1]]) >= THRESHOLD for other in candidates):
                found[row] = True
                continue
            for key in keys:
                first.setdefault(key, []).append(row)
        return found


def _grams(words: Hashes) -> Hashes:
    """Hashes of every run of five words; of all words where there are fewer."""
    count = max(len(words) - WORDS + 1, 1)
    grams = np.zeros(count, np.uint64)
    for i in range(min(WORDS, len(words))):
        grams = _mix(grams * _GOLDEN + words[i : i + count])
    return grams


def _bands(hashes: npt.NDArray[np.uint32], ends: npt.NDArray[np.int64], groups: npt.NDArray[np.int64]) -> Hashes:
    """A hash per row and band; rows of different groups never share one."""
    functions = BANDS * ROWS_PER_BAND
    seeds_K = _mix(np.arange(1, functions + 1, dtype=np.uint64) * _GOLDEN)
    bands_RB = np.zeros((len(ends) - 1, BANDS), np.uint64)
    start = 0
    while start < len(ends) - 1:
        stop = max(int(np.searchsorted(ends, ends[start] + BATCH_SHINGLES)), start + 1)
        stop = min(stop, len(ends) - 1)
        part_S = hashes[ends[start] : ends[stop]].astype(np.uint64)
        offsets = ends[start:stop] - ends[start]
        for band in range(BANDS):
            key_R = groups[start:stop].astype(np.uint64) + np.uint64(band)
            for seed in seeds_K[band * ROWS_PER_BAND : (band + 1) * ROWS_PER_BAND]:
                key_R = _mix(key_R * _GOLDEN + np.minimum.reduceat(_mix(part_S ^ seed), offsets))
            bands_RB[start:stop, band] = key_R
        start = stop
    return bands_RB


def _mix(value: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele et al. 2014): neighbouring numbers become unrelated ones."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _jaccard(one: npt.NDArray[np.uint32], other: npt.NDArray[np.uint32]) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
