"""Records of tokens to padded tensors. Shape letters: B rows, T tokens of the longest row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tunefleet.data.layout import Record

if TYPE_CHECKING:
    from tunefleet.trainers.objective import Batch

IGNORED = -100  # torch's own convention for a position without a target


def token_batch(records: Sequence[Record], pad_id: int) -> Batch:
    """Rows of ``ids`` and ``supervised`` as right-padded (B, T) int64 tensors, labels shifted so that position t holds the target t + 1."""
    import torch

    size = (len(records), max(len(r.columns["ids"]) for r in records))
    ids, labels = np.full(size, pad_id, np.int64), np.full(size, IGNORED, np.int64)
    attention = np.zeros(size, np.int64)
    for row, record in enumerate(records):
        tokens, supervised = record.columns["ids"], record.columns["supervised"]
        ids[row, : len(tokens)] = tokens
        attention[row, : len(tokens)] = 1
        labels[row, : len(tokens) - 1] = np.where(supervised[1:], tokens[1:], IGNORED)
    positions = np.broadcast_to(np.arange(size[1]), size).copy()
    arrays = {"input_ids": ids, "attention_mask": attention, "position_ids": positions, "labels": labels}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def sample_records(prompt: int) -> list[Record]:
    """Rows of 5, 9 and 6 tokens below 32 whose first ``prompt`` tokens are unsupervised."""
    rows = []
    for i, length in enumerate((5, 9, 6)):
        ids = (np.arange(length, dtype=np.int32) * 7 + 3 * i) % 31 + 1
        rows.append(Record(i, {"ids": ids, "supervised": (np.arange(length) >= prompt).astype(np.uint8)}))
    return rows
