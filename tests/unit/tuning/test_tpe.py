"""The estimator beats chance on the same budget, and begins where earlier studies ended."""

import math
from dataclasses import replace
from statistics import median

import pytest
import yaml
from studies import make_study, play, study_file, surface

from tunefleet.cluster.errors import RequestError
from tunefleet.cluster.metrics import Lines
from tunefleet.cluster.storage import open_storage
from tunefleet.tuning.earlier import known_trials, means
from tunefleet.tuning.lines import FINISHED, TRIALS, TrialLine, last_lines
from tunefleet.tuning.making import make_scheduler
from tunefleet.tuning.searching import make_searcher
from tunefleet.tuning.study import STUDY
from tunefleet.tuning.studycheck import load_study, make_goal

SPACE = {
    "training.learning_rate": {"loguniform": [1e-5, 1.0]},
    "training.warmup_ratio": {"uniform": [0.0, 0.5]},
    "training.weight_decay": {"quantised": [0.0, 0.5, 0.05]},
    "training.train_batch_size": {"choice": [4, 8, 16, 32]},
}


def bowl(parameters, step) -> float:
    """A synthetic surface in four parameters, lowest at 1e-2, 0.1, 0.2 and 8."""
    rate = (math.log10(parameters["training.learning_rate"]) + 2) ** 2
    warmup, decay = (parameters["training.warmup_ratio"] - 0.1) ** 2, (parameters["training.weight_decay"] - 0.2) ** 2
    return 1 + rate + 8 * warmup + 8 * decay + 0.3 * abs(math.log2(parameters["training.train_batch_size"]) - 3)


def best_found(folder, kind: str, seed: int, trials: int = 40) -> float:
    study = make_study(folder / f"{kind}{seed}", space=SPACE, searcher={"kind": kind, "trials": trials, "seed": seed})
    lines = play(make_searcher(study), make_scheduler(study), value=bowl, last=180, every=180)
    return min(line.metrics["loss"] for line in last_lines(lines).values() if line.status == FINISHED)


def test_it_beats_random_search_on_the_same_budget_in_the_median_of_five_studies(tmp_path):
    pairs = [(best_found(tmp_path, "tpe", seed), best_found(tmp_path, "random", seed)) for seed in range(5)]
    assert median(tpe for tpe, _ in pairs) < median(chance for _, chance in pairs)


def finished_study(folder, **replaced):
    """A study's output, as ``tunefleet tune`` leaves it."""
    study = make_study(folder, searcher={"kind": "tpe", "trials": 12, "seed": 1}, **replaced)
    storage = open_storage(study.file.output)
    storage.put(STUDY, yaml.safe_dump(study.as_it_ran().model_dump(mode="json")).encode())
    lines = Lines(storage, TRIALS)
    for line in play(make_searcher(study), make_scheduler(study)):
        lines.add(line.to_json())
    return study


def test_a_warm_start_knows_the_finished_trials_and_draws_none_at_random(tmp_path):
    earlier = finished_study(tmp_path / "a")
    warm = {"kind": "tpe", "trials": 8, "seed": 1, "warm_start": [earlier.file.output], "startup_trials": 8}
    study = load_study(study_file(tmp_path / "b", searcher=warm))
    known = known_trials(earlier.file.output, make_goal(study))
    assert len(known) == 12
    assert all(value == surface(point, 180) for point, value in known)
    cold = make_searcher(load_study(study_file(tmp_path / "c", searcher={**warm, "warm_start": []})))
    first = make_searcher(study).suggest("0")
    assert first != cold.suggest("0")
    assert surface(first, 180) < median(value for _, value in known)


def test_points_to_try_first_come_first_and_their_other_keys_are_drawn(tmp_path):
    first = [{"training.learning_rate": 0.02, "training.train_batch_size": 4}, {"training.train_batch_size": 16}]
    searcher = make_searcher(load_study(study_file(tmp_path, searcher={"kind": "tpe", "first": first})))
    assert searcher.suggest("0") == first[0]
    assert searcher.suggest("1")["training.train_batch_size"] == 16


@pytest.mark.parametrize(
    ("searcher", "what"),
    [
        ({"first": [{"training.learning_rate": 5.0}]}, "searcher.first.0: outside the space"),
        ({"first": [{"peft.r": 8}]}, "searcher.first.0: outside the space"),
        ({"warm_start": ["nowhere"]}, "searcher.warm_start.0: no study"),
    ],
)
def test_what_lies_outside_or_is_no_study_is_refused(tmp_path, searcher, what):
    with pytest.raises(RequestError) as refused:
        load_study(study_file(tmp_path, searcher={"kind": "tpe", **searcher}))
    assert refused.value.what == what


def test_a_study_over_other_keys_or_by_another_metric_is_no_warm_start(tmp_path):
    earlier = finished_study(tmp_path / "a")
    warm = {"kind": "tpe", "warm_start": [earlier.file.output]}
    other = study_file(tmp_path / "b", searcher=warm, space={"training.weight_decay": {"uniform": [0, 1]}})
    with pytest.raises(RequestError, match="tells nothing of this space"):
        load_study(other)
    metrics = {"evaluation": {"every_steps": 20, "metrics": ["loss", "token_accuracy"], "placement": "inline"}}
    by_another = study_file(tmp_path / "c", searcher=warm, metric="token_accuracy", mode="max", run=metrics)
    with pytest.raises(RequestError, match="went by another metric"):
        load_study(by_another)


def test_a_trial_that_went_on_from_another_tells_nothing_of_its_last_parameters(tmp_path):
    goal = make_goal(make_study(tmp_path))
    point = {"training.learning_rate": 0.01, "training.train_batch_size": 8}
    line = TrialLine("0", 0, point, FINISHED, step=180, metrics={"loss": 1.0})
    assert means([line], goal) == [(point, 1.0)]
    assert means([replace(line, parent={"id": "1", "step": 20})], goal) == []
