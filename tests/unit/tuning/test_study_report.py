"""The study report: which configuration won, what it cost and saved, which parameter mattered, by which path; in every state of a study."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from studies import BEGAN, make_study, play, population, study_folder

from tunefleet.cluster.errors import OutputError
from tunefleet.cluster.lease import Lease
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.report.wording import metric_name, metric_unit
from tunefleet.tuning import cli
from tunefleet.tuning.importance import _groups, common_step, importance
from tunefleet.tuning.lines import FAILED, FINISHED, RUNNING, STOPPED, TrialLine, last_lines
from tunefleet.tuning.making import make_scheduler
from tunefleet.tuning.searching import make_searcher
from tunefleet.tuning.standings import best_of, course, curves, spent, standings
from tunefleet.tuning.study import LEASE
from tunefleet.tuning.studyreport.gather import gather
from tunefleet.tuning.studyreport.pictures import exploits, lineage, path, place_of, ticks
from tunefleet.tuning.studyreport.write import AGAIN_S, report, write_report

KEY = "training.learning_rate"
ASHA = {"kind": "asha", "grace_steps": 20, "reduction_factor": 3}


def trial(name, value, *, status=FINISHED, rate=0.1, step=180, **more):
    return TrialLine(name, int(name), {KEY: rate, **more}, status, step=step, metrics={"loss": value}, compute={"steps": step})


def test_a_trial_that_ran_to_its_end_beats_one_that_was_stopped_or_failed():
    trials = {"0": trial("0", 2.0), "1": trial("1", 1.0, status=STOPPED, rate=0.2), "2": trial("2", 0.5, status=FAILED, rate=0.3)}
    assert best_of(trials, "loss", "min", 1).id == "0"
    assert best_of({"1": trials["1"]}, "loss", "min", 1).id == "1"
    assert best_of({"2": trials["2"]}, "loss", "min", 1) is None


def test_the_mean_over_seeds_decides_and_one_lucky_seed_does_not():
    seeds = [(0.1, 0, 1.0), (0.1, 1, 5.0), (0.2, 0, 2.0), (0.2, 1, 2.2)]
    trials = {str(i): trial(str(i), value, rate=rate, **{"training.seed": seed}) for i, (rate, seed, value) in enumerate(seeds)}
    assert [(one.point, round(one.value, 3)) for one in standings(trials.values(), "loss", "min", 2)] == [({KEY: 0.2}, 2.1), ({KEY: 0.1}, 3.0)]
    assert best_of(trials, "loss", "min", 2).id == "2"
    assert best_of(trials, "loss", "max", 2).id == "1"


def test_a_configuration_whose_other_seeds_failed_or_have_not_begun_does_not_win_by_the_one_it_has():
    seeds = [
        (0.1, 0, 1.9, FINISHED),
        (0.1, 1, None, FAILED),
        (0.1, 2, 1.0, FAILED),
        *((0.2, seed, 2.0, FINISHED) for seed in range(3)),
        (0.3, 0, 0.5, FINISHED),
    ]
    trials = {str(i): trial(str(i), value, rate=rate, status=status, **{"training.seed": seed}) for i, (rate, seed, value, status) in enumerate(seeds)}
    found = standings(trials.values(), "loss", "min", 3)
    assert [(one.point[KEY], one.value, one.whole, one.failed) for one in found] == [(0.2, 2.0, True, 0), (0.3, 0.5, False, 0), (0.1, 1.9, False, 2)]
    assert best_of(trials, "loss", "min", 3).parameters[KEY] == 0.2


def test_what_was_saved_is_what_stopped_trials_would_still_have_taken():
    found = spent([trial("0", 1.0), trial("1", 1.0, status=STOPPED, step=20), trial("2", 1.0, status=FAILED, step=40)], 180)
    assert (found.steps, found.saved_steps) == (240, 160)
    assert found.saved() == pytest.approx(0.4)
    assert spent([trial("0", 1.0, status=STOPPED)], None).saved() == 0


def test_the_course_never_rises_and_ends_with_all_that_was_spent(tmp_path):
    study = make_study(tmp_path, stopper=ASHA)
    lines = list(play(make_searcher(study), make_scheduler(study)))
    points = course(lines, "loss", "min")
    assert all(a[0] <= b[0] and a[1] >= b[1] for a, b in pairwise(points))
    assert points[-1] == (spent(last_lines(lines).values(), 180).steps, min(line.metrics["loss"] for line in lines if line.metrics))


def test_importance_is_high_for_what_matters_and_nothing_for_noise():
    draw = np.random.default_rng(0)
    points = [{"rate": float(draw.random()), "rank": int(draw.integers(3)), "same": 1} for _ in range(60)]
    found = importance(points, [3 * point["rate"] + 0.1 * float(draw.random()) for point in points])
    assert set(found) == {"rate", "rank"}
    assert found["rate"] > 0.8
    assert found["rank"] < 0.1
    assert importance(points[:4], [1.0, 2.0, 3.0, 4.0]) == {}
    assert importance(points, [1.0] * 60) == {}


def test_importance_of_two_equal_halves_is_by_hand():
    points = [{"a": i % 2} for i in range(8)]
    values = [float(i % 2) + 0.25 * (i // 4) for i in range(8)]
    whole, within = sum((v - np.mean(values)) ** 2 for v in values), 8 * 0.125**2
    assert importance(points, values)["a"] == pytest.approx((whole - within - within / 6) / whole)


def test_equal_values_are_never_parted_however_many_there_are():
    """Five values of three trials each: what is between them is all of the spread, so a group of its own for each neighbour would not lower it."""
    points = [{"a": [1, 2, 4, 8, 16][i // 3]} for i in range(15)]
    groups = _groups([point["a"] for point in points])
    assert len({(point["a"], group) for point, group in zip(points, groups, strict=True)}) == 5
    assert groups == sorted(groups)
    assert len(set(groups)) >= 3
    assert sorted(set(_groups(list(range(40))))) == [0, 1, 2, 3]


def test_a_curve_never_runs_back():
    steps = [(20, 3.0), (40, 2.0), (60, 2.5), (80, 2.6), (40, 2.0)]  # its patience ended it at 80; it stands for its best step
    lines = [trial("0", value, status=RUNNING, step=step) for step, value in steps]
    assert curves(lines, "loss")["0"] == [(float(step), value) for step, value in steps[:-1]]


def test_values_are_compared_at_a_step_that_all_trials_reached():
    lines = [trial(name, 1.0, step=step) for name, steps in (("0", (20, 40, 60)), ("1", (20, 40)), ("2", (20, 40, 60, 80))) for step in steps]
    assert common_step(lines, "loss") == 40
    assert common_step([], "loss") is None


def test_the_path_of_the_best_weights_leads_through_the_trials_they_came_from():
    lines = population()
    best = best_of(last_lines(lines), "loss", "min", 1)
    points = lineage(lines, best.id, KEY)
    steps = [step for step, _ in points]
    assert (steps[0], steps[-1]) == (0, 160)
    assert steps == sorted(steps)
    assert all(not math.isnan(value) for _, value in points)
    assert points[-1][1] == best.parameters[KEY]
    values = list(dict.fromkeys(value for _, value in points))
    assert all(min(abs(b / a - 1.25), abs(b / a - 0.8)) < 1e-9 for a, b in pairwise(values)), "each rate is a factor of the one before"
    assert len(exploits(lines)) == 7


def test_a_trial_that_went_back_to_an_earlier_checkpoint_of_another_begins_there():
    better, own = trial("0", 1.0, rate=0.5, step=40), [trial("1", 9.0, rate=0.1, step=step) for step in (20, 40, 60)]
    jump = replace(own[-1], parameters={KEY: 0.4}, parent={"id": "0", "step": 40})
    lines = [better, *own, jump, replace(jump, step=60, metrics={"loss": 0.9})]
    assert lineage(lines, "1", KEY) == [(0, 0.5), (40, 0.5), (40, 0.4), (60, 0.4)]
    assert path(lines, "1", KEY)[-2:] == [(40, 0.4), (60, 0.4)]


def test_a_trial_that_never_changed_has_a_flat_path():
    lines = [replace(trial("0", 1.0), status=RUNNING, step=step) for step in (0, 20, 40)]
    assert path(lines, "0", KEY) == lineage(lines, "0", KEY) == [(0, 0.1), (20, 0.1), (20, 0.1), (40, 0.1)]


def test_a_curve_has_a_gap_where_a_trial_went_on_from_another():
    lines = population()
    jumped = exploits(lines)[0]
    assert any(math.isnan(step) for step, _ in curves(lines, "loss")[jumped.id])


def test_every_value_has_a_place_on_its_track_and_the_ends_have_words(tmp_path):
    space = {KEY: {"loguniform": [1e-4, 1e-1]}, "peft": {"choice": [{"kind": "full"}, {"kind": "lora", "r": 8}]}, "training.train_batch_size": {"int": [4, 8]}}
    for key, axis in make_study(tmp_path, space=space, searcher={"kind": "random"}).space().items():
        assert all(0 <= place_of(axis, value) <= 1 for value in axis.ends()), key
        assert place_of(axis, "else") is None
        assert len(ticks(axis)) >= 2


def lines_of(study, count=None):
    return list(play(make_searcher(study), make_scheduler(study), fails=("t003",)))[:count]


def test_a_study_has_a_report_in_every_state(tmp_path):
    study = make_study(tmp_path, stopper=ASHA)
    states = []
    for i, (count, ended) in enumerate([(None, "done"), (12, None), (12, "KeyboardInterrupt"), (0, None), (1, "done")]):
        output = study_folder(tmp_path / str(i), study, lines_of(study, count), ended=ended)
        held = Lease.acquire(open_storage(str(output)), LEASE, holder="test") if ended is None else None
        found = gather(open_storage(str(output)), BEGAN + 100)
        states.append(found.state())
        assert (f'http-equiv="refresh" content="{AGAIN_S}"' in report(found)) == (found.state() == "going")
        if held is not None:
            held.release()
    assert states == ["done", "going", "stopped", "going", "done"]
    killed = gather(open_storage(str(tmp_path / "1" / "study")), BEGAN + 100)
    assert killed.state() == "silent"
    assert "probably killed" in report(killed)


def test_the_report_says_what_won_what_it_saved_and_what_failed(tmp_path):
    study = make_study(tmp_path, stopper=ASHA)
    html = report(gather(open_storage(str(study_folder(tmp_path / "out", study, lines_of(study)))), BEGAN + 100))
    assert "Best: learning_rate 0.003162, train_batch_size 8." in html
    for words in ("compute saved", "Importance", "stopped here", "Trial t003 failed", "Parameters and values", "name: best", "9 of 9 trials ended"):
        assert words in html, words


def test_the_verb_writes_the_report_of_a_study(tmp_path, capsys):
    study = make_study(tmp_path)
    output = study_folder(tmp_path / "out", study, lines_of(study))
    assert cli.main(["report", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(output / "report.html")}
    with pytest.raises(OutputError, match="there is no study"):
        write_report(open_storage(str(tmp_path / "out")))


def test_a_metric_of_one_held_out_set_is_said_in_words_with_its_unit():
    assert (metric_name("stories/token_accuracy"), metric_unit("stories/token_accuracy")) == ("token accuracy on stories", "share of tokens")
    assert (metric_name("loss"), metric_unit("loss"), metric_unit("stories/bleu")) == ("loss", "nats per token", "")
