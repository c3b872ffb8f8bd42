"""Proposers that need no history: a configuration is a function of its number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tunefleet.tuning.space import Point


@dataclass(frozen=True)
class Listed:
    """``count`` configurations, whatever comes of them."""

    point: Callable[[int], Point]
    count: int

    def propose(self, number: int) -> Point | None:
        """The point of this number."""
        return self.point(number) if number < self.count else None

    def tell(self, number: int, step: int, value: float | None, *, whole: bool) -> None:
        """Nothing is learnt."""
