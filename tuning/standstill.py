"""A scheduler that stops a trial which stands still. Import it where it is used: it imports Ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tunefleet.tuning.goal import STEP, Goal


class Standstill(FIFOScheduler):  # type: ignore[misc]  # Ray has no types
    """Stops a trial after ``patience`` evaluations in a row, from step ``grace`` on, that beat its best before by no more than ``least``."""

    def __init__(self, goal: Goal, grace: int, patience: int, least: float) -> None:
        super().__init__()
        self.goal, self.grace, self.patience, self.least = goal, grace, patience, least
        self._best: dict[str, float] = {}
        self._waited: dict[str, int] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Whether the trial goes on."""
        name, value = trial.trial_id, float(result[self.goal.metric])
        best = self._best.get(name)
        margin = self.least if self.goal.mode == "min" else -self.least
        if best is None or self.goal.better(value + margin, best):
            self._best[name], self._waited[name] = value, 0
        elif result[STEP] >= self.grace:
            self._waited[name] = self._waited.get(name, 0) + 1
        return str(TrialScheduler.STOP if self._waited.get(name, 0) >= self.patience else TrialScheduler.CONTINUE)
