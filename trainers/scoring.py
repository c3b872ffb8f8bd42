"""The one door to a model's probabilities: the log-probability of every supervised token, without whole logits ever being held.

The head is applied inside the forward pass, in chunks, to the supervised positions only. This file imports torch, so import it where it is used.
Shape letters: B rows, T tokens (padded), N supervised tokens, C tokens of a chunk, D width, V vocabulary.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tunefleet.cluster.errors import SettingsError
from tunefleet.trainers.objective import TokenScores
from tunefleet.trainers.rowattention import NO_MASK, attend_by_row, obstacle, ragged_kernel

if TYPE_CHECKING:
    from tunefleet.data.packing import Kind
    from tunefleet.trainers.objective import Batch

CHUNK_LOGITS = 2**26  # logits held at once: 256 MB in fp32, and about four times that in the backward pass
_MULTIPLIERS = ("logit_scale", "lm_head_multiplier", "output_multiplier")  # Cohere, Falcon-H1, Muse
_DIVISORS = ("logits_scaling",)  # Granite
_SOFT_CAP = "final_logit_softcapping"  # Gemma 2 and 3, nanochat


Scored = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _of_logits(logits_CV: torch.Tensor, labels_C: torch.Tensor) -> Scored:
    """See ScoringHead.forward. The likeliest token's probability is the label's and how far its logit stands above the label's: no second softmax."""
    logp_C = -nn.functional.cross_entropy(logits_CV, labels_C, reduction="none")
    with torch.no_grad():
        best_C, first_C = logits_CV.max(-1)
        top_C = logp_C + best_C - logits_CV.gather(-1, labels_C[:, None])[:, 0]
    return logp_C, first_C == labels_C, top_C


class ScoringHead(nn.Module):
    """A model's output layer, from hidden states straight to log-probabilities.

    It owns the layer's parameters (shared, not copied), because ZeRO-3 gathers what a module owns when it is called: once a forward, however
    many chunks a rank has. Calling the layer itself once a chunk would give the ranks unequal numbers of collectives, which hangs.
    """

    def __init__(self, layer: nn.Linear, *, scale: float, soft_cap: float | None, chunk_logits: int) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.scale, self.soft_cap = scale, soft_cap
        self.chunk = max(1, chunk_logits // layer.out_features)

    def forward(self, hidden_ND: torch.Tensor, labels_N: torch.Tensor) -> Scored:
        """Log-probabilities of the labels (N,), float32; whether each is the likeliest token (N,), bool; and the log-probability of that one (N,)."""
        parts = list(zip(torch.split(hidden_ND, self.chunk), torch.split(labels_N, self.chunk), strict=True))
        if len(parts) == 1:
            return self._score(*parts[0])
        scored = [checkpoint(self._score, hidden_CD, labels_C, use_reentrant=False) for hidden_CD, labels_C in parts]
        logp_N, hit_N, top_N = (torch.cat(parts) for parts in zip(*scored, strict=True))
        return logp_N, hit_N, top_N

    def _score(self, hidden_CD: torch.Tensor, labels_C: torch.Tensor) -> Scored:
        logits_CV = nn.functional.linear(hidden_CD.to(self.weight.dtype), self.weight, self.bias).float()
        if self.scale != 1.0:
            logits_CV = logits_CV * self.scale
        if self.soft_cap is not None:
            logits_CV = torch.tanh(logits_CV / self.soft_cap) * self.soft_cap
        return _of_logits(logits_CV, labels_C)


class TokenScorer(nn.Module):
    """A causal model, plain or wrapped by PEFT, as a Scorer. ``model`` keeps its parameter names below the prefix ``model.``.

    On a CPU padding is never computed where the model can do without; with ``pack`` nowhere. Raises SettingsError for a model that cannot be packed.
    """

    def __init__(self, model: nn.Module, *, pack: bool = False, chunk_logits: int = CHUNK_LOGITS) -> None:
        super().__init__()
        self.model, self.pack = model, pack
        causal = causal_model(model)
        scale, soft_cap = logit_transform(causal.config.get_text_config().to_dict())
        self.head = ScoringHead(output_layer(causal), scale=scale, soft_cap=soft_cap, chunk_logits=chunk_logits)
        known = inspect.signature(causal.base_model.forward).parameters
        wanted = ("input_ids", "attention_mask", "position_ids")
        self.inputs = tuple(name for name in wanted if name in known or any(p.kind is p.VAR_KEYWORD for p in known.values()))
        self.by_row = "position_ids" in known and attend_by_row(causal)
        if pack and not self.by_row:
            raise not_packed(obstacle(causal) or f"{type(causal).__name__} takes no positions")

    def token_scores(self, batch: Batch, *, correct: bool = False) -> TokenScores:
        """See Scorer."""
        scores: TokenScores = self(batch, correct=correct)
        return scores

    def computed_tokens(self, batch: Batch) -> int:
        """See Scorer."""
        real_BT = batch["attention_mask"]
        return int(real_BT.sum()) if self._unpadded(next(self.parameters()).device) else real_BT.numel()

    def forward(self, batch: Batch, *, correct: bool = False, whole: bool = False) -> TokenScores:
        """Scores of the supervised tokens. ``whole`` takes them from the model's own full logits: the reference, for a few tokens only.

        A named tuple, since ZeRO-3 looks for the tensors of what a module returns.
        """
        causal, labels_BT = causal_model(self.model), batch["labels"]
        given: dict[str, Any] = {name: batch[name] for name in self.inputs}
        mask_BT = labels_BT >= 0
        if whole:
            logits_ND = causal(**given, use_cache=False).logits[mask_BT].float()
            logp_N, hit_N, top_N = _of_logits(logits_ND, labels_BT[mask_BT])
        else:
            real_BT = batch["attention_mask"] > 0
            if self._unpadded(labels_BT.device):
                given = {name: batch[name][real_BT][None] for name in ("input_ids", "position_ids")}
                given |= {"attention_mask": NO_MASK, "row_lengths": real_BT.sum(1).tolist()}
                hidden_ND = causal.base_model(**given, use_cache=False).last_hidden_state[0][mask_BT[real_BT]]
            else:
                given.pop("attention_mask", None)  # rows are padded on the right: no real token sees padding anyway, and without a mask attention is faster
                hidden_ND = causal.base_model(**given, use_cache=False).last_hidden_state[mask_BT]
            logp_N, hit_N, top_N = self.head(hidden_ND, labels_BT[mask_BT])
        logp_BT = logp_N.new_zeros(labels_BT.shape).masked_scatter(mask_BT, logp_N)
        if not correct:
            return TokenScores(logp_BT)
        return TokenScores(logp_BT, torch.zeros_like(mask_BT).masked_scatter(mask_BT, hit_N), torch.zeros_like(logp_BT).masked_scatter(mask_BT, top_N))

    def _unpadded(self, device: torch.device) -> bool:
        """Whether rows are computed end to end there."""
        return self.by_row and (self.pack or device.type == "cpu")


def batching_kind(batching: Literal["auto", "bucket", "pack", "pad"], model: nn.Module, device: torch.device) -> tuple[Kind, list[str]]:
    """What ``data.batching`` comes to for this model here, and what is to be said of it.

    Where rows are computed end to end anyway (a CPU), or by one kernel (a GPU in bf16), packing is the faster division: no rank waits for the other's longer
    rows. Elsewhere padded rows of like lengths are.
    """
    if batching != "auto":
        return batching, []
    causal = causal_model(model)
    why = obstacle(causal)
    if why is None and (device.type == "cpu" or ragged_kernel(device, causal.dtype)):
        return "pack", []
    return "bucket", [f"data.batching: bucket, since {why or 'there is no kernel for ragged rows here'}"]


def not_packed(why: str) -> SettingsError:
    """The refusal of a model that mixes what lies end to end."""
    want = "a model whose layers are attention through transformers' interface, with attn_implementation auto, sdpa or eager"
    return SettingsError("data.batching: this model's rows cannot be packed", got=why, want=want, fix="set data.batching to bucket or auto")


def causal_model(model: nn.Module) -> Any:
    """The transformers model inside PEFT's wrapper, its adapters in place; a plain model is returned as it is."""
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


def output_layer(causal: Any) -> nn.Linear:
    """The linear layer that makes the logits. Raises SettingsError for a head that is something else."""
    from peft.utils.other import ModulesToSaveWrapper

    layer = causal.get_output_embeddings()
    if isinstance(layer, ModulesToSaveWrapper):
        layer = layer.modules_to_save[layer.active_adapter]
    if type(layer) is not nn.Linear or causal.base_model is causal or causal.config.is_encoder_decoder:
        raise SettingsError(
            "model: this model's head is no linear layer over a decoder",
            got=f"{type(layer).__name__} in {type(causal).__name__}",
            want="a causal language model whose output layer is a plain linear layer",
            fix="take another model; an output layer that should be trained beside LoRA goes into peft.modules_to_save, not target_modules",
        )
    return layer


def logit_transform(config: Mapping[str, Any]) -> tuple[float, float | None]:
    """What an architecture does to its logits, by its config: (factor, soft cap or None)."""
    factors = [float(config[name]) for name in _MULTIPLIERS if isinstance(config.get(name), int | float)]
    divisors = [float(config[name]) for name in _DIVISORS if isinstance(config.get(name), int | float)]
    cap = config.get(_SOFT_CAP)
    return math.prod(factors) / math.prod(divisors), None if cap is None else float(cap)


def verify(scorer: nn.Module, batch: Batch) -> float:
    """Compare scores with those from the model's own full logits. Returns the largest difference, in bf16 the mean one, in nats.

    Use a few tokens, some supervised: logits are whole here. Under DeepSpeed pass the TokenScorer that the engine was made of; every rank must call it.
    Raises SettingsError when they differ: the architecture does something to its logits that would be trained wrongly.
    """
    modes = [(module, module.training) for module in scorer.modules()]
    scorer.eval()
    with torch.no_grad():
        ours, theirs = (scorer(batch, whole=whole).logp_BT[batch["labels"] >= 0] for whole in (False, True))
    for module, mode in modes:
        module.training = mode
    exact = all(p.dtype is torch.float32 for p in scorer.parameters())
    apart = (ours - theirs).abs()
    difference = float(apart.max() if exact else apart.mean())
    allowed = (1e-4 if exact else 0.02) * max(1.0, float(theirs.abs().mean()))
    if not difference <= allowed:
        raise SettingsError(
            "model: this architecture changes its logits in a way that is not known here",
            got=f"log-probabilities differ from the model's own by {difference:.3g} nats",
            want=f"a difference of at most {allowed:.3g}",
            fix="take another model, or add its factor to trainers/scoring.py",
        )
    return difference
