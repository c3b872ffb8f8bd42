"""The share of supervised tokens that are the model's first choice, given the true tokens before them."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from tunefleet.trainers.evaluation.metric import Named, ratio
from tunefleet.trainers.evaluation.rows import Floats, RowScores


class TokenAccuracy:
    """Greedy hits per supervised token, between 0 and 1."""

    class Config(Named):
        """Token accuracy has no settings."""

        kind: Literal["token_accuracy"] = "token_accuracy"

    better: ClassVar[Literal["min", "max"]] = "max"
    reads: ClassVar[tuple[str, ...]] = ("correct", "tokens")

    def __init__(self, config: Config) -> None:
        self.config = config

    def statistics(self, rows: RowScores) -> Floats:
        """Hits and tokens of every row."""
        return np.stack([rows.sums["correct"], rows.sums["tokens"]], axis=1)

    def value(self, totals_SK: Floats) -> Floats:
        """Hits per token."""
        return ratio(totals_SK)
