"""Tree-structured Parzen estimator: what did well is sampled more. Source: Bergstra et al. 2011, NeurIPS 24; the sampler is Optuna's."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from tunefleet.cluster.errors import RequestError, SettingsError, TunefleetError
from tunefleet.cluster.settings import Settings
from tunefleet.tuning.goal import Goal, Proposer, TrialName
from tunefleet.tuning.space import said

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler


class Tpe:
    """Random points at first, then points that are likely to be good by the trials that ended, those of earlier studies among them."""

    moves: ClassVar[bool] = False

    class Config(Settings):
        """How many, and what is known before."""

        kind: Literal["tpe"] = "tpe"
        trials: PositiveInt = Field(default=16, description="configurations that are tried")
        seed: NonNegativeInt = Field(default=0, description="which points are drawn")
        startup_trials: NonNegativeInt = Field(default=8, description="configurations that are drawn at random before the estimator begins")
        first: list[dict[str, Any]] = Field(
            default_factory=list, description="points to try first: [{training.learning_rate: 1e-3}]; keys that are left out are drawn"
        )
        warm_start: list[str] = Field(
            default_factory=list,
            description="outputs of earlier studies over the same keys and metric: their finished trials are known from the start",
        )

    def __init__(self, config: Config) -> None:
        self.config = config

    def problems(self, goal: Goal) -> Iterator[RequestError]:
        """A first point lies outside the space."""
        for i, point in enumerate(self.config.first):
            wrong = [key for key, value in point.items() if key not in goal.space or not goal.space[key].holds(value)]
            if wrong:
                want = f"keys and values of the space: {', '.join(goal.space)}"
                yield SettingsError(f"searcher.first.{i}: outside the space", got=said({key: point[key] for key in wrong}), want=want, fix="mend it")

    def lacks(self, goal: Goal) -> Iterator[RequestError]:
        """Optuna; an earlier study, or one that tells something of the space."""
        if find_spec("optuna") is None:
            want = "the package optuna beside the driver"
            yield SettingsError("searcher: optuna is not installed", got="tpe", want=want, fix="pip install 'tunefleet[search]', or take random")
        for i, address in enumerate(self.config.warm_start):
            yield from self._unfit(f"searcher.warm_start.{i}", address, goal)

    def _unfit(self, key: str, address: str, goal: Goal) -> Iterator[RequestError]:
        from tunefleet.tuning.earlier import known_trials

        want = f"the output of a study by {goal.metric} ({goal.mode}), with finished trials over {', '.join(goal.space)}"
        try:
            if not known_trials(address, goal):
                yield SettingsError(f"{key}: tells nothing of this space", got=address, want=want, fix="take it out of searcher.warm_start")
        except TunefleetError as error:
            yield SettingsError(f"{key}: {error.what}", got=error.got or address, want=want, fix="correct the path")

    def configurations(self, goal: Goal) -> int:
        """How many are tried."""
        return self.config.trials

    def proposer(self, goal: Goal) -> Proposer:
        """Optuna's sampler, told what earlier studies found."""
        from tunefleet.tuning.earlier import known_trials
        from tunefleet.tuning.estimator import Estimator

        known = [trial for address in self.config.warm_start for trial in known_trials(address, goal)]
        return Estimator(goal, self.config.trials, self.config.seed, self.config.startup_trials, self.config.first, known)

    def scheduler(self, goal: Goal, name: TrialName) -> TrialScheduler | None:
        """None."""
        return None
