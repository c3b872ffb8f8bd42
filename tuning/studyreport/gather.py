"""What there is of a study, read from its output as plain masked values. Parts may be missing while it goes, and it may be somebody else's.

What in its files would run code is shown and not run: nothing that they name is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from tunefleet.cluster.errors import OutputError, SettingsError
from tunefleet.cluster.lease import holder
from tunefleet.cluster.masking import masked, masked_value
from tunefleet.cluster.storage import Storage
from tunefleet.cluster.yamlfile import parse
from tunefleet.trainers.foreign import code_of
from tunefleet.trainers.ledger import read_events
from tunefleet.tuning.goal import Mode
from tunefleet.tuning.lines import RUNNING, TrialLine, last_lines, read_trials
from tunefleet.tuning.space import Space
from tunefleet.tuning.study import BEST, LEASE, STUDY, StudyFile, read_study
from tunefleet.tuning.studycheck import points_to_check


@dataclass(frozen=True)
class Gathered:
    """A study as a report sees it. ``shown``: its file without the run in it. ``searcher``, ``stopper``: their kinds. ``best_file``: the text of best.yaml.

    ``last_step``: of the longest trial, where the run file says; ``total``: how many trials there are to be. ``held``: a process does the study now.
    """

    address: str
    now: float
    name: str
    metric: str
    mode: Mode
    repeats: int
    searcher: str
    stopper: str
    space: Space
    shown: Mapping[str, Any]
    last_step: int | None
    total: int | None
    lines: Sequence[TrialLine]
    trials: Mapping[str, TrialLine]
    events: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    best_file: str = ""
    held: bool = False

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


def gather(storage: Storage, now: float, *, trusted: bool = False) -> Gathered:
    """Read all of it. Raises OutputError where no study is. ``trusted``: the study is the caller's own, and its code may be run."""
    if not storage.exists(STUDY):
        raise OutputError("there is no study", got=f"{storage.address} holds no {STUDY}", want="the output of `tunefleet tune`", fix="check the path")
    try:
        plain = parse(storage.read(STUDY).decode(errors="replace"), STUDY).value
        plain = plain if isinstance(plain, dict) else {}
        shown = masked_value({key: value for key, value in plain.items() if key != "run"})
        file = StudyFile.model_validate({**shown, "run": {}, "searcher": {"kind": "random"}, "stopper": {"kind": "none"}})  # their modules stay where they are
        kinds = [str(shown[name]["kind"]) for name in ("searcher", "stopper")]
        last_step, total = _length(plain) if trusted or not any(code_of(plain)) else (None, None)
    except (ValidationError, SettingsError, KeyError, TypeError) as error:
        raise OutputError(f"{STUDY} is no study file", got=str(error).splitlines()[0], want="the file that a study wrote", fix="check the folder") from error
    lines = [TrialLine(**masked_value(asdict(line))) for line in read_trials(storage)]
    return Gathered(
        address=masked(storage.address),
        now=now,
        name=file.name,
        metric=file.metric,
        mode=file.mode,
        repeats=file.repeats,
        searcher=kinds[0],
        stopper=kinds[1],
        space={key: given.axis() for key, given in file.space.items()},
        shown=shown,
        last_step=last_step,
        total=total,
        lines=lines,
        trials=last_lines(lines),
        events=masked_value(read_events(storage)),
        best_file=masked(storage.read(BEST).decode("utf-8", "replace")) if storage.exists(BEST) else "",
        held=holder(storage, LEASE) is not None,
    )


def _length(plain: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The last step of the longest trial, and how many trials there are to be; None for what the file does not say."""
    study = read_study(StudyFile.model_validate(plain)).study if isinstance(plain.get("run"), dict) else None  # a path leads out of the study
    if study is None:
        return None, None
    goal = study.goal([run for point in points_to_check(study) if (run := study.trial(point).value) is not None])
    return goal.last_step, study.searcher().configurations(goal) * study.file.repeats
