"""Optuna's tree-structured Parzen estimator, asked and told by number. Import it where it is used: it imports Optuna."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from tunefleet.tuning.goal import Goal
from tunefleet.tuning.space import Axis, Choices, Point


class Estimator:
    """A proposer. Values of a choice go by their place in the list, since Optuna takes plain ones only.

    A trial that was stopped early is told as pruned, at its step: those that came further are the better ones, and the estimator knows that. Trials that
    are still running count as bad ones, so that two at a time do not try the same place.
    """

    def __init__(self, goal: Goal, count: int, seed: int, startup: int, first: Sequence[Point], known: Sequence[tuple[Point, float]]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.goal, self.count = goal, count
        self._ranges = {key: distribution(axis) for key, axis in goal.space.items()}
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)
        self._study = optuna.create_study(direction="minimize" if goal.mode == "min" else "maximize", sampler=sampler, pruner=optuna.pruners.NopPruner())
        self._study.add_trials(
            [optuna.create_trial(params=self._encoded(point), distributions=self._ranges, value=value, state=TrialState.COMPLETE) for point, value in known]
        )
        for point in first:
            self._study.enqueue_trial(self._encoded(point))
        self._asked: dict[int, optuna.Trial] = {}

    def propose(self, number: int) -> Point | None:
        """The most promising of what the estimator draws."""
        if number >= self.count:
            return None
        self._asked[number] = self._study.ask(fixed_distributions=self._ranges)
        return {key: decoded(axis, self._asked[number].params[key]) for key, axis in self.goal.space.items()}

    def tell(self, number: int, step: int, value: float | None, *, whole: bool) -> None:
        """Learn how a configuration ended."""
        trial = self._asked[number]
        if value is None:
            self._study.tell(trial, state=TrialState.FAIL)
        elif whole:
            self._study.tell(trial, value)
        else:
            trial.report(value, step)
            self._study.tell(trial, state=TrialState.PRUNED)

    def _encoded(self, point: Mapping[str, Any]) -> dict[str, Any]:
        return {key: encoded(self.goal.space[key], value) for key, value in point.items()}


def distribution(axis: Axis) -> BaseDistribution:
    """A range as Optuna's."""
    if isinstance(axis, Choices):
        return CategoricalDistribution(list(range(len(axis.values))))
    if axis.step is None:
        return FloatDistribution(axis.low, axis.high, log=axis.log)
    low, high = axis.ends()
    if axis.whole:
        return IntDistribution(int(low), int(high), step=int(axis.step))
    return FloatDistribution(low, high, step=axis.step)


def encoded(axis: Axis, value: Any) -> Any:
    """A value as Optuna's parameter."""
    return next(i for i, known in enumerate(axis.values) if type(known) is type(value) and known == value) if isinstance(axis, Choices) else value


def decoded(axis: Axis, parameter: Any) -> Any:
    """Optuna's parameter as a value; of steps the exact one."""
    return axis.values[parameter] if isinstance(axis, Choices) else axis.nearest(parameter)
