"""The gate over models that were really trained: one that is better, one that learnt shuffled answers, and one that forgot."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_model
from tiny_tokenizers import tiny_tokenizer, tokenizer_folder

from tunefleet.cluster.plugins import config
from tunefleet.data.formats.prompt_completion import PromptCompletion
from tunefleet.data.layout import Record
from tunefleet.data.tokens import Encoder
from tunefleet.trainers.evaluation.gatefile import Gate
from tunefleet.trainers.evaluation.standalone import evaluate
from tunefleet.trainers.objective import make_objective
from tunefleet.trainers.run import OBJECTIVES, RunFile

ANIMALS = {"red": "fox", "blue": "dog", "green": "cow", "black": "cat", "white": "hen", "brown": "owl"}
PLACES = {"hill": "sun", "lake": "fog", "wood": "sky", "moor": "ice"}
GATE = Gate.model_validate(
    {
        "gain": [{"metric": "loss", "set": "animals", "least": 0.3}],
        "regression": [{"metric": "loss", "slice": "label"}],
        "forgetting": [{"metric": "loss", "set": "places", "most": 0.3}],
    }
)


def asked(words: dict[str, str], kind: str, numbers: range) -> list[tuple[str, str]]:
    return [(f"{kind} {number}, {word}:", f" {answer}") for number in numbers for word, answer in words.items()]


def shuffled(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    answers = [answer for _, answer in rows]
    random.Random(0).shuffle(answers)
    return [(prompt, answer) for (prompt, _), answer in zip(rows, answers, strict=True)]


ANIMAL_ROWS, PLACE_ROWS = asked(ANIMALS, "animal", range(20)), asked(PLACES, "place", range(20))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    """A base model that knows places by heart, and of animals only their names; held-out rows of both."""
    home = tmp_path_factory.mktemp("gate")
    for name, rows in (("train", ANIMAL_ROWS), ("animals", asked(ANIMALS, "animal", range(20, 30))), ("places", asked(PLACES, "place", range(20, 30)))):
        (home / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": prompt, "completion": answer}) + "\n" for prompt, answer in rows))
    off = dict.fromkeys(("exact_duplicates", "near_duplicates", "contradictions", "leakage", "near_leakage"), "off")
    model = tiny_model("llama", vocab_size=420, initializer_range=0.1, tie_word_embeddings=True)
    saved(taught(model, PLACE_ROWS * 2 + shuffled(ANIMAL_ROWS), steps=80), home / "base")
    held = [{"path": str(home / f"{name}.jsonl")} for name in ("animals", "places")]
    data = {"train": [{"path": str(home / "train.jsonl")}], "holdout": held, "store": str(home / "shards"), "max_length": 64, "quality": off}
    return RunFile.model_validate(
        {
            "model": {"name_or_path": str(home / "base")},
            "data": data,
            "training": {"max_steps": 1},
            "evaluation": {"bootstrap": 200, "batch_size": 64},
            "output": str(home / "out"),
        }
    )


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    shutil.copytree(tokenizer_folder("bytes"), folder, dirs_exist_ok=True)
    return folder


def taught(model: Any, rows: list[tuple[str, str]], *, steps: int) -> Any:
    """The model after some steps of 32 rows, answers only; they are encoded as a run encodes them."""
    import torch

    from tunefleet.trainers.scoring import TokenScorer

    tokenizer, draws, row_format = tiny_tokenizer(), random.Random(0), PromptCompletion(PromptCompletion.Config())
    encoder, objective = Encoder(tokenizer, None, max_length=64), make_objective(config(OBJECTIVES, "sft")(), tokenizer.eos_token_id)
    known = [encoder.supervised(row_format.read({"prompt": prompt, "completion": answer})) for prompt, answer in rows]
    optimizer, scorer = torch.optim.AdamW(model.parameters(), lr=5e-3), TokenScorer(model)
    for _ in range(steps):
        batch = objective.collate([Record(i, one.columns) for i, one in enumerate(draws.sample(known, 32))])
        (-scorer.token_scores(batch).logp_BT.sum() / (batch["labels"] >= 0).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def verdict(run: RunFile, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, list[tuple[str, str]]], dict[str, dict[str, Any]]]:
    def judged(name: str, rows: list[tuple[str, str]]) -> dict[str, Any]:
        from transformers import AutoModelForCausalLM

        model = taught(AutoModelForCausalLM.from_pretrained(run.model.name_or_path).train(), rows, steps=60)
        return evaluate(saved(model, tmp_path_factory.mktemp(name)), run, gate=GATE)["gate"]

    return judged


def failed(gate: dict[str, Any]) -> set[str]:
    return {one["kind"] for one in gate["checks"] if not one["passed"]}


def test_a_really_better_model_passes(verdict: Any) -> None:
    found = verdict("better", ANIMAL_ROWS + PLACE_ROWS)
    assert found["passed"], found
    assert len(found["checks"]) > 2, "every label is a slice"


def test_a_model_that_learnt_shuffled_answers_fails(verdict: Any) -> None:
    assert "gain" in failed(verdict("spoiled", shuffled(ANIMAL_ROWS) + PLACE_ROWS))


def test_a_model_that_forgot_fails_though_it_gained(verdict: Any) -> None:
    found = verdict("forgot", ANIMAL_ROWS)
    assert "forgetting" in failed(found)
    assert next(one for one in found["checks"] if one["kind"] == "gain")["passed"]
