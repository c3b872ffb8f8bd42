"""Six tiny random architectures, a few thousand weights each, with what makes each of them special switched on."""

from __future__ import annotations

from typing import Any

VOCABULARY = 96
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **_COMMON},
    "qwen3": {"model_type": "qwen3", **_COMMON, "tie_word_embeddings": True},
    "gemma2": {"model_type": "gemma2", **_COMMON, "sliding_window": 8, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0},
    "mistral": {"model_type": "mistral", **_COMMON, "sliding_window": 6},
    "gpt2": {"model_type": "gpt2", "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2},
    "qwen3_moe": {"model_type": "qwen3_moe", **_COMMON, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2},
}
ARCHITECTURES = tuple(CONFIGS)


def tiny_model(architecture: str, *, seed: int = 0, **changes: Any) -> Any:
    """A random model of an architecture, in evaluation mode (GPT-2 has dropout); larger weights than usual, so that logits differ."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {**CONFIGS[architecture], "initializer_range": 0.3, **changes}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings), dtype=torch.float32).eval()


def tiny_batch(rows: int = 3, length: int = 12, seed: int = 0) -> dict[str, Any]:
    """Right-padded rows of different lengths with random supervised positions; the last row has none."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
    lengths = torch.tensor([max(3, length - 3 * row) for row in range(rows)])
    real = torch.arange(length) < lengths[:, None]
    labels = torch.where(real.roll(-1, 1) & real & (torch.rand(rows, length, generator=generator) < 0.7), ids.roll(-1, 1), -100)
    labels[:, -1] = -100
    labels[-1] = -100
    positions = torch.arange(length).expand(rows, length).clone()
    return {"input_ids": ids * real, "attention_mask": real.long(), "position_ids": positions, "labels": labels}
