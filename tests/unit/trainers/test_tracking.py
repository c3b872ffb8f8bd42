"""Trackers show the numbers of metrics.jsonl and of the evaluations, each step once, also after a resume; and none can harm the run."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trackerfiles
from runs import LLAMA

from tunefleet.cluster.metrics import Lines, read_lines
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.check import CHECKS, check_run
from tunefleet.trainers.recorded import code_of
from tunefleet.trainers.run import RunFile
from tunefleet.trainers.tracker import Point, points_of, told_settings
from tunefleet.trainers.tracking import Mending, Tracking, mending

KINDS = [
    pytest.param(kind, marks=pytest.mark.skipif(importlib.util.find_spec(kind) is None, reason=f"{kind} is an extra that is not installed"))
    for kind in ("tensorboard", "mlflow", "wandb")
]
TIMES = iter(range(1_700_000_000, 1_800_000_000))


def run_file(output, *trackers, **sections):
    base = {"model": {"init": "random", "config": LLAMA}, "data": {"train": [{"path": "rows.jsonl"}]}, "training": {"max_steps": 8}, "output": str(output)}
    return RunFile.model_validate({**base, "logging": {"trackers": list(trackers)}, **sections})


def line(step):
    now = next(TIMES)
    return {"step": step, "time": now + 0.25, "loss": 1 / (step + now % 97), "tokens": 10 * step, "applied": True, "grad_norm": None, "examples": "abc"}


def evaluate(storage, step):
    value = {"value": 2 / (step + 1 / 3), "low": 1.0, "high": 2.0}
    sides = {"tuned": {"loss": value["value"]}, "base": {"loss": 3.25}}
    content = {"version": 1, "step": step, "manifest": "m", **sides, "sets": {"holdout": {"tuned": {"loss": value}, "base": {"loss": value}}}}
    storage.put(f"evaluation/step-{step:08d}.json", json.dumps(content).encode())
    return {"event": "evaluation_finished", "step": step}


def live(run, storage, steps, said, evaluations=()):
    """A driver's session: lines come one by one, as the tail hands them over."""
    with Tracking(run, storage, said.append) as tracking:
        lines = Lines(storage, "metrics.jsonl")
        for step in steps:
            record = line(step)
            lines.add(record)
            tracking.line("metrics.jsonl", record)
            if step in evaluations:
                tracking.line("events.jsonl", evaluate(storage, step))


def expected(storage, kind):
    """Names and numbers of the files themselves, read without our own code."""
    found = {}
    for record in read_lines(storage, "metrics.jsonl"):
        found |= {(f"training/{name}", record["step"]): float(record[name]) for name in ("loss", "tokens", "applied")}
    for name in storage.list("evaluation/"):
        content = json.loads(storage.read(name))
        found |= {(f"evaluation/{side}/loss", content["step"]): content[side]["loss"] for side in ("tuned", "base")}
    return {key: float(np.float32(value)) if kind == "tensorboard" else value for key, value in found.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tracker_shows_the_files_numbers_once_through_resumes_and_a_killed_driver(tmp_path, kind):
    run, storage, said = run_file(tmp_path, kind), open_storage(tmp_path), []
    live(run, storage, [1, 2, 3, 4], said, evaluations=[2, 4])
    live(run, storage, [5, 6], said)  # a later driver goes on
    assert trackerfiles.once(getattr(trackerfiles, kind)(tmp_path / "trackers")) == expected(storage, kind)
    with Tracking(run, storage, said.append) as tracking:  # one whose workers went back to step 4 and on: other times, other numbers
        lines = Lines(storage, "metrics.jsonl")
        lines.truncate_after(4)
        for step in (5, 6, 7):
            record = line(step)
            lines.add(record)
            tracking.line("metrics.jsonl", record)
        tracking.line("events.jsonl", evaluate(storage, 6))
    assert trackerfiles.once(getattr(trackerfiles, kind)(tmp_path / "trackers")) == expected(storage, kind)
    state = tmp_path / "trackers" / f"{kind}.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "clean": False}))  # what a driver leaves that is killed while it tells
    Lines(storage, "metrics.jsonl").truncate_after(5)
    live(run, storage, [6, 7, 8], said, evaluations=[8])
    assert trackerfiles.once(getattr(trackerfiles, kind)(tmp_path / "trackers")) == expected(storage, kind)
    assert len(expected(storage, kind)) == 8 * 3 + 4 * 2
    assert said == []


def test_a_tracker_that_breaks_is_said_once_without_secrets_and_the_others_go_on(tmp_path):
    run, storage, said = run_file(tmp_path, "tensorboard"), open_storage(tmp_path), []
    run = run.model_copy(update={"logging": run.logging.model_copy(update={"trackers": [broken_settings(), *run.logging.trackers]})})
    live(run, storage, [1, 2, 3, 4, 5], said)
    assert len(said) == 1
    assert "broken_tracker" in said[0]
    assert "hunter2" not in said[0]
    events = read_lines(storage, "events.jsonl")
    assert [event["event"] for event in events] == ["tracker_failed"]
    assert "hunter2" not in json.dumps(events)
    assert trackerfiles.once(trackerfiles.tensorboard(tmp_path / "trackers")) == expected(storage, "tensorboard")


def broken_settings():
    from tunefleet.cluster.settings import Settings

    class Named(Settings):
        kind: str = "mylab.broken_tracker"

    import types

    import broken_tracker

    sys.modules.setdefault("mylab", types.ModuleType("mylab"))
    sys.modules["mylab.broken_tracker"] = broken_tracker
    return Named()


def test_no_secret_of_run_file_environment_or_command_line_is_sent(tmp_path):
    """In a process of its own: what a tracker picks up there by itself must not leave it either."""
    kinds = [kind for kind in ("tensorboard", "mlflow", "wandb") if importlib.util.find_spec(kind)]
    program = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[3] / "src"), str(Path(__file__).parents[2]), str(Path(__file__).parent)]!r}
from test_tracking import live, open_storage, run_file
data = {{"train": [{{"path": "s3://bucket/rows.jsonl?X-Amz-Signature=canary-signed"}}], "store": "https://me:canary-password@host/shards"}}
live(run_file({str(tmp_path)!r}, *{kinds!r}, data=data), open_storage({str(tmp_path)!r}), [1, 2], [])
"""
    secret = {"CANARY_TOKEN": "canary-environment", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "home")}
    subprocess.run([sys.executable, "-P", "-c", program, "canary-argument"], env=secret, check=True, capture_output=True, timeout=120, cwd=tmp_path)
    files = [path for path in (tmp_path / "trackers").rglob("*") if path.is_file()]
    assert {path.relative_to(tmp_path / "trackers").parts[0] for path in files} >= set(kinds)
    assert [str(path) for path in files if b"canary" in path.read_bytes()] == []


def test_settings_are_flat_and_masked(tmp_path):
    told = told_settings(run_file(tmp_path, data={"train": [{"path": "s3://key:word@bucket/rows.jsonl"}]}))
    assert told["data.train"].count("word") == 0
    assert told["training.max_steps"] == "8"


def point(step, value):
    return Point("training", step, 0.0, {"training/loss": value})


def test_mending_takes_back_from_the_first_difference_and_tells_what_is_missing():
    truth = {p.key: p for p in (point(1, 0.1), point(2, 0.2), point(3, 0.3))}
    assert mending({}, truth) == Mending(None, tuple(truth.values()))
    assert mending({k: p.values for k, p in truth.items()}, truth) == Mending(None, ())
    told = {("training", 1): {"training/loss": 0.1}, ("training", 2): {"training/loss": 9.0}, ("training", 4): {"training/loss": 0.4}}
    assert mending(told, truth) == Mending(1, (point(2, 0.2), point(3, 0.3)))


def test_several_held_out_sets_have_numbers_of_their_own(tmp_path):
    storage = open_storage(tmp_path)
    evaluate(storage, 2)
    name = "evaluation/step-00000002.json"
    content = json.loads(storage.read(name))
    storage.put(name, json.dumps({**content, "sets": {"a": content["sets"]["holdout"], "b": content["sets"]["holdout"]}}).encode())
    assert {"evaluation/a/tuned/loss", "evaluation/b/base/loss"} <= set(points_of(storage)["evaluation", 2].values)


def test_a_tracker_that_is_not_installed_is_refused_with_its_extra(tmp_path, monkeypatch):
    checks = tuple(check for check in CHECKS if check[0] == ("logging.trackers",))
    run = run_file(tmp_path, "wandb")
    monkeypatch.setattr("tunefleet.trainers.trackers.wandb.Wandb.package", "no_such_package_here")
    (problem,) = check_run(run, checks=checks)
    assert "tunefleet[wandb]" in problem.fix


def test_a_recorded_run_may_not_bring_a_tracker_of_its_own():
    assert list(code_of({"logging": {"trackers": [{"kind": "evil.tracker"}, "wandb", "evil.other"]}})) == [
        "logging.trackers.0.kind: evil.tracker",
        "logging.trackers.2.kind: evil.other",
    ]
