"""What passes through Ray Tune."""

import json

from ray._private.dict import flatten_dict

from tunefleet.tuning.raytune import TOLD, report_of


def test_a_report_comes_back_whole_whatever_a_held_out_set_is_called():
    report = {"step": 20, "metrics": {"loss": 2.0, "metrics/loss": None}, "cost": {"steps": 20}, "metrics/loss": float("inf")}
    result = {"step": 20, "metrics/loss": float("inf"), TOLD: json.dumps(report), "config": {"peft.r": 8}}
    assert report_of(flatten_dict(result)) == report_of(result) == report
    assert report_of(None) == {}
