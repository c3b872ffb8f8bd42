"""Ray Tune's population based training on our space. Import it where it is used: it imports Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler

from tunefleet.tuning.goal import STEP, Goal, TrialName, value_of
from tunefleet.tuning.space import Axis, Numbers, Point, Space

WORST = 1e30
"""Stands for a metric that is not finite: its trial is among the worst, and goes on from a better one."""
LISTED = 64
"""Steps of a range that are moved along one by one; a longer one is moved by factors."""


class Population(PopulationBasedTraining):  # type: ignore[misc]  # Ray has no types
    """Perturbed parameters stay in the space, a diverged trial counts as the worst, and a trial that goes on after a resume keeps its rhythm.

    ``begun``: the last step of each trial at the resume, by the study's names; ``name`` gives the study's name of Tune's trial. ``together``: there is room for
    all trials at once, so none is paused to make room for one that waits; a pause costs a start. ``ending``: whether no trial is to go on: then those that
    wait for their turn end as they are.
    """

    def __init__(
        self,
        goal: Goal,
        seed: int,
        *,
        interval: int,
        quantile: float,
        resample: float,
        factors: tuple[float, float],
        name: TrialName,
    ) -> None:
        super().__init__(
            time_attr=STEP,
            metric=goal.metric,
            mode=goal.mode,
            perturbation_interval=interval,
            hyperparam_mutations=mutations(goal.space, seed),
            quantile_fraction=quantile,
            resample_probability=resample,
            perturbation_factors=factors,
            custom_explore_fn=partial(kept_within, goal.space),
            log_config=False,
            require_attrs=False,
        )
        self.goal, self.name, self.interval = goal, name, interval
        self.begun: dict[str, int] = {}
        self.together = False
        self.ending: Callable[[], bool] = lambda: False

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Begin to follow a trial, at its next look after a resume."""
        super().on_trial_add(tune_controller, trial)
        step = self.begun.get(self.name(trial), 0)
        self._trial_state[trial].last_perturbation_time = step - step % self.interval

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Look at a trial where it is time."""
        told = dict(result)
        if self.goal.metric in told and value_of(told, self.goal.metric) is None:
            told[self.goal.metric] = WORST if self.goal.mode == "min" else -WORST
        decision = str(super().on_trial_result(tune_controller, trial, told))
        return str(TrialScheduler.CONTINUE) if decision == TrialScheduler.PAUSE and self.together else decision

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The next of those that wait, at every look of Tune's."""
        if not self.ending():
            return super().choose_trial_to_run(tune_controller)
        for trial in [trial for trial in tune_controller.get_trials() if trial.status in (Trial.PENDING, Trial.PAUSED)]:
            tune_controller.stop_trial(trial)
        return None


def mutations(space: Space, seed: int) -> dict[str, Any]:
    """For each key the list that it is moved along, or a function that draws it anew."""
    generator = np.random.default_rng([seed, 0, 1])  # not [seed, 1]: that gave the point of trial 1, which may be the one to get away from
    return {key: listed(axis) or partial(axis.draw, generator) for key, axis in space.items()}


def listed(axis: Axis) -> list[Any] | None:
    """The values that a parameter is moved along one by one."""
    if isinstance(axis, Numbers) and (axis.count() or LISTED + 1) > LISTED:
        return None
    return list(axis.all() or ())


def kept_within(space: Space, config: Point) -> Point:
    """The configuration with each parameter moved to the nearest value of its range; other keys stay."""
    return {key: space[key].nearest(value) if key in space else value for key, value in config.items()}
