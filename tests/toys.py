"""A small Llama and rows for tests of the engine: the loop of trainers/loop.py in ten lines, without a stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from tunefleet.cluster.world import World
from tunefleet.data.layout import Record
from tunefleet.trainers.engine import Engine, Stepped
from tunefleet.trainers.objective import TokenScores
from tunefleet.trainers.objectives.sft import Sft
from tunefleet.trainers.run import RunFile

VOCABULARY = 61


class WholeLogits(nn.Module):
    """A token scorer with nothing to it: whole logits, log-softmax, gather."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, torch.Tensor], correct: bool = False) -> TokenScores:
        logits_BTV = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
        labels_BT = batch["labels"]
        logp_BT = logits_BTV.log_softmax(-1).gather(-1, labels_BT.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        hit_BT = (logits_BTV.argmax(-1) == labels_BT) if correct else None
        return TokenScores(logp_BT * (labels_BT >= 0), hit_BT)


def tiny_llama(seed: int = 0) -> nn.Module:
    """Two layers, width 32, tied embeddings; the same on every rank."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def tiny_run(*, stage: int = 0, precision: str = "fp32", offload: str = "none", **training: Any) -> RunFile:
    """A run file for the engine alone; ``training`` overrides keys of its training section."""
    section = {"max_steps": 100, "learning_rate": 1e-3, "precision": precision, "weight_decay": 0.01, **training}
    return RunFile.model_validate(
        {
            "model": {"name_or_path": "none"},
            "data": {"train": [{"path": "none"}]},
            "training": section,
            "zero": {"stage": stage, "offload": offload},
            "output": "none",
        }
    )


def step_records(step: int, rows: int) -> list[Record]:
    """Rows of a step: random tokens of uneven lengths, prompts unsupervised, the same for every rank."""
    draw = np.random.default_rng(1000 + step)
    records = []
    for i in range(rows):
        length = int(draw.integers(4, 17))
        ids = draw.integers(1, VOCABULARY, length).astype(np.int32)
        records.append(Record(step * rows + i, {"ids": ids, "supervised": (np.arange(length) >= length // 3).astype(np.uint8)}))
    return records


def rounds_of(records: list[Record], world: World, micro: int) -> list[tuple[list[Record], bool]]:
    """This rank's micro-batches of a step, equally many on every rank; a missing one is a row of weight zero."""
    pieces = [records[i : i + micro] for i in range(0, len(records), micro)]
    number = -(-len(pieces) // world.size)
    mine = [(piece, True) for piece in pieces[world.rank :: world.size]]
    return mine + [([records[0]], False)] * (number - len(mine))


def train_step(engine: Engine, world: World, step: int, *, rows: int = 7, micro: int = 2, rate: float = 1e-3) -> tuple[float, Stepped]:
    """One optimizer step on the rows of ``step``. Returns the loss of the step, and what the engine says of it."""
    objective = Sft(Sft.Config(), 0)
    rounds = [(objective.collate(records), real) for records, real in rounds_of(step_records(step, rows), world, micro)]
    weights = world.sum({"tokens": sum(objective.weights(batch)["tokens"] * real for batch, real in rounds)})
    total = 0.0
    for number, (batch, real) in enumerate(rounds):
        loss = objective.loss(engine.scorer, batch).over(weights) * float(real)
        engine.backward(loss, last=number == len(rounds) - 1)
        total += float(loss.detach())
    return world.sum({"loss": total})["loss"], engine.step(rate)


def make_engine(run: RunFile, world: World, model: nn.Module | None = None) -> Engine:
    """An engine on the tiny Llama."""
    return Engine(WholeLogits(model or tiny_llama()), run, world)
