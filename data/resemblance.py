"""Which rows nearly equal an earlier one, or one of another set, told by their sketches: no pair is compared that shares no band.

Of two texts with Jaccard index J a band agrees with probability J ** 8, so one of 16 does with 0.95 at J = 0.8, 0.99 at 0.85 and 0.9999 at 0.9. Where one
does, the estimate of J decides (standard error 0.035 at 0.8). Memory is some 50 bytes a row beside the sketches, time a sort of all rows a band; a band
that very many rows share (a template) costs ``LEADERS`` comparisons a row, not the square of its rows. Shape letter: R rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tunefleet.data.sketches import likeness

if TYPE_CHECKING:
    import numpy.typing as npt

    Hashes = npt.NDArray[np.uint64]
    Bools = npt.NDArray[np.bool_]
    Ints = npt.NDArray[np.int64]

THRESHOLD = 0.8
LEADERS = 8  # rows of a band that the others are compared with, one after the other
CHUNK = 1 << 14  # pairs looked at at a time: four megabytes of sketches


def near_earlier(sketches: Hashes, considered: Bools) -> Ints:
    """For every row the earliest row that it is a near duplicate of, -1 where it is none: shape (R,). Only ``considered`` rows are compared.

    A row is one when an earlier row that is none itself resembles it: whoever drops near duplicates keeps a row like each of them.
    """
    rows, size = np.flatnonzero(considered), len(considered)
    known = np.full(size, -1, np.int64)  # of every row one that it was found to resemble: bands mostly say it again
    found = np.full(size, -1, np.int64)
    pairs = [_pairs(np.ascontiguousarray(sketches[rows, band]), rows, sketches, known) for band in range(sketches.shape[1])]
    if not pairs:
        return found
    ordered = np.unique(np.concatenate(pairs))  # by the later row, then by the earlier one
    for start in range(0, len(ordered), CHUNK):
        for pair in ordered[start : start + CHUNK].tolist():
            row, like = divmod(pair, size)
            if found[row] < 0 and found[like] < 0:
                found[row] = like
    return found


def near_others(sketches: Hashes, rows: Ints, others: Ints) -> Ints:
    """For every one of ``rows`` one of the ``others`` that resembles it, -1 where none does."""
    found = np.full(len(rows), -1, np.int64)
    for band in range(sketches.shape[1]):
        keys = np.ascontiguousarray(sketches[others, band])
        order = np.argsort(keys, kind="stable")
        keys, sorted_others = keys[order], others[order]
        open_places = np.flatnonzero(found < 0)
        mine = np.ascontiguousarray(sketches[rows[open_places], band])
        first = np.searchsorted(keys, mine)
        for step in range(LEADERS):
            place = np.minimum(first + step, len(keys) - 1)
            meets = (keys[place] == mine) & (first + step < len(keys)) & (mine != 0) & (found[open_places] < 0)
            if not meets.any():
                break
            one, other = rows[open_places[meets]], sorted_others[place[meets]]
            near = _alike(sketches, one, other)
            found[open_places[meets][near]] = other[near]
    return found


def _pairs(keys: Hashes, rows: Ints, sketches: Hashes, known: Ints) -> Ints:
    """Near pairs among the rows that have a key in common: the first of a key with all others, then the first of those that it did not resemble, and so on.

    A pair is the later row times the number of all rows, and the earlier one: a number each, which sorts ten times as fast as two.
    """
    order = np.argsort(keys, kind="stable")  # within a key the rows ascend
    keys = keys[order]
    starts = np.concatenate([[True], keys[1:] != keys[:-1]])
    alone = starts & np.concatenate([starts[1:], [True]])
    left = ~alone & (keys != 0)
    members, group = rows[order[left]], np.cumsum(starts[left])
    pairs = [np.zeros(0, np.int64)]
    for _ in range(LEADERS):
        if not len(members):
            break
        leads = np.concatenate([[True], group[1:] != group[:-1]])
        leader = members[np.flatnonzero(leads)][np.cumsum(leads) - 1]
        near = known[members] == leader
        asked = ~leads & ~near
        near[asked] = _alike(sketches, members[asked], leader[asked])
        new = near & asked  # what is known is listed already
        known[members[new]] = leader[new]
        pairs.append(members[new] * len(sketches) + leader[new])
        members, group = members[~leads & ~near], group[~leads & ~near]
    return np.concatenate(pairs)


def _alike(sketches: Hashes, one: Ints, other: Ints) -> Bools:
    near = np.zeros(len(one), bool)
    for start in range(0, len(one), CHUNK):
        part = slice(start, start + CHUNK)
        near[part] = likeness(sketches[one[part]], sketches[other[part]]) >= THRESHOLD
    return near
