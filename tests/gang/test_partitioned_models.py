"""Models at ZeRO stage 3: LoRA with gradient checkpointing, ranks with unequal numbers of chunks, and the same random weights as at stage 0."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gangs import gang
from tiny_models import ARCHITECTURES, CONFIGS, tiny_batch

from tunefleet.cluster.world import World
from tunefleet.trainers.run import RunFile

pytestmark = pytest.mark.gang


def run_file(architecture: str, *, stage: int, lora: bool, **model: Any) -> RunFile:
    config = {**CONFIGS[architecture], "initializer_range": 0.2}
    dropless = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0} if architecture == "gpt2" else {}
    return RunFile.model_validate(
        {
            "model": {"init": "random", "config": {**config, **dropless}, **model},
            "data": {"train": [{"path": "rows.jsonl"}]},
            "peft": {"kind": "lora", "r": 2} if lora else {"kind": "full"},
            "training": {"max_steps": 2, "learning_rate": 1e-2, "gradient_checkpointing": True, "max_grad_norm": None},
            "zero": {"stage": stage},
            "output": "unused",
        }
    )


def train(stage: int, lora: bool) -> dict[str, list[float]]:
    """Per architecture, the loss before every step of the same rows. Ranks have batches of different sizes, so different numbers of chunks."""
    from tunefleet.trainers.engine import Engine
    from tunefleet.trainers.models import build
    from tunefleet.trainers.scoring import TokenScorer, verify

    world, curves = World.join(), {}
    whole = tiny_batch(rows=5, length=14)
    share = {name: value[:1] if world.rank == 0 else value[1:] for name, value in whole.items()} if world.size == 2 else whole
    for architecture in ARCHITECTURES:
        run = run_file(architecture, stage=stage, lora=lora)
        scorer = TokenScorer(build(run, world).model, chunk_logits=96 * 4)
        engine = Engine(scorer, run, world)
        assert verify(scorer, whole) < 1e-3
        curves[architecture] = [train_step(engine, share, world) for _ in range(3)]
        engine.close()
    return curves


def train_step(engine: Any, share: dict[str, torch.Tensor], world: World) -> float:
    loss = -engine.scorer.token_scores(share).logp_BT.sum() / 40
    engine.backward(loss, last=True)
    engine.step(1e-2)
    return world.sum({"loss": float(loss.detach())})["loss"]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_stage_three_on_two_ranks_trains_as_stage_zero_on_one(lora: bool) -> None:
    alone = gang(1, train, 0, lora)[0]
    both = gang(2, train, 3, lora)
    assert both[0] == both[1]
    for architecture, curve in alone.items():
        assert both[0][architecture] == pytest.approx(curve, rel=1e-4), architecture
        assert curve[-1] < curve[0]


def frozen_in_bf16(stage: int) -> tuple[list[float], set[str]]:
    from tunefleet.trainers.engine import Engine
    from tunefleet.trainers.models import build
    from tunefleet.trainers.scoring import TokenScorer

    world, run = World.join(), run_file("llama", stage=stage, lora=True, dtype="bfloat16")
    model = build(run, world).model
    dtypes = {f"{p.dtype} {p.requires_grad}" for p in model.parameters()}
    engine, batch = Engine(TokenScorer(model), run, world), tiny_batch(seed=world.rank)
    return [train_step(engine, batch, world) for _ in range(3)], dtypes


def test_a_frozen_base_in_bf16_carries_adapters_in_fp32() -> None:
    curve, dtypes = gang(2, frozen_in_bf16, 2)[0]
    assert dtypes == {"torch.bfloat16 False", "torch.float32 True"}
    assert curve[-1] < curve[0]
