"""Several sources in exact shares: which rows an epoch has, and in which order. A pure function of (rows, weights, temperature, seed, epoch, position).

An epoch has sum(weight x rows) examples; source s gets a share of them in proportion to weight x rows^(1 / temperature). Shares are rounded down, and what is
left of them goes to sources drawn by the seed, in proportion to what they lost. Replay adds a share of its own on top. A source that is due more often
than it has rows is read in whole passes, each in a new order, and then in part; the next epoch's part begins where this one's ended, so no row is
ever used twice more often than another. At every position the sources are spread evenly, so each step too has their shares, to within an example or two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tunefleet.data.order import Order, hashes

if TYPE_CHECKING:
    import numpy.typing as npt

    from tunefleet.data.order import Ids, Lengths

_SOURCE, _REST, _PHASE, _EXTRA = 3, 4, 5, 6  # what a key is for; an order of shards and rows has 1 and 2
_DIGITS = Context(prec=50)


class Part(NamedTuple):
    """A source as it stands in a store: the rows of its shards, its first id, its examples in an epoch, and tokens by row and by shard (or None)."""

    shard_rows: Sequence[int]
    first: int
    quota: int
    lengths: Lengths | None = None
    shard_tokens: Sequence[int] | None = None


def quotas(rows: Sequence[int], weights: Sequence[float], *, temperature: float | None = 1.0, seed: int = 0, replay: float = 0.0) -> list[int]:
    """Examples of each source in an epoch. ``temperature`` None is an infinite one. ``replay``: the share of the whole epoch that is replayed, listed last."""
    exact = [_exactly(weight) for weight in weights]
    epoch = max(1, _rounded(sum(weight * count for weight, count in zip(exact, rows, strict=True))))
    shares = _divided(epoch, [weight * _power(count, temperature) for weight, count in zip(exact, rows, strict=True)], seed)
    return [*shares, _rounded(epoch * _exactly(replay) / (1 - _exactly(replay)))] if replay else shares


def _rounded(value: Fraction | int) -> int:
    return math.floor(value + Fraction(1, 2))


def _exactly(value: float) -> Fraction:
    """The number that was written down: 0.1 is a tenth."""
    return Fraction(repr(float(value)))


def _power(rows: int, temperature: float | None) -> Fraction:
    """rows^(1 / temperature), the same on every machine."""
    if temperature is None:
        return Fraction(min(rows, 1))
    if temperature == 1 or not rows:
        return Fraction(rows)
    return Fraction(_DIGITS.power(Decimal(rows), _DIGITS.divide(Decimal(1), Decimal(repr(float(temperature))))))


def _divided(total: int, powers: Sequence[Fraction], seed: int) -> list[int]:
    """``total`` in proportion to ``powers``: rounded down, and the rest by one draw that gives each source one more with the chance that it lost.

    Systematic sampling: the lost parts stand side by side, and every whole number of a ruler that is laid beside them at random hits the one that gets more.
    """
    exact = [total * power / sum(powers) for power in powers]
    down = [math.floor(value) for value in exact]
    shift = Fraction(int(hashes(seed % 2**64, 0, _EXTRA, np.zeros(1, np.int64))[0]), 2**64)
    marks = [math.floor(mark + shift) for mark in accumulate((value - low for value, low in zip(exact, down, strict=True)), initial=Fraction(0))]
    return [low + after - before for low, (before, after) in zip(down, pairwise(marks), strict=True)]


class Mixture:
    """The order in which several sources are read, epoch after epoch. ``window``: shards that are open at a time, over all sources (one each at least)."""

    def __init__(self, parts: Sequence[Part], seed: int, window: int) -> None:
        self.seed = seed
        kept = [part for part in parts if part.quota]
        assert kept, "an epoch without examples has no order"
        each = max(1, window // len(kept))
        seeds = hashes(seed, 0, _SOURCE, np.arange(len(kept), dtype=np.int64)).tolist()
        self._sources = [_Source(part, own, each) for part, own in zip(kept, seeds, strict=True)]
        self._quotas = np.asarray([part.quota for part in kept], np.int64)
        self.rows = int(self._quotas.sum())
        self._phases = lru_cache(maxsize=4)(self._draw_phases)

    def at(self, epoch: int, start: int, stop: int) -> Ids:
        """The ids at positions ``start`` to ``stop`` of an epoch, (stop - start,) int64. Costs what Order's costs, for each source."""
        assert 0 <= start <= stop <= self.rows, "a position outside of the epoch"
        before, behind = self.counts(epoch, start), self.counts(epoch, stop)
        items = [np.arange(a, b) for a, b in zip(before, behind, strict=True)]
        keys = np.concatenate([self._keys(epoch, number, own) for number, own in enumerate(items)])
        ids = np.concatenate([s.at(epoch, int(a), int(b)) for s, a, b in zip(self._sources, before, behind, strict=True)])
        return ids[np.argsort(keys, kind="stable")]

    def counts(self, epoch: int, position: int) -> Ids:
        """How many examples of each source stand before a position.

        Item j of a source with q examples stands at (j + phase) / q of the epoch. So at most a few items of each can lie on either side of the position;
        only those are put in order.
        """
        sure = np.maximum((position - len(self._quotas)) * self._quotas // self.rows - 2, 0)
        wide = 2 * len(self._quotas) * self._quotas // self.rows + 6
        items = [np.arange(low, min(low + more, quota)) for low, more, quota in zip(sure, wide, self._quotas, strict=True)]
        keys = np.concatenate([self._keys(epoch, number, own) for number, own in enumerate(items)])
        owners = np.repeat(np.arange(len(items)), [len(own) for own in items])
        first = np.argsort(keys, kind="stable")[: position - int(sure.sum())]
        found: Ids = sure + np.bincount(owners[first], minlength=len(items))
        return found

    def tokens_before(self, epoch: int, position: int) -> int:
        """See Course."""
        return sum(s.tokens_before(epoch, int(count)) for s, count in zip(self._sources, self.counts(epoch, position), strict=True))

    def epoch_tokens(self) -> tuple[int, int, int]:
        """See Course."""
        means, least, most = zip(*(source.epoch_tokens() for source in self._sources), strict=True)
        return math.ceil(sum(means)), sum(least), sum(most)

    def _keys(self, epoch: int, number: int, items: Ids) -> npt.NDArray[np.float64]:
        """Where items of a source stand in the epoch, 0 to 1: sums and quotients of floats, which all machines round alike, ascending in the item."""
        return (items + np.float64(self._phases(epoch)[number])) / np.float64(self._quotas[number])

    def _draw_phases(self, epoch: int) -> list[float]:
        """A number in [0, 1) for each source; 10 bits, so that adding it to an item's number is exact."""
        drawn = hashes(self.seed, epoch, _PHASE, np.arange(len(self._quotas), dtype=np.int64))
        return [float(value) / 1024 for value in (drawn >> np.uint64(54)).tolist()]


class _Source:
    """The examples of one source, epoch after epoch: whole passes, each an order of its own, then ``rest`` more rows.

    The rest is a piece of a circle: all rows in one order that stays, of which every epoch takes the next piece, and shuffles it anew within its windows.
    """

    def __init__(self, part: Part, seed: int, window: int) -> None:
        self.part, self.seed = part, seed
        self.order = Order(part.shard_rows, seed, window, part.lengths, part.shard_tokens)
        self.circle = Order(part.shard_rows, int(hashes(seed, 0, _REST, np.zeros(1, np.int64))[0]), window, part.lengths, part.shard_tokens)
        self.passes, self.rest = divmod(part.quota, self.order.rows)
        self._shuffled = lru_cache(maxsize=4)(self._shuffle)

    def at(self, epoch: int, start: int, stop: int) -> Ids:
        """The ids of its items ``start`` to ``stop``."""
        rows, found = self.order.rows, []
        for number in range(min(start // rows, self.passes), self.passes):
            low, high = max(start - number * rows, 0), min(stop - number * rows, rows)
            if low < high:
                found.append(self.order.at(epoch * self.passes + number, low, high))
        behind = self.passes * rows
        found += self._rest(epoch, max(start - behind, 0), max(stop - behind, 0))
        return np.concatenate([np.empty(0, np.int64), *found]) + self.part.first

    def tokens_before(self, epoch: int, item: int) -> int:
        """Tokens of the items before this one."""
        number, inside = divmod(item, self.order.rows)
        total, *_ = self.order.epoch_tokens()
        if number < self.passes:
            return number * total + self.order.tokens_before(epoch * self.passes + number, inside)
        return self.passes * total + sum(self._piece_tokens(epoch, *piece) for piece in self._arcs(epoch, 0, item - self.passes * self.order.rows))

    def _piece_tokens(self, epoch: int, low: int, high: int, begin: int, end: int) -> int:
        """Tokens of an arc that begins where this epoch's does: only its last window is not read to its end."""
        assert self.part.lengths is not None
        left, right = self.circle.windows(0, high - 1, high)[0]
        left, right = max(left, begin), min(right, end)
        last = self._shuffled(epoch, left, right)[: high - left]
        return self.circle.tokens_before(0, left) - self.circle.tokens_before(0, low) + int(self.part.lengths[last].sum(dtype=np.int64))

    def epoch_tokens(self) -> tuple[Fraction, int, int]:
        """Tokens of an epoch on average, and bounds that none falls below or exceeds."""
        assert self.part.lengths is not None
        total, *_ = self.order.epoch_tokens()
        whole, lengths = self.passes * total, self.part.lengths
        return Fraction(total * self.part.quota, self.order.rows), whole + self.rest * int(lengths.min()), whole + self.rest * int(lengths.max())

    def _rest(self, epoch: int, start: int, stop: int) -> list[Ids]:
        """Items of the rest, by window."""
        found = []
        for low, high, begin, end in self._arcs(epoch, start, stop):
            for left, right in self.circle.windows(0, low, high):
                left, right = max(left, begin), min(right, end)
                found.append(self._shuffled(epoch, left, right)[max(low - left, 0) : high - left])
        return found

    def _arcs(self, epoch: int, start: int, stop: int) -> list[tuple[int, int, int, int]]:
        """Items ``start`` to ``stop`` of the rest on the circle: (from, to), and the limits of the epoch's whole piece. Two, where it goes over the end."""
        rows = self.order.rows
        first = epoch * self.rest % rows
        limits = [(max(first - turn, 0), min(first + self.rest - turn, rows), turn) for turn in (0, rows)]
        arcs = [(max(first + start - turn, begin), min(first + stop - turn, end), begin, end) for begin, end, turn in limits]
        return [arc for arc in arcs if arc[0] < arc[1]]

    def _shuffle(self, epoch: int, begin: int, end: int) -> Ids:
        """Positions of the circle, all within one window, in the order of this epoch."""
        ids = self.circle.at(0, begin, end)
        return ids[np.argsort(hashes(self.seed, epoch, _REST, ids))]
