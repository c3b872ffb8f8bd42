"""A population whose driver is ended: what PBT gave a trial is taken over by the next start, trials that wait for their turn hold nothing up."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from livestudies import RATE, command, saved, small_study, trial_events, trial_lines, trials, written
from processes import of_session, until

from tunefleet.cluster.storage import open_storage
from tunefleet.tuning.cli import main
from tunefleet.tuning.lines import TrialLine, read_trials
from tunefleet.tuning.study import StudyFile

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(3600)]
RUN: dict[str, Any] = {
    "training": {"max_steps": 240, "lr_scheduler_type": "constant"},
    "checkpoint": {"every_steps": 40},
    "evaluation": {"every_steps": 40, "samples": {"number": 0}},
}


def population(folder: Path, number: int, **run: Any) -> StudyFile:
    pbt = {"kind": "pbt", "trials": number, "seed": 0, "interval_steps": 40, "quantile": 0.5, "resample": 0.0}
    return small_study(folder, [1e-3], run={**RUN, **run}, space={RATE: {"loguniform": [1e-6, 3e-3]}}, searcher=pbt)


def given(study: StudyFile) -> dict[str, TrialLine]:
    """The last line of each trial that was given another's checkpoint, as it was given."""
    return {line.parent["mark"]: line for line in read_trials(open_storage(study.output)) if line.parent}


def taken(study: StudyFile, trial: str) -> list[str]:
    """The trials that a trial took checkpoints over from."""
    return [event["source"].rpartition("/")[2] for event in trial_events(study, trial) if event["event"] == "adopted"]


def test_what_pbt_gave_a_trial_just_before_kill_9_is_what_it_goes_on_from(tmp_path: Path) -> None:
    study = population(tmp_path, 2)
    file = written(study, tmp_path)
    driver = command(file)
    until(lambda: driver.poll() is not None or given(study), timeout_s=900)
    driver.kill()
    driver.wait(60)
    until(lambda: not of_session(driver.pid), timeout_s=240)
    assert len(given(study)) >= 1, (tmp_path / "said").read_text()
    last = command(file, "--resume")
    assert last.wait(900) == 0, (tmp_path / "said").read_text()
    assert [line.status for line in trials(study).values()] == ["finished", "finished"]
    for name, line in trials(study).items():
        told = [one.parent["id"] for one in given(study).values() if one.id == name and one.parent]
        assert taken(study, name) == told
        records = trial_lines(study, name)
        assert records[-1]["step"] == 240
        assert records[-1]["learning_rate"] == pytest.approx(line.parameters[RATE])
    assert "Traceback" not in (tmp_path / "said").read_text()


@pytest.mark.parametrize("by", ["SIGTERM", "stop"])
def test_a_population_with_more_trials_than_room_ends_when_it_is_asked_to_and_goes_on_later(tmp_path: Path, by: str) -> None:
    study = population(tmp_path, 4, training={"max_steps": 80, "lr_scheduler_type": "constant"})
    file = written(study, tmp_path)
    driver = command(file)
    until(lambda: driver.poll() is not None or sum(saved(study, name) > 0 for name in trials(study)) >= 3, timeout_s=900)
    assert driver.poll() is None, (tmp_path / "said").read_text()
    if by == "stop":
        assert main(["stop", study.output]) == 0
    else:
        driver.send_signal(signal.SIGTERM)
    assert driver.wait(300) == 143, (tmp_path / "said").read_text()
    until(lambda: not of_session(driver.pid), timeout_s=120)
    assert {line.status for line in trials(study).values()} == {"running"}
    if by == "stop":
        return
    starts = {name: [event["event"] for event in trial_events(study, name)].count("started") for name in trials(study)}
    last = command(file, "--resume")
    assert last.wait(1800) == 0, (tmp_path / "said").read_text()
    assert [line.status for line in trials(study).values()] == ["finished"] * 4
    assert all([event["event"] for event in trial_events(study, name)].count("started") > number for name, number in starts.items())
    assert "Traceback" not in (tmp_path / "said").read_text()
