"""Attention row by row, so that a micro-batch can be computed without its padding: its rows lie end to end, and each attends to itself only.

Everything else in a transformer works on single tokens, so the rows of a micro-batch become one sequence of N real tokens, with the positions that they had.
On a CPU this is faster than padded rows even where little is padding: no mask is made, and long rows no longer set the length of short ones. On a GPU many
small kernels would cost more than they save; kernels for ragged rows are its way. This file imports torch, so import it where it is used.
Shape letters: G rows of one length, H heads, L tokens of a row, N tokens of all rows, E width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

BY_ROW = "tunefleet_by_row"
NO_MASK = torch.full((1, 1, 1, 1), torch.nan)  # four dimensions: transformers hands it on as it is; who used it would get no number
SHORT_ROW = 512  # bf16 rows up to here: products and a softmax take half the time of torch's CPU kernel (measured: 64 to 512 tokens, heads of 32 to 128)


def attend_by_row(model: Any) -> bool:
    """Set up a transformers model so that it takes ``row_lengths``; without them it computes as before. False, and nothing is changed, where it cannot.

    It can where every layer is full causal attention that goes through transformers' attention interface, computed by sdpa.
    """
    config = model.config.get_text_config()
    known = config.to_dict()
    windows = set(known.get("layer_types") or [known.get("sliding_window") or "full_attention"])
    if config._attn_implementation != "sdpa" or not model._supports_attention_backend or model._is_stateful or windows != {"full_attention"}:
        return False
    AttentionInterface.register(BY_ROW, row_attention)
    AttentionMaskInterface.register(BY_ROW, sdpa_mask)
    model.set_attn_implementation(BY_ROW)
    return True


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
    groups = [(length, len(list(rows))) for length, rows in groupby(row_lengths)]  # neighbours of one length in one go
    sizes = [length * rows for length, rows in groups]
    parts = zip(*(torch.split(tensor, sizes, dim=2) for tensor in (query_1HNE, key_1HNE, value_1HNE)), groups, strict=True)
    outputs = [_attend(module, *(_rows(part, rows, length) for part in (query, key, value)), **kwargs) for query, key, value, (length, rows) in parts]
    return torch.cat([output.flatten(0, 1) for output in outputs])[None], None


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
    **kwargs: Any,
) -> torch.Tensor:
    """Causal attention of rows of one length, (G, L, H, E)."""
    length = query_GHLE.shape[2]
    if query_GHLE.dtype is not torch.bfloat16 or length > SHORT_ROW or dropout or scaling is None:
        output: torch.Tensor = sdpa_attention_forward(module, query_GHLE, key_GHLE, value_GHLE, None, scaling=scaling, dropout=dropout, **kwargs)[0]
        return output
    shared = query_GHLE.shape[1] // key_GHLE.shape[1]
    query, key, value = (t.flatten(0, 1) for t in (query_GHLE, repeat_kv(key_GHLE, shared), repeat_kv(value_GHLE, shared)))
    future_LL = torch.full((length, length), -torch.inf, dtype=query.dtype, device=query.device).triu(1)
    weights = torch.baddbmm(future_LL, query, key.transpose(1, 2), alpha=scaling).softmax(-1)
    return torch.bmm(weights, value).view(query_GHLE.shape).transpose(1, 2)
