"""What a run computes: parameters by use, floating-point operations, time and price.

Operations of a trained token: 2 a parameter forward, 2 a parameter backward to the inputs, 2 a trained parameter for its gradient, and the forward ones again
where activations are recomputed; attention adds 2 x layers x width x context forward (causal: half of the square), and twice that backward. Sources: Kaplan et
al. 2020, arXiv:2001.08361, section 2.1; Chowdhery et al. 2022, arXiv:2204.02311, appendix B. Input embeddings are looked up, so they are not counted; of a
mixture only the experts in use are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SOURCE = "6 N D + attention (Kaplan et al. 2020, arXiv:2001.08361; Chowdhery et al. 2022, arXiv:2204.02311, appendix B)"


@dataclass(frozen=True)
class Sizes:
    """Parameters: all, trained ones, and those that a token is multiplied by; layers x width, for attention."""

    parameters: int
    trained: int
    active: int
    active_trained: int
    layers_width: int


def sizes_of(model: Any) -> Sizes:
    """Counted on a model, which may have no weights."""
    from tunefleet.trainers.scoring import causal_model

    causal = causal_model(model)
    config = causal.config.get_text_config()
    known = config.to_dict()
    experts = known.get("num_experts") or known.get("num_local_experts") or 1
    share = (known.get("num_experts_per_tok") or experts) / experts
    looked_up = {id(causal.get_input_embeddings().weight)} - {id(causal.get_output_embeddings().weight)}
    active = trained = 0.0
    for name, parameter in model.named_parameters():
        used = 0 if id(parameter) in looked_up else parameter.numel() * (share if ".experts." in name else 1)
        active += used
        trained += used if parameter.requires_grad else 0
    every = [(p.numel(), p.requires_grad) for p in model.parameters()]
    width = int(known.get("head_dim") or config.hidden_size // config.num_attention_heads) * config.num_attention_heads
    return Sizes(sum(n for n, _ in every), sum(n for n, grad in every if grad), round(active), round(trained), config.num_hidden_layers * width)


def flops_per_token(sizes: Sizes, *, context: float, recompute: bool) -> float:
    """Operations of one token in training, in rows of ``context`` tokens on average."""
    forward = 2.0 * sizes.active + 2.0 * sizes.layers_width * context
    return forward * (3.0 if recompute else 2.0) + 2.0 * sizes.active_trained + 2.0 * sizes.layers_width * context
