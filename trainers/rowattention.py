"""Attention row by row, so that a micro-batch can be computed without its padding: its rows lie end to end, and each attends to itself only.

Everything else in a transformer works on single tokens, so the rows of a micro-batch become one sequence of N real tokens, with the positions that they had.
On a CPU this is faster than padded rows even where little is padding: no mask is made, and long rows no longer set the length of short ones. On a GPU many
small kernels would cost more than they save; torch's kernel for ragged rows is its way, in bf16. This file imports torch, so import it where it is used.
Shape letters: G rows of one length, H heads, L tokens of a row, N tokens of all rows, E width of a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

BY_ROW, EAGER_BY_ROW = "tunefleet_by_row", "tunefleet_eager_by_row"
NO_MASK = torch.full((1, 1, 1, 1), torch.nan)  # four dimensions: transformers hands it on as it is; who used it would get no number
SHORT_ROW = 512  # bf16 rows up to here: products and a softmax take half the time of torch's CPU kernel (measured: 64 to 512 tokens, heads of 32 to 128)


def obstacle(model: Any) -> str | None:
    """Why a transformers model cannot be computed with its rows end to end; None when it can.

    It can where every layer is causal attention, full or in a sliding window, that goes through transformers' attention interface: all else of such a
    model looks at single tokens. Convolutions and states would reach over the seams.
    """
    config = model.config.get_text_config()
    known = config.to_dict()
    layers = set(known.get("layer_types") or ["sliding_attention" if known.get("sliding_window") else "full_attention"])
    if model._is_stateful or not layers <= {"full_attention", "sliding_attention"}:
        others = ", ".join(sorted(layers - {"full_attention", "sliding_attention"})) or "a state"
        return f"{type(model).__name__} has layers that carry over from token to token: {others}"
    if not model._supports_attention_backend:
        return f"{type(model).__name__} computes its attention itself"
    if config._attn_implementation not in ("sdpa", "eager", BY_ROW, EAGER_BY_ROW):
        return f"{config._attn_implementation} takes padded rows"
    return None


def attend_by_row(model: Any) -> bool:
    """Set up a transformers model so that it takes ``row_lengths``; without them it computes as before. False, and nothing is changed, where it cannot."""
    if obstacle(model) is not None:
        return False
    AttentionInterface.register(BY_ROW, row_attention)
    AttentionMaskInterface.register(BY_ROW, sdpa_mask)
    AttentionInterface.register(EAGER_BY_ROW, eager_row_attention)
    AttentionMaskInterface.register(EAGER_BY_ROW, eager_mask)
    known = model.config.get_text_config()
    model.set_attn_implementation(EAGER_BY_ROW if known._attn_implementation in ("eager", EAGER_BY_ROW) else BY_ROW)
    return True


def ragged_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch has a kernel for ragged rows here: flash attention on a GPU in bf16."""
    if device.type != "cuda" or dtype is not torch.bfloat16:
        return False
    from torch.nn.attention import varlen

    return {"window_size", "scale"} <= set(inspect.signature(varlen.varlen_attn).parameters)


def row_attention(
    module: nn.Module,
    query_1HNE: torch.Tensor,
    key_1HNE: torch.Tensor,
    value_1HNE: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    row_lengths: Sequence[int] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers: (1, N, H, E), each row attending to itself. Without ``row_lengths`` it is sdpa's own."""
    if row_lengths is None:
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query_1HNE, key_1HNE, value_1HNE, attention_mask, **kwargs)
        return found
    if not kwargs.get("dropout") and ragged_kernel(query_1HNE.device, query_1HNE.dtype):
        return _ragged(query_1HNE, key_1HNE, value_1HNE, row_lengths, kwargs.get("scaling"), kwargs.get("sliding_window")), None
    return _by_groups(_attend, module, (query_1HNE, key_1HNE, value_1HNE), row_lengths, **kwargs), None


def eager_row_attention(
    module: nn.Module,
    query_BHTE: torch.Tensor,
    key_BHTE: torch.Tensor,
    value_BHTE: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    row_lengths: Sequence[int] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The same written out, for what sdpa cannot do: scores that are capped softly. Without ``row_lengths`` rows are padded and the mask counts."""
    if row_lengths is None:
        return _written_out(module, query_BHTE, key_BHTE, value_BHTE, mask=attention_mask, **kwargs), None
    return _by_groups(_attend_eagerly, module, (query_BHTE, key_BHTE, value_BHTE), row_lengths, **kwargs), None


def _by_groups(
    attend: Callable[..., torch.Tensor], module: nn.Module, tensors: Sequence[torch.Tensor], row_lengths: Sequence[int], **kwargs: Any
) -> torch.Tensor:
    groups = [(length, len(list(rows))) for length, rows in groupby(row_lengths)]  # neighbours of one length in one go
    sizes = [length * rows for length, rows in groups]
    parts = zip(*(torch.split(tensor, sizes, dim=2) for tensor in tensors), groups, strict=True)
    outputs = [attend(module, *(_rows(part, rows, length) for part in (query, key, value)), **kwargs) for query, key, value, (length, rows) in parts]
    return torch.cat([output.flatten(0, 1) for output in outputs])[None]


def _rows(part_1HNE: torch.Tensor, rows: int, length: int) -> torch.Tensor:
    _, heads, _, width = part_1HNE.shape
    return part_1HNE.reshape(heads, rows, length, width).transpose(0, 1)


def _attend(
    module: nn.Module,
    query_GHLE: torch.Tensor,
    key_GHLE: torch.Tensor,
    value_GHLE: torch.Tensor,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Causal attention of rows of one length, (G, L, H, E)."""
    length = query_GHLE.shape[2]
    if sliding_window is not None and length > sliding_window:
        seen_LL = future(length, sliding_window, query_GHLE) == 0
        masked: torch.Tensor = sdpa_attention_forward(
            module, query_GHLE, key_GHLE, value_GHLE, seen_LL[None, None], scaling=scaling, dropout=dropout, **kwargs
        )[0]
        return masked
    if query_GHLE.dtype is not torch.bfloat16 or length > SHORT_ROW or dropout or scaling is None:
        output: torch.Tensor = sdpa_attention_forward(module, query_GHLE, key_GHLE, value_GHLE, None, scaling=scaling, dropout=dropout, **kwargs)[0]
        return output
    shared = query_GHLE.shape[1] // key_GHLE.shape[1]
    query, key, value = (t.flatten(0, 1) for t in (query_GHLE, repeat_kv(key_GHLE, shared), repeat_kv(value_GHLE, shared)))
    weights = torch.baddbmm(future(length, None, query), query, key.transpose(1, 2), alpha=scaling).softmax(-1)
    return torch.bmm(weights, value).view(query_GHLE.shape).transpose(1, 2)


def _attend_eagerly(
    module: nn.Module, query_GHLE: torch.Tensor, key_GHLE: torch.Tensor, value_GHLE: torch.Tensor, *, sliding_window: int | None = None, **kwargs: Any
) -> torch.Tensor:
    mask_LL = future(query_GHLE.shape[2], sliding_window, query_GHLE)
    return _written_out(module, query_GHLE, key_GHLE, value_GHLE, mask=mask_LL, **kwargs)


def _written_out(
    module: nn.Module,
    query_BHTE: torch.Tensor,
    key_BHTE: torch.Tensor,
    value_BHTE: torch.Tensor,
    *,
    mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Attention as products and a softmax in fp32, (B, T, H, E)."""
    shared = query_BHTE.shape[1] // key_BHTE.shape[1]
    key_BHTE, value_BHTE = repeat_kv(key_BHTE, shared), repeat_kv(value_BHTE, shared)
    scores = torch.matmul(query_BHTE, key_BHTE.transpose(2, 3)) * (query_BHTE.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores if mask is None else scores + mask
    weights = nn.functional.dropout(scores.softmax(-1, dtype=torch.float32).to(query_BHTE.dtype), dropout, module.training)
    return torch.matmul(weights, value_BHTE).transpose(1, 2).contiguous()


def future(length: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """0 where a token looks, -inf where it may not, (L, L): at what comes after it, and at what lies ``window`` tokens or more before."""
    hidden_LL = torch.full((length, length), -torch.inf, dtype=like.dtype, device=like.device)
    return hidden_LL.triu(1) if window is None or window >= length else hidden_LL.triu(1) + hidden_LL.tril(-window)


def _ragged(
    query_1HNE: torch.Tensor, key_1HNE: torch.Tensor, value_1HNE: torch.Tensor, row_lengths: Sequence[int], scaling: float | None, window: int | None
) -> torch.Tensor:
    """All rows in one kernel, (1, N, H, E)."""
    from torch.nn.attention.varlen import varlen_attn

    shared, longest = query_1HNE.shape[1] // key_1HNE.shape[1], max(row_lengths)
    query, key, value = (t[0].transpose(0, 1).contiguous() for t in (query_1HNE, repeat_kv(key_1HNE, shared), repeat_kv(value_1HNE, shared)))
    starts = torch.tensor([0, *accumulate(row_lengths)], dtype=torch.int32, device=query.device)
    sight = (-1 if window is None else window - 1, 0)  # tokens before and behind
    found = varlen_attn(query, key, value, starts, starts, longest, longest, scale=scaling, window_size=sight)
    assert isinstance(found, torch.Tensor)
    return found[None]
