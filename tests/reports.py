"""Outputs of runs, made up file by file, so that a report can be asked of every state that a run may be in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tunefleet.cluster.metrics import finite
from tunefleet.cluster.plugins import config
from tunefleet.data.summary import Histogram, Label, Lengths, SourceSummary
from tunefleet.trainers.evaluation.closer import Closer
from tunefleet.trainers.evaluation.gap import Scored, overfitting
from tunefleet.trainers.evaluation.gate import judge
from tunefleet.trainers.evaluation.gatefile import Gate
from tunefleet.trainers.evaluation.heldout import HeldOut, RowFacts
from tunefleet.trainers.evaluation.metric import make_metrics
from tunefleet.trainers.evaluation.rows import BINNED, BINS, RowScores
from tunefleet.trainers.run import METRICS, RunFile

BEGAN = 1_790_000_000.0
EVIL = "<script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\"></pre>'\u202e\x00"
"""What a row or a generation may hold; a test that finds it as an element, or the page's title changed, has found a hole."""
RUN = {
    "version": 1,
    "name": "toy",
    "model": {"name_or_path": "/models/small"},
    "data": {"train": [{"path": "/rows/train.jsonl"}], "holdout": 0.1, "max_length": 64, "quality": {"leakage": "warn", "truncated": "keep"}},
    "objective": {"kind": "sft"},
    "peft": {"kind": "lora", "r": 8, "lora_alpha": 16.0, "target_modules": "all-linear"},
    "training": {"max_steps": 60, "train_batch_size": 8, "max_grad_norm": 1.0, "seed": 0},
    "evaluation": {"early_stopping_metric": "loss", "early_stopping_mode": "min"},
    "scaling": {"num_workers": 2},
    "zero": {"stage": 2},
    "output": "runs/toy",
}
COUNTS = {"rows": 100, "kept": 99, "examples": 99, "tokens": 5000, "supervised": 2500, "train": 89, "holdout": 10, "leakage": 0, "truncated": 0, "invalid": 1}


def run_folder(folder: Path, *, steps: int = 60, change: float = -0.5, **replaced: Any) -> Path:
    """An output with a run that is done. ``change``: tuned minus base of the held-out loss. Others replace files: ``metrics``, ``events``, ``done=None``."""
    parts = {"run": RUN, "metrics": metrics(steps), "events": [*opening(), *closing(steps)], "samples": {}, **replaced}
    done = {"step": steps, "weights": f"checkpoints/step-{steps:08d}/manifest.json", "exported": None, "stopped": None}
    done = parts.get("done", done)
    (folder / "evaluation").mkdir(parents=True)
    (folder / "run.yaml").write_text(yaml.safe_dump(parts["run"], sort_keys=False))
    for name in ("metrics", "events"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(finite(line)) + "\n" for line in parts[name]))
    for step in replaced.get("evaluated", [steps // 2, steps]):
        content = evaluation(step, change * step / steps, replaced.get("sets", ("holdout",)))
        (folder / "evaluation" / f"step-{step:08d}.json").write_text(json.dumps(content))
    for step, prompts in parts["samples"].items():
        (folder / "evaluation" / f"samples-step-{step:08d}.json").write_text(json.dumps({"step": step, "prompts": prompts}))
    if done:
        (folder / "done.json").write_text(json.dumps(done))
    return folder


def looked_into(names: Mapping[str, str], *, gate: bool = True) -> dict[str, Any]:
    """The content of an evaluation with everything below its totals: 120 made rows, 40 of them general; ``names`` replaces words that rows bring."""
    said = {"source": "rows", "label": "red", "set": "stories", "text": "some words", **names}
    random = np.random.default_rng(0)
    rows, general = 120, np.arange(120) >= 80
    base_nll = random.normal(3, 0.5, rows)
    tuned_nll = base_nll + np.where(general, 1.0, -0.7) + random.normal(0, 0.6, rows) + np.where(np.arange(rows) < 20, 1.2, 0)
    texts = {"reference": [said["text"]] * rows}
    sums = {"tokens": np.ones(rows), **of_chance(random, rows)}
    tuned = RowScores(np.arange(rows), {**sums, "nll": tuned_nll}, {**texts, "answer": [said["text"] if row % 3 else "other" for row in range(rows)]})
    base = RowScores(
        np.arange(rows),
        {**sums, **of_chance(random, rows), "nll": base_nll},
        {**texts, "answer": [said["text"] if row % 2 else "other" for row in range(rows)]},
    )
    held = HeldOut(FakeSplit(rows), {"holdout": np.arange(80), said["set"]: np.arange(80, rows)}, "rows")
    labels = [said["label"] if row < 20 else "blue" if row < 50 else "green" for row in range(rows)]
    sources = [said["source"] if row % 2 else "others" for row in range(rows)]
    vars(held)["facts"] = RowFacts(sources, np.arange(rows), labels, [said["text"]] * rows, [said["text"]] * rows)
    run = RunFile.model_validate({**RUN, "model": {"name_or_path": "/models/small"}, "evaluation": {"bootstrap": 200}})
    own = make_metrics([config(METRICS, kind)() for kind in ("loss", "exact_match", "label_f1", "calibration_error", "latency")])
    found = Closer(run, held, general=[said["set"]]).compare(tuned, base, own)
    own_rows = np.arange(80)
    trained = (RowScores(tuned.ids, {**sums, "nll": nll}).select(own_rows) for nll in (tuned_nll - 0.5, base_nll))
    found["gap"] = overfitting(*map(Scored, (tuned, base), trained), own, sets={"holdout": own_rows}, resamples=200, seed=0)
    checks = {
        "gain": [{"metric": "loss", "least": 0.05}],
        "regression": [{"metric": "loss", "slice": "label"}],
        "forgetting": [{"metric": "loss", "most": 0.2}],
    }
    if gate:
        found["gate"] = judge(Gate.model_validate(checks), found)
    named = {"version": 1, "step": 60, "checkpoint": "0" * 64, "manifest": "checkpoints/step-00000060/manifest.json", "placement": "inline", "seconds": 1.0}
    return {**named, **found, "source": said["source"], "base_model": "/models/small"}


def of_chance(random: np.random.Generator, rows: int) -> dict[str, Any]:
    """Certainty and times of rows, of each one token: a model that is right less often than it is sure."""
    sure = random.uniform(0.2, 1, rows)
    bins = np.arange(1, BINS + 1) == np.ceil(sure * BINS)[:, None]
    hits = random.random(rows) < sure - 0.15
    parts = np.concatenate([bins * of[:, None] for of in (np.ones(rows), sure, hits)], axis=1)
    first = random.lognormal(-3, 0.5, rows)
    times = {
        "first_token_s": first,
        "answer_s": first + random.lognormal(0, 0.6, rows),
        "busy_s": first,
        "answered": np.ones(rows),
        "answer_tokens": np.ones(rows),
    }
    return {**dict(zip(BINNED, parts.T, strict=True)), **times}


@dataclass(frozen=True)
class FakeSplit:
    """As many rows as a split has; nothing of them is read."""

    rows: int

    @property
    def lengths(self) -> Any:
        return np.arange(self.rows)


def metrics(steps: int) -> list[dict[str, Any]]:
    """A falling curve, with one step that was not finite."""
    return [
        {
            "step": step,
            "time": BEGAN + 30 + step,
            "epoch": step / 20,
            "tokens": 500 * step,
            "loss": math.nan if step == 7 else 2 + 3 * math.exp(-step / 20),
            "learning_rate": 1e-3 * (1 - step / (steps + 1)),
            "grad_norm": math.nan if step == 7 else 1 + 5 / step,
            "applied": step != 7,
            "tokens_per_second": 5000.0,
            "step_seconds": 0.1,
            "padding": 0.1,
            "examples": "0",
        }
        for step in range(1, steps + 1)
    ]


def opening() -> list[dict[str, Any]]:
    """Events up to the first step."""
    return [
        event(0, "started", phase="starting", changed=[], machine={"cpu": "a processor", "cores": 2, "memory_gib": 8.0}, versions={"torch": "2.13.0"}),
        event(5, "decision", text="a choice that nobody made"),
        event(
            6, "prepared", store="/shards/abc", fingerprint="abc" * 8, created=True, counts=COUNTS, report="/shards/abc/report.html", sources=[source("train")]
        ),
        event(20, "workers_ready", phase="starting", ranks=2, device="cpu", hardware="a processor"),
        event(30, "training_started", phase="training", step=0, steps=60),
    ]


def source(name: str) -> dict[str, Any]:
    """What a data report says of a source, whose only label has its name too."""
    few = Histogram((0.0, 10.0, 20.0), (40, 59))
    tokens = Lengths(median=12, mean=11.5, p95=18, longest=20, histogram=few)
    counts = {"rows": 100, "kept": 99, "tokens": 5000, "supervised": 2500, "lost": 40, "whole": 90, "pieces": 0, "all_cut": 0, "other_labels": 0}
    learnt = Histogram((0.0, 0.5, 1.0), (50, 49))
    return asdict(SourceSummary(name, held=False, files=1, needed=(30, 40), lengths=tokens, learnt=learnt, labels=(Label(name, 99),), labelled=True, **counts))


def closing(steps: int) -> list[dict[str, Any]]:
    """Events of a good end."""
    return [
        event(40, "checkpoint_started", phase="checkpoint", step=steps),
        event(42, "checkpoint_ended", phase="training", step=steps),
        event(90, "run_done", phase="finishing", step=steps),
        event(92, "finished", phase="stopped", steps=steps),
    ]


def event(after: float, kind: str, /, **fields: Any) -> dict[str, Any]:
    """An event some seconds after the run began."""
    return {"time": BEGAN + after, "event": kind, "attempt": 1, **fields}


def evaluation(step: int, change: float, sets: tuple[str, ...]) -> dict[str, Any]:
    """An evaluation file: the loss of every set changed by ``change``, give or take 0.05; of further sets by minus that."""
    found = {}
    for i, name in enumerate(sets):
        moved = change if i == 0 else -change
        near = {"value": 2.5 + moved, "low": 2.45 + moved, "high": 2.55 + moved}
        base, difference = {"value": 2.5, "low": 2.4, "high": 2.6}, {"value": moved, "low": moved - 0.05, "high": moved + 0.05}
        found[name] = {"rows": 10, "tokens": 400, "tuned": {"loss": near}, "base": {"loss": base}, "difference": {"loss": difference}}
    manifest = f"checkpoints/step-{step:08d}/manifest.json"
    named = {"version": 1, "step": step, "checkpoint": "0" * 64, "manifest": manifest, "placement": "inline", "seconds": 1.0}
    first = found[sets[0]]
    return {**named, "rows": 10, "tuned": {"loss": 2.5 + change}, "base": {"loss": 2.5}, "difference": first["difference"], "sets": found}
