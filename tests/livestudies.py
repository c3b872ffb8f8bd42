"""Small real studies for tests: a run of tests/runs.py, varied."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from runs import small_run

from tunefleet.cluster.metrics import read_lines
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.manifest import newest_step
from tunefleet.trainers.stage import EVENTS, METRICS
from tunefleet.tuning.lines import TrialLine, last_lines, read_trials
from tunefleet.tuning.study import StudyFile

RATE = "training.learning_rate"


def small_study(folder: Path, rates: list[float], *, run: dict[str, Any] | None = None, **sections: Any) -> StudyFile:
    """A study over learning rates; two workers a trial, two trials at a time."""
    quick = {"checkpoint": {"every_steps": 10}, "evaluation": {"every_steps": 10, "samples": {"number": 0}}, "failures": {"start_timeout_s": 900}}
    varied = small_run(folder, **{"training": {"max_steps": 30}, **quick, **(run or {})})
    defaults = {"name": "small", "searcher": {"kind": "grid"}, "budget": {"concurrent_trials": 2}, "output": str(folder / "study")}
    file = varied.model_dump(mode="json")
    file["model"]["tokenizer"]["name_or_path"] = None  # each study trains its own, once for all trials
    return StudyFile.model_validate({"run": file, "space": {RATE: {"choice": rates}}, **defaults, **sections})


def written(study: StudyFile, folder: Path) -> Path:
    """A study file in a folder."""
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study.model_dump(mode="json")))
    return file


def trials(study: StudyFile) -> dict[str, TrialLine]:
    """How its trials stand."""
    return last_lines(read_trials(open_storage(study.output)))


def trial_events(study: StudyFile, trial: str) -> list[dict[str, Any]]:
    """The events of a trial's run."""
    return read_lines(open_storage(f"{study.output}/trials/{trial}"), EVENTS)


def trial_lines(study: StudyFile, trial: str) -> list[dict[str, Any]]:
    """The metrics of a trial's run."""
    return read_lines(open_storage(f"{study.output}/trials/{trial}"), METRICS)


def command(file: Path, *more: str) -> subprocess.Popen[str]:
    """`tunefleet tune` in a session of its own; what it says is added to a file beside the study's."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": ""}
    arguments = [sys.executable, "-P", "-m", "tunefleet.tuning.cli", "tune", str(file), *more]
    with (file.parent / "said").open("a") as said:
        return subprocess.Popen(arguments, stderr=said, text=True, env=environment, start_new_session=True)


def saved(study: StudyFile, trial: str) -> int:
    """The step of a trial's newest checkpoint."""
    return newest_step(open_storage(f"{study.output}/trials/{trial}"))


def done(study: StudyFile, trial: str) -> bool:
    """Whether a trial has finished."""
    return open_storage(f"{study.output}/trials/{trial}").exists("done.json")
