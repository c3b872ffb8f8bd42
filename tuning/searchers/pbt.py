"""Population based training: the worst trials go on from the best, with parameters near theirs. Source: Jaderberg et al. 2017, arXiv:1711.09846."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from tunefleet.cluster.errors import RequestError, SettingsError
from tunefleet.cluster.settings import Settings
from tunefleet.tuning.goal import Goal, Proposer, TrialName
from tunefleet.tuning.proposers import Listed
from tunefleet.tuning.rungs import alignment, multiples
from tunefleet.tuning.space import drawn

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler


class Pbt:
    """A population that learns a schedule of the parameters in one pass. Which trial meets which depends on their timing, so no two studies are equal."""

    moves: ClassVar[bool] = True

    class Config(Settings):
        """The population, and how it changes."""

        kind: Literal["pbt"] = "pbt"
        trials: int = Field(default=8, ge=2, description="the population, drawn at random from the space; all of it is trained in turns")
        seed: NonNegativeInt = Field(default=0, description="which points the population begins with")
        interval_steps: PositiveInt | None = Field(
            default=None, description="optimizer steps between two looks at a trial, evaluated and saved at each; null: the fewest at which it is both"
        )
        quantile: float = Field(default=0.25, gt=0, le=0.5, description="share of the population that goes on from as many of the best")
        resample: float = Field(default=0.25, ge=0, le=1, description="how often a parameter is drawn anew instead of moved from that of the better trial")
        factors: tuple[float, float] = Field(default=(1.25, 0.8), description="what a number is multiplied by, one or the other; a listed value moves by one")

    def __init__(self, config: Config) -> None:
        self.config = config

    def _interval(self, goal: Goal) -> int | None:
        if self.config.interval_steps is None and goal.every_steps and goal.checkpoint_steps:
            return math.lcm(goal.every_steps, goal.checkpoint_steps)
        return self.config.interval_steps

    def problems(self, goal: Goal) -> Iterator[RequestError]:
        """Looks at which nothing is evaluated or saved; factors that move nothing."""
        key, every = "searcher.interval_steps", self._interval(goal)
        if every is None:
            got = f"evaluation.every_steps: {goal.every_steps}, checkpoint.every_steps: {goal.checkpoint_steps}"
            fix = "set both in the run file"
            yield SettingsError(f"{key}: no look at a trial that goes on", got=got, want="steps at which trials are evaluated and saved", fix=fix)
            return
        if goal.last_step is not None and every >= goal.last_step:
            want = f"below {goal.last_step}, the last step of a trial"
            yield SettingsError(f"{key}: no trial would ever change", got=str(every), want=want, fix="lower it")
            return
        yield from alignment(key, multiples(every, goal.last_step), goal)
        if goal.checkpoint_steps is None or every % goal.checkpoint_steps:
            got = f"{every}, with checkpoint.every_steps: {goal.checkpoint_steps}"
            fix = f"set checkpoint.every_steps of the run file to {every}"
            yield SettingsError(f"{key}: steps at which nothing is saved", got=got, want="a multiple of checkpoint.every_steps", fix=fix)
        if not all(factor > 0 for factor in self.config.factors) or 1.0 in self.config.factors:
            got = f"{list(self.config.factors)}"
            yield SettingsError("searcher.factors: move nothing", got=got, want="two numbers above 0, neither of them 1", fix="write [1.25, 0.8]")

    def lacks(self, goal: Goal) -> Iterator[RequestError]:
        """Nothing."""
        yield from ()

    def configurations(self, goal: Goal) -> int:
        """The population."""
        return self.config.trials

    def proposer(self, goal: Goal) -> Proposer:
        """The points that the population begins with."""
        return Listed(partial(drawn, goal.space, self.config.seed), self.config.trials)

    def scheduler(self, goal: Goal, name: TrialName) -> TrialScheduler | None:
        """Ray Tune's, kept within the space."""
        from tunefleet.tuning.population import Population

        of = self.config
        return Population(goal, of.seed, interval=self._interval(goal) or 1, quantile=of.quantile, resample=of.resample, factors=of.factors, name=name)
