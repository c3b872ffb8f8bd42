"""What a trial is: an ordinary run file of its own, and what is read from the lines that its run writes."""

import json

import pytest
from runs import small_run

from tunefleet.cluster.errors import SettingsError
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.nested import take_base
from tunefleet.tuning.study import StudyFile
from tunefleet.tuning.trial import Attempt, Course, Plan, cost_since, run_of


def write_lines(output, name, records):
    output.put(name, "".join(json.dumps(record) + "\n" for record in records).encode())


def plan_of(folder, **study):
    run = small_run(folder, output=str(folder / "study" / "base"))
    file = {"run": run.model_dump(mode="json"), "name": "s", "space": {"training.learning_rate": {"loguniform": [1e-4, 1e-2]}}, "output": str(folder / "study")}
    return Plan(StudyFile.model_validate({**file, **study}), placement="inline", local=True, base=str(folder / "study" / "base"))


def test_a_trial_is_the_studys_run_with_its_parameters_and_its_own_output_and_shares_what_is_made_once(tmp_path):
    plan = plan_of(tmp_path)
    one, other = (run_of(plan, name, {"training.learning_rate": rate}) for name, rate in [("00000", 1e-3), ("00001", 2e-3)])
    assert (one.output, one.training.learning_rate, one.name) == (str(tmp_path / "study" / "trials" / "00000"), 1e-3, "s-00000")
    assert one.evaluation.placement == "inline"
    assert not one.export.at_end
    assert one.data == other.data
    assert one.model == other.model
    assert one.model.tokenizer.name_or_path == str(tmp_path / "study" / "base" / "tokenizer")


def test_parameters_that_no_run_takes_are_the_trials_error(tmp_path):
    with pytest.raises(SettingsError, match="learning_rate"):
        run_of(plan_of(tmp_path), "00000", {"training.learning_rate": -1.0})


@pytest.mark.parametrize("early", [0, 1, 2])
def test_a_course_counts_steps_that_are_done_anew_and_keeps_the_last_evaluation(early):
    course = Course()
    course.line("events.jsonl", {"event": "group_started", "workers": [{}, {}], "time": 10.0})
    lines = [("metrics.jsonl", {"step": step, "attempt": 1, "time": 10.0 + step}) for step in (11, 12, 13)]
    lines.insert(early, ("events.jsonl", {"event": "training_started", "attempt": 1, "step": 10, "steps": 40, "time": 11.0}))
    for line in lines:  # the two files are read one after the other, so lines may be seen before the event that they follow
        course.line(*line)
    assert not course.line("events.jsonl", {"event": "checkpoint_complete", "attempt": 1, "step": 12, "time": 22.0})
    assert course.line(
        "events.jsonl", {"event": "evaluation_finished", "attempt": 1, "step": 12, "tuned": {"loss": 2.0}, "sets": {"a": {"loss": 1.5}}, "time": 22.0}
    )
    again = [
        ("events.jsonl", {"event": "training_started", "attempt": 2, "step": 12, "steps": 40, "time": 24.0}),
        ("metrics.jsonl", {"step": 13, "attempt": 2, "time": 26.0}),
    ]
    for line in reversed(again) if early else again:
        course.line(*line)
    assert (course.steps, course.workers, course.last_step, course.step, course.metrics) == (4, 2, 40, 12, {"loss": 2.0})
    assert (course.since, course.seen) == (10.0, 26.0)
    assert course.cost(30.0) == {"steps": 4, "worker_seconds": 40.0}


def test_trials_may_be_compared_by_one_held_out_set():
    finished = {"event": "evaluation_finished", "attempt": 1, "step": 12, "tuned": {"loss": 2.0}, "sets": {"a": {"loss": 1.5}, "b": {"loss": 2.5}}, "time": 1.0}
    by_one, by_none = Course("a/loss"), Course("c/loss")
    assert by_one.line("events.jsonl", finished)
    assert by_one.metrics == {"loss": 2.0, "a/loss": 1.5}
    by_none.line("events.jsonl", finished)
    assert by_none.metrics == {"loss": 2.0, "c/loss": None}


def test_a_metric_that_could_not_be_computed_is_not_there_and_one_that_is_not_finite_is_none():
    course = Course("a/loss")
    found = {"tuned": {"loss": 2.0, "f1": None, "rate": None}, "sets": {"a": {"loss": None}}, "failed": ["f1", "loss"]}
    course.line("events.jsonl", {"event": "evaluation_finished", "attempt": 1, "step": 12, **found, "time": 1.0})
    assert course.metrics == {"loss": 2.0, "rate": None}


def test_steps_are_counted_where_few_of_them_are_logged(tmp_path):
    course = Course()
    course.line("events.jsonl", {"event": "training_started", "attempt": 1, "step": 10, "steps": 200, "time": 1.0})
    course.line("events.jsonl", {"event": "evaluation_finished", "attempt": 1, "step": 10, "tuned": {}, "sets": {}, "time": 2.0})  # of the attempt before
    assert course.steps == 0
    course.line("events.jsonl", {"event": "evaluation_finished", "attempt": 1, "step": 20, "tuned": {}, "sets": {}, "time": 3.0})
    assert course.steps == 10
    course.line("events.jsonl", {"event": "stopping", "attempt": 1, "step": 23, "time": 4.0})
    course.line("events.jsonl", {"event": "checkpoint_complete", "attempt": 1, "step": 20, "time": 4.0})
    assert course.steps == 13
    course.line("metrics.jsonl", {"step": 100, "attempt": 1, "time": 9.0})
    assert course.steps == 90


def test_a_trial_that_can_write_nothing_still_says_that_it_has_ended(tmp_path):
    plan = plan_of(tmp_path)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "trials").write_text("a file where the trials' folder should be")
    attempt = Attempt(plan, "00000", {"training.learning_rate": 1e-3})
    attempt.start()
    assert {key: value for key, value in attempt.next().items() if key in ("done", "ended", "step")} == {"done": True, "ended": "failed", "step": 0}
    told = attempt.next()
    assert (told["done"], told["ended"], told["why"]) == (True, "failed", "it ended without a word")


def test_what_a_start_costs_is_read_from_its_lines_and_what_was_before_it_is_left_out(tmp_path):
    output = open_storage(tmp_path)
    write_lines(output, "metrics.jsonl", [{"step": step, "attempt": 1, "time": time} for step, time in [(19, 5.0), (20, 6.0), (21, 15.0), (22, 16.0)]])
    starts = [(1.0, 4.0, 10), (11.0, 14.0, 20)]
    events = [
        event
        for group, began, step in starts
        for event in (
            {"event": "group_started", "workers": [{}, {}], "time": group},
            {"event": "training_started", "attempt": 1, "step": step, "steps": 40, "time": began},
        )
    ]
    write_lines(output, "events.jsonl", events)
    assert cost_since(output, 10.0) == {"steps": 2, "worker_seconds": 10.0}
    assert cost_since(output, 17.0) == {"steps": 0, "worker_seconds": 0.0}


def test_scores_of_the_base_are_taken_over_where_there_are_none_yet(tmp_path):
    base, output = open_storage(tmp_path / "base"), open_storage(tmp_path / "output")
    take_base(output, base.address)
    assert output.list() == []
    base.put("evaluation/base.json", b"theirs")
    take_base(output, base.address)
    assert output.read("evaluation/base.json") == b"theirs"
    output.put("evaluation/base.json", b"own")
    take_base(output, base.address)
    assert output.read("evaluation/base.json") == b"own"
