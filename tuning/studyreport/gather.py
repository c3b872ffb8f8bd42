"""What there is of a study, read from its output: its file, its trials, how it stands, its best run file. Parts may be missing while it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from tunefleet.cluster.errors import OutputError
from tunefleet.cluster.lease import holder
from tunefleet.cluster.storage import Storage
from tunefleet.trainers.ledger import read_events
from tunefleet.tuning.goal import Mode
from tunefleet.tuning.lines import RUNNING, TrialLine, last_lines, read_trials
from tunefleet.tuning.space import Space
from tunefleet.tuning.study import BEST, LEASE, STUDY, Study, StudyFile, read_study
from tunefleet.tuning.studycheck import points_to_check


@dataclass(frozen=True)
class Gathered:
    """A study as a report sees it. ``best_file``: the text of best.yaml, or empty. ``last_step``: of the longest trial, where the run file says.

    ``held``: a process does the study now.
    """

    address: str
    now: float
    file: StudyFile
    space: Space
    last_step: int | None
    total: int | None
    lines: Sequence[TrialLine]
    trials: Mapping[str, TrialLine]
    events: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    best_file: str = ""
    held: bool = False

    @property
    def metric(self) -> str:
        """What trials are compared by."""
        return self.file.metric

    @property
    def mode(self) -> Mode:
        """Which way it is better."""
        return self.file.mode

    def state(self) -> Literal["done", "stopped", "going", "silent"]:
        """Whether the study is over, was stopped, goes on, or nobody does it any more although it never said that it ended."""
        ends = [record for record in self.events if record.get("event") in ("started", "stopped")]
        if ends and ends[-1]["event"] == "stopped":
            return "done" if ends[-1].get("why", "done") == "done" else "stopped"
        if not ends and self.trials and not any(line.status == RUNNING for line in self.trials.values()) and len(self.trials) == self.total:
            return "done"
        return "going" if self.held else "silent"

    def why(self) -> str:
        """What stopped it."""
        ends = [record for record in self.events if record.get("event") == "stopped"]
        return str(ends[-1].get("why", "")) if ends else ""


def gather(storage: Storage, now: float) -> Gathered:
    """Read all of it. Raises OutputError where no study is."""
    if not storage.exists(STUDY):
        raise OutputError("there is no study", got=f"{storage.address} holds no {STUDY}", want="the output of `tunefleet tune`", fix="check the path")
    try:
        file = StudyFile.model_validate(yaml.safe_load(storage.read(STUDY)))
    except (ValidationError, yaml.YAMLError) as error:
        raise OutputError(f"{STUDY} is no study file", got=str(error).splitlines()[0], want="the file that a study wrote", fix="check the folder") from error
    lines = read_trials(storage)
    read = read_study(file)
    last_step, total = _length(read.study) if read.study is not None else (None, None)
    space = {key: given.axis() for key, given in file.space.items()}
    held = holder(storage, LEASE) is not None
    best = storage.read(BEST).decode("utf-8", "replace") if storage.exists(BEST) else ""
    return Gathered(storage.address, now, file, space, last_step, total, lines, last_lines(lines), read_events(storage), best, held)


def _length(study: Study) -> tuple[int | None, int | None]:
    """The last step of the longest trial, and how many trials there are to be; None for what its run file does not say."""
    goal = study.goal([run for point in points_to_check(study) if (run := study.trial(point).value) is not None])
    return goal.last_step, study.searcher().configurations(goal) * study.file.repeats
