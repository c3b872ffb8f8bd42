"""How long each rank itself needs for a step, so that the slowest can be named. In a step all ranks take equally long: the others wait for the slowest."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tunefleet.cluster import heartbeat

FACTOR, LEAST_S = 2.0, 0.5
"""A rank is a straggler when it needs that many times what the median of the others does, and that many seconds a step more."""


class Effort:
    """This rank's own seconds: its main thread's time on a core, waits for rows, and times in which the process did not run at all (stopped, swapped, starved).

    Waiting for other ranks is none of it. A GPU's own time is not seen, as it runs behind; there, rows and stalls are what is told apart.
    """

    def __init__(self, *, on_cpu: bool) -> None:
        self._on_cpu = on_cpu
        self._begin()

    def add(self, step_s: float, waited_s: float, busy_s: float) -> None:
        """A step is over, in which rows were waited for so long and this thread was on a core so long."""
        self._steps += 1
        self._steps_s += step_s
        self._own_s += waited_s + (busy_s if self._on_cpu else 0.0)  # waiting for a GPU spins, and would count as work

    def take(self) -> tuple[float, float]:
        """Own seconds, and all seconds, of a step since this was last asked."""
        steps = max(1, self._steps)
        own_s, step_s = (self._own_s + heartbeat.stalled_s() - self._stalled_s) / steps, self._steps_s / steps
        self._begin()
        return own_s, step_s

    def _begin(self) -> None:
        self._steps, self._steps_s, self._own_s, self._stalled_s = 0, 0.0, 0.0, heartbeat.stalled_s()


@dataclass(frozen=True)
class Straggler:
    """A rank that holds up the others, and by how much a step."""

    rank: int
    seconds: float
    others: float


def slowest(seconds: Sequence[float]) -> int:
    """The rank that needed longest; the first of several."""
    return max(range(len(seconds)), key=lambda rank: seconds[rank])


def waiting(seconds: Sequence[float], step_s: float) -> float:
    """The share of a step in which even the slowest rank only waited: for the network between them. ``seconds``: own ones, by rank."""
    return max(0.0, 1 - max(seconds) / step_s) if len(seconds) > 1 and step_s > 0 else 0.0


def straggler(seconds: Sequence[float]) -> Straggler | None:
    """The slowest rank where it is far slower than the others. ``seconds``: own ones, by rank."""
    if len(seconds) < 2:
        return None
    rank = slowest(seconds)
    others = statistics.median(value for other, value in enumerate(seconds) if other != rank)
    late = seconds[rank] > FACTOR * others and seconds[rank] - others > LEAST_S
    return Straggler(rank, seconds[rank], others) if late else None
