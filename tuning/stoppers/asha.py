"""Asynchronous successive halving: at each rung only the best share goes on. Source: Li et al. 2018, arXiv:1810.05934; the scheduler is Ray Tune's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from tunefleet.cluster.errors import RequestError
from tunefleet.cluster.settings import Settings
from tunefleet.tuning.goal import STEP, Goal
from tunefleet.tuning.rungs import grace_of, grace_problems, rungs

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

ENDLESS = 10**9


class Asha:
    """Rungs at grace_steps, grace_steps x reduction_factor, and so on; of the trials that came to a rung the best 1/reduction_factor go on."""

    class Config(Settings):
        """Where the rungs are."""

        kind: Literal["asha"] = "asha"
        grace_steps: PositiveInt | None = Field(
            default=None, description="optimizer steps before the first trial may be stopped: the first rung; null: evaluation.every_steps"
        )
        reduction_factor: float = Field(default=3, gt=1, description="each rung is this many times further, and 1 of so many trials goes on from it")

    def __init__(self, config: Config) -> None:
        self.config = config

    def problems(self, goal: Goal) -> Iterator[RequestError]:
        """Rungs that no evaluation meets, or that come too late to stop anything."""
        grace = grace_of(self.config.grace_steps, goal)
        yield from grace_problems(grace, rungs(grace, self.config.reduction_factor, goal.last_step) if grace else [], goal)

    def scheduler(self, goal: Goal) -> TrialScheduler:
        """Ray Tune's."""
        from ray.tune.schedulers import AsyncHyperBandScheduler

        return AsyncHyperBandScheduler(
            time_attr=STEP,
            metric=goal.metric,
            mode=goal.mode,
            max_t=goal.last_step or ENDLESS,
            grace_period=grace_of(self.config.grace_steps, goal) or 1,
            reduction_factor=self.config.reduction_factor,
            stop_last_trials=False,
        )

    def why(self) -> str:
        """What a stopped trial was not."""
        return f"not among the best 1/{self.config.reduction_factor:g} of the trials that had come this far"
