"""A run as a user starts it: evaluation actors beside the training, early stopping by their numbers, the result from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import events, lines, small_run

from tunefleet.cluster.errors import OutputError

pytestmark = pytest.mark.ray


def test_actors_evaluate_while_steps_go_on_and_their_numbers_stop_the_run(ray_session: Any, tmp_path: Path) -> None:
    from tunefleet.trainers.launch import train

    run = small_run(
        tmp_path,
        training={"max_steps": 4000, "learning_rate": 0.3},  # it gets worse
        evaluation={"every_steps": 20, "placement": "actors", "early_stopping_patience": 2},
        checkpoint={"every_steps": None},
        logging={"every_steps": 5},
    )
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(run.model_dump(mode="json")))
    result = train(str(file))

    assert result.stopped == "early stopping"
    assert result.step < 4000
    assert result.evaluation["checkpoint"]
    assert result.exported is not None
    assert Path(result.exported, "model.safetensors").exists()
    assert "Training stopped early" in Path(run.output, "report.html").read_text()  # it was written at the end, by the evaluation of the best weights
    told = events(run)
    spans = [
        (start["time"], end["time"])
        for start in told
        for end in told
        if start["event"] == "evaluation_started" and end["event"] == "evaluation_finished" and start["step"] == end["step"]
    ]
    assert spans
    assert any(began < line["time"] < ended for began, ended in spans for line in lines(run))
    assert [e for e in told if e["event"] == "early_stopping"]

    with pytest.raises(OutputError, match="exists already"):
        train(str(file))
