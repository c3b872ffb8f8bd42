"""The study file: which run to vary, over what, by which measure, how long; every setting defined once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from tunefleet.cluster.errors import RequestError, SettingsError
from tunefleet.cluster.plugins import Plugin, plugin
from tunefleet.cluster.settings import Checked, Settings, check
from tunefleet.cluster.yamlfile import Document, Keys, read
from tunefleet.trainers.foreign import refuse_code
from tunefleet.trainers.run import STAND_IN as RUN_STAND_IN
from tunefleet.trainers.run import RunFile
from tunefleet.tuning.goal import Goal, SearcherKind, StopperKind
from tunefleet.tuning.space import Point, Range, Space

SEARCHERS = "tunefleet.tuning.searchers"
STOPPERS = "tunefleet.tuning.stoppers"
SEED = "training.seed"
LEASE = "lease"  # held by the process that does the study
STUDY = "study.yaml"  # in a study's output: the study file as it ran
BEST = "best.yaml"  # and the run file of its best trial


class Budget(Settings):
    """When a study ends, and how much of it goes on at once."""

    concurrent_trials: PositiveInt | None = Field(default=None, description="trials at a time; null takes as many as the cluster's CPUs and GPUs hold")
    max_steps: PositiveInt | None = Field(
        default=None, description="optimizer steps of all trials together, after which no trial begins or goes on; --resume does where it is raised"
    )
    wall_time_s: PositiveFloat | None = Field(
        default=None,
        description="seconds of the whole study, also before a resume and its first trial, after which no trial begins or goes on; may be raised too",
    )


class StudyFile(Settings):
    """One study: a run file, what is varied in it, and how the best values are found."""

    version: Literal[1] = Field(default=1, description="version of this format")
    name: str = Field(default="study", description="a name for people")
    run: str | dict[str, Any] = Field(description="the run file that is varied: its path, or a run file in place")
    space: dict[str, Range] = Field(description="dotted keys of the run file, each with its range: choice, uniform, loguniform, int or quantised")
    metric: str = Field(
        default="loss",
        description="what trials are compared by: one of the run's evaluation.metrics over its held-out rows, or SET/METRIC for those of one held-out source",
    )
    mode: Literal["min", "max"] = Field(default="min", description="whether a smaller or a larger value is better")
    searcher: Annotated[Settings, Plugin(SEARCHERS)] = Field(default={"kind": "random"}, validate_default=True, description="which configurations are tried")
    stopper: Annotated[Settings, Plugin(STOPPERS)] = Field(default={"kind": "none"}, validate_default=True, description="which trials are stopped early")
    budget: Budget = Field(default=Budget(), description="when the study ends, and how many trials go on at once")
    repeats: PositiveInt = Field(default=1, description="trials of each configuration, with training.seed, training.seed + 1, ...; their mean counts")
    output: str = Field(description="folder of everything that the study writes")


STAND_IN = {"run": "unknown", "space": {}, "output": "unknown"}
"""What is required of a study file: takes the place of what is wrong, so that the rest can still be checked."""


@dataclass(frozen=True)
class Study:
    """A study file that could be understood, and the run file that it varies. ``places``: where the range of each key stands."""

    file: StudyFile
    run: Document
    places: Mapping[str, str] = field(default_factory=dict)

    def space(self) -> Space:
        """The ranges by dotted key."""
        return {key: given.axis() for key, given in self.file.space.items()}

    def searcher(self) -> SearcherKind:
        """The searcher's kind with its settings."""
        made: SearcherKind = plugin(SEARCHERS, vars(self.file.searcher)["kind"])(self.file.searcher)
        return made

    def stopper(self) -> StopperKind:
        """The stopper's kind with its settings."""
        made: StopperKind = plugin(STOPPERS, vars(self.file.stopper)["kind"])(self.file.stopper)
        return made

    def seeds(self) -> tuple[int | None, ...]:
        """The seeds of a configuration's trials; a single None where the run file's own serves."""
        if self.file.repeats == 1:
            return (None,)
        training = self.run.value.get("training") if isinstance(self.run.value, dict) else None
        first = training.get("seed", 0) if isinstance(training, dict) else 0
        return tuple(first + i for i in range(self.file.repeats))

    def goal(self, runs: list[RunFile]) -> Goal:
        """What the searcher and the stopper are asked for; ``runs`` are those of points from all over the space."""
        steps = [run.training.max_steps for run in runs]
        return Goal(
            space=self.space(),
            metric=self.file.metric,
            mode=self.file.mode,
            points={key: given.points for key, given in self.file.space.items()},
            every_steps=runs[0].evaluation.every_steps if runs and runs[0].data.holdout else None,
            checkpoint_steps=runs[0].checkpoint.every_steps if runs else None,
            last_step=max((step for step in steps if step), default=None) if all(steps) else None,
        )

    def trial(self, parameters: Point, output: str | None = None) -> Checked[RunFile]:
        """The run file of a trial: the study's, with the parameters in their places, and an output of its own."""
        document = self.run
        for key, value in parameters.items():
            document = document.with_override(key, json.dumps(value), self.places.get(key, "space"))
        if output is not None:
            document = document.with_override("output", json.dumps(output))
        return check(RunFile, document, RUN_STAND_IN)

    def as_it_ran(self) -> StudyFile:
        """The study file with its run file in place, so that a resume does not hang on another file."""
        return self.file.model_copy(update={"run": self.run.value})


@dataclass(frozen=True)
class Read:
    """What could be read of a study file, None when too little was; and what is wrong with the text of both files."""

    study: Study | None
    problems: list[RequestError]
    checked: Checked[StudyFile] | None = None


def read_study(source: StudyFile | str | Path, overrides: Mapping[str, str] | None = None, *, trust_code: bool = False) -> Read:
    """Read a study file, or take one that was made in Python, with ``dotted.key=value`` overrides; collect everything that is wrong with its text.

    ``trust_code``: use a file that lies in somebody's output also when it asks for code to be run, see ``trainers.foreign``.
    """
    try:
        document = Document(source.model_dump(mode="json"), source.name) if isinstance(source, StudyFile) else read(source)
    except SettingsError as error:
        return Read(None, [error])
    if not isinstance(source, StudyFile) and not trust_code and (refused := refuse_code(source, document, overrides or {})):
        return Read(None, [refused])
    for key, text in (overrides or {}).items():
        document = document.with_override(key, text)
    checked = check(StudyFile, document, STAND_IN)
    if checked.value is None:
        return Read(None, checked.problems, checked)
    problems = list(checked.problems)
    run = Document(None)
    if checked.sure("run"):
        try:
            run = _run_document(checked.value.run, document)
        except SettingsError as error:
            problems.append(SettingsError(f"run: {error.what}", got=error.got, want=error.want, fix=error.fix))
        if isinstance(checked.value.run, str) and not trust_code and (refused := refuse_code(checked.value.run, run, overrides or {})):
            return Read(None, [refused])
    places = {key: document.where(("space", key)) for key in checked.value.space} | {SEED: document.where(("repeats",))}
    return Read(Study(checked.value, run, places), problems, checked)


def _run_document(given: str | dict[str, Any], study: Document) -> Document:
    """The run file: read, or cut out of the study file with its lines. Raises SettingsError for a file that is none."""
    if isinstance(given, str):
        return read(given)
    prefix: Keys = ("run",)
    lines = {keys[1:]: line for keys, line in study.lines.items() if keys[:1] == prefix and len(keys) > 1}
    places = {keys[1:]: place for keys, place in study.given.items() if keys[:1] == prefix and len(keys) > 1}
    return Document(given, study.name, lines, given=places)
