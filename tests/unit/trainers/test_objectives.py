"""Laws that every objective keeps; a new one is tested by existing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_models import tiny_model

from tunefleet.cluster.plugins import kinds, plugin
from tunefleet.trainers.objective import Objective, TokenScores, make_objective
from tunefleet.trainers.run import OBJECTIVES
from tunefleet.trainers.scoring import TokenScorer


@pytest.fixture(params=kinds(OBJECTIVES))
def objective(request: pytest.FixtureRequest) -> Objective:
    return make_objective(plugin(OBJECTIVES, request.param).Config(), pad_id=0)


@pytest.fixture(scope="module")
def scorer() -> TokenScorer:
    return TokenScorer(tiny_model("llama"))


class Uniform:
    """Every token is as likely as any other of V."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def token_scores(self, batch: dict[str, torch.Tensor], *, correct: bool = False) -> TokenScores:
        return TokenScores(torch.where(batch["labels"] >= 0, -math.log(self.vocabulary), 0.0))


def totals(objective: Objective, scorer: Any, records: Any) -> list[torch.Tensor]:
    return [term.total * term.scale for term in objective.loss(scorer, objective.collate(records)).terms]


def test_splitting_a_batch_changes_no_sum(objective: Objective, scorer: TokenScorer) -> None:
    records = objective.sample_records()
    whole = totals(objective, scorer, records)
    parts = [totals(objective, scorer, [record]) for record in records]
    for number, total in enumerate(whole):
        torch.testing.assert_close(total, torch.stack([part[number] for part in parts]).sum(), rtol=1e-5, atol=1e-6)


def test_weights_of_the_parts_sum_to_those_of_the_whole(objective: Objective) -> None:
    records = objective.sample_records()
    whole = objective.weights(objective.collate(records))
    parts = [objective.weights(objective.collate([record])) for record in records]
    assert whole == {name: sum(part[name] for part in parts) for name in whole}
    assert all(value > 0 for value in whole.values())
    assert {term.per for term in objective.loss(Uniform(32), objective.collate(records)).terms} <= set(whole)


def test_more_padding_changes_no_sum(objective: Objective, scorer: TokenScorer) -> None:
    shortest, *_, longest = sorted(objective.sample_records(), key=lambda record: len(record.columns["ids"]))
    alone = totals(objective, scorer, [shortest])
    beside = objective.collate([shortest, longest])
    padded = {name: tensor[:1] for name, tensor in beside.items()}
    for ours, wanted in zip([t.total * t.scale for t in objective.loss(scorer, padded).terms], alone, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-6)


def test_a_batch_has_shifted_labels_and_fixed_shapes(objective: Objective) -> None:
    records = objective.sample_records()
    batch = objective.collate(records)
    assert {tensor.shape[0] for tensor in batch.values()} == {len(records)}
    ids, labels = batch["input_ids"], batch["labels"]
    rows, places = torch.nonzero(labels >= 0, as_tuple=True)
    assert torch.equal(labels[rows, places], ids[rows, places + 1])
    assert torch.equal(batch["attention_mask"].sum(1), torch.tensor([len(r.columns["ids"]) for r in records]))


@pytest.mark.parametrize("kind", ["sft", "pretrain"])
def test_the_loss_of_a_model_that_knows_nothing_is_the_log_of_its_vocabulary(kind: str) -> None:
    objective = make_objective(plugin(OBJECTIVES, kind).Config(), pad_id=0)
    batch = objective.collate(objective.sample_records())
    loss = objective.loss(Uniform(32), batch)
    assert float(loss.over(objective.weights(batch))) == pytest.approx(math.log(32))


def test_sft_learns_only_answers_and_pretrain_every_token() -> None:
    counts = {kind: make_objective(plugin(OBJECTIVES, kind).Config(), pad_id=0) for kind in ("sft", "pretrain")}
    tokens = {kind: objective.weights(objective.collate(objective.sample_records()))["tokens"] for kind, objective in counts.items()}
    assert tokens == {"sft": 20 - 3 * 2, "pretrain": 20 - 3}  # 20 tokens in three rows; prompts of two; a first token is never predicted
