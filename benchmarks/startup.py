"""From the command to the first training step: ``tunefleet train`` with 2 workers, and a bare Ray Train run of 2 workers that imports the same.

    python benchmarks/startup.py               5 minutes on 2 cores; writes benchmarks/results/<date>-startup.json

Both are new processes with a local Ray of their own, in alternating turns. Ours checks the run file, tokenises 500 rows, builds a model of 5 million
parameters, rehearses, and takes a step under ZeRO-2; the bare run imports torch, transformers, deepspeed and peft in its workers, and adds up one number.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from recording import machine, save, show, spread
from workload import LLAMA, made_rows, tokenizer

GOAL = 1.5
DEADLINE_S = 600.0
OURS, BARE = "tunefleet train", "bare Ray Train"


def bare(marker: str) -> None:
    """The bare run: a driver that starts Ray by itself, and two workers over gloo."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    def work() -> None:
        import deepspeed  # noqa: F401
        import peft  # noqa: F401
        import torch
        import torch.distributed as dist
        import transformers.models.llama.modeling_llama  # noqa: F401

        total = torch.ones(1)
        dist.all_reduce(total)
        if dist.get_rank() == 0:
            Path(marker).write_text("a step\n")

    TorchTrainer(
        work,
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(storage_path=str(Path(marker).parent / "ray")),
    ).fit()


def run_file(folder: Path, rows: Path, tokens: Path) -> Path:
    """A run of one step in a folder of its own: nothing is prepared, nothing evaluated or exported."""
    run = {
        "version": 1,
        "model": {"init": "random", "config": LLAMA, "tokenizer": {"name_or_path": str(tokens)}},
        "data": {"train": [{"path": str(rows)}], "store": str(folder / "shards"), "max_length": 512, "holdout": 0.0},
        "training": {"max_steps": 1, "train_batch_size": 16},
        "zero": {"stage": 2},
        "scaling": {"num_workers": 2},
        "export": {"at_end": False},
        "output": str(folder / "out"),
    }
    path = folder / "run.yaml"
    path.write_text(json.dumps(run))  # JSON is YAML
    return path


def timed(command: list[str], marker: Path, log: Path) -> dict[str, float]:
    """Seconds from the command to the first line of ``marker``, and to the end of the process. Raises RuntimeError when there is no such line."""
    began = time.perf_counter()
    with log.open("w") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"})
        while not (marker.exists() and marker.stat().st_size):
            if process.poll() is not None or time.perf_counter() - began > DEADLINE_S:
                process.kill()
                raise RuntimeError(f"no first step: {' '.join(command)}\n{log.read_text()[-3000:]}")
            time.sleep(0.02)
        first = time.perf_counter() - began
        process.wait()
    return {"first_step_s": first, "whole_s": time.perf_counter() - began}


def once(name: str, folder: Path, rows: Path, tokens: Path) -> dict[str, float]:
    """One turn."""
    folder.mkdir()
    if name == OURS:
        command, marker = [str(Path(sys.executable).with_name("tunefleet")), "train", str(run_file(folder, rows, tokens))], folder / "out" / "metrics.jsonl"
    else:
        marker = folder / "marker"
        command = [sys.executable, __file__, "--bare", str(marker)]
    return timed(command, marker, folder / "log.txt")


def main() -> None:
    """Measure, write the results, print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5, help="turns of each; one more goes first, for files to be read into memory")
    options.add_argument("--bare", metavar="MARKER", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.bare:
        bare(chosen.bare)
        return
    began = machine()
    turns: dict[str, list[dict[str, float]]] = {OURS: [], BARE: []}
    with TemporaryDirectory(prefix="startup-") as root:
        rows = made_rows(Path(root) / "rows.jsonl", 500)
        tokenizer(Path(root), rows)
        for number in range(chosen.rounds + 1):
            for name in (OURS, BARE) if number % 2 else (BARE, OURS):
                found = once(name, Path(root) / f"{number}-{name.replace(' ', '-')}", rows, Path(root) / "tokenizer")
                if number:
                    turns[name].append(found)
    figures = {name: {key: spread([t[key] for t in found]) for key in ("first_step_s", "whole_s")} for name, found in turns.items()}
    ratio = figures[OURS]["first_step_s"]["median"] / figures[BARE]["first_step_s"]["median"]
    by_turn = spread([a["first_step_s"] / b["first_step_s"] for a, b in zip(turns[OURS], turns[BARE], strict=True)])
    path = save("startup", {"workers": 2, "seconds": figures, "ratio": {"of_medians": ratio, "by_turn": by_turn}, "goal": GOAL}, began)
    lines = [[name, *(f"{s['median']:.1f} ({s['low']:.1f}-{s['high']:.1f})" for s in found.values())] for name, found in figures.items()]
    verdict = f"{'met' if ratio <= GOAL else 'missed'}: at most {GOAL}"
    show("seconds from the command: medians (range)", ["run of 2 workers", "to the first step", "to the end"], lines)
    print(f"ratio {ratio:.2f}, turn by turn {by_turn['median']:.2f} ({by_turn['low']:.2f}-{by_turn['high']:.2f}); goal {verdict}\nwritten to {path}")


if __name__ == "__main__":
    main()
