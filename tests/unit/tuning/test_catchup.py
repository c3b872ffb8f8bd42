"""Truth is in the outputs: what a killed driver could not write down is read from there."""

import json

import pytest

from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.stage import write_done
from tunefleet.tuning.catchup import missing_lines
from tunefleet.tuning.lines import TrialLine


@pytest.fixture
def trial(tmp_path):
    """A trial that was evaluated at 10 and 20, of which the study wrote down 10, and saved at 10."""
    output = open_storage(tmp_path)
    for step in (10, 20):
        numbers = {"tuned": {"loss": 1 / step}, "sets": {"stories": {"tuned": {"loss": {"value": 2 / step, "low": 0, "high": 1}}}}}
        content = {"version": 1, "step": step, "manifest": f"checkpoints/step-{step:08d}/manifest.json", **numbers}
        output.put(f"evaluation/step-{step:08d}.json", json.dumps(content).encode())
    save(output, 10)
    return output, TrialLine("00000", 0, {}, "running", step=10, metrics={"loss": 0.1}, output=output.address, compute={"steps": 10})


def save(output, step):
    head = {"version": 1, "step": step, "fence": 1, "attempt": "a", "optimizer": {"updates": step}, "files": [], "meta": {}}
    output.put(f"checkpoints/step-{step:08d}/manifest.json", json.dumps(head).encode())


def began(output, at, step):
    """A start of the trial by its own events: its workers and its first step came a second and two later."""
    events = [
        {"event": "started", "time": at},
        {"event": "group_started", "workers": [{}, {}], "time": at + 1},
        {"event": "training_started", "attempt": 1, "step": step, "steps": 40, "time": at + 2},
    ]
    output.append("events.jsonl", "".join(json.dumps(event) + "\n" for event in events).encode())


def stepped(output, at, step):
    output.append("metrics.jsonl", (json.dumps({"step": step, "attempt": 1, "time": at}) + "\n").encode())


def test_an_evaluation_that_stands_is_written_down_unless_it_will_be_done_anew(trial):
    output, line = trial
    assert missing_lines([line], "loss") == []
    save(output, 20)
    (found,) = missing_lines([line], "loss")
    assert (found.status, found.step, found.metrics) == ("running", 20, {"loss": 0.05})
    assert missing_lines([line, found], "loss") == []
    assert missing_lines([line], "stories/loss")[0].metrics == {"loss": 0.05, "stories/loss": 0.1}


def test_a_run_that_is_done_is_finished_and_is_not_begun_again(trial):
    output, line = trial
    write_done(output, step=20, weights="checkpoints/step-00000020/manifest.json", exported=None, stopped=None)
    found = missing_lines([line], "loss")
    assert [(one.status, one.step) for one in found] == [("running", 20), ("finished", 20)]
    assert found[-1].metrics == {"loss": 0.05}
    assert missing_lines([line, *found], "loss") == []


@pytest.mark.parametrize("status", ["running", "stopped"])
def test_steps_after_the_last_report_of_a_killed_study_count(trial, status):
    output, _ = trial
    first = TrialLine("00000", 0, {}, "running", output=output.address, time=0.5)
    reported = TrialLine(
        "00000", 0, {}, "running", step=10, metrics={"loss": 0.1}, output=output.address, compute={"steps": 10, "worker_seconds": 30.0}, time=20.0
    )
    began(output, 1.0, 0)
    stepped(output, 19.0, 10)
    lines = [first, reported]
    began(output, 30.0, 8)  # the study went on, from a checkpoint at 8, and was killed again
    for step, at in [(9, 33.0), (10, 34.0), (13, 36.0)]:
        stepped(output, at, step)
    last = TrialLine(**{**reported.to_json(), "status": status, "compute": {"steps": 12, "worker_seconds": 33.0}, "time": 35.0})
    (found,) = missing_lines([*lines, last], "loss")
    assert (found.status, found.step, found.compute) == (status, 10, {"steps": 15, "worker_seconds": 40.0})
    assert missing_lines([*lines, last, found], "loss") == []


def test_what_the_budget_cut_may_have_come_further_and_what_the_stopper_gave_up_stays_as_it_was(trial):
    output, line = trial
    save(output, 20)
    cut, given_up = (TrialLine(**{**line.to_json(), "status": "stopped", "why": "why", "cut": cut}) for cut in (True, False))
    assert [(one.status, one.cut, one.step) for one in missing_lines([cut], "loss")] == [("stopped", True, 20)]
    assert missing_lines([given_up], "loss") == []
    write_done(output, step=20, weights="checkpoints/step-00000020/manifest.json", exported=None, stopped=None)
    last = missing_lines([cut], "loss")[-1]
    assert (last.status, last.cut, last.why) == ("finished", False, "")
