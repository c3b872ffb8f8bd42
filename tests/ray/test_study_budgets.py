"""When a study on Ray ends: by its steps, by its wall time, by its trials; over seeds, and by the numbers of one held-out set."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from livestudies import RATE, small_study, trial_lines, trials

from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.evaluation.files import by_set, read_results
from tunefleet.trainers.manifest import newest_step
from tunefleet.tuning.study import StudyFile

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]


def tuned(study: StudyFile, *, resume: bool = False) -> Any:
    from tunefleet.tuning.runstudy import tune_study

    return tune_study(study, resume=resume)


def test_no_trial_begins_or_goes_on_once_the_steps_are_spent_until_there_are_more(ray_session: Any, tmp_path: Path) -> None:
    study = small_study(tmp_path, [1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3], budget={"concurrent_trials": 2, "max_steps": 50})
    result = tuned(study)
    found = trials(study)
    assert len(found) <= 3  # a fourth begins where two have ended, and those took 60 steps
    assert {line.status for line in found.values()} <= {"finished", "stopped"}
    assert all("budget.max_steps is spent" in line.why for line in found.values() if line.status == "stopped")
    assert sum(line.compute["steps"] for line in found.values()) >= 50
    assert result.best in found
    for name, line in found.items():
        taken = [record["step"] for record in trial_lines(study, name)]
        assert line.compute["steps"] == len(taken) == newest_step(open_storage(line.output))
    more = study.model_copy(update={"budget": study.budget.model_copy(update={"max_steps": 1000})})
    assert tuned(more, resume=True).trials["finished"] == 6
    for name, line in trials(more).items():
        assert [record["step"] for record in trial_lines(more, name)] == list(range(1, 31))
        assert line.compute["steps"] == 30


def test_trials_save_and_end_when_the_wall_time_is_spent(ray_session: Any, tmp_path: Path) -> None:
    endless = {"training": {"max_steps": 1_000_000}, "evaluation": {"every_steps": None, "samples": {"number": 0}}, "checkpoint": {"every_steps": 1000}}
    study = small_study(tmp_path, [1e-3, 2e-3, 3e-3], run=endless, budget={"concurrent_trials": 2, "wall_time_s": 150})
    tuned(study)
    found = trials(study)
    assert 0 < len(found) <= 2
    for name, line in found.items():
        assert (line.status, line.why.partition(":")[0]) == ("stopped", "budget.wall_time_s is spent")
        taken = [record["step"] for record in trial_lines(study, name)]
        assert line.compute["steps"] == len(taken)
        assert newest_step(open_storage(line.output)) == max(taken, default=0)


def test_each_configuration_is_repeated_over_seeds_and_judged_by_the_mean_of_one_held_out_set(ray_session: Any, tmp_path: Path) -> None:
    for name, word in [("near", "sun"), ("far", "moon")]:
        rows = [{"prompt": f"where is the {word} of day {i}", "completion": f"the {word} is at {i * 7 % 24}"} for i in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = small_study(tmp_path, [3e-3, 1e-6]).model_dump(mode="json")
    base["run"]["data"]["holdout"] = [{"path": str(tmp_path / f"{name}.jsonl")} for name in ("near", "far")]
    study = StudyFile.model_validate({**base, "repeats": 2, "metric": "far/loss"})
    result = tuned(study)
    found = trials(study)
    assert [(line.parameters[RATE], line.seed, line.status) for line in found.values()] == [
        (3e-3, 0, "finished"),
        (3e-3, 1, "finished"),
        (1e-6, 0, "finished"),
        (1e-6, 1, "finished"),
    ]
    for line in found.values():
        last = read_results(open_storage(line.output))[-1]
        assert line.metrics == {**last["tuned"], "far/loss": by_set(last)["far"]["loss"]}
        assert by_set(last)["far"]["loss"] != by_set(last)["near"]["loss"]
    values = {rate: [line.metrics["far/loss"] for line in found.values() if line.parameters[RATE] == rate] for rate in (3e-3, 1e-6)}
    best = min(values, key=lambda rate: fmean(values[rate]))
    assert (result.parameters[RATE], result.value) == (best, min(values[best]))
