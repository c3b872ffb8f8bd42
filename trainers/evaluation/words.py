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
    """Precision, recall and F1 of what is counted on both sides; two empty sides agree."""
    shared, said, wanted = (answer & reference).total(), answer.total(), reference.total()
    if not said and not wanted:
        return {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    return {"precision": shared / said if said else 0.0, "recall": shared / wanted if wanted else 0.0, "f1": f1(shared, said, wanted)}


def f1(shared: int, said: int, wanted: int) -> float:
    """The harmonic mean of precision and recall."""
    return 2 * shared / (said + wanted) if said + wanted else 1.0


def common(left: Sequence[T], right: Sequence[T]) -> int:
    """The length of the longest common subsequence."""
    before = [0] * (len(right) + 1)
    for item in left:
        now = [0]
        for i, other in enumerate(right):
            now.append(before[i] + 1 if item == other else max(before[i + 1], now[i]))
        before = now
    return before[-1]
