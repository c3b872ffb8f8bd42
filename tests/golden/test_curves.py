"""Golden loss curves: a change that should alter no number must show the same curve, objective by objective.

`TUNEFLEET_WRITE_GOLDEN=1 pytest tests/golden` writes them anew; say in the commit why they moved.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from runs import lines, small_run, train_on_gang

from tunefleet.cluster.plugins import kinds
from tunefleet.trainers.run import OBJECTIVES

pytestmark = pytest.mark.gang


@pytest.mark.parametrize("kind", kinds(OBJECTIVES))
def test_an_objective_still_follows_its_golden_curve(kind: str, tmp_path: Path) -> None:
    run = small_run(tmp_path, objective={"kind": kind}, scaling={"num_workers": 1}, evaluation={"every_steps": None}, export={"at_end": False})
    train_on_gang(run)
    curve = [{"loss": line["loss"], "grad_norm": line["grad_norm"], "examples": line["examples"]} for line in lines(run)]
    golden = Path(__file__).parent / f"{kind}.json"
    if os.environ.get("TUNEFLEET_WRITE_GOLDEN") == "1":
        golden.write_text(json.dumps(curve, indent=1) + "\n")
    for ours, wanted in zip(curve, json.loads(golden.read_text()), strict=True):
        assert ours["examples"] == wanted["examples"]
        assert ours["loss"] == pytest.approx(wanted["loss"], rel=1e-4)  # processors differ in the last bits
        assert ours["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-3)
