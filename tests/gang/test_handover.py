"""A run goes on from another's checkpoint, weights and optimizer: the same numbers as if it had been the other one, and its own settings where they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runs import curve, events, lines, small_run, train_on_gang

from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.handover import adopt, point
from tunefleet.trainers.manifest import newest, newest_step
from tunefleet.trainers.run import RunFile
from tunefleet.trainers.stage import DONE

pytestmark = pytest.mark.gang
SETTINGS: dict[str, Any] = {"scaling": {"num_workers": 1}, "evaluation": {"every_steps": 4, "samples": {"number": 0}}, "export": {"at_end": False}}


def take_over(run: RunFile, other: RunFile) -> None:
    """Have a run go on from the other's newest checkpoint, and train it to its end."""
    there = open_storage(other.output)
    pointer = point(there, "mark", newest_step(there))
    assert pointer is not None
    output = open_storage(run.output)
    output.delete(DONE)  # as a claim does
    assert adopt(output, pointer, fence=1)
    train_on_gang(run)


def test_what_takes_over_is_the_other_run_with_its_optimizer_and_learns_at_its_own_rate(tmp_path: Path) -> None:
    constant = {"lr_scheduler_type": "constant"}
    half = small_run(tmp_path, training={"max_steps": 4, **constant}, output=str(tmp_path / "half"), **SETTINGS)
    whole = small_run(tmp_path, training={"max_steps": 8, **constant}, output=str(tmp_path / "whole"), **SETTINGS)
    train_on_gang(half)
    train_on_gang(whole)
    same = small_run(tmp_path, training={"max_steps": 8, **constant}, output=str(tmp_path / "same"), **SETTINGS)
    own = small_run(tmp_path, training={"max_steps": 8, "learning_rate": 1e-3, **constant}, output=str(tmp_path / "own"), **SETTINGS)
    same_start = small_run(tmp_path, training={"max_steps": 4, "learning_rate": 1e-4, **constant}, output=same.output, **SETTINGS)
    train_on_gang(same_start)
    take_over(same, half)
    assert curve(same)[4:] == curve(whole)[4:], "weights and both moments came along"
    assert [line["learning_rate"] for line in lines(same)] == pytest.approx([1e-4] * 4 + [3e-3] * 4)
    adopted = [event for event in events(same) if event["event"] == "adopted"]
    assert [(event["source"], event["step"], event["exact"]) for event in adopted] == [(half.output, 4, True)]
    take_over(own, half)
    assert [line["learning_rate"] for line in lines(own)] == pytest.approx([1e-3] * 4)
    assert lines(own)[0]["loss"] == lines(whole)[4]["loss"]
    assert lines(own)[-1]["loss"] != lines(whole)[-1]["loss"]
    found = newest(open_storage(own.output))
    assert found is not None
    assert found.step == 8
