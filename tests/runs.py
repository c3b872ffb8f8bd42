"""Small real runs for tests: rows, a tokenizer and a model that are made on the spot, and one call to train them on a gang."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gangs import gang

from tunefleet.cluster.metrics import read_lines
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.chain import absolute
from tunefleet.trainers.run import RunFile
from tunefleet.trainers.stage import EVENTS, METRICS, Stage

LLAMA = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def write_rows(path: Path, rows: int = 60) -> Path:
    """Questions of different lengths with answers that can be learnt."""
    words = ["red", "green", "blue", "black", "white"]
    lines = [{"prompt": f"After {' '.join(words[: 1 + i % 5])} number {i} comes?", "completion": words[(i + 1) % 5] * (1 + i % 3)} for i in range(rows)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def small_run(folder: Path, **sections: Any) -> RunFile:
    """A run file in a folder of its own; sections are merged into the defaults."""
    rows = folder / "rows.jsonl"
    if not rows.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(rows)
    defaults: dict[str, Any] = {
        "model": {"init": "random", "config": LLAMA, "tokenizer": {"train_vocab_size": 300}},
        "data": {"train": [{"path": str(rows)}], "holdout": 0.2, "store": str(folder / "shards"), "max_length": 96},
        "training": {"max_steps": 8, "train_batch_size": 7, "micro_batch_size": 2, "learning_rate": 3e-3, "warmup_ratio": 0.0},
        "scaling": {"num_workers": 2},
        "checkpoint": {"every_steps": 4},
        "evaluation": {"every_steps": 4, "placement": "inline", "bootstrap": 50, "samples": {"number": 2, "max_new_tokens": 8}},
        "output": str(folder / "out"),
    }
    merged = {key: {**value, **sections.pop(key, {})} if isinstance(value, dict) else sections.pop(key, value) for key, value in defaults.items()}
    return absolute(RunFile.model_validate({**merged, **sections}))


def make_stage(run: RunFile, *, fence: int = 1) -> Stage:
    """Prepare the run's shards here, as the driver does."""
    from tunefleet.trainers.console import RunConsole
    from tunefleet.trainers.launch import prepared, stage_of
    from tunefleet.trainers.output import Claim

    held = Claim(run, open_storage(run.output), fence, ())
    return stage_of(held, prepared(held, run.model, RunConsole()), "inline" if run.data.holdout else "none", ())


def work(stage: dict[str, Any], attempt: int) -> None:
    """What a rank of a gang does; module level, so that it crosses processes."""
    from tunefleet.cluster.world import World
    from tunefleet.trainers.worker import train_stage

    train_stage(Stage.from_json(stage), World.join(), attempt)


def train_on_gang(run: RunFile, *, attempt: int = 1) -> list[dict[str, Any]]:
    """Do a run on ``scaling.num_workers`` gloo processes, without Ray; its lines of metrics."""
    gang(run.scaling.num_workers, work, make_stage(run).to_json(), attempt, timeout=580)
    return lines(run)


def lines(run: RunFile) -> list[dict[str, Any]]:
    """A run's metrics."""
    return read_lines(open_storage(run.output), METRICS)


def events(run: RunFile) -> list[dict[str, Any]]:
    """A run's events."""
    return read_lines(open_storage(run.output), EVENTS)


EXACT = ("step", "epoch", "tokens", "loss", "learning_rate", "grad_norm", "examples")
"""What a fault may not move by one bit."""


def curve(run: RunFile) -> list[tuple[Any, ...]]:
    """The numbers of every step that are a function of the run file alone."""
    return [tuple(line[key] for key in EXACT) for line in lines(run)]
