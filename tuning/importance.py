"""How much of the spread of values goes with each parameter alone. Pure.

The measure is epsilon squared of a one-way analysis of variance (Kelley 1935): the share of the variance between groups of equal values, less what chance
alone would give. A range of numbers is cut into groups of equally many trials. Parameters that only matter together show little.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunefleet.tuning.goal import value_of
from tunefleet.tuning.lines import TrialLine
from tunefleet.tuning.space import Point

GROUPS = 4
LEAST = 6
"""Trials below which nothing is said."""


def common_step(lines: Sequence[TrialLine], metric: str) -> int | None:
    """The last step at which every trial that was evaluated at all has a value: later ones are missing just where a stopper thought little of a trial."""
    steps: dict[str, set[int]] = {}
    for line in lines:
        if line.step and value_of(line.metrics, metric) is not None:
            steps.setdefault(line.id, set()).add(line.step)
    return max(set.intersection(*steps.values()), default=None) if steps else None


def importance(points: Sequence[Point], values: Sequence[float]) -> Mapping[str, float]:
    """The share, 0 to 1, of each parameter that takes more than one value; empty where the trials are too few or all alike."""
    value_N = np.asarray(values, dtype=float)
    if len(value_N) < LEAST or not np.ptp(value_N):
        return {}
    found = {}
    for key in points[0]:
        groups = _groups([point[key] for point in points])
        if len(set(groups)) > 1:
            found[key] = _epsilon_squared(np.asarray(groups), value_N)
    return found


def _groups(values: Sequence[Any]) -> list[int]:
    """The group of each value, equal ones always together: of few different ones each a group, of numbers that are many neighbours."""
    distinct = sorted(set(map(repr, values)))
    if len(distinct) <= GROUPS or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return [distinct.index(repr(value)) for value in values]
    ranked = sorted(values)
    middles = [(bisect_left(ranked, value) + bisect_right(ranked, value)) / 2 for value in values]  # of the places that equal values share
    return [int(middle * GROUPS / len(values)) for middle in middles]


def _epsilon_squared(group_N: np.ndarray[Any, Any], value_N: np.ndarray[Any, Any]) -> float:
    whole = float(((value_N - value_N.mean()) ** 2).sum())
    parts = [value_N[group_N == group] for group in np.unique(group_N)]
    within = float(sum(((part - part.mean()) ** 2).sum() for part in parts))
    free = len(value_N) - len(parts)
    if free <= 0:
        return 0.0
    return max(0.0, (whole - within - (len(parts) - 1) * within / free) / whole)
