"""trials.jsonl: a line a change of a trial, in the order in which things happened; the last line of a trial counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tunefleet.cluster.metrics import read_lines
from tunefleet.cluster.storage import Storage
from tunefleet.trainers.handover import Pointer

TRIALS = "trials.jsonl"
RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"
ENDED = frozenset({FINISHED, STOPPED, FAILED})


@dataclass(frozen=True)
class TrialLine:
    """``parameters``: {dotted key: value}, as the searcher gave them, and as PBT changed them. ``metrics``: of the evaluation at ``step``.

    ``compute``: {steps, worker_seconds} that the trial has cost so far. ``parent``: the trial (id) and the checkpoint (see
    ``Pointer``) that PBT went on from. ``cut``: stopped by the budget, and by nothing else: it goes on where that is raised.
    A line is written when a trial begins, at each of its evaluations, at each change of its parameters, and when it ends.
    """

    id: str
    number: int
    parameters: Mapping[str, Any]
    status: str
    seed: int = 0
    step: int = 0
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    compute: Mapping[str, float] = field(default_factory=dict)
    output: str = ""
    why: str = ""
    parent: Mapping[str, Any] | None = None
    cut: bool = False
    time: float = 0.0

    @property
    def open(self) -> bool:
        """Whether the trial has not come to an end of its own: a resume goes on with it."""
        return self.status == RUNNING or self.cut

    def pointer(self) -> Pointer | None:
        """The checkpoint of another trial that this one last went on from."""
        names = Pointer.__dataclass_fields__
        return Pointer(**{name: self.parent[name] for name in names}) if self.parent and names.keys() <= self.parent.keys() else None

    def to_json(self) -> dict[str, Any]:
        """The line's object."""
        return asdict(self)


def read_trials(storage: Storage) -> list[TrialLine]:
    """Every line of a study's trials; keys of later versions are left out."""
    known = set(TrialLine.__dataclass_fields__)
    return [TrialLine(**{key: value for key, value in record.items() if key in known}) for record in read_lines(storage, TRIALS)]


def last_lines(lines: Iterable[TrialLine]) -> dict[str, TrialLine]:
    """The line of each trial that counts, by id, in the order in which the trials began."""
    found: dict[str, TrialLine] = {}
    for line in lines:
        found[line.id] = line
    return found


def never_less(known: Mapping[str, float], before: Mapping[str, float], since: Mapping[str, float]) -> dict[str, float]:
    """What a trial has cost: before its last start and since, and never less than was known."""
    return {**known, **{key: max(known.get(key, 0), before.get(key, 0) + value) for key, value in since.items()}}
