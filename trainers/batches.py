"""Records of tokens to padded tensors. Shape letters: B rows, T tokens of the longest row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tunefleet.data.layout import Record
from tunefleet.data.picked import padded

if TYPE_CHECKING:
    from tunefleet.trainers.objective import Batch

IGNORED = -100  # torch's own convention for a position without a target


def token_batch(records: Sequence[Record], pad_id: int) -> Batch:
    """Rows of ``ids`` and ``supervised`` as right-padded (B, T) int64 tensors, labels shifted so that position t holds the target t + 1."""
    import torch

    ids, lengths = padded(records, "ids", pad_id)
    supervised, _ = padded(records, "supervised", 0)
    labels = np.full_like(ids, IGNORED)
    labels[:, :-1] = np.where(supervised[:, 1:] > 0, ids[:, 1:], IGNORED)
    columns = np.arange(ids.shape[1])
    attention = (columns < lengths[:, None]).astype(np.int64)
    positions = np.broadcast_to(columns, ids.shape).copy()
    arrays = {"input_ids": ids, "attention_mask": attention, "position_ids": positions, "labels": labels}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def sample_records(prompt: int) -> list[Record]:
    """Rows of 5, 9 and 6 tokens below 32 whose first ``prompt`` tokens are unsupervised."""
    rows = []
    for i, length in enumerate((5, 9, 6)):
        ids = (np.arange(length, dtype=np.int32) * 7 + 3 * i) % 31 + 1
        rows.append(Record(i, {"ids": ids, "supervised": (np.arange(length) >= prompt).astype(np.uint8)}))
    return rows
