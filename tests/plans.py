"""Runs whose memory is both planned and measured: the models, what a rank really holds, and what the dry run says."""

from __future__ import annotations

import json
from typing import Any

from gangs import gang

from tunefleet.cluster.world import World
from tunefleet.trainers.plan.dry import Job, Memory, Shape
from tunefleet.trainers.run import RunFile

_SIZES = {"vocab_size": 4000, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6, "max_position_embeddings": 512}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **_SIZES},
    "gpt2": {"model_type": "gpt2", "vocab_size": 6000, "n_embd": 256, "n_layer": 3, "n_head": 4, "n_positions": 512},
    "qwen3": {"model_type": "qwen3", **_SIZES, "num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True},
    "qwen3_moe": {"model_type": "qwen3_moe", **_SIZES, "num_key_value_heads": 2, "moe_intermediate_size": 128, "num_experts": 4, "num_experts_per_tok": 2},
}


def planned_run(
    model: dict[str, Any], *, stage: int, ranks: int, precision: str = "fp32", peft: str = "full", recompute: bool = False, offload: str = "none"
) -> RunFile:
    """A run of a random model."""
    return RunFile.model_validate(
        {
            "model": {"init": "random", "config": model},
            "data": {"train": [{"path": "none"}]},
            "peft": peft,
            "training": {"max_steps": 1, "precision": precision, "gradient_checkpointing": recompute},
            "zero": {"stage": stage, "offload": offload},
            "scaling": {"num_workers": ranks},
            "output": "none",
        }
    )


SHAPE = Shape(lengths=(128, 120, 96, 96), supervised=(100, 90, 80, 60), rounds=1, packed=False)


def job(run: RunFile, shape: Shape = SHAPE) -> Job:
    """What a dry run is told."""
    return Job(run.model_dump_json(), shape)


def _measured(text: str, shape: Shape) -> Memory:
    from tunefleet.trainers.plan.dry import bare_model
    from tunefleet.trainers.plan.followed import followed
    from tunefleet.trainers.plan.tape import Tape

    run, world = RunFile.model_validate(json.loads(text)), World.join()
    with Tape() as tape:
        return followed(run, shape, world, tape, bare_model(run, world, tape))


def measured(run: RunFile, shape: Shape = SHAPE) -> list[Memory]:
    """What each rank of a gang really holds."""
    return gang(run.scaling.num_workers, _measured, run.model_dump_json(), shape)
