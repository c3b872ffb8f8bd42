"""What is trained in the benchmarks: GSM8K rows (or made ones of like lengths), a tokenizer of theirs, and a random Llama of 5 million parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tunefleet.data.layout import Record
    from tunefleet.data.store import Split
    from tunefleet.trainers.run import RunFile

GSM8K = Path("/work/shared/data/sft/gsm8k_train.jsonl")
VOCABULARY = 1024  # gives the head the share of the parameters that it has in an 8B model with 128 thousand tokens
LLAMA = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
MAX_LENGTH = 512


@dataclass(frozen=True)
class Work:
    """What a contestant trains, as it crosses to its processes."""

    run: RunFile
    store: str
    rows: str

    def split(self) -> Split:
        """The training rows, as tokens."""
        from tunefleet.data.store import Store

        return Store.open(self.store).split("train")

    def model(self) -> Any:
        """The random model in fp32, the same for every contestant."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(self.run.training.seed)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**LLAMA), dtype=torch.float32)


def make_work(folder: Path, *, batching: str = "auto", holdout: float = 0.0, evaluation: Mapping[str, Any] | None = None, **training: Any) -> Work:
    """Prepare the rows in ``folder`` (once), for a run with these settings of its training section; ``stage`` is that of ZeRO."""
    from tunefleet.data.layout import ANSWERS
    from tunefleet.data.prepare import prepare
    from tunefleet.trainers.run import RunFile

    rows = GSM8K if GSM8K.exists() else made_rows(folder / "rows.jsonl")
    run = RunFile.model_validate(
        {
            "model": {"init": "random", "config": LLAMA},
            "data": {"train": [{"path": str(rows)}], "store": str(folder / "shards"), "max_length": MAX_LENGTH, "holdout": holdout, "batching": batching},
            "evaluation": dict(evaluation or {}),
            "zero": {"stage": training.pop("stage", 1)},
            "training": {"max_steps": 1_000_000, "learning_rate": 1e-4, "lr_scheduler_type": "constant", "warmup_ratio": 0.0, **training},
            "output": str(folder / "out"),
        }
    )
    prepared = prepare(run.data, ANSWERS, tokenizer(folder, rows))
    return Work(run, prepared.store, "GSM8K" if rows == GSM8K else "made")


def tokenizer(folder: Path, rows: Path) -> Any:
    """A byte-level BPE of the rows, trained once."""
    from transformers import AutoTokenizer

    from tunefleet.trainers.vocabulary import train_tokenizer

    home = folder / "tokenizer"
    if not home.exists():
        texts = [f"{row['question']}\n{row['answer']}" for row in map(json.loads, rows.read_text().splitlines())]
        train_tokenizer(texts, VOCABULARY).save_pretrained(home)
    return AutoTokenizer.from_pretrained(home)


def made_rows(path: Path, rows: int = 7473) -> Path:
    """Rows whose lengths are spread like those of GSM8K: log-normal, questions about as long as answers (characters: median 225 and 260)."""
    draw = np.random.default_rng(0)
    words = ["apples", "costs", "dollars", "each", "seven", "bought", "many", "twelve", "days", "left", "friends", "times", "total", "half", "sells"]

    def text(median: float) -> str:
        count = int(np.clip(draw.lognormal(np.log(median / 6.5), 0.42), 4, 220))
        return " ".join(words[int(i)] for i in draw.integers(0, len(words), count)) + f" {draw.integers(0, 10**6)}."

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"question": text(225), "answer": text(260)}) + "\n" for _ in range(rows)))
    return path


def unshifted(records: Sequence[Record]) -> list[dict[str, list[int]]]:
    """Records as others want them: labels at the position of their own token, -100 where nothing is supervised."""
    return [{"input_ids": r.columns["ids"].tolist(), "labels": np.where(r.columns["supervised"] > 0, r.columns["ids"], -100).tolist()} for r in records]
