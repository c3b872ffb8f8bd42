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
        content = {"version": 1, "step": step, "manifest": f"checkpoints/step-{step:08d}/manifest.json", "tuned": {"loss": 1 / step}}
        output.put(f"evaluation/step-{step:08d}.json", json.dumps(content).encode())
    save(output, 10)
    return output, TrialLine("00000", 0, {}, "running", step=10, metrics={"loss": 0.1}, output=output.address, compute={"steps": 10})


def save(output, step):
    head = {"version": 1, "step": step, "fence": 1, "attempt": "a", "optimizer": {"updates": step}, "files": [], "meta": {}}
    output.put(f"checkpoints/step-{step:08d}/manifest.json", json.dumps(head).encode())


def test_an_evaluation_that_stands_is_written_down_unless_it_will_be_done_anew(trial):
    output, line = trial
    assert missing_lines([line]) == []
    save(output, 20)
    (found,) = missing_lines([line])
    assert (found.status, found.step, found.metrics) == ("running", 20, {"loss": 0.05})
    assert missing_lines([line, found]) == []


def test_a_run_that_is_done_is_finished_and_is_not_begun_again(trial):
    output, line = trial
    write_done(output, step=20, weights="checkpoints/step-00000020/manifest.json", exported=None, stopped=None)
    found = missing_lines([line])
    assert [(one.status, one.step) for one in found] == [("running", 20), ("finished", 20)]
    assert found[-1].metrics == {"loss": 0.05}
    assert missing_lines([line, *found]) == []
