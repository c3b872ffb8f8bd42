"""Random search: points of the space, drawn evenly. Source: Bergstra and Bengio 2012, JMLR 13."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from tunefleet.cluster.errors import RequestError
from tunefleet.cluster.settings import Settings
from tunefleet.tuning.goal import Goal, Proposer, TrialName
from tunefleet.tuning.proposers import Listed
from tunefleet.tuning.space import drawn

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler


class Random:
    """Points that know nothing of each other."""

    moves: ClassVar[bool] = False

    class Config(Settings):
        """How many."""

        kind: Literal["random"] = "random"
        trials: PositiveInt = Field(default=16, description="configurations that are tried")
        seed: NonNegativeInt = Field(default=0, description="which points are drawn")

    def __init__(self, config: Config) -> None:
        self.config = config

    def problems(self, goal: Goal) -> Iterator[RequestError]:
        """None."""
        yield from ()

    def lacks(self, goal: Goal) -> Iterator[RequestError]:
        """Nothing."""
        yield from ()

    def configurations(self, goal: Goal) -> int:
        """How many are tried."""
        return self.config.trials

    def proposer(self, goal: Goal) -> Proposer:
        """The points by number."""
        return Listed(partial(drawn, goal.space, self.config.seed), self.config.trials)

    def scheduler(self, goal: Goal, name: TrialName) -> TrialScheduler | None:
        """None."""
        return None
