"""Population based training on Ray: the worse trial goes on from the better one's weights and optimizer, by pointer, at a learning rate of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from livestudies import RATE, small_study, trial_events, trial_lines, trials

from tunefleet.cluster.storage import open_storage
from tunefleet.tuning.lines import read_trials

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3000)]
RUN: dict[str, Any] = {
    "training": {"max_steps": 240, "lr_scheduler_type": "constant"},
    "checkpoint": {"every_steps": 40},
    "evaluation": {"every_steps": 40, "samples": {"number": 0}},
}


def test_the_worse_trial_goes_on_from_the_better_one_at_a_rate_of_its_own(ray_session: Any, tmp_path: Path) -> None:
    from tunefleet.tuning.runstudy import tune_study

    pbt = {"kind": "pbt", "trials": 2, "seed": 0, "interval_steps": 40, "quantile": 0.5, "resample": 0.0}
    study = small_study(tmp_path, [1e-3], run=RUN, space={RATE: {"loguniform": [1e-6, 3e-3]}}, searcher=pbt)
    result = tune_study(study)
    assert result.trials["finished"] == 2
    changed = [line for line in read_trials(open_storage(study.output)) if line.parent is not None]
    assert changed, "no trial went on from another"
    first, better, worse = changed[0], changed[0].parent["id"], changed[0].id
    began = {line.id: line.parameters[RATE] for line in reversed(read_trials(open_storage(study.output)))}
    assert first.parameters[RATE] / began[better] == pytest.approx(1.25) or first.parameters[RATE] / began[better] == pytest.approx(0.8)
    adopted = next(event for event in trial_events(study, worse) if event["event"] == "adopted")
    assert adopted["source"] == f"{study.output}/trials/{better}"
    path = [line["learning_rate"] for line in trial_lines(study, worse)]
    assert path[-1] == pytest.approx(trials(study)[worse].parameters[RATE])
    assert [line["step"] for line in trial_lines(study, worse)][-1] == 240
    at = adopted["step"]
    ahead = {line["step"]: line for line in trial_lines(study, better)}
    behind = {line["step"]: line for line in trial_lines(study, worse)}
    assert behind[at + 1]["loss"] == ahead[at + 1]["loss"], "the same weights and the same rows: the rate tells them apart only from the next step on"
    assert behind[at + 1]["examples"] == ahead[at + 1]["examples"]
    assert Path(study.output, "report.html").exists()
