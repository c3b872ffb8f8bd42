"""A study's stopper as Ray Tune wants it, asked with the study's own names of trials; and how it is brought back to where a cut study stood.

Import it where it is used: it imports Ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tunefleet.tuning.goal import STEP, Goal, StopperKind, TrialName, value_of
from tunefleet.tuning.lines import TrialLine
from tunefleet.tuning.population import Population

S = TypeVar("S", bound=TrialScheduler)


@dataclass(frozen=True)
class Subject:
    """All that a scheduler may know of a trial: equal for the trial that began and the one that goes on from its checkpoint."""

    trial_id: str


class StudyScheduler(FIFOScheduler):  # type: ignore[misc]  # Ray has no types
    """Asks a scheduler of Ray Tune at each evaluation whether a trial goes on, and keeps why it does not.

    A trial that reports a step again, since it went on from an earlier checkpoint, is not judged again. One whose metric is not finite is
    stopped whatever the stopper; one that reports its last step ends by itself. ``name`` gives the study's name of Tune's trial.
    """

    def __init__(self, kind: StopperKind, goal: Goal, name: TrialName = lambda trial: str(trial.trial_id)) -> None:
        super().__init__()
        self.kind, self.goal, self.name = kind, goal, name
        self.inner: TrialScheduler = kind.scheduler(goal)
        self.reasons: dict[str, str] = {}
        self._seen: dict[str, int] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Tune's question at each report; those without a step are not of evaluations, those without the metric of one in which it could not be computed."""
        if STEP not in result or self.goal.metric not in result:
            return str(TrialScheduler.CONTINUE)
        stop = self.judge(self.name(trial), int(result[STEP]), value_of(result, self.goal.metric))
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def judge(self, trial: str, step: int, value: float | None) -> str | None:
        """Why the trial of this name is to be stopped after an evaluation, or None."""
        subject = Subject(trial)
        if trial not in self._seen:
            self.inner.on_trial_add(None, subject)
        if step <= self._seen.get(trial, 0):
            return None
        self._seen[trial] = step
        if value is None:
            return self._stopped(trial, step, f"{self.goal.metric} is not finite")
        action = self.inner.on_trial_result(None, subject, {STEP: step, self.goal.metric: value})
        if action == TrialScheduler.CONTINUE or (self.goal.last_step is not None and step >= self.goal.last_step):
            return None
        return self._stopped(trial, step, self.kind.why())

    def _stopped(self, trial: str, step: int, why: str) -> str:
        self.reasons[trial] = f"stopped at step {step}: {why}"
        return self.reasons[trial]


def replay_scheduler(scheduler: S, lines: Iterable[TrialLine]) -> S:
    """Bring a new scheduler to where it stood after these lines of trials.jsonl: it judges next as it would have judged then.

    A population's scores come back with its trials' next evaluations; only their rhythm is kept.
    """
    for line in lines:
        if isinstance(scheduler, StudyScheduler) and line.step and scheduler.goal.metric in line.metrics:
            scheduler.judge(line.id, line.step, value_of(line.metrics, scheduler.goal.metric))
        elif isinstance(scheduler, Population):
            scheduler.begun[line.id] = line.step
    return scheduler
