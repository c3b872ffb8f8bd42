"""Plateau: a trial whose metric gets no better for a while is stopped, whatever the others do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from tunefleet.cluster.errors import RequestError
from tunefleet.cluster.settings import Settings
from tunefleet.tuning.goal import Goal
from tunefleet.tuning.rungs import grace_of, grace_problems

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler


class Plateau:
    """Counts evaluations in a row without a better value; it begins to count at grace_steps."""

    class Config(Settings):
        """How long a trial may stand still."""

        kind: Literal["plateau"] = "plateau"
        grace_steps: PositiveInt | None = Field(
            default=None, description="optimizer steps before evaluations without a better value count; null: evaluation.every_steps"
        )
        patience: PositiveInt = Field(default=3, description="evaluations in a row without a better value after which a trial is stopped")
        least: NonNegativeFloat = Field(default=0.0, description="by how much a value must be better than the best before it to count as better")

    def __init__(self, config: Config) -> None:
        self.config = config

    def problems(self, goal: Goal) -> Iterator[RequestError]:
        """A grace that no evaluation ends, or that never ends."""
        grace = grace_of(self.config.grace_steps, goal)
        yield from grace_problems(grace, [grace] if grace else [], goal)

    def scheduler(self, goal: Goal) -> TrialScheduler:
        """Ours: Ray Tune's plateau stopper goes by a standard deviation, which a metric that gets worse has too."""
        from tunefleet.tuning.standstill import Standstill

        return Standstill(goal, grace_of(self.config.grace_steps, goal) or 1, self.config.patience, self.config.least)

    def why(self) -> str:
        """What a stopped trial did."""
        return f"no better value in {self.config.patience} evaluations"
