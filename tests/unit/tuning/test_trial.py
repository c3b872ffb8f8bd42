"""What a trial is: an ordinary run file of its own, and what is read from the lines that its run writes."""

import pytest
from runs import small_run

from tunefleet.cluster.errors import SettingsError
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.nested import take_base
from tunefleet.tuning.study import StudyFile
from tunefleet.tuning.trial import Course, Plan, run_of


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
    course.line("events.jsonl", {"event": "group_started", "workers": [{}, {}]})
    lines = [("metrics.jsonl", {"step": step, "attempt": 1}) for step in (11, 12, 13)]
    lines.insert(early, ("events.jsonl", {"event": "training_started", "attempt": 1, "step": 10, "steps": 40}))
    for line in lines:  # the two files are read one after the other, so lines may be seen before the event that they follow
        course.line(*line)
    assert not course.line("events.jsonl", {"event": "checkpoint_complete", "step": 12})
    assert course.line("events.jsonl", {"event": "evaluation_finished", "step": 12, "tuned": {"loss": 2.0}})
    again = [("events.jsonl", {"event": "training_started", "attempt": 2, "step": 12, "steps": 40}), ("metrics.jsonl", {"step": 13, "attempt": 2})]
    for line in reversed(again) if early else again:
        course.line(*line)
    assert (course.steps, course.workers, course.last_step, course.step, course.metrics) == (4, 2, 40, 12, {"loss": 2.0})
    assert course.cost()["steps"] == 4
    assert course.cost()["worker_seconds"] >= 0


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
