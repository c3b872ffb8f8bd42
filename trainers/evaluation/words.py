"""Words of two texts, and how far they agree: shared by the metrics that count words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def words(text: str) -> list[str]:
    """Runs of letters and digits, without capitals."""
    return re.findall(r"\w+", text.casefold())


def overlap(answer: Counter[T], reference: Counter[T]) -> Mapping[str, float]:
    """Precision, recall and F1 of what is counted on both sides; 0 where one counts nothing."""
    shared, said, wanted = (answer & reference).total(), answer.total(), reference.total()
    return {"precision": shared / said if said else 0.0, "recall": shared / wanted if wanted else 0.0, "f1": f1(shared, said, wanted)}


def f1(shared: int, said: int, wanted: int) -> float:
    """The harmonic mean of precision and recall; 0 of nothing."""
    return 2 * shared / (said + wanted) if said + wanted else 0.0


def common(left: Sequence[T], right: Sequence[T]) -> int:
    """The length of the longest common subsequence, a row of the usual table as the bits of one number.

    Source: Hyyro 2004, "Bit-Parallel LCS-length Computation Revisited".
    """
    places: dict[T, int] = {}
    for i, item in enumerate(right):
        places[item] = places.get(item, 0) | 1 << i
    every = row = (1 << len(right)) - 1
    for item in left:
        met = row & places.get(item, 0)
        row = (row + met | row - met) & every
    return len(right) - row.bit_count()
