"""A study whose driver is ended: no process outlives it, what was finished stays, and nothing is run twice beyond the last checkpoint."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from livestudies import command, done, saved, small_study, trial_events, trial_lines, trials, written
from processes import called, of_session, until

from tunefleet.cluster.storage import open_storage
from tunefleet.tuning.lines import ENDED, TrialLine, read_trials
from tunefleet.tuning.study import StudyFile

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(3600)]
STEPS = 400
RUN: dict[str, Any] = {"training": {"max_steps": STEPS}, "checkpoint": {"every_steps": 20}, "evaluation": {"every_steps": 100, "samples": {"number": 0}}}


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
        resumed = [event["step"] for event in trial_events(study, name) if event["event"] == "resumed"]
        assert sorted(set(resumed)) == sorted(set(reached.get(name, [])))
        assert Counter(resumed) <= Counter(reached.get(name, []))  # fewer, where a driver was ended before it began a trial again; never more
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


def test_asha_goes_on_after_kill_9_where_it_was_and_gives_nobody_up_twice(tmp_path: Path) -> None:
    run = {"training": {"max_steps": 180}, "checkpoint": {"every_steps": 20}, "evaluation": {"every_steps": 20, "samples": {"number": 0}}}
    asha = {"kind": "asha", "grace_steps": 20, "reduction_factor": 3}
    study = small_study(tmp_path, [3e-3, 1e-6, 2e-3, 2e-6, 3e-6], run=run, stopper=asha)
    file, resume = written(study, tmp_path), []
    ended: dict[str, TrialLine] = {}

    def moments() -> Iterator[Callable[[], bool]]:
        yield lambda: any(line.step >= 20 for line in trials(study).values())
        yield lambda: any(line.status == "stopped" for line in trials(study).values())
        yield lambda: sum(line.status in ENDED for line in trials(study).values()) >= 3

    for moment in moments():
        driver = command(file, *resume)
        until(lambda driver=driver, moment=moment: driver.poll() is not None or moment(), timeout_s=900)
        assert driver.poll() is None, (tmp_path / "said").read_text()
        driver.kill()
        driver.wait(60)
        until(lambda driver=driver: not of_session(driver.pid), timeout_s=240)
        ended |= {name: line for name, line in trials(study).items() if line.status in ENDED}
        resume = ["--resume"]
    last = command(file, *resume)
    assert last.wait(900) == 0, (tmp_path / "said").read_text()
    found = trials(study)
    assert sorted({line.status for line in found.values()}) == ["finished", "stopped"]
    assert len(found) == 5
    for name, line in found.items():
        assert [record["step"] for record in trial_lines(study, name)] == list(range(1, len(trial_lines(study, name)) + 1))
        assert line.why.startswith("stopped at step") if line.status == "stopped" else line.step == 180
        if name in ended:  # the evaluations of one that was being stopped may come late
            assert (line.parameters, line.why) == (ended[name].parameters, ended[name].why)
    assert [line.status for line in read_trials(open_storage(study.output))].count("stopped") >= 1
    assert "Traceback" not in (tmp_path / "said").read_text()


def groups(study: StudyFile, trial: str) -> int:
    """How often the workers of a trial have started."""
    return [event["event"] for event in trial_events(study, trial)].count("group_started")


def test_a_trial_whose_process_is_killed_goes_on_where_the_cluster_has_no_more_room(tmp_path: Path) -> None:
    run = {**RUN, "failures": {"start_timeout_s": 120}}
    study = small_study(tmp_path, [3e-3, 2e-3], run=run)
    driver = command(written(study, tmp_path))
    until(lambda: driver.poll() is not None or all(saved(study, name) >= 40 for name in ("00000", "00001")), timeout_s=900)
    mine = called(of_session(driver.pid), "ray::_Inner")  # as Tune names our TrialActor
    assert len(mine) == 2, (tmp_path / "said").read_text()
    frozen = called(of_session(driver.pid), "ray::RayTrainWorker")  # so that the other trial makes no room by coming to its end
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    os.kill(mine[0], signal.SIGKILL)
    until(lambda: driver.poll() is not None or any(groups(study, name) == 2 for name in trials(study)), timeout_s=900)
    for pid in set(frozen) & set(of_session(driver.pid)):
        os.kill(pid, signal.SIGCONT)
    assert driver.wait(900) == 0, (tmp_path / "said").read_text()
    assert [line.status for line in trials(study).values()] == ["finished", "finished"]
    starts = {name: [event["event"] for event in trial_events(study, name)].count("started") for name in trials(study)}
    assert sorted(starts.values()) == [1, 2]
    for name, line in trials(study).items():
        assert [record["step"] for record in trial_lines(study, name)] == list(range(1, STEPS + 1))
        assert line.compute["steps"] >= STEPS
    until(lambda: not of_session(driver.pid), timeout_s=120)
