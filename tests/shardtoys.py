"""A store of made-up rows in a folder, for tests of what reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from tunefleet.data.feed import Feed, feed_of
from tunefleet.data.layout import ANSWERS, Encoded, Layout
from tunefleet.data.settings import Data
from tunefleet.data.shards import INDEX, Columns, Index, ShardWriter, write_index
from tunefleet.data.steps import StepSize
from tunefleet.data.store import Store
from tunefleet.data.stream import Round


def tokens_of(row: int, length: int) -> np.ndarray:
    """Tokens that tell which row they are of."""
    return (np.arange(length, dtype=np.int32) * 31 + row * 7) % 1009


def encoded(row: int, length: int) -> Encoded:
    """A row whose first half is a prompt."""
    ids, mask = tokens_of(row, length), (np.arange(length) >= length // 2).astype(np.uint8)
    return Encoded({"ids": ids, "supervised": mask}, length, int(mask.sum()))


def edit_index(folder: Path, change: Callable[[dict[str, Any]], Any], *, seal: bool = True) -> None:
    """Change what stands in an index, as somebody could who owns the folder; without ``seal`` as somebody would who edits the file by hand."""
    index = json.loads((folder / INDEX).read_text())
    change(index)
    if seal:
        with suppress(ValidationError):
            index = json.loads(Index.model_validate_json(json.dumps(index)).sealed().model_dump_json())
    (folder / INDEX).write_text(json.dumps(index))


def make_store(
    folder: Path, lengths: Sequence[int], *, shard_bytes: int = 1 << 20, layout: Layout = ANSWERS, window: int = 2, sources: Sequence[int] = (), **index: Any
) -> Store:
    """A store with one split, train, whose row i has ``lengths[i]`` tokens; ``sources``: the first row of each source."""
    writer = ShardWriter(folder, "train", layout, shard_bytes=shard_bytes)
    for row, length in enumerate(lengths):
        for number, first in enumerate(sources):
            if row == first:
                writer.source(f"source-{number}")
        writer.add(encoded(row, length))
    settings = {"fingerprint": "f" * 64, "layout": Columns.of(layout), "window": window, "splits": {"train": writer.close()}, **index}
    write_index(folder, Index(**settings))
    return Store.open(folder)


def make_feed(store: Store, examples: int | None = None, tokens: int | None = None, *, seed: int = 0, weights: Sequence[float] = (), **data: Any) -> Feed:
    """What a run reads of such a store."""
    train = [{"path": "unused", "weight": weight} for weight in weights or [1.0] * len(store.split("train").sources)]
    return feed_of(store, Data.model_validate({"train": train, **data}), StepSize(examples, tokens), seed)


def ids_read(rounds: Iterable[Round]) -> list[int]:
    """The ids of the real rows of a step, all of them read: a stream hands over rows that are read when they are asked for."""
    found = []
    for one in rounds:
        for record in one.records:
            ids = record.columns["ids"].tolist()
            assert ids == tokens_of(record.id, len(ids)).tolist()
            found += [record.id] if one.real else []
    return found
