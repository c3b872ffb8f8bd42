"""A study's searcher: configurations, each once for every seed; and how it is brought back to where a cut study stood. It knows no Ray."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tunefleet.cluster.errors import OutputError
from tunefleet.tuning.goal import Goal, Proposer, value_of
from tunefleet.tuning.lines import FAILED, FINISHED, TrialLine
from tunefleet.tuning.space import Point, said
from tunefleet.tuning.study import SEED, Study
from tunefleet.tuning.studycheck import make_goal


@dataclass
class _Configuration:
    """One point, and the last lines of those of its trials that ended."""

    number: int
    point: Point
    ended: list[TrialLine] = field(default_factory=list)


class StudySearcher:
    """Suggests {dotted key: value}, with ``training.seed`` among them where a study repeats. It keys trials by whatever ids it is given.

    A configuration is told to its proposer when all its seeds have ended: the mean of their values, or none where one of them has none.
    """

    def __init__(self, proposer: Proposer, goal: Goal, seeds: tuple[int | None, ...] = (None,)) -> None:
        self.proposer, self.goal, self.seeds = proposer, goal, seeds
        self._count = 0
        self._newest: _Configuration | None = None
        self._of: dict[str, _Configuration] = {}
        self._left: list[int | None] = []
        self._ended: set[str] = set()

    def suggest(self, trial_id: str) -> Point | None:
        """The parameters of a new trial; None when there are no more."""
        if not self._left:
            point = self.proposer.propose(self._count)
            if point is None:
                return None
            self._newest = _Configuration(self._count, point)
            self._count += 1
            self._left = list(self.seeds)
        assert self._newest is not None
        seed = self._left.pop(0)
        self._of[trial_id] = self._newest
        return self._newest.point if seed is None else {**self._newest.point, SEED: seed}

    def ended(self, line: TrialLine) -> None:
        """A trial ended, or was stopped, with this line. A second end of one trial changes nothing."""
        if line.id in self._ended:
            return
        self._ended.add(line.id)
        configuration = self._of[line.id]
        configuration.ended.append(line)
        if len(configuration.ended) == len(self.seeds):
            self._tell(configuration)

    def _tell(self, configuration: _Configuration) -> None:
        lines = configuration.ended
        values = [value for line in lines if line.status != FAILED and (value := value_of(line.metrics, self.goal.metric)) is not None]
        mean = sum(values) / len(values) if len(values) == len(lines) else None
        whole = all(line.status == FINISHED for line in lines)
        self.proposer.tell(configuration.number, min(line.step for line in lines), mean, whole=whole)


def make_searcher(study: Study) -> StudySearcher:
    """A searcher that has not been asked yet; ``replay_searcher`` brings it to where a cut study stood."""
    goal = make_goal(study)
    return StudySearcher(study.searcher().proposer(goal), goal, study.seeds())


def replay_searcher(searcher: StudySearcher, lines: Iterable[TrialLine]) -> StudySearcher:
    """Bring a new searcher to where it stood after these lines of trials.jsonl: it suggests next what it would have suggested then.

    Raises OutputError where the lines are not what this study's searcher would have suggested.
    """
    known: set[str] = set()
    for line in lines:
        if line.id not in known:
            known.add(line.id)
            suggested = searcher.suggest(line.id)
            if suggested != dict(line.parameters):
                raise OutputError(
                    "trials.jsonl is not of this study",
                    got=f"{line.id} with {said(line.parameters)}; its searcher gives {'no more' if suggested is None else said(suggested)}",
                    want="the study file that it began with: the same space, searcher and repeats",
                    fix="put the study file back, or take another output; searcher tpe can begin from this study by warm_start",
                )
        if not line.open:
            searcher.ended(line)
    return searcher
