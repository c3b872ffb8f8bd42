"""Rows that lie end to end give the losses and gradients of rows that are padded, for every architecture, and see nothing of each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import ARCHITECTURES, tiny_batch, tiny_model

from tunefleet.trainers.adapters import attach
from tunefleet.trainers.rowattention import future
from tunefleet.trainers.run import Lora
from tunefleet.trainers.scoring import TokenScorer, batching_kind

CPU = torch.device("cpu")


def loss_and_gradients(scorer: TokenScorer, batch: dict[str, torch.Tensor], *, whole: bool) -> tuple[float, dict[str, torch.Tensor]]:
    scorer.zero_grad(set_to_none=True)
    loss = -scorer(batch, whole=whole).logp_BT.sum() / float((batch["labels"] >= 0).sum())
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in scorer.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_losses_and_gradients_are_those_of_padded_rows(architecture: str, lora: bool, recompute: bool) -> None:
    model = tiny_model(architecture, **({"attn_pdrop": 0.0} if architecture == "gpt2" else {}))
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model = attach(model, Lora(), 0) if lora else model
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)  # zero as it is made, and then A has no gradient
    scorer = TokenScorer(model, pack=True)
    for module in scorer.modules():  # recomputing happens in training mode only; dropout would differ
        module.training = recompute and not isinstance(module, torch.nn.Dropout)
    packed, gradients = loss_and_gradients(scorer, tiny_batch(rows=4, length=20), whole=False)
    padded, expected = loss_and_gradients(scorer, tiny_batch(rows=4, length=20), whole=True)
    assert packed == pytest.approx(padded, rel=1e-6)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=2e-6, msg=name)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_row_sees_nothing_of_the_rows_beside_it(architecture: str) -> None:
    scorer = TokenScorer(tiny_model(architecture), pack=True)
    batch = tiny_batch(rows=3, length=14)
    other = {**batch, "input_ids": batch["input_ids"].clone()}
    other["input_ids"][1] = (other["input_ids"][1] + 7) % 90 * batch["attention_mask"][1]
    before, after = scorer(batch).logp_BT, scorer(other).logp_BT
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[2], after[2])
    assert not torch.equal(before[1], after[1])


def test_positions_begin_anew_in_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    scorer, seen = TokenScorer(model, pack=True), []
    model.base_model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    scorer(tiny_batch(rows=3, length=8))
    assert seen[0]["position_ids"].tolist() == [[*range(8), *range(5), *range(3)]]
    assert seen[0]["input_ids"].shape == (1, 16)


def test_auto_packs_where_rows_are_computed_end_to_end_anyway() -> None:
    model = tiny_model("mistral")
    assert batching_kind("auto", model, CPU) == ("pack", [])
    assert batching_kind("bucket", model, CPU) == ("bucket", [])
    kind, (why,) = batching_kind("auto", model, torch.device("cuda"))
    assert (kind, why) == ("bucket", "data.batching: bucket, since there is no kernel for ragged rows here")


def test_attention_costs_the_squares_of_the_rows_not_of_the_pack() -> None:
    """Counted in the products of queries, keys and values, which attention that is written out shows."""
    from torch.utils.flop_counter import FlopCounterMode

    def attention(lengths: list[int]) -> int:
        scorer = TokenScorer(tiny_model("llama", attn_implementation="eager"), pack=True)
        real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        batch: dict[str, Any] = {"input_ids": real.long(), "attention_mask": real.long(), "position_ids": torch.arange(max(lengths)).expand(real.shape)}
        with FlopCounterMode(display=False) as counter:
            scorer({**batch, "labels": torch.where(real, 1, -100)})
        return sum(count for name, count in counter.get_flop_counts()["Global"].items() if str(name) == "aten.bmm")

    assert attention([64] * 8) == pytest.approx(8 * attention([64]))
    assert attention([64] * 8) * 7.5 < attention([512])


def test_padding_counts_as_computed_only_where_it_is() -> None:
    scorer, batch = TokenScorer(tiny_model("llama")), tiny_batch(rows=3, length=8)
    seen: list[int] = []
    scorer.model.base_model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True)
    for by_row in (True, False):
        scorer.by_row = by_row
        scorer(batch)
        assert scorer.computed_tokens(batch) == seen[-1]
    assert seen == [16, 24]


@pytest.mark.parametrize("window", [None, 1, 3, 9])
def test_a_token_looks_at_itself_and_the_window_before_it(window: int | None) -> None:
    expected = [[0.0 if 0 <= q - k < (window or 99) else -torch.inf for k in range(6)] for q in range(6)]
    assert future(6, window, torch.zeros(1)).tolist() == expected
