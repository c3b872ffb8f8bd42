"""The median rule: a trial whose best is worse than the median of the others' running means is stopped. Source: Golovin et al. 2017, Google Vizier."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from tunefleet.cluster.errors import RequestError
from tunefleet.cluster.settings import Settings
from tunefleet.tuning.goal import STEP, Goal
from tunefleet.tuning.rungs import grace_of, grace_problems

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler


class Median:
    """Judges at every evaluation from grace_steps on, by the trials that came as far."""

    class Config(Settings):
        """When it begins to judge."""

        kind: Literal["median"] = "median"
        grace_steps: PositiveInt | None = Field(
            default=None, description="optimizer steps before a trial may be stopped; values before them count for nothing; null: evaluation.every_steps"
        )
        others: PositiveInt = Field(default=3, description="other trials that must have come as far before one is stopped")

    def __init__(self, config: Config) -> None:
        self.config = config

    def problems(self, goal: Goal) -> Iterator[RequestError]:
        """A grace that no evaluation ends, or that never ends."""
        grace = grace_of(self.config.grace_steps, goal)
        yield from grace_problems(grace, [grace] if grace else [], goal)

    def scheduler(self, goal: Goal) -> TrialScheduler:
        """Ray Tune's. It would pause trials where it has too few to compare with; a slice without end forbids it, since a pause costs a start."""
        from ray.tune.schedulers import MedianStoppingRule

        return MedianStoppingRule(
            time_attr=STEP,
            metric=goal.metric,
            mode=goal.mode,
            grace_period=grace_of(self.config.grace_steps, goal) or 1,
            min_samples_required=self.config.others,
            min_time_slice=math.inf,
        )

    def why(self) -> str:
        """What a stopped trial was."""
        return "its best is worse than the median of the other trials' means up to here"
