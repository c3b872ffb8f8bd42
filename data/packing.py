"""How the examples of one step are divided into micro-batches and over ranks. It changes only who computes what, never which examples a step has.

A micro-batch costs what its padded rectangle costs: rows x (longest + longest^2 / A). The square is attention; A is the length at which it costs as much as
everything else of a layer (six times the width of a transformer; a constant here, since the division must not depend on the model). A packed one has no
rectangle: its rows lie end to end, each attends to itself, and so it costs the sum of what its rows cost.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from tunefleet.data.order import Lengths

    Ints = npt.NDArray[np.int64]

Kind = Literal["bucket", "pack", "pad"]
Division = list[list[list[int]]]
ATTENTION_LENGTH = 8192
FORWARD_TOKENS = 96  # padding that one more micro-batch must save: what its forward costs beside its tokens


class Limits(NamedTuple):
    """The most that one micro-batch may hold: rows, and tokens (with padding, where there is any). None is no limit. A longer row stands alone."""

    rows: int | None = None
    tokens: int | None = None

    def most_rows(self, lengths: Ints) -> Ints:
        """The most rows in a micro-batch whose longest row has this length, one answer a length."""
        by_tokens = np.full_like(lengths, np.iinfo(np.int64).max) if self.tokens is None else np.maximum(self.tokens // np.maximum(lengths, 1), 1)
        return by_tokens if self.rows is None else np.minimum(by_tokens, self.rows)


def costliest(lengths: Lengths, most_rows: int, *, kind: Kind, limits: Limits) -> Ints:
    """Ids of rows that cost as much as any micro-batch of these rows can, in a step of at most so many rows; of a packed one less than a row more."""
    counts = np.bincount(lengths)
    sizes = np.flatnonzero(counts)
    if kind == "pack":
        order = _longest(lengths, counts, min(most_rows, limits.rows or len(lengths)))
        upto: Ints = np.cumsum(lengths[order], dtype=np.int64)
        return order if limits.tokens is None else order[upto - lengths[order] < limits.tokens]
    not_longer = np.cumsum(counts[sizes])
    rows = np.minimum(np.minimum(limits.most_rows(sizes), most_rows), not_longer)
    worst = int(np.argmax(rows * row_cost(sizes)))
    return _longest(lengths, counts[: sizes[worst] + 1], int(rows[worst]))


def _longest(lengths: Lengths, counts: Ints, most: int) -> Ints:
    """Ids of the ``most`` longest rows among those that ``counts`` (of rows by length) counts, longest first; they are not all sorted for that."""
    as_long = np.cumsum(counts[::-1])[::-1]  # rows of each length or above
    bound = int(np.flatnonzero(as_long >= min(most, as_long[0]))[-1])
    longer, like = np.flatnonzero((lengths > bound) & (lengths < len(counts))), np.flatnonzero(lengths == bound)
    return np.concatenate([longer[np.argsort(-lengths[longer], kind="stable")], like[: most - len(longer)]])


def row_cost(lengths: Ints) -> Ints:
    """What one row costs in a micro-batch of this padded length; integers, so that every machine divides alike."""
    return lengths * (lengths + ATTENTION_LENGTH) + 1


def divide(lengths: Sequence[int] | Ints, ranks: int, *, kind: Kind, rows: int | None = None, tokens: int | None = None) -> Division:
    """Divide a step's examples over ranks: ``[rank][round]`` is a list of indices into ``lengths``, and every index stands in exactly one.

    Every rank gets equally many rounds; a rank with nothing to do in the last one gets an empty list. ``bucket`` puts rows of similar length into one round,
    in as many rounds as make padding and waiting cheapest; ``pack`` makes micro-batches of like cost out of rows of any length, ``pad`` keeps the order of
    the set (round by round, rank by rank), both in as few rounds as the limits allow.
    """
    assert (rows, tokens) != (None, None), "without a limit a micro-batch has no size"
    assert 0 not in (rows, tokens), "a micro-batch holds at least one row"
    sizes, limits = np.asarray(lengths, np.int64), Limits(rows, tokens)
    if kind == "pad":
        return _deal_in_order(_in_order(sizes, ranks, limits), ranks)
    order = np.argsort(-sizes, kind="stable")
    if kind == "pack":
        packs = sorted(((order[rows].tolist(), cost) for rows, cost in _packs(sizes[order], ranks, limits)), key=lambda pack: -pack[1])
        return _deal_by_cost([packs[first : first + ranks] for first in range(0, len(packs), ranks)], ranks)
    unit = row_cost(sizes)
    rounds = [[(order[a:b].tolist(), int(unit[order[a]]) * (b - a)) for a, b in parts] for parts in _rounds(sizes[order], ranks, limits)]
    return _deal_by_cost(rounds, ranks)


def _rounds(sizes: Ints, ranks: int, limits: Limits) -> list[list[tuple[int, int]]]:
    """For each round, (start, stop) of every rank's micro-batch, of rows that are sorted by length, longest first.

    A round costs every rank what its longest micro-batch costs, for they wait for each other: ranks x rows of each x longest. Of all ways to cut the sorted
    rows into rounds the cheapest is found from the first row on: ``best[i]`` is the least that the rows before i can cost.
    """
    unit, most, count = row_cost(sizes), np.minimum(limits.most_rows(sizes), len(sizes)), len(sizes)
    best, come_from = np.full(count + 1, np.iinfo(np.int64).max), np.zeros(count + 1, np.int64)
    best[0] = 0
    for start in range(0, count, ranks):
        rows = np.arange(1, min(int(most[start]), -(-(count - start) // ranks)) + 1)
        stops = np.minimum(start + ranks * rows, count)
        costs = best[start] + ranks * (rows * unit[start] + FORWARD_TOKENS * ATTENTION_LENGTH)
        better = costs < best[stops]
        best[stops[better]], come_from[stops[better]] = costs[better], start
    cuts = [count]
    while cuts[-1]:
        cuts.append(int(come_from[cuts[-1]]))
    return [_shared_out(start, stop, ranks) for start, stop in pairwise(reversed(cuts))]


def _shared_out(start: int, stop: int, ranks: int) -> list[tuple[int, int]]:
    """Rows ``start`` to ``stop`` in equal shares; where that does not divide, the first ones, of longer rows, get one less."""
    few, over = divmod(stop - start, ranks)
    ends = list(accumulate((few + (rank >= ranks - over) for rank in range(ranks)), initial=start))
    return [(a, b) for a, b in pairwise(ends) if a < b]


def _packs(sizes: Ints, ranks: int, limits: Limits) -> list[tuple[list[int], int]]:
    """Micro-batches of rows that are sorted by length, longest first, each with its cost: as few as hold them, and as alike as greed makes them.

    The next row goes to the cheapest micro-batch that has room. Where one finds none, there are too few.
    """
    room, places = limits.tokens or int(sizes.sum()), limits.rows or len(sizes)
    kept = np.minimum(sizes, room)  # a row longer than the limit fills a micro-batch
    count = _even_count(max(-(-int(kept.sum()) // room), -(-len(sizes) // places)), len(sizes), ranks)
    while (found := _packed(kept.tolist(), row_cost(sizes).tolist(), count, room, places)) is None:
        count = _even_count(count + 1, len(sizes), ranks)
    return found


def _packed(sizes: list[int], costs: list[int], count: int, room: int, places: int) -> list[tuple[list[int], int]] | None:
    """The rows in ``count`` micro-batches of at most ``room`` tokens and ``places`` rows each; None where that is not found."""
    heap = [(0, number, 0) for number in range(count)]  # cost, number, tokens
    packs: list[list[int]] = [[] for _ in range(count)]
    for row, (size, cost) in enumerate(zip(sizes, costs, strict=True)):
        full = []
        while heap and (heap[0][2] + size > room or len(packs[heap[0][1]]) >= places):
            full.append(heapq.heappop(heap))
        if not heap:
            return None
        done, number, tokens = heap[0]
        packs[number].append(row)
        heapq.heapreplace(heap, (done + cost, number, tokens + size))
        for one in full:
            heapq.heappush(heap, one)
    return [(packs[number], done) for done, number, _ in heap]


def _in_order(sizes: Ints, ranks: int, limits: Limits) -> list[Ints]:
    """Micro-batches of consecutive rows, as even in rows as the limits allow."""
    fewest = len(list(_consecutive(sizes, limits)))
    wanted = _even_count(fewest, len(sizes), ranks)
    low, high = 1, min(limits.rows or len(sizes), len(sizes))
    while low < high:
        middle = (low + high) // 2
        if len(list(_consecutive(sizes, limits._replace(rows=middle)))) <= wanted:
            high = middle
        else:
            low = middle + 1
    parts = list(_consecutive(sizes, limits._replace(rows=high)))
    while len(parts) < wanted:
        number = max(range(len(parts)), key=lambda i: len(parts[i]))
        parts[number : number + 1] = np.array_split(parts[number], 2)
    return parts


def _consecutive(sizes: Ints, limits: Limits) -> Iterator[Ints]:
    """Indices of consecutive rows, each micro-batch filled up before the next begins."""
    start, longest, most = 0, 0, limits.most_rows(sizes).tolist()
    for index, size in enumerate(sizes.tolist()):
        longest = index if index == start or size > sizes[longest] else longest
        if index > start and index - start >= most[longest]:
            yield np.arange(start, index)
            start = longest = index
    if start < len(sizes):
        yield np.arange(start, len(sizes))


def _even_count(fewest: int, rows: int, ranks: int) -> int:
    """Micro-batches to make: a multiple of the ranks, unless there are too few rows for that."""
    return min(-(-fewest // ranks) * ranks, rows)


def _deal_in_order(parts: Sequence[Ints], ranks: int) -> Division:
    rounds = -(-len(parts) // ranks)
    dealt = [[part.tolist() for part in parts[rank::ranks]] for rank in range(ranks)]
    return [[*own, *[[] for _ in range(rounds - len(own))]] for own in dealt]


def _deal_by_cost(rounds: Sequence[Sequence[tuple[Sequence[int], int]]], ranks: int) -> Division:
    """Of the micro-batches of a round, each with its cost, the costliest goes to the rank that has done least so far."""
    done = [0] * ranks
    division: Division = [[] for _ in range(ranks)]
    for parts in rounds:
        ordered = sorted(parts, key=lambda part: -part[1])
        for place, rank in enumerate(sorted(range(ranks), key=lambda rank: done[rank])):
            indices, cost = ordered[place] if place < len(ordered) else ((), 0)
            division[rank].append(list(indices))
            done[rank] += cost
    return division
