"""Rows end to end give what padded rows give, and no row sees another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import ARCHITECTURES, tiny_batch, tiny_model

from tunefleet.trainers.scoring import TokenScorer

WITHOUT_PADDING = ("llama", "qwen3", "gpt2", "qwen3_moe")  # the others have layers with a window, or eager attention


def outcome(architecture: str, batch: dict[str, Any], *, by_row: bool, **changes: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Scores and gradients."""
    dtype, recompute = changes.pop("dtype", torch.float32), changes.pop("recompute", False)
    model = tiny_model(architecture, **changes).to(dtype)
    if recompute:
        model.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    scorer = TokenScorer(model)
    scorer.by_row = by_row and scorer.by_row
    logp_BT = scorer.token_scores(batch).logp_BT
    logp_BT.sum().backward()
    return logp_BT.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_is_left_out_where_every_layer_is_full_causal_attention(architecture: str) -> None:
    assert TokenScorer(tiny_model(architecture)).by_row == (architecture in WITHOUT_PADDING)


@pytest.mark.parametrize("architecture", WITHOUT_PADDING)
def test_scores_and_gradients_are_those_of_padded_rows(architecture: str) -> None:
    batch = tiny_batch(rows=5, length=16)
    padded, ours = (outcome(architecture, batch, by_row=by_row) for by_row in (False, True))
    torch.testing.assert_close(ours, padded, atol=2e-5, rtol=2e-5)


def test_also_where_activations_are_recomputed_and_in_bf16() -> None:
    batch = tiny_batch(rows=5, length=16)
    padded, ours = (outcome("llama", batch, by_row=by_row, recompute=True) for by_row in (False, True))
    torch.testing.assert_close(ours, padded, atol=2e-5, rtol=2e-5)
    exact, low = outcome("llama", batch, by_row=False)[0], outcome("llama", batch, by_row=True, dtype=torch.bfloat16)[0]
    assert float((exact - low).abs().mean()) < 0.1
    assert float((exact - outcome("llama", batch, by_row=False, dtype=torch.bfloat16)[0]).abs().mean()) > 0.3 * float((exact - low).abs().mean())


def test_rows_of_one_length_are_computed_together_and_none_sees_another() -> None:
    model = TokenScorer(tiny_model("qwen3"))
    batch = tiny_batch(rows=4, length=9)
    batch["attention_mask"][:] = 1
    batch["labels"] = batch["input_ids"].roll(-1, 1)
    assert model.by_row
    before = model.token_scores(batch).logp_BT
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][2] = 7
    after = model.token_scores(changed).logp_BT
    others = torch.tensor([0, 1, 3])
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[2], after[2])
