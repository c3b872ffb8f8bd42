"""Scores are the model's own: every architecture, full and LoRA, chunked or not, with gradients."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import ARCHITECTURES, tiny_batch, tiny_model
from torch import nn

from tunefleet.cluster.errors import SettingsError
from tunefleet.trainers.scoring import TokenScorer, causal_model, logit_transform, verify


def with_lora(model: nn.Module) -> nn.Module:
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"))
    return wrapped.eval()


def reference(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Log-probabilities from the model called as anybody would call it."""
    logits = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}).logits
    logp = logits.float().log_softmax(-1).gather(-1, batch["labels"].clamp(min=0)[..., None])[..., 0]
    return torch.where(batch["labels"] >= 0, logp, 0.0)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_equal_those_of_the_models_own_logits(architecture: str, lora: bool) -> None:
    model = with_lora(tiny_model(architecture)) if lora else tiny_model(architecture)
    batch = tiny_batch()
    torch.testing.assert_close(TokenScorer(model).token_scores(batch).logp_BT, reference(model, batch), atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_chunks_change_neither_scores_nor_gradients(architecture: str, lora: bool) -> None:
    batch, outcomes = tiny_batch(), []
    for chunk_logits in (96 * 3, 96 * 1000):
        model = with_lora(tiny_model(architecture)) if lora else tiny_model(architecture)
        if lora:
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    nn.init.constant_(parameter, 0.02)
        scores = TokenScorer(model, chunk_logits=chunk_logits).token_scores(batch).logp_BT
        scores.sum().backward()
        outcomes.append((scores.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(outcomes[0], outcomes[1], atol=1e-4, rtol=1e-4)
    assert outcomes[0][1]


def test_gradients_equal_those_through_whole_logits() -> None:
    batch, ours, theirs = tiny_batch(), tiny_model("qwen3"), tiny_model("qwen3")
    TokenScorer(ours, chunk_logits=96 * 2).token_scores(batch).logp_BT.sum().backward()
    reference(theirs, batch).sum().backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-4, rtol=1e-4, msg=name)


def test_whole_logits_are_never_held() -> None:
    """The largest tensor of a vocabulary's width that any operation makes has one chunk of rows."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Widest(TorchDispatchMode):
        rows = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = function(*args, **(kwargs or {}))
            for item in result if isinstance(result, tuple | list) else [result]:
                if isinstance(item, torch.Tensor) and item.dim() == 2 and item.shape[1] == 97 and item.shape[0] != 32:
                    Widest.rows = max(Widest.rows, item.shape[0])
            return result

    model, batch = tiny_model("llama", vocab_size=97), tiny_batch(rows=6, length=30)
    scorer = TokenScorer(model, chunk_logits=97 * 5)
    with Widest():
        scorer.token_scores(batch).logp_BT.sum().backward()
    assert Widest.rows == 5
    assert int((batch["labels"] >= 0).sum()) > 30


def test_correct_marks_the_likeliest_token_and_only_supervised_ones() -> None:
    model, batch = tiny_model("gpt2"), tiny_batch()
    best = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(-1)
    batch["labels"] = torch.where((batch["labels"] >= 0) & (torch.arange(12) % 2 == 0), best, batch["labels"])
    correct = TokenScorer(model).token_scores(batch, correct=True).correct_BT
    assert correct is not None
    assert torch.equal(correct, (best == batch["labels"]) & (batch["labels"] >= 0))
    assert correct.any()


def test_a_batch_without_supervised_tokens_scores_zero_and_has_gradients() -> None:
    batch = tiny_batch(rows=1)
    scores = TokenScorer(tiny_model("llama")).token_scores(batch).logp_BT
    assert scores.shape == batch["labels"].shape
    assert float(scores.detach().abs().sum()) == 0.0
    scores.sum().backward()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_verification_accepts_what_is_known(architecture: str) -> None:
    assert verify(TokenScorer(tiny_model(architecture)), tiny_batch()) < 1e-4


def test_an_unknown_factor_on_the_logits_is_refused() -> None:
    model = tiny_model("llama")
    scorer = TokenScorer(model)
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * 1.5)
    with pytest.raises(SettingsError, match="not known here"):
        verify(scorer, tiny_batch())


def test_lora_on_the_output_layer_is_refused_and_modules_to_save_is_trained() -> None:
    config = {"r": 2, "task_type": "CAUSAL_LM"}
    with pytest.raises(SettingsError, match="no linear layer"):
        TokenScorer(get_peft_model(tiny_model("llama"), LoraConfig(target_modules=["lm_head"], **config)))
    model = get_peft_model(tiny_model("llama"), LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"], **config)).eval()
    scorer, batch = TokenScorer(model), tiny_batch()
    with torch.no_grad():
        causal_model(model).lm_head.modules_to_save["default"].weight.mul_(2.0)
    scores = scorer.token_scores(batch).logp_BT
    torch.testing.assert_close(scores, reference(model, batch), atol=1e-5, rtol=1e-5)
    scores.sum().backward()
    assert causal_model(model).lm_head.modules_to_save["default"].weight.grad is not None


def test_factors_and_caps_are_read_from_the_config() -> None:
    assert logit_transform({}) == (1.0, None)
    assert logit_transform({"logit_scale": 0.0625}) == (0.0625, None)
    assert logit_transform({"logits_scaling": 8.0, "final_logit_softcapping": 30}) == (0.125, 30.0)
    assert logit_transform({"logit_scale": None, "final_logit_softcapping": None}) == (1.0, None)


def test_bf16_scores_are_float32() -> None:
    model, batch = tiny_model("gemma2").bfloat16(), tiny_batch()
    assert TokenScorer(model).token_scores(batch).logp_BT.dtype is torch.float32
    verify(TokenScorer(model), batch)
