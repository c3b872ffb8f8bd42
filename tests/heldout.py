"""Held-out rows for tests of evaluation: in memory, as a Split gives them, and as a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunefleet.data.layout import ANSWERS, Encoded, Record
from tunefleet.data.shards import Columns, Index, ShardWriter, SourceRows, write_index
from tunefleet.trainers.evaluation.rows import RowScores, score_share, shares


@dataclass(frozen=True)
class Rows:
    """Records as a Split gives them; ids are positions."""

    all: list[Record]

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(r.columns["ids"]) for r in self.all], np.int32)

    @property
    def sources(self) -> list[SourceRows]:
        return [SourceRows("rows", range(len(self.all)), range(1))]

    @property
    def rows(self) -> int:
        return len(self.all)

    def records(self, ids: Sequence[int]) -> list[Record]:
        return [self.all[i] for i in ids]


def random_rows(count: int, *, vocabulary: int, seed: int = 0) -> Rows:
    """Rows of 3 to 19 tokens whose first one to three tokens are unsupervised."""
    random = np.random.default_rng(seed)
    rows = []
    for i, length in enumerate(random.integers(3, 20, count)):
        ids = random.integers(1, vocabulary, length).astype(np.int32)
        rows.append(Record(i, {"ids": ids, "supervised": (np.arange(length) >= 1 + i % 3).astype(np.uint8)}))
    return Rows(rows)


def write_store(folder: Path, rows: Rows, sets: dict[str, list[int]] | None = None) -> str:
    """A store whose held-out split is these rows; its address."""
    writer = ShardWriter(folder, "holdout", ANSWERS)
    for record in rows.all:
        writer.add(Encoded(record.columns, len(record.columns["ids"]), int(record.columns["supervised"].sum())))
    meta = {"sets": sets} if sets else {}
    write_index(folder, Index(fingerprint="rows", layout=Columns.of(ANSWERS), splits={"holdout": writer.close()}, meta=meta))
    return str(folder)


def score_rows(scorer: Any, split: Rows, objective: Any, *, batch_size: int, needs: Sequence[str] = ()) -> RowScores:
    """The scores of every row, of one scorer."""
    (share,) = shares(split.lengths, batch_size, 1)
    return score_share(scorer, split, share, objective, needs=needs)
