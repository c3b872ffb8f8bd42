"""Grid search: every combination of the values, in order, the last key changing fastest, or shuffled."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeInt

from tunefleet.cluster.errors import RequestError, SettingsError
from tunefleet.cluster.settings import Settings
from tunefleet.tuning.goal import Goal, Proposer, TrialName
from tunefleet.tuning.proposers import Listed
from tunefleet.tuning.space import Numbers, grid

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler


class Grid:
    """Every point of the space."""

    moves: ClassVar[bool] = False

    class Config(Settings):
        """In which order: the space says the rest."""

        kind: Literal["grid"] = "grid"
        seed: NonNegativeInt | None = Field(
            default=None,
            description="shuffles the combinations; null takes them as the space is written, in which a stopper that compares trials saves less",
        )

    def __init__(self, config: Config) -> None:
        self.config = config

    def problems(self, goal: Goal) -> Iterator[RequestError]:
        """A range without an end of values."""
        for key, axis in goal.space.items():
            if isinstance(axis, Numbers) and axis.step is None and not goal.points.get(key):
                want = "points: how many numbers of it to take; or choice, int, quantised"
                fix = f"write {key}: {{{'loguniform' if axis.log else 'uniform'}: [{axis.low:g}, {axis.high:g}], points: 3}}"
                yield SettingsError(f"space.{key}: a grid wants a list of values", got="a range of real numbers", want=want, fix=fix)

    def lacks(self, goal: Goal) -> Iterator[RequestError]:
        """Nothing."""
        yield from ()

    def configurations(self, goal: Goal) -> int:
        """How many combinations there are."""
        return math.prod(axis.count() or goal.points.get(key) or 0 for key, axis in goal.space.items())

    def proposer(self, goal: Goal) -> Proposer:
        """All of them."""
        points = list(grid(goal.space, goal.points))
        if self.config.seed is not None:
            points = [points[i] for i in np.random.default_rng(self.config.seed).permutation(len(points))]
        return Listed(points.__getitem__, len(points))

    def scheduler(self, goal: Goal, name: TrialName) -> TrialScheduler | None:
        """None."""
        return None
