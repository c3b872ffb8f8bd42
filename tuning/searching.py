"""A study's searcher as Ray Tune wants it: configurations, each once for every seed; and how it is brought back to where a cut study stood.

Import it where it is used: it imports Ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.tune.search import Searcher

from tunefleet.cluster.errors import OutputError
from tunefleet.tuning.goal import STEP, Goal, Proposer, value_of
from tunefleet.tuning.lines import ENDED, FAILED, TrialLine
from tunefleet.tuning.space import Point, said
from tunefleet.tuning.study import SEED


@dataclass
class _Configuration:
    """One point, its trials, and how those ended that did: (last step, value)."""

    number: int
    point: Point
    seeds: list[int]
    ended: list[tuple[int, float | None]] = field(default_factory=list)


class StudySearcher(Searcher):  # type: ignore[misc]  # Ray has no types
    """Suggests {dotted key: value}, with ``training.seed`` among them where a study repeats. It keys trials by whatever ids it is given.

    ``on_trial_complete`` reads ``step`` and the metric of the last result; a configuration is told to its proposer when all its seeds have ended.
    """

    def __init__(self, proposer: Proposer, goal: Goal, seeds: tuple[int | None, ...] = (None,)) -> None:
        super().__init__(metric=goal.metric, mode=goal.mode)
        self.proposer, self.goal, self.seeds = proposer, goal, seeds
        self._configurations: list[_Configuration] = []
        self._of: dict[str, _Configuration] = {}
        self._left: list[int | None] = []
        self._ended: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        """The parameters of a new trial, or FINISHED."""
        if not self._left:
            point = self.proposer.propose(len(self._configurations))
            if point is None:
                return Searcher.FINISHED
            self._configurations.append(_Configuration(len(self._configurations), point, []))
            self._left = list(self.seeds)
        seed = self._left.pop(0)
        configuration = self._configurations[-1]
        self._of[trial_id] = configuration
        return configuration.point if seed is None else {**configuration.point, SEED: seed}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Nothing is learnt before a trial ends."""

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """A trial ended, or was stopped; ``result`` is its last. A second call for one trial changes nothing."""
        if trial_id in self._ended:
            return
        self._ended.add(trial_id)
        configuration = self._of[trial_id]
        value = None if error else value_of(result, self.goal.metric)
        configuration.ended.append((int((result or {}).get(STEP, 0)), value))
        if len(configuration.ended) == len(self.seeds):
            self._tell(configuration)

    def _tell(self, configuration: _Configuration) -> None:
        values = [value for _, value in configuration.ended if value is not None]
        step = min(step for step, _ in configuration.ended)
        whole = self.goal.last_step is None or step >= self.goal.last_step
        self.proposer.tell(configuration.number, step, sum(values) / len(values) if values else None, whole=whole)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: trials.jsonl holds all that a searcher needs."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see ``replay_searcher``."""


def replay_searcher(searcher: StudySearcher, lines: Iterable[TrialLine]) -> StudySearcher:
    """Bring a new searcher to where it stood after these lines of trials.jsonl: it suggests next what it would have suggested then.

    Raises OutputError where the lines are not what this study's searcher would have suggested.
    """
    known: dict[str, Mapping[str, Any]] = {}
    for line in lines:
        if line.id not in known:
            known[line.id] = line.parameters
            suggested = searcher.suggest(line.id)
            if suggested != dict(line.parameters):
                raise OutputError(
                    "trials.jsonl is not of this study",
                    got=f"{line.id} with {said(line.parameters)}; its searcher gives {suggested if isinstance(suggested, str) else said(suggested)}",
                    want="the study file that it began with: the same space, searcher and repeats",
                    fix="put the study file back, or take another output; searcher tpe can begin from this study by warm_start",
                )
        if line.status in ENDED:
            searcher.on_trial_complete(line.id, {STEP: line.step, **line.metrics}, error=line.status == FAILED)
    return searcher
