"""A study whose driver is ended: no process outlives it, what was finished stays, and nothing is run twice beyond the last checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from livestudies import small_study, trial_events, trial_lines, trials, written
from processes import of_session, until

from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.manifest import newest_step
from tunefleet.tuning.study import StudyFile

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(3600)]
STEPS = 400
RUN: dict[str, Any] = {"training": {"max_steps": STEPS}, "checkpoint": {"every_steps": 20}, "evaluation": {"every_steps": 100, "samples": {"number": 0}}}


def command(file: Path, *more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": ""}
    arguments = [sys.executable, "-P", "-m", "tunefleet.tuning.cli", "tune", str(file), *more]
    with (file.parent / "said").open("a") as said:
        return subprocess.Popen(arguments, stderr=said, text=True, env=environment, start_new_session=True)


def saved(study: StudyFile, trial: str) -> int:
    return newest_step(open_storage(f"{study.output}/trials/{trial}"))


def done(study: StudyFile, trial: str) -> bool:
    return open_storage(f"{study.output}/trials/{trial}").exists("done.json")


def truth(study: StudyFile, trial: str) -> dict[str, bytes]:
    """All that a trial has written which a second run of it would change."""
    storage = open_storage(f"{study.output}/trials/{trial}")
    return {name: storage.read(name) for name in storage.list() if name.startswith(("metrics", "events", "evaluation/", "done"))}


def one_finished(study: StudyFile) -> bool:
    return done(study, "00000") and any(saved(study, name) and not done(study, name) for name in trials(study))


MOMENTS: list[tuple[str, Callable[[StudyFile], bool]]] = [
    ("two are under way", lambda study: saved(study, "00000") >= 40 and saved(study, "00001") >= 40),
    ("one is finished and another under way", one_finished),
    ("the last is under way", lambda study: saved(study, "00002") >= 60 and done(study, "00001")),
]


def test_kill_9_of_the_driver_at_three_moments_loses_nothing_and_runs_nothing_twice(tmp_path: Path) -> None:
    study = small_study(tmp_path, [3e-3, 2e-3, 1e-3], run=RUN)
    file, resume = written(study, tmp_path), []
    reached: dict[str, list[int]] = {}
    for moment, condition in MOMENTS:
        driver = command(file, *resume)
        until(lambda condition=condition, driver=driver: driver.poll() is not None or condition(study), timeout_s=900)
        assert driver.poll() is None, f"{moment}: {(tmp_path / 'said').read_text()}"
        driver.kill()
        driver.wait(60)
        until(lambda driver=driver: not of_session(driver.pid), timeout_s=240)
        finished = {name: truth(study, name) for name in trials(study) if done(study, name)}
        for name in trials(study):
            if name not in finished and saved(study, name):
                reached.setdefault(name, []).append(saved(study, name))
        resume = ["--resume"]
    last = command(file, *resume)
    assert last.wait(900) == 0, (tmp_path / "said").read_text()
    until(lambda: not of_session(last.pid), timeout_s=240)
    assert {name: line.status for name, line in trials(study).items()} == dict.fromkeys(("00000", "00001", "00002"), "finished")
    for name in trials(study):
        assert [line["step"] for line in trial_lines(study, name)] == list(range(1, STEPS + 1))
        assert [event["step"] for event in trial_events(study, name) if event["event"] == "resumed"] == reached.get(name, [])
    assert {name: truth(study, name) for name in finished} == finished
    assert "Traceback" not in (tmp_path / "said").read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ending_the_driver_ends_every_process_and_resume_goes_on(tmp_path: Path, number: int, code: int) -> None:
    study = small_study(tmp_path, [3e-3, 2e-3], run=RUN)
    driver = command(written(study, tmp_path))
    until(lambda: driver.poll() is not None or all(saved(study, name) >= 40 for name in ("00000", "00001")), timeout_s=900)
    driver.send_signal(number)
    assert driver.wait(300) == code, (tmp_path / "said").read_text()
    until(lambda: not of_session(driver.pid), timeout_s=120)
    assert [line.status for line in trials(study).values()] == ["running", "running"]
    last = command(tmp_path / "study.yaml", "--resume")
    assert last.wait(900) == 0, (tmp_path / "said").read_text()
    assert [line.status for line in trials(study).values()] == ["finished", "finished"]
    assert "Traceback" not in (tmp_path / "said").read_text()
