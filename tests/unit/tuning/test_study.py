"""A wrong study is refused before a trial starts, with everything that is wrong at once, by file, line and key."""

import json
from pathlib import Path

import jsonschema
import pytest
from studies import SPACE, make_study, study_file

from tunefleet.cluster.errors import PreflightError, Refusal, RequestError
from tunefleet.cluster.plugins import kinds
from tunefleet.data.settings import Source
from tunefleet.tuning import cli
from tunefleet.tuning.making import make_scheduler, trials_in_all
from tunefleet.tuning.searching import make_searcher
from tunefleet.tuning.study import SEARCHERS, STOPPERS, StudyFile, read_study
from tunefleet.tuning.studycheck import concurrency, load_study, metric_problems, need, points_to_check

ROOT = Path(__file__).parents[3]


def problems(path) -> dict[str, RequestError]:
    with pytest.raises(RequestError) as refused:
        load_study(path)
    found = refused.value.problems if isinstance(refused.value, Refusal) else [refused.value]
    assert all(problem.got and problem.want and problem.fix for problem in found), found
    return {problem.what: problem for problem in found}


def test_a_good_study_has_no_problem_and_leaves_no_trace(tmp_path):
    path = study_file(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    study = load_study(path)
    assert (study.file.metric, study.file.mode, trials_in_all(study)) == ("loss", "min", 9)
    assert sorted(tmp_path.rglob("*")) == before


def test_everything_that_is_wrong_is_said_at_once_by_key_and_line(tmp_path):
    space = {"training.lerning_rate": {"uniform": [0.1, 1.0]}, "peft.rank": {"choice": [4]}, "output": {"choice": ["a", "b"]}}
    space |= {"training.warmup_steps": {"int": [0, 500]}, "training.train_batch_size": {"choice": [4, -8]}}
    asked = {"metric": "los", "searcher": {"kind": "random"}, "stopper": {"kind": "asha", "grace_steps": 30}}
    path = study_file(tmp_path, space=space, run={"peft": {"kind": "lora"}}, **asked)
    texts = path.read_text().splitlines()
    line = {key: 1 + texts.index(f"  {key}:", texts.index("space:")) for key in space}
    found = problems(path)
    assert set(found) == {
        f"training.lerning_rate: unknown key ({path}:{line['training.lerning_rate']})",
        f"peft.rank: unknown key ({path}:{line['peft.rank']})",
        f"training.train_batch_size: not allowed ({path}:{line['training.train_batch_size']})",
        f"space.output: all trials share it ({path}:{line['output']})",
        "training.warmup_steps: the warm-up takes the whole run",
        "stopper.grace_steps: steps that no evaluation meets",
        "metric: no evaluation computes it",
    }
    assert "training.warmup_steps=500" in found["training.warmup_steps: the warm-up takes the whole run"].got


def test_an_empty_range_names_its_line_and_does_not_hide_the_rest(tmp_path):
    path = study_file(tmp_path, space={"training.learning_rate": {"loguniform": [0.1, 0.001]}}, metric="accuracy")
    found = problems(path)
    assert {what.partition(" (")[0] for what in found} == {"space.training.learning_rate: an empty range", "metric: no evaluation computes it"}


@pytest.mark.parametrize(("grace", "factor", "every"), [(30, 3, 20), (20, 2.5, 20), (20, 3, None)])
def test_rungs_that_no_evaluation_meets_are_refused(tmp_path, grace, factor, every):
    stopper = {"kind": "asha", "grace_steps": grace, "reduction_factor": factor}
    found = problems(study_file(tmp_path, stopper=stopper, run={"evaluation": {"every_steps": every}}))
    assert list(found) == ["stopper.grace_steps: steps that no evaluation meets"]


def test_a_stopper_that_could_stop_nothing_is_refused(tmp_path):
    assert list(problems(study_file(tmp_path, stopper={"kind": "asha", "grace_steps": 180}))) == ["stopper.grace_steps: nothing could ever be stopped"]


BARE = [*({"stopper": kind} for kind in kinds(STOPPERS)), *({"searcher": kind} for kind in kinds(SEARCHERS))]


@pytest.mark.parametrize("bare", BARE, ids=str)
@pytest.mark.parametrize(("evaluated", "saved"), [(50, 50), (20, 30), (40, 80)])
def test_every_kind_works_by_its_defaults_with_any_rhythm_of_the_run(tmp_path, bare, evaluated, saved):
    rhythm = {"training": {"max_steps": 500}, "evaluation": {"every_steps": evaluated}, "checkpoint": {"every_steps": saved}}
    space = {"training.learning_rate": {"loguniform": [1e-4, 1e-1], "points": 3}}
    study = load_study(study_file(tmp_path, space=space, run=rhythm, **{"searcher": "random", **bare}))
    assert make_scheduler(study) is not None


@pytest.mark.parametrize("bare", [{"stopper": "asha"}, {"stopper": "median"}, {"stopper": "plateau"}, {"searcher": "pbt"}], ids=str)
def test_what_decides_while_trials_go_on_wants_evaluations_before_their_end(tmp_path, bare):
    space = {"training.learning_rate": {"loguniform": [1e-4, 1e-1]}}
    path = study_file(tmp_path, space=space, run={"evaluation": {"every_steps": None}}, **{"searcher": "random", **bare})
    (problem,) = problems(path).values()
    assert "evaluation.every_steps: n" in problem.got.lower()


def test_a_budget_that_ends_before_one_trial_could_is_refused(tmp_path):
    assert list(problems(study_file(tmp_path, budget={"max_steps": 179}))) == ["budget.max_steps: spent before one trial has ended"]
    assert load_study(study_file(tmp_path, budget={"max_steps": 180}))


def test_a_key_within_another_is_refused(tmp_path):
    lora = {"choice": [{"kind": "lora", "r": 16}]}
    path = study_file(tmp_path, space={"peft.r": {"choice": [4, 8]}, "peft": lora, "peftless": {"choice": [1]}})
    found = [what for what in problems(path) if "lies within" in what]
    assert [what.partition(" (")[0] for what in found] == ["space.peft.r: lies within another key of the space"]


def test_an_entry_of_a_list_is_a_key_like_others(tmp_path):
    study = load_study(study_file(tmp_path, space={"data.train.0.weight": {"choice": [0.5, 2.0]}}))
    assert [study.trial(point).value.data.train[0].weight for point in points_to_check(study)] == [0.5, 2.0]
    assert "no such entry" in next(iter(problems(study_file(tmp_path, space={"data.train.7.weight": {"choice": [0.5]}}))))


def test_a_grid_over_real_numbers_wants_points(tmp_path):
    found = problems(study_file(tmp_path, space={"training.learning_rate": {"loguniform": [1e-4, 1e-1]}}))
    assert list(found) == ["space.training.learning_rate: a grid wants a list of values"]


HELD = [{"path": "held/stories.jsonl"}, {"path": "other/stories.jsonl"}, {"path": "sums.jsonl"}]


@pytest.mark.parametrize(
    ("asked", "holdout", "more", "what", "fix"),
    [
        ({"metric": "stories-2/loss"}, HELD, {}, None, None),
        ({"metric": "holdout/loss"}, 0.2, {}, None, None),
        ({"metric": "story/loss"}, HELD, {}, "metric: there is no such held-out set", "did you mean stories?"),
        ({"metric": "far/loss"}, HELD, {}, "metric: there is no such held-out set", "take one of them"),
        ({"metric": "stories/loss"}, 0.2, {}, "metric: there is no such held-out set", "a list of sources"),
        ({"metric": "answers/loss"}, HELD, {"suite": "examples/suite.yaml"}, "metric: there is no such held-out set", "a suite is scored when a run has ended"),
        ({"metric": "sums/los"}, HELD, {}, "metric: no evaluation computes it", "did you mean loss?"),
        ({"metric": "sums/loss", "mode": "max"}, HELD, {}, "mode: loss is better the other way", "set mode to min"),
    ],
)
def test_trials_may_be_compared_by_a_held_out_set_that_there_is(tmp_path, asked, holdout, more, what, fix):
    study = read_study(study_file(tmp_path, **asked)).study
    run = study.trial({}).value
    listed = [Source(**source) for source in holdout] if isinstance(holdout, list) else holdout
    data, evaluation = run.data.model_copy(update={"holdout": listed}), run.evaluation.model_copy(update=more)
    found = list(metric_problems(study, run.model_copy(update={"data": data, "evaluation": evaluation})))
    assert [problem.what for problem in found] == ([what] if what else [])
    assert not what or fix in found[0].fix


def test_a_grid_is_shuffled_by_its_seed_and_loses_nothing(tmp_path):
    def points(**more):
        study = make_study(tmp_path, searcher={"kind": "grid", **more})
        searcher = make_searcher(study)
        return [searcher.suggest(str(number)) for number in range(9)]

    written, one, other = points(), points(seed=0), points(seed=1)
    assert sorted(map(repr, written)) == sorted(map(repr, one)) == sorted(map(repr, other))
    assert written != one != other
    assert points(seed=0) == one


def test_the_mode_is_that_of_the_metric(tmp_path):
    assert list(problems(study_file(tmp_path, mode="max"))) == ["mode: loss is better the other way"]


def test_no_held_out_rows_is_nothing_to_compare_by(tmp_path):
    found = problems(study_file(tmp_path, run={"data": {"holdout": 0.0}}))
    assert list(found) == ["metric: there is nothing to compute it on"]


def test_every_point_of_a_grid_is_checked_and_the_corners_of_what_is_drawn(tmp_path):
    assert len(points_to_check(read_study(study_file(tmp_path)).study)) == 9
    assert len(points_to_check(read_study(study_file(tmp_path, searcher={"kind": "random"})).study)) == 6


def test_a_study_names_its_run_file_or_holds_it(tmp_path):
    held = read_study(study_file(tmp_path)).study
    (tmp_path / "run.yaml").write_text(json.dumps(held.run.value))
    named = read_study(study_file(tmp_path, run={}), {"run": str(tmp_path / "run.yaml")}).study
    point = {"training.learning_rate": 0.01, "training.train_batch_size": 4}
    assert named.trial(point, "here").value == held.trial(point, "here").value
    assert named.as_it_ran().run == held.run.value
    missing = read_study(study_file(tmp_path), {"run": "nowhere.yaml"})
    assert [problem.what for problem in missing.problems] == ["run: the file is missing"]


def test_a_whole_section_may_be_chosen(tmp_path):
    study = read_study(study_file(tmp_path, space={"peft": {"choice": [{"kind": "full"}, {"kind": "lora", "r": 4}]}})).study
    assert [study.trial(point).value.peft.kind for point in points_to_check(study)] == ["full", "lora"]


def test_repeats_are_seeds_after_the_run_files_own(tmp_path):
    study = read_study(study_file(tmp_path, repeats=3, run={"training": {"max_steps": 180, "seed": 5}})).study
    assert study.seeds() == (5, 6, 7)
    assert trials_in_all(study) == 27
    both = study_file(tmp_path, repeats=2, space={**SPACE, "training.seed": {"choice": [1, 2]}})
    assert list(problems(both)) == ["space.training.seed: repeats set it"]


def test_more_workers_than_the_cluster_has_is_told_with_the_numbers(tmp_path):
    study = read_study(study_file(tmp_path, run={"scaling": {"num_workers": 8, "cpus_per_worker": 2}})).study
    held = need(study.trial({}).value, beside=False)
    with pytest.raises(PreflightError) as refused:
        concurrency(study, held, {"CPU": 4.0}, local=False)
    assert (refused.value.got, refused.value.want) == ("16 CPUs asked for: 1 trials at a time with 16 each", "at most 4 CPUs, all that the cluster has")
    assert concurrency(study, held, {"CPU": 40.0}, local=False) == 2
    assert concurrency(study, held, {"CPU": 4.0}, local=True) == 1


def test_as_many_trials_at_a_time_as_were_asked_for_or_a_refusal(tmp_path):
    study = read_study(study_file(tmp_path, budget={"concurrent_trials": 3})).study
    assert concurrency(study, {"CPU": 2.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 4.0}, local=True) == 3
    with pytest.raises(PreflightError, match="more than there is room for") as refused:
        concurrency(study, {"CPU": 2.0, "GPU": 2.0}, {"CPU": 2.0, "GPU": 4.0}, local=True)
    assert refused.value.fix == "set budget.concurrent_trials to 2"


def test_the_help_of_tune_lists_the_keys_of_the_study_file_and_takes_them(capsys, tmp_path):
    assert cli.main(["tune", "-h"]) == 0
    out = capsys.readouterr().out
    assert "keys of the study file" in out
    assert "searcher.warm_start [[]]" in out
    assert cli.main(["tune", str(study_file(tmp_path)), "--repeats", "0", "metric=los"]) == 2
    err = capsys.readouterr().err
    assert "repeats: not allowed (command line)" in err
    assert "metric: no evaluation computes it" in err


@pytest.mark.parametrize("example", sorted((ROOT / "examples" / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_studies_that_ship_have_no_problem(example, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert load_study(example).file.version == 1


def test_the_schema_of_the_study_file_accepts_what_the_reader_accepts(tmp_path, capsys):
    assert cli.main(["schema", "study"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    good = read_study(study_file(tmp_path)).study.file.model_dump(mode="json")
    jsonschema.validate(good, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**good, "serch": 1}, schema)
    assert StudyFile.model_validate(good)
