"""Losses of a whole grid, recorded once: learning rate x rank x batch of a LoRA on real rows, each trained to its end, evaluated every 20 steps.

    python benchmarks/study_record.py            27 trainings of 180 steps, about half an hour on one core; writes benchmarks/results/<date>-study-record.json

What is recorded are losses, not times, so other work on the machine does not spoil them. `benchmarks/study_replay.py` replays them through the very
searchers and stoppers that `tunefleet tune` uses. A training is the real one: run file, shards, engine, loop and inline evaluation of a trial, on one rank
of this process, without Ray. It wants the model and the rows of /work/shared.
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

from recording import machine, save, show

from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.evaluation.files import read_results
from tunefleet.tuning.space import Choices, grid

MODEL, ROWS = Path("/work/shared/models/stories260K"), Path("/work/shared/data/text/tinyshakespeare.txt")
SPACE = {"training.learning_rate": Choices((1e-3, 1e-2, 5e-2)), "peft.r": Choices((2, 8, 32)), "training.train_batch_size": Choices((4, 8, 16))}
STEPS, EVERY = 180, 20


def run_file(folder: Path, point: dict[str, Any], name: str, steps: int) -> Any:
    """The run of one point."""
    from tunefleet.trainers.chain import absolute
    from tunefleet.trainers.run import RunFile

    return absolute(
        RunFile.model_validate(
            {
                "model": {"name_or_path": str(MODEL)},
                "data": {
                    "train": [{"path": str(ROWS)}],
                    "holdout": 0.02,
                    "store": str(folder / "shards"),
                    "max_length": 128,
                    "quality": {"near_duplicates": "off", "contradictions": "off"},
                },
                "objective": {"kind": "pretrain"},
                "peft": {"kind": "lora", "r": point["peft.r"], "lora_alpha": 16},
                "training": {
                    "max_steps": steps,
                    "train_batch_size": point["training.train_batch_size"],
                    "micro_batch_size": 16,
                    "learning_rate": point["training.learning_rate"],
                    "lr_scheduler_type": "linear",
                    "min_lr_ratio": 0.1,
                    "warmup_steps": 20,
                },
                "zero": {"stage": 0},
                "checkpoint": {"every_steps": None, "keep": 1},
                "evaluation": {"every_steps": EVERY, "placement": "inline", "bootstrap": 10, "samples": {"number": 0}},
                "export": {"at_end": False},
                "output": str(folder / name),
            }
        )
    )


def trained(run: Any) -> dict[int, float]:
    """Train a run to its end on one rank of this process; its held-out loss by step."""
    from tunefleet.cluster.world import World
    from tunefleet.trainers.console import RunConsole
    from tunefleet.trainers.launch import prepared, stage_of
    from tunefleet.trainers.output import Claim
    from tunefleet.trainers.worker import train_stage

    held = Claim(run, open_storage(run.output), 1, ())
    stage = stage_of(held, prepared(held, run.model, RunConsole()), "inline", ())
    assert train_stage(stage, World.join(), 1)
    return {found["step"]: found["tuned"]["loss"] for found in read_results(open_storage(run.output))}


def main() -> None:
    """Train all, write, show."""
    import torch
    import torch.distributed as dist

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=STEPS, help="optimizer steps of each")
    options.add_argument("--first", type=int, default=None, help="only so many of the grid")
    chosen, began = options.parse_args(), machine()
    torch.set_num_threads(1)
    points = list(grid(SPACE, {}))[: chosen.first]
    curves: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="study-record-") as place:
        folder = Path(place)
        dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=0, world_size=1, timeout=timedelta(minutes=5))
        for number, point in enumerate(points):
            started = perf_counter()
            losses = trained(run_file(folder, point, f"t{number:03d}", chosen.steps))
            curves.append({"parameters": point, "losses": {str(step): loss for step, loss in losses.items()}, "seconds": round(perf_counter() - started, 1)})
            print(f"{number + 1}/{len(points)} {point} {losses[chosen.steps]:.4f} {curves[-1]['seconds']} s", flush=True)
        dist.destroy_process_group()
    order = sorted(curves, key=lambda curve: curve["losses"][str(chosen.steps)])
    what = {"steps": chosen.steps, "evaluated_every": EVERY, "rows": str(ROWS), "model": str(MODEL), "metric": "loss", "mode": "min"}
    path = save("study-record", {**what, "trials": curves}, began)
    lines = [[*(f"{value:g}" for value in one["parameters"].values()), f"{one['losses'][str(chosen.steps)]:.4f}"] for one in order]
    show(f"held-out loss after {chosen.steps} steps ({path.name})", [*SPACE, "loss"], lines)


if __name__ == "__main__":
    main()
