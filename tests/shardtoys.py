"""A store of made-up rows in a folder, for tests of what reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tunefleet.data.layout import ANSWERS, Encoded, Layout
from tunefleet.data.shards import Columns, Index, ShardWriter, write_index
from tunefleet.data.store import Store


def tokens_of(row: int, length: int) -> np.ndarray:
    """Tokens that tell which row they are of."""
    return (np.arange(length, dtype=np.int32) * 31 + row * 7) % 1009


def encoded(row: int, length: int) -> Encoded:
    """A row whose first half is a prompt."""
    ids, mask = tokens_of(row, length), (np.arange(length) >= length // 2).astype(np.uint8)
    return Encoded({"ids": ids, "supervised": mask}, length, int(mask.sum()))


def make_store(folder: Path, lengths: Sequence[int], *, shard_bytes: int = 1 << 20, layout: Layout = ANSWERS, window: int = 2) -> Store:
    """A store with one split, train, whose row i has ``lengths[i]`` tokens."""
    writer = ShardWriter(folder, "train", layout, shard_bytes=shard_bytes)
    for row, length in enumerate(lengths):
        writer.add(encoded(row, length))
    write_index(folder, Index(fingerprint="f" * 64, layout=Columns.of(layout), window=window, splits={"train": writer.close()}))
    return Store.open(folder)
