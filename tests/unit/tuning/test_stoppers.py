"""Every stopper: a cut study judges as the whole one, a step is judged once, and what is stopped says why."""

import json
import math
import random
from functools import partial
from pathlib import Path
from statistics import median

import pytest
from studies import STEPS, make_study, play

from tunefleet.cluster.plugins import kinds
from tunefleet.tuning.lines import FINISHED, STOPPED, TrialLine, last_lines
from tunefleet.tuning.making import make_scheduler
from tunefleet.tuning.proposers import Listed
from tunefleet.tuning.searching import StudySearcher, make_searcher
from tunefleet.tuning.stopping import replay_scheduler
from tunefleet.tuning.study import STOPPERS
from tunefleet.tuning.studycheck import make_goal

SETTINGS = {"asha": {"grace_steps": 20, "reduction_factor": 3}, "median": {"grace_steps": 20}, "plateau": {"grace_steps": 20}, "none": {}}


def a_study(folder, kind, **replaced):
    return make_study(folder, stopper={"kind": kind, **SETTINGS[kind]}, **replaced)


@pytest.fixture(params=kinds(STOPPERS))
def study(request, tmp_path):
    return a_study(tmp_path, request.param)


def test_what_is_stopped_says_why_and_the_others_run_to_their_end(study):
    for line in last_lines(play(make_searcher(study), make_scheduler(study))).values():
        assert (line.status, line.step) == (FINISHED, STEPS) or (line.status == STOPPED and line.why.startswith(f"stopped at step {line.step}: "))


def test_a_cut_study_judges_as_the_whole_one(study):
    whole = list(play(make_searcher(study), make_scheduler(study), abreast=3, arrival=1))
    for cut in range(0, len(whole), 5):
        scheduler = replay_scheduler(make_scheduler(study), whole[:cut])
        for line in whole[cut:]:
            if line.step:
                why = scheduler.judge(line.id, line.step, line.metrics["loss"])
                assert (why or "") == line.why, f"cut after {cut} lines"


def test_a_step_that_is_reported_again_after_a_resume_is_not_judged_again(study):
    once, twice = make_scheduler(study), make_scheduler(study)
    for line in play(make_searcher(study), once, abreast=3):
        if line.step:
            assert (twice.judge(line.id, line.step, line.metrics["loss"]) or "") == line.why
            assert twice.judge(line.id, line.step, -100.0) is None


def test_a_metric_that_is_not_finite_stops_a_trial_and_misleads_no_other(study):
    plain, beside = make_scheduler(study), make_scheduler(study)
    for line in play(make_searcher(study), plain, abreast=3):
        if line.step:
            assert "not finite" in beside.judge(f"bad-{line.id}-{line.step}", 20, None)
            assert (beside.judge(line.id, line.step, line.metrics["loss"]) or "") == line.why


def test_an_evaluation_in_which_the_metric_could_not_be_computed_judges_nothing_now_or_after_a_resume(study):
    scheduler = make_scheduler(study, name=lambda trial: trial)
    assert scheduler.on_trial_result(None, "a", {"step": 20}) == "CONTINUE"
    replayed = replay_scheduler(make_scheduler(study), [TrialLine("a", 0, {}, "running", step=20, metrics={"accuracy": 0.5})])
    assert scheduler.reasons == replayed.reasons == {}


def test_tune_asks_by_result_and_other_reports_are_no_evaluations(study):
    scheduler = make_scheduler(study, name=lambda trial: trial)
    assert scheduler.on_trial_result(None, "a", {"time_total_s": 3.0}) == "CONTINUE"
    assert scheduler.on_trial_result(None, "a", {"step": 20, "loss": math.nan}) == "STOP"
    assert scheduler.reasons == {"a": "stopped at step 20: loss is not finite"}


def test_asha_lets_the_best_third_of_a_rung_go_on(tmp_path):
    scheduler = make_scheduler(a_study(tmp_path, "asha"))
    order = [5.0, 4.0, 6.0, 3.0, 4.5, 2.0, 3.8]
    went_on = [value for i, value in enumerate(order) if scheduler.judge(str(i), 20, value) is None]
    assert went_on == [5.0, 4.0, 3.0, 2.0]
    assert "best 1/3" in scheduler.reasons["2"]


def test_steps_between_rungs_are_not_judged(tmp_path):
    scheduler = make_scheduler(a_study(tmp_path, "asha"))
    assert scheduler.judge("good", 20, 1.0) is None
    assert "step 20" in scheduler.judge("bad", 20, 9.0)
    assert scheduler.judge("good", 40, 99.0) is None


def test_a_plateau_is_evaluations_in_a_row_without_a_better_value(tmp_path):
    scheduler = make_scheduler(make_study(tmp_path, stopper={"kind": "plateau", "grace_steps": 60, "patience": 2, "least": 0.1}))
    values = [5.0, 5.0, 5.0, 4.0, 3.95, 3.5, 3.6, 3.45]
    assert [scheduler.judge("a", 20 * (i + 1), value) for i, value in enumerate(values)][:-1] == [None] * 7
    assert scheduler.reasons["a"] == "stopped at step 160: no better value in 2 evaluations"


def test_the_median_rule_wants_others_before_it_judges(tmp_path):
    scheduler = make_scheduler(make_study(tmp_path, stopper={"kind": "median", "grace_steps": 20, "others": 2}))
    assert scheduler.judge("a", 20, 9.0) is None
    assert scheduler.judge("b", 20, 1.0) is None
    assert "median" in scheduler.judge("c", 20, 9.5)
    assert scheduler.judge("d", 20, 4.0) is None


RECORDS = sorted((Path(__file__).parents[3] / "benchmarks" / "results").glob("*-study-record.json"))


@pytest.mark.skipif(not RECORDS, reason="no recorded grid: benchmarks/study_record.py writes one")
def test_asha_finds_the_best_of_a_recorded_grid_for_two_fifths_of_its_steps(tmp_path):
    record = json.loads(RECORDS[-1].read_text())
    losses = {json.dumps(one["parameters"], sort_keys=True): one["losses"] for one in record["trials"]}
    points = [one["parameters"] for one in record["trials"]]
    last, every = record["steps"], record["evaluated_every"]
    stopper = {"kind": "asha", "grace_steps": 20, "reduction_factor": 3}
    study = make_study(tmp_path, space={"peft.r": {"choice": [1, 2]}}, run={"peft": {"kind": "lora"}}, stopper=stopper)
    over, share = [], []
    for order in range(5):
        sequence = random.Random(order).sample(points, len(points))
        searcher = StudySearcher(Listed(sequence.__getitem__, len(sequence)), make_goal(study))
        known = partial(lookup, losses)
        trials = last_lines(play(searcher, make_scheduler(study), value=known, arrival=order, last=last, every=every)).values()
        best = min(line.metrics["loss"] for line in trials if line.status == FINISHED)
        over.append(best / min(curve[str(last)] for curve in losses.values()) - 1)
        share.append(sum(line.step for line in trials) / (last * len(points)))
    assert median(over) <= 0.01
    assert median(share) <= 0.4


def lookup(losses, point, step):
    return losses[json.dumps(dict(point), sort_keys=True)][str(step)]
